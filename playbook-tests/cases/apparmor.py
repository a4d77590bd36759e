"""The daemon's AppArmor profile: it confines where nothing else does, and a stop from outside gets through."""

from vm.node import expect

NEEDS, ORDER = "node", 8
# Says that it is there, and ends by a code of its own when it is told to.
WAITS = "trap 'exit 7' TERM; echo here; while :; do read line </tmp/pipe; done"
# The first asks the kernel for help, in its log: the file's mode lets root in whatever capabilities it has. Both are
# hidden by the runtime as well, unless a container asks for other paths.
FORBIDDEN = {
    "write sysrq-trigger": "echo h >/proc/sysrq-trigger",
    "mount": "busybox mount -t tmpfs tmpfs /tmp",
}


def run(node):
    for profile, shown in ((None, "ocid-default (enforce)"), (1, "unconfined")):
        pod, container = node.pod(shell(profile))
        node.await_text(f"ocic ctr logs --id {container}", "here")
        process = node.process(container)
        current = node.ssh(f"cat /proc/{process}/attr/current")
        expect(current == shown, f"the shell runs under `{current}` instead of `{shown}`")
        for what, script in FORBIDDEN.items():
            said = node.ssh(f"ocic exec --sync {container} sh -c {script!r} 2>&1; echo code $?", check=False)
            held = "ermission denied" in said and not said.endswith("code 0")
            expect(held == (profile is None), f"{what} under `{current}`: {said}")
        node.ssh(f"ocic ctr stop --id {container}", 120)
        status = node.inspect(container)["status"]
        expect(status["exitCode"] == 7, f"under `{current}` SIGTERM did not arrive: {status}")
        node.remove_pod(pod)
    node.state = "node"


def shell(profile):
    """A container that waits, under the default profile or that of this type (1: none)."""
    security = {
        "capabilities": {"add_capabilities": ["SYS_ADMIN"]},
        "masked_paths": ["/proc/asound"],
        "readonly_paths": ["/proc/asound"],
        "seccomp": {"profile_type": 0},
    }
    if profile is not None:
        security["apparmor"] = {"profile_type": profile}
    return {
        "metadata": {"name": "shell", "attempt": 0},
        "image": {"image": "docker.io/library/busybox:1"},
        "command": ["sh", "-c", f"busybox mkfifo /tmp/pipe; {WAITS}"],
        "log_path": "shell/0.log",
        "linux": {"security_context": security},
    }
