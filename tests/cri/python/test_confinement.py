"""What a container may do: capabilities, privilege, seccomp, no_new_privs, AppArmor, SELinux, paths."""

import json
import os

import grpc
from grpc import StatusCode

from cri import Suite, context, read, write

#: Bits of capabilities(7).
BITS = {
    "CHOWN": 0,
    "DAC_OVERRIDE": 1,
    "FOWNER": 3,
    "FSETID": 4,
    "KILL": 5,
    "SETGID": 6,
    "SETUID": 7,
    "SETPCAP": 8,
    "NET_BIND_SERVICE": 10,
    "NET_ADMIN": 12,
    "SYS_ADMIN": 21,
}
#: What CRI-O gives a container.
USUAL = {
    "CHOWN", "DAC_OVERRIDE", "FSETID", "FOWNER", "SETGID", "SETUID", "SETPCAP", "NET_BIND_SERVICE", "KILL",
}  # fmt: skip


def mask(names):
    return sum(1 << BITS[name] for name in names)


def own_bounding_set():
    """What this machine itself may have; nobody can be given more."""
    for line in read("/proc/self/status").splitlines():
        if line.startswith("CapBnd:"):
            return int(line.split()[1], 16)
    raise AssertionError("no CapBnd")


class Capabilities(Suite):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.one = cls.class_pod()

    def sets(self, **fields):
        out = self.output(self.one, "grep ^Cap /proc/self/status", linux=context(**fields))
        return {name.strip(): int(value, 16) for name, value in (line.split(":") for line in out.splitlines())}

    def caps(self, add=(), drop=(), **more):
        return self.sets(capabilities={"add_capabilities": add, "drop_capabilities": drop}, **more)

    def test_the_usual_ones(self):
        sets = self.caps()
        for name in ("CapEff", "CapPrm", "CapBnd"):
            self.assertEqual(sets[name], mask(USUAL), name)
        # Inheritable ones would come back with any file that has capabilities.
        self.assertEqual((sets["CapInh"], sets["CapAmb"]), (0, 0))

    def test_one_added(self):
        self.assertEqual(self.caps(add=["NET_ADMIN"])["CapEff"], mask(USUAL | {"NET_ADMIN"}))

    def test_one_dropped(self):
        self.assertEqual(self.caps(drop=["CHOWN"])["CapBnd"], mask(USUAL - {"CHOWN"}))

    def test_all_dropped(self):
        sets = self.caps(drop=["ALL"])
        self.assertEqual((sets["CapEff"], sets["CapBnd"]), (0, 0))

    def test_all_dropped_and_some_kept(self):
        self.assertEqual(self.caps(add=["CHOWN"], drop=["ALL"])["CapBnd"], mask({"CHOWN"}))

    def test_all_added(self):
        self.assertEqual(self.caps(add=["ALL"])["CapBnd"], own_bounding_set())

    def test_all_added_but_some(self):
        expected = own_bounding_set() & ~mask({"CHOWN", "SYS_ADMIN"})
        self.assertEqual(self.caps(add=["ALL"], drop=["CHOWN", "SYS_ADMIN"])["CapBnd"], expected)

    def test_the_prefix_and_small_letters_are_understood(self):
        expected = mask((USUAL | {"NET_ADMIN"}) - {"KILL"})
        self.assertEqual(self.caps(add=["CAP_NET_ADMIN"], drop=["cap_kill"])["CapBnd"], expected)

    def test_a_user_other_than_root_has_none_in_effect(self):
        sets = self.caps(add=["NET_ADMIN"], run_as_user={"value": 1001})
        self.assertEqual((sets["CapEff"], sets["CapPrm"]), (0, 0))
        self.assertEqual(sets["CapBnd"], mask(USUAL | {"NET_ADMIN"}))

    def test_ambient_ones_reach_a_user_other_than_root(self):
        sets = self.sets(
            capabilities={"add_ambient_capabilities": ["NET_BIND_SERVICE"]}, run_as_user={"value": 1001}
        )
        self.assertEqual(sets["CapEff"], mask({"NET_BIND_SERVICE"}))
        self.assertEqual(sets["CapAmb"], mask({"NET_BIND_SERVICE"}))

    def test_what_they_allow(self):
        make = "ip link add name bridge9 type bridge"
        self.assertNotEqual(self.run_to_end(self.one, ["sh", "-c", make]).status.exit_code, 0)
        linux = context(capabilities={"add_capabilities": ["NET_ADMIN"]})
        self.output(self.one, make + " && ip link del bridge9", linux=linux)

    def test_one_that_is_none_is_refused_by_name(self):
        self.not_created(
            self.one,
            [StatusCode.INVALID_ARGUMENT, StatusCode.UNKNOWN],
            "FLY",
            linux=context(capabilities={"add_capabilities": ["FLY"]}),
        )


class Privileged(Suite):
    FIELDS = context(privileged=True)

    def test_it_may_do_what_the_node_may(self):
        pod = self.pod(linux=self.FIELDS)
        script = """
            grep -E 'CapEff|Seccomp:' /proc/self/status
            mount -t tmpfs none /tmp && echo mounted
            ip link add name bridge8 type bridge && ip link del bridge8 && echo bridged
            hostname other && hostname
        """
        out = self.output(pod, script, linux=self.FIELDS).splitlines()
        self.assertEqual(int(out[0].split()[1], 16), own_bounding_set())
        self.assertEqual(out[1].split()[1], "0")
        self.assertEqual(out[2:], ["mounted", "bridged", "other"])

    def test_it_has_the_node_s_devices(self):
        pod = self.pod(linux=self.FIELDS)
        out = self.output(pod, "ls /dev; head -c 0 /dev/kmsg && echo open", linux=self.FIELDS).split()
        for name in ("kmsg", "fuse"):
            self.assertIn(name, out)
        self.assertIn("open", out)

    def test_nothing_is_masked_or_read_only(self):
        pod = self.pod(linux=self.FIELDS)
        script = "awk '$2 ~ /^\\/(proc|sys)/ {print $2, $4}' /proc/mounts"
        for line in self.output(pod, script, linux=self.FIELDS).splitlines():
            path, options = line.split()
            # The cgroup mount has a way of its own.
            if not path.startswith("/sys/fs/cgroup"):
                self.assertNotIn("ro", options.split(","), line)

    def test_without_it_none_of_that(self):
        pod = self.pod()
        script = "mount -t tmpfs none /tmp || ip link add name b7 type bridge || hostname other || echo refused"
        self.assertEqual(self.output(pod, script), "refused")

    def test_a_pod_that_is_not_has_no_container_that_is(self):
        self.not_created(
            self.pod(), [StatusCode.INVALID_ARGUMENT, StatusCode.UNKNOWN], "privileged", linux=self.FIELDS
        )

    def test_a_pod_that_is_may_have_one_that_is_not(self):
        pod = self.pod(linux=self.FIELDS)
        self.assertEqual(self.output(pod, "mount -t tmpfs none /tmp || echo refused"), "refused")


class Seccomp(Suite):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.one = cls.class_pod()

    def mode(self, **fields):
        return self.output(self.one, "grep ^Seccomp: /proc/self/status", linux=context(**fields)).split()[1]

    def profile(self, *names):
        folder = self.folder()
        rules = {
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": list(names), "action": "SCMP_ACT_ERRNO"}],
        }
        return write(os.path.join(folder, "profile.json"), json.dumps(rules))

    def test_the_default_profile(self):
        self.assertEqual(self.mode(seccomp={"profile_type": "RuntimeDefault"}), "2")

    def test_unconfined(self):
        self.assertEqual(self.mode(seccomp={"profile_type": "Unconfined"}), "0")

    def test_nothing_said_is_unconfined(self):
        self.assertEqual(self.mode(), "0")

    def test_a_profile_of_the_node(self):
        path = self.profile("chmod", "fchmod", "fchmodat", "fchmodat2")
        linux = context(seccomp={"profile_type": "Localhost", "localhost_ref": path})
        end = self.run_to_end(self.one, ["sh", "-c", "chmod 400 /tmp; true"], linux=linux)
        self.assertIn("Operation not permitted", end.err)
        self.assertEqual(self.output(self.one, "chmod 400 /tmp && echo done"), "done")

    def test_a_profile_is_stronger_than_a_capability(self):
        path = self.profile("sethostname")
        capable = {"add_capabilities": ["SYS_ADMIN"]}
        for seccomp, expected in (
            ({"profile_type": "Unconfined"}, "new"),
            # The default profile lets it through with the capability for it.
            ({"profile_type": "RuntimeDefault"}, "new"),
            ({"profile_type": "Localhost", "localhost_ref": path}, "refused"),
        ):
            with self.subTest(**seccomp):
                linux = context(seccomp=seccomp, capabilities=capable)
                pod = self.pod()
                self.assertEqual(
                    self.output(pod, "hostname new 2>/dev/null && hostname || echo refused", linux=linux), expected
                )

    def test_the_default_profile_blocks_what_needs_a_capability(self):
        linux = context(seccomp={"profile_type": "RuntimeDefault"})
        for script in ("unshare -U true", "unshare -m true", "hostname other"):
            with self.subTest(script):
                end = self.run_to_end(self.one, ["sh", "-c", script], linux=linux)
                self.assertNotEqual(end.status.exit_code, 0)

    def test_a_privileged_container_has_none(self):
        path = self.profile("sethostname")
        pod = self.pod(linux=context(privileged=True))
        linux = context(privileged=True, seccomp={"profile_type": "Localhost", "localhost_ref": path})
        self.assertEqual(self.output(pod, "hostname new && hostname", linux=linux), "new")

    def test_a_profile_that_is_not_there(self):
        missing = os.path.join(self.folder(), "none.json")
        broken = write(os.path.join(self.folder(), "broken.json"), "{ not json")
        for path in (missing, broken, "", "relative.json"):
            with self.subTest(path):
                seccomp = {"profile_type": "Localhost", "localhost_ref": path}
                with self.assertRaises(grpc.RpcError) as caught:
                    id = self.create(self.one, ["true"], linux=context(seccomp=seccomp))
                    self.cri.StartContainer(container_id=id)
                self.assertIn(path.split("/")[-1], caught.exception.details())


class NewPrivileges(Suite):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.one = cls.class_pod()

    def said(self, **fields):
        linux = context(run_as_user={"value": 1000}, **fields)
        return self.output(self.one, "effective", linux=linux)

    def test_a_setuid_program_has_its_way(self):
        self.assertEqual(self.said(), "effective uid: 0")

    def test_not_where_it_was_forbidden(self):
        self.assertEqual(self.said(no_new_privs=True), "effective uid: 1000")


class Modules(Suite):
    """AppArmor and SELinux, which a machine has or has not."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.one = cls.class_pod()
        cls.apparmor = os.path.exists("/sys/kernel/security/apparmor/profiles")
        cls.selinux = os.path.exists("/sys/fs/selinux/enforce")

    CODES = [StatusCode.INVALID_ARGUMENT, StatusCode.FAILED_PRECONDITION, StatusCode.UNKNOWN]

    def test_apparmor_unconfined_and_default_run_everywhere(self):
        for kind in ("Unconfined", "RuntimeDefault"):
            linux = context(apparmor={"profile_type": kind})
            self.assertEqual(self.output(self.one, "echo ran", linux=linux), "ran")
        self.assertEqual(self.output(self.one, "echo ran", linux=context(apparmor_profile="unconfined")), "ran")

    def test_a_profile_that_is_not_loaded_is_refused(self):
        for linux in (
            context(apparmor={"profile_type": "Localhost", "localhost_ref": "second-stack-none"}),
            context(apparmor_profile="localhost/second-stack-none"),
        ):
            self.not_created(self.one, self.CODES, "apparmor", linux=linux)

    def test_selinux_labels_want_a_machine_with_selinux(self):
        options = {"user": "system_u", "role": "system_r", "type": "container_t", "level": "s0:c4,c5"}
        linux = context(selinux_options=options)
        if self.selinux:
            self.assertIn("s0:c4,c5", self.output(self.one, "cat /proc/self/attr/current", linux=linux))
        else:
            # As CRI-O: labels of a machine that has none go by unused.
            self.assertEqual(self.output(self.one, "echo ran", linux=linux), "ran")


class Paths(Suite):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.one = cls.class_pod()

    def test_masked_ones_are_empty(self):
        folder = self.folder(secret="of the node")
        mounts = [{"host_path": folder, "container_path": "/given"}]
        linux = context(masked_paths=["/given/secret", "/www", "/no/such/path"])
        script = "cat /given/secret; ls -A /www"
        self.assertEqual(self.output(self.one, script, mounts=mounts, linux=linux), "")

    def test_read_only_ones_are_read_only(self):
        linux = context(readonly_paths=["/tmp"])
        end = self.run_to_end(self.one, ["sh", "-c", "touch /tmp/x; touch /elsewhere"], linux=linux)
        self.assertIn("/tmp/x: Read-only file system", end.err)
        self.assertEqual(end.status.exit_code, 0)

    def test_kubelet_s_lists(self):
        masked = ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/sched_debug", "/sys/firmware"]
        readonly = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
        linux = context(masked_paths=masked, readonly_paths=readonly)
        script = "cat /proc/keys | wc -c; ls -A /sys/firmware | wc -l; echo 1 > /proc/sys/kernel/pid_max || echo ro"
        end = self.run_to_end(self.one, ["sh", "-c", script], linux=linux)
        self.assertEqual(end.out.split(), ["0", "0", "ro"])

    def test_unmasked_where_kubelet_asks_for_nothing_masked(self):
        # procMount: Unmasked sends two empty lists.
        linux = context(masked_paths=[], readonly_paths=[])
        self.output(self.one, "awk '$2 ~ /^\\/proc\\// {print $2}' /proc/mounts", linux=linux)

    def test_sys_is_read_only(self):
        out = self.output(self.one, "awk '$2 == \"/sys\" {print $4}' /proc/mounts")
        self.assertIn("ro", out.split(","))

    def test_a_read_only_root(self):
        script = "touch /file || touch /tmp/file; touch /dev/shm/file && echo shm"
        end = self.run_to_end(self.one, ["sh", "-c", script], linux=context(readonly_rootfs=True))
        self.assertIn("/file: Read-only file system", end.err)
        self.assertEqual(end.out, "shm\n")

    def test_a_read_only_root_still_takes_volumes(self):
        folder = self.folder()
        mounts = [{"host_path": folder, "container_path": "/made/for/it"}]
        self.output(self.one, "touch /made/for/it/file", mounts=mounts, linux=context(readonly_rootfs=True))
        self.assertEqual(os.listdir(folder), ["file"])

    def test_a_writable_root(self):
        self.assertEqual(self.output(self.one, "touch /file && ls /file"), "/file")
