//! From a compressed layer, while it arrives, to a folder that overlayfs can use as a lower layer.
//!
//! Three threads per layer with bounded queues between them: one hashes and inflates what the
//! download feeds it, one hashes the plain archive, one writes files. A slow disk thus slows the
//! download instead of filling memory; buffers go round in a circle and die with the layer.

mod apply;
mod attributes;
mod inflate;
mod tree;

use std::io::{self, BufRead, Read};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

pub use inflate::{Fed, Feed, feed};

use super::tar::TarError;
use crate::ocid::image::digest::{Digest, Hasher};

/// Bytes per buffer between the threads.
const BUFFER: usize = 256 << 10;
/// Buffers waiting between two threads.
const QUEUE: usize = 3;
/// The threads hash, inflate and write; none of them recurses deeply.
const STACK: usize = 512 << 10;

/// What a layer may cost at most; hostile layers meet these, real ones do not.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of the unpacked archive, and bytes of all its files (holes of sparse ones included).
    pub bytes: u64,
    /// Entries in the archive.
    pub entries: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            bytes: 256 << 30,
            entries: 4_000_000,
        }
    }
}

/// What came out of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unpacked {
    /// Bytes of the plain archive.
    pub archive: u64,
    /// Bytes on disk, by the sizes of files in blocks of 4 KiB.
    pub disk: u64,
    /// Files, folders and links made.
    pub inodes: u64,
}

/// What a layer must turn out to be.
#[derive(Debug, Clone)]
pub struct Expected {
    /// Digest of the blob as it is transferred.
    pub blob: Digest,
    /// Bytes of that blob.
    pub size: u64,
    /// Digest of the plain archive.
    pub diff_id: Digest,
}

/// Why a layer was not unpacked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LayerError {
    #[error("read the layer's archive")]
    Archive(#[from] Arc<TarError>),
    #[error("inflate the layer")]
    Inflate(#[source] Arc<io::Error>),
    #[error("the layer's entry `{entry}` {problem}")]
    Hostile {
        entry: String,
        problem: &'static str,
    },
    #[error("the layer is over the limit of {limit} {unit}")]
    Limit { limit: u64, unit: &'static str },
    #[error("{act} `{entry}` of the layer")]
    Apply {
        act: &'static str,
        entry: String,
        source: Arc<io::Error>,
    },
    #[error("the layer's {what} is {got}, not {expected}")]
    WrongDigest {
        what: &'static str,
        expected: Digest,
        got: Digest,
    },
    #[error("the layer has {got} bytes, not {expected}")]
    WrongSize { expected: u64, got: u64 },
    #[error("start a thread for the layer")]
    Thread(#[source] Arc<io::Error>),
    /// The download ended early; its own error says why.
    #[error("the layer's download was given up")]
    Abandoned,
}

/// Unpacks what `feed` delivers into the empty folder `root`, and returns when every byte was
/// checked. Blocks; the caller gives it a thread. On an error the folder is the caller's to remove.
pub fn unpack(
    root: OwnedFd,
    feed: Feed,
    expected: &Expected,
    limits: Limits,
) -> Result<Unpacked, LayerError> {
    // What inflates to nothing is met by no other limit.
    if expected.size > limits.bytes {
        return Err(LayerError::Limit {
            limit: limits.bytes,
            unit: "bytes",
        });
    }
    let (plain_out, plain_in) = sync_channel(QUEUE);
    let (hashed_out, hashed_in) = sync_channel(QUEUE);
    let (spare_out, spare_in) = sync_channel(2 * QUEUE + 4);
    let diff_id = &expected.diff_id;
    thread::scope(|scope| {
        let named = |name: &str| {
            thread::Builder::new()
                .name(name.to_owned())
                .stack_size(STACK)
        };
        let spawn_error = |e| LayerError::Thread(Arc::new(e));
        let inflater = named("layer-inflate")
            .spawn_scoped(scope, move || {
                inflate::run(feed, expected, limits, plain_out, spare_in)
            })
            .map_err(spawn_error)?;
        let hasher = named("layer-hash")
            .spawn_scoped(scope, move || hash(plain_in, hashed_out, diff_id))
            .map_err(spawn_error)?;
        let mut plain = Plain {
            queue: hashed_in,
            spare: spare_out,
            buffer: Vec::new(),
            read: 0,
            ended: false,
        };
        let written = apply::run(root, &mut plain, limits);
        // With the queue's end gone, the two threads before it end as well.
        drop(plain);
        let hashed = hasher.join().unwrap_or(Err(LayerError::Abandoned));
        let inflated = inflater.join().unwrap_or(Err(LayerError::Abandoned));
        // The cause is what the foremost thread says, unless it only saw one behind it go.
        match (inflated, hashed, written) {
            (Err(e), _, _) | (_, Err(e), _) | (_, _, Err(e)) if is_cause(&e) => Err(e),
            (Ok(archive), Ok(()), Ok(tally)) => Ok(Unpacked {
                archive,
                disk: tally.disk,
                inodes: tally.inodes,
            }),
            _ => Err(LayerError::Abandoned),
        }
    })
}

/// Not just another thread's end: the archive itself can be read to wherever it goes.
fn is_cause(e: &LayerError) -> bool {
    match e {
        LayerError::Abandoned => false,
        LayerError::Archive(e) => !matches!(**e, TarError::Read(_)),
        _ => true,
    }
}

/// Passes buffers on while it hashes them. `None` in the queue is the archive's end.
fn hash(
    plain: Receiver<Option<Vec<u8>>>,
    next: SyncSender<Option<Vec<u8>>>,
    diff_id: &Digest,
) -> Result<(), LayerError> {
    let mut hasher: Hasher = diff_id.hasher();
    while let Ok(buffer) = plain.recv() {
        let Some(buffer) = buffer else {
            let got = hasher.finish();
            if got != *diff_id {
                return Err(LayerError::WrongDigest {
                    what: "diff id",
                    expected: diff_id.clone(),
                    got,
                });
            }
            // Gone is only a writer that failed, and says so itself.
            return next.send(None).map_err(|_| LayerError::Abandoned);
        };
        hasher.update(&buffer);
        if next.send(Some(buffer)).is_err() {
            return Err(LayerError::Abandoned);
        }
    }
    Err(LayerError::Abandoned)
}

/// The plain archive, as the hashing thread passes it on.
struct Plain {
    queue: Receiver<Option<Vec<u8>>>,
    spare: SyncSender<Vec<u8>>,
    buffer: Vec<u8>,
    read: usize,
    ended: bool,
}

impl Plain {
    /// Reads to the end, which only comes when the digest was right.
    fn drain(&mut self) -> io::Result<()> {
        loop {
            let count = self.fill_buf()?.len();
            if count == 0 {
                return Ok(());
            }
            self.consume(count);
        }
    }
}

impl BufRead for Plain {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.read >= self.buffer.len() && !self.ended {
            match self.queue.recv() {
                Ok(Some(buffer)) => {
                    let used = std::mem::replace(&mut self.buffer, buffer);
                    self.read = 0;
                    if used.capacity() > 0 {
                        // No room means that the inflating thread has ended.
                        let _ = self.spare.try_send(used);
                    }
                }
                Ok(None) => self.ended = true,
                Err(_) => return Err(io::Error::other("the layer's archive was cut short")),
            }
        }
        Ok(self.buffer.get(self.read..).unwrap_or(&[]))
    }

    fn consume(&mut self, count: usize) {
        self.read = (self.read + count).min(self.buffer.len());
    }
}

impl Read for Plain {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut from = self.fill_buf()?;
        let count = from.read(into)?;
        self.consume(count);
        Ok(count)
    }
}

#[cfg(test)]
mod tests;
