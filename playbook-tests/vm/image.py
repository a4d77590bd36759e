"""The disk that machines start from: a Debian with systemd, ssh and a kernel, made by mmdebstrap.

No mount and no boot is needed to make it: mke2fs fills the file system from a folder, and a kernel with a
busybox initrd of our own is handed to QEMU beside the disk. What a machine writes goes to an overlay of its
own, so one disk serves any number of machines at once. It is made anew when this folder's files have changed.
"""

import fcntl
import hashlib
import pathlib
import shutil
import tempfile

from . import cloud, mirror, oci
from .host import Failed, Stopwatch, attempt, cache, locked, run

SUITES = {"12": "bookworm", "13": "trixie"}
SIZE = "6G"

# What a cloud image of the distribution has too, as far as it matters here; a registry and a client of redis; and
# what the image of redis and the suite of CRI tests are made of. (Merged by `usrmerge`, /usr would cost a perl.)
PACKAGES = (
    "usr-is-merged systemd-sysv dbus udev kmod openssh-server sudo iproute2 procps apparmor ca-certificates python3"
    " docker-registry redis-server busybox-static openssl"
).split()
# What an image with cloud-init has besides.
CLOUD = "cloud-init curl".split()
# What the machine's own mirror has, with what it depends on, and docker's client where that is a package of its own.
MIRRORED = "runc containernetworking-plugins docker.io iptables".split()

# Timers would be at work in the middle of a test; the wait for the network would be for every bridge.
MASKED = (
    "apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service"
    " fstrim.timer systemd-networkd-wait-online.service docker-registry.service redis-server.service"
    # Modules that nothing here has a use for; a second of the boot for each.
    " modprobe@dm_mod.service modprobe@drm.service modprobe@efi_pstore.service modprobe@loop.service"
).split()
# Started at every reload of systemd, a dozen times in an install and its way back; none finds anything on this machine.
GENERATORS = (
    "cryptsetup debug fstab gpt-auto hibernate-resume integritysetup rc-local run system-update veritysetup"
).split()
# As the distribution's images for containers: every third file of a small system is one that nobody reads here.
UNREAD = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/info/*", "/usr/share/locale/*", "/usr/share/lintian/*")
# Profiles of packages that are not there; their compilation is a good part of a boot.
UNUSED_PROFILES = ("lsb_release", "nvidia_modprobe")

# Loaded in the initrd, with what they need; everything else is udev's work.
MODULES = ("virtio_pci", "virtio_blk", "ext4")

NETWORK = """[Match]
Name=eth0
[Network]
Address=10.0.2.15/24
Gateway=10.0.2.2
DNS=10.0.2.3
"""

# Says on the console that ssh answers: the event that whoever boots the machine waits for.
ANNOUNCE = """[Unit]
Description=Says on the console that ssh answers
After=ssh.service systemd-networkd.service
Requires=ssh.service

[Service]
Type=oneshot
ExecStart=/bin/sh -c 'echo "@vm ssh is up@" >/dev/ttyS0'

[Install]
WantedBy=multi-user.target
"""

# Its mounts and whatever it starts end with it, also when it is killed.
PRIVATE = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]

# The kernel (the metapackage depends on that of today), and what is not installed yet.
FETCH = r"""set -e
cd "$1"
export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"
kernel=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/.*Depends: \(linux-image-[0-9]\)/\1/p' | head -n 1)
apt-get download -q "$kernel"
mkdir -p "$1/srv/mirror/partial"
client=$(apt-cache depends docker.io | sed -n 's/.*Recommends: \(docker-cli\)$/\1/p')
apt-get -q -y --no-install-recommends --download-only -o Dir::Cache::archives="$1/srv/mirror" install PACKAGES $client
rm -r "$1/srv/mirror/partial" "$1/srv/mirror/lock"
""".replace("PACKAGES", " ".join(MIRRORED))

INITRD = """#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
for module in $(/bin/busybox cat /modules/order); do
    /bin/busybox insmod /modules/$module || echo "no $module"
done
/bin/busybox mount -t ext4 -o rw /dev/vda /root || exec /bin/busybox sh
/bin/busybox mount --move /dev /root/dev
exec /bin/busybox switch_root /root /sbin/init
"""

# Reached by those machines that may, see proxy.py.
APT = 'Acquire::http::Proxy "http://10.0.2.100:3128";\nAcquire::http::Pipeline-Depth "0";\n'
APT += 'Acquire::Check-Valid-Until "false";\nAcquire::Check-Date "false";\n'
# A few packages in a folder: with the lists of a whole distribution, apt alone takes minutes in emulation.
MIRROR = "deb [trusted=yes] file:/srv/mirror ./\n"
# Where the distribution's own sources are kept.
SOURCES = "srv/sources.list"
# A mirror may be a frozen one.
FROZEN = ('Acquire::Check-Valid-Until "false"', 'Acquire::Check-Date "false"')


class Image:
    """A finished image: a folder with `disk.img`, `vmlinuz`, `initrd`, `key` and `mirrors`."""

    def __init__(self, folder, release):
        self.folder = folder
        self.release = release
        self.disk = folder / "disk.img"
        self.kernel = folder / "vmlinuz"
        self.initrd = folder / "initrd"
        self.key = folder / "key"
        self.hosts = folder / "known_hosts"
        self.mirrors = folder / "mirrors"
        # Held as long as this object lives: see `remove_unused`.
        self.lock = open(self.disk, "rb")
        fcntl.flock(self.lock, fcntl.LOCK_SH)


def image(release, rebuild=False, first_boot=False):
    """The image of a Debian release (`12`, `13`), or that with cloud-init; built where there is none of these sources."""
    if release not in SUITES:
        raise Failed(f"there is no image of Debian {release}, only of {', '.join(SUITES)}")
    kind = f"{release}cloud" if first_boot else release
    with locked(cache() / f"debian{kind}.lock"):
        folder = cache() / f"debian{kind}-{fingerprint()}"
        if rebuild:
            shutil.rmtree(folder, ignore_errors=True)
        # Of a run that was killed; whoever builds now holds the lock.
        for broken in cache().glob(f"building-{kind}-*"):
            shutil.rmtree(broken)
        if not folder.exists():
            for old in cache().glob(f"debian{kind}-*"):
                remove_unused(old)
            print(f"building the image of Debian {release}{' with cloud-init' if first_boot else ''}", flush=True)
            watch = Stopwatch()
            with tempfile.TemporaryDirectory(dir=cache(), prefix=f"building-{kind}-") as work:
                build(pathlib.Path(work), SUITES[release], first_boot)
                (pathlib.Path(work) / "image").rename(folder)
            print(f"built in {watch}", flush=True)
        return Image(folder, release)


def remove_unused(folder):
    """Removes an image of older sources, unless machines of another run stand on it."""
    with open(folder / "disk.img", "rb") as disk:
        try:
            fcntl.flock(disk, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        shutil.rmtree(folder)


def fingerprint():
    """Changes with every file that decides what is in an image."""
    digest = hashlib.sha256()
    here = pathlib.Path(__file__).parent
    for name in ("image.py", "cloud.py", "mirror.py", "oci.py"):
        digest.update((here / name).read_bytes())
    return digest.hexdigest()[:16]


def sources(suite):
    """Lines for sources.list from the mirrors that this machine uses; none: mmdebstrap knows some."""
    found = {}
    form = "$(LABEL)|$(REPO_URI)|$(COMPONENT)"
    listed = attempt(["apt-get", "indextargets", "--format", form, "Created-By: Packages"])
    for line in listed.stdout.splitlines():
        label, uri, component = line.split("|")
        if component == "main" and uri.startswith("http://"):
            found.setdefault(label, uri)
    if "Debian" not in found:
        return []
    lines = [f"deb {found['Debian']} {name} main" for name in (suite, f"{suite}-updates")]
    if "Debian-Security" in found:
        lines.append(f"deb {found['Debian-Security']} {suite}-security main")
    return lines


def build(work, suite, with_cloud_init):
    """Makes `image` in the folder `work`."""
    root, out = work / "root", work / "image"
    out.mkdir()
    key = out / "key"
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "tests", "-f", key])
    options = [f"--aptopt={option}" for option in FROZEN]
    options += [f"--dpkgopt=path-exclude={pattern}" for pattern in UNREAD]
    packages = ",".join(PACKAGES + CLOUD if with_cloud_init else PACKAGES)
    tree = ["--variant=minbase", f"--include={packages}", f"--customize-hook={FETCH}", suite, root]
    run([*PRIVATE, "mmdebstrap", "--quiet", "--mode=root", *options, *tree, *sources(suite)], 1200)
    mirror.index(root / "srv/mirror")
    oci.fill_registry(root / "srv/registry", work, root)
    configure(root, key)
    if with_cloud_init:
        cloud.configure(root)
    (out / "mirrors").write_text("\n".join(hosts(root)) + "\n")
    public = (root / "etc/ssh/ssh_host_ed25519_key.pub").read_text()
    (out / "known_hosts").write_text(f"node {public}")
    version = kernel(root, work / "kernel", out / "vmlinuz")
    initrd(root, version, work, out / "initrd")
    run(["mke2fs", "-q", "-t", "ext4", "-L", "root", "-d", root, out / "disk.img", SIZE], 600)


def kernel(root, unpacked, target):
    """Puts the kernel and its modules where they belong; its version.

    It is unpacked and not installed: that would bring the tools for an initrd, and run them.
    """
    package = next(root.glob("linux-image-*.deb"))
    run(["dpkg-deb", "-x", package, unpacked])
    package.unlink()
    image = next((unpacked / "boot").glob("vmlinuz-*"))
    version = image.name.removeprefix("vmlinuz-")
    shutil.copy(image, target)
    modules = next(path for path in unpacked.rglob("modules") if path.is_dir())
    shutil.copytree(modules / version, root / "usr/lib/modules" / version, symlinks=True)
    run(["chroot", root, "depmod", version])
    return version


def configure(root, key):
    """Writes what a booted machine needs into its tree."""
    def write(path, text, mode=0o644):
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        target.chmod(mode)

    write("etc/hostname", "node\n")
    write("etc/hosts", "127.0.0.1 localhost\n127.0.1.1 node\n")
    write("etc/fstab", "")
    write("etc/machine-id", "")
    write("etc/systemd/network/10-eth0.network", NETWORK)
    write("etc/systemd/system/announce.service", ANNOUNCE)
    write("etc/resolv.conf", "nameserver 10.0.2.3\n")
    write("etc/apt/apt.conf.d/zz-test-mirror", APT)
    shutil.move(root / "etc/apt/sources.list", root / SOURCES)
    write("etc/apt/sources.list", MIRROR)
    write("etc/ssh/sshd_config.d/10-test.conf", "UseDNS no\nPasswordAuthentication no\nMaxSessions 50\n")
    write("root/.ssh/authorized_keys", key.with_suffix(".pub").read_text(), 0o600)
    (root / "root/.ssh").chmod(0o700)
    units = root / "etc/systemd/system"
    for unit in MASKED:
        (units / unit).unlink(missing_ok=True)
        (units / unit).symlink_to("/dev/null")
    generators = root / "etc/systemd/system-generators"
    generators.mkdir()
    for name in GENERATORS:
        (generators / f"systemd-{name}-generator").symlink_to("/dev/null")
    for name in UNUSED_PROFILES:
        if (root / "etc/apparmor.d" / name).exists():
            (root / "etc/apparmor.d/disable" / name).symlink_to(f"../{name}")
    run(["chroot", root, "systemctl", "-q", "enable", "systemd-networkd", "ssh", "announce"])


def hosts(root):
    """The hosts that packages come from, as the tree's own sources name them."""
    words = (root / SOURCES).read_text().split()
    return sorted({word.split("/")[2] for word in words if word.startswith("http")})


def initrd(root, version, work, target):
    """A busybox and the few modules that lead to the root file system."""
    tree = work / "initrd"
    for folder in ("bin", "dev", "modules", "root"):
        (tree / folder).mkdir(parents=True)
    shutil.copy("/bin/busybox", tree / "bin/busybox")
    order = []
    for module in MODULES:
        # Lines are `insmod PATH` or `builtin NAME`.
        needed = run(["chroot", root, "modprobe", "-S", version, "--show-depends", module])
        for line in needed.splitlines():
            path = pathlib.Path(line.split()[1])
            name = path.name.removesuffix(".xz")
            if not line.startswith("insmod") or name in order:
                continue
            order.append(name)
            source = root / str(path).lstrip("/")
            shutil.copy(source, tree / "modules" / path.name)
            if path.suffix == ".xz":
                run(["xz", "-d", tree / "modules" / path.name])
    (tree / "modules/order").write_text("\n".join(order) + "\n")
    (tree / "init").write_text(INITRD)
    (tree / "init").chmod(0o755)
    names = "\n".join(str(path.relative_to(tree)) for path in sorted(tree.rglob("*")))
    run(["sh", "-c", f"busybox cpio -o -H newc >'{target}'"], cwd=tree, input=names)
