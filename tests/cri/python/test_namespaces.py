"""What containers of a pod share with each other and with the node."""

import os

from grpc import StatusCode

from cri import Suite, namespaces


def node(kind):
    return os.readlink(f"/proc/self/ns/{kind}")


class Pid(Suite):
    def own(self, pod, kind, **modes):
        return self.output(pod, f"readlink /proc/self/ns/{kind}", linux=namespaces(**modes))

    def test_a_container_may_have_one_of_its_own(self):
        pod = self.pod()
        linux = namespaces(pid="CONTAINER")
        id = self.stay(pod, linux=linux)
        self.assertIn("echo ready", self.shell(id, "tr '\\0' ' ' < /proc/1/cmdline"))
        other = self.stay(pod, linux=linux)
        spaces = {self.exec(one, "readlink", "/proc/1/ns/pid") for one in (id, other)}
        self.assertEqual(len(spaces | {node("pid")}), 3)

    def test_a_pod_may_share_one(self):
        modes = namespaces(pid="POD")
        pod = self.pod(linux=modes)
        id = self.stay(pod, "sleep 4242 &", linux=modes)
        other = self.stay(pod, linux=modes)
        self.assertIn("sleep 4242", self.shell(other, "ps -o args"))
        self.assertNotIn("echo ready", self.shell(id, "tr '\\0' ' ' < /proc/1/cmdline"))
        spaces = {self.exec(one, "readlink", "/proc/self/ns/pid") for one in (id, other)}
        self.assertEqual(len(spaces), 1)
        self.assertNotIn(node("pid"), spaces)

    def test_in_a_shared_one_an_end_leaves_the_others(self):
        modes = namespaces(pid="POD")
        pod = self.pod(linux=modes)
        other = self.stay(pod, linux=modes)
        first = self.stay(pod, "sleep 4243 &", linux=modes)
        self.cri.StopContainer(container_id=first, timeout=10)
        self.assertNotIn("sleep 4243", self.shell(other, "ps -o args"))
        self.exec(other, "true")

    def test_the_node_s_is_seen_where_asked(self):
        modes = namespaces(pid="NODE")
        pod = self.pod(linux=modes)
        self.assertEqual(self.own(pod, "pid", pid="NODE"), node("pid"))
        said = self.output(pod, f"[ -d /proc/{os.getpid()} ] && echo seen", linux=modes)
        self.assertEqual(said.strip(), "seen")

    def test_a_container_may_join_another_s(self):
        # How kubelet starts an ephemeral container with a target.
        pod = self.pod()
        target = self.stay(pod)
        linux = namespaces(pid="TARGET", target_id=target)
        debugger = self.stay(pod, linux=linux)
        self.assertIn("echo ready", self.shell(debugger, "tr '\\0' ' ' < /proc/1/cmdline"))
        spaces = {self.exec(one, "readlink", "/proc/self/ns/pid") for one in (target, debugger)}
        self.assertEqual(len(spaces), 1)
        self.cri.StopContainer(container_id=debugger, timeout=10)
        self.exec(target, "true")

    def test_a_target_must_be_a_running_container_of_the_pod(self):
        pod, foreign = self.pod(), self.pod()
        codes = [StatusCode.INVALID_ARGUMENT, StatusCode.NOT_FOUND, StatusCode.FAILED_PRECONDITION]
        ended = self.run_to_end(pod, ["true"]).id
        for target in ("", "f" * 64, ended, self.stay(foreign)):
            with self.subTest(target=target):
                self.not_created(pod, codes, linux=namespaces(pid="TARGET", target_id=target))


class Ipc(Suite):
    def test_the_pod_s_is_shared_and_not_the_node_s(self):
        pod = self.pod()
        seen = {self.output(pod, "readlink /proc/self/ns/ipc") for _ in range(2)}
        self.assertEqual(len(seen), 1)
        self.assertNotIn(node("ipc"), seen)

    def test_the_node_s_where_asked(self):
        modes = namespaces(ipc="NODE")
        pod = self.pod(linux=modes)
        self.assertEqual(self.output(pod, "readlink /proc/self/ns/ipc", linux=modes), node("ipc"))
        name = f"second-stack-{os.getpid()}"
        path = f"/dev/shm/{name}"
        with open(path, "w", encoding="utf-8") as file:
            file.write("of the node")
        self.addCleanup(os.remove, path)
        self.assertEqual(self.output(pod, f"cat {path}", linux=modes), "of the node")


class Combined(Suite):
    def test_everything_of_the_node_at_once(self):
        modes = namespaces(pid="NODE", ipc="NODE", network="NODE")
        pod = self.pod(linux=modes)
        script = "cd /proc/self/ns; for n in pid ipc net uts; do readlink $n; done"
        found = self.output(pod, script, linux=modes).split()
        self.assertEqual(found, [node("pid"), node("ipc"), node("net"), node("uts")])

    def test_nothing_of_the_node(self):
        pod = self.pod()
        script = "cd /proc/self/ns; for n in pid ipc net uts mnt; do readlink $n; done"
        found = self.output(pod, script).split()
        for kind, one in zip(("pid", "ipc", "net", "uts", "mnt"), found):
            self.assertNotEqual(one, node(kind))

    def test_the_uts_namespace_goes_with_the_network(self):
        pod = self.pod(linux=namespaces(network="NODE"))
        found = self.output(pod, "readlink /proc/self/ns/uts", linux=namespaces(network="NODE"))
        self.assertEqual(found, node("uts"))
        pod = self.pod(hostname="two")
        self.assertEqual(self.output(pod, "hostname"), "two")
