//! SPDY/3.1, as Kubernetes speaks it for exec, attach and port-forward: many streams over one connection.
//!
//! [`frame`] and [`headers`] turn bytes into frames and back and do no I/O; [`Connection`] moves them, for both
//! ends: the daemon serves ([`Role::Server`]), its client calls ([`Role::Client`]).
//! (The SPDY Protocol, draft 3.1, of the Chromium project.)
//!
//! Everything that a peer can make grow has a limit: the size of a frame, of a header block and what it inflates
//! to, the number of streams, answers that wait to be sent, data that nobody has taken yet.
//!
//! **Flow control.** Windows are kept for streams and for the whole connection, both ways. But the SPDY library of
//! the Kubernetes project neither heeds windows nor ever says that it has taken something; waiting for it to do
//! so would be waiting for ever. So a window holds us up only once the peer has shown, by SETTINGS or
//! WINDOW_UPDATE, that it keeps them; and a peer that sends more than it may is not cut off: past
//! [`Limits::buffer`] the connection is not read until somebody has taken some, and TCP holds the peer up.

pub mod frame;
pub mod headers;

mod connection;
mod reader;
mod stream;
mod writer;

#[cfg(test)]
mod tests;

pub use self::connection::{Connection, Incoming, Limits, NewStream, Role};
pub use self::headers::Headers;
pub use self::stream::{Stream, StreamReader, StreamWriter};

/// Why a connection or a stream of it ended before its time.
#[derive(Debug, thiserror::Error)]
pub enum SpdyError {
    #[error("the connection is closed")]
    Closed,
    /// The code of RST_STREAM.
    #[error("the peer has reset the stream (code {0})")]
    Reset(u32),
    #[error("the peer did not answer to a new stream in time")]
    Silent,
    #[error("the peer takes no more streams")]
    GoingAway,
}
