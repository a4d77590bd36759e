"""Mounts: host paths, propagation, read-only ones, and images as volumes."""

import ctypes
import os

from grpc import StatusCode

import cri
import registry
from cri import Suite, context, handler_features, pb, read, write

MS_BIND, MS_REC, MS_PRIVATE, MS_SLAVE, MS_SHARED = 0x1000, 0x4000, 1 << 18, 1 << 19, 1 << 20
MNT_DETACH = 2

_libc = ctypes.CDLL(None, use_errno=True)


def mount(source, target, kind, flags):
    words = [word.encode() for word in (source, target, kind)]
    if _libc.mount(*words, ctypes.c_ulong(flags), None) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), target)


def unmount(target):
    if _libc.umount2(target.encode(), MNT_DETACH) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), target)


def at(source, target, **more):
    return dict({"host_path": source, "container_path": target}, **more)


class HostPaths(Suite):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.one = cls.class_pod()

    def test_a_folder_is_shared_both_ways(self):
        folder = self.folder(flag="of the node")
        mounts = [at(folder, "/given")]
        script = "cat /given/flag; echo of the container > /given/answer"
        self.assertEqual(self.output(self.one, script, mounts=mounts), "of the node")
        self.assertEqual(read(f"{folder}/answer"), "of the container\n")

    def test_a_symlink_is_followed_on_the_node(self):
        folder = self.folder(flag="behind the link")
        link = folder + "-link"
        os.symlink(folder, link)
        self.addCleanup(os.remove, link)
        self.assertEqual(self.output(self.one, "cat /given/flag", mounts=[at(link, "/given")]), "behind the link")

    def test_a_missing_one_is_made_as_a_folder(self):
        path = os.path.join(self.folder(), "not", "there", "yet")
        self.output(self.one, "echo made > /given/flag", mounts=[at(path, "/given")])
        self.assertEqual(read(f"{path}/flag"), "made\n")

    def test_a_single_file(self):
        # kubelet's termination log.
        path = write(os.path.join(self.folder(), "termination-log"), "")
        os.chmod(path, 0o666)
        mounts = [at(path, "/dev/termination-log")]
        self.run_to_end(self.one, ["sh", "-c", "echo -n went wrong > /dev/termination-log; exit 1"], mounts=mounts)
        self.assertEqual(read(path), "went wrong")

    def test_kubelet_s_hosts_file_covers_the_pod_s_own(self):
        path = write(os.path.join(self.folder(), "hosts"), "127.0.0.1 localhost\n10.9.8.7 of-kubelet\n")
        self.assertIn("of-kubelet", self.output(self.one, "cat /etc/hosts", mounts=[at(path, "/etc/hosts")]))

    def test_mounts_lie_in_each_other_whatever_their_order(self):
        outer, inner = self.folder(flag="outer"), self.folder(flag="inner")
        os.mkdir(f"{outer}/deep")
        mounts = [at(inner, "/given/deep"), at(outer, "/given")]
        self.assertEqual(self.output(self.one, "cat /given/flag /given/deep/flag", mounts=mounts), "outerinner")

    def test_status_says_what_was_mounted(self):
        folder = self.folder()
        mounts = [at(folder, "/one"), at(folder, "/two", readonly=True)]
        status = self.status(self.create(self.one, ["true"], mounts=mounts))
        said = {one.container_path: one for one in status.mounts}
        self.assertEqual(set(said), {"/one", "/two"})
        self.assertEqual((said["/one"].host_path, said["/one"].readonly), (folder, False))
        self.assertEqual((said["/two"].host_path, said["/two"].readonly), (folder, True))
        self.assertEqual(said["/one"].propagation, pb.PROPAGATION_PRIVATE)

    def test_read_only(self):
        folder = self.folder(flag="kept")
        script = "cat /given/flag; echo x > /given/flag"
        end = self.run_to_end(self.one, ["sh", "-c", script], mounts=[at(folder, "/given", readonly=True)])
        self.assertEqual(end.out, "kept\n")
        self.assertIn("Read-only file system", end.err)
        self.assertEqual(read(f"{folder}/flag"), "kept")


class Recursive(Suite):
    """Read-only mounts with a mount of the node below."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.one = cls.class_pod()

    def setUp(self):
        self.assertTrue(handler_features().recursive_read_only_mounts)
        self.path = self.folder()
        below = f"{self.path}/below"
        os.mkdir(below)
        mount("none", below, "tmpfs", 0)
        self.addCleanup(unmount, below)

    def test_the_plain_kind_leaves_what_is_below_writable(self):
        mounts = [at(self.path, "/given", readonly=True)]
        self.output(self.one, "echo x > /given/below/file; ! touch /given/file 2>/dev/null", mounts=mounts)
        self.assertEqual(os.listdir(f"{self.path}/below"), ["file"])

    def test_the_recursive_kind_does_not(self):
        mounts = [at(self.path, "/given", readonly=True, recursive_read_only=True)]
        id = self.create(self.one, ["touch", "/given/below/file"], mounts=mounts)
        self.cri.StartContainer(container_id=id)
        end = self.ended(id)
        self.assertIn("Read-only file system", end.err)
        self.assertEqual(os.listdir(f"{self.path}/below"), [])
        self.assertTrue(end.status.mounts[0].recursive_read_only)

    def test_it_needs_read_only_and_no_propagation(self):
        for fields in (
            {"readonly": False},
            {"readonly": True, "propagation": "PROPAGATION_HOST_TO_CONTAINER"},
            {"readonly": True, "propagation": "PROPAGATION_BIDIRECTIONAL"},
        ):
            with self.subTest(**fields):
                bad = at(self.path, "/given", recursive_read_only=True, **fields)
                self.not_created(self.one, [StatusCode.INVALID_ARGUMENT, StatusCode.UNKNOWN], mounts=[bad])


class Propagation(Suite):
    PRIVILEGED = context(privileged=True)

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.one = cls.class_pod(linux=cls.PRIVILEGED)

    def volume(self, kind):
        """A folder that is a mount of its own with this propagation, with two folders in it."""
        path = self.folder()
        mount(path, path, "none", MS_BIND)
        self.addCleanup(unmount, path)
        mount("none", path, "none", kind | MS_REC)
        for name in ("of-node", "of-container"):
            os.mkdir(f"{path}/{name}")
        return path

    def both_ways(self, kind, propagation):
        """Mounts on either side; whether each is seen on the other."""
        path = self.volume(kind)
        mounts = [at(path, "/given", propagation=propagation)]
        id = self.stay(self.one, mounts=mounts, linux=self.PRIVILEGED)
        self.assertEqual(self.status(id).mounts[0].propagation, pb.MountPropagation.Value(propagation))
        mount("none", f"{path}/of-node", "tmpfs", 0)
        self.addCleanup(unmount, f"{path}/of-node")
        write(f"{path}/of-node/flag", "")
        self.shell(id, "mount -t tmpfs none /given/of-container && touch /given/of-container/flag")
        inward = self.exec(id, "ls", "/given/of-node") == "flag"
        outward = os.listdir(f"{path}/of-container") == ["flag"]
        if outward:
            self.exec(id, "umount", "/given/of-container")
        return inward, outward

    def test_private(self):
        self.assertEqual(self.both_ways(MS_PRIVATE, "PROPAGATION_PRIVATE"), (False, False))

    def test_private_of_a_shared_mount_stays_private(self):
        self.assertEqual(self.both_ways(MS_SHARED, "PROPAGATION_PRIVATE"), (False, False))

    def test_from_the_node_to_the_container(self):
        self.assertEqual(self.both_ways(MS_SHARED, "PROPAGATION_HOST_TO_CONTAINER"), (True, False))

    def test_both(self):
        self.assertEqual(self.both_ways(MS_SHARED, "PROPAGATION_BIDIRECTIONAL"), (True, True))

    def test_what_the_node_does_not_share_cannot_be_propagated(self):
        path = self.volume(MS_PRIVATE)
        codes = [StatusCode.INVALID_ARGUMENT, StatusCode.FAILED_PRECONDITION, StatusCode.UNKNOWN]
        for propagation in ("PROPAGATION_HOST_TO_CONTAINER", "PROPAGATION_BIDIRECTIONAL"):
            with self.subTest(propagation):
                bad = at(path, "/given", propagation=propagation)
                self.not_created(self.one, codes, "shared", mounts=[bad], linux=self.PRIVILEGED)


class ImageVolumes(Suite):
    """Images as read-only folders, as `volumes[].image` of a pod asks for them."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.one = cls.class_pod()
        name = cri.REGISTRY.reference("second/volume", "1")
        first = [("data", 0o755, None), ("data/text", 0o644, b"in the image\n"), ("gone", 0o644, b"")]
        second = [("data/deep", 0o755, None), ("data/deep/leaf", 0o644, b"a leaf\n"), (".wh.gone", 0o644, b"")]
        second.append(("data/out", 0o777, "/etc"))
        cri.REGISTRY.push("second/volume", ["1"], [registry.layer(first), registry.layer(second)])
        cls.ref = cri.cri.PullImage(image={"image": name}).image_ref
        cls.addClassCleanup(cri.cri.RemoveImage, image={"image": name})
        cls.name = name

    def volume(self, **more):
        image = {"image": self.ref, "user_specified_image": self.name}
        return dict({"container_path": "/volume", "image": image, "readonly": True}, **more)

    def test_its_files_are_there_and_stay_as_they_are(self):
        script = "cat /volume/data/text /volume/data/deep/leaf; ls /volume; touch /volume/new || echo refused"
        end = self.run_to_end(self.one, ["sh", "-c", script], mounts=[self.volume()])
        self.assertEqual(end.out, "in the image\na leaf\ndata\nrefused\n")
        self.assertIn("Read-only file system", end.err)

    def test_status_says_which_image_it_is(self):
        id = self.create(self.one, ["true"], mounts=[self.volume()])
        mounts = [one for one in self.status(id).mounts if one.container_path == "/volume"]
        self.assertEqual(len(mounts), 1)
        self.assertEqual(mounts[0].image.image_ref, self.ref)
        self.assertTrue(mounts[0].readonly)

    def test_programs_in_it_run(self):
        image = {"image": cri.IMAGE}
        mounts = [{"container_path": "/volume", "image": image, "readonly": True}]
        self.assertEqual(self.output(self.one, "/volume/bin/busybox echo ran", mounts=mounts), "ran")

    def test_a_part_of_it(self):
        mounts = [self.volume(image_sub_path="data/deep")]
        self.assertEqual(self.output(self.one, "ls /volume; cat /volume/leaf", mounts=mounts), "leaf\na leaf")

    def test_a_part_must_be_there_and_within(self):
        codes = [StatusCode.INVALID_ARGUMENT, StatusCode.NOT_FOUND, StatusCode.UNKNOWN]
        for path in ("nowhere", "../..", "/etc"):
            self.not_created(self.one, codes, mounts=[self.volume(image_sub_path=path)])

    def test_an_image_that_is_not_there(self):
        bad = {"container_path": "/volume", "image": {"image": "127.0.0.1:5000/second/none:1"}, "readonly": True}
        self.not_created(self.one, [StatusCode.NOT_FOUND, StatusCode.UNKNOWN], mounts=[bad])
