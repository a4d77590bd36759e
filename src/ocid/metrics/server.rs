//! Metrics over TCP, with TLS where there is a certificate, and over a unix socket without.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::mpsc;
use tokio_rustls::server::TlsStream;

use super::{lock, render};
use crate::ocid::config;
use crate::ocid::daemon::Daemon;

/// The text format's type, as Prometheus' documentation gives it.
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
/// How long a client may take over TLS.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// Handshakes at a time, and connections that wait for their turn.
const WAITING: usize = 64;

/// Listeners of the metrics: TCP, and a unix socket where one is configured.
pub struct Listeners {
    tcp: TcpListener,
    unix: Option<UnixListener>,
}

/// Binds the address that the configuration names; None where metrics are off. `unix` listens already.
pub async fn listen(
    settings: &config::Metrics,
    unix: Option<UnixListener>,
) -> Result<Option<Listeners>, (PathBuf, io::Error)> {
    let Some(address) = settings.address() else {
        return Ok(None);
    };
    let named = |e| (PathBuf::from(address.to_string()), e);
    let tcp = TcpListener::bind(address).await.map_err(named)?;
    Ok(Some(Listeners { tcp, unix }))
}

/// Answers `GET /metrics` until the daemon stops.
pub fn serve(daemon: &Arc<Daemon>, listeners: Listeners) {
    let scraped = Arc::clone(daemon);
    let scrape = move || {
        let daemon = Arc::clone(&scraped);
        async move {
            let text = render(&daemon, &daemon.config.crio.metrics);
            ([(CONTENT_TYPE, TEXT)], text)
        }
    };
    let router = Router::new().route("/metrics", get(scrape));
    let stopping = || daemon.stopping.clone().cancelled_owned();
    let ended = |served: io::Result<()>| {
        if let Err(error) = served {
            tracing::error!(%error, "metrics are no longer served");
        }
    };
    if let Some(unix) = listeners.unix {
        let unix = axum::serve(unix, router.clone()).with_graceful_shutdown(stopping());
        tokio::spawn(async move { ended(unix.await) });
    }
    if lock(&daemon.metrics.tls).is_none() {
        let tcp = axum::serve(listeners.tcp, router).with_graceful_shutdown(stopping());
        tokio::spawn(async move { ended(tcp.await) });
        return;
    }
    let (ready, secured) = mpsc::channel(WAITING);
    let secured = Secured {
        address: listeners.tcp.local_addr(),
        secured,
    };
    tokio::spawn(secure(Arc::clone(daemon), listeners.tcp, ready));
    let tcp = axum::serve(secured, router).with_graceful_shutdown(stopping());
    tokio::spawn(async move { ended(tcp.await) });
}

type Client = (TlsStream<TcpStream>, SocketAddr);

/// Clients with whom TLS is agreed on.
struct Secured {
    address: io::Result<SocketAddr>,
    secured: mpsc::Receiver<Client>,
}

impl axum::serve::Listener for Secured {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> Client {
        match self.secured.recv().await {
            Some(client) => client,
            // Nobody accepts any more: the daemon is about to end.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        match &self.address {
            Ok(address) => Ok(*address),
            Err(error) => Err(error.kind().into()),
        }
    }
}

/// Accepts, and agrees on TLS with several at a time: a slow one holds up nobody.
async fn secure(daemon: Arc<Daemon>, listener: TcpListener, ready: mpsc::Sender<Client>) {
    while !daemon.stopping.is_cancelled() {
        let Ok(place) = ready.clone().reserve_owned().await else {
            return;
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = daemon.stopping.cancelled() => return,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Too many open files: those that are open will end.
                tracing::warn!(%error, "accept a client of the metrics");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Some(tls) = lock(&daemon.metrics.tls).clone() else {
            return;
        };
        tokio::spawn(async move {
            match tokio::time::timeout(HANDSHAKE_LIMIT, tls.accept(stream)).await {
                Ok(Ok(stream)) => drop(place.send((stream, address))),
                Ok(Err(error)) => tracing::debug!(%error, "TLS with a client of the metrics"),
                Err(_) => {}
            }
        });
    }
}
