//! Bringing a container into being, or leaving nothing of it.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::{Duration, Instant};

use super::MonitorError;
use super::call::{self, Children, Ended};
use super::control::Control;
use super::oom::OomCounter;
use super::protocol::{
    CONSOLE, ContainerJob, MonitorRecord, PIDFILE, RECORD, RUNTIME_LOG, SOCKET, VERSION,
};
use super::record;
use super::stdio::{Channel, Stream};
use crate::host::fd::give_pipe;
use crate::host::process::{self, ProcessId};
use crate::host::pty;
use crate::ocid::failpoint::{self, Point};

/// The limit of the clean-up after a failed `create`.
const DELETE_LIMIT: Duration = Duration::from_secs(30);

/// A container that the runtime has created.
pub struct Created {
    pub children: Children,
    pub control: Control,
    pub record: MonitorRecord,
    pub init: ProcessId,
    pub streams: Vec<Stream>,
    pub terminal: Option<Terminal>,
    /// The writing end of the container's input, for whoever attaches; absent on a terminal.
    pub stdin: Option<OwnedFd>,
    pub oom: OomCounter,
    /// It ended before we looked for the first time.
    pub ended: Option<Ended>,
}

/// A container's terminal.
pub struct Terminal {
    pub master: OwnedFd,
    /// Held open until the container ends: with nobody behind it a master only reports errors, and a container
    /// whose processes close and reopen their terminal would be deaf from then on.
    pub peer: Option<OwnedFd>,
}

/// The pipes or the terminal between us and the container. Only our ends live longer than `create`.
struct Stdio {
    theirs: [OwnedFd; 3],
    stdin: Option<OwnedFd>,
    /// The readers of stdout and stderr; with a terminal only what the runtime itself prints comes there.
    readers: [OwnedFd; 2],
    console: Option<UnixListener>,
}

impl Stdio {
    fn new(job: &ContainerJob) -> io::Result<Self> {
        let null = || {
            File::options()
                .read(true)
                .write(true)
                .open("/dev/null")
                .map(OwnedFd::from)
        };
        let (out, their_out) = io::pipe()?;
        let (err, their_err) = io::pipe()?;
        let (their_in, stdin) = if job.stdin && !job.tty {
            let (reader, writer) = io::pipe()?;
            (reader.into(), Some(writer.into()))
        } else {
            (null()?, None)
        };
        give_pipe(&their_in, job.owner)?;
        give_pipe(&their_out, job.owner)?;
        give_pipe(&their_err, job.owner)?;
        let console = if job.tty {
            // What a former attempt left behind.
            record::remove(Path::new(CONSOLE))?;
            let listener = UnixListener::bind(CONSOLE)?;
            listener.set_nonblocking(true)?;
            Some(listener)
        } else {
            None
        };
        Ok(Self {
            theirs: [their_in, their_out.into(), their_err.into()],
            stdin,
            readers: [out.into(), err.into()],
            console,
        })
    }
}

/// Has the runtime create the container. On an error nothing is left of it but the runtime's log.
pub fn create(job: &ContainerJob) -> Result<Created, MonitorError> {
    let prepare = MonitorError::prepare;
    let monitor =
        ProcessId::of(std::process::id().cast_signed()).map_err(prepare("identify the monitor"))?;
    let mut record = MonitorRecord {
        version: VERSION,
        monitor,
        init: None,
    };
    for stale in [SOCKET, PIDFILE, RUNTIME_LOG] {
        record::remove(Path::new(stale))
            .map_err(prepare("remove the files of a former attempt"))?;
    }
    let control = Control::bind(Path::new(SOCKET)).map_err(prepare("listen on `monitor.sock`"))?;
    let children = Children::new().map_err(prepare("watch for ended children"))?;
    let stdio = Stdio::new(job).map_err(prepare("make the container's stdio"))?;
    let Stdio {
        theirs,
        stdin,
        readers,
        console,
    } = stdio;

    let mut early = Vec::new();
    let outcome = call_create(job, &children, theirs, &mut early);
    let attempt = outcome.and_then(|()| {
        failpoint::reach(Point::MonitorCreated).map_err(prepare("go on"))?;
        let no_process = |source| MonitorError::Prepare {
            what: "find the container's first process",
            source,
        };
        let pid = call::read_pid(Path::new(PIDFILE)).map_err(no_process)?;
        if early.iter().any(|e: &Ended| e.pid == pid) {
            let message = "the container's first process ended before it was started".to_owned();
            return Err(MonitorError::Runtime { message });
        }
        let init = ProcessId::of(pid).map_err(no_process)?;
        let terminal = match &console {
            Some(listener) => Some(
                receive_terminal(listener).map_err(prepare("receive the container's terminal"))?,
            ),
            None => None,
        };
        record.init = Some(init);
        record::write(Path::new(RECORD), &record).map_err(prepare("write `monitor.json`"))?;
        failpoint::reach(Point::MonitorRecorded).map_err(prepare("go on"))?;
        Ok((init, terminal))
    });
    let made = attempt.and_then(|(init, terminal)| {
        let streams =
            streams(&terminal, &readers).map_err(prepare("prepare the container's output"))?;
        Ok((init, terminal, streams))
    });
    let (init, terminal, streams) = match made {
        Ok(made) => made,
        Err(e) => {
            let e = with_printed(e, &readers);
            clean_up(job, &children);
            return Err(e);
        }
    };
    if console.is_some() {
        record::remove(Path::new(CONSOLE)).map_err(prepare("remove `console.sock`"))?;
    }
    Ok(Created {
        children,
        control,
        record,
        init,
        streams,
        terminal,
        stdin,
        oom: OomCounter::of(init.pid),
        ended: None,
    })
}

/// Runs the runtime's `create` to its end. `theirs` is closed by then.
fn call_create(
    job: &ContainerJob,
    children: &Children,
    theirs: [OwnedFd; 3],
    early: &mut Vec<Ended>,
) -> Result<(), MonitorError> {
    let bundle = job.bundle.to_string_lossy();
    let mut command = vec!["create", "--bundle", &bundle, "--pid-file", PIDFILE];
    if job.tty {
        command.extend(["--console-socket", CONSOLE]);
    }
    if job.runtime.no_pivot {
        command.push("--no-pivot");
    }
    command.push(&job.id);
    let stdio = theirs.each_ref().map(AsFd::as_fd);
    let log = Path::new(RUNTIME_LOG);
    let runtime = call::start(&job.runtime, log, &command, stdio)
        .map_err(MonitorError::prepare("start the OCI runtime"))?;
    drop(theirs);
    let deadline = Instant::now() + Duration::from_millis(job.create_limit_ms);
    let wait = MonitorError::prepare("wait for the OCI runtime");
    let ended = match children.wait_for(runtime, Some(deadline), None, early) {
        Ok(Some(ended)) if ended.exit_code == 0 => return Ok(()),
        Ok(Some(ended)) => Some(ended),
        Ok(None) => {
            call::kill_child(runtime);
            // It cannot refuse: this only waits for the kernel to finish it.
            children
                .wait_for(runtime, None, None, early)
                .map_err(wait)?;
            None
        }
        Err(e) => return Err(wait(e)),
    };
    Err(MonitorError::Runtime {
        message: call::complaint(log, b"", ended),
    })
}

/// Where the runtime logged nothing, what it printed may tell more than how it ended.
fn with_printed(error: MonitorError, readers: &[OwnedFd; 2]) -> MonitorError {
    let MonitorError::Runtime { message } = error else {
        return error;
    };
    let logged = fs::read(RUNTIME_LOG).unwrap_or_default();
    if call::error_in(&logged).is_some() {
        return MonitorError::Runtime { message };
    }
    let mut printed = Vec::new();
    for reader in readers {
        if let Ok(fd) = reader.try_clone()
            && let Ok(mut stream) = Stream::new(Channel::Stderr, fd, false)
        {
            let read = stream.drain(
                |_| {},
                |pieces| {
                    for piece in pieces {
                        printed.extend_from_slice(piece.content);
                        printed.push(b'\n');
                    }
                },
            );
            if let Err(e) = read {
                eprintln!("read what the OCI runtime printed: {e}");
            }
        }
    }
    MonitorError::Runtime {
        message: call::error_in(&printed)
            .or_else(|| call::last_line(&printed))
            .unwrap_or(message),
    }
}

/// Leaves nothing of a container that could not be created: no process, no state of the runtime.
fn clean_up(job: &ContainerJob, children: &Children) {
    if let Err(e) = process::kill_family(std::process::id().cast_signed(), None) {
        eprintln!("kill what is left of the container: {e}");
    }
    if job.runtime.root.join(&job.id).exists() {
        let deleted = delete(job, children);
        if let Err(e) = deleted {
            eprintln!("delete what is left of the container: {e}");
        }
    }
    for file in [CONSOLE, SOCKET, PIDFILE] {
        if let Err(e) = record::remove(Path::new(file)) {
            eprintln!("remove `{file}`: {e}");
        }
    }
}

fn delete(job: &ContainerJob, children: &Children) -> io::Result<()> {
    let null = File::options().read(true).write(true).open("/dev/null")?;
    let stdio = [null.as_fd(), null.as_fd(), null.as_fd()];
    let log = Path::new(RUNTIME_LOG);
    let runtime = call::start(&job.runtime, log, &["delete", "--force", &job.id], stdio)?;
    let deadline = Some(Instant::now() + DELETE_LIMIT);
    match children.wait_for(runtime, deadline, None, &mut Vec::new())? {
        Some(Ended { exit_code: 0, .. }) => Ok(()),
        ended => {
            call::kill_child(runtime);
            Err(io::Error::other(call::complaint(log, b"", ended)))
        }
    }
}

fn receive_terminal(listener: &UnixListener) -> io::Result<Terminal> {
    // The runtime has sent it by now; waiting would be waiting for ever.
    let (stream, _) = listener.accept()?;
    stream.set_nonblocking(true)?;
    let master = pty::receive_fd(&stream)?;
    let peer = pty::peer(&master).ok();
    Ok(Terminal { master, peer })
}

fn streams(terminal: &Option<Terminal>, readers: &[OwnedFd; 2]) -> io::Result<Vec<Stream>> {
    match terminal {
        Some(t) => Ok(vec![Stream::new(
            Channel::Stdout,
            t.master.try_clone()?,
            true,
        )?]),
        None => {
            let [out, err] = readers;
            Ok(vec![
                Stream::new(Channel::Stdout, out.try_clone()?, false)?,
                Stream::new(Channel::Stderr, err.try_clone()?, false)?,
            ])
        }
    }
}
