//! systemd's slices, which it makes by itself at the first container in them and then keeps, active
//! and empty, until somebody stops them.
//!
//! A slice without a unit file is nobody's: whoever needs it again has it started by systemd. Kubelet's
//! have one (of `/run/systemd/transient`), so have an administrator's. systemd removes the cgroup of an
//! empty slice whenever it likes, so a mark on it, as on our own cgroups, would not last.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;

use crate::host::command::Command;

/// Where systemd looks for unit files (systemd.unit(5)).
const UNIT_DIRS: [&str; 13] = [
    "/run/systemd/transient",
    "/etc/systemd/system.control",
    "/run/systemd/system.control",
    "/run/systemd/generator.early",
    "/etc/systemd/system",
    "/etc/systemd/system.attached",
    "/run/systemd/system",
    "/run/systemd/system.attached",
    "/run/systemd/generator",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
    "/run/systemd/generator.late",
];
/// Always there, whoever is in them.
const PERPETUAL: [&str; 2] = ["-.slice", "system.slice"];

/// The machine's systemd; where it does not run, nothing asks for it.
#[derive(Debug)]
pub(super) struct Slices {
    pub(super) systemctl: OsString,
    pub(super) unit_dirs: Vec<PathBuf>,
}

impl Slices {
    pub(super) fn new() -> Self {
        Self {
            systemctl: "systemctl".into(),
            unit_dirs: UNIT_DIRS.map(PathBuf::from).into(),
        }
    }

    /// Does it have a unit file, or is it no slice at all?
    pub(super) fn is_somebodys(&self, slice: &str) -> bool {
        !slice.ends_with(".slice") || self.unit_dirs.iter().any(|dir| dir.join(slice).exists())
    }

    /// Stops slices in one call. What does not run is no error.
    pub(super) fn stop(&self, slices: &[&str]) -> io::Result<()> {
        if slices.is_empty() {
            return Ok(());
        }
        let command = Command::new(&self.systemctl).args(["stop", "--"]);
        let command = command.args(slices);
        command.run().map(|_| ()).map_err(io::Error::other)
    }
}

pub(super) fn is_perpetual(slice: &str) -> bool {
    PERPETUAL.contains(&slice)
}

/// Is this the path of a slice, or of a scope in systemd's root?
pub(super) fn is_systemds(path: &str) -> bool {
    let first = path.trim_start_matches('/').split('/').next();
    first.is_some_and(|name| name.ends_with(".slice") || name.ends_with(".scope"))
}

/// The cgroup below which systemd, and the runtime with it, make their own in a hierarchy (cgroup2
/// where there are no controllers): that of process 1, which stands in `init.scope` below it. Empty
/// but in a container. A path that leaves our cgroup namespace counts as the root.
pub(super) fn base(cgroups: &str, controllers: &[String]) -> String {
    let of = |line: &'_ str| -> Option<String> {
        let (_, rest) = line.split_once(':')?;
        let (names, path) = rest.split_once(':')?;
        let same = match controllers {
            [] => names.is_empty(),
            all => all.iter().all(|c| names.split(',').any(|n| n == c)),
        };
        same.then(|| path.to_owned())
    };
    let path = cgroups.lines().find_map(of).unwrap_or_default();
    let path = path.strip_suffix("/init.scope").unwrap_or(&path);
    if path == "/" || path.split('/').any(|name| name == "..") {
        return String::new();
    }
    path.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn systemd_is_found_where_it_stands() {
        let v2 = |text| base(text, &[]);
        assert_eq!(v2("0::/init.scope\n"), "");
        assert_eq!(v2("0::/\n"), "");
        assert_eq!(v2("0::/docker/abc/init.scope\n"), "/docker/abc");
        assert_eq!(v2("0::/../../init.scope\n"), "");
        assert_eq!(v2(""), "");
        let hybrid = "9:name=systemd:/box/init.scope\n4:cpu,cpuacct:/other\n3:pids:/\n0::/b\n";
        let v1 = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
            base(hybrid, &names)
        };
        assert_eq!(v1(&["name=systemd"]), "/box");
        assert_eq!(v1(&["cpu", "cpuacct"]), "/other");
        assert_eq!(v1(&["pids"]), "");
        assert_eq!(v1(&[]), "/b");
        assert!(is_systemds("/a.slice/a-b.slice/ocid-c1.scope") && is_systemds("/ocid-c1.scope"));
        assert!(!is_systemds("/ocid/ocid-c1") && !is_systemds("/"));
    }

    #[test]
    fn a_slice_with_a_unit_file_is_somebodys() {
        let dir = tempfile::tempdir().unwrap();
        let slices = Slices {
            systemctl: "false".into(),
            unit_dirs: vec![dir.path().to_owned()],
        };
        fs::write(dir.path().join("kubepods.slice"), "").unwrap();
        assert!(slices.is_somebodys("kubepods.slice"));
        assert!(!slices.is_somebodys("a-b.slice"));
        assert!(slices.is_somebodys("init"), "no slice");
        slices.stop(&[]).unwrap();
        assert!(slices.stop(&["a-b.slice"]).is_err());
    }
}
