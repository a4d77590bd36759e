"""The playbooks over ssh: a check, a run, a second run that changes nothing, and the way back."""

import os
import re
import shlex

from vm.host import REPOSITORY, Failed, attempt, ensure_packages
from vm.node import expect

NEEDS, ORDER = "bare", 40
RECAP = re.compile(r"^node\s.*\bchanged=(\d+).*\bunreachable=(\d+).*\bfailed=(\d+)", re.MULTILINE)


def run(node):
    ensure_packages({"ansible-playbook": "ansible-core"})
    machine = node.machine
    options = " ".join(shlex.quote(word) for word in machine.ssh_arguments())
    variables = {
        "ansible_host": "127.0.0.1",
        "ansible_port": machine.port,
        "ansible_user": "root",
        "ansible_python_interpreter": "/usr/bin/python3",
        "ansible_ssh_common_args": options,
    }
    line = " ".join(f"{key}={shlex.quote(str(value))}" for key, value in variables.items())
    (machine.folder / "inventory").write_text(f"node {line}\n")
    check = play(machine, "node.yml", "--check")
    expect(check > 0, "a check of a bare machine finds nothing to do")
    first = play(machine, "node.yml")
    expect(first > 0, "the playbook changed nothing on a bare machine")
    node.expect_healthy()
    again = play(machine, "node.yml")
    expect(again == 0, f"a second run changed {again}")
    back = play(machine, "uninstall.yml")
    expect(back > 0, "the way back changed nothing")
    expect(play(machine, "uninstall.yml") == 0, "a second uninstall changed something")
    node.repeated += 2
    print(f"ansible: changed={first}, again changed={again}", flush=True)


def play(machine, book, *arguments):
    """Runs a playbook on the machine; how many of its tasks changed something."""
    binary = f"crio_setup_binary={machine.seed['crio-setup'].resolve()}"
    argv = ["ansible-playbook", "-i", "inventory", REPOSITORY / "playbook-tests" / book, "-e", binary, *arguments]
    quiet = {"ANSIBLE_NOCOLOR": "1", "PYTHONDONTWRITEBYTECODE": "1", "LC_ALL": "C.UTF-8", "ANSIBLE_PIPELINING": "1"}
    ours = {"HOME": str(machine.folder), "ANSIBLE_SSH_ARGS": "-C"}
    done = attempt(argv, 900, cwd=machine.folder, env=os.environ | quiet | ours)
    found = RECAP.search(done.stdout)
    if done.returncode != 0 or not found or found[2] != "0" or found[3] != "0":
        raise Failed(f"`{book}` ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return int(found[1])
