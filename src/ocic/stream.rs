//! The client's side of streams: the URL that Exec, Attach and PortForward answer with is opened by HTTP and
//! upgraded to SPDY/3.1; by HTTPS where the daemon serves that.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::header::{CONNECTION, HOST, HeaderValue, UPGRADE};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use super::tls::{TlsError, Trust, advice};
use crate::spdy::{
    Connection, Headers, Limits, Role, SpdyError, Stream, StreamReader, StreamWriter,
};

/// Protocols of exec and attach: only the last one tells exit codes.
pub const REMOTE: &str = "v4.channel.k8s.io";
pub const FORWARD: &str = "portforward.k8s.io";
/// How long the server may take to answer.
const LIMIT: Duration = Duration::from_secs(30);
/// The longest refusal that is shown.
const REFUSAL_MAX: usize = 4096;

#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    #[error("the daemon's answer `{url}` is not a URL of HTTP or HTTPS with address and port")]
    Url { url: String },
    #[error("connect to `{authority}`")]
    Connect {
        authority: String,
        source: std::io::Error,
    },
    #[error("the server at `{authority}` did not answer within {LIMIT:?}")]
    Silent { authority: String },
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("ask for a stream")]
    Ask(#[source] hyper::Error),
    #[error("the server refused the stream ({status}): {message}")]
    Refused { status: StatusCode, message: String },
    #[error("open a stream")]
    Open(#[from] SpdyError),
    #[error("the streams broke off before the end was told")]
    Broken,
    #[error("{0}")]
    Failed(String),
}

impl StreamError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Tls(error) => error.hint(),
            Self::Ask(error) => advice(error),
            _ => None,
        }
    }
}

/// Opens the URL; `trust` matters when it is one of HTTPS.
pub async fn connect(
    url: &str,
    protocol: &'static str,
    trust: &Trust,
) -> Result<Connection, StreamError> {
    let server = server(url)?;
    let authority = &server.authority;
    let failed = |source| StreamError::Connect {
        authority: authority.clone(),
        source,
    };
    let silent = |_| StreamError::Silent {
        authority: authority.clone(),
    };
    let connected = async {
        let io = TcpStream::connect(server.address).await.map_err(failed)?;
        io.set_nodelay(true).map_err(failed)?;
        Ok::<_, StreamError>(io)
    };
    let io = tokio::time::timeout(LIMIT, connected)
        .await
        .map_err(silent)??;
    if !server.secure {
        return upgrade(io, url, protocol).await;
    }
    let shaken = tokio::time::timeout(LIMIT, trust.connect(io, &server.host));
    upgrade(shaken.await.map_err(silent)??, url, protocol).await
}

/// Does the same over a connection that is there.
pub async fn upgrade<S>(io: S, url: &str, protocol: &'static str) -> Result<Connection, StreamError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let authority = server(url)?.authority;
    let asked = tokio::time::timeout(LIMIT, ask(io, url, &authority, protocol));
    match asked.await {
        Ok(connection) => connection,
        Err(_) => Err(StreamError::Silent { authority }),
    }
}

/// Who serves a URL.
#[derive(Debug, PartialEq, Eq)]
struct Server {
    secure: bool,
    /// Host and port, both of which the daemon names.
    authority: String,
    host: String,
    address: SocketAddr,
}

fn server(url: &str) -> Result<Server, StreamError> {
    let wrong = || StreamError::Url {
        url: url.to_owned(),
    };
    let uri: Uri = url.parse().map_err(|_| wrong())?;
    let secure = match uri.scheme_str() {
        Some("http") => false,
        Some("https") => true,
        _ => return Err(wrong()),
    };
    let authority = uri.authority().ok_or_else(wrong)?;
    let port = authority.port_u16().ok_or_else(wrong)?;
    let host = authority.host();
    // Streams are served at an address; looking names up is nothing that a static program does lightly.
    let ip = match host {
        "localhost" => Ok(IpAddr::from(Ipv4Addr::LOCALHOST)),
        host => host.trim_matches(['[', ']']).parse(),
    };
    Ok(Server {
        secure,
        authority: authority.to_string(),
        host: host.to_owned(),
        address: SocketAddr::new(ip.map_err(|_| wrong())?, port),
    })
}

async fn ask<S>(
    io: S,
    url: &str,
    authority: &str,
    protocol: &'static str,
) -> Result<Connection, StreamError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let wrong = || StreamError::Url {
        url: url.to_owned(),
    };
    let uri: Uri = url.parse().map_err(|_| wrong())?;
    let request = Request::builder()
        .method(Method::POST)
        .uri(uri.path())
        .header(HOST, authority)
        .header(CONNECTION, HeaderValue::from_static("Upgrade"))
        .header(UPGRADE, HeaderValue::from_static("SPDY/3.1"))
        .header("x-stream-protocol-version", protocol)
        .body(Empty::<Bytes>::new())
        .map_err(|_| wrong())?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(io))
        .await
        .map_err(StreamError::Ask)?;
    // Its end is told by what is read from the upgraded half.
    tokio::spawn(connection.with_upgrades());
    let response = sender
        .send_request(request)
        .await
        .map_err(StreamError::Ask)?;
    let status = response.status();
    if status != StatusCode::SWITCHING_PROTOCOLS {
        let body = Limited::new(response.into_body(), REFUSAL_MAX);
        let text = body.collect().await.map(|all| all.to_bytes());
        let text = text.unwrap_or_default();
        let message = String::from_utf8_lossy(&text).trim().to_owned();
        return Err(StreamError::Refused { status, message });
    }
    let upgraded = hyper::upgrade::on(response)
        .await
        .map_err(StreamError::Ask)?;
    let io = TokioIo::new(upgraded);
    Ok(Connection::start(io, Role::Client, Limits::default()).0)
}

/// The streams of exec and attach.
pub struct Remote {
    pub connection: Connection,
    pub stdin: Option<StreamWriter>,
    pub stdout: Option<StreamReader>,
    pub stderr: Option<StreamReader>,
    pub resize: Option<StreamWriter>,
    error: StreamReader,
    /// The halves that nothing goes over; they end with the connection.
    _unused: (Vec<StreamReader>, Vec<StreamWriter>),
}

/// Carries one connection to a port of the pod, until both its halves have ended.
pub async fn forward(
    connection: &Connection,
    request: u32,
    port: u16,
    mut io: TcpStream,
) -> Result<(), StreamError> {
    let (request, port) = (request.to_string(), port.to_string());
    let headers = |kind| {
        Headers::from([
            ("streamtype", kind),
            ("port", &port),
            ("requestid", &request),
        ])
    };
    let (mut errors, mut unused) = connection.open(headers("error")).await?.split();
    unused.finish().await?;
    let (mut reader, mut writer) = connection.open(headers("data")).await?.split();
    let (mut from, mut to) = io.split();
    let outward = async {
        let mut piece = vec![0; 32 << 10];
        while let Ok(count @ 1..) = from.read(&mut piece).await {
            let bytes = Bytes::copy_from_slice(piece.get(..count).unwrap_or_default());
            if writer.write(bytes).await.is_err() {
                return;
            }
        }
        let _ = writer.finish().await;
    };
    let inward = async {
        while let Ok(Some(bytes)) = reader.read().await {
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
        let _ = to.shutdown().await;
    };
    let told = async {
        let mut text = Vec::new();
        while let Ok(Some(bytes)) = errors.read().await {
            text.extend_from_slice(&bytes);
        }
        text
    };
    let carried = async { tokio::join!(outward, inward) };
    tokio::pin!(carried, told);
    let mut done = false;
    let text = loop {
        tokio::select! {
            _ = &mut carried, if !done => done = true,
            text = &mut told => break text,
        }
    };
    match String::from_utf8_lossy(&text).trim() {
        "" => {
            if !done {
                carried.await;
            }
            Ok(())
        }
        text => Err(StreamError::Failed(text.to_owned())),
    }
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// 0 is success.
    Exit(i32),
    /// It was not run, or not to its end.
    Failed(String),
}

impl Remote {
    /// Opens the streams: errors first, as every client does.
    pub async fn open(
        connection: Connection,
        [stdin, stdout, stderr, tty]: [bool; 4],
    ) -> Result<Self, StreamError> {
        let open = async |kind: &str| -> Result<Stream, StreamError> {
            let headers = Headers::from([("streamtype", kind)]);
            Ok(connection.open(headers).await?)
        };
        let (mut readers, mut writers) = (Vec::new(), Vec::new());
        let (error, unused) = open("error").await?.split();
        writers.push(unused);
        let (mut input, mut output, mut errors, mut resize) = (None, None, None, None);
        for (wanted, kind, place) in [(stdin, "stdin", &mut input), (tty, "resize", &mut resize)] {
            if wanted {
                let (unused, writer) = open(kind).await?.split();
                readers.push(unused);
                *place = Some(writer);
            }
        }
        for (wanted, kind, place) in [
            (stdout, "stdout", &mut output),
            (stderr, "stderr", &mut errors),
        ] {
            if wanted {
                let (reader, unused) = open(kind).await?.split();
                writers.push(unused);
                *place = Some(reader);
            }
        }
        Ok(Self {
            connection,
            stdin: input,
            stdout: output,
            stderr: errors,
            resize,
            error,
            _unused: (readers, writers),
        })
    }

    /// What the error channel tells; it comes when everything else is over.
    pub async fn ended(&mut self) -> Result<Ended, StreamError> {
        let mut text = Vec::new();
        loop {
            match self.error.read().await {
                Ok(Some(bytes)) => text.extend_from_slice(&bytes),
                Ok(None) => return ended(&text),
                Err(_) if text.is_empty() => return Err(StreamError::Broken),
                Err(_) => return ended(&text),
            }
        }
    }
}

/// Reads a Status document of the Kubernetes API.
fn ended(text: &[u8]) -> Result<Ended, StreamError> {
    #[derive(serde::Deserialize, Default)]
    #[serde(default)]
    struct Status {
        status: String,
        message: String,
        reason: String,
        details: Details,
    }
    #[derive(serde::Deserialize, Default)]
    #[serde(default)]
    struct Details {
        causes: Vec<Cause>,
    }
    #[derive(serde::Deserialize, Default)]
    #[serde(default)]
    struct Cause {
        reason: String,
        message: String,
    }
    let Ok(status) = serde_json::from_slice::<Status>(text) else {
        let text = String::from_utf8_lossy(text).trim().to_owned();
        return match text.is_empty() {
            true => Err(StreamError::Broken),
            false => Ok(Ended::Failed(text)),
        };
    };
    if status.status == "Success" {
        return Ok(Ended::Exit(0));
    }
    let mut causes = status.details.causes.iter();
    let code = causes.find(|cause| cause.reason == "ExitCode");
    let code = code.and_then(|cause| cause.message.parse().ok());
    match code {
        Some(code) if status.reason == "NonZeroExitCode" => Ok(Ended::Exit(code)),
        _ => Ok(Ended::Failed(status.message)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_tells_the_exit_code() {
        let success = br#"{"metadata":{},"status":"Success"}"#;
        assert_eq!(ended(success).unwrap(), Ended::Exit(0));
        let seven = br#"{"status":"Failure","message":"command terminated","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"7"}]}}"#;
        assert_eq!(ended(seven).unwrap(), Ended::Exit(7));
        let failed = br#"{"status":"Failure","message":"no such container","reason":"InternalError","code":500}"#;
        let expected = Ended::Failed("no such container".to_owned());
        assert_eq!(ended(failed).unwrap(), expected);
        assert_eq!(ended(b"plain").unwrap(), Ended::Failed("plain".to_owned()));
        assert!(matches!(ended(b""), Err(StreamError::Broken)));
    }

    #[test]
    fn a_url_names_host_and_port() {
        let served = |url| server(url).map(|s| (s.secure, s.authority, s.host));
        let expected =
            |secure, authority: &str, host: &str| (secure, authority.to_owned(), host.to_owned());
        assert_eq!(
            served("http://127.0.0.1:1/exec/a").unwrap(),
            expected(false, "127.0.0.1:1", "127.0.0.1")
        );
        assert_eq!(
            server("http://localhost:7/").unwrap().address,
            "127.0.0.1:7".parse().unwrap()
        );
        assert_eq!(
            served("https://[::1]:1/exec/a").unwrap(),
            expected(true, "[::1]:1", "[::1]")
        );
        for bad in [
            "",
            "/exec/a",
            "http://127.0.0.1/exec",
            "ftp://a:1/",
            "https://[::1]/",
            "http://no.address:1/",
        ] {
            assert!(served(bad).is_err(), "{bad}");
        }
    }
}
