//! The processes of a cgroup: which they are, how they end, and how often that was for want of memory.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::usage::value;
use super::{Cgroups, Hierarchy, Version, below, read_if_there, tree, write_if_there};
use crate::host::process::PidFd;

impl Cgroups {
    /// The processes in a cgroup and below it.
    pub fn pids(&self, path: &str) -> io::Result<BTreeSet<i32>> {
        // Every process is in each hierarchy: one tells all. On version 1 it must be one in which the
        // runtime makes cgroups of its own, which runc does for every controller it knows.
        self.pids_by(&["freezer", "pids", "memory", "name=systemd"], path)
    }

    /// As the first of these hierarchies tells that the machine has; cgroup2's where it has none.
    pub(super) fn pids_by(&self, order: &[&str], path: &str) -> io::Result<BTreeSet<i32>> {
        let has = |name: &&str| {
            let own = |h: &&Hierarchy| h.controllers.iter().any(|c| c == name);
            self.hierarchies.iter().find(own)
        };
        let best = order.iter().find_map(has).or(self.hierarchies.first());
        let mut pids = BTreeSet::new();
        for folder in best.map_or(Ok(Vec::new()), |h| tree(&below(h, path)))? {
            let text = read_if_there(&folder.join("cgroup.procs"))?.unwrap_or_default();
            let found = text.lines().filter_map(|l| l.parse::<i32>().ok());
            // Zero: a process that our own PID namespace does not know.
            pids.extend(found.filter(|p| *p > 0));
        }
        Ok(pids)
    }

    /// Kills every process in a cgroup and below it with SIGKILL and waits until they have ended.
    /// False when `limit` was over first. Blocks.
    pub fn kill(&self, path: &str, limit: Duration) -> io::Result<bool> {
        let deadline = Instant::now() + limit;
        loop {
            let mut alive = Vec::new();
            for pid in self.pids(path)? {
                match PidFd::open(pid) {
                    Ok(fd) if !fd.has_exited()? => alive.push(fd),
                    Ok(_) => {}
                    Err(e) if e.kind() == ErrorKind::NotFound => {}
                    Err(e) => return Err(e),
                }
            }
            if alive.is_empty() {
                return Ok(true);
            }
            self.kill_once(path, &alive)?;
            for process in alive {
                if !process.wait(deadline.saturating_duration_since(Instant::now()))? {
                    return Ok(false);
                }
            }
        }
    }

    /// How many processes of this cgroup and those below it the kernel has killed for want of memory; `None` where
    /// nobody counts. An account, as the others are ([`Cgroups::retain_accounts`]).
    pub fn oom_kills(&self, path: &str) -> io::Result<Option<u64>> {
        // Kernels before 4.13 do not say.
        let count = |text: &str| Some(value(text, "oom_kill").unwrap_or(0));
        if self.version == Version::V2 {
            // Counts those below, too.
            return self.parsed("memory", path, "memory.events", count);
        }
        let file = "memory.oom_control";
        let own = self.parsed("memory", path, file, count)?;
        let (Some(mut kills), Some(folder)) = (own, self.folder("memory", path)) else {
            return Ok(None);
        };
        for below in tree(&folder)?.iter().filter(|below| **below != folder) {
            let text = read_if_there(&below.join(file))?;
            kills += text.and_then(|text| count(&text)).unwrap_or(0);
        }
        Ok(Some(kills))
    }

    fn kill_once(&self, path: &str, alive: &[PidFd]) -> io::Result<()> {
        if self.version == Version::V2
            && let Some(folder) = self.folder("", path)
            && write_if_there(&folder.join("cgroup.kill"), "1")?
        {
            return Ok(());
        }
        // Frozen processes cannot fork away from under the signals, which reach them at the thaw.
        let state = self
            .folder("freezer", path)
            .map(|f| f.join("freezer.state"));
        if let (Version::V1, Some(state)) = (self.version, &state) {
            write_if_there(state, "FROZEN")?;
        }
        let kill = |process: &PidFd| match process.kill(Signal::SIGKILL) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        };
        let killed = alive.iter().try_for_each(kill);
        if let (Version::V1, Some(state)) = (self.version, &state) {
            write_if_there(state, "THAWED")?;
        }
        killed
    }
}
