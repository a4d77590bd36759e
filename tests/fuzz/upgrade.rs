//! The HTTP side: heads that ask for an upgrade, or nearly, and what is sent behind them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crio_setup::ocid::streaming::channels::Channels;
use crio_setup::ocid::streaming::forward;
use crio_setup::ocid::streaming::http::{self, Sessions, Upgraded};
use crio_setup::ocid::streaming::tokens::{Kind, Request, Tokens};
use crio_setup::ocid::streaming::upgrade::Protocol;
use tokio::runtime::Runtime;

use crate::driver::{Case, Target};
use crate::random::{Random, mutate};
use crate::sessions::{Echoes, IDLE, echo, wanted};
use crate::{spdy, websocket, wire};

pub struct Upgrade;

/// What stands in an input where the token of its run belongs; as long as one.
const PLACES: [&[u8; 32]; 3] = [
    b"@@@@@@@@@@@@@@@@@@@@@@@@@@exec@@",
    b"@@@@@@@@@@@@@@@@@@@@@@@@attach@@",
    b"@@@@@@@@@@@@@@@@@@@@@@@forward@@",
];

impl Target for Upgrade {
    const NAME: &'static str = "upgrade";
    const SHORT: u64 = 1500;

    fn make(random: &mut Random) -> Case {
        let choices = random.next();
        let mut bytes = head(random);
        if random.once_in(3) {
            let other = head(random);
            mutate(random, &mut bytes, &other);
        }
        bytes.extend(match random.below(5) {
            0 => Vec::new(),
            1 => head(random),
            2 => websocket::messages(random, false),
            _ => spdy::session(random),
        });
        if random.once_in(8) {
            let other = head(random);
            mutate(random, &mut bytes, &other);
        }
        Case { choices, bytes }
    }

    fn run(runtime: &Runtime, case: &Case) -> bool {
        let mut random = Random::new(case.choices);
        runtime.block_on(async {
            let behind = Arc::new(Behind {
                tokens: Tokens::default(),
                taken: AtomicUsize::new(0),
                habits: random.next(),
            });
            let bytes = behind.fill(&case.bytes, &mut random);
            let (ours, theirs, hung_up) = wire::pair();
            tokio::spawn(http::serve(Arc::clone(&behind), theirs, hung_up, IDLE));
            let said = wire::converse(ours, &bytes, &mut random).await;
            judge(&said, behind.taken.load(Ordering::SeqCst))
        })
    }
}

/// One request has one answer, and only a token opens anything.
fn judge(said: &[u8], taken: usize) -> bool {
    assert!(taken <= 1, "{taken} sessions on one connection");
    if said.is_empty() {
        return false;
    }
    let line = said.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line).into_owned();
    let status = line.split(' ').nth(1).unwrap_or_default();
    let known = [
        "101", "400", "403", "404", "405", "408", "414", "431", "505",
    ];
    assert!(
        line.starts_with("HTTP/1.") && known.contains(&status),
        "{line}"
    );
    assert_eq!(status == "101", taken == 1, "{line}");
    if status == "101" {
        let text = String::from_utf8_lossy(said);
        let (head, _) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let behind = said.get(head.len() + 4..).unwrap_or_default();
        match head.to_ascii_lowercase().contains("upgrade: spdy/3.1") {
            true => spdy::assert_valid(behind),
            false => drop(websocket::assert_valid(behind)),
        }
    }
    status == "101"
}

struct Behind {
    tokens: Tokens,
    taken: AtomicUsize,
    habits: u64,
}

impl Behind {
    /// Puts tokens in their places.
    fn fill(&self, bytes: &[u8], random: &mut Random) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        let requests = [
            Request::Exec {
                container: "c".to_owned(),
                command: vec!["true".to_owned()],
                wanted: wanted(random),
            },
            Request::Attach {
                container: "c".to_owned(),
                wanted: wanted(random),
            },
            Request::Forward {
                sandbox: "p".to_owned(),
                ports: vec![80, 9, 82],
            },
        ];
        for (place, request) in PLACES.iter().zip(requests) {
            let mut token = None;
            for at in 0..bytes.len().saturating_sub(31) {
                if bytes[at..].starts_with(*place) {
                    let token = token.get_or_insert_with(|| {
                        self.tokens.issue(request.clone()).expect("a token")
                    });
                    bytes[at..at + 32].copy_from_slice(token.as_bytes());
                }
            }
        }
        bytes
    }
}

impl Sessions for Behind {
    fn take(&self, kind: Kind, token: &str) -> Option<Request> {
        let request = self.tokens.take(kind, token)?;
        self.taken.fetch_add(1, Ordering::SeqCst);
        Some(request)
    }

    async fn run(self: Arc<Self>, request: Request, protocol: Protocol, io: Upgraded) {
        match request {
            Request::Exec { wanted, .. } | Request::Attach { wanted, .. } => {
                if let Some(channels) = Channels::open(io, &protocol, wanted).await {
                    echo(channels, Random::new(self.habits)).await;
                }
            }
            Request::Forward { ports, .. } => {
                forward::run(Arc::new(Echoes), &ports, &protocol, io).await;
            }
        }
    }
}

/// The head of a request: good ones with something wrong about them.
fn head(random: &mut Random) -> Vec<u8> {
    let which = random.below(3);
    let kind = ["exec", "attach", "portforward"][which];
    let place = String::from_utf8_lossy(PLACES[which]).into_owned();
    let socket = random.once_in(2);
    let method = match random.below(12) {
        0 => random.pick(&[
            "PUT", "HEAD", "CONNECT", "OPTIONS", "get", "PRI", "", "DELETE",
        ]),
        _ if socket => "GET",
        _ => "POST",
    };
    let target = match random.below(16) {
        0 => format!("http://127.0.0.1/{kind}/{place}"),
        1 => format!("/{kind}/{place}?a=b&c=%00"),
        2 => format!("/{kind}/{place}/"),
        3 => format!("//{kind}/{place}"),
        4 => format!("/{kind}/../{kind}/{place}"),
        5 => "*".to_owned(),
        6 => format!("/{kind}/00000000000000000000000000000000"),
        7 => format!("/{kind}/{}", "x".repeat(random.length(70_000))),
        _ => format!("/{kind}/{place}"),
    };
    let version = match random.below(16) {
        0 => random.pick(&[
            "HTTP/1.0",
            "HTTP/2.0",
            "HTTP/1.2",
            "http/1.1",
            "",
            "HTTP/1.1 x",
        ]),
        _ => "HTTP/1.1",
    };
    let mut lines = vec![format!("{method} {target} {version}")];
    let mut fields: Vec<String> = Vec::new();
    if !random.once_in(24) {
        fields.push("Host: h".to_owned());
    }
    if !random.once_in(24) {
        let value = random.pick(&[
            "Upgrade",
            "upgrade",
            "keep-alive, Upgrade",
            "close, upgrade",
        ]);
        fields.push(format!("Connection: {value}"));
    }
    if socket {
        fields.push("Upgrade: websocket".to_owned());
        fields.push("Sec-WebSocket-Version: 13".to_owned());
        fields.push("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==".to_owned());
        if !random.once_in(4) {
            let names = match which {
                2 => &["SPDY/3.1+portforward.k8s.io", "v4.channel.k8s.io"][..],
                _ => &[
                    "v5.channel.k8s.io",
                    "v4.channel.k8s.io, x",
                    "base64.channel.k8s.io",
                ],
            };
            fields.push(format!("Sec-WebSocket-Protocol: {}", random.pick(names)));
        }
    } else {
        fields.push("Upgrade: SPDY/3.1".to_owned());
        let names = match which {
            2 => &["portforward.k8s.io"][..],
            _ => &["v4.channel.k8s.io", "v3.channel.k8s.io", "channel.k8s.io"],
        };
        for _ in 0..random.below(3) {
            fields.push(format!("X-Stream-Protocol-Version: {}", random.pick(names)));
        }
    }
    for _ in 0..random.below(3) {
        let field = match random.below(3) {
            0 => "X-Other: value".to_owned(),
            1 => "Content-Length: 0".to_owned(),
            _ => odd(random),
        };
        fields.insert(random.below(fields.len() + 1), field);
    }
    if random.once_in(16) && !fields.is_empty() {
        let at = random.below(fields.len());
        let again = fields[at].clone();
        fields.push(again);
    }
    if random.once_in(100) {
        fields.extend((0..150).map(|n| format!("X-{n}: {n}")));
    }
    lines.extend(fields);
    let end = if random.once_in(16) { "\n" } else { "\r\n" };
    (lines.join(end) + end + end).into_bytes()
}

/// Fields that proxies and servers have read in two ways.
fn odd(random: &mut Random) -> String {
    let odd = [
        "Content-Length: 5",
        "Content-Length: 0, 5",
        "Content-Length: +0",
        "Content-Length: 18446744073709551616",
        "Transfer-Encoding: chunked",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding:\tchunked",
        "X-A: b\r\n c",
        " Folded: first",
        "X-A: \0",
        "X-\u{e9}: a",
        "X-A: \u{e9}",
        ": nameless",
        "no colon",
        "Host: other",
        "Expect: 100-continue",
        "Upgrade: h2c",
        "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA",
        "Connection: close",
        "Sec-WebSocket-Extensions: permessage-deflate",
        "Sec-WebSocket-Key: short",
        "Content-Length: 0\rX: y",
    ];
    random.pick(&odd).to_owned()
}
