#!/usr/bin/env bash
# A throwaway machine: the host's own root, read through an overlay whose writes live in memory, with
# mount, pid, net, ipc, uts and cgroup namespaces of its own. It ends when its standard input closes,
# so also when the test that holds the other end is killed; the kernel then takes every process,
# mount, interface, rule and file with it. Only the (empty) cgroup folders are left to the caller.
#
#   machine.sh outside NAME [BIND...]   make and enter the cgroups, unshare, go on with `inside`
#   machine.sh inside NAME [BIND...]    build the root, pivot, say `ready`, wait for end of file
#
# BIND: a folder on another file system that must be seen inside under the same path.
set -euo pipefail
stage=$1 name=$2
shift 2

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
    exec unshare --mount --net --ipc --uts --cgroup --pid --fork --kill-child bash "$0" inside "$name" "$@"
fi

mount --make-rprivate /
base=/mnt
hierarchies=$(hierarchies)
mount -t tmpfs -o mode=755 tmpfs $base
mkdir $base/upper $base/work $base/root $base/lib
root=$base/root
mount -t overlay overlay -o lowerdir=/,upperdir=$base/upper,workdir=$base/work $root
# An overlay takes no second overlay's upper folder, so what holds images and containers is a copy.
cp -a /var/lib/. $base/lib/
mount --bind $base/lib $root/var/lib
mount -t proc proc $root/proc
mount -t sysfs sysfs $root/sys
mount --rbind /dev $root/dev
mount -t tmpfs -o mode=1777 tmpfs $root/dev/shm
mount -t tmpfs -o mode=755 tmpfs $root/run
mkdir -m 1777 $root/run/lock
case $hierarchies in
"/sys/fs/cgroup cgroup2"*) ;;
*) mount -t tmpfs -o mode=755 cgroups $root/sys/fs/cgroup ;;
esac
while read -r dir type opts; do
    mkdir -p "$root$dir"
    if [ "$type" = cgroup2 ]; then
        mount -t cgroup2 cgroup2 "$root$dir"
        # No process may stand where controllers are handed on.
        mkdir "$root$dir/init"
        echo 1 >"$root$dir/init/cgroup.procs"
    else
        mount -t cgroup -o "$opts" cgroup "$root$dir"
    fi
done <<<"$hierarchies"
for bind in "$@"; do
    mkdir -p "$root$bind"
    mount --rbind "$bind" "$root$bind"
done
cd $root
pivot_root . mnt
umount -l /mnt
cd /
ip link set lo up
hostname node
echo ready
# As PID 1 this shell also reaps what is orphaned, from its SIGCHLD handler.
read -r _ || exit 0
