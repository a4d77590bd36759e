//! The client's side of streams: the URL that Exec, Attach and PortForward answer with is opened by HTTP and
//! upgraded to SPDY/3.1.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::header::{CONNECTION, HOST, HeaderValue, UPGRADE};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

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
    #[error("the daemon's answer `{url}` is not a URL of HTTP with host and port")]
    Url { url: String },
    #[error("connect to `{authority}`")]
    Connect {
        authority: String,
        source: std::io::Error,
    },
    #[error("the server at `{authority}` did not answer within {LIMIT:?}")]
    Silent { authority: String },
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

/// Opens the URL.
pub async fn connect(url: &str, protocol: &'static str) -> Result<Connection, StreamError> {
    let authority = authority(url)?;
    let failed = |source| StreamError::Connect {
        authority: authority.clone(),
        source,
    };
    let io = TcpStream::connect(authority.as_str())
        .await
        .map_err(failed)?;
    io.set_nodelay(true).map_err(failed)?;
    upgrade(io, url, protocol).await
}

/// Does the same over a connection that is there.
pub async fn upgrade<S>(io: S, url: &str, protocol: &'static str) -> Result<Connection, StreamError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let authority = authority(url)?;
    let asked = tokio::time::timeout(LIMIT, ask(io, url, &authority, protocol));
    match asked.await {
        Ok(connection) => connection,
        Err(_) => Err(StreamError::Silent { authority }),
    }
}

/// Its host and port, both of which the daemon names.
fn authority(url: &str) -> Result<String, StreamError> {
    let wrong = || StreamError::Url {
        url: url.to_owned(),
    };
    let uri: Uri = url.parse().map_err(|_| wrong())?;
    match (uri.scheme_str(), uri.authority()) {
        (Some("http"), Some(authority)) if authority.port().is_some() => Ok(authority.to_string()),
        _ => Err(wrong()),
    }
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
        assert_eq!(
            authority("http://127.0.0.1:1/exec/a").unwrap(),
            "127.0.0.1:1"
        );
        for bad in [
            "",
            "/exec/a",
            "http://127.0.0.1/exec",
            "ftp://a:1/",
            "https://a:1/",
        ] {
            assert!(authority(bad).is_err(), "{bad}");
        }
    }
}
