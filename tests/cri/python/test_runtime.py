"""What the runtime says of itself."""

import json
import re

from grpc import StatusCode

from cri import Suite, pb


class Info(Suite):
    def test_version_is_one_that_kubelet_parses(self):
        answer = self.cri.Version(version="0.1.0")
        # kubelet sends and expects its own "0.1.0"; the API's version is another field.
        self.assertEqual(answer.version, "0.1.0")
        self.assertEqual(answer.runtime_api_version, "v1")
        self.assertTrue(answer.runtime_name)
        self.assertRegex(answer.runtime_version, r"^v?\d+\.\d+(\.\d+)?")

    def test_runtime_and_network_are_ready(self):
        status = self.cri.Status().status
        conditions = {condition.type: condition for condition in status.conditions}
        for kind in ("RuntimeReady", "NetworkReady"):
            self.assertTrue(conditions[kind].status, conditions[kind])

    def test_handlers_hold_the_default_one_and_a_named_one(self):
        names = [handler.name for handler in self.cri.Status().runtime_handlers]
        self.assertIn("", names)
        self.assertTrue([name for name in names if name], names)
        self.assertEqual(len(names), len(set(names)))

    def test_features_say_that_strict_groups_are_understood(self):
        self.assertTrue(self.cri.Status().features.supplemental_groups_policy)

    def test_info_is_for_the_verbose_only(self):
        self.assertFalse(self.cri.Status().info)
        info = self.cri.Status(verbose=True).info
        # crictl shows every value as JSON where it is JSON.
        self.assertIn("config", info)
        self.assertTrue(info["config"])

    def test_cgroup_driver_is_told_to_kubelet(self):
        self.assertEqual(self.cri.RuntimeConfig().linux.cgroup_driver, pb.CGROUPFS)


class Idempotence(Suite):
    UNKNOWN = "0123456789abcdef" * 4

    def test_ending_what_is_not_there_succeeds(self):
        for id in (self.UNKNOWN, "a8a0b0ee-1c5a-4d7a-9b1a-5a33a0f0c3de"):
            self.cri.StopPodSandbox(pod_sandbox_id=id)
            self.cri.RemovePodSandbox(pod_sandbox_id=id)
            self.cri.StopContainer(container_id=id, timeout=0)
            self.cri.RemoveContainer(container_id=id)
        for image in ("0" * 64, "sha256:" + "0" * 64, "127.0.0.1:5000/second/none:1"):
            for _ in range(2):
                self.cri.RemoveImage(image={"image": image})

    def test_asking_for_what_is_not_there_is_not_found(self):
        # kubelet takes this code, and no other, as "it is gone".
        for call, fields in (
            (self.cri.PodSandboxStatus, {"pod_sandbox_id": self.UNKNOWN}),
            (self.cri.ContainerStatus, {"container_id": self.UNKNOWN}),
            (self.cri.StartContainer, {"container_id": self.UNKNOWN}),
            (self.cri.ReopenContainerLog, {"container_id": self.UNKNOWN}),
            (self.cri.ExecSync, {"container_id": self.UNKNOWN, "cmd": ["true"]}),
        ):
            self.refused(StatusCode.NOT_FOUND, call, **fields)

    def test_a_container_needs_a_pod_that_is_there(self):
        config = pb.ContainerConfig(**self.container_fields(["true"]))
        sandbox = pb.PodSandboxConfig(**self.pod_fields())
        self.refused(
            StatusCode.NOT_FOUND,
            self.cri.CreateContainer,
            pod_sandbox_id=self.UNKNOWN,
            config=config,
            sandbox_config=sandbox,
        )

    def test_an_empty_id_is_refused_or_unknown(self):
        codes = [StatusCode.NOT_FOUND, StatusCode.INVALID_ARGUMENT]
        self.refused(codes, self.cri.PodSandboxStatus, pod_sandbox_id="")
        self.refused(codes, self.cri.ContainerStatus, container_id="")
        self.refused(codes, self.cri.ExecSync, container_id="", cmd=["true"])

    def test_a_request_without_its_config_is_refused(self):
        self.refused(StatusCode.INVALID_ARGUMENT, self.cri.RunPodSandbox)
        self.refused(
            StatusCode.INVALID_ARGUMENT, self.cri.RunPodSandbox, "metadata", config={"hostname": "x"}
        )

    def test_a_handler_that_is_not_there_is_refused_by_name(self):
        config = pb.PodSandboxConfig(**self.pod_fields())
        self.refused(
            [StatusCode.NOT_FOUND, StatusCode.INVALID_ARGUMENT],
            self.cri.RunPodSandbox,
            "no-such-handler",
            config=config,
            runtime_handler="no-such-handler",
        )
        uid = config.metadata.uid
        items = self.cri.ListPodSandbox(filter={"label_selector": {"io.kubernetes.pod.uid": uid}}).items
        self.assertFalse(items)


class Ids(Suite):
    def test_ids_are_what_crictl_shortens_and_expands(self):
        pod = self.pod()
        id = self.create(pod, ["true"])
        for one in (pod.id, id):
            self.assertTrue(re.fullmatch(r"[0-9a-f]{64}", one), one)
        # crictl's listings show 13 digits, and people paste them back.
        self.assertEqual(self.cri.PodSandboxStatus(pod_sandbox_id=pod.id[:13]).status.id, pod.id)
        self.assertEqual(self.cri.ContainerStatus(container_id=id[:13]).status.id, id)
        listed = self.cri.ListContainers(filter={"id": id[:13]}).containers
        self.assertEqual([container.id for container in listed], [id])
        listed = self.cri.ListPodSandbox(filter={"id": pod.id[:13]}).items
        self.assertEqual([sandbox.id for sandbox in listed], [pod.id])

    def test_inspect_of_a_container_shows_its_process_and_its_spec(self):
        pod = self.pod()
        id = self.stay(pod)
        self.assertFalse(self.cri.ContainerStatus(container_id=id).info)
        info = json.loads(self.cri.ContainerStatus(container_id=id, verbose=True).info["info"])
        self.assertEqual(info["sandboxID"], pod.id)
        with open(f"/proc/{info['pid']}/cmdline", encoding="utf-8") as file:
            self.assertIn("echo ready", file.read())
        self.assertIn("sh", info["runtimeSpec"]["process"]["args"])

    def test_inspect_of_a_pod_is_json_too(self):
        pod = self.pod()
        self.assertFalse(self.cri.PodSandboxStatus(pod_sandbox_id=pod.id).info)
        answer = self.cri.PodSandboxStatus(pod_sandbox_id=pod.id, verbose=True)
        self.assertIsInstance(json.loads(answer.info["info"]), dict)
