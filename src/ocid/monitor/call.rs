//! The OCI runtime, called from a monitor: no async runtime, no thread, no poll on a timer.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;

use super::protocol::OciRuntime;
use crate::host::process::reap_any;
use crate::host::spawn;

/// The tail of the runtime's log that an error message is looked for in.
const TAIL: u64 = 16 * 1024;

/// The ends of our children: those we started, and those whose parents died (we are a subreaper).
#[derive(Debug)]
pub struct Children {
    signals: SignalFd,
}

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    pub pid: i32,
    /// 128 + the signal's number where one ended it.
    pub exit_code: i32,
    pub signal: Option<i32>,
}

impl Children {
    /// From here on SIGCHLD is read, not delivered.
    pub fn new() -> io::Result<Self> {
        let mut mask = SigSet::empty();
        mask.add(Signal::SIGCHLD);
        mask.thread_block()?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let signals = SignalFd::with_flags(&mask, flags)?;
        Ok(Self { signals })
    }

    /// Everyone who has ended since the last call.
    pub fn reap(&self) -> Vec<Ended> {
        // The pending signal is taken first: a child that ends after that raises another one.
        while let Ok(Some(_)) = self.signals.read_signal() {}
        let mut ended = Vec::new();
        loop {
            match reap_any() {
                Ok(Some((pid, status))) => ended.push(Ended::new(pid, status)),
                Ok(None) => return ended,
                Err(e) => {
                    eprintln!("wait for children: {e}");
                    return ended;
                }
            }
        }
    }

    /// Waits for one child; the others that end meanwhile go into `others`. `None` when the time is over, or
    /// `watched` has hung up.
    pub fn wait_for(
        &self,
        child: Pid,
        deadline: Option<Instant>,
        watched: Option<BorrowedFd<'_>>,
        others: &mut Vec<Ended>,
    ) -> io::Result<Option<Ended>> {
        loop {
            let mut found = None;
            for ended in self.reap() {
                if ended.pid == child.as_raw() {
                    found = Some(ended);
                } else {
                    others.push(ended);
                }
            }
            if let Some(found) = found {
                // Whoever hangs up closes streams too, which may be what it has ended of.
                let mut fds: Vec<PollFd> = watched
                    .map(|fd| PollFd::new(fd, PollFlags::empty()))
                    .into_iter()
                    .collect();
                if poll(&mut fds, PollTimeout::ZERO)? > 0 {
                    others.push(found);
                    return Ok(None);
                }
                return Ok(Some(found));
            }
            let mut fds = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
            fds.extend(watched.map(|fd| PollFd::new(fd, PollFlags::empty())));
            match poll(&mut fds, timeout(deadline)) {
                Ok(0) => return Ok(None),
                Ok(_) if fds.get(1).is_some_and(|fd| fd.any() == Some(true)) => return Ok(None),
                Ok(_) | Err(Errno::EINTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
}

impl AsFd for Children {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.signals.as_fd()
    }
}

impl Ended {
    fn new(pid: i32, status: ExitStatus) -> Self {
        let signal = status.signal();
        let exit_code = status.code().or(signal.map(|n| 128 + n)).unwrap_or(255);
        Self {
            pid,
            exit_code,
            signal,
        }
    }
}

/// What is left of the time, rounded up so that a wait does not end just before its deadline.
pub fn timeout(deadline: Option<Instant>) -> PollTimeout {
    let Some(deadline) = deadline else {
        return PollTimeout::NONE;
    };
    let left = deadline.saturating_duration_since(Instant::now());
    let millis = left.as_nanos().div_ceil(1_000_000);
    PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX)
}

/// Starts `runtime --log LOG COMMAND...`.
pub fn start<S: AsRef<OsStr>>(
    runtime: &OciRuntime,
    log: &Path,
    command: &[S],
    stdio: [BorrowedFd<'_>; 3],
) -> io::Result<Pid> {
    let global = runtime.global_args();
    let mut args: Vec<&OsStr> = global.iter().map(AsRef::as_ref).collect();
    args.extend([OsStr::new("--log"), log.as_os_str()]);
    args.extend(command.iter().map(AsRef::as_ref));
    let started = spawn::child(&runtime.path, &args, stdio);
    started.map_err(|e| io::Error::new(e.kind(), format!("run `{}`: {e}", runtime.path.display())))
}

/// Sends SIGKILL to a child of ours that has not been reaped yet.
pub fn kill_child(child: Pid) {
    // It may have ended already; its pid is ours until it is reaped.
    let _ = kill(child, Signal::SIGKILL);
}

/// Why the runtime failed, in its own words: the last error in its log, else the last line it printed, else
/// how it ended.
pub fn complaint(log: &Path, printed: &[u8], ended: Option<Ended>) -> String {
    let logged = read_tail(log).unwrap_or_default();
    error_in(&logged)
        .or_else(|| error_in(printed))
        .or_else(|| last_line(printed))
        .unwrap_or_else(|| match ended {
            Some(Ended {
                signal: Some(n), ..
            }) => format!("it was killed by signal {n}"),
            Some(Ended { exit_code, .. }) => format!("it ended with exit code {exit_code}"),
            None => "it did not end in time and was killed".to_owned(),
        })
}

fn read_tail(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
    let mut tail = Vec::new();
    file.take(TAIL).read_to_end(&mut tail)?;
    Ok(tail)
}

/// The last error among lines of the runtime's JSON log (`{"level": "error", "msg": ...}`).
pub fn error_in(log: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Line {
        level: String,
        msg: String,
    }
    let lines = log.rsplit(|&b| b == b'\n');
    let mut parsed = lines.filter_map(|line| serde_json::from_slice::<Line>(line).ok());
    parsed
        .find(|l| matches!(l.level.as_str(), "error" | "fatal" | "panic"))
        .map(|l| l.msg.trim().to_owned())
        .filter(|msg| !msg.is_empty())
}

/// The last line that is not empty.
pub fn last_line(text: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(text);
    let line = text.lines().map(str::trim).rfind(|l| !l.is_empty())?;
    Some(line.to_owned())
}

/// The pid in a pidfile.
pub fn read_pid(path: &Path) -> io::Result<i32> {
    let text = fs::read_to_string(path)?;
    text.trim()
        .parse()
        .ok()
        .filter(|&pid| pid > 0)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the pidfile holds no pid"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_error_is_the_complaint() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let text = concat!(
            "{\"level\":\"error\",\"msg\":\"first\",\"time\":\"x\"}\n",
            "{\"level\":\"error\",\"msg\":\"runc create failed: \\\"no\\\"\",\"time\":\"x\"}\n",
            "{\"level\":\"warning\",\"msg\":\"by the way\"}\nnot json\n",
        );
        fs::write(&log, text).unwrap();
        assert_eq!(
            complaint(&log, b"printed", None),
            "runc create failed: \"no\""
        );
        let none = Path::new("/no/such");
        assert_eq!(
            complaint(none, b"flag provided\nlast word\n\n", None),
            "last word"
        );
        let ended = |exit_code, signal| {
            Some(Ended {
                pid: 1,
                exit_code,
                signal,
            })
        };
        assert_eq!(
            complaint(none, b"", ended(3, None)),
            "it ended with exit code 3"
        );
        assert_eq!(
            complaint(none, b"", ended(137, Some(9))),
            "it was killed by signal 9"
        );
    }

    #[test]
    fn a_pidfile_is_read_with_care() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        for (text, pid) in [("12\n", Some(12)), ("", None), ("-1", None), ("x", None)] {
            fs::write(&path, text).unwrap();
            assert_eq!(read_pid(&path).ok(), pid, "{text:?}");
        }
    }
}
