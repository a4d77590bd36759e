//! The daemon's side of a monitor's socket.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use super::protocol::{Answer, ExitRecord, LINE_MAX, MonitorRecord, Request, SOCKET, VERSION};
use crate::host::fs::fd_path;

/// A monitor answers at once, or not before the runtime has created its container.
const LIMIT: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("connect to the monitor in `{bundle}`")]
    Connect { bundle: PathBuf, source: io::Error },
    #[error("talk to the monitor in `{bundle}`")]
    Talk { bundle: PathBuf, source: io::Error },
    #[error("the monitor in `{bundle}` did not answer within {limit:?}")]
    Silent { bundle: PathBuf, limit: Duration },
    #[error(
        "the monitor in `{bundle}` speaks version {version} of the protocol, this ocid {VERSION}: \
         it was started by another build"
    )]
    Version { bundle: PathBuf, version: u32 },
    #[error("the monitor in `{bundle}` refused: {message}")]
    Refused { bundle: PathBuf, message: String },
}

/// A connection to the monitor of one container.
#[derive(Debug)]
pub struct Client {
    bundle: PathBuf,
    reader: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
    /// What the monitor speaks with us; it may be older than we are.
    pub version: u32,
}

/// Connects to the monitor that listens in this bundle and agrees on a version.
pub async fn connect(bundle: &Path) -> Result<Client, ClientError> {
    let failed = |source| ClientError::Connect {
        bundle: bundle.to_owned(),
        source,
    };
    // A socket's path may have 107 bytes; ours may be longer, so it is named through its folder.
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let folder: OwnedFd = open(bundle, flags, Mode::empty()).map_err(|e| failed(e.into()))?;
    let stream = UnixStream::connect(fd_path(&folder).join(SOCKET))
        .await
        .map_err(failed)?;
    let (reader, writer) = stream.into_split();
    let mut client = Client {
        bundle: bundle.to_owned(),
        reader: BufReader::new(reader),
        writer,
        version: VERSION,
    };
    match client
        .ask(&Request::Hello { version: VERSION }, LIMIT)
        .await?
    {
        Answer::Hello { version } if (1..=VERSION).contains(&version) => client.version = version,
        Answer::Hello { version } => {
            return Err(ClientError::Version {
                bundle: bundle.to_owned(),
                version,
            });
        }
        other => return Err(client.surprised(&other)),
    }
    Ok(client)
}

impl Client {
    /// Goes on in a new log file at the old path; no line is lost or written twice.
    pub async fn reopen_log(&mut self) -> Result<(), ClientError> {
        self.done(&Request::ReopenLog).await
    }

    /// Sets the size of the container's terminal, in characters.
    pub async fn resize(&mut self, columns: u16, rows: u16) -> Result<(), ClientError> {
        self.done(&Request::Resize { columns, rows }).await
    }

    /// Who is looked after, and how it ended if its record could not be written. While the runtime creates the
    /// container this waits, up to `limit`.
    pub async fn status(
        &mut self,
        limit: Duration,
    ) -> Result<(MonitorRecord, Option<ExitRecord>), ClientError> {
        match self.ask(&Request::Status, limit).await? {
            Answer::Status { record, exit } => Ok((record, exit)),
            other => Err(self.surprised(&other)),
        }
    }

    async fn done(&mut self, request: &Request) -> Result<(), ClientError> {
        match self.ask(request, LIMIT).await? {
            Answer::Done => Ok(()),
            other => Err(self.surprised(&other)),
        }
    }

    async fn ask(&mut self, request: &Request, limit: Duration) -> Result<Answer, ClientError> {
        match tokio::time::timeout(limit, self.exchange(request)).await {
            Ok(answer) => answer.map_err(|source| ClientError::Talk {
                bundle: self.bundle.clone(),
                source,
            }),
            Err(_) => Err(ClientError::Silent {
                bundle: self.bundle.clone(),
                limit,
            }),
        }
    }

    async fn exchange(&mut self, request: &Request) -> io::Result<Answer> {
        let mut text = serde_json::to_vec(request)?;
        text.push(b'\n');
        self.writer.write_all(&text).await?;
        let mut line = Vec::new();
        let mut limited = (&mut self.reader).take(LINE_MAX as u64);
        limited.read_until(b'\n', &mut line).await?;
        if line.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(serde_json::from_slice(&line)?)
    }

    fn surprised(&self, answer: &Answer) -> ClientError {
        let message = match answer {
            Answer::Refused { message } => message.clone(),
            other => format!("an answer to something else: {other:?}"),
        };
        ClientError::Refused {
            bundle: self.bundle.clone(),
            message,
        }
    }
}
