//! The processes of a cgroup: which they are, how they end, and how often that was for want of memory.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::fcntl::{OFlag, openat};
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;

use super::usage::value;
use super::{Cgroups, Hierarchy, Version, below, read_if_there, tree, write_if_there};
use crate::host::context::during;
use crate::host::process::PidFd;
use crate::host::text::Text;

/// Every process is in each hierarchy: one tells all. On version 1 it must be one in which the runtime makes cgroups
/// of its own, which runc does for every controller it knows.
const TELLING: [&str; 4] = ["freezer", "pids", "memory", "name=systemd"];

impl Cgroups {
    /// The processes in a cgroup and below it.
    pub fn pids(&self, path: &str) -> io::Result<BTreeSet<i32>> {
        self.pids_by(&TELLING, path)
    }

    /// The same, for who asks often: the cgroup's folder is kept open, as accounts are
    /// ([`Cgroups::retain_accounts`]).
    pub fn pids_again(&self, path: &str) -> io::Result<BTreeSet<i32>> {
        let Some(hierarchy) = self.first_of(&TELLING) else {
            return Ok(BTreeSet::new());
        };
        let leaf = self.leaf(path, "processes", || below(hierarchy, path))?;
        match leaf.and_then(|leaf| pids_in(&leaf)) {
            Some(pids) => Ok(pids),
            None => self.pids(path),
        }
    }

    /// As the first of these hierarchies tells that the machine has; cgroup2's where it has none.
    pub(super) fn pids_by(&self, order: &[&str], path: &str) -> io::Result<BTreeSet<i32>> {
        let mut pids = BTreeSet::new();
        let best = self.first_of(order);
        for folder in best.map_or(Ok(Vec::new()), |h| tree(&below(h, path)))? {
            let text = read_if_there(&folder.join("cgroup.procs"))?.unwrap_or_default();
            pids.extend(parsed(&text));
        }
        Ok(pids)
    }

    fn first_of(&self, order: &[&str]) -> Option<&Hierarchy> {
        let has = |name: &&str| {
            let own = |h: &&Hierarchy| h.controllers.iter().any(|c| c == name);
            self.hierarchies.iter().find(own)
        };
        order.iter().find_map(has).or(self.hierarchies.first())
    }

    /// The open folder of a cgroup that has none below it.
    fn leaf(
        &self,
        path: &str,
        what: &'static str,
        place: impl Fn() -> PathBuf,
    ) -> io::Result<Option<Arc<File>>> {
        let found = self.files.leaf(path, what, &place);
        found.map_err(during(format_args!("look at `{}`", place().display())))
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
        if self.leaf(path, "memory", || folder.clone())?.is_some() {
            return Ok(Some(kills));
        }
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

/// The processes in the cgroup of this folder; `None` when there is no such cgroup any more.
fn pids_in(folder: &File) -> Option<BTreeSet<i32>> {
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    let file = openat(folder, "cgroup.procs", flags, Mode::empty()).ok()?;
    let mut text = Text::new();
    text.read(&File::from(file)).ok()?;
    Some(parsed(std::str::from_utf8(text.bytes()).ok()?).collect())
}

/// What `cgroup.procs` says.
fn parsed(text: &str) -> impl Iterator<Item = i32> {
    let found = text.lines().filter_map(|line| line.parse().ok());
    // Zero: a process that our own PID namespace does not know.
    found.filter(|pid| *pid > 0)
}
