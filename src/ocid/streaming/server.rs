//! The HTTP server that streams are opened at.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::http::header::{CONNECTION, CONTENT_TYPE, SEC_WEBSOCKET_ACCEPT, UPGRADE};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming as Body;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::sys::socket::{setsockopt, sockopt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::channels::Channels;
use super::idle::Idle;
use super::tls::TlsError;
use super::upgrade::{self, Protocol, Refusal, STREAM_PROTOCOL, Socket};
use super::{Request, Wanted, attach, exec, forward, remote, socket, tls};
use crate::ocid::config::ConfigError;
use crate::ocid::daemon::Daemon;
use crate::spdy::{Connection, Limits, Role};

/// How long a client may take over TLS and the head of its request.
const HEAD_LIMIT: Duration = Duration::from_secs(30);
/// The longest head.
const HEAD_MAX: usize = 64 << 10;
/// Connections at a time.
const CONNECTIONS: usize = 4096;

#[derive(Debug, thiserror::Error)]
pub enum StreamingError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("listen on {address} for streams")]
    Listen {
        address: SocketAddr,
        source: io::Error,
    },
    #[error("prepare TLS for streams")]
    Tls(#[from] TlsError),
}

/// Listens where it is configured, and serves for as long as the daemon lives.
pub async fn start(daemon: &Arc<Daemon>) -> Result<(), StreamingError> {
    let api = &daemon.config.crio.api;
    let address = api.stream_socket()?;
    let tls = match api.stream_enable_tls {
        true => Some(tls::acceptor(api)?),
        false => None,
    };
    let listen = |source| StreamingError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(listen)?;
    let mut bound = listener.local_addr().map_err(listen)?;
    // Clients are on this machine, or know better.
    match bound.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => bound.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => bound.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    daemon.streaming.listens(bound, tls.is_some());
    tracing::debug!(address = %bound, tls = tls.is_some(), "serving streams");
    let idle = api.idle_timeout()?;
    tokio::spawn(accept(Arc::clone(daemon), listener, tls, idle));
    Ok(())
}

async fn accept(
    daemon: Arc<Daemon>,
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    idle: Duration,
) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        // Nobody closes it.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Too many open files: those that are open will end.
                tracing::warn!(%error, "accept a client of a stream");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        if let Err(error) = prepare(&stream) {
            tracing::debug!(%error, "prepare the connection of a stream");
        }
        let (daemon, tls) = (Arc::clone(&daemon), tls.clone());
        tokio::spawn(async move {
            let served = async {
                match tls {
                    None => serve(daemon, stream, idle).await,
                    Some(tls) => match tokio::time::timeout(HEAD_LIMIT, tls.accept(stream)).await {
                        Ok(Ok(stream)) => serve(daemon, stream, idle).await,
                        Ok(Err(error)) => tracing::debug!(%error, "TLS with a client of a stream"),
                        Err(_) => {}
                    },
                }
            };
            served.await;
            drop(place);
        });
    }
}

/// Small pieces go at once, and a client whose machine is gone is noticed.
fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    setsockopt(stream, sockopt::KeepAlive, &true)?;
    setsockopt(stream, sockopt::TcpKeepIdle, &30)?;
    setsockopt(stream, sockopt::TcpKeepInterval, &15)?;
    setsockopt(stream, sockopt::TcpKeepCount, &4)?;
    Ok(())
}

/// One request per connection: a refusal closes it, and an upgrade never comes back.
async fn serve<S>(daemon: Arc<Daemon>, io: S, idle: Duration)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request| {
        let answer = answer(&daemon, request, idle);
        async move { Ok::<_, Infallible>(answer) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .max_buf_size(HEAD_MAX)
        .serve_connection(TokioIo::new(io), service)
        .with_upgrades()
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a client of a stream");
    }
}

type Response = hyper::Response<Full<Bytes>>;

fn answer(daemon: &Arc<Daemon>, request: hyper::Request<Body>, idle: Duration) -> Response {
    match upgrade(daemon, request, idle) {
        Ok(response) => response,
        Err(Refusal { status, message }) => {
            tracing::debug!(%status, message, "a request for a stream was refused");
            let mut response = Response::new(Full::from(message + "\n"));
            *response.status_mut() = status;
            let text = HeaderValue::from_static("text/plain; charset=utf-8");
            response.headers_mut().insert(CONTENT_TYPE, text);
            // (Without keep-alive hyper would say so in an upgrade's answer too, which clients refuse.)
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(CONNECTION, close);
            response
        }
    }
}

/// Agrees on a protocol, and carries the token's request out once the connection is upgraded.
fn upgrade(
    daemon: &Arc<Daemon>,
    mut request: hyper::Request<Body>,
    idle: Duration,
) -> Result<Response, Refusal> {
    let unknown = || Refusal::new(StatusCode::NOT_FOUND, "no such stream, or no longer");
    let (kind, token) = upgrade::path(request.uri().path()).ok_or_else(unknown)?;
    let protocol = upgrade::negotiate(kind, request.method(), request.headers())?;
    let wanted = daemon.streaming.tokens.take(kind, token);
    let wanted = wanted.ok_or_else(unknown)?;
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    switch(&protocol, response.headers_mut());
    let upgraded = hyper::upgrade::on(&mut request);
    let daemon = Arc::clone(daemon);
    tokio::spawn(async move {
        match upgraded.await {
            Ok(upgraded) => {
                let io = Idle::new(TokioIo::new(upgraded), idle);
                run(daemon, wanted, protocol, io).await;
            }
            Err(error) => tracing::debug!(%error, "upgrade a stream"),
        }
    });
    Ok(response)
}

/// The headers of the answer.
fn switch(protocol: &Protocol, headers: &mut HeaderMap) {
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    let (upgrade, header, name) = match protocol {
        Protocol::Spdy { name, .. } => ("SPDY/3.1", STREAM_PROTOCOL, name),
        Protocol::Socket { name, key, .. } => {
            // Base64 of a hash: always a header's value.
            if let Ok(accept) = HeaderValue::from_str(&derive_accept_key(key.as_bytes())) {
                headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
            }
            ("websocket", "sec-websocket-protocol", name)
        }
    };
    headers.insert(UPGRADE, HeaderValue::from_static(upgrade));
    if let Some(name) = name {
        let value = HeaderValue::from_static(name);
        headers.insert(HeaderName::from_static(header), value);
    }
}

async fn run<S>(daemon: Arc<Daemon>, request: Request, protocol: Protocol, io: S)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    match request {
        Request::Exec {
            container,
            command,
            wanted,
        } => {
            if let Some(channels) = channels(io, &protocol, wanted).await {
                exec::run(&daemon, &container, &command, wanted, channels).await;
            }
        }
        Request::Attach { container, wanted } => {
            if let Some(channels) = channels(io, &protocol, wanted).await {
                attach::run(&daemon, &container, wanted, channels).await;
            }
        }
        Request::Forward { sandbox, ports } => {
            forwards(&daemon, &sandbox, &ports, &protocol, io).await
        }
    }
}

async fn forwards<S>(daemon: &Arc<Daemon>, sandbox: &str, ports: &[u16], protocol: &Protocol, io: S)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (connection, incoming) = match protocol {
        Protocol::Spdy { .. } => Connection::start(io, Role::Server, Limits::default()),
        Protocol::Socket {
            socket: Socket::Tunnel,
            ..
        } => Connection::start(socket::tunnel(io).await, Role::Server, Limits::default()),
        Protocol::Socket {
            socket: Socket::Channels { version, base64 },
            ..
        } => {
            let (ports, closer) = socket::forward(io, ports, *version, *base64).await;
            return forward::over_socket(daemon, sandbox, ports, closer).await;
        }
    };
    forward::over_spdy(daemon, sandbox, connection, incoming).await;
}

/// The channels of exec and attach; `None` when the client does not go on.
async fn channels<S>(io: S, protocol: &Protocol, wanted: Wanted) -> Option<Channels>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    match protocol {
        Protocol::Spdy { version, .. } => {
            let (connection, incoming) = Connection::start(io, Role::Server, Limits::default());
            remote::channels(connection, incoming, wanted, *version).await
        }
        Protocol::Socket {
            socket: Socket::Channels { version, base64 },
            ..
        } => socket::remote(io, wanted, *version, *base64).await,
        // Not among those that exec and attach agree on.
        Protocol::Socket {
            socket: Socket::Tunnel,
            ..
        } => None,
    }
}
