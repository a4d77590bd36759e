//! What a client would like to speak, read from the head of its request. No I/O.
//!
//! The names are those of the Kubernetes project (package remotecommand, portforward, wsstream); a WebSocket's
//! handshake is RFC 6455, section 4.

use axum::http::header::{CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING, UPGRADE};
use axum::http::{HeaderMap, Method, Request, StatusCode, Version};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::tokens::Kind;

/// The header with the protocols over SPDY, one value each, the preferred first.
pub const STREAM_PROTOCOL: &str = "x-stream-protocol-version";
const SOCKET_PROTOCOL: &str = "sec-websocket-protocol";
/// SPDY in the messages of a WebSocket.
pub const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";

/// Protocols of exec and attach over SPDY, by their versions.
const REMOTE: [(&str, u8); 4] = [
    ("v4.channel.k8s.io", 4),
    ("v3.channel.k8s.io", 3),
    ("v2.channel.k8s.io", 2),
    ("channel.k8s.io", 1),
];
const FORWARD: [(&str, u8); 1] = [("portforward.k8s.io", 1)];

/// The same over a WebSocket.
const REMOTE_SOCKET: [(&str, Socket); 5] = [
    ("v5.channel.k8s.io", Socket::channels(5, false)),
    ("v4.channel.k8s.io", Socket::channels(4, false)),
    ("v4.base64.channel.k8s.io", Socket::channels(4, true)),
    ("channel.k8s.io", Socket::channels(1, false)),
    ("base64.channel.k8s.io", Socket::channels(1, true)),
];
const FORWARD_SOCKET: [(&str, Socket); 3] = [
    (TUNNEL, Socket::Tunnel),
    ("v4.channel.k8s.io", Socket::channels(4, false)),
    ("v4.base64.channel.k8s.io", Socket::channels(4, true)),
];

/// What both sides speak from here on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Protocol {
    Spdy {
        /// To be named in the answer; absent when the client named none.
        name: Option<&'static str>,
        version: u8,
    },
    Socket {
        name: Option<&'static str>,
        /// The client's `Sec-WebSocket-Key`.
        key: String,
        socket: Socket,
    },
}

/// What the messages of a WebSocket hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Socket {
    /// A channel's number and its data.
    Channels {
        version: u8,
        base64: bool,
    },
    Tunnel,
}

impl Socket {
    const fn channels(version: u8, base64: bool) -> Self {
        Self::Channels { version, base64 }
    }
}

/// Why a request is turned away.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    pub status: StatusCode,
    pub message: String,
}

impl Refusal {
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { status, message }
    }
}

/// The kind and the token in a path.
pub fn path(path: &str) -> Option<(Kind, &str)> {
    let (kind, token) = path.strip_prefix('/')?.split_once('/')?;
    Some((Kind::parse(kind)?, token))
}

/// Finds what both can speak.
pub fn negotiate<B>(kind: Kind, request: &Request<B>) -> Result<Protocol, Refusal> {
    let (method, headers) = (request.method(), request.headers());
    if method != Method::GET && method != Method::POST {
        let message = format!("{method} is neither GET nor POST");
        return Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, message));
    }
    one_message(request)?;
    let upgrades = words(headers, CONNECTION.as_str());
    if !upgrades.iter().any(|w| w.eq_ignore_ascii_case("upgrade")) {
        return bad("unable to upgrade: missing upgrade headers in the request");
    }
    let wanted = words(headers, UPGRADE.as_str());
    let wants = |name: &str| wanted.iter().any(|w| w.eq_ignore_ascii_case(name));
    if wants("SPDY/3.1") {
        spdy(kind, headers)
    } else if wants("websocket") {
        socket(kind, method, headers)
    } else {
        bad(format!(
            "unable to upgrade: `{}` is neither SPDY/3.1 nor websocket",
            wanted.join(", ")
        ))
    }
}

/// What follows the head must be the new protocol's, for us and for any proxy before us: no body, by any of the
/// ways to have one, and one host (RFC 9112, sections 3.2 and 6; RFC 9110, section 7.8).
fn one_message<B>(request: &Request<B>) -> Result<(), Refusal> {
    let headers = request.headers();
    if request.version() != Version::HTTP_11 {
        let message = "an upgrade needs HTTP/1.1";
        return Err(Refusal::new(
            StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            message,
        ));
    }
    if headers.contains_key(TRANSFER_ENCODING) {
        return bad("a request for an upgrade has no body, and no `Transfer-Encoding`");
    }
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    if lengths.any(|length| length.as_bytes() != b"0") {
        return bad("a request for an upgrade has no body");
    }
    if headers.get_all(HOST).iter().count() != 1 {
        return bad("a request has one `Host`");
    }
    Ok(())
}

fn bad<T>(message: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal::new(StatusCode::BAD_REQUEST, message))
}

fn spdy(kind: Kind, headers: &HeaderMap) -> Result<Protocol, Refusal> {
    let ours: &[(&'static str, u8)] = match kind {
        Kind::Exec | Kind::Attach => &REMOTE,
        Kind::Forward => &FORWARD,
    };
    let theirs = words(headers, STREAM_PROTOCOL);
    match choose(ours, &theirs)? {
        Some((name, version)) => Ok(Protocol::Spdy {
            name: Some(name),
            version,
        }),
        None => Ok(Protocol::Spdy {
            name: None,
            version: 1,
        }),
    }
}

fn socket(kind: Kind, method: &Method, headers: &HeaderMap) -> Result<Protocol, Refusal> {
    if method != Method::GET {
        return bad("a WebSocket begins with GET");
    }
    if words(headers, "sec-websocket-version") != ["13"] {
        return bad("not version 13 of WebSocket");
    }
    // 16 random bytes.
    let [key] = words(headers, "sec-websocket-key")
        .try_into()
        .unwrap_or_default();
    if !STANDARD.decode(&key).is_ok_and(|bytes| bytes.len() == 16) {
        return bad("no `Sec-WebSocket-Key`, or one that is none");
    }
    let (ours, default): (&[(&'static str, Socket)], _) = match kind {
        Kind::Exec | Kind::Attach => (&REMOTE_SOCKET, Socket::channels(1, false)),
        Kind::Forward => (&FORWARD_SOCKET, Socket::channels(4, false)),
    };
    let theirs = words(headers, SOCKET_PROTOCOL);
    let (name, socket) = match choose(ours, &theirs)? {
        Some((name, socket)) => (Some(name), socket),
        None => (None, default),
    };
    Ok(Protocol::Socket { name, key, socket })
}

/// The first of the client's that is one of ours; `None` when it names none at all.
fn choose<T: Copy>(
    ours: &[(&'static str, T)],
    theirs: &[String],
) -> Result<Option<(&'static str, T)>, Refusal> {
    let mut both = theirs.iter().filter_map(|their| {
        let same = |(our, _): &&(&str, T)| *our == their.as_str();
        ours.iter().find(same).copied()
    });
    match both.next() {
        None if !theirs.is_empty() => {
            let ours: Vec<&str> = ours.iter().map(|(name, _)| *name).collect();
            let message = format!(
                "unable to negotiate protocol: client supports {}, server accepts {}",
                theirs.join(", "),
                ours.join(", ")
            );
            Err(Refusal::new(StatusCode::FORBIDDEN, message))
        }
        found => Ok(found),
    }
}

/// The words of a header that may come several times, and with commas.
fn words(headers: &HeaderMap, name: &str) -> Vec<String> {
    let values = headers.get_all(name).iter();
    let texts = values.filter_map(|value| value.to_str().ok());
    let words = texts.flat_map(|text| text.split(',')).map(str::trim);
    words.filter(|w| !w.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(kind: Kind, method: &str, pairs: &[(&str, &str)]) -> Result<Protocol, u16> {
        let mut request = Request::builder().method(method);
        for (name, value) in pairs {
            request = request.header(*name, *value);
        }
        negotiate(kind, &request.body(()).unwrap()).map_err(|r| r.status.as_u16())
    }

    const SPDY: [(&str, &str); 3] = [
        ("host", "h"),
        ("connection", "Upgrade"),
        ("upgrade", "SPDY/3.1"),
    ];
    const SOCKET: [(&str, &str); 5] = [
        ("host", "h"),
        ("connection", "keep-alive, Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];

    fn with<'a>(
        base: &[(&'a str, &'a str)],
        more: &[(&'a str, &'a str)],
    ) -> Vec<(&'a str, &'a str)> {
        [base, more].concat()
    }

    #[test]
    fn the_clients_first_choice_counts() {
        let spdy = |kind, names: &[&'static str]| {
            let names: Vec<_> = names.iter().map(|n| (STREAM_PROTOCOL, *n)).collect();
            ask(kind, "POST", &with(&SPDY, &names))
        };
        let chosen = |name, version| Ok(Protocol::Spdy { name, version });
        assert_eq!(
            spdy(
                Kind::Exec,
                &["v9.channel.k8s.io", "v4.channel.k8s.io", "channel.k8s.io"]
            ),
            chosen(Some("v4.channel.k8s.io"), 4)
        );
        assert_eq!(
            spdy(Kind::Attach, &["v2.channel.k8s.io"]),
            chosen(Some("v2.channel.k8s.io"), 2)
        );
        assert_eq!(spdy(Kind::Exec, &[]), chosen(None, 1));
        assert_eq!(spdy(Kind::Exec, &["portforward.k8s.io"]), Err(403));
        assert_eq!(
            spdy(Kind::Forward, &["portforward.k8s.io"]),
            chosen(Some("portforward.k8s.io"), 1)
        );
    }

    #[test]
    fn sockets_are_told_apart() {
        let socket = |kind, names| {
            let asked = ask(kind, "GET", &with(&SOCKET, &[(SOCKET_PROTOCOL, names)]));
            asked.map(|protocol| match protocol {
                Protocol::Socket { name, socket, .. } => (name, socket),
                other => panic!("{other:?}"),
            })
        };
        assert_eq!(
            socket(Kind::Exec, "v6.channel.k8s.io, v5.channel.k8s.io"),
            Ok((Some("v5.channel.k8s.io"), Socket::channels(5, false)))
        );
        assert_eq!(
            socket(Kind::Exec, "base64.channel.k8s.io"),
            Ok((Some("base64.channel.k8s.io"), Socket::channels(1, true)))
        );
        assert_eq!(
            socket(Kind::Forward, TUNNEL),
            Ok((Some(TUNNEL), Socket::Tunnel))
        );
        assert_eq!(socket(Kind::Exec, TUNNEL), Err(403));
        assert_eq!(
            ask(Kind::Exec, "GET", &SOCKET[..4]),
            Err(400),
            "without a key"
        );
        for key in ["", "x", "dGhlIHNhbXBsZQ=="] {
            let headers = with(&SOCKET[..4], &[("sec-websocket-key", key)]);
            assert_eq!(ask(Kind::Exec, "GET", &headers), Err(400), "{key}");
        }
        let twice = with(&SOCKET, &SOCKET[4..]);
        assert_eq!(ask(Kind::Exec, "GET", &twice), Err(400));
        assert_eq!(ask(Kind::Exec, "POST", &SOCKET), Err(400));
    }

    #[test]
    fn what_is_no_upgrade_is_refused() {
        assert_eq!(ask(Kind::Exec, "PUT", &SPDY), Err(405));
        assert!(ask(Kind::Exec, "POST", &SPDY).is_ok());
        assert_eq!(ask(Kind::Exec, "POST", &SPDY[1..]), Err(400), "no host");
        assert_eq!(ask(Kind::Exec, "POST", &SPDY[..2]), Err(400));
        let h2c = [("host", "h"), ("connection", "upgrade"), ("upgrade", "h2c")];
        assert_eq!(ask(Kind::Exec, "POST", &h2c), Err(400));
        // What one reader takes for a body is another's next request.
        assert!(ask(Kind::Exec, "POST", &with(&SPDY, &[("content-length", "0")])).is_ok());
        for more in [
            &[("content-length", "5")][..],
            &[("content-length", "00")],
            &[("content-length", "0"), ("content-length", "5")],
            &[("transfer-encoding", "chunked")],
            &[("transfer-encoding", "identity"), ("content-length", "0")],
            &[("host", "other")],
        ] {
            let headers = with(&SPDY, more);
            assert_eq!(ask(Kind::Exec, "POST", &headers), Err(400), "{more:?}");
        }
        let old = Request::builder()
            .version(Version::HTTP_10)
            .body(())
            .unwrap();
        assert_eq!(
            negotiate(Kind::Exec, &old).unwrap_err().status.as_u16(),
            505
        );
        assert_eq!(path("/exec/abc"), Some((Kind::Exec, "abc")));
        for bad in ["", "/", "/exec", "exec/abc", "/cri/exec/abc", "//abc"] {
            assert_eq!(path(bad), None, "{bad}");
        }
    }
}
