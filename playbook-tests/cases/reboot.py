"""A reboot with a pod running: all back up, the dead pod's leftovers cleared, a new one runs."""

from vm.node import expect

NEEDS, ORDER = "node", 5


def run(node):
    pod, container = node.redis()
    node.machine.reboot()
    # dockerd gives its containerd 15 s, which a slow machine may need; the unit then starts it once more.
    node.await_text("docker version", "Server:")
    node.expect_healthy()
    status = node.inspect(container)["status"]
    expect(status["state"] != "CONTAINER_RUNNING", f"redis of the earlier boot is said to run: {status}")
    left = "ip -o link show type veth; ip netns; findmnt -rno TARGET | grep -e /run/ocid/ns -e rootfs"
    listed = node.ssh(left, check=False)
    expect(listed == "", f"left of the earlier boot: {listed}")
    for unit in ("containerd.service", "docker.socket"):
        state = node.ssh(f"systemctl is-active {unit}", check=False)
        expect(state == "inactive", f"{unit} is {state} after a reboot")
    node.remove_pod(pod)
    pod, _ = node.redis()
    node.ping(node.address(pod))
    node.remove_pod(pod)
    node.expect_unchanged()
    node.state = "node"
