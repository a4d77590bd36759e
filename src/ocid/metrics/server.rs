//! Metrics over TCP, with TLS where there is a certificate, and over a unix socket without.

use std::convert::Infallible;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::{lock, render};
use crate::ocid::config;
use crate::ocid::daemon::Daemon;

/// The text format's type, as Prometheus' documentation gives it.
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
/// How long a client may take over TLS, and over the head of a request, the wait for it included.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
const HEAD_LIMIT: Duration = Duration::from_secs(60);
/// How long a connection lasts at most, whatever comes over it.
const CONNECTION_LIMIT: Duration = Duration::from_secs(600);
/// So many connections of each listener at a time; the rest wait for their turn.
const CONNECTIONS: usize = 64;

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
    if let Some(unix) = listeners.unix {
        tokio::spawn(accept(Arc::clone(daemon), unix));
    }
    tokio::spawn(accept(Arc::clone(daemon), listeners.tcp));
}

/// What clients connect to.
trait Listener: Send + 'static {
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    fn accept(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;

    /// How it agrees on TLS; `None`: not at all.
    fn tls(daemon: &Daemon) -> Option<TlsAcceptor>;
}

impl Listener for TcpListener {
    type Stream = tokio::net::TcpStream;

    async fn accept(&self) -> io::Result<Self::Stream> {
        Ok(self.accept().await?.0)
    }

    fn tls(daemon: &Daemon) -> Option<TlsAcceptor> {
        lock(&daemon.metrics.tls).clone()
    }
}

impl Listener for UnixListener {
    type Stream = tokio::net::UnixStream;

    async fn accept(&self) -> io::Result<Self::Stream> {
        Ok(self.accept().await?.0)
    }

    fn tls(_: &Daemon) -> Option<TlsAcceptor> {
        None
    }
}

async fn accept<L: Listener>(daemon: Arc<Daemon>, listener: L) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let next = async || {
        let place = Arc::clone(&places).acquire_owned().await;
        (place, listener.accept().await)
    };
    loop {
        let (place, accepted) = tokio::select! {
            next = next() => next,
            () = daemon.stopping.cancelled() => return,
        };
        let stream = match accepted {
            Ok(stream) => stream,
            Err(error) => {
                // Too many open files: those that are open will end.
                tracing::warn!(%error, "accept a client of the metrics");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let daemon = Arc::clone(&daemon);
        tokio::spawn(async move {
            let served = async {
                match L::tls(&daemon) {
                    None => converse(&daemon, stream).await,
                    Some(tls) => match timeout(HANDSHAKE_LIMIT, tls.accept(stream)).await {
                        Ok(Ok(stream)) => converse(&daemon, stream).await,
                        Ok(Err(error)) => {
                            tracing::debug!(%error, "TLS with a client of the metrics");
                        }
                        Err(_) => {}
                    },
                }
            };
            // One that takes too long is hung up on.
            let _ = timeout(CONNECTION_LIMIT, served).await;
            drop(place);
        });
    }
}

/// Answers the requests of one connection, until the daemon stops.
async fn converse(daemon: &Arc<Daemon>, io: impl AsyncRead + AsyncWrite + Unpin) {
    let service = service_fn(|request| async move {
        Ok::<_, Infallible>(answer(&request, || {
            render(daemon, &daemon.config.crio.metrics)
        }))
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .serve_connection(TokioIo::new(io), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = daemon.stopping.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a client of the metrics");
    }
}

fn answer(request: &Request<Incoming>, text: impl FnOnce() -> String) -> Response<Full<Bytes>> {
    let mut response = Response::default();
    match *request.method() {
        _ if request.uri().path() != "/metrics" => *response.status_mut() = StatusCode::NOT_FOUND,
        // (Of an answer to HEAD only the head is sent.)
        Method::GET | Method::HEAD => {
            *response.body_mut() = Full::from(text());
            let kind = HeaderValue::from_static(TEXT);
            response.headers_mut().insert(CONTENT_TYPE, kind);
        }
        _ => {
            *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
            let allowed = HeaderValue::from_static("GET, HEAD");
            response.headers_mut().insert(ALLOW, allowed);
        }
    }
    response
}
