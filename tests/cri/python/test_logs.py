"""Container logs as kubelet and `crictl logs` read them."""

import os

from grpc import StatusCode

from cri import Suite, joined, read_log, wait, write


class Logs(Suite):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.one = cls.class_pod()

    def test_streams_are_named_and_in_order(self):
        end = self.run_to_end(self.one, ["sh", "-c", "echo one; echo two >&2; sleep 0.2; echo three"])
        self.assertEqual((end.out, end.err), ("one\nthree\n", "two\n"))
        self.assertEqual([line.tag for line in end.lines], ["F", "F", "F"])
        stamps = [line.time for line in end.lines if line.stream == "stdout"]
        self.assertEqual(stamps, sorted(stamps))

    def test_the_path_is_the_pod_s_folder_and_the_container_s_path(self):
        id = self.create(self.one, ["true"], log_path="named/7.log")
        self.assertEqual(self.status(id).log_path, os.path.join(self.one.logs, "named/7.log"))

    def test_the_file_is_there_when_the_start_returns(self):
        id = self.start(self.one, ["sleep", "1000"])
        self.assertTrue(os.path.exists(self.status(id).log_path))

    def test_it_is_complete_when_the_end_is_reported(self):
        for _ in range(5):
            end = self.run_to_end(self.one, ["seq", "1", "2000"])
            self.assertEqual(end.out.split(), [str(number) for number in range(1, 2001)])

    def test_a_last_line_without_an_end_is_there(self):
        end = self.run_to_end(self.one, ["printf", "first\\nlast"])
        self.assertEqual(joined(end.lines), b"first\nlast" if end.lines[-1].tag == "P" else b"first\nlast\n")
        self.assertEqual(end.lines[-1].content, b"last")

    def test_a_long_line_comes_in_parts(self):
        end = self.run_to_end(self.one, ["sh", "-c", "head -c 100000 /dev/zero | tr '\\0' x; echo; echo next"])
        self.assertEqual(end.out, "x" * 100000 + "\nnext\n")
        tags = [line.tag for line in end.lines]
        self.assertGreater(tags.count("P"), 1)
        self.assertEqual(tags[-2:], ["F", "F"])
        self.assertEqual(end.lines[-1].content, b"next")

    def test_any_bytes_but_the_line_end(self):
        end = self.run_to_end(self.one, ["printf", r"\001\000\377\r\tx\n\n"])
        self.assertEqual(joined(end.lines), b"\x01\0\xff\r\tx\n\n")

    def test_nothing_said_is_an_empty_file(self):
        end = self.run_to_end(self.one, ["true"])
        self.assertEqual(os.path.getsize(end.status.log_path), 0)

    def test_a_terminal_is_one_stream(self):
        end = self.run_to_end(self.one, ["sh", "-c", "echo out; echo err >&2"], tty=True)
        self.assertEqual({line.stream for line in end.lines}, {"stdout"})
        self.assertEqual(end.out, "out\r\nerr\r\n")

    def test_rotation_as_kubelet_does_it_loses_nothing(self):
        folder = self.folder()
        script = "i=0; while [ ! -e /given/enough ]; do echo $i; i=$((i+1)); usleep 2000; done; echo $i"
        mounts = [{"host_path": folder, "container_path": "/given"}]
        id = self.start(self.one, ["sh", "-c", script], mounts=mounts)
        path = self.status(id).log_path
        pieces = []
        for number in range(3):
            wait("lines", lambda: len(read_log(path)) > 20)
            old = f"{path}.2026010{number}-000000"
            os.rename(path, old)
            self.cri.ReopenContainerLog(container_id=id)
            self.assertTrue(os.path.exists(path), "the new file is there when the call returns")
            pieces.append((old, os.path.getsize(old)))
        write(f"{folder}/enough", "")
        end = self.ended(id)
        text = b""
        for old, size in pieces:
            self.assertEqual(os.path.getsize(old), size, "nothing is written to the old file any more")
            text += joined(read_log(old))
        said = (text + joined(end.lines)).decode().split()
        self.assertEqual(said, [str(number) for number in range(len(said))])
        self.assertGreater(len(said), 60)

    def test_no_reopening_for_what_does_not_run(self):
        # kubelet ends its rotation with an error then, and tries again.
        id = self.run_to_end(self.one, ["true"]).id
        codes = [StatusCode.FAILED_PRECONDITION, StatusCode.UNKNOWN, StatusCode.NOT_FOUND]
        self.refused(codes, self.cri.ReopenContainerLog, container_id=id)

    def test_a_removed_container_leaves_its_log(self):
        # It is kubelet's; `kubectl logs --previous` reads it.
        end = self.run_to_end(self.one, ["echo", "kept"])
        self.cri.RemoveContainer(container_id=end.id)
        self.assertEqual(joined(read_log(end.status.log_path)), b"kept\n")
