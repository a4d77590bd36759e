"""cloud-init makes a node at first boot by the example's user-data, and says so; of a program with another sum it makes none."""

import hashlib
import re
import time

from vm.host import REPOSITORY, ensure_packages, run as command
from vm.node import UPLOAD, expect

NEEDS, ORDER, CLOUD = "bare", 65, True
LIMIT = 2400
FIRST_BOOT = 1500
SIGNAL = "/run/crio-setup.first-boot"
SERVER = "10.0.2.101"
# The clock of a machine that has no time yet.
LONG_AGO = "2024-05-01T00:00:00"


def run(node):
    ensure_packages({"xorriso": "xorriso"})
    machine = node.machine
    binary = machine.seed["crio-setup"].read_bytes()
    serve(machine, binary)
    # Whatever is not what it is said to be is not run.
    expect_failure(node, "0" * 64)
    machine.cut_power()
    machine.renew()
    began = time.monotonic()
    first_boot(machine, hashlib.sha256(binary).hexdigest(), [f"busy={time.time():.0f}"])
    said = node.ssh("cloud-init status --wait --long; echo code $?")
    log = node.ssh("cat /var/log/crio-setup.log; systemctl status --no-pager --full busy; journalctl --no-pager -u busy", check=False)
    expect("status: done" in said and said.endswith("code 0"), f"cloud-init says {said}\n{log}")
    signal = node.ssh(f"cat {SIGNAL}")
    expect(signal == "ok", f"the signal of success is `{signal}`\n{log}")
    print(f"cloudinit: a node {time.monotonic() - began:.0f} s after power on", flush=True)
    # It waited for the lock of another, and the clock leapt while it did: from the day on which systemd was built, before
    # which systemd lets no clock be.
    leap = re.search(r"waited for (\d+)", log)
    expect(leap and int(leap[1]) > 86400, f"the first boot was not as busy as it was to be: {log}")
    expect(abs(float(node.ssh("date +%s")) - time.time()) < 3600, "the clock was not set")
    node.expect_healthy()
    pod, _ = node.redis()
    node.ping(node.address(pod))
    node.remove_pod(pod)
    node.expect_unchanged()


def expect_failure(node, digest):
    """A first boot with this sum in the user-data ends in words and in the file that say that it failed."""
    first_boot(node.machine, digest, [])
    said = node.ssh("cloud-init status --wait --long; echo code $?")
    expect("status: error" in said and said.endswith("code 1"), f"cloud-init says of a wrong program: {said}")
    signal = node.ssh(f"cat {SIGNAL}")
    expect(signal.startswith("failed "), f"the signal of failure is `{signal}`")
    log = node.ssh("cat /var/log/crio-setup.log")
    expect(f"{UPLOAD}.new: FAILED" in log, f"the log of a wrong program: {log}")
    node.ssh(f"test ! -e {UPLOAD} && test ! -e /usr/local/bin/ocid && test ! -e /usr/sbin/runc")
    lists = node.ssh("ls /var/lib/apt/lists")
    expect("Packages" not in lists, f"there are lists of packages already: {lists}")


def first_boot(machine, digest, words):
    """Switches the machine on with the example's user-data on a disk, the program to be fetched and to have this sum."""
    text = (REPOSITORY / "examples/cloud-init/user-data.yaml").read_text()
    for key, value in (("url", f"http://{SERVER}/crio-setup"), ("sum", digest)):
        changed = text.replace(f'{key}=""', f'{key}="{value}"')
        expect(changed != text, f"the example has no place for the {key}")
        text = changed
    folder = machine.folder / "cidata"
    folder.mkdir(exist_ok=True)
    (folder / "user-data").write_text(text)
    (folder / "meta-data").write_text(f"instance-id: i-{digest[:8]}\nlocal-hostname: node\n")
    image = machine.folder / "cidata.iso"
    image.unlink(missing_ok=True)
    command(["xorriso", "-as", "genisoimage", "-quiet", "-volid", "CIDATA", "-joliet", "-rock", "-output", image, folder])
    machine.words = words
    machine.options = ["-drive", "file=cidata.iso,if=none,id=cidata,format=raw,readonly=on"]
    machine.options += ["-device", "virtio-blk-pci,drive=cidata", "-rtc", f"base={LONG_AGO}"]
    machine.boot(settled=False, limit=FIRST_BOOT)


def serve(machine, binary):
    """A web server on the machine's net, which has one file."""
    head = f"HTTP/1.0 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: {len(binary)}\r\n\r\n"
    (machine.folder / "answer").write_bytes(head.encode() + binary)
    # The rest of the question is read too: a connection that is closed before is reset.
    (machine.folder / "serve").write_text("read -r question\ncat answer\ncat >/dev/null\n")
    machine.forwards = [f"tcp:{SERVER}:80-cmd:sh serve"]
