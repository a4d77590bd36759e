"""Another build takes the place of the one that is installed, and redis in a pod serves throughout."""

import json

from vm.node import UPLOAD, expect

NEEDS, ORDER = "bare", 50
PREVIOUS = "/root/previous"


def seed(arguments):
    """The build before this one; without it, `run` makes of this one another file with the same program."""
    return {"previous": arguments.previous} if arguments.previous else {}


def run(node):
    if "previous" in node.machine.seed:
        node.machine.copy("previous", PREVIOUS)
    else:
        # What follows the program in its file is never read.
        node.ssh(f"cp {UPLOAD} {PREVIOUS} && echo >>{PREVIOUS}")
    report = json.loads(node.ssh(f"{PREVIOUS} install --output json", 900))
    expect(report["changed"] > 0, f"the previous build changed nothing: {report}")
    pod, container = node.redis()
    process = node.process(container)
    started = node.ssh("systemctl show -p InvocationID ocid")
    with node.asked_throughout():
        report = node.install()
    expect(report["changed"] > 0, f"another build changed nothing: {report}")
    expect(node.ssh("systemctl show -p InvocationID ocid") != started, "the daemon was not started anew")
    node.ssh(f"cmp {UPLOAD} /proc/$(systemctl show -P MainPID ocid)/exe")
    expect(node.process(container) == process, "redis is another process than before")
    # The new daemon has its hands on what the old one started.
    expect(node.ssh(f"ocic exec --sync {container} redis-cli ping", 120) == "PONG", "no exec in a pod of the previous build")
    node.expect_unchanged()
    node.ssh(f"ocic ctr stop --id {container}", 120)
    status = node.inspect(container)["status"]
    expect(status["exitCode"] == 0, f"redis did not end by SIGTERM: {status}")
    node.remove_pod(pod)
    node.ssh(f"{UPLOAD} uninstall --force", 600)
