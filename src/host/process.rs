//! Processes told apart for certain: pidfds instead of pids, start times against reuse.
#![allow(unsafe_code)]

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::CloneFlags;
use nix::sys::signal::Signal;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// How long a killed family may take to go.
const KILL_LIMIT: Duration = Duration::from_secs(10);

/// A process that cannot be confused with a later one of the same pid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    pub pid: i32,
    /// Field 22 of `/proc/PID/stat`: clock ticks after boot (proc_pid_stat(5)).
    pub start_time: u64,
}

impl ProcessId {
    /// The process that has this pid now; `NotFound` if there is none.
    pub fn of(pid: i32) -> io::Result<Self> {
        // The file of a process that is just being reaped opens, and then cannot be read (ESRCH).
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).map_err(no_such_process)?;
        let start_time = parse_start_time(&stat).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, "/proc/PID/stat is cut short")
        })?;
        Ok(Self { pid, start_time })
    }

    /// A pidfd on this very process; `NotFound` once it is gone, or when its pid is another's.
    pub fn open(&self) -> io::Result<PidFd> {
        let fd = PidFd::open(self.pid)?;
        if Self::of(self.pid)? == *self {
            Ok(fd)
        } else {
            Err(io::ErrorKind::NotFound.into())
        }
    }

    /// Does it exist and run (a zombie does not)?
    pub fn is_running(&self) -> bool {
        self.open().is_ok_and(|fd| !fd.has_exited().unwrap_or(true))
    }
}

/// Comm may hold spaces and parentheses: the fields count from the last `)`.
fn parse_start_time(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// A pidfd (pidfd_open(2)): readable when the process has exited.
#[derive(Debug)]
pub struct PidFd(OwnedFd);

impl PidFd {
    /// `NotFound` when there is no such process.
    pub fn open(pid: i32) -> io::Result<Self> {
        // SAFETY: the call takes two integers and returns a new descriptor or -1.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        match i32::try_from(fd) {
            // SAFETY: the kernel has just made this descriptor for us.
            Ok(fd) if fd >= 0 => Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) })),
            _ => Err(no_such_process(io::Error::last_os_error())),
        }
    }

    /// Sends a signal; `NotFound` when the process is gone.
    pub fn kill(&self, signal: Signal) -> io::Result<()> {
        self.send(signal as libc::c_int)
    }

    /// Sends a signal by its number, a real-time one too; `NotFound` when the process is gone.
    pub fn send(&self, number: i32) -> io::Result<()> {
        let fd = self.0.as_raw_fd();
        let no_info: *const libc::siginfo_t = std::ptr::null();
        // SAFETY: a null siginfo asks the kernel for the one kill(2) would send.
        let sent = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, number, no_info, 0) };
        if sent == 0 {
            Ok(())
        } else {
            Err(no_such_process(io::Error::last_os_error()))
        }
    }

    /// Has it exited, reaped or not?
    pub fn has_exited(&self) -> io::Result<bool> {
        self.wait(Duration::ZERO)
    }

    /// Waits for the exit; false when the time is over first.
    pub fn wait(&self, limit: Duration) -> io::Result<bool> {
        let limit = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        loop {
            match poll(&mut fds, limit) {
                Err(Errno::EINTR) => {}
                other => return Ok(other? > 0),
            }
        }
    }
}

impl AsFd for PidFd {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for PidFd {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.0.as_raw_fd()
    }
}

impl PidFd {
    /// Waits for the exit in an async runtime.
    pub async fn exited(&self) -> io::Result<()> {
        let fd = self.0.as_fd();
        // SAFETY: the borrowed descriptor is `self`'s, which outlives the registration.
        let watched = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?;
        watched.readable().await?.retain_ready();
        Ok(())
    }

    /// Takes the exit status of a child of ours, so that it does not stay a zombie; `None` while it runs or
    /// when it is not our child.
    pub fn reap(&self) -> Option<WaitStatus> {
        match waitid(
            Id::PIDFd(self.0.as_fd()),
            WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG,
        ) {
            Ok(WaitStatus::StillAlive) | Err(_) => None,
            Ok(status) => Some(status),
        }
    }
}

/// Takes the status of any one child that has ended; `None` when there is none at the moment. Unlike nix's
/// `waitpid` it knows deaths by real-time signals.
pub fn reap_any() -> io::Result<Option<(i32, ExitStatus)>> {
    loop {
        let mut status = 0;
        // SAFETY: stores one int at the given address.
        match unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG) } {
            0 => return Ok(None),
            pid @ 1.. => return Ok(Some((pid, ExitStatus::from_raw(status)))),
            _ => match io::Error::last_os_error() {
                e if e.raw_os_error() == Some(libc::ECHILD) => return Ok(None),
                e if e.kind() == io::ErrorKind::Interrupted => {}
                e => return Err(e),
            },
        }
    }
}

/// One line of `/proc/PID/stat`, as far as family ties go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Relation {
    id: ProcessId,
    parent: i32,
    session: i32,
    zombie: bool,
}

impl Relation {
    fn parse(pid: i32, stat: &str) -> Option<Self> {
        let (_, rest) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().take(4).collect();
        let [state, parent, _group, session] = fields.as_slice() else {
            return None;
        };
        Some(Self {
            id: ProcessId {
                pid,
                start_time: parse_start_time(stat)?,
            },
            parent: parent.parse().ok()?,
            session: session.parse().ok()?,
            zombie: *state == "Z",
        })
    }

    /// Every process there is. One that ends while we look is left out.
    fn all() -> io::Result<Vec<Self>> {
        let mut all = Vec::new();
        for entry in fs::read_dir("/proc")? {
            let name = entry?.file_name();
            let Some(pid) = name.to_str().and_then(|n| n.parse().ok()) else {
                continue;
            };
            if let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) {
                all.extend(Self::parse(pid, &stat));
            }
        }
        Ok(all)
    }
}

/// Those of `all` that descend from `ancestor` or belong to `session` or descend from one that does;
/// never `ancestor` itself.
fn family(all: &[Relation], ancestor: i32, session: Option<i32>) -> Vec<ProcessId> {
    let mut members: HashSet<i32> = HashSet::from([ancestor]);
    loop {
        let before = members.len();
        for p in all {
            if members.contains(&p.parent) || session == Some(p.session) {
                members.insert(p.id.pid);
            }
        }
        if members.len() == before {
            break;
        }
    }
    let member = |p: &&Relation| p.id.pid != ancestor && !p.zombie && members.contains(&p.id.pid);
    all.iter().filter(member).map(|p| p.id).collect()
}

/// The pids of what descends from `ancestor` (not `ancestor` itself) and of everyone in `session`.
pub fn family_of(ancestor: i32, session: Option<i32>) -> io::Result<Vec<i32>> {
    let found = family(&Relation::all()?, ancestor, session);
    Ok(found.iter().map(|id| id.pid).collect())
}

/// Kills what descends from `ancestor` (not `ancestor` itself) and everyone in `session`, the members who were
/// adopted by another process too. Stops each one first, so that none can fork away from under the search.
/// Answers how many were killed, when they have ended (or [`KILL_LIMIT`] is over: something holds them in the
/// kernel). Blocks.
pub fn kill_family(ancestor: i32, session: Option<i32>) -> io::Result<usize> {
    let mut found: HashMap<i32, PidFd> = HashMap::new();
    loop {
        let before = found.len();
        for id in family(&Relation::all()?, ancestor, session) {
            if found.contains_key(&id.pid) {
                continue;
            }
            match id
                .open()
                .and_then(|fd| fd.kill(Signal::SIGSTOP).map(|()| fd))
            {
                Ok(fd) => {
                    found.insert(id.pid, fd);
                }
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        if found.len() == before {
            break;
        }
    }
    for fd in found.values() {
        match fd.kill(Signal::SIGKILL) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    let deadline = Instant::now() + KILL_LIMIT;
    for fd in found.values() {
        fd.wait(deadline.saturating_duration_since(Instant::now()))?;
    }
    Ok(found.len())
}

/// Forks with `clone(2)` flags of choice (new namespaces, another parent) and runs `child` in the new process,
/// which ends with the code that it returns. Answers the child's pid in our own PID namespace.
///
/// Refused in a process with more than one thread: the child would find locks held by threads it does not have.
pub fn fork_with(flags: CloneFlags, child: impl FnOnce() -> i32) -> io::Result<i32> {
    if fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::Error::other(
            "a process with threads cannot be forked safely",
        ));
    }
    let flags = libc::c_ulong::from(flags.bits().cast_unsigned()) | SIGCHLD_FLAG;
    // SAFETY: without a new stack and without CLONE_VM this is fork(2); the process has one thread, so the
    // child's copy of memory is consistent. The trailing arguments are unused without their flags.
    match unsafe { libc::syscall(libc::SYS_clone, flags, 0usize, 0usize, 0usize, 0usize) } {
        0 => {
            let code = child();
            // SAFETY: ends the child at once; handlers and buffers of the parent's copy must not run.
            unsafe { libc::_exit(code) }
        }
        pid => i32::try_from(pid)
            .ok()
            .filter(|&pid| pid > 0)
            .ok_or_else(io::Error::last_os_error),
    }
}

/// The signal that the parent gets at the child's end stands in the flags' low byte.
const SIGCHLD_FLAG: libc::c_ulong = libc::SIGCHLD as libc::c_ulong;

fn no_such_process(e: io::Error) -> io::Error {
    if e.raw_os_error() == Some(libc::ESRCH) {
        io::ErrorKind::NotFound.into()
    } else {
        e
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn start_time_is_read_past_a_hostile_name() {
        let stat = "7 (a) b) (c) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4242 9 9";
        assert_eq!(parse_start_time(stat), Some(4242));
        assert_eq!(parse_start_time("7 (a) S 1"), None);
        assert_eq!(parse_start_time(""), None);
    }

    #[test]
    fn a_process_is_followed_to_its_end() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let id = ProcessId::of(child.id() as i32).unwrap();
        assert!(id.is_running());
        let fd = id.open().unwrap();
        assert!(!fd.wait(Duration::from_millis(1)).unwrap());
        fd.kill(Signal::SIGKILL).unwrap();
        assert!(fd.wait(Duration::from_secs(10)).unwrap());
        assert!(!id.is_running(), "a zombie does not run");
        child.wait().unwrap();
        assert_eq!(id.open().unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn another_process_with_the_pid_is_not_it() {
        let id = ProcessId {
            pid: std::process::id() as i32,
            start_time: 1,
        };
        assert!(!id.is_running());
    }

    fn relation(pid: i32, parent: i32, session: i32) -> Relation {
        let id = ProcessId { pid, start_time: 1 };
        Relation {
            id,
            parent,
            session,
            zombie: false,
        }
    }

    #[test]
    fn a_family_is_children_and_session() {
        let all = [
            relation(9, 8, 3), // grandchild, listed before its parent
            relation(8, 5, 8),
            relation(5, 1, 5),
            relation(20, 1, 7), // adopted, but of the session
            relation(21, 20, 21),
            relation(30, 1, 30),
        ];
        let pids =
            |session| -> Vec<i32> { family(&all, 5, session).iter().map(|p| p.pid).collect() };
        assert_eq!(pids(None), [9, 8]);
        assert_eq!(pids(Some(7)), [9, 8, 20, 21]);
    }

    #[test]
    fn relations_are_read_past_a_hostile_name() {
        let stat = "7 (a) b) (c) Z 3 4 5 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4242 9 9";
        let r = Relation::parse(7, stat).unwrap();
        assert_eq!(
            (r.id.start_time, r.parent, r.session, r.zombie),
            (4242, 3, 5, true)
        );
        assert_eq!(Relation::parse(7, "7 (a) S 1"), None);
    }

    #[test]
    fn a_tree_is_killed_with_those_who_left_it() {
        // The shell leads a session, its child leaves the tree (orphaned by the subshell) and stays in it.
        let inner = "echo $$; (sleep 300 & echo $!); sleep 300";
        let mut child = Command::new("sh")
            .args(["-c", &format!("setsid sh -c '{inner}' & wait")])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines =
            std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
        let mut pid = || lines.next().unwrap().unwrap().parse::<i32>().unwrap();
        let (leader, orphan) = (pid(), pid());
        let watched = [leader, orphan].map(|p| PidFd::open(p).unwrap());
        let killed = kill_family(child.id() as i32, Some(leader)).unwrap();
        assert!(killed >= 2, "{killed}");
        for fd in &watched {
            assert!(fd.wait(Duration::from_secs(10)).unwrap());
        }
        child.wait().unwrap();
    }

    #[tokio::test]
    async fn an_exit_is_awaited_and_reaped() {
        let mut child = Command::new("sh").args(["-c", "exit 3"]).spawn().unwrap();
        let fd = ProcessId::of(child.id() as i32).unwrap().open().unwrap();
        fd.exited().await.unwrap();
        let pid = nix::unistd::Pid::from_raw(child.id() as i32);
        assert_eq!(fd.reap(), Some(WaitStatus::Exited(pid, 3)));
        assert_eq!(fd.reap(), None);
        assert!(child.wait().is_err(), "there is nothing left to wait for");
    }
}
