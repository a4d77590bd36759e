"""What this machine must bring: packages, bounded commands, and clocks for slow machines."""

import contextlib
import fcntl
import os
import pathlib
import shutil
import subprocess
import time

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]

# Each program, or file, and the package that brings it.
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
    "/usr/share/keyrings/debian-archive-keyring.gpg": "debian-archive-keyring",
}
SBIN = "/usr/local/sbin:/usr/sbin:/sbin"
EMULATOR = "qemu-system-x86"
# By its own loader, with its own libraries.
EMULATOR_PROGRAM = """#!/bin/sh
root='{root}'
export QEMU_MODULE_DIR="$root/usr/lib/x86_64-linux-gnu/qemu"
exec "$root/{loader}" --library-path "$root/lib/x86_64-linux-gnu:$root/usr/lib/x86_64-linux-gnu" \\
    "$root/usr/bin/qemu-system-x86_64" -L "$root/usr/share/qemu" -L "$root/usr/share/seabios" "$@"
"""


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
    there = [program for program in programs if shutil.which(program) or os.path.isfile(program)]
    missing = sorted({package for program, package in programs.items() if program not in there})
    if not missing:
        return
    print(f"installing {' '.join(missing)}", flush=True)
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "NEEDRESTART_SUSPEND": "1"}
    # For the emulator apt would take tools for disks of another release off the machine.
    apt = ["apt-get", "-y", "-q", "--no-remove", "-o", "DPkg::Lock::Timeout=300"]
    with quiet_services():
        run([*apt, "update"], 600, env=environment)
        installed = attempt([*apt, "install", "--no-install-recommends", *missing], 900, env=environment)
        if installed.returncode != 0 and EMULATOR in missing:
            # What is installed of another release (a tool for disks from backports) may rule out the emulator.
            missing.remove(EMULATOR)
            unpack_emulator(environment)
            installed = attempt([*apt, "install", "--no-install-recommends", *missing], 900, env=environment)
        if installed.returncode != 0:
            raise Failed(f"could not install {' '.join(missing)}:\n{installed.stdout}{installed.stderr}")
        if "docker-registry" in missing and shutil.which("systemctl"):
            attempt(["systemctl", "-q", "disable", "docker-registry"])


def unpack_emulator(environment):
    """Puts the emulator and all that it needs into a folder of the cache, and its program on the PATH; nothing is installed."""
    folder = cache() / "emulator"
    program = folder / "bin" / "qemu-system-x86_64"
    with locked(cache() / "emulator.lock"):
        if not program.exists():
            print(f"unpacking {EMULATOR}", flush=True)
            shutil.rmtree(folder, ignore_errors=True)
            for name in ("bin", "root", "archives/partial"):
                (folder / name).mkdir(parents=True)
            # For one who has no packages at all, its C library comes too.
            (folder / "status").touch()
            own = [f"Dir::State::status={folder}/status", f"Dir::Cache::archives={folder}/archives", "APT::Sandbox::User=root"]
            options = [word for option in own for word in ("-o", option)]
            fetch = ["apt-get", "-y", "-q", *options, "--download-only", "--no-install-recommends", "install", EMULATOR]
            run(fetch, 900, env=environment)
            for package in (folder / "archives").glob("*.deb"):
                run(["dpkg-deb", "-x", package, folder / "root"])
            shutil.rmtree(folder / "archives")
            root = folder / "root"
            loader = next(root.glob("**/ld-linux-x86-64.so.2")).relative_to(root)
            draft = program.with_suffix(".new")
            draft.write_text(EMULATOR_PROGRAM.format(root=root, loader=loader))
            draft.chmod(0o755)
            draft.rename(program)
    os.environ["PATH"] = f"{program.parent}:{os.environ['PATH']}"


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
