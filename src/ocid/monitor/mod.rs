//! The container monitor: one small process per container, so that containers outlive a restart of the daemon.
//!
//! It has the OCI runtime create the container, holds its stdio or terminal, writes its log ([`log`], [`stdio`],
//! [`journal`]), reaps it and records how it ended. It answers the daemon on a socket in the bundle ([`control`]).
//! Other jobs of the same process image run one `exec` ([`exec`], [`session`], [`inside`]). What both sides say is in [`protocol`];
//! the daemon's side is in [`client`] and in [`crate::ocid::runtime`].
//!
//! No thread, no async runtime, hardly any memory: there is one for every container.

pub mod client;
pub mod protocol;

mod attach;
mod call;
mod container;
mod control;
mod create;
mod exec;
mod inside;
mod journal;
mod log;
mod oom;
pub(crate) mod record;
mod session;
mod stdio;

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;

use self::protocol::{Job, Order, Reply};
use crate::host::{fd, spawn};

pub(crate) use self::call::{error_in, last_line};

/// An order larger than this is none of ours.
const ORDER_MAX: u64 = 1 << 20;

#[derive(Debug, thiserror::Error)]
enum MonitorError {
    #[error("read the order on descriptor 0 (`ocid monitor` is started by `ocid`, not by hand)")]
    Order { source: io::Error },
    #[error("leave the daemon's session")]
    Detach { source: io::Error },
    #[error("enter the bundle `{path}`")]
    Bundle { path: PathBuf, source: io::Error },
    #[error("open the log `{path}`")]
    Log { path: PathBuf, source: io::Error },
    #[error("{what}")]
    Prepare {
        what: &'static str,
        source: io::Error,
    },
    /// The runtime's own words.
    #[error("{message}")]
    Runtime { message: String },
}

impl MonitorError {
    fn prepare(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Prepare { what, source }
    }

    /// With every cause, on one line.
    fn full(&self) -> String {
        let mut text = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(cause) = source {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            source = cause.source();
        }
        text
    }
}

/// The whole of `ocid monitor`.
pub fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("{}", e.full());
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), MonitorError> {
    let order = |source| MonitorError::Order { source };
    // Descriptors that the daemon itself was started with and did not know of.
    fd::close_inherited().map_err(order)?;
    let mut daemon = Daemon::new().map_err(order)?;
    let job = daemon.order().map_err(order)?;
    detach(&job).map_err(|source| MonitorError::Detach { source })?;
    let result = match job {
        Job::Container(job) => container::run(*job, &mut daemon),
        Job::Exec(job) => exec::run(&job, &mut daemon),
        Job::Session(job) => session::run(&job, &mut daemon),
    };
    if let Err(e) = &result {
        let message = e.full();
        daemon.reply(&Reply::Failed { message });
    }
    result
}

/// Nothing that happens to the daemon, its terminal or its service may end us: own session, no signal that can
/// be ignored does anything, orphans below come to us, no folder of its is held.
fn detach(job: &Job) -> io::Result<()> {
    nix::unistd::setsid()?;
    std::env::set_current_dir("/")?;
    let ignored = [
        Signal::SIGHUP,
        Signal::SIGINT,
        Signal::SIGQUIT,
        Signal::SIGTERM,
        Signal::SIGPIPE,
        Signal::SIGUSR1,
        Signal::SIGUSR2,
        Signal::SIGALRM,
        Signal::SIGXFSZ,
    ];
    for signal in ignored {
        spawn::ignore(signal)?;
    }
    nix::sys::prctl::set_child_subreaper(true)?;
    let (name, open_files) = match job {
        Job::Container(job) => (c"ocid-monitor", job.open_files),
        Job::Exec(job) => (c"ocid-exec", job.open_files),
        Job::Session(job) => (c"ocid-exec", job.open_files),
    };
    nix::sys::prctl::set_name(name)?;
    if let Some(soft) = open_files {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
        setrlimit(Resource::RLIMIT_NOFILE, soft.min(hard), hard)?;
    }
    Ok(())
}

/// The daemon's end of the start-up socket.
struct Daemon(Option<UnixStream>);

impl Daemon {
    fn new() -> io::Result<Self> {
        Ok(Self(Some(UnixStream::from(fd::take_stdin()?))))
    }

    fn order(&mut self) -> io::Result<Job> {
        let mut text = Vec::new();
        if let Some(socket) = &self.0 {
            socket.take(ORDER_MAX).read_to_end(&mut text)?;
        }
        let order: Order = serde_json::from_slice(&text)?;
        Ok(order.job)
    }

    /// For noticing that the daemon, or its caller, has gone.
    fn watched(&self) -> Option<BorrowedFd<'_>> {
        self.0.as_ref().map(AsFd::as_fd)
    }

    /// Answers, once, and closes. A daemon that is gone reads our records later instead.
    fn reply(&mut self, reply: &Reply) {
        let Some(mut socket) = self.0.take() else {
            return;
        };
        let sent = serde_json::to_vec(reply)
            .map_err(io::Error::from)
            .and_then(|mut line| {
                line.push(b'\n');
                socket.write_all(&line)
            });
        if let Err(e) = sent {
            eprintln!("answer the daemon: {e}");
        }
    }
}
