//! systemd's slices, which it makes by itself at the first container in them and then keeps, active
//! and empty, until somebody stops them.
//!
//! A slice without a unit file is nobody's: whoever needs it again has it started by systemd. Kubelet's
//! have one (of `/run/systemd/transient`), so have an administrator's. systemd removes the cgroup of an
//! empty slice whenever it likes, so a mark on it, as on our own cgroups, would not last.

use std::ffi::OsString;
use std::fs;
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
    /// The cgroup below which systemd makes its own: `/` unless it is a container's init.
    pub(super) base: String,
    pub(super) systemctl: OsString,
    pub(super) unit_dirs: Vec<PathBuf>,
}

impl Slices {
    pub(super) fn detect() -> Self {
        // Unreadable: the root, as everywhere but in containers.
        let cgroups = fs::read_to_string("/proc/1/cgroup").unwrap_or_default();
        Self {
            base: base(&cgroups),
            systemctl: "systemctl".into(),
            unit_dirs: UNIT_DIRS.map(PathBuf::from).into(),
        }
    }

    /// Is this a slice that may go once it is empty?
    pub(super) fn is_nobodys(&self, slice: &str) -> bool {
        let has_file = self.unit_dirs.iter().any(|dir| dir.join(slice).exists());
        slice.ends_with(".slice") && !PERPETUAL.contains(&slice) && !has_file
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

/// From process 1's cgroups: of version 1 its `name=systemd`, else of version 2; systemd itself stands
/// in `init.scope` below its root. A path that leaves our cgroup namespace counts as the root.
fn base(cgroups: &str) -> String {
    let path = |mark: &str| {
        cgroups
            .lines()
            .find_map(|line| Some(line.split_once(mark)?.1))
    };
    let path = path(":name=systemd:")
        .or_else(|| path("0::"))
        .unwrap_or("/");
    let path = path.strip_suffix("/init.scope").unwrap_or(path);
    match path {
        "/" => String::new(),
        path if path.split('/').any(|name| name == "..") => String::new(),
        path => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn systemd_is_found_where_it_stands() {
        assert_eq!(base("0::/init.scope\n"), "");
        assert_eq!(base("0::/\n"), "");
        assert_eq!(base("0::/docker/abc/init.scope\n"), "/docker/abc");
        assert_eq!(base("0::/../../init.scope\n"), "");
        let hybrid = "9:name=systemd:/box/init.scope\n4:memory:/other\n0::/box/init.scope\n";
        assert_eq!(base(hybrid), "/box");
        assert_eq!(base(""), "");
    }

    #[test]
    fn a_slice_with_a_unit_file_is_somebodys() {
        let dir = tempfile::tempdir().unwrap();
        let slices = Slices {
            base: String::new(),
            systemctl: "false".into(),
            unit_dirs: vec![dir.path().to_owned()],
        };
        fs::write(dir.path().join("kubepods.slice"), "").unwrap();
        assert!(!slices.is_nobodys("kubepods.slice"));
        assert!(!slices.is_nobodys("system.slice"));
        assert!(slices.is_nobodys("a-b.slice"));
        assert!(!slices.is_nobodys("init"), "what systemd stands in");
        slices.stop(&[]).unwrap();
        assert!(slices.stop(&["a-b.slice"]).is_err());
    }
}
