//! `ocic logs`

use std::fs::File;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};
use std::time::Duration;

use time::OffsetDateTime;
use tokio::signal::unix::{SignalKind, signal};

use crate::cri::v1::{ContainerEventType, ContainerState};
use crate::ocic::client::{Client, ClientError};
use crate::ocic::follow::Follower;
use crate::ocic::logs::{self, LogError, Options, Stream};

use super::args::ctr::LogArgs;
use super::args::values::Since;
use super::resolve::{Kind, resolve};
use super::{Failure, Session};

/// How long to wait before a daemon that told no events is asked again.
const AGAIN: Duration = Duration::from_secs(1);

pub async fn run(session: &Session<'_>, args: &LogArgs) -> Result<(), Failure> {
    let client = session.client().await?;
    let id = resolve(&client, Kind::Container, args.container.get()).await?;
    let path = path(&client, &id).await?;
    let options = Options {
        tail: args.tail,
        since: args.since.map(moment),
        timestamps: args.timestamps,
    };
    if args.follow {
        follow(session, &client, &id, &path, options).await
    } else {
        print(session, &path, options)
    }
}

/// A time before all that can be counted is the first of these.
fn moment(since: Since) -> OffsetDateTime {
    match since {
        Since::Moment(moment) => moment,
        Since::Before(ago) => {
            let ago = time::Duration::try_from(ago).unwrap_or(time::Duration::MAX);
            let then = OffsetDateTime::now_utc().checked_sub(ago);
            then.unwrap_or(OffsetDateTime::UNIX_EPOCH)
        }
    }
}

async fn path(client: &Client, id: &str) -> Result<PathBuf, Failure> {
    let answer = client.container_status(id, false).await?;
    let status = answer.status.ok_or(ClientError::Incomplete {
        rpc: "ContainerStatus",
        field: "status",
    })?;
    if status.log_path.is_empty() {
        return Err(Failure::NoLog { id: id.to_owned() });
    }
    Ok(PathBuf::from(status.log_path))
}

fn failed(path: &Path, source: LogError) -> Failure {
    match source {
        LogError::Write(source) => Failure::Output(source),
        source => Failure::Log {
            path: path.to_owned(),
            source,
        },
    }
}

fn print(session: &Session<'_>, path: &Path, options: Options) -> Result<(), Failure> {
    let file = File::open(path).map_err(|e| failed(path, LogError::Read(e)))?;
    let mut lines = Lines::new(session);
    let copied = logs::copy(BufReader::new(file), options, |stream, bytes| {
        lines.add(stream, bytes)
    });
    // What could be read is shown even when the rest cannot.
    let flushed = lines.flush();
    copied.map_err(|source| failed(path, source))?;
    flushed.map_err(Failure::Output)
}

/// Until the container has ended, when its log is complete; or until Ctrl-C.
async fn follow(
    session: &Session<'_>,
    client: &Client,
    id: &str,
    path: &Path,
    options: Options,
) -> Result<(), Failure> {
    let mut follower = Follower::new(path, options).map_err(|e| failed(path, LogError::Read(e)))?;
    let show = |follower: &mut Follower| {
        let mut lines = Lines::new(session);
        let shown = follower.show(|stream, bytes| lines.add(stream, bytes));
        let flushed = lines.flush();
        shown.map_err(|source| failed(path, source))?;
        flushed.map_err(Failure::Output)
    };
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Failure::Start)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(Failure::Start)?;
    let end = ended(client, id);
    tokio::pin!(end);
    loop {
        show(&mut follower)?;
        tokio::select! {
            changed = follower.changed() => if changed.is_err() {
                // Its folder is gone, so nothing comes any more; what is held open may have some yet.
                return show(&mut follower);
            },
            ended = &mut end => {
                ended?;
                return show(&mut follower);
            }
            _ = interrupt.recv() => return Ok(()),
            _ = terminate.recv() => return Ok(()),
        }
    }
}

/// Waits until a container has ended, or is not there any more; a restart of the daemon is sat out.
async fn ended(client: &Client, id: &str) -> Result<(), Failure> {
    loop {
        // First listen, then look: nothing happens between the two.
        let events = client.events().await;
        match client.container_status(id, false).await {
            Ok(answer) => {
                let state = answer.status.map(|status| status.state);
                if state == Some(ContainerState::ContainerExited as i32) {
                    return Ok(());
                }
            }
            Err(error) if error.code() == Some(tonic::Code::NotFound) => return Ok(()),
            // It is not there at the moment, or busy.
            Err(
                ClientError::Connect { .. }
                | ClientError::Broken { .. }
                | ClientError::TimedOut { .. },
            ) => {}
            Err(error) if error.code() == Some(tonic::Code::Unavailable) => {}
            Err(error) => return Err(error.into()),
        }
        if let Ok(mut events) = events {
            while let Ok(Some(event)) = events.next().await {
                let last = [
                    ContainerEventType::ContainerStoppedEvent as i32,
                    ContainerEventType::ContainerDeletedEvent as i32,
                ];
                if event.container_id == id && last.contains(&event.container_event_type) {
                    return Ok(());
                }
            }
        }
        // Nobody tells: the daemon restarts, or knows no events. Then there is only asking.
        tokio::time::sleep(AGAIN).await;
    }
}

/// Joins lines into larger writes, but never past a change of stream: where both are one terminal,
/// they appear in the log's order.
struct Lines<'a> {
    session: &'a Session<'a>,
    stream: Stream,
    waiting: Vec<u8>,
}

impl<'a> Lines<'a> {
    const ENOUGH: usize = 64 << 10;

    fn new(session: &'a Session<'a>) -> Self {
        Self {
            session,
            stream: Stream::Stdout,
            waiting: Vec::new(),
        }
    }

    fn add(&mut self, stream: Stream, bytes: &[u8]) -> io::Result<()> {
        if stream != self.stream || self.waiting.len() > Self::ENOUGH {
            self.flush()?;
            self.stream = stream;
        }
        self.waiting.extend_from_slice(bytes);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        let output = self.session.output;
        let written = match self.stream {
            Stream::Stdout => output.bytes(&self.waiting),
            Stream::Stderr => output.error_bytes(&self.waiting),
        };
        self.waiting.clear();
        written
    }
}
