"""Docker beside a pod: started, stopped and restarted, it never cuts the pod off."""

from vm.node import expect

NEEDS, ORDER = "node", 6
BUSYBOX = "127.0.0.1:5000/library/busybox:1"


def run(node):
    pod, _ = node.redis()
    address = node.address(pod)
    node.ping(address)
    said = node.ssh(f"docker run --rm {BUSYBOX} echo from docker", 300)
    expect(said.endswith("from docker"), f"docker says {said}")
    node.ping(address)
    before = node.ssh(FORWARDING)
    for verb in ("stop", "start", "restart"):
        # dockerd gives its containerd 15 s, which a slow machine may need; the unit then starts it once more.
        node.ssh(f"systemctl {verb} docker", 180, check=False)
        if verb != "stop":
            node.await_text("docker version", "Server:")
        node.ping(address)
        now = node.ssh(FORWARDING)
        expect(now == before, f"`systemctl {verb} docker` made of {before} {now}")
    # What docker would do to pods if it were let: drop what is forwarded.
    for policy in before.splitlines()[:2]:
        expect(policy == "-P FORWARD ACCEPT", f"docker left {policy}")
    node.remove_pod(pod)
    node.ssh(f"docker image rm {BUSYBOX}")
    node.expect_healthy()
    node.state = "node"


# Both families' policies and switches.
FORWARDING = (
    "iptables -S FORWARD | head -n 1; ip6tables -S FORWARD | head -n 1;"
    " sysctl net.ipv4.ip_forward net.ipv6.conf.all.forwarding"
)
