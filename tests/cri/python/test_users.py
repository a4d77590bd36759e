"""As whom a container runs."""

import os

from grpc import StatusCode

import cri
from cri import Suite, context, pb


def user(uid, **more):
    return context(run_as_user={"value": uid}, **more)


class Users(Suite):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.one = cls.class_pod()

    def ids(self, linux, image=None):
        """uid, gid and all groups, as the process and as the status have them."""
        fields = {"linux": linux}
        if image:
            fields["image"] = {"image": image}
        end = self.run_to_end(self.one, ["sh", "-c", "id -u; id -g; id -G"], **fields)
        self.assertEqual(end.status.exit_code, 0, end.err)
        uid, gid, groups = end.out.splitlines()
        said = end.status.user.linux
        found = (int(uid), int(gid), sorted({int(group) for group in groups.split()}))
        self.assertEqual((said.uid, said.gid), found[:2])
        self.assertEqual(sorted(set(said.supplemental_groups) | {said.gid}), found[2])
        return found

    def test_root_unless_told_otherwise(self):
        self.assertEqual(self.ids(context()), (0, 0, [0]))

    def test_a_number(self):
        self.assertEqual(self.ids(user(1001)), (1001, 0, [0]))

    def test_a_number_that_the_image_knows_brings_its_groups(self):
        self.assertEqual(self.ids(user(1234)), (1234, 1235, [1235, 50000]))

    def test_a_name_is_the_image_s(self):
        self.assertEqual(self.ids(context(run_as_username="worker")), (1234, 1235, [1235, 50000]))
        self.assertEqual(self.ids(context(run_as_username="nobody"))[0], 65534)

    def test_a_name_that_the_image_does_not_know(self):
        codes = [StatusCode.INVALID_ARGUMENT, StatusCode.NOT_FOUND, StatusCode.UNKNOWN]
        self.not_created(self.one, codes, "no-such-user", linux=context(run_as_username="no-such-user"))

    def test_a_group(self):
        self.assertEqual(self.ids(user(1001, run_as_group={"value": 1002})), (1001, 1002, [1002]))
        # The given group takes the place of the image's; those that the image adds stay.
        self.assertEqual(self.ids(user(1234, run_as_group={"value": 7})), (1234, 7, [7, 50000]))

    def test_a_group_without_a_user_is_refused(self):
        codes = [StatusCode.INVALID_ARGUMENT, StatusCode.UNKNOWN]
        message = self.not_created(self.one, codes, linux=context(run_as_group={"value": 1002}))
        self.assertIn("run_as_group", message)

    def test_added_groups(self):
        self.assertEqual(self.ids(context(supplemental_groups=[1234, 5678])), (0, 0, [0, 1234, 5678]))

    def test_added_groups_merge_with_the_image_s(self):
        for fields in ({}, {"supplemental_groups_policy": "Merge"}):
            linux = user(1234, run_as_group={"value": 50050}, supplemental_groups=[60000], **fields)
            self.assertEqual(self.ids(linux), (1234, 50050, [50000, 50050, 60000]))

    def test_strict_groups_are_only_those_given(self):
        linux = user(
            1234,
            run_as_group={"value": 50050},
            supplemental_groups=[60000],
            supplemental_groups_policy="Strict",
        )
        self.assertEqual(self.ids(linux), (1234, 50050, [50050, 60000]))

    def test_the_image_s_user(self):
        for number, (word, expected) in enumerate(
            [
                ("worker", (1234, 1235, [1235, 50000])),
                ("1234", (1234, 1235, [1235, 50000])),
                ("1001:50001", (1001, 50001, [50001])),
                ("worker:extra", (1234, 50000, [50000])),
                ("4000", (4000, 0, [0])),
            ]
        ):
            with self.subTest(word):
                name = cri.REGISTRY.reference("second/user", f"v{number}")
                config = {"User": word, "Env": ["PATH=/bin"]}
                cri.REGISTRY.push("second/user", [f"v{number}"], [cri.BASE], config)
                self.cri.PullImage(image={"image": name})
                self.addCleanup(self.cri.RemoveImage, image={"image": name})
                self.assertEqual(self.ids(context(), name), expected)

    def test_the_config_s_user_wins_over_the_image_s(self):
        name = cri.REGISTRY.reference("second/user", "over")
        cri.REGISTRY.push("second/user", ["over"], [cri.BASE], {"User": "worker", "Env": ["PATH=/bin"]})
        self.cri.PullImage(image={"image": name})
        self.addCleanup(self.cri.RemoveImage, image={"image": name})
        self.assertEqual(self.ids(user(0), name), (0, 0, [0]))

    def test_the_container_s_files_are_the_user_s(self):
        folder = self.folder()
        os.chmod(folder, 0o777)
        mounts = [{"host_path": folder, "container_path": "/given"}]
        linux = user(1234, run_as_group={"value": 77})
        self.output(self.one, "touch /given/file", mounts=mounts, linux=linux)
        there = os.stat(f"{folder}/file")
        self.assertEqual((there.st_uid, there.st_gid), (1234, 77))

    def test_status_of_a_created_container_says_it_too(self):
        id = self.create(self.one, ["true"], linux=user(1234))
        said = self.status(id).user.linux
        self.assertEqual((said.uid, said.gid), (1234, 1235))
        self.assertEqual(self.status(id).state, pb.CONTAINER_CREATED)
