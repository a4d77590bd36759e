//! A cgroup below a container's, for what one exec starts: whatever that forks is in it, whoever adopts it and
//! whatever session it leads, so that all of it can be ended, and nobody else.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::{read_if_there, remove_folder, tree, write, write_if_there};
use crate::host::context::during;
use crate::host::process::PidFd;

/// How often [`SubCgroup::give_back`] looks again: those it moves may fork meanwhile, and the kernel takes a
/// moment to forget the dead.
const ROUNDS: usize = 50;
/// How long it waits in between; the freezer hierarchy of version 1 has no event for "empty".
const PAUSE: Duration = Duration::from_millis(1);

/// One that was made here.
#[derive(Debug)]
pub struct SubCgroup {
    folder: PathBuf,
}

impl SubCgroup {
    /// Makes the cgroup at this folder of a cgroup file system: cgroup2's, or the freezer's of version 1. The one
    /// above must be there.
    pub fn make(folder: &Path) -> io::Result<Self> {
        fs::create_dir(folder)
            .map_err(during(format_args!("make cgroup `{}`", folder.display())))?;
        Ok(Self {
            folder: folder.to_owned(),
        })
    }

    /// Moves in whom `find` finds, until it finds nobody else: what those in it start from then on is born in it.
    /// Whoever cannot be moved (it has ended, or the kernel will not) is passed over.
    pub fn take_in(&self, find: impl Fn() -> io::Result<Vec<i32>>) -> io::Result<()> {
        let procs = self.folder.join("cgroup.procs");
        let mut seen = HashSet::new();
        loop {
            let fresh: Vec<i32> = find()?
                .into_iter()
                .filter(|pid| seen.insert(*pid))
                .collect();
            if fresh.is_empty() {
                return Ok(());
            }
            for pid in fresh {
                // Its thread group as a whole.
                let _ = write(&procs, &pid.to_string());
            }
        }
    }

    /// Kills everything in it with SIGKILL and waits until that has ended. False when `limit` was over first.
    /// Blocks.
    pub fn kill(&self, limit: Duration) -> io::Result<bool> {
        let deadline = Instant::now() + limit;
        loop {
            let struck = self.strike()?;
            if struck.is_empty() {
                return Ok(true);
            }
            for process in struck.values() {
                if !process.wait(deadline.saturating_duration_since(Instant::now()))? {
                    return Ok(false);
                }
            }
        }
    }

    /// Hands those who are still in it to the cgroup above and removes it. False when it has to stay; it then goes
    /// with the one above.
    pub fn give_back(&self) -> io::Result<bool> {
        let above = self.folder.parent().unwrap_or(&self.folder);
        let above = above.join("cgroup.procs");
        for round in 0..ROUNDS {
            match remove_folder(&self.folder) {
                Err(e) if e.kind() == ErrorKind::ResourceBusy => {}
                other => return other.map(|()| true),
            }
            let text = read_if_there(&self.folder.join("cgroup.procs"))?.unwrap_or_default();
            for pid in text.lines() {
                match write(&above, pid) {
                    // Version 2 lets no process into a cgroup whose children have controllers.
                    Err(e) if e.kind() == ErrorKind::ResourceBusy => return Ok(false),
                    // It has ended, or is about to.
                    Ok(()) | Err(_) => {}
                }
            }
            if round > 0 {
                std::thread::sleep(PAUSE);
            }
        }
        Ok(false)
    }

    /// Sends SIGKILL to everyone; those who were alive. Stopped meanwhile, so that none can fork away.
    fn strike(&self) -> io::Result<HashMap<i32, PidFd>> {
        let mut struck = HashMap::new();
        self.freeze(true)?;
        let outcome = loop {
            match self.strike_new(&mut struck) {
                Ok(0) => break Ok(()),
                Ok(_) => {}
                Err(e) => break Err(e),
            }
        };
        // The signals reach the stopped at the thaw.
        self.freeze(false)?;
        outcome?;
        Ok(struck)
    }

    /// Kills whoever has not been struck yet; how many those were.
    fn strike_new(&self, struck: &mut HashMap<i32, PidFd>) -> io::Result<usize> {
        let mut fresh = HashMap::new();
        for pid in self.pids()? {
            if struck.contains_key(&pid) {
                continue;
            }
            match PidFd::open(pid) {
                Ok(fd) if !fd.has_exited()? => {
                    fresh.insert(pid, fd);
                }
                Ok(_) => {}
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        if fresh.is_empty() {
            return Ok(0);
        }
        // A pid that was another's by the time it was opened is not listed any more.
        let still = self.pids()?;
        fresh.retain(|pid, _| still.contains(pid));
        let killed_at_once = write_if_there(&self.folder.join("cgroup.kill"), "1")?;
        for fd in fresh.values().filter(|_| !killed_at_once) {
            match fd.kill(Signal::SIGKILL) {
                Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        let count = fresh.len();
        struck.extend(fresh);
        Ok(count)
    }

    /// Stops or goes on with everyone. A kernel or a hierarchy without a freezer can do neither.
    fn freeze(&self, on: bool) -> io::Result<()> {
        let (v1, v2) = if on { ("FROZEN", "1") } else { ("THAWED", "0") };
        if !write_if_there(&self.folder.join("freezer.state"), v1)? {
            write_if_there(&self.folder.join("cgroup.freeze"), v2)?;
        }
        Ok(())
    }

    fn pids(&self) -> io::Result<Vec<i32>> {
        let mut pids = Vec::new();
        for folder in tree(&self.folder)? {
            let text = match read_if_there(&folder.join("cgroup.procs")) {
                // A threaded cgroup's processes are listed by the one above.
                Err(e) if e.kind() == ErrorKind::Unsupported => continue,
                other => other?.unwrap_or_default(),
            };
            // Zero: a process that our own PID namespace does not know.
            pids.extend(
                text.lines()
                    .filter_map(|l| l.parse::<i32>().ok())
                    .filter(|p| *p > 0),
            );
        }
        Ok(pids)
    }
}
