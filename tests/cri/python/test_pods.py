"""Sandboxes from their start to their end, their lists and their settings."""

import os
import time
import uuid

import grpc
from grpc import StatusCode

from cri import CONTAINER_NAME, POD_UID, Suite, cgroups_of, drop_cgroups, namespaces, pb, read


class Life(Suite):
    def test_a_pod_runs_stops_and_goes(self):
        before = time.time_ns()
        pod = self.pod("basic", hostname="basic-host")
        status = self.pod_status(pod.id)
        self.assertEqual((status.id, status.state), (pod.id, pb.SANDBOX_READY))
        self.assertEqual(status.metadata, pod.config.metadata)
        self.assertEqual(dict(status.labels), dict(pod.config.labels))
        self.assertEqual(dict(status.annotations), dict(pod.config.annotations))
        self.assertTrue(before <= status.created_at <= time.time_ns(), status.created_at)
        self.assertTrue(status.network.ip)
        self.assertEqual(status.runtime_handler, "")

        self.cri.StopPodSandbox(pod_sandbox_id=pod.id)
        stopped = self.pod_status(pod.id)
        self.assertEqual(stopped.state, pb.SANDBOX_NOTREADY)
        self.assertEqual(stopped.created_at, status.created_at)
        self.cri.StopPodSandbox(pod_sandbox_id=pod.id)

        self.cri.RemovePodSandbox(pod_sandbox_id=pod.id)
        self.refused(StatusCode.NOT_FOUND, self.cri.PodSandboxStatus, pod_sandbox_id=pod.id)
        self.assertFalse(self.cri.ListPodSandbox(filter={"id": pod.id}).items)
        self.cri.RemovePodSandbox(pod_sandbox_id=pod.id)

    def test_namespace_options_are_reported_as_asked(self):
        pod = self.pod(linux=namespaces(network="NODE", pid="POD", ipc="POD"))
        options = self.pod_status(pod.id).linux.namespaces.options
        self.assertEqual((options.network, options.pid, options.ipc), (pb.NODE, pb.POD, pb.POD))

    def test_a_repeat_after_a_lost_answer_finds_the_first_pod(self):
        config = pb.PodSandboxConfig(**self.pod_fields())
        self.lose_the_answer(self.cri.RunPodSandbox, config=config)
        id = self.cri.RunPodSandbox(config=config).pod_sandbox_id
        self.addCleanup(self.cri.RemovePodSandbox, pod_sandbox_id=id)
        self.assertEqual(self.pod_status(id).state, pb.SANDBOX_READY)
        selector = {"label_selector": {POD_UID: config.metadata.uid}}
        self.assertEqual([one.id for one in self.cri.ListPodSandbox(filter=selector).items], [id])

    def test_a_name_is_one_pod_s(self):
        # A repeat is answered with the pod that has it, as CRI-O answers; what would be another pod, or one that
        # has ended, with a refusal that names the one that has it.
        pod = self.pod()
        self.assertEqual(self.cri.RunPodSandbox(config=pod.config).pod_sandbox_id, pod.id)
        other = pb.PodSandboxConfig()
        other.CopyFrom(pod.config)
        other.labels["other"] = "yes"
        with self.assertRaises(grpc.RpcError) as refused:
            self.cri.RunPodSandbox(config=other)
        self.assertEqual(refused.exception.code(), StatusCode.ALREADY_EXISTS)
        self.assertIn(pod.id, refused.exception.details())
        self.cri.StopPodSandbox(pod_sandbox_id=pod.id)
        with self.assertRaises(grpc.RpcError) as refused:
            self.cri.RunPodSandbox(config=pod.config)
        self.assertEqual(refused.exception.code(), StatusCode.ALREADY_EXISTS)
        selector = {"label_selector": {POD_UID: pod.config.metadata.uid}}
        self.assertEqual([one.id for one in self.cri.ListPodSandbox(filter=selector).items], [pod.id])

    def test_another_attempt_is_another_pod(self):
        pod = self.pod()
        self.cri.StopPodSandbox(pod_sandbox_id=pod.id)
        config = pb.PodSandboxConfig()
        config.CopyFrom(pod.config)
        config.metadata.attempt = 1
        second = self.cri.RunPodSandbox(config=config).pod_sandbox_id
        self.addCleanup(self.cri.RemovePodSandbox, pod_sandbox_id=second)
        self.assertNotEqual(second, pod.id)
        items = self.cri.ListPodSandbox(
            filter={"label_selector": {POD_UID: config.metadata.uid}}
        ).items
        # kubelet takes the newest as the first.
        self.assertEqual([item.metadata.attempt for item in items], [1, 0])

    def test_stopping_ends_every_container(self):
        pod = self.pod()
        first, second = self.stay(pod), self.stay(pod)
        created = self.create(pod, ["true"])
        self.cri.StopPodSandbox(pod_sandbox_id=pod.id)
        for id in (first, second):
            self.assertEqual(self.status(id).state, pb.CONTAINER_EXITED)
        self.assertNotEqual(self.status(created).state, pb.CONTAINER_RUNNING)

    def test_removing_a_running_pod_takes_its_containers_along(self):
        pod = self.pod()
        id = self.stay(pod)
        self.cri.RemovePodSandbox(pod_sandbox_id=pod.id)
        self.refused(StatusCode.NOT_FOUND, self.cri.ContainerStatus, container_id=id)
        self.assertFalse(self.cri.ListContainers(filter={"pod_sandbox_id": pod.id}).containers)

    def test_a_stopped_pod_takes_no_container(self):
        pod = self.pod()
        id = self.create(pod, ["true"])
        self.cri.StopPodSandbox(pod_sandbox_id=pod.id)
        self.not_created(pod, [StatusCode.FAILED_PRECONDITION, StatusCode.UNKNOWN, StatusCode.NOT_FOUND])
        self.refused(
            [StatusCode.FAILED_PRECONDITION, StatusCode.UNKNOWN], self.cri.StartContainer, container_id=id
        )

    def test_status_of_a_stopped_pod_keeps_its_last_containers(self):
        pod = self.pod()
        id = self.run_to_end(pod, ["sh", "-c", "exit 4"]).id
        self.cri.StopPodSandbox(pod_sandbox_id=pod.id)
        self.assertEqual(self.status(id).exit_code, 4)

    def test_a_pod_needs_no_log_folder_and_no_linux_part(self):
        config = {
            "metadata": {"name": "bare", "uid": str(uuid.uuid4()), "namespace": "second"},
        }
        id = self.cri.RunPodSandbox(config=config).pod_sandbox_id
        self.addCleanup(self.cri.RemovePodSandbox, pod_sandbox_id=id)
        self.assertEqual(self.pod_status(id).state, pb.SANDBOX_READY)
        sandbox = pb.PodSandboxConfig(**config)
        made = self.cri.CreateContainer(
            pod_sandbox_id=id,
            sandbox_config=sandbox,
            config={
                "metadata": {"name": "bare"},
                "image": self.container_fields([])["image"],
                "command": ["true"],
            },
        ).container_id
        self.cri.StartContainer(container_id=made)
        self.assertEqual(self.status(made).log_path, "")


class Lists(Suite):
    def setUp(self):
        self.mark = uuid.uuid4().hex
        self.one = self.pod("one", labels={"mark": self.mark, "tier": "front"})
        self.two = self.pod("two", labels={"mark": self.mark, "tier": "back"})

    def listed(self, **filter):
        return [item.id for item in self.cri.ListPodSandbox(filter=filter).items]

    def test_pods_by_id_state_and_labels(self):
        mark = {"mark": self.mark}
        self.assertEqual(self.listed(id=self.one.id), [self.one.id])
        self.assertEqual(self.listed(label_selector=mark), [self.two.id, self.one.id])
        self.assertEqual(self.listed(label_selector=dict(mark, tier="back")), [self.two.id])
        self.assertEqual(self.listed(label_selector=dict(mark, tier="none")), [])
        self.cri.StopPodSandbox(pod_sandbox_id=self.one.id)
        ready, not_ready = {"state": "SANDBOX_READY"}, {"state": "SANDBOX_NOTREADY"}
        self.assertEqual(self.listed(label_selector=mark, state=ready), [self.two.id])
        self.assertEqual(self.listed(label_selector=mark, state=not_ready), [self.one.id])
        self.assertEqual(self.listed(id=self.one.id, state=ready), [])
        everything = [item.id for item in self.cri.ListPodSandbox().items]
        self.assertLessEqual({self.one.id, self.two.id}, set(everything))

    def test_a_listed_pod_says_what_its_status_says(self):
        item = self.cri.ListPodSandbox(filter={"id": self.one.id}).items[0]
        status = self.pod_status(self.one.id)
        for field in ("id", "metadata", "state", "created_at", "labels", "annotations", "runtime_handler"):
            self.assertEqual(getattr(item, field), getattr(status, field), field)

    def test_containers_by_id_pod_state_and_labels(self):
        mine = {CONTAINER_NAME: "a", "mark": self.mark}
        front = self.stay(self.one, labels=mine)
        back = self.run_to_end(self.two, ["true"], labels=dict(mine, tier="back")).id
        made = self.create(self.two, ["true"], labels=mine)

        def listed(**filter):
            return [item.id for item in self.cri.ListContainers(filter=filter).containers]

        mark = {"mark": self.mark}
        self.assertEqual(listed(label_selector=mark), [made, back, front])
        self.assertEqual(listed(label_selector=dict(mark, tier="back")), [back])
        self.assertEqual(listed(pod_sandbox_id=self.two.id), [made, back])
        self.assertEqual(listed(pod_sandbox_id=self.two.id, state={"state": "CONTAINER_EXITED"}), [back])
        self.assertEqual(listed(pod_sandbox_id=self.two.id, state={"state": "CONTAINER_CREATED"}), [made])
        self.assertEqual(listed(label_selector=mark, state={"state": "CONTAINER_RUNNING"}), [front])
        self.assertEqual(listed(id=front, pod_sandbox_id=self.two.id), [])
        self.assertEqual(listed(id="f" * 64), [])
        self.assertEqual(listed(pod_sandbox_id="f" * 64), [])

    def test_a_listed_container_says_what_its_status_says(self):
        id = self.create(self.one, ["true"], annotations={"note": "kept"})
        item = self.cri.ListContainers(filter={"id": id}).containers[0]
        status = self.status(id)
        same = ("id", "metadata", "state", "created_at", "labels", "annotations", "image_ref", "image_id")
        for field in same:
            self.assertEqual(getattr(item, field), getattr(status, field), field)
        self.assertEqual(item.pod_sandbox_id, self.one.id)
        self.assertEqual(item.image.image, status.image.image)
        self.assertEqual(item.annotations["note"], "kept")


class Settings(Suite):
    def test_hostname(self):
        pod = self.pod(hostname="some-host.example")
        self.assertEqual(self.output(pod, "hostname; cat /etc/hostname"), "some-host.example\nsome-host.example")

    def test_dns_settings_stand_in_resolv_conf(self):
        dns = {
            "servers": ["10.10.10.10", "fd00::53"],
            "searches": ["google.example", "svc.cluster.local"],
            "options": ["ndots:8", "timeout:3"],
        }
        pod = self.pod(dns_config=dns)
        lines = self.output(pod, "cat /etc/resolv.conf").splitlines()
        self.assertIn("nameserver 10.10.10.10", lines)
        self.assertIn("nameserver fd00::53", lines)
        self.assertIn("search google.example svc.cluster.local", lines)
        self.assertIn("options ndots:8 timeout:3", lines)

    def test_without_dns_settings_the_node_s_are_used(self):
        pod = self.pod()
        servers = [
            line.strip() for line in read("/etc/resolv.conf").splitlines() if line.startswith("nameserver")
        ]
        inside = self.output(pod, "cat /etc/resolv.conf")
        for server in servers:
            self.assertIn(server, inside)

    def test_dns_settings_with_nothing_in_them_are_no_servers(self):
        # kubelet's policy `None`.
        pod = self.pod(dns_config={"options": ["ndots:1"]})
        self.assertNotIn("nameserver", self.output(pod, "cat /etc/resolv.conf"))

    def test_safe_sysctls(self):
        sysctls = {"kernel.shm_rmid_forced": "1", "net.ipv4.ip_local_port_range": "40000 50000"}
        pod = self.pod(linux={"sysctls": sysctls})
        script = "cat /proc/sys/kernel/shm_rmid_forced; cat /proc/sys/net/ipv4/ip_local_port_range"
        self.assertEqual(self.output(pod, script).split(), ["1", "40000", "50000"])

    def test_sysctls_that_kubelet_calls_unsafe_but_a_namespace_holds(self):
        pod = self.pod(linux={"sysctls": {"fs.mqueue.msg_max": "100", "kernel.msgmax": "8191"}})
        script = "cat /proc/sys/fs/mqueue/msg_max /proc/sys/kernel/msgmax"
        self.assertEqual(self.output(pod, script).split(), ["100", "8191"])

    def test_sysctls_of_the_node_are_refused_by_name(self):
        for name in ("vm.swappiness", "kernel.pid_max", "kernel.core_pattern"):
            before = read("/proc/sys/" + name.replace(".", "/"))
            config = pb.PodSandboxConfig(**self.pod_fields(linux={"sysctls": {name: "1"}}))
            self.refused(
                [StatusCode.INVALID_ARGUMENT, StatusCode.UNKNOWN], self.cri.RunPodSandbox, name, config=config
            )
            self.assertEqual(read("/proc/sys/" + name.replace(".", "/")), before)

    def test_sysctls_of_a_namespace_that_is_the_node_s_are_refused(self):
        for name, modes in (
            ("net.ipv4.ip_local_port_range", {"network": "NODE"}),
            ("kernel.shm_rmid_forced", {"ipc": "NODE"}),
        ):
            linux = namespaces(**modes)
            linux["sysctls"] = {name: "1"}
            config = pb.PodSandboxConfig(**self.pod_fields(linux=linux))
            self.refused(
                [StatusCode.INVALID_ARGUMENT, StatusCode.UNKNOWN], self.cri.RunPodSandbox, name, config=config
            )

    def test_shared_memory_is_the_pod_s(self):
        pod = self.pod()
        self.output(pod, "echo shared > /dev/shm/note")
        self.assertEqual(self.output(pod, "cat /dev/shm/note"), "shared")
        kind, size = self.output(pod, "df -k /dev/shm | tail -1 | awk '{print $1, $2}'").split()
        self.assertEqual((kind, int(size)), ("shm", 64 << 10))
        other = self.pod()
        self.assertEqual(self.output(other, "ls /dev/shm"), "")

    def test_cgroup_parent_holds_the_containers(self):
        parent = f"/kubepods/burstable/pod{uuid.uuid4()}"
        self.addCleanup(drop_cgroups, parent)
        pod = self.pod(linux={"cgroup_parent": parent})
        id = self.stay(pod)
        for controller, path in cgroups_of(id).items():
            if controller in ("memory", "cpu", "pids", ""):
                self.assertIn(parent, path, controller)
        self.cri.RemovePodSandbox(pod_sandbox_id=pod.id)
        left = [
            folder for folder, _, _ in os.walk("/sys/fs/cgroup") if os.path.basename(parent) in folder and id in folder
        ]
        self.assertFalse(left)

    def test_a_slice_is_refused_where_cgroupfs_is_configured(self):
        config = pb.PodSandboxConfig(**self.pod_fields(linux={"cgroup_parent": "kubepods.slice"}))
        self.refused(
            [StatusCode.INVALID_ARGUMENT, StatusCode.UNKNOWN], self.cri.RunPodSandbox, "slice", config=config
        )
