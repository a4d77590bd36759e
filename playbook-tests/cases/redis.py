"""The tutorial's redis pod: its address, MONITOR, its limits, its confinement, its lines in the journal."""

from vm.node import ADDRESS, READY, expect

NEEDS, ORDER = "node", 3


def run(node):
    pod, container = node.redis()
    node.ping()
    # MONITOR sees what another client says.
    node.ssh(f"systemd-run -q --unit monitor sh -c 'timeout 300 redis-cli -h {ADDRESS} monitor >/run/monitor.txt'")
    node.await_text("cat /run/monitor.txt", "OK")
    node.ssh(f"redis-cli -h {ADDRESS} set tutorial done")
    node.await_text("cat /run/monitor.txt", '"tutorial" "done"')
    node.ssh("systemctl stop monitor; rm /run/monitor.txt")
    node.await_text("journalctl -u ocid --no-pager", READY)
    check_confinement(node, container)
    node.ssh(f"ocic ctr stop --id {container}", 120)
    status = node.inspect(container)["status"]
    expect(status["exitCode"] == 0, f"redis did not end by SIGTERM: {status}")
    expect("ready to exit" in node.ssh(f"ocic ctr logs --id {container}"), "redis' last words are missing")
    node.remove_pod(pod)
    left = node.ssh("find /run/ocid/sandboxes /run/ocid/containers /run/ocid/ns -mindepth 1; ocic pod list", check=False)
    expect(pod[:12] not in left, f"left of the pod: {left}")
    node.state = "node"


def check_confinement(node, container):
    """The limits of the example's configuration, as cgroup v2 has them, and the daemon's AppArmor profile."""
    process = node.process(container)
    group = node.ssh(f"cat /proc/{process}/cgroup").removeprefix("0::")
    folder = f"/sys/fs/cgroup{group}"
    expect(group.startswith("/"), f"more than cgroup v2: {group}")
    limit = node.ssh(f"cat {folder}/memory.max")
    expect(limit == "268435456", f"memory.max of {folder} is {limit}")
    # It is systemd that keeps the group, by the driver that the installer chose.
    scope = group.rsplit("/", 1)[1]
    shown = node.ssh(f"systemctl show -p MemoryMax,ActiveState {scope}")
    expect(scope.endswith(".scope") and "MemoryMax=268435456" in shown, f"systemd knows {scope} as {shown}")
    # 512 shares of version 1.
    weight = node.ssh(f"cat {folder}/cpu.weight")
    expect(1 < int(weight) < 100, f"cpu.weight of {folder} is {weight}")
    profile = node.ssh(f"cat /proc/{process}/attr/current")
    expect(profile == "ocid-default (enforce)", f"redis runs under the AppArmor profile `{profile}`")
    status = node.ssh(f"grep Seccomp: /proc/{process}/status").split()
    expect(status[1] == "2", f"redis runs without a seccomp filter: {status}")
