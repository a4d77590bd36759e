"""A pod's life in the order of kubelet's own calls, with the labels, annotations, paths and codes that it sets
and depends on."""

import os
import uuid

from grpc import StatusCode

import cri
from cri import CONTAINER_NAME, LIMIT, POD_NAME, POD_NAMESPACE, POD_UID, Suite, joined, pb, read, read_log

HASH = "io.kubernetes.container.hash"
RESTARTS = "io.kubernetes.container.restartCount"
TERMINATION_PATH = "io.kubernetes.container.terminationMessagePath"
TERMINATION_POLICY = "io.kubernetes.container.terminationMessagePolicy"
GRACE = "io.kubernetes.pod.terminationGracePeriod"

MASKED = [
    "/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
    "/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/devices/virtual/powercap",
    "/sys/firmware",
]  # fmt: skip
READONLY = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]


class Kubelet(Suite):
    """One pod with an init container, a main container that restarts, and a sidecar."""

    def setUp(self):
        self.uid = str(uuid.uuid4())
        self.node = self.folder()
        self.parent = f"/kubepods/besteffort/pod{self.uid}"
        self.labels = {POD_NAME: "web", POD_NAMESPACE: "default", POD_UID: self.uid, "app": "web"}
        self.sandbox = pb.PodSandboxConfig(
            metadata={"name": "web", "namespace": "default", "uid": self.uid, "attempt": 0},
            hostname="web",
            log_directory=f"/var/log/pods/default_web_{self.uid}",
            dns_config={
                "servers": ["10.96.0.10"],
                "searches": ["default.svc.cluster.local", "svc.cluster.local", "cluster.local"],
                "options": ["ndots:5"],
            },
            port_mappings=[{"container_port": 80}],
            labels=self.labels,
            annotations={"kubernetes.io/config.seen": "2026-01-01T00:00:00Z", "kubernetes.io/config.source": "api"},
            linux={
                "cgroup_parent": self.parent,
                "security_context": {
                    "namespace_options": {"network": "POD", "pid": "CONTAINER", "ipc": "POD"},
                    "seccomp": {"profile_type": "RuntimeDefault"},
                },
                "overhead": {},
                "resources": {"cpu_period": 100000, "cpu_shares": 2},
            },
        )
        os.makedirs(self.sandbox.log_directory)

    def container(self, name, attempt, command, image_ref):
        """As kubelet's generateContainerConfig puts it together."""
        os.makedirs(f"{self.sandbox.log_directory}/{name}", exist_ok=True)
        message = f"{self.node}/{name}-{attempt}"
        with open(message, "w", encoding="utf-8"):
            os.chmod(message, 0o666)
        hosts = f"{self.node}/etc-hosts"
        with open(hosts, "w", encoding="utf-8") as file:
            file.write("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n")
        return {
            "metadata": {"name": name, "attempt": attempt},
            "image": {"image": image_ref, "user_specified_image": cri.IMAGE},
            "command": command,
            "envs": [{"key": "KUBERNETES_SERVICE_HOST", "value": b"10.96.0.1"}],
            "mounts": [
                {"container_path": "/etc/hosts", "host_path": hosts},
                {"container_path": "/dev/termination-log", "host_path": message},
            ],
            "labels": {
                CONTAINER_NAME: name,
                POD_NAME: "web",
                POD_NAMESPACE: "default",
                POD_UID: self.uid,
            },
            "annotations": {
                HASH: "d1a2b3c4",
                RESTARTS: str(attempt),
                TERMINATION_PATH: "/dev/termination-log",
                TERMINATION_POLICY: "File",
                GRACE: "30",
            },
            "log_path": f"{name}/{attempt}.log",
            "linux": {
                "resources": {"cpu_period": 100000, "cpu_shares": 2, "oom_score_adj": 1000},
                "security_context": {
                    "namespace_options": {"network": "POD", "pid": "CONTAINER", "ipc": "POD"},
                    "masked_paths": MASKED,
                    "readonly_paths": READONLY,
                    "seccomp": {"profile_type": "RuntimeDefault"},
                },
            },
        }

    def begin(self, pod, name, attempt, script):
        """ImageStatus, PullImage where it is missing, CreateContainer, StartContainer."""
        answer = self.cri.ImageStatus(image={"image": cri.IMAGE})
        self.assertTrue(answer.HasField("image"))
        config = self.container(name, attempt, ["sh", "-c", script], answer.image.id)
        id = self.cri.CreateContainer(
            pod_sandbox_id=pod, config=config, sandbox_config=self.sandbox
        ).container_id
        self.cri.StartContainer(container_id=id)
        return id

    def pod_statuses(self):
        """getPodStatus: every sandbox and every container of the uid, by their own status."""
        selector = {"label_selector": {POD_UID: self.uid}}
        sandboxes = [
            self.pod_status(item.id) for item in self.cri.ListPodSandbox(filter=selector).items
        ]
        containers = [
            self.status(item.id) for item in self.cri.ListContainers(filter=selector).containers
        ]
        return sandboxes, containers

    def test_a_pod_from_admission_to_garbage_collection(self):
        self.assertEqual(self.pod_statuses(), ([], []))
        pod = self.cri.RunPodSandbox(config=self.sandbox).pod_sandbox_id
        self.addCleanup(self.cri.RemovePodSandbox, pod_sandbox_id=pod)
        self.addCleanup(self.drop_cgroups)
        sandboxes, _ = self.pod_statuses()
        self.assertEqual([one.state for one in sandboxes], [pb.SANDBOX_READY])
        self.assertTrue(sandboxes[0].network.ip)

        # The init container, to its end.
        init = self.begin(pod, "init", 0, "echo initialised; echo done > /dev/termination-log")
        end = self.ended(init)
        self.assertEqual((end.status.exit_code, end.status.reason), (0, "Completed"))
        self.assertEqual(end.out, "initialised\n")
        self.assertEqual(read(f"{self.node}/init-0"), "done\n")

        # The main container, which fails once and is restarted as another attempt.
        first = self.begin(pod, "main", 0, "echo first; echo -n broken > /dev/termination-log; exit 3")
        end = self.ended(first)
        self.assertEqual((end.status.exit_code, end.status.reason), (3, "Error"))
        self.assertEqual(read(f"{self.node}/main-0"), "broken")
        script = "trap 'echo bye; exit 0' TERM; echo second; sleep 1000 & wait"
        second = self.begin(pod, "main", 1, script)
        self.says(second, b"second\n")
        sidecar = self.begin(pod, "sidecar", 0, "trap 'exit 0' TERM; echo beside; sleep 1000 & wait")
        self.says(sidecar, b"beside\n")

        _, containers = self.pod_statuses()
        seen = {(one.metadata.name, one.metadata.attempt): one for one in containers}
        self.assertEqual(set(seen), {("init", 0), ("main", 0), ("main", 1), ("sidecar", 0)})
        for (name, attempt), one in seen.items():
            self.assertEqual(one.annotations[RESTARTS], str(attempt))
            self.assertEqual(one.annotations[HASH], "d1a2b3c4")
            self.assertEqual(one.labels[CONTAINER_NAME], name)
            self.assertEqual(one.log_path, f"{self.sandbox.log_directory}/{name}/{attempt}.log")
            self.assertIn(cri.IMAGE, (one.image.image, one.image.user_specified_image))
            self.assertTrue(one.image_id)
        self.assertEqual(seen["main", 1].state, pb.CONTAINER_RUNNING)

        # What the pod sees.
        self.assertIn("Kubernetes-managed", self.exec(second, "cat", "/etc/hosts"))
        self.assertIn("ndots:5", self.exec(second, "cat", "/etc/resolv.conf"))
        self.assertEqual(self.exec(second, "hostname"), "web")
        self.assertEqual(self.exec(second, "sh", "-c", "echo $KUBERNETES_SERVICE_HOST"), "10.96.0.1")
        self.assertEqual(self.exec(second, "cat", "/proc/1/oom_score_adj"), "1000")

        # Probes and hooks.
        self.assertEqual(self.attempt(second, "cat", "/tmp/healthy", timeout=LIMIT)[0], 1)
        self.exec(second, "touch", "/tmp/healthy")
        self.assertEqual(self.attempt(second, "cat", "/tmp/healthy", timeout=LIMIT)[0], 0)

        # killPod: each container with its grace, then the sandbox; StopPodSandbox may come again.
        for id in (second, sidecar):
            self.cri.StopContainer(container_id=id, timeout=30)
        self.assertEqual(joined(read_log(self.status(second).log_path)), b"second\nbye\n")
        for _ in range(2):
            self.cri.StopPodSandbox(pod_sandbox_id=pod)
        sandboxes, containers = self.pod_statuses()
        self.assertEqual([one.state for one in sandboxes], [pb.SANDBOX_NOTREADY])
        self.assertEqual({one.state for one in containers}, {pb.CONTAINER_EXITED})
        self.assertEqual({one.exit_code for one in containers}, {0, 3})

        # Garbage collection: dead containers, then the sandbox, which is stopped once more.
        for one in containers:
            self.cri.RemoveContainer(container_id=one.id)
            self.refused(StatusCode.NOT_FOUND, self.cri.ContainerStatus, container_id=one.id)
        self.cri.StopPodSandbox(pod_sandbox_id=pod)
        self.cri.RemovePodSandbox(pod_sandbox_id=pod)
        self.refused(StatusCode.NOT_FOUND, self.cri.PodSandboxStatus, pod_sandbox_id=pod)
        self.assertEqual(self.pod_statuses(), ([], []))
        self.assertTrue(os.path.exists(f"{self.sandbox.log_directory}/main/1.log"))

    def test_a_container_that_cannot_start_is_reported_and_tried_again(self):
        pod = self.cri.RunPodSandbox(config=self.sandbox).pod_sandbox_id
        self.addCleanup(self.drop_cgroups)
        self.addCleanup(self.cri.RemovePodSandbox, pod_sandbox_id=pod)
        ref = self.cri.ImageStatus(image={"image": cri.IMAGE}).image.id
        for attempt in range(2):
            config = self.container("main", attempt, ["/no/such/program"], ref)
            with self.assertRaises(cri.grpc.RpcError) as caught:
                id = self.cri.CreateContainer(
                    pod_sandbox_id=pod, config=config, sandbox_config=self.sandbox
                ).container_id
                self.cri.StartContainer(container_id=id)
            self.assertIn("/no/such/program", caught.exception.details())
        good = self.begin(pod, "main", 2, "echo fine")
        self.assertEqual(self.ended(good).out, "fine\n")

    def test_a_pod_whose_sandbox_died_gets_another(self):
        first = self.cri.RunPodSandbox(config=self.sandbox).pod_sandbox_id
        self.addCleanup(self.drop_cgroups)
        self.addCleanup(self.cri.RemovePodSandbox, pod_sandbox_id=first)
        running = self.begin(first, "main", 0, "trap 'exit 0' TERM; echo up; sleep 1000 & wait")
        self.says(running, b"up\n")
        self.cri.StopPodSandbox(pod_sandbox_id=first)
        self.sandbox.metadata.attempt = 1
        second = self.cri.RunPodSandbox(config=self.sandbox).pod_sandbox_id
        self.addCleanup(self.cri.RemovePodSandbox, pod_sandbox_id=second)
        again = self.begin(second, "main", 1, "echo again")
        self.assertEqual(self.ended(again).out, "again\n")
        sandboxes, _ = self.pod_statuses()
        # The newest first: kubelet looks at the first only.
        self.assertEqual([one.id for one in sandboxes], [second, first])
        self.assertEqual([one.state for one in sandboxes], [pb.SANDBOX_READY, pb.SANDBOX_NOTREADY])
        newest = self.cri.ListContainers(filter={"pod_sandbox_id": second}).containers
        self.assertEqual([one.id for one in newest], [again])

    def test_an_image_that_is_missing_is_pulled(self):
        name = cri.REGISTRY.reference("second/needed", "1")
        self.assertFalse(self.cri.ImageStatus(image={"image": name}).HasField("image"))
        cri.REGISTRY.push("second/needed", ["1"], [cri.BASE], {"Env": ["PATH=/bin"]})
        ref = self.cri.PullImage(
            image={"image": name}, auth={"username": "someone", "password": "something"}, sandbox_config=self.sandbox
        ).image_ref
        self.addCleanup(self.cri.RemoveImage, image={"image": ref})
        self.assertEqual(self.cri.ImageStatus(image={"image": name}).image.id, ref)

    def test_sandboxes_without_a_filter_are_what_the_relist_sees(self):
        pod = self.cri.RunPodSandbox(config=self.sandbox).pod_sandbox_id
        self.addCleanup(self.drop_cgroups)
        self.addCleanup(self.cri.RemovePodSandbox, pod_sandbox_id=pod)
        id = self.begin(pod, "main", 0, "trap 'exit 0' TERM; echo up; sleep 1000 & wait")
        self.says(id, b"up\n")
        self.assertIn(pod, [one.id for one in self.cri.ListPodSandbox().items])
        found = [one for one in self.cri.ListContainers().containers if one.id == id]
        self.assertEqual(len(found), 1)
        self.assertEqual(found[0].labels[POD_UID], self.uid)
        self.cri.StopContainer(container_id=id, timeout=LIMIT)

    def drop_cgroups(self):
        """What kubelet's container manager would remove."""
        cri.drop_cgroups(self.parent)
