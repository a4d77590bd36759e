//! The pause process: holds a pod's PID namespace where the pod asks for a shared one.
//!
//! It is process 1 of the namespace: it reaps whoever is orphaned in the pod, and its end ends them all. It
//! needs nothing and can do nothing: an empty read-only root, an unprivileged user, no capability, no open file.
//! It ends on SIGTERM or SIGINT.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, CpuSet, sched_setaffinity, setns};
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{Gid, Uid};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::process::Child;

use crate::host::process::{self, PidFd, ProcessId};
use crate::host::{fd, spawn};

/// An order or answer larger than this is none.
const DOCUMENT_MAX: u64 = 64 * 1024;
/// The whole start takes milliseconds.
const LIMIT: Duration = Duration::from_secs(30);
/// Nobody, on every distribution.
const NOBODY: u32 = 65534;

#[derive(Debug, thiserror::Error)]
pub enum PauseError {
    #[error("start the pause process from `{exe}`")]
    Spawn { exe: PathBuf, source: io::Error },
    #[error("the pause process did not start: {message}")]
    Failed { message: String },
    #[error("the pause process did not start within {LIMIT:?}")]
    TimedOut,
}

/// Where the process is to live.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PauseRequest {
    /// Pinned namespaces to join; `None` stays in the host's.
    pub net: Option<PathBuf>,
    pub ipc: Option<PathBuf>,
    pub uts: Option<PathBuf>,
    /// Owns the others.
    #[serde(default)]
    pub user: Option<PathBuf>,
    /// Whom it becomes: a user and a group that the user namespace knows; else nobody.
    #[serde(default)]
    pub nobody: Option<(u32, u32)>,
    /// `cgroup.procs` files of the cgroups to join, one per hierarchy; empty stays in the daemon's.
    #[serde(default)]
    pub cgroup_procs: Vec<PathBuf>,
    /// The processors that it may run on; empty is any.
    #[serde(default)]
    pub cpus: BTreeSet<usize>,
    /// It ends unless it is told that somebody knows of it: a daemon that dies in between leaves none.
    #[serde(default)]
    pub confirmed: bool,
}

/// A pause process that ends with this value, unless it is kept.
#[derive(Debug)]
pub struct Started {
    pub id: ProcessId,
    socket: UnixStream,
    child: Child,
}

impl Started {
    /// Lets it stay, now that a record names it.
    pub async fn keep(mut self) -> Result<(), PauseError> {
        let kept = async {
            self.socket.write_all(b"+").await?;
            self.child.wait().await
        };
        let failed = |message: String| PauseError::Failed { message };
        match kept.await {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(failed(format!("its starter ended with {status}"))),
            Err(e) => Err(failed(e.to_string())),
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    Started(ProcessId),
    Failed(String),
}

/// Starts a pause process and answers once it has given up its privileges. Its PID namespace is
/// `/proc/PID/ns/pid`. Needs an async runtime; while that lives, the process is reaped when it ends.
pub async fn spawn(exe: &Path, request: &PauseRequest) -> Result<Started, PauseError> {
    let request = PauseRequest {
        confirmed: true,
        ..request.clone()
    };
    match tokio::time::timeout(LIMIT, start(exe, &request)).await {
        Ok(answer) => {
            let (answer, socket, child) = answer.map_err(|source| PauseError::Spawn {
                exe: exe.to_owned(),
                source,
            })?;
            match answer {
                Answer::Started(id) => {
                    if let Ok(fd) = id.open() {
                        tokio::spawn(async move { fd.exited().await.map(|()| fd.reap()) });
                    }
                    Ok(Started { id, socket, child })
                }
                Answer::Failed(message) => Err(PauseError::Failed { message }),
            }
        }
        Err(_) => Err(PauseError::TimedOut),
    }
}

async fn start(exe: &Path, request: &PauseRequest) -> io::Result<(Answer, UnixStream, Child)> {
    let (ours, theirs) = StdUnixStream::pair()?;
    ours.set_nonblocking(true)?;
    let mut socket = UnixStream::from_std(ours)?;
    let theirs = OwnedFd::from(theirs);
    let mut child = spawn::own_face(exe, "pause", theirs, Stdio::null(), Stdio::null())?;
    let mut text = serde_json::to_vec(request)?;
    text.push(b'\n');
    let mut line = Vec::new();
    // One that dies before it has read all of it says so by the missing answer.
    if socket.write_all(&text).await.is_ok() {
        let mut limited = BufReader::new((&mut socket).take(DOCUMENT_MAX));
        limited.read_until(b'\n', &mut line).await?;
    }
    let answer = if line.is_empty() {
        let status = child.wait().await?;
        Answer::Failed(format!("it ended with {status}"))
    } else {
        serde_json::from_slice(&line)?
    };
    Ok((answer, socket, child))
}

/// Ends a pause process, and with it everything in its PID namespace, and waits for that.
/// One that is gone is no error; one that outlives the limit is (`TimedOut`).
pub async fn stop(id: &ProcessId, limit: Duration) -> io::Result<()> {
    let fd: PidFd = match id.open() {
        Ok(fd) => fd,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    match fd.kill(Signal::SIGKILL) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    tokio::time::timeout(limit, fd.exited())
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

/// The whole of `ocid pause`. Takes no arguments; its order comes on descriptor 0, a socket.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    if let Some(arg) = args.into_iter().next() {
        eprintln!(
            "`ocid pause` takes no argument (found `{}`)",
            arg.to_string_lossy()
        );
        return ExitCode::from(2);
    }
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!(
                "start the pause process: {e} (`ocid pause` is started by `ocid`, not by hand)"
            );
            ExitCode::FAILURE
        }
    }
}

fn run() -> io::Result<()> {
    fd::close_inherited()?;
    let mut socket = StdUnixStream::from(fd::take_stdin()?);
    let mut text = Vec::new();
    io::BufReader::new((&socket).take(DOCUMENT_MAX)).read_until(b'\n', &mut text)?;
    let request: PauseRequest = serde_json::from_slice(&text)?;
    let (answer, id) = match fork(&request) {
        Ok(id) => (Answer::Started(id), Some(id)),
        Err(e) => (Answer::Failed(e.to_string()), None),
    };
    let mut line = serde_json::to_vec(&answer)?;
    line.push(b'\n');
    let mut confirm = || {
        socket.write_all(&line)?;
        match request.confirmed {
            true => socket.read_exact(&mut [0]),
            false => Ok(()),
        }
    };
    let (confirmed, Some(id)) = (confirm(), id) else {
        return Ok(());
    };
    confirmed.map_err(
        |_| match id.open().and_then(|fd| fd.kill(Signal::SIGKILL)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => e,
            _ => io::Error::other("nobody wants it"),
        },
    )
}

/// Joins the namespaces, starts process 1 of a new PID namespace and waits until it has settled. It becomes a
/// child of our parent, the daemon, who is there to reap it; we end.
fn fork(request: &PauseRequest) -> io::Result<ProcessId> {
    // Process 1 loses a signal that arrives before it is handled or blocked, so they are blocked already.
    SigSet::all().thread_block()?;
    if !request.cpus.is_empty() {
        let mut cpus = CpuSet::new();
        for cpu in &request.cpus {
            cpus.set(*cpu)?;
        }
        let failed = |e: nix::Error| io::Error::other(format!("keep to the processors: {e}"));
        sched_setaffinity(nix::unistd::Pid::from_raw(0), &cpus).map_err(failed)?;
    }
    nix::unistd::setsid()?;
    let joins = [
        (&request.user, CloneFlags::CLONE_NEWUSER),
        (&request.net, CloneFlags::CLONE_NEWNET),
        (&request.ipc, CloneFlags::CLONE_NEWIPC),
        (&request.uts, CloneFlags::CLONE_NEWUTS),
    ];
    let failed =
        |path: &Path, e: io::Error| io::Error::other(format!("join `{}`: {e}", path.display()));
    // All are opened before the first is joined: another user may not see them.
    let mut namespaces = Vec::new();
    for (path, kind) in joins {
        if let Some(path) = path {
            let namespace = File::open(path).map_err(|e| failed(path, e))?;
            namespaces.push((path, kind, namespace));
        }
    }
    for (path, kind, namespace) in namespaces {
        setns(namespace, kind).map_err(|e| failed(path, e.into()))?;
        if kind == CloneFlags::CLONE_NEWUSER {
            // Its root, whom its other namespaces belong to.
            let (uid, gid) = (Uid::from_raw(0), Gid::from_raw(0));
            nix::unistd::setresgid(gid, gid, gid)?;
            nix::unistd::setresuid(uid, uid, uid)?;
        }
    }
    for path in &request.cgroup_procs {
        let joined = File::options().write(true).open(path);
        let joined = joined.and_then(|mut f| f.write_all(b"0"));
        joined.map_err(|e| io::Error::other(format!("join `{}`: {e}", path.display())))?;
    }
    let (mut reader, writer) = io::pipe()?;
    let mut writer = Some(writer);
    let flags = CloneFlags::CLONE_PARENT | CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNS;
    let pid = process::fork_with(flags, || {
        let Some(mut writer) = writer.take() else {
            return 1;
        };
        match settle(request.nobody.unwrap_or((NOBODY, NOBODY))) {
            Ok(()) => match writer.write_all(b"+").and_then(|()| fd::close_all()) {
                Ok(()) => hold(),
                Err(_) => 1,
            },
            Err(e) => {
                // Whoever waits for it sees the end of the pipe even when this fails.
                let _ = writer.write_all(e.to_string().as_bytes());
                1
            }
        }
    })?;
    drop(writer);
    let id = ProcessId::of(pid)?;
    let mut said = String::new();
    reader.read_to_string(&mut said)?;
    if said == "+" {
        return Ok(id);
    }
    if let Ok(fd) = id.open() {
        // On its way out already.
        let _ = fd.kill(Signal::SIGKILL);
    }
    Err(io::Error::other(if said.is_empty() {
        "process 1 was killed".to_owned()
    } else {
        said
    }))
}

/// Process 1: gives up everything.
fn settle((uid, gid): (u32, u32)) -> io::Result<()> {
    let what = |what: &'static str| move |e: nix::Error| io::Error::other(format!("{what}: {e}"));
    nix::sys::prctl::set_name(c"ocid-pause").map_err(what("set the name"))?;
    let none: Option<&str> = None;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(none, "/", none, private, none).map_err(what("make the mounts private"))?;
    // Any folder that is surely there will do as a mount point: only we see it.
    let options = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let data = Some("size=4k,nr_inodes=2,mode=555");
    mount(Some("pause"), "/proc", Some("tmpfs"), options, data)
        .map_err(what("mount an empty root"))?;
    std::env::set_current_dir("/proc")?;
    if nix::unistd::pivot_root(".", ".").is_ok() {
        // The old root stands over the new one now; without it no mount of the host is pinned by us.
        umount2(".", MntFlags::MNT_DETACH).map_err(what("detach the old root"))?;
    } else {
        // The machine runs from its initial ramdisk, which cannot be pivoted away from.
        mount(Some("."), "/", none, MsFlags::MS_MOVE, none).map_err(what("move the root"))?;
        nix::unistd::chroot(".").map_err(what("change the root"))?;
    }
    std::env::set_current_dir("/")?;
    let read_only = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY | options;
    mount(none, "/", none, read_only, none).map_err(what("make the root read-only"))?;

    nix::sys::prctl::set_no_new_privs().map_err(what("give up new privileges"))?;
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    nix::unistd::setgroups(&[]).map_err(what("leave every group"))?;
    nix::unistd::setresgid(gid, gid, gid).map_err(what("change the group"))?;
    // With the last id that is 0 the kernel takes every capability away.
    nix::unistd::setresuid(uid, uid, uid).map_err(what("change the user"))?;
    nix::sys::prctl::set_dumpable(false).map_err(what("refuse to be traced"))
}

/// Reaps until told to end.
fn hold() -> i32 {
    let mut awaited = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGCHLD] {
        awaited.add(signal);
    }
    loop {
        match awaited.wait() {
            Ok(Signal::SIGTERM | Signal::SIGINT) => return 0,
            Ok(_) => while let Ok(Some(_)) = process::reap_any() {},
            Err(nix::Error::EINTR) => {}
            Err(_) => return 1,
        }
    }
}
