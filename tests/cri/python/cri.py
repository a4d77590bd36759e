"""A client of the CRI on python's grpcio, and what the tests of this folder share.

The messages come from `runtime.proto` by `protoc` at each run; nothing generated is kept and nothing of
the daemon's own code is used, so that a misreading of the interface there cannot be shared here.
"""

import contextlib
import glob
import importlib
import os
import subprocess
import sys
import time
import unittest
import uuid

import grpc

#: Seconds that anything may take which is not a wait by its nature.
LIMIT = 60
#: What kubelet sets on every pod and container, and selects by.
POD_NAME = "io.kubernetes.pod.name"
POD_NAMESPACE = "io.kubernetes.pod.namespace"
POD_UID = "io.kubernetes.pod.uid"
CONTAINER_NAME = "io.kubernetes.container.name"

#: Files of the tests that containers mount.
FOLDER = "/srv/second-stack"

pb = None
cri = None
#: The reference of the image that most containers run (see registry.py).
IMAGE = None


def load(proto, folder):
    """Makes the messages of `proto`, a path, into `folder` and loads them."""
    subprocess.run(
        ["protoc", "-I", os.path.dirname(proto), "--python_out", folder, proto], check=True
    )
    sys.path.insert(0, folder)
    global pb
    pb = importlib.import_module(os.path.basename(proto).replace(".proto", "_pb2"))


def connect(endpoint):
    """Opens the client that all tests share; `endpoint` is what crictl would be given."""
    global cri
    cri = Client(endpoint)


class Client:
    """Every unary RPC of both services as a method that takes the request's fields."""

    def __init__(self, endpoint):
        self.channel = grpc.insecure_channel(
            endpoint, options=[("grpc.max_receive_message_length", 64 << 20)]
        )
        for service in pb.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                setattr(self, method.name, self._method(service, method))

    def _method(self, service, method):
        request = getattr(pb, method.input_type.name)
        answer = getattr(pb, method.output_type.name)
        call = self.channel.unary_unary(
            f"/{service.full_name}/{method.name}", request.SerializeToString, answer.FromString
        )

        # Not `timeout`: that is a field of two requests.
        def send(deadline=2 * LIMIT, **fields):
            return call(request(**fields), timeout=deadline)

        return send


def merged(base, more):
    """Two nested dicts as one; what `more` says counts."""
    whole = dict(base)
    for key, value in more.items():
        if isinstance(value, dict) and isinstance(whole.get(key), dict):
            whole[key] = merged(whole[key], value)
        else:
            whole[key] = value
    return whole


def wait(what, condition):
    """Waits until `condition()` is true; its value."""
    deadline = time.monotonic() + LIMIT
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"still not so after {LIMIT} s: {what}")
        time.sleep(0.02)


class Line:
    """A line of a CRI log: `TIME STREAM TAG CONTENT`, read as strictly as kubelet does."""

    def __init__(self, raw):
        stamp, stream, tag, content = raw.split(b" ", 3)
        day, _, fraction = stamp.decode().partition(".")
        # RFC 3339 with nanoseconds, with Z or an offset after them.
        digits = fraction.rstrip("Z").split("+")[0].split("-")[0]
        time.strptime(day, "%Y-%m-%dT%H:%M:%S")
        if not (1 <= len(digits) <= 9 and digits.isdigit()):
            raise ValueError(f"a time without a fraction of 1 to 9 digits: {raw!r}")
        self.time, self.stream, self.content = stamp.decode(), stream.decode(), content
        if self.stream not in ("stdout", "stderr"):
            raise ValueError(f"a stream that is none: {raw!r}")
        # Tags are one field parted by colons; the first says partial or full.
        self.tag = tag.decode().split(":")[0]
        if self.tag not in ("P", "F"):
            raise ValueError(f"a tag that is none: {raw!r}")


def read_log(path):
    """The complete lines of a CRI log."""
    with open(path, "rb") as file:
        raw = file.read()
    return [Line(line) for line in raw.split(b"\n")[:-1]]


def joined(lines, stream="stdout"):
    """What a stream of the log holds, as bytes, partial lines put together."""
    parts = []
    for line in lines:
        if line.stream == stream:
            parts.append(line.content + (b"\n" if line.tag == "F" else b""))
    return b"".join(parts)


class Pod:
    """A sandbox and the configuration it was made of, as CreateContainer wants both."""

    def __init__(self, id, config):
        self.id, self.config = id, config

    @property
    def logs(self):
        return self.config.log_directory


class Ended:
    """A container that ran to its end."""

    def __init__(self, id, status):
        self.id, self.status = id, status
        self.lines = read_log(status.log_path)
        self.out = joined(self.lines).decode(errors="replace")
        self.err = joined(self.lines, "stderr").decode(errors="replace")


class Suite(unittest.TestCase):
    """Pods and containers that go with the test, or with the class where they are made by it."""

    maxDiff = None

    @classmethod
    def setUpClass(cls):
        cls.cri = cri

    # Pods.

    @staticmethod
    def pod_fields(name=None, **more):
        """A sandbox's configuration as kubelet fills it, `more` merged into it."""
        name = name or "pod"
        uid = str(uuid.uuid4())
        return merged(
            {
                "metadata": {"name": name, "uid": uid, "namespace": "second", "attempt": 0},
                "log_directory": f"/var/log/pods/second_{name}_{uid}",
                "labels": {POD_NAME: name, POD_NAMESPACE: "second", POD_UID: uid},
                "annotations": {"kubernetes.io/config.source": "api"},
                "linux": {"security_context": {"namespace_options": {"pid": "CONTAINER"}}},
            },
            more,
        )

    @classmethod
    def _run_pod(cls, clean, name, handler, **fields):
        config = pb.PodSandboxConfig(**cls.pod_fields(name, **fields))
        # kubelet makes the folder before it asks for the sandbox.
        os.makedirs(config.log_directory, exist_ok=True)
        id = cri.RunPodSandbox(config=config, runtime_handler=handler).pod_sandbox_id
        clean(cri.RemovePodSandbox, pod_sandbox_id=id)
        clean(cri.StopPodSandbox, pod_sandbox_id=id)
        return Pod(id, config)

    def pod(self, name=None, handler="", **fields):
        """Runs a pod that goes with the test."""
        return self._run_pod(self.addCleanup, name, handler, **fields)

    @classmethod
    def class_pod(cls, name=None, handler="", **fields):
        """Runs a pod that goes with the class."""
        return cls._run_pod(cls.addClassCleanup, name, handler, **fields)

    # Containers.

    @staticmethod
    def container_fields(command, **more):
        """A container's configuration as kubelet fills it, `more` merged into it."""
        name = "c-" + uuid.uuid4().hex[:12]
        return merged(
            {
                "metadata": {"name": name, "attempt": 0},
                "image": {"image": IMAGE, "user_specified_image": IMAGE},
                "command": command,
                "log_path": f"{name}/0.log",
                "labels": {CONTAINER_NAME: name},
                "annotations": {"io.kubernetes.container.restartCount": "0"},
                "linux": {"resources": {}, "security_context": {}},
            },
            more,
        )

    def create(self, pod, command, **fields):
        """Creates a container; its id. It goes with its pod."""
        config = pb.ContainerConfig(**self.container_fields(command, **fields))
        if config.log_path:
            os.makedirs(os.path.dirname(os.path.join(pod.logs, config.log_path)), exist_ok=True)
        return cri.CreateContainer(
            pod_sandbox_id=pod.id, config=config, sandbox_config=pod.config
        ).container_id

    def start(self, pod, command, **fields):
        """Creates and starts a container; its id."""
        id = self.create(pod, command, **fields)
        cri.StartContainer(container_id=id)
        return id

    def stay(self, pod, script="", **fields):
        """A container that runs `script` and then until it is told to stop; its id. When this returns its
        own program has spoken, so signals reach that and not the runtime that is becoming it."""
        command = ["sh", "-c", f"{script}\ntrap 'exit 0' TERM\necho ready\nsleep 1000 & wait"]
        id = self.start(pod, command, **fields)
        self.says(id, b"ready\n")
        return id

    def says(self, id, text, stream="stdout"):
        """Waits until a container's log holds `text`."""
        path = self.status(id).log_path

        def there():
            if text in joined(read_log(path), stream):
                return True
            status = self.status(id)
            if status.state == pb.CONTAINER_EXITED and text not in joined(read_log(path), stream):
                raise AssertionError(f"ended without {text!r}: {status} {read(path)}")
            return False

        wait(f"{text!r} in {path}", there)

    def run_to_end(self, pod, command, **fields):
        """Runs a container to its end."""
        return self.ended(self.start(pod, command, **fields))

    def output(self, pod, script, **fields):
        """What `script` prints in a container of its own, trimmed; it must end with 0."""
        end = self.run_to_end(pod, ["sh", "-c", script], **fields)
        self.assertEqual(end.status.exit_code, 0, f"{script}: {end.out} {end.err} {end.status}")
        return end.out.strip()

    def ended(self, id):
        wait(f"{id} at its end", lambda: self.status(id).state == pb.CONTAINER_EXITED)
        return Ended(id, self.status(id))

    def status(self, id):
        return cri.ContainerStatus(container_id=id).status

    def pod_status(self, id):
        return cri.PodSandboxStatus(pod_sandbox_id=id).status

    def attempt(self, id, *command, timeout=LIMIT):
        """ExecSync whatever comes of it: exit code, standard output, standard error, as text."""
        answer = cri.ExecSync(container_id=id, cmd=command, timeout=timeout)
        return answer.exit_code, answer.stdout.decode(), answer.stderr.decode()

    def exec(self, id, *command):
        """Standard output of a command in a running container, trimmed; it must succeed and keep
        standard error empty."""
        code, out, err = self.attempt(id, *command)
        self.assertEqual((code, err), (0, ""), f"{command}: {out}")
        return out.strip()

    def shell(self, id, script):
        return self.exec(id, "sh", "-c", script)

    # Refusals.

    def refused(self, codes, call, *words, **fields):
        """Calls what must be refused with one of `codes` and a message that holds every one of `words`;
        the message."""
        codes = codes if isinstance(codes, (list, tuple)) else [codes]
        with self.assertRaises(grpc.RpcError) as caught:
            answer = call(**fields)
            raise AssertionError(f"not refused: {answer}")
        error = caught.exception
        self.assertIn(error.code(), codes, error.details())
        self.assertTrue(error.details(), "a refusal without a word")
        for word in words:
            self.assertIn(word.lower(), error.details().lower())
        return error.details()

    def not_created(self, pod, codes, *words, command=("true",), **fields):
        """CreateContainer must be refused, and leave no container."""
        config = pb.ContainerConfig(**self.container_fields(list(command), **fields))
        message = self.refused(
            codes,
            cri.CreateContainer,
            *words,
            pod_sandbox_id=pod.id,
            config=config,
            sandbox_config=pod.config,
        )
        name = config.metadata.name
        there = cri.ListContainers(filter={"pod_sandbox_id": pod.id}).containers
        self.assertNotIn(name, [container.metadata.name for container in there])
        return message

    def lose_the_answer(self, call, **fields):
        """Gives up on a call before it can have been answered; how far the daemon came is open."""
        with self.assertRaises(grpc.RpcError) as caught:
            call(deadline=0.004, **fields)
        self.assertEqual(caught.exception.code(), grpc.StatusCode.DEADLINE_EXCEEDED)

    # Files on the node.

    def folder(self, **files):
        """A folder of the test's own with files in it; its path."""
        path = os.path.join(FOLDER, uuid.uuid4().hex[:12])
        os.makedirs(path)
        self.addCleanup(subprocess.run, ["rm", "-rf", "--one-file-system", path], check=True)
        for name, content in files.items():
            write(os.path.join(path, name), content)
        return path


def write(path, content):
    with open(path, "w", encoding="utf-8") as file:
        file.write(content)
    return path


def read(path):
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()


def cgroups_of(id):
    """The cgroups of a container by controller, `""` for v2's: those of any process of it."""
    for path in glob.glob("/proc/[0-9]*/cgroup"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            text = read(path)
            if id in text:
                groups = {}
                for line in text.splitlines():
                    _, controllers, group = line.split(":", 2)
                    groups.update({controller: group for controller in controllers.split(",")})
                return groups
    raise AssertionError(f"no process is in a cgroup of {id}")


def drop_cgroups(parent):
    """Removes a pod's cgroups, empty by now, and those above that were made on the way: kubelet's work,
    not the runtime's."""
    for top, _, _ in os.walk("/sys/fs/cgroup"):
        if os.path.isdir(top + parent):
            for path in [top + parent] + [os.path.dirname(top + parent)]:
                if not any(entry.is_dir() for entry in os.scandir(path)):
                    os.rmdir(path)


def context(**fields):
    """A container's security context as the `linux` field wants it."""
    return {"security_context": fields}


def namespaces(**modes):
    """A pod's namespace options as the `linux` field of a pod or a container wants them."""
    return {"security_context": {"namespace_options": modes}}


def handler_features():
    """What Status says of the default runtime handler."""
    for handler in cri.Status().runtime_handlers:
        if handler.name == "":
            return handler.features
    raise AssertionError("no default runtime handler in Status")
