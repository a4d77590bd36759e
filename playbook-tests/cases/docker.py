"""Docker beside pods, IPv4 and IPv6: stopped, started and restarted, it never cuts them off."""

import json

from vm.node import compare, expect

NEEDS, ORDER = "node", 6
BUSYBOX = "127.0.0.1:5000/library/busybox:1"
NETWORK = "/etc/cni/net.d/05-dual.conflist"
RANGES = ("10.99.0.0/16", "fd00:99::/64")
# The tutorial's arguments make it listen on IPv4 alone.
REDIS = ["redis-server", "--protected-mode", "no"]
SWITCHES = "sysctl net.ipv4.ip_forward net.ipv6.conf.all.forwarding"
# Where the order has no meaning: a rule of this chain is about one address of one pod.
ORDERLESS = ("nat POSTROUTING",)


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
    before = firewall(node)
    for family in ("iptables", "ip6tables"):
        # A table that nobody has used is not there and lets everything through.
        policy = before.get(f"{family} filter FORWARD", "ACCEPT").split()[0]
        expect(policy == "ACCEPT", f"what no rule of {family} is about is forwarded by the policy {policy}")
    for pod in (server, client):
        expect_masqueraded(before, node.addresses(pod))
    with node.asked_throughout(four, six):
        for verb in ("stop", "start", "restart"):
            # dockerd gives its containerd 15 s, which a slow machine may need; the unit then starts it once more.
            node.ssh(f"systemctl {verb} docker", 180, check=False)
            if verb != "stop":
                node.await_text("docker version", "Server:")
            expect_reached()
            compare(before, firewall(node), f"`systemctl {verb} docker`")
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


def firewall(node):
    """What both families do with packets: `TOOL TABLE CHAIN` to its policy (`-`: none) and its rules; and the switches."""
    found = {"switches": node.ssh(SWITCHES)}
    for tool in ("iptables", "ip6tables"):
        table = ""
        # Chains come before the rules of their table, each with counters behind it.
        for line in node.ssh(f"{tool}-save").splitlines():
            first, _, rest = line.partition(" ")
            if first.startswith("*"):
                table = first[1:]
            elif first.startswith(":"):
                found[f"{tool} {table} {first[1:]}"] = [rest.split()[0]]
            elif first == "-A":
                found[f"{tool} {table} {rest.split()[0]}"].append(rest)
        for chain in ORDERLESS:
            rules = found.get(f"{tool} {chain}", [])
            rules[1:] = sorted(rules[1:])
    return {chain: rules if isinstance(rules, str) else "\n".join(rules) for chain, rules in found.items()}


def expect_masqueraded(rules, addresses):
    """Each address of a pod has a chain of its own, which lets through what stays in its network and masks the rest."""
    for address, tool in zip(addresses, ("iptables", "ip6tables")):
        jumps = [line for line in rules[f"{tool} nat POSTROUTING"].splitlines() if f" {address}/" in line]
        expect(len(jumps) == 1, f"{address} is masqueraded by {jumps}")
        chain = rules[f"{tool} nat {jumps[0].split()[-1]}"].splitlines()
        expect(len(chain) == 3 and "ACCEPT" in chain[1] and "MASQUERADE" in chain[2], f"{address} is masqueraded by {chain}")
