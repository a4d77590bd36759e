"""What the Vagrantfile runs in its machine: a node with redis at the machine's port, and nothing done by a second run."""

from vm.host import REPOSITORY
from vm.node import UPLOAD, expect

NEEDS, ORDER = "bare", 45
IMAGE = "docker.io/library/redis:7-alpine"
# Where Vagrant puts a script before it runs it, and the program for the first one, which removes it.
SCRIPT, PROGRAM = "/tmp/vagrant-shell", "/tmp/crio-setup"
PING = "exec 3<>/dev/tcp/127.0.0.1/6379; echo PING >&3; head -n 1 <&3"


def run(node):
    said = install(node)
    expect("changed: 0" not in said, f"a fresh install changed nothing: {said}")
    node.registry()
    expect_redis(node, "redis answers")
    node.ping()
    node.expect_healthy()

    # Provisioned again.
    units, containers = node.units(), node.ssh("ocic ps --quiet")
    said = install(node)
    expect("changed: 0" in said, f"a second install changed something: {said}")
    expect_redis(node, "redis answers, as before")
    expect(node.units() == units, f"units were restarted: {units} became {node.units()}")
    expect(node.ssh("ocic ps --quiet") == containers, "redis is another container")
    node.repeated += 1

    # Off and on again: the pod is gone with its processes, and the provisioner that always runs makes another.
    node.machine.reboot()
    node.registry()
    expect_redis(node, "redis answers")


def install(node):
    """The first provisioner, with the program where Vagrant puts it; what it says."""
    node.ssh(f"cp {UPLOAD} {PROGRAM}")
    said = provision(node, "install", f"build {PROGRAM}", 900)
    expect(node.ssh(f"test ! -e {PROGRAM} && echo gone", check=False) == "gone", "the upload is still there")
    return said


def expect_redis(node, words):
    """The second provisioner says this, and redis answers at the machine's own port."""
    said = provision(node, "redis", IMAGE, 300)
    expect(said == words, f"the second provisioner says `{said}`")
    said = node.ssh(f"bash -c '{PING}'")
    expect(said == "+PONG", f"redis at the machine's port says `{said}`")


def provision(node, name, arguments, limit):
    """Runs a script of `vagrant/` as Vagrant does; what it says."""
    node.ssh(f"cat >{SCRIPT} && chmod 755 {SCRIPT}", data=(REPOSITORY / "vagrant" / name).read_text())
    return node.ssh(f"{SCRIPT} {arguments}", limit)
