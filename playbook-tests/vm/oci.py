"""The images that a machine's own registry serves: redis and busybox, made of the distribution's packages.

A registry on loopback is filled here by pushes, while the disk is made; its storage then goes onto the disk.
"""

import contextlib
import gzip
import hashlib
import http.client
import io
import json
import pathlib
import re
import select
import subprocess
import tarfile

from .host import Failed, patience, run

CONFIG = """version: 0.1
log: {{ level: info }}
storage: {{ filesystem: {{ rootdirectory: {storage} }} }}
http: {{ addr: '{address}' }}
"""
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
APPLETS = "sh cat echo sleep true ls nc ping wget ip id hostname".split()


def fill_registry(storage, work, root):
    """Makes the folder `storage` of a registry that has redis and busybox, of what is installed at `root`."""
    with serving(storage, work) as address:
        redis = {"Env": [PATH], "Cmd": ["redis-server"], "WorkingDir": "/"}
        push(address, "library/redis", "7-alpine", pack(root, ["redis-server", "redis-cli"]), redis)
        push(address, "library/busybox", "1", pack(root), {"Env": [PATH], "Cmd": ["sh"]})


@contextlib.contextmanager
def serving(storage, work):
    """The distribution's registry on a port that is free; yields its address."""
    config = work / "registry.yml"
    config.write_text(CONFIG.format(storage=storage, address="127.0.0.1:0"))
    argv = ["setpriv", "--pdeathsig", "KILL", "docker-registry", "serve", str(config)]
    with subprocess.Popen(argv, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        try:
            said = b""
            while not (found := re.search(rb"listening on (127\.0\.0\.1:\d+)", said)):
                ready, _, _ = select.select([process.stderr], [], [], patience(30))
                more = process.stderr.read1(65536) if ready else b""
                if not more:
                    raise Failed(f"the registry did not come up: {said.decode(errors='replace')}")
                said += more
            yield found[1].decode()
        finally:
            process.kill()


def pack(root, programs=()):
    """A layer with busybox, and with these programs of the tree `root` and their libraries: the same bytes each time."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as archive:
        for name in ("bin", "lib", "lib/x86_64-linux-gnu", "lib64"):
            archive.addfile(folder(name, 0o755))
        archive.addfile(folder("tmp", 0o1777))
        files = {"/bin/busybox", *(f"/bin/{name}" for name in programs)}
        for name in programs:
            # Lines are `NAME => PATH (ADDRESS)`, or the loader's `PATH (ADDRESS)`.
            files.update(re.findall(r"(/\S+) \(0x", run(["chroot", root, "ldd", f"/bin/{name}"])))
        for path in sorted(files):
            add_file(archive, path.lstrip("/"), run(["chroot", root, "realpath", path]), root)
        for applet in APPLETS:
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            archive.addfile(link)
    return layer.getvalue()


def add_file(archive, name, path, root):
    """Adds what is at the absolute `path` below `root` as a program."""
    data = (root / path.lstrip("/")).read_bytes()
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(data), 0o755
    archive.addfile(member, io.BytesIO(data))


def folder(name, mode):
    """A folder's entry in an archive."""
    member = tarfile.TarInfo(name)
    member.type, member.mode = tarfile.DIRTYPE, mode
    return member


def push(address, name, tag, layer, container):
    """Pushes an image of one layer."""
    packed = gzip.compress(layer, 6, mtime=0)
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": container,
            "rootfs": {"type": "layers", "diff_ids": [digest(layer)]},
        }
    ).encode()
    kind = "application/vnd.oci.image."
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": f"{kind}manifest.v1+json",
            "config": descriptor(f"{kind}config.v1+json", config),
            "layers": [descriptor(f"{kind}layer.v1.tar+gzip", packed)],
        }
    ).encode()
    for blob in (config, packed):
        start = ask(address, "POST", f"/v2/{name}/blobs/uploads/", b"", {}, 202)
        place = start.split("/v2/", 1)[1]
        octets = {"Content-Type": "application/octet-stream"}
        ask(address, "PUT", f"/v2/{place}&digest={digest(blob)}", blob, octets, 201)
    ask(address, "PUT", f"/v2/{name}/manifests/{tag}", manifest, {"Content-Type": f"{kind}manifest.v1+json"}, 201)


def ask(address, verb, path, body, headers, status):
    """One request, answered with `status`; the answer's Location."""
    connection = http.client.HTTPConnection(address, timeout=patience(60))
    connection.request(verb, path, body, headers)
    answer = connection.getresponse()
    text = answer.read().decode(errors="replace")
    connection.close()
    if answer.status != status:
        raise Failed(f"{verb} {path}: status {answer.status} instead of {status}: {text}")
    return answer.headers.get("Location", "")


def digest(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def descriptor(kind, data):
    return {"mediaType": kind, "digest": digest(data), "size": len(data)}
