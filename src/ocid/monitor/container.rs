//! One container, from its creation ([`create`]) to its exit record.

use std::env;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};
use time::OffsetDateTime;

use super::call;
use super::create::{Created, create};
use super::journal::Journal;
use super::log::{CriLog, Piece};
use super::protocol::{Answer, ContainerJob, ExitRecord, RECORD, Reply, Request, SOCKET, VERSION};
use super::stdio::{Channel, Progress, Stream};
use super::{Daemon, MonitorError, record};
use crate::host::{clock, pages, pty};
use crate::ocid::failpoint::{self, Point};

/// How long an exit record that finds no room waits before it is tried again.
const RETRY: Duration = Duration::from_secs(1);

pub fn run(job: ContainerJob, daemon: &mut Daemon) -> Result<(), MonitorError> {
    if let Some(order) = &job.failpoint
        && let Err(e) = failpoint::arm(order)
    {
        eprintln!("{e}");
    }
    failpoint::reach(Point::MonitorOrdered).map_err(MonitorError::prepare("begin"))?;
    env::set_current_dir(&job.bundle).map_err(|source| MonitorError::Bundle {
        path: job.bundle.clone(),
        source,
    })?;
    let (output, created) = match bring_up(&job) {
        Ok(up) => up,
        Err(e) => {
            // The daemon wrote it when it started us.
            if let Err(e) = record::remove(Path::new(RECORD)) {
                eprintln!("remove `{RECORD}`: {e}");
            }
            return Err(e);
        }
    };
    daemon.reply(&Reply::Created {
        init: created.init,
        monitor: created.record.monitor,
    });
    let go_on = MonitorError::prepare("go on");
    failpoint::reach(Point::MonitorAnswered).map_err(go_on)?;
    // Most of what has been done will not be done again, and there is a process like this for every container.
    if let Err(e) = pages::forget_code() {
        eprintln!("give memory back: {e}");
    }
    let mut monitor = Monitor {
        job,
        output,
        created,
        exit: None,
    };
    monitor
        .watch()
        .map_err(MonitorError::prepare("wait for the container"))
}

fn bring_up(job: &ContainerJob) -> Result<(Output, Created), MonitorError> {
    let output = Output::open(job)?;
    match create(job) {
        Ok(created) => Ok((output, created)),
        Err(e) => {
            if let Some(Err(e)) = output.log.map(CriLog::discard) {
                eprintln!("remove the log: {e}");
            }
            Err(e)
        }
    }
}

/// Where output goes.
struct Output {
    log: Option<CriLog>,
    journal: Option<Journal>,
}

impl Output {
    fn open(job: &ContainerJob) -> Result<Self, MonitorError> {
        let log = match &job.log_path {
            Some(path) => {
                let opened = CriLog::open(path, job.log_size_max);
                Some(opened.map_err(|source| MonitorError::Log {
                    path: path.clone(),
                    source,
                })?)
            }
            None => None,
        };
        let journal = match &job.journal {
            Some(settings) => Some(
                Journal::open(settings)
                    .map_err(MonitorError::prepare("make a socket for the journal"))?,
            ),
            None => None,
        };
        Ok(Self { log, journal })
    }

    fn write(&mut self, channel: Channel, pieces: &[Piece<'_>]) {
        if let Some(log) = &mut self.log {
            log.write(OffsetDateTime::now_utc(), channel, pieces);
        }
        if let Some(journal) = &mut self.journal {
            journal.write(channel, pieces);
        }
    }
}

struct Monitor {
    job: ContainerJob,
    output: Output,
    created: Created,
    exit: Option<ExitRecord>,
}

impl Monitor {
    /// Everything from the creation to the exit record.
    fn watch(&mut self) -> io::Result<()> {
        let ended = loop {
            if let Some(ended) = self.created.ended {
                break ended;
            }
            self.turn()?;
        };
        self.rest_of_output();
        failpoint::reach(Point::MonitorEnded)?;
        let exit = ExitRecord {
            version: VERSION,
            id: self.job.id.clone(),
            exit_code: ended.exit_code,
            signal: ended.signal,
            finished_at: clock::now_ns(),
            oom_killed: self.created.oom.happened(),
            monitor_lost: false,
        };
        self.record(exit)?;
        failpoint::reach(Point::MonitorWritten)?;
        record::remove(Path::new(SOCKET))
    }

    /// Waits for something to happen and deals with it.
    fn turn(&mut self) -> io::Result<()> {
        let streams = self.created.streams.len();
        let ready = {
            let readable = |fd| PollFd::new(fd, PollFlags::POLLIN);
            let created = &self.created;
            let mut fds: Vec<PollFd<'_>> = vec![readable(created.children.as_fd())];
            fds.extend(created.streams.iter().map(|s| readable(s.file().as_fd())));
            fds.extend(created.control.fds().map(readable));
            let deadline = created.streams.iter().filter_map(Stream::deadline).min();
            match poll(&mut fds, call::timeout(deadline)) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(e) => return Err(e.into()),
            }
            let ready: Vec<bool> = fds.iter().map(|fd| fd.any() == Some(true)).collect();
            ready
        };
        let mut ready = ready.into_iter();
        if ready.next() == Some(true) {
            let init = self.created.init.pid;
            let ended = self.created.children.reap();
            self.created.ended = ended.into_iter().find(|e| e.pid == init);
        }
        let readable: Vec<bool> = ready.by_ref().take(streams).collect();
        self.read_streams(&readable);
        if ready.any(|r| r) {
            self.serve();
        }
        Ok(())
    }

    fn read_streams(&mut self, readable: &[bool]) {
        let (output, streams) = (&mut self.output, &mut self.created.streams);
        let now = Instant::now();
        let mut flags = readable.iter();
        streams.retain_mut(|stream| {
            let channel = stream.channel;
            let mut sink = |pieces: &[Piece<'_>]| output.write(channel, pieces);
            stream.flush(now, &mut sink);
            if flags.next() != Some(&true) {
                return true;
            }
            match stream.read(&mut sink) {
                Ok(progress) => progress != Progress::End,
                Err(e) => {
                    eprintln!("read the container's {}: {e}", channel.name());
                    false
                }
            }
        });
    }

    /// What the container wrote before its end and we have not read yet.
    fn rest_of_output(&mut self) {
        if let Some(terminal) = &mut self.created.terminal {
            terminal.peer = None;
        }
        let output = &mut self.output;
        for stream in &mut self.created.streams {
            let channel = stream.channel;
            if let Err(e) = stream.drain(|pieces| output.write(channel, pieces)) {
                eprintln!("read the rest of the container's {}: {e}", channel.name());
            }
        }
    }

    /// Writes the exit record. Nobody else knows the exit code: while there is no room for the record, it is kept
    /// here and told to whoever asks.
    fn record(&mut self, exit: ExitRecord) -> io::Result<()> {
        let path = ExitRecord::path(&self.job.exits_dir, &self.job.id);
        self.exit = Some(exit.clone());
        let mut told = false;
        loop {
            match record::write(&path, &exit) {
                Ok(()) => return Ok(()),
                // The whole run root is gone: there is nobody left to tell.
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(e),
                Err(e) if !told => {
                    eprintln!(
                        "write `{}`, trying again until it works: {e}",
                        path.display()
                    );
                    told = true;
                }
                Err(_) => {}
            }
            let until = Some(Instant::now() + RETRY);
            let fds: Vec<BorrowedFd<'_>> = self.created.control.fds().collect();
            let mut fds: Vec<_> = fds
                .into_iter()
                .map(|fd| PollFd::new(fd, PollFlags::POLLIN))
                .collect();
            match poll(&mut fds, call::timeout(until)) {
                Ok(0) | Err(_) => {}
                Ok(_) => self.serve(),
            }
        }
    }

    fn serve(&mut self) {
        let (created, output) = (&mut self.created, &mut self.output);
        let (record, exit, terminal) = (&created.record, &self.exit, &created.terminal);
        created.control.serve(|request| {
            let done = match request {
                Request::Hello { .. } => Ok(()),
                Request::Status => {
                    return Answer::Status {
                        record: record.clone(),
                        exit: exit.clone(),
                    };
                }
                Request::ReopenLog => output.log.as_mut().map_or(Ok(()), CriLog::reopen),
                Request::Resize { columns, rows } => match terminal {
                    Some(t) => pty::resize(&t.master, columns, rows),
                    None => Err(io::Error::other("the container has no terminal")),
                },
            };
            match done {
                Ok(()) => Answer::Done,
                Err(e) => Answer::Refused {
                    message: e.to_string(),
                },
            }
        });
    }
}
