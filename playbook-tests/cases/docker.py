"""Docker beside pods, IPv4 and IPv6: stopped, started and restarted, it never cuts them off."""

import json

from vm.node import expect

NEEDS, ORDER = "node", 6
BUSYBOX = "127.0.0.1:5000/library/busybox:1"
NETWORK = "/etc/cni/net.d/05-dual.conflist"
RANGES = ("10.99.0.0/16", "fd00:99::/64")
# The tutorial's arguments make it listen on IPv4 alone.
REDIS = ["redis-server", "--protected-mode", "no"]
# Every rule of both families and their switches.
FORWARDING = (
    "for tool in iptables-save ip6tables-save; do $tool | sed -E '/^#/d; s/\\[.*\\]//'; done;"
    " sysctl net.ipv4.ip_forward net.ipv6.conf.all.forwarding"
)


def run(node):
    forwarding = node.ssh("sysctl -n net.ipv6.conf.all.forwarding")
    dual_stack(node)
    server, _ = node.redis(REDIS)
    client, asks = node.redis(REDIS, metadata={"name": "client", "uid": "client"}, hostname="client", log_directory="/var/log/pods/client")
    four, six = node.addresses(server)
    expect("." in four and ":" in six, f"the pod has the addresses {four} and {six}")

    def expect_reached():
        # From the machine, and from another pod: that is forwarded, which docker would drop if it were let.
        for address in (four, six):
            node.ping(address)
            node.ask_from(asks, address)

    expect_reached()
    said = node.ssh(f"docker run --rm {BUSYBOX} echo from docker", 300)
    expect(said.endswith("from docker"), f"docker says {said}")
    before = node.ssh(FORWARDING)
    expect(before.count("FORWARD") > 1 and "FORWARD DROP" not in before, f"what is forwarded: {before}")
    with node.asked_throughout(six):
        for verb in ("stop", "start", "restart"):
            # dockerd gives its containerd 15 s, which a slow machine may need; the unit then starts it once more.
            node.ssh(f"systemctl {verb} docker", 180, check=False)
            if verb != "stop":
                node.await_text("docker version", "Server:")
            expect_reached()
            now = node.ssh(FORWARDING)
            expect(now == before, f"`systemctl {verb} docker` made of {before} {now}")
    for pod in (server, client):
        node.remove_pod(pod)
    node.ssh(f"docker image rm {BUSYBOX}")
    node.ssh(f"rm -r {NETWORK} /var/lib/cni/networks/dual; ip link del dual0; sysctl -qw net.ipv6.conf.all.forwarding={forwarding}")
    node.expect_healthy()
    node.state = "node"


def dual_stack(node):
    """Gives the pods to come the tutorial's network with addresses of both families."""
    network = json.loads(node.ssh("cat /etc/cni/net.d/10-mynet.conflist"))
    network["name"] = "dual"
    bridge = network["plugins"][0]
    bridge["bridge"] = "dual0"
    bridge["ipam"] = {
        "type": "host-local",
        "ranges": [[{"subnet": subnet}] for subnet in RANGES],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
    }
    node.ssh(f"cat >{NETWORK}", data=json.dumps(network))
