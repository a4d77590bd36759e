//! Processes told apart for certain: pidfds instead of pids, start times against reuse.
#![allow(unsafe_code)]

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

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
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
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
        let (fd, number) = (self.0.as_raw_fd(), signal as libc::c_int);
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
}
