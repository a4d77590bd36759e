//! The peer: it sends an input in pieces and reads, or does not, what comes back.

use std::cell::Cell;

use crio_setup::host::hangup::HungUp;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::random::Random;

/// Bytes on the way, each way.
const ROOM: usize = 16 << 10;
/// What is kept of an answer.
const ANSWER_MAX: usize = 1 << 20;
/// How often others may act without anything moving before the peer goes.
const TURNS: usize = 100;

/// A peer, what it is the peer of, and how the latter learns that it has hung up.
pub fn pair() -> (Peer, DuplexStream, HungUp) {
    let (ours, theirs) = tokio::io::duplex(ROOM);
    let gone = CancellationToken::new();
    let hung_up = HungUp::when(gone.clone().cancelled_owned());
    let peer = Peer {
        io: ours,
        gone: gone.drop_guard(),
    };
    (peer, theirs, hung_up)
}

pub struct Peer {
    io: DuplexStream,
    gone: DropGuard,
}

/// How a peer behaves, by chance: it waits for the end, goes when it has sent everything, or does not read at all.
enum Manner {
    Waits,
    Leaves,
    Deaf,
}

/// Sends `bytes`; what came back, up to a limit.
pub async fn converse(peer: Peer, bytes: &[u8], random: &mut Random) -> Vec<u8> {
    let manner = match random.below(8) {
        0 => Manner::Deaf,
        1 => Manner::Leaves,
        _ => Manner::Waits,
    };
    let pieces = match random.below(4) {
        0 => 1,
        1 => 16,
        _ => bytes.len(),
    };
    let Peer { io, gone } = peer;
    // What shuts its half down has hung up as well.
    let hanging_up = gone.disarm();
    let _gone = hanging_up.clone().drop_guard();
    let (mut reader, mut writer) = tokio::io::split(io);
    let mut answer = Vec::new();
    // Bytes that have moved.
    let moved = Cell::new(0);
    let send = async {
        let mut rest = bytes;
        while !rest.is_empty() {
            let (piece, behind) = rest.split_at((1 + random.below(pieces)).min(rest.len()));
            // A peer that has gone takes no more.
            if writer.write_all(piece).await.is_err() {
                return;
            }
            moved.set(moved.get() + piece.len());
            rest = behind;
            if random.once_in(3) {
                tokio::task::yield_now().await;
            }
        }
        if matches!(manner, Manner::Waits) {
            let _ = writer.shutdown().await;
            hanging_up.cancel();
        }
    };
    let receive = async {
        let mut piece = [0; 4096];
        loop {
            match reader.read(&mut piece).await {
                Ok(0) | Err(_) => return,
                Ok(count) => {
                    moved.set(moved.get() + count);
                    if answer.len() < ANSWER_MAX {
                        answer.extend_from_slice(&piece[..count]);
                    }
                }
            }
        }
    };
    // Whoever is at the other end may take nothing and say nothing: that is seen when nothing moves.
    let stuck = async {
        let mut before = None;
        while before != Some(moved.get()) {
            before = Some(moved.get());
            for _ in 0..TURNS {
                tokio::task::yield_now().await;
            }
        }
    };
    let talk = async {
        match manner {
            Manner::Waits => drop(tokio::join!(send, receive)),
            Manner::Deaf => send.await,
            Manner::Leaves => {
                tokio::select! {
                    () = send => {}
                    () = receive => {}
                }
            }
        }
    };
    tokio::select! {
        () = talk => {}
        () = stuck => {}
    }
    answer
}
