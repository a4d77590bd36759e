//! WebSockets: messages of exec, attach and port-forward, and a tunnel, in frames.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use crio_setup::host::hangup::HungUp;
use crio_setup::ocid::streaming::{forward, socket};
use crio_setup::spdy::{Connection, Limits, Role};
use tokio::io::DuplexStream;
use tokio::runtime::Runtime;

use crate::driver::{Case, Target};
use crate::random::{Random, mutate};
use crate::sessions::{Echoes, echo, wanted};
use crate::{spdy, wire};

pub struct WebSocket;

/// What a session is for; part of the choices, so that the bytes fit it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    Remote,
    Ports,
    Tunnel,
}

fn purpose(choices: u64) -> (Use, u8, bool) {
    let of = [Use::Remote, Use::Remote, Use::Ports, Use::Tunnel][(choices >> 60) as usize % 4];
    let version = [5, 4, 1][(choices >> 56) as usize % 3];
    (of, version, choices >> 55 & 1 == 1)
}

impl Target for WebSocket {
    const NAME: &'static str = "websocket";
    const SHORT: u64 = 1500;

    fn make(random: &mut Random) -> Case {
        let choices = random.next();
        let (of, _, base64) = purpose(choices);
        let mut bytes = match of {
            Use::Tunnel => tunnel(random),
            _ => messages(random, base64),
        };
        if random.once_in(2) {
            let other = messages(random, base64);
            mutate(random, &mut bytes, &other);
        }
        Case { choices, bytes }
    }

    fn run(runtime: &Runtime, case: &Case) -> bool {
        let mut random = Random::new(case.choices);
        runtime.block_on(async {
            let (ours, theirs, hung_up) = wire::pair();
            let habits = Random::new(random.next());
            tokio::spawn(serve(theirs, hung_up, purpose(case.choices), habits));
            let said = wire::converse(ours, &case.bytes, &mut random).await;
            assert_valid(&said)
        })
    }
}

async fn serve(
    io: DuplexStream,
    hung_up: HungUp,
    (of, version, base64): (Use, u8, bool),
    mut random: Random,
) {
    match of {
        Use::Remote => {
            let wanted = wanted(&mut random);
            let channels = socket::remote(io, hung_up, wanted, version, base64).await;
            if let Some(channels) = channels {
                echo(channels, random).await;
            }
        }
        Use::Ports => {
            let ports: Vec<u16> = (0..random.below(130)).map(|n| n as u16 + 1).collect();
            let (all, closer) = socket::forward(io, hung_up, &ports, version, base64).await;
            forward::over_socket(Arc::new(Echoes), all, closer).await;
        }
        Use::Tunnel => {
            let io = socket::tunnel(io, hung_up).await;
            let (connection, incoming) = Connection::start(io, Role::Server, Limits::default());
            forward::over_spdy(Arc::new(Echoes), connection, incoming).await;
        }
    }
}

/// Looks at our frames. True where the last says goodbye regularly.
pub fn assert_valid(said: &[u8]) -> bool {
    let (mut rest, mut regular) = (said, false);
    while let [first, second, behind @ ..] = rest {
        assert!(!regular, "something behind the end");
        assert_eq!(first & 0x70, 0, "reserved bits");
        assert_eq!(second & 0x80, 0, "a server masks nothing");
        let opcode = first & 0x0f;
        assert!(matches!(opcode, 0..=2 | 8..=10), "opcode {opcode}");
        assert!(first & 0x80 != 0, "we send messages whole");
        let wide = match second {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let Some((wide, behind)) = behind.split_at_checked(wide) else {
            return false;
        };
        let length = match wide.len() {
            0 => usize::from(*second),
            _ => wide
                .iter()
                .fold(0, |all, byte| all << 8 | usize::from(*byte)),
        };
        assert!(opcode < 8 || length <= 125, "a control frame of {length}");
        let Some((payload, behind)) = behind.split_at_checked(length) else {
            return false;
        };
        regular = opcode == 8 && payload.starts_with(&1000u16.to_be_bytes());
        rest = behind;
    }
    regular
}

pub fn frame(random: &mut Random, opcode: u8, fin: bool, payload: &[u8], out: &mut Vec<u8>) {
    let mut first = opcode | if fin { 0x80 } else { 0 };
    if random.once_in(200) {
        first ^= 1 << random.below(8);
    }
    out.push(first);
    let mut length = payload.len() as u64;
    if random.once_in(150) {
        length = u64::from(random.word());
    }
    let mask = match random.once_in(150) {
        true => 0,
        false => 0x80,
    };
    match (length, random.once_in(100)) {
        (_, true) => {
            out.push(mask | 127);
            let high = [0, u64::from(random.word()) << 32][random.below(2)];
            out.extend_from_slice(&(high | length).to_be_bytes());
        }
        (0..126, _) => out.push(mask | length as u8),
        (126..65_536, _) => {
            out.push(mask | 126);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        _ => {
            out.push(mask | 127);
            out.extend_from_slice(&length.to_be_bytes());
        }
    }
    let key = (random.next() as u32).to_be_bytes();
    if mask != 0 {
        out.extend_from_slice(&key);
        let masked = payload.iter().zip(key.iter().cycle()).map(|(a, b)| a ^ b);
        out.extend(masked);
    } else {
        out.extend_from_slice(payload);
    }
}

/// A message in one frame or several, others between them.
fn message(random: &mut Random, opcode: u8, payload: &[u8], out: &mut Vec<u8>) {
    let pieces = match random.below(8) {
        0 => 1 + random.below(5),
        _ => 1,
    };
    let size = payload.len().div_ceil(pieces).max(1);
    let mut rest = payload;
    for n in 0..pieces {
        let (piece, behind) = rest.split_at(size.min(rest.len()));
        rest = behind;
        let opcode = if n == 0 { opcode } else { 0 };
        frame(random, opcode, n + 1 == pieces, piece, out);
        if random.once_in(6) {
            let count = random.length(140);
            let bytes = random.bytes(count);
            let control = [9, 10][random.below(2)];
            frame(random, control, true, &bytes, out);
        }
    }
}

/// Messages of exec, attach and port-forward by their channels.
pub fn messages(random: &mut Random, base64: bool) -> Vec<u8> {
    const SIZES: [&[u8]; 5] = [
        b"{\"Width\":80,\"Height\":24}\n",
        b"{\"Width\":80,",
        b"\"Height\":24}{",
        b"{\"Width\":-1}",
        b"[[[[[[[[",
    ];
    let mut out = Vec::new();
    let mut count = 1 + random.below(16);
    if random.once_in(60) {
        count = 200;
    }
    for _ in 0..count {
        let channel = match random.below(10) {
            0..=4 => 0,
            5 | 6 => 4,
            7 => 255,
            8 => 2 * random.below(127) as u8,
            _ => random.next() as u8,
        };
        let data = match channel {
            4 if random.once_in(2) => random.pick(&SIZES).to_vec(),
            255 => vec![random.below(6) as u8],
            _ => {
                let count = random.length(70_000);
                random.bytes(count)
            }
        };
        let whole = match base64 {
            true => {
                let mut text = STANDARD.encode(&data);
                if random.once_in(12) {
                    text.insert(random.below(text.len()), '?');
                }
                format!("{}{text}", channel % 10).into_bytes()
            }
            false => [&[channel][..], &data].concat(),
        };
        let opcode = match random.below(40) {
            0 => random.below(16) as u8,
            1 => 2 - u8::from(!base64),
            _ => 2 - u8::from(base64),
        };
        message(random, opcode, &whole, &mut out);
    }
    goodbye(random, &mut out);
    out
}

fn goodbye(random: &mut Random, out: &mut Vec<u8>) {
    let code = match random.below(4) {
        0 => random.next() as u16,
        _ => 1000,
    };
    let mut payload = code.to_be_bytes().to_vec();
    if random.once_in(4) {
        let count = random.length(130);
        payload = random.bytes(count);
    }
    if !random.once_in(3) {
        frame(random, 8, true, &payload, out);
    }
}

/// An SPDY connection in pieces.
fn tunnel(random: &mut Random) -> Vec<u8> {
    let inner = spdy::session(random);
    let (mut out, mut rest) = (Vec::new(), inner.as_slice());
    while !rest.is_empty() {
        let count = (1 + random.length(9000)).min(rest.len());
        let (piece, behind) = rest.split_at(count);
        let opcode = 2 - u8::from(random.once_in(100));
        message(random, opcode, piece, &mut out);
        rest = behind;
    }
    goodbye(random, &mut out);
    out
}
