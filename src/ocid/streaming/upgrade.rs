//! What a client would like to speak, read from the head of its request. No I/O.
//!
//! The names are those of the Kubernetes project (package remotecommand, portforward, wsstream); a WebSocket's
//! handshake is RFC 6455, section 4.

use axum::http::header::{CONNECTION, UPGRADE};
use axum::http::{HeaderMap, Method, StatusCode};

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
pub fn negotiate(kind: Kind, method: &Method, headers: &HeaderMap) -> Result<Protocol, Refusal> {
    if method != Method::GET && method != Method::POST {
        let message = format!("{method} is neither GET nor POST");
        return Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, message));
    }
    let upgrades = words(headers, CONNECTION.as_str());
    if !upgrades.iter().any(|w| w.eq_ignore_ascii_case("upgrade")) {
        let message = "unable to upgrade: missing upgrade headers in the request";
        return Err(Refusal::new(StatusCode::BAD_REQUEST, message));
    }
    let wanted = words(headers, UPGRADE.as_str());
    let wants = |name: &str| wanted.iter().any(|w| w.eq_ignore_ascii_case(name));
    if wants("SPDY/3.1") {
        spdy(kind, headers)
    } else if wants("websocket") {
        socket(kind, method, headers)
    } else {
        let message = format!(
            "unable to upgrade: `{}` is neither SPDY/3.1 nor websocket",
            wanted.join(", ")
        );
        Err(Refusal::new(StatusCode::BAD_REQUEST, message))
    }
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
    let bad = |message| Err(Refusal::new(StatusCode::BAD_REQUEST, message));
    if method != Method::GET {
        return bad("a WebSocket begins with GET");
    }
    if words(headers, "sec-websocket-version") != ["13"] {
        return bad("not version 13 of WebSocket");
    }
    let key = headers.get("sec-websocket-key");
    let Some(key) = key.and_then(|key| key.to_str().ok()) else {
        return bad("no `Sec-WebSocket-Key`");
    };
    let key = key.to_owned();
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
    use axum::http::{HeaderName, HeaderValue};

    fn ask(kind: Kind, method: &str, pairs: &[(&str, &str)]) -> Result<Protocol, u16> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_str(value).unwrap(),
            );
        }
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        negotiate(kind, &method, &headers).map_err(|r| r.status.as_u16())
    }

    const SPDY: [(&str, &str); 2] = [("connection", "Upgrade"), ("upgrade", "SPDY/3.1")];
    const SOCKET: [(&str, &str); 4] = [
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
            ask(Kind::Exec, "GET", &SOCKET[..3]),
            Err(400),
            "without a key"
        );
        assert_eq!(ask(Kind::Exec, "POST", &SOCKET), Err(400));
    }

    #[test]
    fn what_is_no_upgrade_is_refused() {
        assert_eq!(ask(Kind::Exec, "PUT", &SPDY), Err(405));
        assert_eq!(ask(Kind::Exec, "POST", &SPDY[1..]), Err(400));
        assert_eq!(ask(Kind::Exec, "POST", &SPDY[..1]), Err(400));
        let h2c = [("connection", "upgrade"), ("upgrade", "h2c")];
        assert_eq!(ask(Kind::Exec, "POST", &h2c), Err(400));
        assert_eq!(path("/exec/abc"), Some((Kind::Exec, "abc")));
        for bad in ["", "/", "/exec", "exec/abc", "/cri/exec/abc", "//abc"] {
            assert_eq!(path(bad), None, "{bad}");
        }
    }
}
