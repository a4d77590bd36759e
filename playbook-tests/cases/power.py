"""The power fails in mid-install, again and again, at moments drawn by lot; the next install puts it right."""

import os
import random
import time

from vm.host import Failed, patience
from vm.node import UPLOAD, expect

NEEDS, ORDER = "bare", 80
LIMIT = 3600
CUTS = int(os.environ.get("CRIO_SETUP_VM_CUTS", "10"))
LOG = "/var/log/install.txt"


def run(node):
    seed = int(os.environ.get("CRIO_SETUP_VM_SEED", str(random.randrange(1 << 30))))
    lot = random.Random(seed)
    print(f"power: CRIO_SETUP_VM_SEED={seed}", flush=True)
    done = 0
    for number in range(1, CUTS + 1):
        finished = install_and_cut(node, lot)
        node.machine.boot()
        # Whatever stands, it can be asked about.
        code = node.ssh(f"timeout 60 {UPLOAD} status >/dev/null 2>&1; echo $?", 120)
        expect(code in ("0", "1"), f"cut {number}: `status` ended with {code}")
        print(f"power: cut {number}: {'after the end' if finished else 'in the middle'}, status {code}", flush=True)
        done += not finished
        if finished:
            node.ssh(f"{UPLOAD} uninstall --force", 600)
    expect(done > 0, "no cut was in the middle of an install")
    try:
        node.install()
    except Failed as error:
        raise Failed(f"after {done} cuts `install` fails: {error}") from error
    node.expect_healthy()
    node.expect_unchanged()
    node.state = "node"


def install_and_cut(node, lot):
    """Starts an install, lets it get to a step drawn by lot, and a little on; was it over by then?"""
    node.ssh(f"sync; rm -f {LOG}; nohup {UPLOAD} install --no-selftest >{LOG} 2>&1 </dev/null & echo started")
    # Lines tell of the steps; apt's is the longest by far.
    lines, pause = lot.choice((2, 6, 7, 7, 10, 16, 20, 24, 30, 36)), lot.uniform(0, 4)
    waited = f"for i in $(seq 1200); do n=$(wc -l <{LOG}); [ $n -ge {lines} ] && break; grep -q '^done\\|^error' {LOG} && break; sleep 0.25; done"
    node.ssh(waited, 400)
    if lines == 7:
        pause = lot.uniform(0, 20)
    time.sleep(patience(pause))
    finished = node.ssh(f"tail -n 1 {LOG}", check=False).startswith("done")
    node.machine.cut_power()
    return finished
