//! One process run inside a container for a client that watches it: with input, or on a terminal.
//!
//! As in [`super::exec`] the runtime is called with `--detach`, its output pipes are the daemon's own, and the
//! process becomes a child of this one. What is to be written to it (the writing end of its input, or the master of
//! its terminal) is handed to the daemon over the start-up socket before the reply. When that socket hangs up,
//! the client or the daemon has gone: what was exec'd is killed, with its children.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::unistd::Pid;

use super::call::{self, Children, Ended};
use super::protocol::{CONSOLE, Reply, SessionJob};
use super::{Daemon, MonitorError};
use crate::host::fd::{give_pipe, take_output};
use crate::host::{pass, process, pty};

/// How long a killed process is waited for before it is left to whoever adopts it.
const REAP_LIMIT: Duration = Duration::from_secs(5);
/// Files in the folder of the session, which is the working folder: a socket's path may be 107 bytes long.
const PIDFILE: &str = "pid";
const LOG: &str = "log";
const PROCESS: &str = "process.json";

pub fn run(job: &SessionJob, daemon: &mut Daemon) -> Result<(), MonitorError> {
    let prepare = MonitorError::prepare;
    std::env::set_current_dir(&job.folder).map_err(prepare("enter the folder of the session"))?;
    let children = Children::new().map_err(prepare("watch for ended children"))?;
    let outputs = take_output().map_err(prepare("take the output pipes"))?;
    for pipe in &outputs {
        give_pipe(pipe, job.owner).map_err(prepare("give away the output pipes"))?;
    }
    // Nobody is left to be told when it has gone.
    if let Some(exit_code) = session(job, &children, outputs, daemon)? {
        daemon.reply(&Reply::Exited { exit_code });
    }
    Ok(())
}

/// The exit code; `None` when the client has gone and everything has been killed.
fn session(
    job: &SessionJob,
    children: &Children,
    outputs: [OwnedFd; 2],
    daemon: &Daemon,
) -> Result<Option<i32>, MonitorError> {
    let prepare = MonitorError::prepare;
    let console = console(job).map_err(prepare("listen for the terminal"))?;
    let stdin = stdin(job, daemon).map_err(prepare("make the input"))?;
    let mut command = vec![
        "exec",
        "--detach",
        "--process",
        PROCESS,
        "--pid-file",
        PIDFILE,
    ];
    if console.is_some() {
        command.extend(["--console-socket", CONSOLE]);
    }
    command.push(&job.id);
    let [out, err] = outputs.each_ref().map(AsFd::as_fd);
    let log = Path::new(LOG);
    let runtime = call::start(&job.runtime, log, &command, [stdin.as_fd(), out, err])
        .map_err(prepare("start the OCI runtime"))?;
    // From here on only the process and its children hold them.
    drop((stdin, outputs));

    let mut others = Vec::new();
    let wait = |child, deadline, watched: Option<BorrowedFd<'_>>, others: &mut Vec<Ended>| {
        let ended = children.wait_for(child, deadline, watched, others);
        ended.map_err(prepare("wait for the process"))
    };
    let pid = match wait(runtime, None, daemon.watched(), &mut others)? {
        Some(Ended { exit_code: 0, .. }) => {
            call::read_pid(Path::new(PIDFILE)).map_err(prepare("find the process"))?
        }
        Some(ended) => {
            let message = call::complaint(log, b"", Some(ended));
            return Err(MonitorError::Runtime { message });
        }
        None => {
            kill_all(None)?;
            return Ok(None);
        }
    };
    if let Some(listener) = console {
        // A daemon that is gone is noticed below.
        if let Err(e) = receive(&listener).and_then(|master| daemon.pass(&master)) {
            eprintln!("hand over the terminal: {e}");
        }
    }
    if let Some(ended) = others.iter().find(|e| e.pid == pid) {
        return Ok(Some(ended.exit_code));
    }
    let process = Pid::from_raw(pid);
    match wait(process, None, daemon.watched(), &mut others)? {
        Some(ended) => Ok(Some(ended.exit_code)),
        None => {
            kill_all(Some(pid))?;
            let limit = Some(Instant::now() + REAP_LIMIT);
            wait(process, limit, None, &mut others)?;
            Ok(None)
        }
    }
}

fn console(job: &SessionJob) -> io::Result<Option<UnixListener>> {
    if !job.tty {
        return Ok(None);
    }
    let listener = UnixListener::bind(CONSOLE)?;
    listener.set_nonblocking(true)?;
    Ok(Some(listener))
}

/// The reading end of the process' input; the daemon gets the other.
fn stdin(job: &SessionJob, daemon: &Daemon) -> io::Result<OwnedFd> {
    if job.tty || !job.stdin {
        return Ok(File::open("/dev/null")?.into());
    }
    let (reader, writer) = io::pipe()?;
    give_pipe(&reader, job.owner)?;
    daemon.pass(&writer)?;
    Ok(reader.into())
}

/// The terminal that the runtime has sent before it ended.
fn receive(listener: &UnixListener) -> io::Result<OwnedFd> {
    let (stream, _) = listener.accept()?;
    stream.set_nonblocking(true)?;
    pty::receive_fd(&stream)
}

/// Everyone below us, and those of the session, whom the container's first process may have adopted.
fn kill_all(session: Option<i32>) -> Result<(), MonitorError> {
    let ours = std::process::id().cast_signed();
    process::kill_family(ours, session).map_err(MonitorError::prepare("kill what was exec'd"))?;
    Ok(())
}

impl Daemon {
    /// Hands a descriptor over.
    fn pass(&self, fd: impl AsFd) -> io::Result<()> {
        match &self.0 {
            Some(socket) => pass::send(socket, fd),
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }
}
