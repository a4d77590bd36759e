"""What makes a machine's disk one of a cloud: cloud-init with a disk of user-data, and a first boot that is a busy one."""

# As a vendor's image says what user-data need not: keys, sources and network are there and stay.
CONFIG = """datasource_list: [NoCloud]
network: {config: disabled}
users: []
disable_root: false
ssh_deletekeys: false
apt: {preserve_sources_list: true}
locale: false
resize_rootfs: false
growpart: {mode: "off"}
"""

# Holds dpkg's lock, as unattended upgrades do at a first boot, until somebody waits for it; then the clock is set.
BUSY = """import fcntl, os, socket, sys, time

with open("/var/lib/dpkg/lock-frontend", "a") as lock:
    fcntl.lockf(lock, fcntl.LOCK_EX)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.connect(os.environ["NOTIFY_SOCKET"])
        systemd.send(b"READY=1")
    inode = ":%d " % os.fstat(lock.fileno()).st_ino
    end = time.monotonic() + 900
    # The kernel lists who waits with an arrow, and tells of it in no other way.
    while not any("->" in line and inode in line for line in open("/proc/locks")):
        if time.monotonic() > end:
            sys.exit("nobody waits")
        time.sleep(0.2)
    before = time.time()
    words = open("/proc/cmdline").read().split()
    time.clock_settime(time.CLOCK_REALTIME, float(next(word for word in words if word.startswith("busy=")).partition("=")[2]))
    print("a node already" if os.path.exists("/usr/sbin/runc") else "waited for", int(time.time() - before), flush=True)
"""
UNIT = """[Unit]
Description=Holds the lock of dpkg at a first boot, then sets the clock
Before=cloud-final.service
ConditionKernelCommandLine=busy

[Service]
Type=notify
ExecStart=/usr/bin/python3 /usr/local/sbin/busy
RemainAfterExit=yes

[Install]
WantedBy=multi-user.target
"""


def configure(root):
    """Writes this into the tree of an image that has cloud-init."""
    (root / "etc/cloud/cloud.cfg.d/99-test.cfg").write_text(CONFIG)
    (root / "usr/local/sbin/busy").write_text(BUSY)
    (root / "etc/systemd/system/busy.service").write_text(UNIT)
    wanted = root / "etc/systemd/system/multi-user.target.wants"
    (wanted / "busy.service").symlink_to("/etc/systemd/system/busy.service")
