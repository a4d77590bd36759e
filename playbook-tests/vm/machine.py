"""One virtual machine: its disk, its QEMU, its console, and commands in it by ssh.

The disk is an overlay on an image, so it lasts over reboots and power cuts and goes with the machine. QEMU
dies with this process, however that ends. Ports, sockets and folders are each run's own.
"""

import contextlib
import fcntl
import json
import os
import pathlib
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import threading

from .host import Failed, attempt, cache, patience, run

UP = "@vm ssh is up@"
# Emulation is what works everywhere; where KVM does, `CRIO_SETUP_VM_ACCEL=kvm` makes it ten times faster.
ACCELERATION = os.environ.get("CRIO_SETUP_VM_ACCEL", "tcg,thread=multi")
# Page tables of five levels, and guards against what no emulation leaks, cost a good part of a slow processor.
PROCESSOR = "host" if ACCELERATION.startswith("kvm") else "max,la57=off"
CMDLINE = "root=/dev/vda rw console=ttyS0 net.ifnames=0 panic=-1 apparmor=1 security=apparmor mitigations=off"
if ACCELERATION.startswith("tcg"):
    # What is translated is found again by its address: with a new one at each start, programs are translated anew each time.
    CMDLINE += " norandmaps"
BOOT = 300


class Machine:
    """A machine of an image; a context that ends with it."""

    def __init__(self, image, seed, egress=False, memory=2048):
        """`seed`: name to path or content of the files that `copy` finds; `egress`: may it reach the distribution's mirror?"""
        self.image = image
        self.seed = seed
        self.egress = egress
        self.memory = memory
        # More words for the kernel, more of QEMU's arguments, and `guestfwd`s: what a case may want of its machine.
        self.words, self.options, self.forwards = [], [], []
        self.qemu = None
        self.console = ""
        self.boots = 0
        self.changed = threading.Condition()
        sweep()
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="run-", dir=cache()))
        # Held as long as this process lives: the sweep of another run lets the folder be.
        self.lock = open(self.folder / "lock", "wb")
        fcntl.flock(self.lock, fcntl.LOCK_EX)
        self.port = None
        self.renew()
        self.plant()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.cut_power()
        shutil.rmtree(self.folder, ignore_errors=True)
        self.lock.close()

    def renew(self):
        """Gives the machine, which is off, a disk as the image is."""
        backing = ["-F", "raw", "-b", self.image.disk.resolve()]
        run(["qemu-img", "create", "-q", "-f", "qcow2", *backing, self.folder / "disk.qcow2"])

    def boot(self, settled=True, limit=BOOT):
        """Switches the machine on and waits until systemd has come to rest, unless told otherwise with all well."""
        seen = self.boots
        self.qemu = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "qemu-system-x86_64", *self.arguments()],
            cwd=self.folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        threading.Thread(target=self.listen, args=(self.qemu,), daemon=True).start()
        self.await_boot(seen, settled, limit)

    def plant(self):
        """Makes a disk of the seed: through ssh a program would take longer than an install."""
        folder = self.folder / "seed"
        folder.mkdir()
        for name, source in self.seed.items():
            if isinstance(source, bytes):
                (folder / name).write_bytes(source)
            else:
                shutil.copy(source, folder / name)
        size = sum(path.stat().st_size for path in folder.iterdir())
        disk = [self.folder / "seed.img", f"{(size >> 20) * 5 // 4 + 8}M"]
        run(["mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-d", folder, *disk])
        shutil.rmtree(folder)

    def copy(self, name, target):
        """Puts a file of the seed there, with its mode."""
        quoted = shlex.quote(target)
        take = f"mkdir -p \"$(dirname {quoted})\" && cp --remove-destination /mnt/{shlex.quote(name)} {quoted}"
        self.ssh(f"mount -r /dev/vdb /mnt && {{ {take}; code=$?; umount /mnt; exit $code; }}")

    def arguments(self):
        net = "user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:0-:22"
        if self.egress:
            packages = cache() / "packages"
            packages.mkdir(exist_ok=True)
            proxy = pathlib.Path(__file__).with_name("proxy.py")
            words = [sys.executable, proxy, self.image.mirrors.resolve(), packages.resolve(), *host_proxy()]
            command = " ".join(shlex.quote(str(word)) for word in words).replace(",", ",,")
            net += f",guestfwd=tcp:10.0.2.100:3128-cmd:{command}"
        net += "".join(f",guestfwd={forward}" for forward in self.forwards)
        return [
            *("-nodefaults", "-no-user-config", "-display", "none"),
            *("-machine", "q35", "-accel", ACCELERATION, "-cpu", PROCESSOR, "-smp", "2", "-m", str(self.memory)),
            *("-kernel", self.image.kernel.resolve(), "-initrd", self.image.initrd.resolve()),
            *("-append", " ".join([CMDLINE, *self.words])),
            # What the machine has flushed is on the disk, what it has not is lost when QEMU is killed.
            *("-drive", "file=disk.qcow2,if=none,id=root,format=qcow2,cache=writeback"),
            *("-drive", "file=seed.img,if=none,id=seed,format=raw,readonly=on"),
            *("-device", "virtio-blk-pci,drive=root", "-device", "virtio-blk-pci,drive=seed", "-device", "virtio-rng-pci"),
            *("-netdev", net, "-device", "virtio-net-pci,netdev=net,romfile="),
            *("-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"),
            *("-chardev", "socket,path=monitor,server=on,wait=off,id=monitor", "-mon", "chardev=monitor,mode=control"),
            *self.options,
        ]

    def listen(self, qemu):
        """Reads the console to its end; counts the boots that it tells of."""
        for line in qemu.stdout:
            with self.changed:
                self.console += line.decode(errors="replace")
                self.boots += UP in line.decode(errors="replace")
                self.changed.notify_all()
        qemu.wait()
        with self.changed:
            self.changed.notify_all()

    def await_boot(self, seen, settled=True, limit=BOOT):
        """Waits for one boot more than `seen`, and for systemd to have come to rest; all must be well if `settled`."""
        with self.changed:
            there = self.changed.wait_for(
                lambda: self.boots > seen or self.qemu.poll() is not None, patience(limit)
            )
        if self.qemu.poll() is not None:
            raise Failed(f"the machine went off while it booted:\n{self.last_words()}")
        if not there:
            raise Failed(f"no ssh on the machine after {patience(limit):.0f} s:\n{self.last_words()}")
        self.port = self.ssh_port()
        state = self.ssh("systemctl is-system-running --wait", limit, check=False)
        if settled and state != "running":
            units = self.ssh("systemctl list-units --failed --no-legend; systemctl list-jobs", check=False)
            raise Failed(f"systemd is {state or 'silent'}: {units}")

    def last_words(self):
        return "\n".join(self.console.splitlines()[-40:])

    def ssh_port(self):
        """The port on loopback that QEMU chose for the machine's ssh."""
        found = re.search(r"HOST_FORWARD\]\s+\d+\s+\S+\s+(\d+)", self.monitor("info usernet"))
        if not found:
            raise Failed("QEMU does not say which port it forwards")
        return int(found[1])

    def monitor(self, line):
        """The answer to a line of QEMU's monitor for people."""
        with contextlib.ExitStack() as stack:
            # A socket's path may be 107 bytes long; this one's may be longer.
            folder = os.open(self.folder, os.O_PATH)
            stack.callback(os.close, folder)
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.settimeout(patience(30))
            client.connect(f"/proc/self/fd/{folder}/monitor")
            stream = stack.enter_context(client.makefile("rw", encoding="utf-8"))
            stream.readline()
            for order in (
                {"execute": "qmp_capabilities"},
                {"execute": "human-monitor-command", "arguments": {"command-line": line}},
            ):
                stream.write(json.dumps(order) + "\n")
                stream.flush()
                answer = {}
                while "return" not in answer and "error" not in answer:
                    answer = json.loads(stream.readline())
            return str(answer.get("return", ""))

    def ssh_arguments(self):
        """Options of ssh for this machine; paths in them are relative to its folder."""
        options = {
            "IdentityFile": self.image.key.resolve(),
            "UserKnownHostsFile": self.image.hosts.resolve(),
            "HostKeyAlias": "node",
            "StrictHostKeyChecking": "yes",
            "IdentitiesOnly": "yes",
            "BatchMode": "yes",
            "LogLevel": "ERROR",
            "ConnectTimeout": "60",
            "ServerAliveInterval": "30",
            "ServerAliveCountMax": "6",
            # A handshake costs a second in emulation; one serves all commands.
            "ControlMaster": "auto",
            "ControlPath": "ssh",
            "ControlPersist": "yes",
        }
        return ["-F", "none", *(word for key, value in options.items() for word in ("-o", f"{key}={value}"))]

    def ssh(self, script, limit=120, check=True, data=None):
        """Runs a shell script on the machine as root; what it printed to standard output, trimmed."""
        argv = ["ssh", *self.ssh_arguments(), "-p", self.port, "root@127.0.0.1", script]
        options = {"input": data} if data is not None else {}
        result = attempt(argv, limit, cwd=self.folder, **options)
        if check and result.returncode != 0:
            raise Failed(f"on the machine, `{script}` ended with {result.returncode}:\n{result.stdout}{result.stderr}")
        return result.stdout.strip()

    def hang_up(self):
        """Ends the connection that commands share."""
        if self.port:
            argv = ["ssh", *self.ssh_arguments(), "-p", str(self.port), "-O", "exit", "root@127.0.0.1"]
            attempt(argv, cwd=self.folder)

    def reboot(self):
        """Restarts the machine in good order."""
        seen = self.boots
        # The connection may end before the command has.
        self.ssh("systemctl reboot", check=False)
        self.hang_up()
        self.await_boot(seen)

    def cut_power(self):
        """The machine is off, now."""
        if self.qemu:
            self.qemu.kill()
            self.qemu.wait()
            self.hang_up()
            self.qemu = None


def host_proxy():
    """The proxy that this machine's own apt uses, as `[host:port]`, or nothing."""
    text = run(["apt-config", "shell", "PROXY", "Acquire::http::Proxy"])
    found = re.search(r"http://([^/']+)", text)
    return [found[1]] if found else []


def sweep():
    """Removes what runs left behind that were killed outright."""
    for folder in cache().glob("run-*"):
        with contextlib.suppress(OSError), open(folder / "lock", "rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
