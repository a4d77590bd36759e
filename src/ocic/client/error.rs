//! Why a call gave no answer, and what to do about it.

use std::error::Error;
use std::fmt::Write;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use tonic::{Code, Status};

/// Why a call did not give an answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens on the socket, or we may not open it.
    #[error("connect to `{}`", .socket.display())]
    Connect { socket: PathBuf, source: io::Error },
    /// The socket accepted us, but HTTP/2 did not come up on it.
    #[error("speak gRPC on `{}`", .socket.display())]
    Handshake {
        socket: PathBuf,
        source: tonic::transport::Error,
    },
    #[error("no connection to `{}` within {limit:?}", .socket.display())]
    ConnectTimedOut { socket: PathBuf, limit: Duration },
    /// The daemon answered with a gRPC error of its own.
    #[error("{rpc}: {} (code {:?})", .status.message(), .status.code())]
    Refused { rpc: &'static str, status: Status },
    /// The connection broke before the answer came: whether the daemon did it is unknown.
    #[error("{rpc}: the connection to the daemon broke: {detail}")]
    Broken { rpc: &'static str, detail: String },
    /// No answer in time: whether the daemon does it yet is unknown.
    #[error("{rpc}: no answer within {limit:?}")]
    TimedOut { rpc: &'static str, limit: Duration },
    /// An answer that lacks what the CRI promises.
    #[error("{rpc}: the answer has no `{field}`")]
    Incomplete {
        rpc: &'static str,
        field: &'static str,
    },
}

impl ClientError {
    /// A status that the daemon sent has no source; one that tonic made has the broken connection.
    pub(super) fn of(rpc: &'static str, status: Status) -> Self {
        match status.source() {
            Some(source) => Self::Broken {
                rpc,
                detail: chain(source),
            },
            None => Self::Refused { rpc, status },
        }
    }

    /// The gRPC code, where the daemon gave one.
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Refused { status, .. } => Some(status.code()),
            _ => None,
        }
    }

    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Connect { socket, source } => match source.kind() {
                io::ErrorKind::PermissionDenied => {
                    Some("the socket is open to root and its group: try with `sudo`".to_owned())
                }
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Some(format!(
                    "`crio-setup status` tells whether the daemon runs, `ocid --debug` runs it in the \
                     foreground; one that listens elsewhere than `{}` is reached by `--socket PATH`",
                    socket.display()
                )),
                _ => None,
            },
            Self::Handshake { .. } => {
                Some("is this the socket of a CRI v1 daemon? `--socket PATH` names another".into())
            }
            Self::ConnectTimedOut { .. } | Self::TimedOut { .. } => Some(
                "`journalctl -u ocid` tells what the daemon does; `--limit` waits longer".into(),
            ),
            Self::Broken { .. } => Some("see `journalctl -u ocid`, then try again".into()),
            Self::Refused { .. } | Self::Incomplete { .. } => None,
        }
    }
}

/// One line of an error and its sources.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        // Writing to a String does not fail.
        let _ = write!(text, ": {source}");
        next = source.source();
    }
    text
}
