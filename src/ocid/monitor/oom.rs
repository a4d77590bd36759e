//! Did the kernel kill a process of this container for want of memory? Read from the counters of its cgroup
//! when it has ended: no notification has to be registered, and none can be missed.

use std::fs;
use std::path::{Path, PathBuf};

/// The file that counts the kills: `memory.events` (version 2) or `memory.oom_control` (version 1). Both have a
/// line `oom_kill N`.
#[derive(Debug)]
pub struct OomCounter(Option<PathBuf>);

impl OomCounter {
    /// For the cgroup that this process is in now. Without a memory controller nothing is ever counted.
    pub fn of(pid: i32) -> Self {
        let read = |path: String| fs::read_to_string(path).unwrap_or_default();
        let (cgroups, mounts) = (
            read(format!("/proc/{pid}/cgroup")),
            read("/proc/self/mountinfo".to_owned()),
        );
        Self(counter_path(&cgroups, &mounts))
    }

    pub fn happened(&self) -> bool {
        let text = self
            .0
            .as_ref()
            .and_then(|path| fs::read_to_string(path).ok());
        text.is_some_and(|text| kills(&text) > 0)
    }
}

/// From the texts of `/proc/PID/cgroup` (cgroups(7)) and `/proc/self/mountinfo`.
fn counter_path(cgroups: &str, mountinfo: &str) -> Option<PathBuf> {
    let mut unified = None;
    for line in cgroups.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(number), Some(controllers), Some(path)) =
            (parts.next(), parts.next(), parts.next())
        else {
            continue;
        };
        if controllers.split(',').any(|c| c == "memory") {
            let mount = mount(mountinfo, "cgroup", Some("memory"))?;
            return Some(below(&mount, path).join("memory.oom_control"));
        }
        if number == "0" && controllers.is_empty() {
            unified = Some(path);
        }
    }
    let mount = mount(mountinfo, "cgroup2", None)?;
    Some(below(&mount, unified?).join("memory.events"))
}

struct Mount<'a> {
    root: &'a str,
    point: &'a str,
}

/// The first mount of a type whose super block options hold `option` (proc_pid_mountinfo(5)).
fn mount<'a>(mountinfo: &'a str, kind: &str, option: Option<&str>) -> Option<Mount<'a>> {
    mountinfo.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let mut after = after.split(' ');
        let (fs_type, _source, options) = (after.next()?, after.next()?, after.next()?);
        if fs_type != kind || option.is_some_and(|o| !options.split(',').any(|have| have == o)) {
            return None;
        }
        let mut fields = before.split(' ').skip(3);
        Some(Mount {
            root: fields.next()?,
            point: fields.next()?,
        })
    })
}

/// A cgroup's path seen through a mount that may show only a part of the hierarchy.
fn below(mount: &Mount<'_>, path: &str) -> PathBuf {
    let inside = Path::new(path).strip_prefix(mount.root).ok();
    let inside = inside.or(Path::new(path).strip_prefix("/").ok());
    Path::new(mount.point).join(inside.unwrap_or(Path::new("")))
}

fn kills(text: &str) -> u64 {
    let number = |line: &str| line.strip_prefix("oom_kill ")?.trim().parse().ok();
    text.lines().find_map(number).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1: &str = "30 24 0:26 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n";
    const V2: &str = "31 24 0:27 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";

    #[test]
    fn the_counter_is_found_in_every_layout() {
        let found = |cgroups, mounts: &str| {
            counter_path(cgroups, mounts).map(|p| p.to_string_lossy().into_owned())
        };
        assert_eq!(
            found("9:name=systemd:/\n4:memory,hugetlb:/pod/c\n0::/\n", V1).unwrap(),
            "/sys/fs/cgroup/memory/pod/c/memory.oom_control"
        );
        assert_eq!(
            found("0::/kubepods.slice/x.scope\n", V2).unwrap(),
            "/sys/fs/cgroup/kubepods.slice/x.scope/memory.events"
        );
        let nested = V1.replace("0:26 /", "0:26 /outer");
        assert_eq!(
            found("4:memory:/outer/pod/c\n", &nested).unwrap(),
            "/sys/fs/cgroup/memory/pod/c/memory.oom_control"
        );
        assert_eq!(found("0::/x\n", V1), None);
        assert_eq!(found("", ""), None);
        assert_eq!(found("4:memory\n", V1), None);
    }

    #[test]
    fn kills_are_counted_in_both_versions() {
        assert_eq!(kills("low 0\nhigh 3\nmax 7\noom 1\noom_kill 2\n"), 2);
        assert_eq!(kills("oom_kill_disable 0\nunder_oom 0\noom_kill 1\n"), 1);
        assert_eq!(kills("oom_kill_disable 1\n"), 0);
    }
}
