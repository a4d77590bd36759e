"""What this machine must bring: packages, bounded commands, and clocks for slow machines."""

import contextlib
import fcntl
import os
import pathlib
import shutil
import subprocess
import time

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]

# Each program and the package that brings it.
PROGRAMS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "qemu-img": "qemu-utils",
    "mmdebstrap": "mmdebstrap",
    "mke2fs": "e2fsprogs",
    "busybox": "busybox-static",
    "ssh": "openssh-client",
    "xz": "xz-utils",
    "docker-registry": "docker-registry",
    "setpriv": "util-linux",
    "unshare": "util-linux",
}
SBIN = "/usr/local/sbin:/usr/sbin:/sbin"


class Failed(Exception):
    """A command, a wait or a check that did not come out as it should; the text says all of it."""


def patience(seconds):
    """A limit of so many seconds on an idle machine, made longer by `CRIO_SETUP_VM_PATIENCE`, a factor."""
    return seconds * float(os.environ.get("CRIO_SETUP_VM_PATIENCE", "1"))


def run(argv, limit=60, **options):
    """Runs a command that must succeed; its standard output, trimmed."""
    result = attempt(argv, limit, **options)
    if result.returncode != 0:
        said = f"{result.stdout or ''}{result.stderr or ''}".strip()
        raise Failed(f"`{shown(argv)}` ended with {result.returncode}:\n{said}")
    return (result.stdout or "").strip()


def attempt(argv, limit=60, **options):
    """Runs a command, however it ends; past its limit it is killed, and that is a failure."""
    argv = [str(word) for word in argv]
    options.setdefault("stdin", subprocess.DEVNULL if "input" not in options else None)
    if options["stdin"] is None:
        del options["stdin"]
    try:
        return subprocess.run(argv, capture_output=True, text=True, timeout=patience(limit), **options)
    except subprocess.TimeoutExpired as error:
        raise Failed(f"`{shown(argv)}` took more than {patience(limit):.0f} s\n{error.output or ''}") from error


def shown(argv):
    """A command as one reads it, cut where it gets long."""
    line = " ".join(str(word) for word in argv)
    return line if len(line) < 300 else line[:297] + "..."


def ensure_packages(programs=PROGRAMS):
    """Installs what is missing of the packages that hold these programs."""
    os.environ["PATH"] += ":" + SBIN
    missing = sorted({package for program, package in programs.items() if shutil.which(program) is None})
    if not missing:
        return
    print(f"installing {' '.join(missing)}", flush=True)
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "NEEDRESTART_SUSPEND": "1"}
    apt = ["apt-get", "-y", "-q", "-o", "DPkg::Lock::Timeout=300"]
    with quiet_services():
        run([*apt, "update"], 600, env=environment)
        run([*apt, "install", "--no-install-recommends", *missing], 900, env=environment)
        if "docker-registry" in missing and shutil.which("systemctl"):
            attempt(["systemctl", "-q", "disable", "docker-registry"])


@contextlib.contextmanager
def quiet_services():
    """While this lasts, no package starts a service, unless the machine has a policy of its own."""
    policy = pathlib.Path("/usr/sbin/policy-rc.d")
    made = not policy.exists()
    if made:
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
    try:
        yield
    finally:
        if made:
            policy.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(path):
    """Holds a lock file; another run waits here."""
    with open(path, "w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def cache():
    """Where machines are kept between runs: `CRIO_SETUP_VM_CACHE`, or `vm` in the target folder."""
    chosen = os.environ.get("CRIO_SETUP_VM_CACHE") or REPOSITORY / "target" / "vm"
    folder = pathlib.Path(chosen)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


class Stopwatch:
    """Seconds since it was made."""

    def __init__(self):
        self.began = time.monotonic()

    def __str__(self):
        return f"{time.monotonic() - self.began:.0f} s"
