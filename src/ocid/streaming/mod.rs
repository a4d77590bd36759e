//! Exec, Attach and PortForward: the RPC answers with a URL, and whoever opens it (kubelet on behalf of the API
//! server, crictl, `ocic`) gets streams over one upgraded HTTP connection, by SPDY/3.1 or by WebSocket.
//!
//! ```text
//! RPC -> tokens (one use, one minute) -> URL ... http -> upgrade (what is spoken) -> the token's session
//!     -> remote | socket (channels, whatever carries them) -> exec | attach | forward
//! ```
//!
//! The server listens on loopback unless told otherwise: what is sent over it is not secret from whoever has the
//! URL, and a URL is good once. With `stream_enable_tls` it speaks TLS only.

pub mod attach;
pub mod channels;
pub mod exec;
pub mod forward;
pub mod http;
pub mod idle;
pub mod server;
pub mod socket;
pub mod status;
pub mod tokens;
pub mod upgrade;

mod remote;
pub mod tls;

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

pub use self::tokens::Request;
use self::tokens::Tokens;
use super::error::{Error, Result};
use super::field::FieldError;

/// Which streams a client asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wanted {
    pub tty: bool,
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
}

impl Wanted {
    /// What the CRI demands of a request. A terminal has no second output.
    pub fn check(self) -> std::result::Result<Self, FieldError> {
        if self.tty && self.stderr {
            let problem = "cannot be set together with `tty`";
            return Err(FieldError::new("stderr", problem));
        }
        if !(self.stdin || self.stdout || self.stderr) {
            let problem = "none of `stdin`, `stdout` and `stderr` is set";
            return Err(FieldError::new("stdin", problem));
        }
        Ok(self)
    }
}

/// The daemon's side of the server: where it is, and what may be opened there.
#[derive(Debug, Default)]
pub struct Streaming {
    tokens: Tokens,
    /// `http://ADDRESS:PORT`, once it listens.
    base: OnceLock<String>,
}

impl Streaming {
    /// The URL at which this request is carried out, once, if it is opened soon.
    pub fn url(&self, request: Request) -> Result<String> {
        let base = self
            .base
            .get()
            .ok_or_else(|| Error::Internal("the streaming server does not listen".to_owned()))?;
        let kind = request.kind();
        let token = self.tokens.issue(request).map_err(|e| Arc::new(e.into()))?;
        Ok(format!("{base}/{kind}/{token}"))
    }

    fn listens(&self, address: SocketAddr, tls: bool) {
        let scheme = if tls { "https" } else { "http" };
        // There is one server per daemon.
        let _ = self.base.set(format!("{scheme}://{address}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_names_streams_that_go_together() {
        let wanted = |tty, stdin, stdout, stderr| Wanted {
            tty,
            stdin,
            stdout,
            stderr,
        };
        assert!(wanted(false, false, false, false).check().is_err());
        assert!(wanted(true, true, true, true).check().is_err());
        assert!(wanted(true, true, true, false).check().is_ok());
        assert!(wanted(false, false, false, true).check().is_ok());
    }
}
