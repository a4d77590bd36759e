"""Uninstall, with a pod running: the machine is as it was."""

import json

from vm.node import UPLOAD, compare, expect

NEEDS, ORDER = "node", 90

# What packages leave behind when they are purged, and what the registry of the tests brought.
EXPLAINED = (
    r"^/etc/containers",
    r"^/srv/registry.yml",
    r"^/root/(examples|\.rediscli_history|\.docker)",
    r"^/var/lib/(apt|dpkg)",
    # docker.io makes it and its purge leaves it.
    r"^/etc/group docker:",
    # Empty, and removed with the last package that could have put something there.
    r"^/etc/apparmor.d/disable$",
    r"^run (registry|systemd-resolve|xtables)",
    r"^service (registry|session|user|systemd-(timedated|hostnamed))",
    r"^transient ",
)


def run(node):
    node.redis()
    said = node.ssh(f"{UPLOAD} uninstall --force --output json", 600)
    report = json.loads(said)
    expect(report["changed"] > 0 and report["pods_removed"] == 1, f"uninstall says {said}")
    node.ssh("systemctl stop registry; rm -rf /etc/containers /srv/registry.yml examples")
    for path in ("/run/ocid", "/var/lib/ocid", "/usr/local/bin/ocid", "/var/lib/crio-setup"):
        expect(node.ssh(f"test ! -e {path} && echo gone", check=False) == "gone", f"{path} is still there")
    files, surroundings = node.before
    compare(files, node.files(), "install and uninstall", EXPLAINED)
    compare(surroundings, node.surroundings(), "install and uninstall", EXPLAINED)
    again = json.loads(node.ssh(f"{UPLOAD} uninstall --output json", 300))
    expect(again["changed"] == 0, f"a second uninstall changed something: {again}")
    node.repeated += 1
    state = node.ssh("systemctl is-system-running", check=False)
    expect(state == "running", f"systemd is {state}")
