//! One process run inside a container for a client that watches it: with input, or on a terminal.
//!
//! Its output pipes are the daemon's own. What is to be written to it (the writing end of its input, or the master of
//! its terminal) is handed to the daemon over the start-up socket before the reply. When that socket hangs up,
//! the client or the daemon has gone: what was exec'd is killed, with its children.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;

use super::inside::Inside;
use super::protocol::{CONSOLE, Reply, SessionJob};
use super::{Daemon, MonitorError};
use crate::host::fd::{give_pipe, take_output};
use crate::host::{pass, pty};

pub fn run(job: &SessionJob, daemon: &mut Daemon) -> Result<(), MonitorError> {
    // Nobody is left to be told when it has gone.
    if let Some(exit_code) = session(job, daemon)? {
        daemon.reply(&Reply::Exited { exit_code });
    }
    Ok(())
}

/// The exit code; `None` when the client has gone and everything has been killed.
fn session(job: &SessionJob, daemon: &Daemon) -> Result<Option<i32>, MonitorError> {
    let prepare = MonitorError::prepare;
    let outputs = take_output().map_err(prepare("take the output pipes"))?;
    for pipe in &outputs {
        give_pipe(pipe, job.owner).map_err(prepare("give away the output pipes"))?;
    }
    let (cgroup, caller) = (job.cgroup.as_ref(), daemon.watched());
    let mut inside = Inside::new(&job.runtime, &job.id, &job.folder, cgroup, None, caller)?;
    let console = console(job).map_err(prepare("listen for the terminal"))?;
    let stdin = stdin(job, daemon).map_err(prepare("make the input"))?;
    let options: &[&str] = match console {
        Some(_) => &["--console-socket", CONSOLE],
        None => &[],
    };
    let [out, err] = outputs.each_ref().map(AsFd::as_fd);
    let Some(pid) = inside.start(options, [stdin.as_fd(), out, err])? else {
        return Ok(None);
    };
    // From here on only the process and its children hold them.
    drop((stdin, outputs));
    if let Some(listener) = console {
        // A daemon that is gone is noticed below.
        if let Err(e) = receive(&listener).and_then(|master| daemon.pass(&master)) {
            eprintln!("hand over the terminal: {e}");
        }
    }
    inside.end(pid)
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

/// The terminal that the runtime has sent before it ended: the last one, should it have been called twice.
fn receive(listener: &UnixListener) -> io::Result<OwnedFd> {
    let (mut stream, _) = listener.accept()?;
    while let Ok((later, _)) = listener.accept() {
        stream = later;
    }
    stream.set_nonblocking(true)?;
    pty::receive_fd(&stream)
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
