"""What the cases do on a machine: install, look at it, run pods, compare pictures of it."""

import contextlib
import json
import pathlib
import re

from .host import REPOSITORY, Failed

UPLOAD = "/usr/local/src/crio-setup"
INSTALL = 900
# What the tutorial's pod is reached by.
ADDRESS = "10.88.0.2"
READY = "Ready to accept connections"

MIRROR = """[[registry]]
location = "docker.io"
[[registry.mirror]]
location = "127.0.0.1:5000"
insecure = true
"""

REGISTRY = """version: 0.1
log: { level: warn }
storage: { filesystem: { rootdirectory: /srv/registry } }
http: { addr: '127.0.0.1:5000' }
"""

# Pings a redis as often as it can; a line for each that fails, and one for all at the end.
PINGS = """n=0
while [ ! -e /run/enough ]; do
    for address in ADDRESSES; do
        n=$((n + 1))
        said=$(timeout 10 redis-cli -h $address ping 2>&1)
        [ "$said" = PONG ] || echo "ping $n of $address: $said" >>/run/pings
    done
    sleep 0.1
done
echo "asked $n times" >>/run/pings
"""

# Lines of `path TAB kind mode owner link`, and with times `TAB mtime size`, of the root file system. Owners are numbers:
# for their names find would read the accounts anew at every file, which is most of its time.
FILES = r"""find / -xdev \( {pruned} \) -prune -o -printf '%p\t%y %m %U:%G %l{times}\n'"""
# Written by whatever runs, with or without us.
RESTLESS = (
    "/tmp/* /var/tmp/* /var/log/* /var/lib/systemd/* /var/lib/private/* /root/.ansible /root/.bash_history"
    " /var/lib/dhcp/* /etc/resolv.conf /var/cache/* /var/lib/apt/* /var/lib/dpkg/* /usr/lib/modules/*/kernel"
).split()
# Besides files: one line of text per thing, each kind under its heading. Which units are enabled or masked, the files say
# (links below /etc/systemd); systemd's own answer to that takes longer in emulation than the bus waits.
SURROUNDINGS = r"""
for f in /etc/passwd /etc/group /etc/hosts /etc/shells; do sort $f | sed "s|^|$f |"; done
dpkg-query -W -f 'package ${Package} ${db:Status-Status}\n'
ip -o link | sed -E 's/^[0-9]+: ([^:@]+).*/link \1/'
ip -o route show table all | sed -E 's/ expires [0-9]+sec//; s/^/route /'
ip -o rule | sed 's/^/rule /'
for key in net.ipv4.ip_forward net.ipv6.conf.all.forwarding; do echo "sysctl $key $(sysctl -n $key)"; done
if command -v nft >/dev/null; then nft list ruleset | sed 's/^/nft /'; fi
systemctl list-units --no-legend --plain --type=service --state=running | awk '{print "service", $1}'
find /sys/fs/cgroup -mindepth 1 -maxdepth 1 -type d | sed 's/^/cgroup /'
ls /run | sed 's/^/run /'
ls /run/systemd/system 2>/dev/null | sed 's/^/transient /'
"""


class Node:
    """A machine, and the build that is under test on it: `crio-setup` of its seed."""

    def __init__(self, machine):
        self.machine = machine
        self.ssh = machine.ssh
        # `bare`, `node` once installed, `used` when nothing may be taken for granted.
        self.state = "bare"
        # Pictures of the bare machine.
        self.before = None
        # How many things of a case were done a second time, and changed nothing.
        self.repeated = 0

    def boot(self):
        """Switches the machine on and puts the build on it."""
        self.machine.boot()
        self.machine.copy("crio-setup", UPLOAD)

    def first_install(self):
        """Makes a node of the bare machine, having looked at it; the report."""
        self.before = (self.files(), self.surroundings())
        self.state = "used"
        report = self.install()
        self.state = "node"
        return report

    def install(self, arguments=""):
        """Runs `install`; its report."""
        return json.loads(self.ssh(f"{UPLOAD} install --output json {arguments}", INSTALL))

    def expect_healthy(self, units=("ocid", "docker")):
        """These services up, nothing changed since it was written, and the daemon ready."""
        said = self.ssh("crio-setup status --deep --output json", 300, check=False)
        report = json.loads(said)
        expect(report["installed"] and report["healthy"], f"not healthy: {said}")
        for unit in units:
            for question in ("is-active", "is-enabled"):
                state = self.ssh(f"systemctl {question} {unit}", check=False)
                expect(state in ("active", "enabled"), f"`systemctl {question} {unit}` says `{state}`")
        state = self.ssh("systemctl is-system-running", check=False)
        failed = self.ssh("systemctl list-units --failed --no-legend", check=False)
        expect(state == "running", f"systemd is {state}: {failed}")

    def expect_unchanged(self, arguments=""):
        """Another `install` with these arguments finds nothing to do and touches nothing."""
        units, files = self.units(), self.files(times=True)
        report = self.install(arguments)
        changed = [step for step in report["steps"] if step["state"] == "changed"]
        expect(report["changed"] == 0, f"the second install changed {changed}")
        expect(self.units() == units, f"units were restarted: {units} became {self.units()}")
        compare(files, self.files(times=True), "the second install")
        self.repeated += 1
        print(f"a second install: changed=0 in {report['duration_ms'] / 1000:.1f} s", flush=True)

    def units(self):
        """Which start of which unit is running."""
        return self.ssh("systemctl show -p Id,InvocationID,NRestarts,MainPID ocid docker")

    def files(self, times=False):
        """Path to kind, mode, owner and link of every file of the root file system, or with time and size."""
        pruned = " -o ".join(f"-path '{path}'" for path in RESTLESS)
        script = FILES.format(pruned=pruned, times=r"\t%T@ %s" if times else "")
        lines = (line.partition("\t") for line in self.ssh(script, 300).splitlines())
        return {path: rest for path, _, rest in lines}

    def surroundings(self):
        """What there is besides files: a set of lines, the kind first."""
        return set(self.ssh(SURROUNDINGS, 300).splitlines())

    def registry(self):
        """Serves the machine's images on its loopback, as docker.io too; stays until it is switched off."""
        if self.ssh("systemctl is-active registry", check=False) == "active":
            return
        self.ssh("cat >/srv/registry.yml", data=REGISTRY)
        self.ssh("mkdir -p /etc/containers && cat >/etc/containers/registries.conf", data=MIRROR)
        self.ssh("systemd-run -q --unit registry docker-registry serve /srv/registry.yml")
        self.await_text("true </dev/tcp/127.0.0.1/5000 && echo listens", "listens")

    def redis(self, arguments=None, **sandbox):
        """The tutorial's pod by the README's commands, its configuration changed by `sandbox`; ids of pod and container."""
        container = json.loads((REPOSITORY / "examples/container_redis.json").read_text())
        if arguments:
            container["args"] = arguments
        pod_id, container_id = self.pod(container, **sandbox)
        self.await_text(f"ocic ctr logs --id {container_id}", READY)
        return pod_id, container_id

    def pod(self, container, **sandbox):
        """The tutorial's pod with another container, started; ids of both."""
        self.registry()
        config = json.loads((REPOSITORY / "examples/sandbox_config.json").read_text())
        for key, value in sandbox.items():
            config[key] = config.get(key, {}) | value if isinstance(value, dict) else value
        self.ssh("mkdir -p examples && cat >examples/sandbox_config.json", data=json.dumps(config))
        self.ssh("cat >examples/container.json", data=json.dumps(container))
        pod_id = self.ssh("ocic pod create --config examples/sandbox_config.json", 300)
        created = f"ocic ctr create --pod {pod_id} --config examples/container.json"
        container_id = self.ssh(created, 300).splitlines()[-1]
        self.ssh(f"ocic ctr start --id {container_id}", 120)
        return pod_id, container_id

    def remove_pod(self, pod_id):
        self.ssh(f"ocic pod stop --id {pod_id} && ocic pod remove --id {pod_id}", 120)

    def address(self, pod_id):
        """A pod's first address."""
        return self.addresses(pod_id)[0]

    def addresses(self, pod_id):
        """All of a pod's addresses."""
        network = json.loads(self.ssh(f"ocic pod status --id {pod_id} --output json"))["status"]["network"]
        return [network["ip"], *(more["ip"] for more in network.get("additionalIps", []))]

    def ping(self, address=ADDRESS):
        """Redis answers on its pod's address."""
        said = self.ssh(f"redis-cli -h {address} ping 2>&1", check=False)
        expect(said == "PONG", f"redis on {address} says `{said}`")

    def ask_from(self, container_id, address):
        """Redis answers another container."""
        said = self.ssh(f"ocic exec --sync {container_id} redis-cli -h {address} ping 2>&1", check=False)
        expect(said == "PONG", f"redis on {address} says to a pod `{said}`")

    @contextlib.contextmanager
    def asked_throughout(self, *addresses):
        """Redis answers on all its addresses, at any time until this is left."""
        script = PINGS.replace("ADDRESSES", " ".join(addresses or (ADDRESS,)))
        self.ssh("rm -f /run/enough /run/pings; cat >/root/pings", data=script)
        self.ssh("systemd-run -q --unit pings sh /root/pings")
        yield
        self.ssh("touch /run/enough")
        self.await_text("cat /run/pings", "asked ")
        said = self.ssh("cat /run/pings; rm /run/pings /run/enough /root/pings").splitlines()
        expect(len(said) == 1 and int(said[0].split()[1]) > 5, f"redis did not answer all the time: {said}")
        print(f"redis: {said[0]}, answered each time", flush=True)

    def await_text(self, script, text):
        """Runs a script on the machine again and again until it prints `text`, for a minute."""
        loop = f"for i in $(seq 120); do out=$({script} 2>&1); case $out in *'{text}'*) exit 0;; esac; sleep 0.5; done"
        self.ssh(f'{loop}; echo "never \\`{text}\\`, but: $out"; exit 1', 300)

    def inspect(self, container_id):
        """The verbose status of a container."""
        return json.loads(self.ssh(f"ocic ctr status --id {container_id} --output json"))

    def process(self, container_id):
        """The first process of a container."""
        return self.ssh(f"cat /run/ocid/containers/{container_id}/pidfile")


def expect(holds, otherwise):
    """Fails with a text unless something holds."""
    if not holds:
        raise Failed(otherwise)


def compare(before, after, who, explained=()):
    """Two pictures, dicts or sets, must be the same but for what the patterns explain."""
    def pairs(picture):
        return set(picture.items()) if isinstance(picture, dict) else {(line, "") for line in picture}

    found = []
    for sign, these in (("+", pairs(after) - pairs(before)), ("-", pairs(before) - pairs(after))):
        for name, rest in sorted(these):
            if not any(re.search(pattern, name) for pattern in explained):
                found.append(f"{sign} {name} {rest}".rstrip())
    if found:
        raise Failed(f"{who} made a difference:\n  " + "\n  ".join(found[:60]))


def newest_build():
    """The newest release build of this repository."""
    builds = [*REPOSITORY.glob("target/release/crio-setup"), *REPOSITORY.glob("target/*/release/crio-setup")]
    if not builds:
        raise Failed("there is no build to install: run `cargo build --release`, or name one with `--binary`")
    return pathlib.Path(max(builds, key=lambda path: path.stat().st_mtime))
