//! Services on a machine without systemd: started in the background, found again by pidfile,
//! stopped by signal.
//!
//! A pidfile holds four lines: pid, start time, boot id, path of the program. The last three tell
//! the process from a later one of the same pid. It is written before the program runs: killed at
//! any moment, we leave either no service or one that the next run finds.
#![allow(unsafe_code)]

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use super::process::{PidFd, ProcessId};

/// What a service finds programs by, as systemd gives it to system services.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// How much of the log an error carries.
const TAIL: u64 = 2048;
/// How long a killed process may take to be gone (it may hang in the kernel).
const AFTER_KILL: Duration = Duration::from_secs(10);

/// A program that runs in the background.
#[derive(Debug, Clone)]
pub struct Service {
    pub name: String,
    pub exe: PathBuf,
    pub args: Vec<OsString>,
    /// The whole environment, a `PATH` aside.
    pub env: Vec<(OsString, OsString)>,
    /// Its folder must exist.
    pub pidfile: PathBuf,
    /// Appended to; its folder must exist.
    pub logfile: PathBuf,
    /// Wait this long for its `READY=1` (sd_notify(3)); none: started is enough.
    pub ready: Option<Duration>,
}

/// Why a service could not be started, found or stopped.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    #[error("open the log file `{path}` of {name}")]
    Log {
        name: String,
        path: PathBuf,
        source: io::Error,
    },
    #[error("write the pidfile `{path}` of {name}")]
    Pidfile {
        name: String,
        path: PathBuf,
        source: io::Error,
    },
    #[error("start {name} (`{exe}`)")]
    Spawn {
        name: String,
        exe: PathBuf,
        source: io::Error,
    },
    #[error("start {name}: it ended at once ({how}){}", after(.tail))]
    Ended {
        name: String,
        how: String,
        tail: String,
        logfile: PathBuf,
    },
    #[error("start {name}: not ready within {limit:?}{}", after(.tail))]
    NotReady {
        name: String,
        limit: Duration,
        tail: String,
        logfile: PathBuf,
    },
    #[error("stop {name} (pid {pid})")]
    Stop {
        name: String,
        pid: i32,
        source: io::Error,
    },
}

impl ServiceError {
    /// The command that shows more.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Ended { logfile, .. } | Self::NotReady { logfile, .. } => {
                Some(format!("see `tail {}`", logfile.display()))
            }
            Self::Log { path, .. } | Self::Pidfile { path, .. } => {
                let folder = path.parent().unwrap_or(path);
                Some(format!("see `ls -ld {}; df {0}`", folder.display()))
            }
            Self::Spawn { exe, .. } => Some(format!("see `file {}`", exe.display())),
            Self::Stop { pid, .. } => Some(format!("see `cat /proc/{pid}/status`")),
        }
    }
}

/// Starts the service in a session of its own, with its output in the log file, and waits for its
/// readiness as asked. One that runs already is left alone and returned. One that does not become
/// ready is stopped again.
pub fn start_background(service: &Service) -> Result<ProcessId, ServiceError> {
    if let Some(running) = find(service) {
        return Ok(running);
    }
    let log = open_log(service).map_err(|source| ServiceError::Log {
        name: service.name.clone(),
        path: service.logfile.clone(),
        source,
    })?;
    let begun = log.metadata().map_or(0, |m| m.len());
    let spawn_error = |source| ServiceError::Spawn {
        name: service.name.clone(),
        exe: service.exe.clone(),
        source,
    };
    let notify = Notify::new(service.ready).map_err(spawn_error)?;
    let (mut child, id) = spawn(service, &log, notify.as_ref())?;
    let Some(notify) = notify else { return Ok(id) };
    let outcome = notify.wait(&id).map_err(spawn_error);
    if let Ok(Outcome::Ready) = outcome {
        return Ok(id);
    }
    let ended = child.try_wait().ok().flatten();
    // By its id: the program may have become another one, which `find` would not take for it.
    let stopped = end(&id, Duration::from_secs(5));
    let forgotten = forget(service);
    let (name, logfile) = (service.name.clone(), service.logfile.clone());
    let tail = tail(&service.logfile, begun);
    match outcome? {
        // The wait is over because the process ended; it was just reaped.
        Outcome::Ended => Err(ServiceError::Ended {
            name,
            how: ended.map_or_else(|| "unknown status".to_owned(), |s| s.to_string()),
            tail,
            logfile,
        }),
        _ => {
            stopped.map_err(|source| stop_error(service, id, source))?;
            forgotten?;
            Err(ServiceError::NotReady {
                name,
                limit: notify.limit,
                tail,
                logfile,
            })
        }
    }
}

/// The running process of this service, if its pidfile names one.
pub fn find(service: &Service) -> Option<ProcessId> {
    let record = Record::parse(&fs::read(&service.pidfile).ok()?)?;
    let exe = fs::read_link(format!("/proc/{}/exe", record.id.pid)).ok()?;
    let same =
        record.boot == boot_id() && without_deleted(&exe) == record.exe && record.id.is_running();
    same.then_some(record.id)
}

/// Stops the service: SIGTERM, after `limit` SIGKILL; then removes its pidfile. The processes it
/// started are its own affair. True when it ran.
pub fn stop(service: &Service, limit: Duration) -> Result<bool, ServiceError> {
    let running = find(service);
    if let Some(id) = running {
        end(&id, limit).map_err(|source| stop_error(service, id, source))?;
    }
    forget(service)?;
    Ok(running.is_some())
}

fn stop_error(service: &Service, id: ProcessId, source: io::Error) -> ServiceError {
    ServiceError::Stop {
        name: service.name.clone(),
        pid: id.pid,
        source,
    }
}

/// Removes the pidfile.
fn forget(service: &Service) -> Result<(), ServiceError> {
    match fs::remove_file(&service.pidfile) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(ServiceError::Pidfile {
            name: service.name.clone(),
            path: service.pidfile.clone(),
            source,
        }),
        _ => Ok(()),
    }
}

fn end(id: &ProcessId, limit: Duration) -> io::Result<()> {
    let gone = |e: &io::Error| e.kind() == io::ErrorKind::NotFound;
    let process = match id.open() {
        Err(e) if gone(&e) => return Ok(()),
        other => other?,
    };
    for (signal, limit) in [(Signal::SIGTERM, limit), (Signal::SIGKILL, AFTER_KILL)] {
        match process.kill(signal) {
            Err(e) if gone(&e) => return Ok(()),
            other => other?,
        }
        if process.wait(limit)? {
            // It is our child when this very process started it; else its parent reaps it.
            let _ = waitpid(Pid::from_raw(id.pid), Some(WaitPidFlag::WNOHANG));
            return Ok(());
        }
    }
    Err(io::Error::new(
        io::ErrorKind::TimedOut,
        "still there after SIGKILL",
    ))
}

/// What the pidfile says.
#[derive(Debug, PartialEq)]
struct Record {
    id: ProcessId,
    boot: String,
    exe: PathBuf,
}

impl Record {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let mut lines = bytes.splitn(4, |b| *b == b'\n');
        let mut text = || std::str::from_utf8(lines.next()?).ok();
        let pid = text()?.parse().ok()?;
        let start_time = text()?.parse().ok()?;
        let boot = text()?.to_owned();
        let exe = lines.next()?.strip_suffix(b"\n")?;
        let exe = PathBuf::from(OsString::from_vec(exe.to_vec()));
        Some(Self {
            id: ProcessId { pid, start_time },
            boot,
            exe,
        })
    }

    fn bytes(&self) -> Vec<u8> {
        let ProcessId { pid, start_time } = self.id;
        let mut bytes = format!("{pid}\n{start_time}\n{}\n", self.boot).into_bytes();
        bytes.extend_from_slice(self.exe.as_os_str().as_bytes());
        bytes.push(b'\n');
        bytes
    }
}

/// Empty where /proc does not tell: then only boots are not told apart.
fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|id| id.trim().to_owned())
        .unwrap_or_default()
}

/// The kernel marks the path of a program that was replaced or removed since it started.
fn without_deleted(exe: &Path) -> PathBuf {
    let bytes = exe.as_os_str().as_bytes();
    let kept = bytes.strip_suffix(b" (deleted)").unwrap_or(bytes);
    PathBuf::from(OsString::from_vec(kept.to_vec()))
}

fn open_log(service: &Service) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o640)
        .open(&service.logfile)
}

/// Forks; the child stands still until its pidfile is written, then becomes the program.
fn spawn(
    service: &Service,
    log: &File,
    notify: Option<&Notify>,
) -> Result<(Child, ProcessId), ServiceError> {
    let spawn_error = |source| ServiceError::Spawn {
        name: service.name.clone(),
        exe: service.exe.clone(),
        source,
    };
    let exe = fs::canonicalize(&service.exe).map_err(spawn_error)?;
    let (pid_in, pid_out) =
        nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(|e| spawn_error(e.into()))?;
    let (go_in, go_out) =
        nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(|e| spawn_error(e.into()))?;

    let mut command = std::process::Command::new(&service.exe);
    command
        .args(&service.args)
        .env_clear()
        .env("PATH", PATH)
        .envs(service.env.iter().map(|(k, v)| (k, v)))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log.try_clone().map_err(spawn_error)?)
        .stderr(log.try_clone().map_err(spawn_error)?);
    if let Some(notify) = notify {
        command.env("NOTIFY_SOCKET", &notify.path);
    }
    let (report, gate, parent_end) = (pid_out.as_raw_fd(), go_in.as_raw_fd(), go_out.as_raw_fd());
    // SAFETY: the hook runs in the forked child and makes system calls only: no allocation, no lock.
    unsafe { command.pre_exec(move || stand_by(report, gate, parent_end)) };

    std::thread::scope(|scope| {
        // `spawn` returns only after the exec, so the pidfile is written beside it. When the fork
        // fails, or we do not open the gate, a closed pipe ends the other side's wait.
        let record = scope.spawn(move || admit(service, &exe, pid_in, go_out));
        let child = command.spawn();
        drop((pid_out, go_in));
        let record = record.join().unwrap_or(Ok(None));
        match (child, record) {
            (Ok(child), Ok(Some(id))) => Ok((child, id)),
            (child, record) => {
                let _ = fs::remove_file(&service.pidfile);
                if let Err(source) = record {
                    return Err(ServiceError::Pidfile {
                        name: service.name.clone(),
                        path: service.pidfile.clone(),
                        source,
                    });
                }
                let lost = || io::Error::other("the new process did not report itself");
                Err(spawn_error(child.err().unwrap_or_else(lost)))
            }
        }
    })
}

/// In the child: a session of its own, no descriptor but the standard three, then tells its pid
/// and waits for the gate.
fn stand_by(report: i32, gate: i32, parent_end: i32) -> io::Result<()> {
    // SAFETY: system calls on integers and on a buffer of this frame.
    unsafe {
        if libc::setsid() < 0 {
            return Err(io::Error::last_os_error());
        }
        libc::umask(0o022);
        // Our copy of the gate's other end would keep it open after the parent's death.
        libc::close(parent_end);
        // What the installer's own caller left open (a pipe, a lock) must not live on in a daemon.
        // The flag is set rather than the descriptors closed: std reports a failed exec by one.
        let (first, last, flag) = (3u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC);
        if libc::syscall(libc::SYS_close_range, first, last, flag) != 0 {
            return Err(io::Error::last_os_error());
        }
        let pid = libc::getpid().to_ne_bytes();
        if libc::write(report, pid.as_ptr().cast(), pid.len()) != pid.len() as isize {
            return Err(io::Error::last_os_error());
        }
        let mut byte = 0u8;
        loop {
            match libc::read(gate, (&raw mut byte).cast(), 1) {
                1 => return Ok(()),
                0 => return Err(io::Error::from_raw_os_error(libc::ECANCELED)),
                _ if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
                _ => return Err(io::Error::last_os_error()),
            }
        }
    }
}

/// In the parent: reads the child's pid, writes the pidfile, opens the gate. None when there is no
/// child.
fn admit(
    service: &Service,
    exe: &Path,
    pid_in: OwnedFd,
    go_out: OwnedFd,
) -> io::Result<Option<ProcessId>> {
    let mut pid = [0; 4];
    match File::from(pid_in).read_exact(&mut pid) {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    let record = Record {
        id: ProcessId::of(i32::from_ne_bytes(pid))?,
        boot: boot_id(),
        exe: exe.to_owned(),
    };
    super::fs::write_atomic(&service.pidfile, &record.bytes(), 0o644)?;
    File::from(go_out).write_all(b"g")?;
    Ok(Some(record.id))
}

/// The socket a service reports its readiness on (sd_notify(3)), in a folder only we can enter.
struct Notify {
    socket: UnixDatagram,
    path: PathBuf,
    limit: Duration,
    _folder: tempfile::TempDir,
}

enum Outcome {
    Ready,
    Ended,
    Late,
}

impl Notify {
    fn new(limit: Option<Duration>) -> io::Result<Option<Self>> {
        let Some(limit) = limit else { return Ok(None) };
        let folder = tempfile::Builder::new().prefix("crio-setup-").tempdir()?;
        let path = folder.path().join("notify.sock");
        let socket = UnixDatagram::bind(&path)?;
        socket.set_nonblocking(true)?;
        Ok(Some(Self {
            socket,
            path,
            limit,
            _folder: folder,
        }))
    }

    fn wait(&self, id: &ProcessId) -> io::Result<Outcome> {
        let process = match PidFd::open(id.pid) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Outcome::Ended),
            other => other?,
        };
        let deadline = Instant::now() + self.limit;
        let mut message = [0; 4096];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(Outcome::Late);
            }
            let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            let mut fds = [
                PollFd::new(self.socket.as_fd(), PollFlags::POLLIN),
                PollFd::new(process.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut fds, left) {
                Err(Errno::EINTR) => continue,
                other => other?,
            };
            match self.socket.recv(&mut message) {
                Ok(n) if message[..n].split(|b| *b == b'\n').any(|l| l == b"READY=1") => {
                    return Ok(Outcome::Ready);
                }
                Ok(_) => continue,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Err(e),
            }
            if process.has_exited()? {
                return Ok(Outcome::Ended);
            }
        }
    }
}

/// The end of what was logged since `begun`, on lines of its own; empty when it cannot be read.
fn tail(logfile: &Path, begun: u64) -> String {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(logfile)?;
        let end = file.metadata()?.len();
        file.seek(SeekFrom::Start(begun.max(end.saturating_sub(TAIL))))?;
        let mut bytes = Vec::new();
        file.take(TAIL).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    String::from_utf8_lossy(&read().unwrap_or_default())
        .trim()
        .to_owned()
}

fn after(tail: &str) -> String {
    if tail.is_empty() {
        String::new()
    } else {
        format!(": {tail}")
    }
}

#[cfg(test)]
mod tests;
