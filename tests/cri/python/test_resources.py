"""Limits: as asked, as reported, changed while it runs, and what happens at them."""

import glob
import os

import grpc
from grpc import StatusCode

import cri
from cri import LIMIT, Suite, cgroups_of, pb, read

LIMITS = {
    "cpu_period": 100000,
    "cpu_quota": 50000,
    "cpu_shares": 512,
    "memory_limit_in_bytes": 64 << 20,
    "cpuset_cpus": "0",
}
V2 = os.path.exists("/sys/fs/cgroup/cgroup.controllers")


class Resources(Suite):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.one = cls.class_pod()

    def control(self, id, controller, one, two):
        """A control file of a container's cgroup: v1's name, v2's name."""
        group = cgroups_of(id)["" if V2 else controller]
        return read(f"/sys/fs/cgroup{group}/{two}" if V2 else f"/sys/fs/cgroup/{controller}{group}/{one}").strip()

    def memory(self, id):
        return self.control(id, "memory", "memory.limit_in_bytes", "memory.max")

    def quota(self, id):
        return self.control(id, "cpu", "cpu.cfs_quota_us", "cpu.max").split()[0]

    def test_status_says_what_was_asked(self):
        said = self.status(self.create(self.one, ["true"], linux={"resources": LIMITS})).resources.linux
        for name, value in LIMITS.items():
            self.assertEqual(getattr(said, name), value, name)

    def test_they_hold(self):
        id = self.stay(self.one, linux={"resources": LIMITS})
        self.assertEqual(self.memory(id), str(64 << 20))
        self.assertEqual(self.quota(id), "50000")
        self.assertIn("Cpus_allowed_list:\t0", self.exec(id, "cat", "/proc/self/status"))

    def test_an_update_is_in_force_and_reported(self):
        id = self.stay(self.one, linux={"resources": LIMITS})
        more = {"memory_limit_in_bytes": 128 << 20, "cpu_quota": 80000, "cpu_period": 100000, "cpu_shares": 1024}
        self.cri.UpdateContainerResources(container_id=id, linux=more)
        self.assertEqual((self.memory(id), self.quota(id)), (str(128 << 20), "80000"))
        said = self.status(id).resources.linux
        self.assertEqual((said.memory_limit_in_bytes, said.cpu_quota, said.cpu_shares), (128 << 20, 80000, 1024))
        # What was not spoken of stays.
        self.assertEqual(said.cpuset_cpus, "0")
        self.exec(id, "true")

    def test_an_update_of_what_is_not_there(self):
        call = self.cri.UpdateContainerResources
        self.refused(StatusCode.NOT_FOUND, call, container_id="f" * 64, linux={"cpu_shares": 2})

    def test_an_update_of_a_created_container_holds_when_it_runs(self):
        # Kubernetes' CPU manager calls before the start.
        command = ["sh", "-c", "trap 'exit 0' TERM; echo up; sleep 1000 & wait"]
        id = self.create(self.one, command, linux={"resources": LIMITS})
        self.cri.UpdateContainerResources(container_id=id, linux={"memory_limit_in_bytes": 96 << 20})
        self.cri.StartContainer(container_id=id)
        self.says(id, b"up\n")
        self.assertEqual(self.memory(id), str(96 << 20))

    def test_an_update_of_what_has_ended_is_refused(self):
        id = self.run_to_end(self.one, ["true"]).id
        codes = [StatusCode.FAILED_PRECONDITION, StatusCode.UNKNOWN, StatusCode.NOT_FOUND]
        self.refused(codes, self.cri.UpdateContainerResources, container_id=id, linux={"cpu_shares": 2})

    def test_out_of_memory_is_told_from_other_ends(self):
        limit = {"memory_limit_in_bytes": 15 << 20, "memory_swap_limit_in_bytes": 15 << 20}
        command = ["sh", "-c", "dd if=/dev/zero of=/dev/null bs=20M"]
        # The shell is not the victim, but its container is.
        status = self.run_to_end(self.one, command, linux={"resources": limit}).status
        self.assertEqual((status.exit_code, status.reason), (137, "OOMKilled"))
        command = ["dd", "if=/dev/zero", "of=/dev/null", "bs=20M"]
        status = self.run_to_end(self.one, command, linux={"resources": limit}).status
        self.assertEqual((status.exit_code, status.reason), (137, "OOMKilled"))

    def test_a_restart_after_it_is_a_new_count(self):
        limit = {"memory_limit_in_bytes": 15 << 20, "memory_swap_limit_in_bytes": 15 << 20}
        status = self.run_to_end(self.one, ["sh", "-c", "exit 137"], linux={"resources": limit}).status
        self.assertEqual((status.exit_code, status.reason), (137, "Error"))

    def test_the_number_of_processes_has_no_limit_unless_configured(self):
        id = self.stay(self.one)
        self.assertEqual(self.control(id, "pids", "pids.max", "pids.max"), "max")

    def test_oom_score(self):
        self.assertEqual(
            self.output(self.one, "cat /proc/self/oom_score_adj", linux={"resources": {"oom_score_adj": 999}}), "999"
        )

    def test_swap_below_memory_is_refused(self):
        limit = {"memory_limit_in_bytes": 64 << 20, "memory_swap_limit_in_bytes": 32 << 20}
        self.not_created(
            self.one, [StatusCode.INVALID_ARGUMENT, StatusCode.UNKNOWN], "swap", linux={"resources": limit}
        )

    def test_a_cpu_that_is_not_there_is_refused(self):
        with self.assertRaises(grpc.RpcError):
            id = self.create(self.one, ["true"], linux={"resources": {"cpuset_cpus": "4096"}})
            self.cri.StartContainer(container_id=id)

    def test_cgroups_go_with_their_container(self):
        id = self.stay(self.one)
        found = glob.glob(f"/sys/fs/cgroup/**/*{id}*", recursive=True)
        self.assertTrue(found)
        self.cri.StopContainer(container_id=id, timeout=LIMIT)
        self.cri.RemoveContainer(container_id=id)
        self.assertEqual([path for path in found if os.path.exists(path)], [])


class PodResources(Suite):
    def test_an_update_is_taken(self):
        pod = self.pod(linux={"resources": {"cpu_shares": 512}, "overhead": {"cpu_shares": 10}})
        self.cri.UpdatePodSandboxResources(
            pod_sandbox_id=pod.id, resources={"cpu_shares": 1024}, overhead={"cpu_shares": 10}
        )
        call = self.cri.UpdatePodSandboxResources
        self.refused(StatusCode.NOT_FOUND, call, pod_sandbox_id="f" * 64, resources={"cpu_shares": 2})


class RuntimeConfig(Suite):
    def test_the_pod_network_is_taken_note_of(self):
        # kubelet sends it once a node has its PodCIDR.
        self.cri.UpdateRuntimeConfig(runtime_config={"network_config": {"pod_cidr": "10.88.0.0/16"}})
        conditions = {one.type: one.status for one in self.cri.Status().status.conditions}
        self.assertTrue(conditions["NetworkReady"])


class Devices(Suite):
    """Devices by CDI name."""

    def test_one_that_nobody_describes_is_refused_by_name(self):
        pod = self.pod()
        codes = [StatusCode.INVALID_ARGUMENT, StatusCode.NOT_FOUND, StatusCode.UNKNOWN, StatusCode.FAILED_PRECONDITION]
        self.not_created(pod, codes, "vendor.example/kind=none", CDI_devices=[{"name": "vendor.example/kind=none"}])


class UserNamespaces(Suite):
    """Where the runtime says that it has them; else they are refused and nothing is left."""

    def options(self, **userns):
        return {"security_context": {"namespace_options": {"pid": "CONTAINER", "userns_options": userns}}}

    def mapped(self, uids=((0, 200000, 65536),), gids=((0, 200000, 65536),)):
        def table(rows):
            return [{"container_id": one, "host_id": two, "length": length} for one, two, length in rows]

        return self.options(mode="POD", uids=table(uids), gids=table(gids))

    def test_a_pod_of_its_own_users(self):
        linux = self.mapped()
        if not cri.handler_features().user_namespaces:
            config = pb.PodSandboxConfig(**self.pod_fields(linux=linux))
            codes = [StatusCode.FAILED_PRECONDITION, StatusCode.INVALID_ARGUMENT, StatusCode.UNKNOWN]
            self.refused(codes, self.cri.RunPodSandbox, "user", config=config)
            return
        pod = self.pod(linux=linux)
        out = self.output(pod, "cat /proc/self/uid_map; cat /proc/self/gid_map; id -u", linux=linux)
        self.assertEqual(out.split(), ["0", "200000", "65536"] * 2 + ["0"])
        options = self.pod_status(pod.id).linux.namespaces.options.userns_options
        self.assertEqual(options.mode, pb.POD)

    def test_the_node_s_users_where_asked(self):
        linux = self.options(mode="NODE")
        pod = self.pod(linux=linux)
        out = self.output(pod, "cat /proc/self/uid_map", linux=linux)
        self.assertEqual(out.split(), ["0", "0", "4294967295"])

    def test_what_is_no_single_mapping_is_refused(self):
        codes = [StatusCode.FAILED_PRECONDITION, StatusCode.INVALID_ARGUMENT, StatusCode.UNKNOWN]
        for linux in (
            self.mapped(uids=[(0, 200000, 1000), (1000, 300000, 1000)]),
            self.mapped(uids=[(1, 200000, 65536)], gids=[(1, 200000, 65536)]),
            self.options(mode="POD"),
            self.options(mode="CONTAINER"),
            self.options(mode="TARGET"),
        ):
            config = pb.PodSandboxConfig(**self.pod_fields(linux=linux))
            self.refused(codes, self.cri.RunPodSandbox, config=config)
