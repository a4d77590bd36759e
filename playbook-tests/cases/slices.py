"""The systemd cgroup driver: a pod as kubelet asks for it, in a slice, with limits that hold."""

from vm.node import expect

NEEDS, ORDER = "node", 7
DROP_IN = "/etc/ocid/ocid.conf.d/10-systemd.conf"
PARENT = "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podtest.slice"


def run(node):
    node.ssh(f"printf '[crio.runtime]\\ncgroup_manager = \"systemd\"\\n' >{DROP_IN} && systemctl restart ocid", 120)
    # Kubelet makes the slices of pods; here they come with the first scope in them.
    pod, container = node.redis(linux={"cgroup_parent": PARENT, "security_context": {"namespace_options": {"pid": 1}}})
    process = node.process(container)
    group = node.ssh(f"cat /proc/{process}/cgroup").removeprefix("0::")
    expect(group.startswith(PARENT) and group.endswith(".scope"), f"redis is in {group}")
    limit = node.ssh(f"cat /sys/fs/cgroup{group}/memory.max")
    expect(limit == "268435456", f"memory.max is {limit}")
    scope = group.rsplit("/", 1)[1]
    shown = node.ssh(f"systemctl show -p MemoryMax,ActiveState {scope}")
    expect("MemoryMax=268435456" in shown and "ActiveState=active" in shown, f"systemd knows {scope} as {shown}")
    # systemd writes its own idea of limits at a reload; they must be the pod's.
    node.ssh("systemctl daemon-reload")
    limit = node.ssh(f"cat /sys/fs/cgroup{group}/memory.max")
    expect(limit == "268435456", f"after a reload of systemd, memory.max is {limit}")
    node.ssh("systemctl restart ocid", 120)
    expect(node.process(container) == process, "a restart of the daemon restarted redis")
    node.remove_pod(pod)
    state = node.ssh(f"systemctl is-active {scope}", check=False)
    expect(state == "inactive", f"{scope} is {state} after its pod")
    node.ssh(f"systemctl stop kubepods.slice; rm {DROP_IN} && systemctl restart ocid", 120)
    node.expect_healthy()
    node.state = "node"
