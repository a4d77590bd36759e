"""Images: pulled, named, listed, described, removed."""

import json
import threading

from grpc import StatusCode

import cri
import registry
from cri import Suite, context


class Images(Suite):
    """Each test has repositories of its own, so that other tests' images do not matter."""

    def push(self, name, tags, config=None, text="x"):
        """Pushes an image of one small layer that is `name`'s own; its digest and its id."""
        entries = [("made", 0o755, None), (f"made/{name.replace('/', '-')}", 0o644, text.encode())]
        return cri.REGISTRY.push(name, tags, [registry.layer(entries)], config)

    def pull(self, reference):
        answer = self.cri.PullImage(image={"image": reference}).image_ref
        self.addCleanup(self.cri.RemoveImage, image={"image": answer})
        return answer

    def image(self, reference):
        """An image's status, None where there is none."""
        answer = self.cri.ImageStatus(image={"image": reference})
        return answer.image if answer.HasField("image") else None

    def listed(self, word):
        """The images with `word` in one of their names."""
        return [
            image
            for image in self.cri.ListImages().images
            if any(word in name for name in list(image.repo_tags) + list(image.repo_digests))
        ]

    def test_by_tag(self):
        digest, id = self.push("second/tagged", ["1.2"])
        reference = cri.REGISTRY.reference("second/tagged", "1.2")
        self.assertIsNone(self.image(reference))
        self.assertEqual(self.pull(reference), id)
        image = self.image(reference)
        self.assertEqual(image.id, id)
        self.assertEqual(list(image.repo_tags), [reference])
        self.assertEqual(list(image.repo_digests), [f"{cri.REGISTRY.address}/second/tagged@{digest}"])
        self.assertGreater(image.size, 0)
        self.assertFalse(image.pinned)
        self.assertEqual([one.id for one in self.listed("second/tagged")], [id])

        self.cri.RemoveImage(image={"image": reference})
        self.assertIsNone(self.image(reference))
        self.assertIsNone(self.image(id))
        self.assertEqual(self.listed("second/tagged"), [])

    def test_without_a_tag_it_is_latest(self):
        _, id = self.push("second/latest", ["latest"])
        name = f"{cri.REGISTRY.address}/second/latest"
        self.assertEqual(self.pull(name), id)
        self.assertEqual(list(self.image(name).repo_tags), [name + ":latest"])
        self.assertEqual(self.image(name + ":latest").id, id)

    def test_by_digest(self):
        digest, id = self.push("second/digested", ["1"])
        name = f"{cri.REGISTRY.address}/second/digested@{digest}"
        self.assertEqual(self.pull(name), id)
        image = self.image(name)
        self.assertEqual((list(image.repo_tags), list(image.repo_digests)), ([], [name]))

    def test_by_tag_and_digest(self):
        digest, id = self.push("second/both", ["1"])
        name = f"{cri.REGISTRY.address}/second/both:1@{digest}"
        self.assertEqual(self.pull(name), id)
        self.assertEqual(self.image(name).id, id)
        self.assertEqual(
            list(self.image(name).repo_digests), [f"{cri.REGISTRY.address}/second/both@{digest}"]
        )

    def test_every_way_to_name_it(self):
        digest, id = self.push("second/named", ["1"])
        base = f"{cri.REGISTRY.address}/second/named"
        self.pull(base + ":1")
        hexed = id.removeprefix("sha256:")
        for name in (base + ":1", f"{base}@{digest}", f"{base}:1@{digest}", id, hexed, hexed[:13]):
            with self.subTest(name):
                self.assertEqual(self.image(name).id, id)
        for name in (base, base + ":2", base + "@sha256:" + "0" * 64, "f" * 64, "sha256:" + "f" * 64):
            with self.subTest(name):
                self.assertIsNone(self.image(name))

    def test_three_images(self):
        ids = {self.push(f"second/three-{number}", ["1"])[1] for number in range(3)}
        for number in range(3):
            self.pull(cri.REGISTRY.reference(f"second/three-{number}", "1"))
        found = self.listed("second/three-")
        self.assertEqual({image.id for image in found}, ids)
        self.assertEqual(len(found), 3)

    def test_three_tags_of_one_image(self):
        _, id = self.push("second/tags", ["1", "2", "3"])
        tags = [cri.REGISTRY.reference("second/tags", tag) for tag in "123"]
        for tag in tags:
            self.assertEqual(self.pull(tag), id)
        found = self.listed("second/tags")
        self.assertEqual(len(found), 1)
        self.assertEqual(sorted(found[0].repo_tags), tags)
        self.assertEqual(len(found[0].repo_digests), 1)
        # By a name only that goes; by the id, as kubelet does it, everything.
        self.cri.RemoveImage(image={"image": tags[0]})
        self.assertIsNone(self.image(tags[0]))
        self.assertEqual(sorted(self.image(id).repo_tags), tags[1:])
        self.cri.RemoveImage(image={"image": id})
        self.assertEqual(self.listed("second/tags"), [])
        self.assertIsNone(self.image(tags[1]))

    def test_a_tag_that_moved_on(self):
        _, old = self.push("second/moving", ["1"], text="old")
        reference = cri.REGISTRY.reference("second/moving", "1")
        self.pull(reference)
        _, new = self.push("second/moving", ["1"], text="new")
        self.assertEqual(self.pull(reference), new)
        self.assertEqual(self.image(reference).id, new)
        self.assertEqual(list(self.image(old).repo_tags), [])

    def test_one_image_of_two_registries(self):
        digest, id = self.push("second/twin", ["1"])
        port = cri.REGISTRY.address.split(":")[1]
        names = [f"{host}:{port}/second/twin" for host in ("127.0.0.1", "localhost")]
        for name in names:
            self.assertEqual(self.pull(name + ":1"), id)
        image = self.image(id)
        self.assertEqual(sorted(image.repo_tags), [name + ":1" for name in names])
        self.assertEqual(sorted(image.repo_digests), [f"{name}@{digest}" for name in names])
        for name in names:
            self.assertEqual(self.image(name + ":1").id, id)

    def test_lists_by_image(self):
        _, id = self.push("second/filtered", ["1"])
        reference = cri.REGISTRY.reference("second/filtered", "1")
        self.pull(reference)

        def by(name):
            return [one.id for one in self.cri.ListImages(filter={"image": {"image": name}}).images]

        self.assertEqual(by(reference), [id])
        self.assertEqual(by(id), [id])
        self.assertEqual(by(cri.REGISTRY.reference("second/filtered", "2")), [])
        self.assertIn(id, by(""))

    def test_a_second_pull_changes_nothing(self):
        self.push("second/again", ["1"])
        reference = cri.REGISTRY.reference("second/again", "1")
        first = self.pull(reference)
        before = self.image(reference)
        self.assertEqual(self.pull(reference), first)
        self.assertEqual(self.image(reference), before)

    def test_many_pulls_at_once(self):
        _, id = self.push("second/crowd", ["1"])
        reference = cri.REGISTRY.reference("second/crowd", "1")
        answers = []
        threads = [
            threading.Thread(target=lambda: answers.append(self.pull(reference))) for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(answers, [id] * 8)
        self.assertEqual(len(self.listed("second/crowd")), 1)

    def test_removals_at_once(self):
        _, id = self.push("second/removed", ["1"])
        self.pull(cri.REGISTRY.reference("second/removed", "1"))
        found = []

        def remove():
            self.cri.RemoveImage(image={"image": id})
            found.append(self.image(id))

        threads = [threading.Thread(target=remove) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(found, [None] * 5)

    def test_the_user_of_an_image(self):
        for number, (user, uid, name) in enumerate(
            [
                ("1002", 1002, ""),
                ("1003:1004", 1003, ""),
                ("www-data", None, "www-data"),
                ("www-data:100", None, "www-data"),
            ]
        ):
            with self.subTest(user):
                self.push(f"second/owned-{number}", ["1"], {"User": user})
                image = self.image(self.pull(cri.REGISTRY.reference(f"second/owned-{number}", "1")))
                self.assertEqual(image.uid.value if image.HasField("uid") else None, uid)
                self.assertEqual(image.username, name)

    def test_an_image_without_a_user_is_root_s(self):
        # kubelet takes neither uid nor name as root.
        self.push("second/unowned", ["1"])
        image = self.image(self.pull(cri.REGISTRY.reference("second/unowned", "1")))
        self.assertEqual((image.uid.value, image.username), (0, ""))

    def test_inspect_shows_its_configuration(self):
        config = {"Labels": {"maker": "second"}, "Env": ["A=b"], "Entrypoint": ["/x"]}
        _, id = self.push("second/inspected", ["1"], config)
        reference = cri.REGISTRY.reference("second/inspected", "1")
        self.pull(reference)
        self.assertFalse(self.cri.ImageStatus(image={"image": id}).info)
        info = self.cri.ImageStatus(image={"image": reference}, verbose=True).info
        whole = json.loads(info["info"])
        self.assertEqual(whole["imageSpec"]["config"]["Labels"], {"maker": "second"})
        self.assertEqual(whole["imageSpec"]["config"]["Env"], ["A=b"])

    def test_what_cannot_be_pulled(self):
        base = cri.REGISTRY.address
        self.push("second/there", ["1"])
        for name in (f"{base}/second/absent:1", f"{base}/second/there:2", f"{base}/second/there@sha256:{'0' * 64}"):
            with self.subTest(name):
                self.refused(StatusCode.NOT_FOUND, self.cri.PullImage, "second/", image={"image": name})
                self.assertIsNone(self.image(name))
        for name in ("", "UPPER/Case:1", f"{base}/second/there:not a tag", f"{base}/x@sha256:short"):
            with self.subTest(name):
                self.refused(StatusCode.INVALID_ARGUMENT, self.cri.PullImage, image={"image": name})
        self.refused(StatusCode.INVALID_ARGUMENT, self.cri.PullImage)

    def test_a_registry_that_is_not_there(self):
        message = self.refused(
            [StatusCode.UNAVAILABLE, StatusCode.UNKNOWN], self.cri.PullImage, image={"image": "127.0.0.1:1/x/y:1"}
        )
        self.assertIn("127.0.0.1:1", message)


class Space(Suite):
    """The one test that looks at the store as a whole; it runs beside others, so only its own share counts."""

    def test_image_filesystem(self):
        answer = self.cri.ImageFsInfo()
        for systems in (answer.image_filesystems, answer.container_filesystems):
            self.assertEqual(len(systems), 1)
            self.assertTrue(systems[0].fs_id.mountpoint.startswith("/"))
            self.assertGreater(systems[0].timestamp, 0)
        self.assertGreater(answer.image_filesystems[0].used_bytes.value, 0)
        self.assertGreater(answer.image_filesystems[0].inodes_used.value, 0)


class Programs(Suite):
    """An image's entrypoint, command, environment and folder against the container's."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.one = cls.class_pod()
        cls.name = cri.REGISTRY.reference("second/program", "1")
        config = {
            "Entrypoint": ["echo", "entry"],
            "Cmd": ["cmd"],
            "Env": ["PATH=/bin", "FROM=image", "KEPT=image"],
            "WorkingDir": "/home/worker",
            "StopSignal": "SIGUSR2",
        }
        cri.REGISTRY.push("second/program", ["1"], [cri.BASE], config)
        cls.ref = cri.cri.PullImage(image={"image": cls.name}).image_ref
        cls.addClassCleanup(cri.cri.RemoveImage, image={"image": cls.name})
        cls.image = {"image": {"image": cls.ref, "user_specified_image": cls.name}}

    def said(self, command, args):
        return self.run_to_end(self.one, command, args=args, **self.image).out

    def test_command_and_args_as_kubernetes_has_them(self):
        self.assertEqual(self.said([], []), "entry cmd\n")
        self.assertEqual(self.said([], ["arg"]), "entry arg\n")
        self.assertEqual(self.said(["echo", "command"], []), "command\n")
        self.assertEqual(self.said(["echo", "command"], ["arg"]), "command arg\n")

    def test_surroundings(self):
        envs = [{"key": "FROM", "value": b"config"}]
        out = self.output(self.one, "pwd; echo $FROM $KEPT", envs=envs, **self.image)
        self.assertEqual(out, "/home/worker\nconfig image")

    def test_the_stop_signal(self):
        script = "trap 'exit 9' USR2; trap 'exit 6' TERM; echo up; while :; do sleep 0.1; done"
        id = self.start(self.one, ["sh", "-c", script], **self.image)
        self.says(id, b"up\n")
        self.cri.StopContainer(container_id=id, timeout=cri.LIMIT)
        self.assertEqual(self.status(id).exit_code, 9)

    def test_one_image_has_one_id_everywhere(self):
        id = self.create(self.one, [], **self.image)
        status = self.status(id)
        listed = self.cri.ListContainers(filter={"id": id}).containers[0]
        image = self.cri.ImageStatus(image={"image": self.name}).image
        self.assertEqual({status.image_id, listed.image_id, image.id}, {self.ref})
        # The reference is one that the image has, or its id.
        self.assertIn(status.image_ref, [image.id] + list(image.repo_digests))
        self.assertEqual(status.image_ref, listed.image_ref)

    def test_the_name_that_the_user_wrote_is_kept(self):
        status = self.status(self.create(self.one, [], **self.image))
        self.assertIn(self.name, (status.image.image, status.image.user_specified_image))

    def test_an_image_without_a_command_needs_one(self):
        name = cri.REGISTRY.reference("second/nothing", "1")
        cri.REGISTRY.push("second/nothing", ["1"], [cri.BASE], {})
        self.cri.PullImage(image={"image": name})
        self.addCleanup(self.cri.RemoveImage, image={"image": name})
        codes = [StatusCode.INVALID_ARGUMENT, StatusCode.UNKNOWN]
        self.not_created(self.one, codes, "command", command=(), image={"image": name}, linux=context())

    def test_an_image_in_use_stays_usable_for_its_container(self):
        name = cri.REGISTRY.reference("second/used", "1")
        layers = [cri.BASE, registry.layer([("used", 0o755, None), ("used/file", 0o644, b"still here\n")])]
        cri.REGISTRY.push("second/used", ["1"], layers, {"Env": ["PATH=/bin"]})
        self.cri.PullImage(image={"image": name})
        pod = self.pod()
        id = self.stay(pod, image={"image": name})
        # CRI-O refuses this, containerd does it; either way the container goes on.
        try:
            self.cri.RemoveImage(image={"image": name})
        except cri.grpc.RpcError:
            self.addCleanup(self.cri.RemoveImage, image={"image": name})
        self.assertEqual(self.exec(id, "cat", "/used/file"), "still here")
