//! Mutations of good bytes, from fixed seeds: whatever a peer sends, nothing panics and everything ends.

use tokio::io::AsyncWriteExt;

use super::frame::{Control, HEAD, Head, encode_data};
use super::headers::{Deflater, Inflater};
use super::*;

/// xorshift64*
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }
}

/// Flips, cuts, doubles and overwrites.
pub fn mutate(random: &mut Random, bytes: &mut Vec<u8>) {
    for _ in 0..=random.below(6) {
        let at = random.below(bytes.len());
        let value = random.next() as u8;
        match random.below(6) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << (value % 8),
            1 if !bytes.is_empty() => bytes[at] = value,
            2 => bytes.truncate(at),
            3 => bytes.insert(at, value),
            4 => {
                let to = (at + random.below(40)).min(bytes.len());
                let piece = bytes[at..to].to_vec();
                bytes.splice(at..at, piece);
            }
            _ if !bytes.is_empty() => bytes[at] = [0, 0xff, 0x7f, 0x80][usize::from(value % 4)],
            _ => {}
        }
    }
}

/// Some of everything that a client sends.
pub fn session() -> Vec<u8> {
    let mut deflater = Deflater::default();
    let mut bytes = Vec::new();
    Control::Settings(vec![(7, 1 << 20), (4, 100)]).encode(&mut bytes);
    for (stream, kind) in [(1, "error"), (3, "stdin"), (5, "stdout")] {
        Control::SynStream {
            stream,
            associated: 0,
            priority: 0,
            fin: stream == 1,
            unidirectional: false,
            block: deflater.block(&Headers::from([("streamtype", kind), ("port", "80")])),
        }
        .encode(&mut bytes);
    }
    encode_data(3, false, b"some input\n", &mut bytes);
    Control::WindowUpdate {
        stream: 5,
        delta: 1000,
    }
    .encode(&mut bytes);
    Control::Headers {
        stream: 3,
        fin: false,
        block: deflater.block(&Headers::default()),
    }
    .encode(&mut bytes);
    Control::Ping(1).encode(&mut bytes);
    Control::Reset {
        stream: 5,
        status: 5,
    }
    .encode(&mut bytes);
    encode_data(3, true, b"", &mut bytes);
    Control::GoAway { last: 0, status: 0 }.encode(&mut bytes);
    bytes
}

#[test]
fn frames_and_blocks_survive_anything() {
    let (good, mut refused) = (session(), 0);
    for seed in 1..20_000 {
        let mut random = Random(seed);
        let mut bytes = good.clone();
        mutate(&mut random, &mut bytes);
        let (mut inflater, mut rest) = (Inflater::default(), bytes.as_slice());
        while let Some((head, behind)) = rest.split_first_chunk::<HEAD>() {
            let (payload, behind) = match Head::parse(*head) {
                Ok(Head::Data { length, .. }) => behind.split_at(length.min(behind.len())),
                Ok(Head::Control {
                    kind,
                    flags,
                    length,
                }) => {
                    let (payload, behind) = behind.split_at(length.min(behind.len()));
                    let block = match Control::parse(kind, flags, payload) {
                        Ok(
                            Control::SynStream { block, .. }
                            | Control::SynReply { block, .. }
                            | Control::Headers { block, .. },
                        ) => block,
                        Ok(_) => Vec::new(),
                        Err(_) => {
                            refused += 1;
                            break;
                        }
                    };
                    if !block.is_empty() && inflater.block(&block).is_err() {
                        refused += 1;
                        break;
                    }
                    (payload, behind)
                }
                Err(_) => {
                    refused += 1;
                    break;
                }
            };
            let _ = payload;
            rest = behind;
        }
    }
    assert!(refused > 1000, "the mutations are too mild: {refused}");
}

#[tokio::test]
async fn a_server_survives_anything() {
    let good = session();
    for seed in 1..400 {
        let mut bytes = good.clone();
        mutate(&mut Random(seed * 7919), &mut bytes);
        let (mut ours, theirs) = tokio::io::duplex(1 << 20);
        let (server, mut incoming) = Connection::start(theirs, Role::Server, Limits::default());
        let serving = tokio::spawn(async move {
            while let Some(new) = incoming.next().await {
                let (mut reader, mut writer) = new.accept().1.split();
                tokio::spawn(async move {
                    while let Ok(Some(bytes)) = reader.read().await {
                        if writer.write(bytes).await.is_err() {
                            break;
                        }
                    }
                });
            }
        });
        ours.write_all(&bytes).await.unwrap();
        drop(ours);
        let limit = std::time::Duration::from_secs(30);
        tokio::time::timeout(limit, server.closed()).await.unwrap();
        tokio::time::timeout(limit, serving).await.unwrap().unwrap();
    }
}
