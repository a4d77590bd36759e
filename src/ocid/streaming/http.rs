//! The HTTP of the streaming server: one request per connection, which is upgraded or refused.

use std::convert::Infallible;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::http::header::{CONNECTION, CONTENT_TYPE, SEC_WEBSOCKET_ACCEPT, UPGRADE};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming as Body;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::Request;
use super::idle::Idle;
use super::tokens::Kind;
use super::upgrade::{self, Protocol, Refusal, STREAM_PROTOCOL};
use crate::host::hangup::HungUp;

/// How long a client may take over TLS and the head of its request.
pub const HEAD_LIMIT: Duration = Duration::from_secs(30);
/// The longest head; what comes in the same read counts only once it is there, so one of twice the size may pass.
const HEAD_MAX: usize = 64 << 10;

/// A connection from its upgrade on.
pub struct Upgraded {
    pub io: Idle<TokioIo<hyper::upgrade::Upgraded>>,
    pub hung_up: HungUp,
}

/// What is behind the URLs.
pub trait Sessions: Send + Sync + 'static {
    /// What a token of this kind stands for, if it is still good. It is not any more.
    fn take(&self, kind: Kind, token: &str) -> Option<Request>;

    /// Carries it out.
    fn run(
        self: Arc<Self>,
        request: Request,
        protocol: Protocol,
        io: Upgraded,
    ) -> impl Future<Output = ()> + Send;
}

/// Serves one connection: a refusal closes it, and an upgrade never comes back. `idle`: how long nothing may move
/// on an upgraded one.
pub async fn serve<S, H>(sessions: Arc<H>, io: S, hung_up: HungUp, idle: Duration)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Sessions,
{
    // There is one request, and one who takes it.
    let hung_up = Mutex::new(Some(hung_up));
    let service = service_fn(move |request| {
        let answer = answer(&sessions, request, &hung_up, idle);
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

fn answer<H: Sessions>(
    sessions: &Arc<H>,
    request: hyper::Request<Body>,
    hung_up: &Mutex<Option<HungUp>>,
    idle: Duration,
) -> Response {
    match upgrade(sessions, request, hung_up, idle) {
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
fn upgrade<H: Sessions>(
    sessions: &Arc<H>,
    mut request: hyper::Request<Body>,
    hung_up: &Mutex<Option<HungUp>>,
    idle: Duration,
) -> Result<Response, Refusal> {
    let unknown = || Refusal::new(StatusCode::NOT_FOUND, "no such stream, or no longer");
    let (kind, token) = upgrade::path(request.uri().path()).ok_or_else(unknown)?;
    let protocol = upgrade::negotiate(kind, &request)?;
    let hung_up = hung_up
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .take();
    let hung_up = hung_up.ok_or_else(unknown)?;
    let wanted = sessions.take(kind, token);
    let wanted = wanted.ok_or_else(unknown)?;
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    switch(&protocol, response.headers_mut());
    let upgraded = hyper::upgrade::on(&mut request);
    let sessions = Arc::clone(sessions);
    tokio::spawn(async move {
        match upgraded.await {
            Ok(upgraded) => {
                let io = Idle::new(TokioIo::new(upgraded), idle);
                let io = Upgraded { io, hung_up };
                sessions.run(wanted, protocol, io).await;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ocid::streaming::tokens::{LIFETIME, Tokens};
    use std::time::Instant;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// Whose clock is ahead by so much.
    struct Later(Tokens, Duration);

    impl Sessions for Later {
        fn take(&self, kind: Kind, token: &str) -> Option<Request> {
            self.0.take_at(kind, token, Instant::now() + self.1)
        }

        async fn run(self: Arc<Self>, _: Request, _: Protocol, _: Upgraded) {}
    }

    #[tokio::test]
    async fn a_url_is_good_for_a_minute() {
        for (later, status) in [(LIFETIME / 2, "101"), (LIFETIME, "404")] {
            let sessions = Arc::new(Later(Tokens::default(), later));
            let request = Request::Forward {
                sandbox: "a".to_owned(),
                ports: Vec::new(),
            };
            let token = sessions.0.issue(request).unwrap();
            let (mut client, server) = tokio::io::duplex(4096);
            let served = serve(sessions, server, HungUp::never(), LIFETIME);
            let served = tokio::spawn(served);
            let head = format!(
                "POST /portforward/{token} HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n"
            );
            client.write_all(head.as_bytes()).await.unwrap();
            let mut said = String::new();
            client.read_to_string(&mut said).await.unwrap();
            assert!(said.starts_with(&format!("HTTP/1.1 {status} ")), "{said}");
            served.await.unwrap();
        }
    }
}
