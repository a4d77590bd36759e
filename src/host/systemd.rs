//! systemd, through systemctl.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::command::{Command, CommandError};
use super::fs::under;

/// A unit may start as long as its own TimeoutStartSec allows; a hung one must not hang us for ever.
const START_LIMIT: Duration = Duration::from_secs(180);

/// What `systemctl show` tells of a unit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UnitState {
    /// `active`, `inactive`, `failed`, `activating`, ...
    pub active: String,
    /// `loaded`, `not-found`, `masked`, ...
    pub load: String,
    /// The unit file that is in force.
    pub fragment: String,
    /// The file on disk is newer than what systemd has read.
    pub needs_reload: bool,
    /// 0 when it does not run.
    pub main_pid: i32,
    /// When its main process was last started.
    pub started: Option<Started>,
}

/// A moment, by both of systemd's clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Started {
    /// Nanoseconds since the epoch, as the wall clock stood then.
    pub wall_ns: i64,
    /// Nanoseconds that the machine had been up (CLOCK_MONOTONIC).
    pub up_ns: i64,
}

impl Started {
    /// What a clock that is merely kept right is off by at most, and two looks at it are apart.
    const SLACK_NS: u64 = 1_000_000_000;

    /// When the machine was booted, by the wall clock of the start.
    pub fn boot_ns(&self) -> i64 {
        self.wall_ns.saturating_sub(self.up_ns)
    }

    /// Can times of files be compared with it? Not where the clock was set since, by which the boot is
    /// somewhere else now.
    pub fn holds(&self, boot_ns: i64) -> bool {
        self.boot_ns().abs_diff(boot_ns) < Self::SLACK_NS
    }
}

impl UnitState {
    pub fn is_active(&self) -> bool {
        self.active == "active" || self.active == "reloading"
    }

    /// It neither runs nor is on its way up or down.
    pub fn is_stopped(&self) -> bool {
        self.active == "inactive" || self.active == "failed"
    }
}

/// Is systemd the init of this machine (sd_booted(3))?
pub fn is_running(root: &Path) -> bool {
    under(root, Path::new("/run/systemd/system")).is_dir()
}

/// The states of the units, by name; one child process for all. Needs systemd 248 (Ubuntu 22.04 has 249).
pub fn show(units: &[&str]) -> Result<BTreeMap<String, UnitState>, CommandError> {
    let properties = "--property=Id,ActiveState,LoadState,FragmentPath,NeedDaemonReload,MainPID,\
                      ExecMainStartTimestamp,ExecMainStartTimestampMonotonic";
    let output = Command::new("systemctl")
        .args(["show", "--no-pager", "--timestamp=us+utc", properties, "--"])
        .args(units)
        .limit(Duration::from_secs(30))
        .run()?;
    Ok(parse_show(&String::from_utf8_lossy(&output.stdout)))
}

/// Blocks of `Key=value`, one block a unit, parted by an empty line.
fn parse_show(text: &str) -> BTreeMap<String, UnitState> {
    let mut units = BTreeMap::new();
    for block in text.split("\n\n") {
        let (mut id, mut state) = (String::new(), UnitState::default());
        let (mut wall, mut up) = (None, None);
        for (key, value) in block.lines().filter_map(|line| line.split_once('=')) {
            match key {
                "Id" => id = value.to_owned(),
                "ActiveState" => state.active = value.to_owned(),
                "LoadState" => state.load = value.to_owned(),
                "FragmentPath" => state.fragment = value.to_owned(),
                "NeedDaemonReload" => state.needs_reload = value == "yes",
                "MainPID" => state.main_pid = value.parse().unwrap_or_default(),
                "ExecMainStartTimestamp" => wall = parse_time(value),
                "ExecMainStartTimestampMonotonic" => up = value.parse::<i64>().ok(),
                _ => {}
            }
        }
        if let (Some(wall_ns), Some(up)) = (wall, up) {
            let up_ns = up.saturating_mul(1000);
            state.started = Some(Started { wall_ns, up_ns });
        }
        if !id.is_empty() {
            units.insert(id, state);
        }
    }
    units
}

/// `Mon 2026-11-30 01:35:09.123456 UTC` in nanoseconds since the epoch; nothing where it never was.
fn parse_time(text: &str) -> Option<i64> {
    let mut words = text.split(' ').skip(1);
    let (date, time) = (words.next()?, words.next()?);
    let moment = OffsetDateTime::parse(&format!("{date}T{time}Z"), &Rfc3339).ok()?;
    i64::try_from(moment.unix_timestamp_nanos()).ok()
}

/// Makes systemd read its unit files again.
pub fn daemon_reload() -> Result<(), CommandError> {
    systemctl(&["daemon-reload"], START_LIMIT)
}

/// Starts a unit and waits until it is active, or says why it is not.
pub fn start(unit: &str) -> Result<(), CommandError> {
    patiently("start", unit)
}

/// Stops and starts a unit and waits until it is active.
pub fn restart(unit: &str) -> Result<(), CommandError> {
    patiently("restart", unit)
}

/// What fails at its first start and is to be started again by its unit (`Restart=`) gets that second start, now:
/// dockerd gives its containerd 15 s, and the first start of both on a slow disk takes longer.
fn patiently(act: &str, unit: &str) -> Result<(), CommandError> {
    let first = systemctl(&[act, "--", unit], START_LIMIT);
    let Err(CommandError::Failed { .. }) = &first else {
        return first;
    };
    // What went wrong first is said where systemd has no answer to this.
    let is_tried_again =
        show(&[unit]).is_ok_and(|units| units.get(unit).is_some_and(|state| !state.is_stopped()));
    match is_tried_again {
        true => systemctl(&["start", "--", unit], START_LIMIT),
        false => first,
    }
}

/// Stops a unit and waits until it is inactive.
pub fn stop(unit: &str) -> Result<(), CommandError> {
    systemctl(&["stop", "--", unit], START_LIMIT)
}

/// Forgets that a unit failed, so that it can be started again at once. One that systemd does not
/// know has nothing to forget.
pub fn reset_failed(unit: &str) {
    let _ = systemctl(&["reset-failed", "--", unit], Duration::from_secs(30));
}

fn systemctl(args: &[&str], limit: Duration) -> Result<(), CommandError> {
    Command::new("systemctl")
        .arg("--no-pager")
        .args(args)
        .limit(limit)
        .run()
        .map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_by_a_clock_that_was_set_since_is_of_no_use() {
        let started = Started {
            wall_ns: 10_000_000_000,
            up_ns: 4_000_000_000,
        };
        assert_eq!(started.boot_ns(), 6_000_000_000);
        assert!(started.holds(6_300_000_000));
        assert!(!started.holds(7_000_000_000), "set forward");
        assert!(!started.holds(4_900_000_000), "set back");
    }

    #[test]
    fn blocks_are_told_apart() {
        let text = "MainPID=12\nId=ocid.service\nLoadState=loaded\nActiveState=active\n\
                    FragmentPath=/etc/systemd/system/ocid.service\nNeedDaemonReload=no\n\
                    ExecMainStartTimestamp=Thu 1970-01-01 00:01:01.000007 UTC\n\
                    ExecMainStartTimestampMonotonic=5000002\n\n\
                    MainPID=0\nId=docker.service\nLoadState=not-found\nActiveState=inactive\n\
                    FragmentPath=\nNeedDaemonReload=yes\nExecMainStartTimestamp=\n\
                    ExecMainStartTimestampMonotonic=0\n";
        let units = parse_show(text);
        let ocid = units.get("ocid.service").unwrap();
        assert!(ocid.is_active() && !ocid.needs_reload);
        assert_eq!(
            (ocid.main_pid, ocid.fragment.as_str()),
            (12, "/etc/systemd/system/ocid.service")
        );
        let started = Started {
            wall_ns: 61_000_007_000,
            up_ns: 5_000_002_000,
        };
        assert_eq!(ocid.started, Some(started));
        let docker = units.get("docker.service").unwrap();
        assert_eq!(docker.started, None);
        assert!(!docker.is_active() && docker.is_stopped() && docker.needs_reload);
        assert!(!ocid.is_stopped());
        assert_eq!(docker.load, "not-found");
        assert!(parse_show("").is_empty());
    }
}
