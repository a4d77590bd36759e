//! The server that streams are opened at.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

use super::channels::Channels;
use super::forward::{self, PodPorts};
use super::http::{self, HEAD_LIMIT, Sessions, Upgraded};
use super::tls::TlsError;
use super::tokens::Kind;
use super::upgrade::Protocol;
use super::{Request, attach, exec, tls};
use crate::host::hangup::HungUp;
use crate::ocid::config::ConfigError;
use crate::ocid::daemon::Daemon;

/// Connections at a time that have not been upgraded.
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
        let hung_up = match HungUp::of(&stream) {
            Ok(hung_up) => hung_up,
            Err(error) => {
                tracing::warn!(%error, "watch a client of a stream");
                continue;
            }
        };
        let (daemon, tls) = (Arc::clone(&daemon), tls.clone());
        tokio::spawn(async move {
            let served = async {
                match tls {
                    None => http::serve(daemon, stream, hung_up, idle).await,
                    Some(tls) => match tokio::time::timeout(HEAD_LIMIT, tls.accept(stream)).await {
                        Ok(Ok(stream)) => http::serve(daemon, stream, hung_up, idle).await,
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

impl Sessions for Daemon {
    fn take(&self, kind: Kind, token: &str) -> Option<Request> {
        self.streaming.tokens.take(kind, token)
    }

    async fn run(self: Arc<Self>, request: Request, protocol: Protocol, io: Upgraded) {
        let daemon = self;
        match request {
            Request::Exec {
                container,
                command,
                wanted,
            } => {
                if let Some(channels) = Channels::open(io, &protocol, wanted).await {
                    exec::run(&daemon, &container, &command, wanted, channels).await;
                }
            }
            Request::Attach { container, wanted } => {
                if let Some(channels) = Channels::open(io, &protocol, wanted).await {
                    attach::run(&daemon, &container, wanted, channels).await;
                }
            }
            Request::Forward {
                sandbox,
                ports: ports_asked,
            } => {
                let ports = PodPorts { daemon, sandbox };
                forward::run(Arc::new(ports), &ports_asked, &protocol, io).await;
            }
        }
    }
}
