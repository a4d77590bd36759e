//! The channels of a session, whatever carries them.

use std::time::Duration;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::http::Upgraded;
use super::socket::{ChannelReader, ChannelWriter};
use super::status::Outcome;
use super::upgrade::{Protocol, Socket};
use super::{Wanted, remote, socket};
use crate::ocid::error::Result as DaemonResult;
use crate::ocid::rpc::status;
use crate::spdy::{Connection, Limits, Role, StreamReader, StreamWriter};

/// How long a client has to take what it was sent last and to close its side.
const FAREWELL: Duration = Duration::from_secs(10);

/// What exec and attach have at their client's end. Absent is what was not asked for.
pub struct Channels {
    pub stdin: Option<Input>,
    pub stdout: Option<Output>,
    pub stderr: Option<Output>,
    /// Sizes of the terminal, one JSON document after the other.
    pub resize: Option<Input>,
    pub error: ErrorChannel,
    /// Cancelled when the client is gone.
    pub gone: CancellationToken,
    pub carrier: Carrier,
}

/// What a client sends.
pub enum Input {
    Spdy(StreamReader),
    Socket(ChannelReader),
}

impl Input {
    /// The next bytes; `None` at the end, or when the client is gone.
    pub async fn read(&mut self) -> Option<Bytes> {
        match self {
            Self::Spdy(reader) => reader.read().await.ok().flatten(),
            Self::Socket(reader) => reader.read().await,
        }
    }
}

/// What a client is sent.
pub enum Output {
    Spdy(StreamWriter),
    Socket(ChannelWriter),
}

/// There is nobody to send to.
#[derive(Debug, thiserror::Error)]
#[error("the client is gone")]
pub struct Gone;

impl Output {
    /// Waits until the client has room for all of it.
    pub async fn write(&mut self, data: Bytes) -> Result<(), Gone> {
        match self {
            Self::Spdy(writer) => writer.write(data).await.map_err(|_| Gone),
            Self::Socket(writer) => writer.write(data).await,
        }
    }

    /// Nothing more will come. (A WebSocket's channels end with it.)
    pub async fn finish(&mut self) {
        if let Self::Spdy(writer) = self {
            // One that is gone needs no end.
            let _ = writer.finish().await;
        }
    }
}

/// Where the end of the session is told.
pub struct ErrorChannel {
    pub output: Output,
    /// A Status document, not a text.
    pub json: bool,
}

impl ErrorChannel {
    async fn tell(&mut self, outcome: &Outcome) {
        let text = match self.json {
            true => Some(outcome.to_json()),
            false => outcome.to_text(),
        };
        if let Some(text) = text {
            // It does not want to know.
            let _ = self.output.write(Bytes::from(text)).await;
        }
        self.output.finish().await;
    }
}

/// What carries the channels, to be closed in the end.
pub enum Carrier {
    Spdy {
        connection: Connection,
        /// The halves of streams that only the client writes to.
        unused: Vec<StreamWriter>,
    },
    Socket(super::socket::Closer),
}

impl Channels {
    /// Those of exec and attach over an upgraded connection; `None` when the client does not go on.
    pub async fn open(
        Upgraded { io, hung_up }: Upgraded,
        protocol: &Protocol,
        wanted: Wanted,
    ) -> Option<Self> {
        match protocol {
            Protocol::Spdy { version, .. } => {
                let (connection, incoming) =
                    Connection::watched(io, Role::Server, Limits::default(), hung_up);
                remote::channels(connection, incoming, wanted, *version).await
            }
            Protocol::Socket {
                socket: Socket::Channels { version, base64 },
                ..
            } => socket::remote(io, hung_up, wanted, *version, *base64).await,
            // Not among those that exec and attach agree on.
            Protocol::Socket {
                socket: Socket::Tunnel,
                ..
            } => None,
        }
    }

    /// As [`Channels::end`]; an error is told as one of doing `act`.
    pub async fn report(self, act: &str, container: &str, outcome: DaemonResult<Outcome>) {
        let outcome = outcome.unwrap_or_else(|error| {
            let why = status::chain(&error);
            tracing::debug!(container, error = why, "{act}");
            Outcome::Failed(format!("error {act} container: {why}"))
        });
        self.end(outcome).await;
    }

    /// Tells how it ended, and closes.
    pub async fn end(mut self, outcome: Outcome) {
        for output in [&mut self.stdout, &mut self.stderr].into_iter().flatten() {
            output.finish().await;
        }
        self.error.tell(&outcome).await;
        match self.carrier {
            Carrier::Spdy {
                connection,
                mut unused,
            } => {
                for writer in &mut unused {
                    let _ = writer.finish().await;
                }
                connection.finish(FAREWELL).await;
            }
            Carrier::Socket(closer) => closer.close(FAREWELL).await,
        }
    }
}
