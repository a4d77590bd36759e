#!/usr/bin/env bash
# A throwaway machine: the host's own root, read through an overlay whose writes live in memory, with
# mount, pid, net, ipc, uts and cgroup namespaces of its own. It ends when its standard input closes,
# so also when the test that holds the other end is killed; the kernel then takes every process,
# mount, interface, rule and file with it. Only the (empty) cgroup folders are left to the caller.
#
#   machine.sh outside NAME INIT [BIND...]   make and enter the cgroups, unshare, go on with `inside`
#   machine.sh inside NAME INIT [BIND...]    build the root, pivot, say `ready`, become INIT
#
# INIT: `shell`, a shell that waits and reaps, or `systemd`, which tells /run/host/notify when it is up.
# MACHINE_ROOT in the environment: the tree of an image in the place of the host's root. What it has enabled stays so.
# BIND: a folder that must be seen inside under the same path, or as `OUTSIDE:INSIDE`.
set -euo pipefail
stage=$1 name=$2 init=$3 lower=${MACHINE_ROOT:-/}
shift 3

# Every cgroup mount of the host once, as `folder type options`.
hierarchies() {
    while read -r _ dir type opts _; do
        case $type in
        cgroup)
            local keep='' o
            for o in ${opts//,/ }; do
                case $o in
                rw | ro | nosuid | nodev | noexec | relatime | seclabel | xattr | clone_children | release_agent=*) ;;
                name=*) keep=none,$o ;;
                *) keep=${keep:+$keep,}$o ;;
                esac
            done
            echo "$dir cgroup $keep"
            ;;
        cgroup2) echo "$dir cgroup2 -" ;;
        esac
    done </proc/self/mounts | sort -u -k1,1
}

if [ "$stage" = outside ]; then
    while read -r dir type _; do
        mkdir "$dir/$name"
        # A cpuset without CPUs takes no process; a new one has none.
        if [ -e "$dir/$name/cpuset.mems" ] && [ "$type" = cgroup ]; then
            cat "$dir/cpuset.cpus" >"$dir/$name/cpuset.cpus"
            cat "$dir/cpuset.mems" >"$dir/$name/cpuset.mems"
        fi
        echo $$ >"$dir/$name/cgroup.procs"
    done < <(hierarchies)
    # Only the end of input counts. Should this shell be killed outright, the next in line is told by the
    # kernel, and so is init. (unshare comments on a killed child; what is said inside is of interest.)
    trap : HUP INT TERM
    setpriv --pdeathsig KILL unshare --mount --net --ipc --uts --cgroup --pid --fork --kill-child \
        bash "$0" inside "$name" "$init" "$@" 3>&2 2>/dev/null &
    unshare=$!
    # Who waits for `ready` reads the end of it when the inside has failed, not nothing for ever.
    exec >/dev/null
    read -r _ || true
    # With its init the whole of it goes, and `unshare` ends when it is gone.
    read -r inits <"/proc/$unshare/task/$unshare/children" || true
    kill -KILL ${inits:-$unshare} 2>/dev/null || true
    wait 2>/dev/null || true
    exit 0
fi

exec 2>&3 3>&-
mount --make-rprivate /
base=/mnt
hierarchies=$(hierarchies)
mount -t tmpfs -o mode=755 tmpfs $base
mkdir $base/upper $base/work $base/root $base/lib
root=$base/root
mount -t overlay overlay -o lowerdir=$lower,upperdir=$base/upper,workdir=$base/work $root
# An overlay takes no second overlay's upper folder, so what holds images and containers is a copy.
# (Files of a package manager at work vanish under the copy: then it is made again.)
cp -a "$lower/var/lib/." $base/lib/ || cp -a "$lower/var/lib/." $base/lib/ || cp -a "$lower/var/lib/." $base/lib/
mount --bind $base/lib $root/var/lib
# What an `install` on the host itself has put there is no part of a throwaway machine; packages are
# left to the tests.
if [ "$lower" = / ] && [ -e /var/lib/crio-setup ]; then
    for path in /etc/cni /etc/crictl.yaml /etc/docker /etc/modules-load.d/crio-setup.conf /etc/ocid \
        /etc/sysctl.d/90-crio-setup.conf /etc/systemd/system/{,multi-user.target.wants/}{docker,ocid}.service \
        /opt/cni /opt/containerd /usr/local/bin/{crio-setup,ocic,ocid,runc} /usr/local/libexec/crio-setup \
        /var/lib/{cni,containerd,crio-setup,docker,ocid}; do
        rm -rf "${root:?}$path"
    done
    case $(readlink /usr/local/bin/docker) in *crio-setup*) rm -f $root/usr/local/bin/docker ;; esac
fi
mount -t proc proc $root/proc
mount -t sysfs sysfs $root/sys
# AppArmor's profiles are the kernel's, one list for all.
if [ -e /sys/kernel/security/apparmor ]; then mount -t securityfs securityfs $root/sys/kernel/security; fi
mount -t tmpfs -o mode=755 tmpfs $root/run
mkdir -m 1777 $root/run/lock
mount -t tmpfs -o mode=1777 tmpfs $root/tmp
# The usual devices, not the host's folder of them.
mount -t tmpfs -o mode=755 tmpfs $root/dev
for device in null:1:3 zero:1:5 full:1:7 random:1:8 urandom:1:9 tty:5:0 fuse:10:229 kmsg:1:11; do
    IFS=: read -r node major minor <<<"$device"
    mknod -m 666 "$root/dev/$node" c "$major" "$minor"
done
mkdir -p $root/dev/pts $root/dev/shm $root/dev/net
mknod -m 666 $root/dev/net/tun c 10 200
mount -t devpts -o newinstance,ptmxmode=666,mode=620,gid=5 devpts $root/dev/pts
mount -t tmpfs -o mode=1777 tmpfs $root/dev/shm
ln -s pts/ptmx $root/dev/ptmx
ln -s /proc/self/fd $root/dev/fd
for link in stdin:0 stdout:1 stderr:2; do ln -s "/proc/self/fd/${link#*:}" "$root/dev/${link%:*}"; done
case $hierarchies in
"/sys/fs/cgroup cgroup2"*) ;;
*) mount -t tmpfs -o mode=755 cgroups $root/sys/fs/cgroup ;;
esac
while read -r dir type opts; do
    mkdir -p "$root$dir"
    if [ "$type" = cgroup2 ]; then
        mount -t cgroup2 cgroup2 "$root$dir"
        # No process may stand where controllers are handed on; systemd goes to a group of its own by itself.
        if [ "$init" != systemd ]; then
            mkdir "$root$dir/init"
            echo 1 >"$root$dir/init/cgroup.procs"
        fi
    else
        mount -t cgroup -o "$opts" cgroup "$root$dir"
    fi
done <<<"$hierarchies"
for bind in "$@"; do
    mkdir -p "$root${bind#*:}"
    mount --rbind "${bind%%:*}" "$root${bind#*:}"
done
# With the host's programs: an image may have none of these.
ip link set lo up
hostname node
cd $root
pivot_root . mnt
umount -l /mnt
cd /
if [ "$init" = systemd ]; then
    echo node >/etc/hostname
    # A folder of the host that is seen below /tmp must not be emptied as a boot empties /tmp.
    mkdir -p /etc/tmpfiles.d
    for rules in tmp.conf x11.conf; do ln -sf /dev/null "/etc/tmpfiles.d/$rules"; done
    # Nothing that the host has enabled, and nothing that reaches the kernel that all share.
    [ "$lower" != / ] || rm -rf /etc/systemd/system/*.wants /etc/systemd/system/*.requires
    for unit in console-getty.service e2scrub_reap.service proc-sys-fs-binfmt_misc.automount \
        systemd-binfmt.service systemd-modules-load.service systemd-random-seed.service \
        systemd-remount-fs.service systemd-sysctl.service systemd-timesyncd.service \
        systemd-tmpfiles-setup-dev.service systemd-udevd.service systemd-update-utmp.service; do
        ln -sf /dev/null "/etc/systemd/system/$unit"
    done
    echo ready
    exec env -i container=crio-setup-test NOTIFY_SOCKET=/run/host/notify PATH=/usr/sbin:/usr/bin \
        /lib/systemd/systemd --system --unit=multi-user.target --log-target=journal >/dev/null 2>&1
fi
# As PID 1 this shell also reaps what is orphaned, from its SIGCHLD handler, while it waits for a line
# that nobody writes.
mkfifo /run/never
exec 3<>/run/never
rm /run/never
echo ready
exec >/dev/null 2>&1
read -r _ <&3
