//! The processes of a cgroup: which they are, how they end, and how often that was for want of memory.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::fcntl::{OFlag, openat};
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;

use super::usage::{Folder, path_below, value};
use super::{Cgroups, Hierarchy, Version, below, is_gone, read_if_there, tree, write_if_there};
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

    /// The same, for who asks often: the folders of the cgroups are kept open, as accounts are
    /// ([`Cgroups::retain_accounts`]).
    pub fn pids_again(&self, path: &str) -> io::Result<BTreeSet<i32>> {
        let Some(hierarchy) = self.first_of(&TELLING) else {
            return Ok(BTreeSet::new());
        };
        let mut pids = BTreeSet::new();
        match self.pids_kept(hierarchy, path, &mut pids)? {
            true => Ok(pids),
            false => self.pids(path),
        }
    }

    /// False where a cgroup came or went that was not reckoned with: then what was found may lack some. As many below
    /// it as were seen last, and each of those still there, are the same ones: none can have come but for one that went.
    fn pids_kept(
        &self,
        hierarchy: &Hierarchy,
        path: &str,
        pids: &mut BTreeSet<i32>,
    ) -> io::Result<bool> {
        let folder = self.kept_folder(path, "processes", || below(hierarchy, path))?;
        let Some(folder) = folder else {
            return Ok(false);
        };
        if !pids_in(&folder.file, pids) {
            self.files.forget(path);
            return Ok(false);
        }
        let seen = folder.seen.unwrap_or_default();
        let names = match u64::try_from(seen.len()) == Ok(folder.below) {
            true => seen,
            false => {
                let names: Arc<[String]> = children(&below(hierarchy, path))?.into();
                self.files.set_below(path, Arc::clone(&names));
                names
            }
        };
        for name in names.iter() {
            if !self.pids_kept(hierarchy, &path_below(path, name), pids)? {
                self.files.forget(path);
                return Ok(false);
            }
        }
        Ok(true)
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

    /// The open folder of a cgroup; `None` where it is gone.
    fn kept_folder(
        &self,
        path: &str,
        what: &'static str,
        place: impl Fn() -> PathBuf,
    ) -> io::Result<Option<Folder>> {
        let found = self.files.folder(path, what, &place);
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
        let kept = self.kept_folder(path, "memory", || folder.clone())?;
        if kept.is_some_and(|kept| kept.below == 0) {
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

/// Adds the processes in the cgroup of this folder; false where they cannot be read, as of a cgroup that has gone.
fn pids_in(folder: &File, pids: &mut BTreeSet<i32>) -> bool {
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    let Ok(file) = openat(folder, "cgroup.procs", flags, Mode::empty()) else {
        return false;
    };
    Text::with(|text| {
        let read = text.read(&File::from(file)).is_ok();
        let found = std::str::from_utf8(text.bytes()).ok().filter(|_| read);
        pids.extend(found.into_iter().flat_map(parsed));
        found.is_some()
    })
}

/// The names of the cgroups directly below this folder.
fn children(folder: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    let entries = match fs::read_dir(folder) {
        Err(e) if is_gone(&e) => return Ok(names),
        other => other.map_err(during(format_args!("list `{}`", folder.display())))?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            // A name that is no text is not found again below, and then the folders are walked by their paths.
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    Ok(names)
}

/// What `cgroup.procs` says.
fn parsed(text: &str) -> impl Iterator<Item = i32> {
    let found = text.lines().filter_map(|line| line.parse().ok());
    // Zero: a process that our own PID namespace does not know.
    found.filter(|pid| *pid > 0)
}
