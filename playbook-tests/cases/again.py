"""A second install changes nothing: no file's time, no unit's start."""

from vm.node import expect

NEEDS, ORDER = "node", 2


def run(node):
    node.expect_unchanged()
    pending = node.ssh("crio-setup plan --detailed-exitcode >/dev/null 2>&1; echo $?")
    expect(pending == "0", f"`plan --detailed-exitcode` ended with {pending}")
    node.expect_healthy()
    node.state = "node"
