"""Images made here and pushed to a registry, with python's own tar, gzip and HTTP."""

import gzip
import hashlib
import http.client
import io
import json
import os
import platform
import subprocess
import tarfile
import tempfile

CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"

ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())

PASSWD = """root:x:0:0:root:/root:/bin/sh
worker:x:1234:1235:a user:/home/worker:/bin/sh
www-data:x:33:33:www-data:/var/www:/bin/sh
nobody:x:65534:65534:nobody:/nonexistent:/bin/false
"""
GROUP = """root:x:0:
worker:x:1235:
www-data:x:33:
extra:x:50000:worker
other:x:50001:somebody
nogroup:x:65534:
"""

#: Says as whom it runs; installed setuid root.
EFFECTIVE = """
#include <stdio.h>
#include <unistd.h>
int main(void) { printf("effective uid: %d\\n", (int)geteuid()); return 0; }
"""


def digest(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


class Registry:
    def __init__(self, address):
        self.address = address

    def _send(self, method, path, body=b"", kind="application/octet-stream", expected=(201,)):
        connection = http.client.HTTPConnection(self.address, timeout=30)
        try:
            connection.request(method, path, body=body, headers={"Content-Type": kind})
            answer = connection.getresponse()
            text = answer.read()
            if answer.status not in expected:
                raise RuntimeError(f"{method} {path}: {answer.status} {text!r}")
            return answer
        finally:
            connection.close()

    def _blob(self, name, data):
        answer = self._send("POST", f"/v2/{name}/blobs/uploads/", expected=(202,))
        location = answer.getheader("Location")
        path = "/v2/" + location.split("/v2/", 1)[1]
        self._send("PUT", f"{path}&digest={digest(data)}", data)

    def push(self, name, tags, layers, config=None):
        """Pushes an image under tags. `layers` are gzipped tars with their diff ids, `config` is the
        container part as Docker spells it. Returns the digest of the manifest and the image's id."""
        whole = json.dumps(
            {
                "architecture": ARCHITECTURE,
                "os": "linux",
                "config": config or {},
                "rootfs": {"type": "layers", "diff_ids": [diff for diff, _ in layers]},
            }
        ).encode()
        manifest = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": MANIFEST,
                "config": {"mediaType": CONFIG, "digest": digest(whole), "size": len(whole)},
                "layers": [
                    {"mediaType": LAYER, "digest": digest(data), "size": len(data)}
                    for _, data in layers
                ],
            }
        ).encode()
        for data in [whole] + [data for _, data in layers]:
            self._blob(name, data)
        for tag in tags:
            self._send("PUT", f"/v2/{name}/manifests/{tag}", manifest, MANIFEST)
        return digest(manifest), digest(whole)

    def reference(self, name, tag):
        return f"{self.address}/{name}:{tag}"


def layer(entries):
    """A gzipped tar of `(path, mode, content)`, content `None` for a folder, a `str` for the target of a
    symlink, bytes for a file; with its diff id."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path, mode, content in entries:
            entry = tarfile.TarInfo(path)
            entry.mode, entry.mtime = mode, 1577836800
            if content is None:
                entry.type = tarfile.DIRTYPE
                tar.addfile(entry)
            elif isinstance(content, str):
                entry.type, entry.linkname = tarfile.SYMTYPE, content
                tar.addfile(entry)
            else:
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    data = raw.getvalue()
    return digest(data), gzip.compress(data, compresslevel=1, mtime=0)


def _effective():
    with tempfile.TemporaryDirectory() as folder:
        program = os.path.join(folder, "effective")
        subprocess.run(
            ["gcc", "-static", "-o", program, "-x", "c", "-"],
            input=EFFECTIVE.encode(),
            check=True,
        )
        with open(program, "rb") as file:
            return file.read()


def base_layer():
    """The distribution's static busybox with links for its applets, some users and groups, a page to
    serve, and a program that is setuid root."""
    with open("/bin/busybox", "rb") as file:
        busybox = file.read()
    applets = subprocess.run(
        ["/bin/busybox", "--list"], check=True, capture_output=True, text=True
    ).stdout.split()
    folders = {"bin": 0o755, "etc": 0o755, "home": 0o755, "root": 0o700, "tmp": 0o1777}
    entries = [(path, mode, None) for path, mode in folders.items()]
    entries += [("www", 0o755, None), ("var", 0o755, None), ("home/worker", 0o777, None)]
    entries.append(("bin/busybox", 0o755, busybox))
    entries += [(f"bin/{name}", 0o777, "busybox") for name in applets if name != "busybox"]
    entries += [
        ("bin/effective", 0o4755, _effective()),
        ("etc/passwd", 0o644, PASSWD.encode()),
        ("etc/group", 0o644, GROUP.encode()),
        ("www/index.html", 0o644, b"a page\n"),
    ]
    return layer(entries)
