//! The first thread: counts and hashes the blob as it comes, inflates it, fills buffers.

use std::io::{self, BufRead, Read};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender};

use flate2::bufread::MultiGzDecoder;
use tokio::sync::mpsc;

use super::{BUFFER, Expected, LayerError, Limits};
use crate::ocid::image::digest::{Digest, Hasher};

/// Pieces of the blob that wait to be inflated.
const PIECES: usize = 4;
/// Largest zstd window, as a power of two: what the format asks every decoder to take at least is
/// 2^23, what `zstd --ultra` uses at most without `--long` is 2^27.
const ZSTD_WINDOW_LOG: u32 = 27;

/// What a download tells: a piece of the blob, or that it is complete. A sender that goes away
/// without saying so has given up.
pub enum Fed<B> {
    Piece(B),
    End,
}

/// A piece as the HTTP client hands it out.
type Piece = prost::bytes::Bytes;

/// The unpacking end of a download.
pub struct Feed(mpsc::Receiver<Fed<Piece>>);

/// A bounded queue from a download to [`super::unpack`].
pub fn feed() -> (mpsc::Sender<Fed<Piece>>, Feed) {
    let (sender, receiver) = mpsc::channel(PIECES);
    (sender, Feed(receiver))
}

/// Returns the size of the plain archive.
pub fn run(
    feed: Feed,
    expected: &Expected,
    limits: Limits,
    plain: SyncSender<Option<Vec<u8>>>,
    spare: Receiver<Vec<u8>>,
) -> Result<u64, LayerError> {
    let mut blob = Blob {
        feed: feed.0,
        piece: Piece::new(),
        hasher: expected.blob.hasher(),
        count: 0,
        allowed: expected.size,
        state: State::Open,
    };
    let inflated = inflate(&mut blob, limits, &plain, &spare);
    if let Err(e) = &inflated
        && matches!(e, LayerError::Abandoned | LayerError::Limit { .. })
    {
        return inflated;
    }
    // A blob of the wrong content explains an archive that cannot be inflated, so it is looked at
    // first; for that it is read to its end.
    blob.drain();
    match blob.state {
        State::Open => return Err(LayerError::Abandoned),
        State::Ended if blob.count == expected.size => {}
        _ => {
            return Err(LayerError::WrongSize {
                expected: expected.size,
                got: blob.count,
            });
        }
    }
    check(blob.hasher, &expected.blob)?;
    let archive = inflated?;
    plain.send(None).map_err(|_| LayerError::Abandoned)?;
    Ok(archive)
}

fn check(hasher: Hasher, expected: &Digest) -> Result<(), LayerError> {
    let got = hasher.finish();
    if got == *expected {
        return Ok(());
    }
    Err(LayerError::WrongDigest {
        what: "digest",
        expected: expected.clone(),
        got,
    })
}

/// The compression is told by the first bytes, as media types are often wrong about it.
fn inflate(
    blob: &mut Blob,
    limits: Limits,
    plain: &SyncSender<Option<Vec<u8>>>,
    spare: &Receiver<Vec<u8>>,
) -> Result<u64, LayerError> {
    let failed = |e| LayerError::Inflate(Arc::new(e));
    let mut magic = [0; 4];
    let mut filled = 0;
    while filled < magic.len() {
        match blob.read(&mut magic[filled..]).map_err(failed)? {
            0 => break,
            count => filled += count,
        }
    }
    let start = io::Cursor::new(magic.get(..filled).unwrap_or(&[]).to_vec());
    let whole = start.chain(blob);
    match magic {
        [0x1f, 0x8b, ..] => pump(MultiGzDecoder::new(whole), limits, plain, spare),
        [0x28, 0xb5, 0x2f, 0xfd] | [0x50..=0x5f, 0x2a, 0x4d, 0x18] => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(whole).map_err(failed)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG).map_err(failed)?;
            pump(decoder, limits, plain, spare)
        }
        _ => pump(whole, limits, plain, spare),
    }
}

fn pump(
    mut from: impl Read,
    limits: Limits,
    plain: &SyncSender<Option<Vec<u8>>>,
    spare: &Receiver<Vec<u8>>,
) -> Result<u64, LayerError> {
    let mut total = 0;
    loop {
        let mut buffer = spare.try_recv().unwrap_or_default();
        buffer.resize(BUFFER, 0);
        let mut filled = 0;
        let ended = loop {
            let Some(room) = buffer.get_mut(filled..).filter(|r| !r.is_empty()) else {
                break false;
            };
            match from.read(room) {
                Ok(0) => break true,
                Ok(count) => filled += count,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(LayerError::Inflate(Arc::new(e))),
            }
        };
        buffer.truncate(filled);
        total += filled as u64;
        if total > limits.bytes {
            return Err(LayerError::Limit {
                limit: limits.bytes,
                unit: "bytes",
            });
        }
        if filled > 0 && plain.send(Some(buffer)).is_err() {
            return Err(LayerError::Abandoned);
        }
        if ended {
            return Ok(total);
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    /// More may come; or, when the queue has ended, the download gave up.
    Open,
    Ended,
    /// More came than the manifest says.
    TooLong,
}

/// The blob as a reader that hashes what passes through.
struct Blob {
    feed: mpsc::Receiver<Fed<Piece>>,
    piece: Piece,
    hasher: Hasher,
    count: u64,
    allowed: u64,
    state: State,
}

impl Blob {
    fn drain(&mut self) {
        // An error here is seen by the state that it leaves.
        while let Ok(1..) = self.fill_buf().map(<[u8]>::len) {
            self.piece.clear();
        }
    }
}

impl BufRead for Blob {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.piece.is_empty() && self.state == State::Open {
            match self.feed.blocking_recv() {
                Some(Fed::Piece(piece)) => {
                    self.count += piece.len() as u64;
                    if self.count > self.allowed {
                        self.state = State::TooLong;
                        return Err(io::Error::other(
                            "the blob is longer than its manifest says",
                        ));
                    }
                    self.hasher.update(&piece);
                    self.piece = piece;
                }
                Some(Fed::End) => self.state = State::Ended,
                None => return Err(io::Error::other("the download was given up")),
            }
        }
        Ok(&self.piece)
    }

    fn consume(&mut self, count: usize) {
        let count = count.min(self.piece.len());
        let _ = self.piece.split_to(count);
    }
}

impl Read for Blob {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut from = self.fill_buf()?;
        let count = from.read(into)?;
        self.consume(count);
        Ok(count)
    }
}
