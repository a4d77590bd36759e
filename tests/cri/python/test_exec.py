"""ExecSync, as probes and hooks use it."""

import threading
import uuid

import grpc
from grpc import StatusCode

from cri import LIMIT, Suite, context, wait


class ExecSync(Suite):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.one = cls.class_pod()

    def setUp(self):
        self.box = self.stay(self.one, "export OF=script", envs=[{"key": "OF", "value": b"config"}])

    def test_streams_apart_and_the_exit_code(self):
        self.assertEqual(self.attempt(self.box, "echo", "hello"), (0, "hello\n", ""))
        self.assertEqual(
            self.attempt(self.box, "sh", "-c", "echo out; echo err >&2; exit 42"), (42, "out\n", "err\n")
        )
        self.assertEqual(self.attempt(self.box, "sh", "-c", "kill -9 $$")[0], 137)

    def test_output_is_bytes_as_they_come(self):
        answer = self.cri.ExecSync(
            container_id=self.box, cmd=["printf", r"\000\377\n\r no end"], timeout=LIMIT
        )
        self.assertEqual(answer.stdout, b"\0\xff\n\r no end")

    def test_much_output_on_both_streams(self):
        script = "seq 1 100000; seq 1 100000 >&2"
        answer = self.cri.ExecSync(container_id=self.box, cmd=["sh", "-c", script], timeout=LIMIT)
        expected = "".join(f"{number}\n" for number in range(1, 100001)).encode()
        self.assertEqual((answer.stdout, answer.stderr), (expected, expected))

    def test_endless_output_is_cut(self):
        script = "head -c 20000000 /dev/zero"
        answer = self.cri.ExecSync(container_id=self.box, cmd=["sh", "-c", script], timeout=LIMIT)
        # Kubernetes' cap, 16 MiB; no more of it is sent.
        self.assertLessEqual(len(answer.stdout), 16 << 20)
        self.assertGreaterEqual(len(answer.stdout), 15 << 20)

    def test_no_limit_where_none_was_given(self):
        self.assertEqual(self.attempt(self.box, "sh", "-c", "sleep 0.3; echo late", timeout=0)[1], "late\n")

    def test_it_runs_in_the_container_s_surroundings(self):
        self.assertEqual(self.shell(self.box, "echo $OF"), "config")
        other = self.stay(self.one, working_dir="/tmp", linux=context(run_as_user={"value": 1234}))
        self.assertEqual(self.shell(other, "pwd; id -u; id -g"), "/tmp\n1234\n1235")

    def test_its_confinement_is_the_container_s(self):
        linux = context(
            capabilities={"drop_capabilities": ["ALL"]},
            no_new_privs=True,
            seccomp={"profile_type": "RuntimeDefault"},
        )
        other = self.stay(self.one, linux=linux)
        out = self.shell(other, "grep -E 'CapEff|CapBnd|NoNewPrivs|Seccomp:' /proc/self/status")
        self.assertEqual(
            dict(line.split(":\t") for line in out.splitlines()),
            {"CapEff": "0" * 16, "CapBnd": "0" * 16, "NoNewPrivs": "1", "Seccomp": "2"},
        )

    def test_a_command_that_is_not_there(self):
        # A probe counts either as a failure; what it must not be is a success.
        try:
            code, _, err = self.attempt(self.box, "/no/such/program")
        except grpc.RpcError as error:
            self.assertIn("/no/such/program", error.details())
        else:
            self.assertNotEqual(code, 0)
            self.assertIn("/no/such/program", err)
        self.refused(StatusCode.INVALID_ARGUMENT, self.cri.ExecSync, container_id=self.box, cmd=[])

    def test_a_limit_ends_it_with_its_children_and_nothing_else(self):
        mark = f"3{uuid.uuid4().int % 10**8}"
        self.refused(
            # kubelet takes this code, and no other, as a probe's timeout.
            StatusCode.DEADLINE_EXCEEDED,
            self.cri.ExecSync,
            container_id=self.box,
            cmd=["sh", "-c", f"sleep {mark} & sleep {mark}"],
            timeout=1,
        )
        wait(f"no `sleep {mark}`", lambda: f"sleep {mark}" not in self.shell(self.box, "ps -o args"))
        self.assertIn("sleep 1000", self.shell(self.box, "ps -o args"))

    def test_one_that_holds_its_streams_open_in_the_background_does_not_hold_the_call(self):
        code, out, _ = self.attempt(self.box, "sh", "-c", "sleep 600 & echo started", timeout=LIMIT)
        self.assertEqual((code, out), (0, "started\n"))

    def test_many_at_once(self):
        answers = []

        def run(number):
            answers.append(self.exec(self.box, "echo", str(number)))

        threads = [threading.Thread(target=run, args=[number]) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(sorted(answers), sorted(str(number) for number in range(8)))

    def test_not_in_what_does_not_run(self):
        created = self.create(self.one, ["true"])
        ended = self.run_to_end(self.one, ["true"]).id
        for id in (created, ended):
            with self.subTest(id=id), self.assertRaises(grpc.RpcError) as caught:
                self.attempt(id, "true")
            self.assertNotEqual(caught.exception.code(), StatusCode.DEADLINE_EXCEEDED)
