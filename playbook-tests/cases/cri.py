"""The suite of CRI tests, in the machine: on cgroup v2, below systemd, with AppArmor, and a kernel of its distribution."""

import os
import re
import subprocess

from vm.host import REPOSITORY, Failed, patience
from vm.node import UPLOAD, expect

NEEDS, ORDER, MEMORY = "bare", 70, 4096
LIMIT = 7200
SUITE = "/srv/cri"
PACKAGES = "runc containernetworking-plugins iptables"
# What the tests look up in their repository.
FILES = "tests proto examples templates"
# Tests whose subject is what the development machine lacks: limits, statistics, confinement, signals.
# (No kubectl is there, which is as large as all the rest.)
USUAL = "pods_cgroups containers_resources containers_security containers_stop exec:: stats:: --skip kubectl"


def seed(_):
    """The newest build of the suite, which is static, and what it reads."""
    found = REPOSITORY.glob("target/**/debug/deps/cri-*")
    builds = [path for path in found if os.access(path, os.X_OK) and not path.suffix]
    if not builds:
        raise Failed("there is no build of the suite: run `cargo test --no-run --test cri` first")
    tree = subprocess.run(["tar", "-c", *FILES.split()], cwd=REPOSITORY, capture_output=True, check=True, timeout=patience(60))
    return {"cri": max(builds, key=lambda path: path.stat().st_mtime), "tree.tar": tree.stdout}


def run(node):
    """`CRIO_SETUP_VM_TESTS` names other tests, by words of their names."""
    node.ssh(f"apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq -y install {PACKAGES} >/dev/null 2>&1", 900)
    # systemd hands on what its units need; the throwaway machines of the suite need all.
    node.ssh(
        "systemd-run -q --unit controllers -p CPUWeight=90 -p IOWeight=90 -p AllowedCPUs=0-1 sleep infinity;"
        " for c in $(cat /sys/fs/cgroup/cgroup.controllers); do echo +$c >/sys/fs/cgroup/cgroup.subtree_control; done"
    )
    node.machine.copy("cri", SUITE)
    node.machine.copy("tree.tar", "/srv/tree.tar")
    node.ssh(f"mkdir -p {REPOSITORY} && tar -x -C {REPOSITORY} -f /srv/tree.tar")
    words = os.environ.get("CRIO_SETUP_VM_TESTS", USUAL)
    said = node.ssh(
        f"cd {REPOSITORY} && CRIO_SETUP_TEST_BINARY={UPLOAD} RUST_BACKTRACE=0 {SUITE} --test-threads=1 {words} 2>&1",
        LIMIT,
        check=False,
    )
    print(said, flush=True)
    result = re.search(r"test result: (\w+)\. (\d+) passed; (\d+) failed", said)
    expect(result, "the suite did not come to its end")
    expect(result[1] == "ok" and int(result[2]) > 0, f"{result[3]} of the suite's tests failed")
