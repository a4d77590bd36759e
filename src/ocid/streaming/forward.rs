//! PortForward: connections of the client's to ports on the loopback of a pod.
//!
//! Over SPDY the client opens two streams per connection, one for errors and one for data, which belong together by
//! a header. The socket is made inside the pod's network namespace, where it stays; everything else happens here.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket as new_socket};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;

use super::channels::{Input, Output};
use super::http::Upgraded;
use super::socket::{self, Closer, Port};
use super::upgrade::{Protocol, Socket};
use crate::host::hangup::HungUp;
use crate::host::namespace;
use crate::ocid::daemon::{Daemon, blocking};
use crate::ocid::error::{Error, Result};
use crate::ocid::rpc::status;
use crate::ocid::state::record::{Phase, SandboxRecord};
use crate::spdy::{Connection, Headers, Incoming, Limits, Role, Stream};

/// Bytes per read of a connection.
const PIECE: usize = 32 << 10;
/// How long the second stream of a pair may take, and a connection that has been made to be refused.
const LIMIT: Duration = Duration::from_secs(30);
/// How long a client has to close its side in the end.
const FAREWELL: Duration = Duration::from_secs(10);
/// Streams at a time that wait for the other of their pair.
const WAITING_MAX: usize = 256;
/// Connections at a time of one session.
const CONNECTIONS_MAX: usize = 1024;
/// The longest id of a pair, and name of a port, bytes.
const WORD_MAX: usize = 128;

/// The pod by its id, which must be ready.
pub fn ready(daemon: &Daemon, id: &str) -> Result<Arc<SandboxRecord>> {
    let record = daemon.sandboxes.expect(id)?.now();
    if record.phase == Phase::Created {
        return Ok(record);
    }
    let state = match record.phase {
        Phase::Stopped => "stopped",
        Phase::Removing => "being removed",
        _ => "being created",
    };
    Err(Arc::new(Error::State {
        what: "pod",
        id: record.id.clone(),
        state: state.to_owned(),
        wanted: "ready",
    }))
}

/// Where a session's connections go.
pub trait Ports: Send + Sync + 'static {
    type Io: AsyncRead + AsyncWrite + Unpin + Send;

    /// Connects; the error is the text that the client is told.
    fn connect(
        &self,
        port: &str,
    ) -> impl Future<Output = std::result::Result<Self::Io, String>> + Send;
}

/// The ports on the loopback of a pod.
pub struct PodPorts {
    pub daemon: Arc<Daemon>,
    /// Its id.
    pub sandbox: String,
}

impl Ports for PodPorts {
    type Io = TcpStream;

    async fn connect(&self, port: &str) -> std::result::Result<TcpStream, String> {
        let sandbox = &self.sandbox;
        open(&self.daemon, sandbox, port).await.map_err(|error| {
            let why = status::chain(&error);
            tracing::debug!(sandbox, port, error = why, "forward a port");
            format!("error forwarding port {port} to pod {sandbox}, uid : {why}")
        })
    }
}

/// Serves an upgraded connection until the client closes it. `asked`: the ports of a client that does not name one
/// per connection.
pub async fn run(
    ports: Arc<impl Ports>,
    asked: &[u16],
    protocol: &Protocol,
    Upgraded { io, hung_up }: Upgraded,
) {
    let limits = Limits::default();
    let (connection, incoming) = match protocol {
        Protocol::Spdy { .. } => Connection::watched(io, Role::Server, limits, hung_up),
        Protocol::Socket {
            socket: Socket::Tunnel,
            ..
        } => {
            let io = socket::tunnel(io, hung_up).await;
            // That one looks after the client.
            Connection::watched(io, Role::Server, limits, HungUp::never())
        }
        Protocol::Socket {
            socket: Socket::Channels { version, base64 },
            ..
        } => {
            let (all, closer) = socket::forward(io, hung_up, asked, *version, *base64).await;
            return over_socket(ports, all, closer).await;
        }
    };
    over_spdy(ports, connection, incoming).await;
}

/// Serves an SPDY connection until the client closes it.
pub async fn over_spdy(ports: Arc<impl Ports>, connection: Connection, mut incoming: Incoming) {
    let mut waiting: HashMap<String, Half> = HashMap::new();
    // Dropped with this future, they all end.
    let mut connections = JoinSet::new();
    while let Some(new) = incoming.next().await {
        while connections.try_join_next().is_some() {}
        let Some((request, kind)) = pair(&new.headers) else {
            tracing::debug!(headers = ?new.headers, "a stream that forwards no port");
            new.refuse();
            continue;
        };
        let port = new.headers.get("port").unwrap_or_default().to_owned();
        waiting.retain(|_, half| half.since.elapsed() < LIMIT);
        let other = waiting.remove(&request);
        // A client may reset its streams as fast as it opens them, so their number is no limit here.
        if (other.is_none() && waiting.len() >= WAITING_MAX) || connections.len() >= CONNECTIONS_MAX
        {
            tracing::debug!("more connections at once than are forwarded");
            new.refuse();
            continue;
        }
        let (_, stream) = new.accept();
        let (data, error) = match (kind, other) {
            (
                Kind::Data,
                Some(Half {
                    kind: Kind::Error,
                    stream: error,
                    ..
                }),
            ) => (stream, error),
            (
                Kind::Error,
                Some(Half {
                    kind: Kind::Data,
                    stream: data,
                    ..
                }),
            ) => (data, stream),
            // The first of two; one that comes twice replaces the former.
            (kind, _) => {
                let since = tokio::time::Instant::now();
                let half = Half {
                    kind,
                    stream,
                    since,
                };
                waiting.insert(request, half);
                continue;
            }
        };
        let ports = Arc::clone(&ports);
        connections.spawn(async move {
            let (reader, writer) = data.split();
            let data = (Input::Spdy(reader), Output::Spdy(writer));
            let (_, error) = error.split();
            one(&*ports, &port, data, Output::Spdy(error)).await;
        });
    }
    connection.abort();
}

/// Serves the channels of a WebSocket until the client closes it, or every port's connection has ended.
pub async fn over_socket(ports: Arc<impl Ports>, all: Vec<Port>, closer: Closer) {
    let mut connections = JoinSet::new();
    for port in all {
        let ports = Arc::clone(&ports);
        connections.spawn(async move {
            let number = port.number.to_string();
            one(&*ports, &number, port.data, port.error).await;
        });
    }
    let gone = closer.gone();
    tokio::select! {
        () = async { while connections.join_next().await.is_some() {} } => {}
        () = gone.cancelled() => return,
    }
    closer.close(FAREWELL).await;
}

/// One stream of a pair, waiting for the other.
struct Half {
    kind: Kind,
    stream: Stream,
    since: tokio::time::Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Data,
    Error,
}

/// Which pair a stream belongs to, and what it is in it.
fn pair(headers: &Headers) -> Option<(String, Kind)> {
    let kind = match headers.get("streamtype")? {
        "data" => Kind::Data,
        "error" => Kind::Error,
        _ => return None,
    };
    let request = headers.get("requestid")?;
    let long = request.len() > WORD_MAX || headers.get("port").is_some_and(|p| p.len() > WORD_MAX);
    (!long).then(|| (request.to_owned(), kind))
}

/// One connection, from its streams to its end.
async fn one(
    ports: &impl Ports,
    port: &str,
    (mut input, mut output): (Input, Output),
    mut error: Output,
) {
    match ports.connect(port).await {
        Ok(io) => carry(io, &mut input, &mut output).await,
        Err(text) => {
            // Nobody may be there to read it.
            let _ = error.write(Bytes::from(text)).await;
        }
    }
    error.finish().await;
    output.finish().await;
}

async fn open(daemon: &Arc<Daemon>, sandbox: &str, port: &str) -> Result<TcpStream> {
    let record = ready(daemon, sandbox)?;
    let forward = |problem: String| Arc::new(Error::Forward { problem });
    let number = port.parse::<u16>().ok().filter(|number| *number > 0);
    let number = number.ok_or_else(|| forward(format!("`{port}` is not a port")))?;
    let netns = record.pinned(daemon).net;
    let [four, six] = blocking(move || {
        sockets(netns.clone()).map_err(|source| Error::Io {
            act: "make a socket in the network of",
            path: netns.unwrap_or_default(),
            source,
        })
    })
    .await?;
    let mut refused = None;
    for (socket, address) in [
        (four, SocketAddr::from((Ipv4Addr::LOCALHOST, number))),
        (six, SocketAddr::from((Ipv6Addr::LOCALHOST, number))),
    ] {
        let Some(socket) = socket else { continue };
        let socket = TcpSocket::from_std_stream(socket.into());
        match tokio::time::timeout(LIMIT, socket.connect(address)).await {
            Ok(Ok(stream)) => {
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%error, "prepare a forwarded connection");
                }
                return Ok(stream);
            }
            // What the first address says counts: servers on both are the usual ones.
            Ok(Err(error)) => refused = refused.or(Some(format!("connect to {address}: {error}"))),
            Err(_) => refused = refused.or(Some(format!("{address} does not answer"))),
        }
    }
    Err(forward(refused.unwrap_or_else(|| {
        "there is neither IPv4 nor IPv6".to_owned()
    })))
}

/// Non-blocking TCP sockets in the pod's network, or the machine's: for IPv4 and IPv6, where there is that.
fn sockets(netns: Option<PathBuf>) -> io::Result<[Option<std::os::fd::OwnedFd>; 2]> {
    let make = || {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let of = |family| new_socket(family, SockType::Stream, flags, None).ok();
        [of(AddressFamily::Inet), of(AddressFamily::Inet6)]
    };
    match netns {
        Some(netns) => namespace::run_in(&netns, make),
        None => Ok(make()),
    }
}

/// Both ways, each to its own end.
async fn carry<S>(io: S, input: &mut Input, output: &mut Output)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut reader, mut writer) = tokio::io::split(io);
    let inward = async {
        while let Some(bytes) = input.read().await {
            writer.write_all(&bytes).await?;
        }
        writer.shutdown().await
    };
    let outward = async {
        let mut buffer = BytesMut::new();
        loop {
            buffer.reserve(PIECE);
            if reader.read_buf(&mut buffer).await? == 0 {
                break;
            }
            let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
            let bytes = buffer.split().freeze();
            output.write(bytes).await.map_err(gone)?;
        }
        output.finish().await;
        io::Result::Ok(())
    };
    if let Err(error) = tokio::try_join!(inward, outward) {
        tracing::debug!(%error, "a forwarded connection");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_has_an_id_and_two_kinds() {
        let of = |kind, id| pair(&Headers::from([("streamType", kind), ("requestID", id)]));
        assert_eq!(of("data", "7"), Some(("7".to_owned(), Kind::Data)));
        assert_eq!(of("error", "7"), Some(("7".to_owned(), Kind::Error)));
        assert_eq!(of("stdin", "7"), None);
        assert_eq!(pair(&Headers::from([("streamtype", "data")])), None);
        assert_eq!(of("data", &"7".repeat(WORD_MAX + 1)), None);
    }
}
