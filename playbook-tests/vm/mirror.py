"""A mirror in a folder: the packages that lie in it, and their index, as apt wants them."""

import hashlib
import tempfile

from .host import run


def index(folder):
    """Packs the `.deb` files in the folder anew, so that an emulated processor is done with them in a third of the
    time, and writes `Packages` for them."""
    entries = []
    for package in sorted(folder.glob("*.deb")):
        # A version has characters in it that are encoded in the file's name, and apt would encode those again.
        target = folder / (package.name.partition("_")[0] + ".deb")
        with tempfile.TemporaryDirectory(dir=folder) as tree:
            run(["dpkg-deb", "-R", package, tree], 120)
            package.unlink()
            run(["dpkg-deb", "-Zzstd", "-z1", "-b", tree, target], 120)
        data = target.read_bytes()
        said = run(["dpkg-deb", "-f", target])
        digest = hashlib.sha256(data).hexdigest()
        entries.append(f"{said}\nFilename: ./{target.name}\nSize: {len(data)}\nSHA256: {digest}\n")
    (folder / "Packages").write_text("\n".join(entries))
