"""The power fails in mid-install, again and again, at moments drawn by lot; each time the next install finishes."""

import os
import random
import time

from vm.host import Failed, patience
from vm.node import UPLOAD, expect

NEEDS, ORDER = "bare", 80
LIMIT = 7200
CUTS = int(os.environ.get("CRIO_SETUP_VM_CUTS", "10"))
LOG = "/var/log/install.txt"
# The line at which apt begins, and about how long that takes, in seconds; every third install brings docker, whose
# packages take by far the longest.
APT, LONG, SHORT = "install the packages", 70, 30


def run(node):
    seed = int(os.environ.get("CRIO_SETUP_VM_SEED", str(random.randrange(1 << 30))))
    lot = random.Random(seed)
    print(f"power: CRIO_SETUP_VM_SEED={seed}", flush=True)
    done = 0
    for number in range(1, 2 * CUTS + 1):
        whole = number % 3 == 0
        when = cut(node, lot, whole)
        if when is None:
            print(f"power: {number}: the install was over", flush=True)
        else:
            done += 1
        node.machine.boot(settled=False)
        # Whatever stands, it can be asked about, and the next install makes a node of it.
        code = node.ssh(f"timeout 60 {UPLOAD} status >/dev/null 2>&1; echo $?", 120)
        expect(code == ("0" if when is None else "1"), f"{number}: `status` ended with {code}")
        began = time.monotonic()
        arguments = "" if whole else "--without docker"
        try:
            report = node.install(arguments)
        except Failed as error:
            raise Failed(f"cut {number}, {when}: the next install fails: {error}") from error
        node.expect_healthy(("ocid", "docker") if whole else ("ocid",))
        expect_clean(node)
        took = time.monotonic() - began
        print(f"power: cut {done}, {when}: status {code}, then changed={report['changed']}, healthy after {took:.0f} s", flush=True)
        node.expect_unchanged(arguments)
        if done == CUTS:
            break
        node.machine.cut_power()
        node.machine.renew()
        node.boot()
    expect(done == CUTS, f"only {done} cuts were in the middle of an install")


def cut(node, lot, whole):
    """Starts an install, lets it get to a moment drawn by lot, and cuts the power; when that was, or None: it was over."""
    arguments = "" if whole else "--without docker"
    node.ssh(f"sync; rm -f {LOG}; nohup {UPLOAD} install {arguments} >{LOG} 2>&1 </dev/null & echo started")
    if lot.random() < 0.6:
        pause = lot.uniform(0, LONG if whole else SHORT)
        when, reached = f"{pause:.1f} s into apt", f"grep -q '{APT}' {LOG}"
    else:
        # The steps after it are quick: by their lines.
        lines, pause = lot.randrange(1, 40), lot.uniform(0, 1.5)
        when = f"{pause:.1f} s after line {lines} behind apt"
        reached = f"[ $(sed '1,/{APT}/d' {LOG} | wc -l) -ge {lines} ]"
    over = f"grep -q '^done\\|^error' {LOG}"
    node.ssh(f"for i in $(seq 4000); do {reached} && break; {over} && break; sleep 0.1; done", 600)
    time.sleep(patience(pause))
    last = node.ssh(f"tail -n 1 {LOG}", check=False)
    node.machine.cut_power()
    return None if last.startswith("done") else f"{when} (`{last}`)"


def expect_clean(node):
    """Nothing of a package lies half unpacked, dpkg has nothing to say, and no daemon of a package runs."""
    said = node.ssh("find / -xdev -name '*.dpkg-new' -o -xdev -name '*.dpkg-tmp'; dpkg --audit; ls /var/lib/dpkg/updates", 120)
    expect(said == "", f"left of a cut: {said}")
    for unit in ("containerd.service", "docker.socket"):
        state = node.ssh(f"systemctl is-active {unit}", check=False)
        expect(state == "inactive", f"{unit} is {state} after a cut")
