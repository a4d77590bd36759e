"""Containers from their creation to their removal, and what is said of them."""

import time
import uuid

import grpc
from grpc import StatusCode

from cri import LIMIT, Suite, pb


class Life(Suite):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.one = cls.class_pod()

    def test_created_started_stopped_removed(self):
        before = time.time_ns()
        id = self.create(self.one, ["sh", "-c", "trap 'exit 7' TERM; echo up; sleep 1000 & wait"])
        status = self.status(id)
        self.assertEqual(status.state, pb.CONTAINER_CREATED)
        self.assertEqual((status.started_at, status.finished_at, status.exit_code), (0, 0, 0))
        self.assertEqual(status.reason, "")
        self.assertTrue(before <= status.created_at <= time.time_ns())

        self.cri.StartContainer(container_id=id)
        self.says(id, b"up\n")
        running = self.status(id)
        self.assertEqual(running.state, pb.CONTAINER_RUNNING)
        self.assertTrue(status.created_at <= running.started_at <= time.time_ns())
        self.assertEqual(running.created_at, status.created_at)
        self.assertEqual(running.finished_at, 0)

        self.cri.StopContainer(container_id=id, timeout=LIMIT)
        ended = self.status(id)
        self.assertEqual((ended.state, ended.exit_code, ended.reason), (pb.CONTAINER_EXITED, 7, "Error"))
        self.assertTrue(running.started_at <= ended.finished_at <= time.time_ns())
        self.assertEqual(ended.started_at, running.started_at)
        self.cri.StopContainer(container_id=id, timeout=LIMIT)

        self.cri.RemoveContainer(container_id=id)
        self.refused(StatusCode.NOT_FOUND, self.cri.ContainerStatus, container_id=id)
        self.assertFalse(self.cri.ListContainers(filter={"id": id}).containers)
        self.cri.RemoveContainer(container_id=id)
        self.cri.StopContainer(container_id=id, timeout=0)

    def test_what_was_asked_is_what_is_said(self):
        id = self.create(
            self.one,
            ["sleep", "1"],
            labels={"key": "value"},
            annotations={"note": "text with = and \" in it"},
        )
        status = self.status(id)
        self.assertEqual(status.labels["key"], "value")
        self.assertEqual(status.annotations["note"], "text with = and \" in it")
        self.assertEqual(status.metadata.attempt, 0)
        self.assertTrue(status.log_path.startswith(self.one.logs + "/"), status.log_path)
        self.assertTrue(status.log_path.endswith("/0.log"))

    def test_an_end_with_zero_is_completed(self):
        status = self.run_to_end(self.one, ["true"]).status
        self.assertEqual((status.exit_code, status.reason), (0, "Completed"))

    def test_an_end_by_a_signal_is_128_and_the_signal(self):
        # Process 1 of a namespace cannot kill itself; it is killed from outside.
        id = self.start(self.one, ["sh", "-c", "echo up; exec sleep 1000"])
        self.says(id, b"up\n")
        self.cri.StopContainer(container_id=id, timeout=0)
        status = self.status(id)
        self.assertEqual((status.state, status.exit_code), (pb.CONTAINER_EXITED, 137))
        self.assertEqual(status.reason, "Error")

    def test_a_stop_waits_as_long_as_it_was_told_and_then_kills(self):
        id = self.start(self.one, ["sh", "-c", "trap : TERM; echo up; while :; do sleep 0.1; done"])
        self.says(id, b"up\n")
        begun = time.monotonic()
        self.cri.StopContainer(container_id=id, timeout=2)
        self.assertGreaterEqual(time.monotonic() - begun, 2)
        status = self.status(id)
        self.assertEqual((status.state, status.exit_code), (pb.CONTAINER_EXITED, 137))

    def test_a_stop_sends_the_signal_that_was_configured(self):
        id = self.start(
            self.one,
            ["sh", "-c", "trap 'exit 5' USR1; trap 'exit 6' TERM; echo up; while :; do sleep 0.1; done"],
            stop_signal="SIGUSR1",
        )
        self.says(id, b"up\n")
        self.assertEqual(self.status(id).stop_signal, pb.SIGUSR1)
        self.cri.StopContainer(container_id=id, timeout=LIMIT)
        self.assertEqual(self.status(id).exit_code, 5)

    def test_the_default_stop_signal_is_reported_as_term(self):
        id = self.create(self.one, ["true"])
        self.assertIn(self.status(id).stop_signal, (pb.SIGTERM, pb.RUNTIME_DEFAULT))

    def test_a_running_container_is_removed_by_force(self):
        id = self.stay(self.one)
        self.cri.RemoveContainer(container_id=id)
        self.refused(StatusCode.NOT_FOUND, self.cri.ContainerStatus, container_id=id)

    def test_a_created_container_can_be_stopped_and_removed(self):
        id = self.create(self.one, ["true"])
        self.cri.StopContainer(container_id=id, timeout=1)
        self.cri.RemoveContainer(container_id=id)
        self.refused(StatusCode.NOT_FOUND, self.cri.ContainerStatus, container_id=id)

    def test_what_has_ended_is_not_started_again(self):
        id = self.run_to_end(self.one, ["true"]).id
        with self.assertRaises(grpc.RpcError):
            self.cri.StartContainer(container_id=id)
        self.assertEqual(self.status(id).state, pb.CONTAINER_EXITED)

    def test_a_command_that_is_not_there(self):
        # kubelet makes RunContainerError of it, whichever of the two calls says so.
        with self.assertRaises(grpc.RpcError) as caught:
            id = self.create(self.one, ["/no/such/program"])
            self.cri.StartContainer(container_id=id)
        self.assertIn("/no/such/program", caught.exception.details())
        self.assertIn("no such file", caught.exception.details().lower())

    def named(self):
        """A request and what the pod has of its name."""
        config = pb.ContainerConfig(**self.container_fields(["true"]))
        fields = {"pod_sandbox_id": self.one.id, "config": config, "sandbox_config": self.one.config}

        def listed():
            there = self.cri.ListContainers(filter={"pod_sandbox_id": self.one.id}).containers
            return [one.id for one in there if one.metadata.name == config.metadata.name]

        return fields, listed

    def test_a_repeat_after_a_lost_answer_finds_the_first_container(self):
        fields, listed = self.named()
        self.lose_the_answer(self.cri.CreateContainer, **fields)
        id = self.cri.CreateContainer(**fields).container_id
        self.assertEqual(listed(), [id])
        self.cri.StartContainer(container_id=id)

    def test_a_name_is_one_container_s(self):
        # As with pods: a repeat finds the one that has it, another request is refused by that one's id.
        fields, listed = self.named()
        first = self.cri.CreateContainer(**fields).container_id
        self.assertEqual(self.cri.CreateContainer(**fields).container_id, first)
        fields["config"].command[:] = ["false"]
        with self.assertRaises(grpc.RpcError) as refused:
            self.cri.CreateContainer(**fields)
        self.assertEqual(refused.exception.code(), StatusCode.ALREADY_EXISTS)
        self.assertIn(first, refused.exception.details())
        self.assertEqual(listed(), [first])

    def test_attempts_are_containers_of_their_own(self):
        name = "again-" + uuid.uuid4().hex[:8]
        ids = []
        for attempt in range(3):
            metadata = {"name": name, "attempt": attempt}
            end = self.run_to_end(
                self.one, ["sh", "-c", f"exit {attempt}"], metadata=metadata, log_path=f"{name}/{attempt}.log",
                labels={"io.kubernetes.container.name": name},
            )
            ids.append(end.id)
            self.assertEqual(end.status.metadata.attempt, attempt)
        selector = {"io.kubernetes.container.name": name}
        listed = self.cri.ListContainers(filter={"label_selector": selector}).containers
        self.assertEqual([one.id for one in listed], ids[::-1])
        self.assertEqual([self.status(id).exit_code for id in ids], [0, 1, 2])

    def test_an_image_that_is_not_there_is_not_found(self):
        self.not_created(
            self.one, [StatusCode.NOT_FOUND, StatusCode.UNKNOWN], image={"image": "127.0.0.1:5000/second/none:1"}
        )

    def test_what_is_malformed_is_refused_with_the_field_s_name(self):
        bad = [
            ("image", {"image": {"image": "", "user_specified_image": ""}}),
            ("log_path", {"log_path": "../../outside.log"}),
            ("mounts", {"mounts": [{"host_path": "/tmp", "container_path": ""}]}),
            ("name", {"metadata": {"name": ""}}),
        ]
        for word, fields in bad:
            with self.subTest(word):
                self.not_created(self.one, StatusCode.INVALID_ARGUMENT, word, **fields)


class Process(Suite):
    """What a container runs, and in which surroundings."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.one = cls.class_pod(hostname="process-host")

    def test_command_and_args(self):
        end = self.run_to_end(self.one, ["echo", "one"], args=["two", "three four"])
        self.assertEqual(end.out, "one two three four\n")

    def test_environment(self):
        envs = [{"key": "PLAIN", "value": b"a value"}, {"key": "ODD", "value": b"x=y \"z\" $PLAIN"}]
        out = self.output(self.one, "env", envs=envs).splitlines()
        self.assertIn("PLAIN=a value", out)
        self.assertIn("ODD=x=y \"z\" $PLAIN", out)
        self.assertIn("PATH=/bin", out)
        self.assertIn("HOSTNAME=process-host", out)

    def test_environment_of_the_config_wins_over_the_image_s(self):
        envs = [{"key": "PATH", "value": b"/bin:/elsewhere"}]
        out = self.output(self.one, "env", envs=envs).splitlines()
        self.assertEqual([line for line in out if line.startswith("PATH=")], ["PATH=/bin:/elsewhere"])

    def test_home_comes_from_the_user(self):
        user = {"security_context": {"run_as_user": {"value": 1234}}}
        self.assertEqual(self.output(self.one, "echo $HOME", linux=user), "/home/worker")
        self.assertEqual(self.output(self.one, "echo $HOME"), "/root")

    def test_the_working_folder_is_made(self):
        self.assertEqual(self.output(self.one, "pwd", working_dir="/made/for/this"), "/made/for/this")
        self.assertEqual(self.output(self.one, "pwd"), "/")

    def test_stdin_is_at_its_end_unless_asked_for(self):
        self.assertEqual(self.output(self.one, "cat; echo read"), "read")

    def test_a_terminal_where_asked(self):
        end = self.run_to_end(self.one, ["sh", "-c", "tty; echo on stderr >&2"], tty=True)
        self.assertIn("/dev/pts/", end.out.replace("/dev/console", "/dev/pts/"))
        # A terminal has one stream; its line ends are its own.
        self.assertIn("on stderr\r\n", end.out)
        self.assertEqual(end.err, "")

    def test_the_usual_devices_and_no_others(self):
        out = self.output(self.one, "ls /dev").split()
        for name in ("null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts", "shm", "mqueue"):
            self.assertIn(name, out)
        for name in ("kmsg", "mem", "sda", "vda", "loop0", "fuse"):
            self.assertNotIn(name, out)

    def test_a_device_where_asked(self):
        devices = [{"host_path": "/dev/fuse", "container_path": "/dev/asked", "permissions": "r"}]
        script = ": < /dev/asked && echo read; (: > /dev/asked) 2>/dev/null || echo not written"
        self.assertEqual(self.output(self.one, script, devices=devices), "read\nnot written")

    def test_a_device_that_is_not_there_is_refused_by_name(self):
        self.not_created(
            self.one,
            [StatusCode.INVALID_ARGUMENT, StatusCode.NOT_FOUND, StatusCode.UNKNOWN],
            "/dev/no-such",
            devices=[{"host_path": "/dev/no-such", "container_path": "/dev/x", "permissions": "rwm"}],
        )

    def test_containers_have_root_filesystems_of_their_own(self):
        first = self.stay(self.one, "echo mine > /note")
        self.assertEqual(self.exec(first, "cat", "/note"), "mine")
        self.assertEqual(self.output(self.one, "ls /note 2>/dev/null || echo none"), "none")


class Several(Suite):
    """Containers of one pod, side by side."""

    def test_they_run_log_and_take_commands_apart(self):
        pod = self.pod()
        ids = [self.stay(pod, f"echo I am {number}") for number in range(3)]
        for number, id in enumerate(ids):
            self.says(id, f"I am {number}\n".encode())
            self.assertEqual(self.exec(id, "echo", str(number)), str(number))
        self.cri.StopContainer(container_id=ids[1], timeout=LIMIT)
        states = [self.status(id).state for id in ids]
        self.assertEqual(states, [pb.CONTAINER_RUNNING, pb.CONTAINER_EXITED, pb.CONTAINER_RUNNING])

    def test_a_pod_goes_on_when_its_only_container_has_ended(self):
        pod = self.pod()
        self.run_to_end(pod, ["true"])
        self.assertEqual(self.pod_status(pod.id).state, pb.SANDBOX_READY)
        self.assertEqual(self.output(pod, "echo again"), "again")
