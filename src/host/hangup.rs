//! Noticing that the peer of a connection has gone while nothing of what it sent is read.
//!
//! The end of a connection is read behind everything before it. Where that is not read, since nobody takes it (a
//! command that does not look at its input), the end would never be seen, and what the client started would go on
//! for ever.
#![allow(unsafe_code)]

use std::future::Future;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Waits that are shorter cost nothing.
const PATIENCE: Duration = Duration::from_secs(1);

/// Tells when the peer has closed its side, or is lost, whatever of what it sent is still to be read.
pub struct HungUp {
    gone: Pin<Box<dyn Future<Output = ()> + Send>>,
    patience: Duration,
}

impl HungUp {
    /// For the socket of the connection.
    pub fn of(socket: impl AsFd) -> io::Result<Self> {
        let socket = socket.as_fd().try_clone_to_owned()?;
        let gone = async move {
            if let Err(error) = watch(socket).await {
                tracing::debug!(%error, "watch the peer of a connection");
                std::future::pending::<()>().await;
            }
        };
        Ok(Self {
            patience: PATIENCE,
            ..Self::when(gone)
        })
    }

    /// For what is no socket.
    pub fn when(gone: impl Future<Output = ()> + Send + 'static) -> Self {
        Self {
            gone: Box::pin(gone),
            patience: Duration::ZERO,
        }
    }

    /// For a connection that somebody else looks after.
    pub fn never() -> Self {
        Self::when(std::future::pending())
    }

    /// `work`, unless the peer hangs up while it is held up: then `None`.
    pub async fn or<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        tokio::pin!(work);
        if let Ok(done) = tokio::time::timeout(self.patience, &mut work).await {
            return Some(done);
        }
        tokio::select! {
            done = &mut work => Some(done),
            () = &mut self.gone => None,
        }
    }
}

async fn watch(socket: OwnedFd) -> io::Result<()> {
    // SAFETY: an `OwnedFd` is one descriptor for its whole life, and `AsyncFd` owns it.
    let socket = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }?;
    loop {
        let mut guard = socket.readable().await?;
        if guard.ready().is_read_closed() {
            return Ok(());
        }
        // Data: it is not ours. The next event comes with more of it, or with the end.
        guard.clear_ready();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;
    use tokio::net::{TcpListener, TcpStream};

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        (client.unwrap(), accepted.unwrap().0)
    }

    #[tokio::test]
    async fn the_end_is_seen_behind_unread_data() {
        let (mut client, server) = pair().await;
        let mut hung_up = HungUp::of(&server).unwrap();
        client.write_all(b"unread").await.unwrap();
        let early = tokio::time::timeout(Duration::from_millis(50), &mut hung_up.gone).await;
        assert!(early.is_err(), "data is no end");
        client.write_all(b"more").await.unwrap();
        drop(client);
        let never = std::future::pending::<()>();
        let limit = Duration::from_secs(30);
        let seen = tokio::time::timeout(limit, hung_up.or(never)).await;
        assert_eq!(seen.unwrap(), None);
        // What gets done is done, whoever has gone.
        let mut hung_up = HungUp::when(std::future::ready(()));
        assert_eq!(hung_up.or(async { 3 }).await, Some(3));
    }
}
