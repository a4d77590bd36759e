//! Limits of a pod's cgroup, in the words of either version.

use std::io;
use std::path::Path;

use super::{Version, write};
use crate::host::context::during;

/// Limits for a pod as a whole; what is `None` stays unlimited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes.
    pub memory: Option<i64>,
    /// Relative weight, 2 to 262144, as version 1 and the CRI count it.
    pub cpu_shares: Option<u64>,
    /// Microseconds per period; negative is unlimited.
    pub cpu_quota: Option<i64>,
    /// Microseconds; the kernel's own is 100000.
    pub cpu_period: Option<u64>,
    pub pids: Option<i64>,
}

impl Limits {
    /// Writes those limits that belong to the controllers of one hierarchy.
    pub(super) fn apply(
        &self,
        version: Version,
        controllers: &[String],
        folder: &Path,
    ) -> io::Result<()> {
        for (controller, file, value) in self.files(version) {
            if version == Version::V2 || controllers.iter().any(|c| c == controller) {
                let path = folder.join(file);
                let shown = path.display().to_string();
                write(&path, &value)
                    .map_err(during(format_args!("write `{value}` to `{shown}`")))?;
            }
        }
        Ok(())
    }

    /// Controller, file and text, in the order in which they must be written.
    fn files(&self, version: Version) -> Vec<(&'static str, &'static str, String)> {
        let max = |n: i64| {
            if n < 0 {
                "max".to_owned()
            } else {
                n.to_string()
            }
        };
        let mut files = Vec::new();
        match version {
            Version::V1 => {
                let memory = self.memory.map(|n| n.to_string());
                files.extend(memory.map(|v| ("memory", "memory.limit_in_bytes", v)));
                let shares = self.cpu_shares.map(|n| n.to_string());
                files.extend(shares.map(|v| ("cpu", "cpu.shares", v)));
                // The period first: a quota above the old period times the CPUs would be refused.
                let period = self.cpu_period.map(|n| n.to_string());
                files.extend(period.map(|v| ("cpu", "cpu.cfs_period_us", v)));
                let quota = self.cpu_quota.map(|n| n.to_string());
                files.extend(quota.map(|v| ("cpu", "cpu.cfs_quota_us", v)));
            }
            Version::V2 => {
                files.extend(self.memory.map(|n| ("memory", "memory.max", max(n))));
                let weight = self.cpu_shares.map(weight).map(|n| n.to_string());
                files.extend(weight.map(|v| ("cpu", "cpu.weight", v)));
                if self.cpu_quota.is_some() || self.cpu_period.is_some() {
                    let quota = max(self.cpu_quota.unwrap_or(-1));
                    let text = format!("{quota} {}", self.cpu_period.unwrap_or(100_000));
                    files.push(("cpu", "cpu.max", text));
                }
            }
        }
        files.extend(self.pids.map(|n| ("pids", "pids.max", max(n))));
        files
    }
}

/// 2..=262144 shares on a line to 1..=10000, as the runtimes do (runc's cgroup documentation).
fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

/// Hands every controller of the parent down to this cgroup. What fails (a controller that the
/// machine keeps to itself, a parent with processes) fails again, with its name, where a limit is set.
pub(super) fn enable_controllers(folder: &Path) {
    let Some(parent) = folder.parent() else {
        return;
    };
    let Ok(names) = std::fs::read_to_string(parent.join("cgroup.controllers")) else {
        return;
    };
    let file = parent.join("cgroup.subtree_control");
    let all: Vec<String> = names.split_whitespace().map(|n| format!("+{n}")).collect();
    if let Err(together) = write(&file, &all.join(" ")) {
        tracing::debug!(file = %file.display(), error = %together, "controllers one by one");
        for one in all {
            if let Err(e) = write(&file, &one) {
                tracing::debug!(file = %file.display(), controller = one, error = %e, "not enabled");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_say_the_same() {
        let limits = Limits {
            memory: Some(1 << 20),
            cpu_shares: Some(1024),
            cpu_quota: Some(50_000),
            cpu_period: None,
            pids: Some(-1),
        };
        let text = |version| {
            let files = limits.files(version).into_iter();
            files
                .map(|(_, file, v)| format!("{file}={v}"))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            text(Version::V1),
            [
                "memory.limit_in_bytes=1048576",
                "cpu.shares=1024",
                "cpu.cfs_quota_us=50000",
                "pids.max=max"
            ]
        );
        assert_eq!(
            text(Version::V2),
            [
                "memory.max=1048576",
                "cpu.weight=39",
                "cpu.max=50000 100000",
                "pids.max=max"
            ]
        );
        assert!(Limits::default().files(Version::V2).is_empty());
    }

    #[test]
    fn shares_reach_both_ends_of_the_weights() {
        assert_eq!((weight(0), weight(2)), (1, 1));
        assert_eq!((weight(262_144), weight(u64::MAX)), (10_000, 10_000));
    }
}
