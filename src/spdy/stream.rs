//! One stream: two halves, each ended on its own.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use tokio::sync::Notify;

use super::SpdyError;
use super::connection::{Out, Shared};
use super::frame::{Control, reset};
use super::headers::Headers;

/// The most that goes into one data frame, so that streams take turns.
pub(super) const PIECE: usize = 16 << 10;

pub(super) struct StreamState {
    pub id: u32,
    inner: Mutex<Inner>,
    /// Something to read, a reply, an end.
    arrived: Notify,
    /// Something may be sent, or never will.
    pub room: Notify,
}

struct Inner {
    inbox: Inbox,
    /// Nobody reads any more.
    deaf: bool,
    /// Bytes taken since the last WINDOW_UPDATE.
    taken: u32,
    /// What may still be sent; below zero where a peer that keeps no windows was sent more.
    window: i64,
    replied: bool,
    /// We have ended our half.
    mute: bool,
    /// Why it ended before its time.
    ended: Option<Ended>,
}

#[derive(Clone, Copy)]
enum Ended {
    Reset(u32),
    Closed,
}

/// What has come and has not been taken.
#[derive(Default)]
pub(super) struct Inbox {
    bytes: BytesMut,
    fin: bool,
}

impl Inbox {
    /// Empties it; how much there was.
    pub fn clear(&mut self) -> usize {
        let left = self.bytes.len();
        self.bytes = BytesMut::new();
        left
    }
}

impl StreamState {
    pub fn new(id: u32, window: i64) -> Self {
        Self {
            id,
            inner: Mutex::new(Inner {
                inbox: Inbox::default(),
                deaf: false,
                taken: 0,
                window,
                replied: false,
                mute: false,
                ended: None,
            }),
            arrived: Notify::new(),
            room: Notify::new(),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The peer has answered to SYN_STREAM.
    pub fn reply(&self) {
        self.inner().replied = true;
        self.arrived.notify_one();
    }

    pub async fn replied(&self) -> Result<(), SpdyError> {
        loop {
            let waiting = self.arrived.notified();
            {
                let inner = self.inner();
                if inner.replied {
                    return Ok(());
                }
                if let Some(ended) = inner.ended {
                    return Err(ended.into());
                }
            }
            waiting.await;
        }
    }

    /// Data of the peer. False when nobody will take it.
    pub fn push(&self, data: &[u8]) -> bool {
        let mut inner = self.inner();
        if inner.deaf || inner.inbox.fin || inner.ended.is_some() {
            return false;
        }
        inner.inbox.bytes.extend_from_slice(data);
        drop(inner);
        self.arrived.notify_one();
        true
    }

    /// The peer has ended its half. True when both are ended.
    pub fn fin(&self) -> bool {
        let mut inner = self.inner();
        inner.inbox.fin = true;
        let both = inner.mute;
        drop(inner);
        self.arrived.notify_one();
        both
    }

    /// The stream is over, whatever was under way.
    pub fn end(&self, why: SpdyError) {
        let mut inner = self.inner();
        // What came before a regular end can still be read.
        if inner.ended.is_none() {
            inner.ended = Some(match why {
                SpdyError::Reset(code) => Ended::Reset(code),
                _ => Ended::Closed,
            });
        }
        drop(inner);
        self.arrived.notify_one();
        self.room.notify_one();
    }

    /// More (or, by SETTINGS, less) may be sent. False past the largest window there is.
    pub fn grant(&self, delta: i64) -> bool {
        let mut inner = self.inner();
        inner.window += delta;
        let sane = inner.window <= i64::from(i32::MAX);
        drop(inner);
        self.room.notify_one();
        sane
    }

    /// Counts what was taken; how much the peer is to be told of, once it is worth a frame.
    pub fn taken(&self, count: u32, worth: u32) -> Option<u32> {
        let mut inner = self.inner();
        inner.taken = inner.taken.saturating_add(count);
        if inner.taken < worth || inner.inbox.fin || inner.ended.is_some() {
            return None;
        }
        Some(std::mem::take(&mut inner.taken))
    }
}

impl From<Ended> for SpdyError {
    fn from(ended: Ended) -> Self {
        match ended {
            Ended::Reset(code) => Self::Reset(code),
            Ended::Closed => Self::Closed,
        }
    }
}

/// Both halves of a stream. Dropping one that has not ended tells the peer.
pub struct Stream {
    reader: StreamReader,
    writer: StreamWriter,
}

/// What the peer sends. Dropped early, the rest is thrown away.
pub struct StreamReader {
    shared: Arc<Shared>,
    state: Arc<StreamState>,
}

/// What we send. Dropped before [`StreamWriter::finish`], the stream is reset.
pub struct StreamWriter {
    shared: Arc<Shared>,
    state: Arc<StreamState>,
}

impl Stream {
    pub(super) fn new(shared: Arc<Shared>, state: Arc<StreamState>) -> Self {
        Self {
            reader: StreamReader {
                shared: Arc::clone(&shared),
                state: Arc::clone(&state),
            },
            writer: StreamWriter { shared, state },
        }
    }

    pub fn split(self) -> (StreamReader, StreamWriter) {
        (self.reader, self.writer)
    }

    pub fn id(&self) -> u32 {
        self.reader.state.id
    }

    pub(super) fn reply(&self) {
        self.reader.shared.queue(Out::Syn {
            stream: self.id(),
            reply: true,
            headers: Headers::default(),
        });
    }

    pub(super) fn reset(&self, status: u32) {
        self.writer.reset(status);
    }
}

impl StreamReader {
    /// The next bytes; `None` at the end of the peer's half. Nothing is lost when the future is dropped.
    pub async fn read(&mut self) -> Result<Option<Bytes>, SpdyError> {
        loop {
            let waiting = self.state.arrived.notified();
            let bytes = {
                let mut inner = self.state.inner();
                let left = inner.inbox.bytes.len();
                if left == 0 {
                    if inner.inbox.fin {
                        return Ok(None);
                    }
                    if let Some(ended) = inner.ended {
                        return Err(ended.into());
                    }
                }
                // All of a small inbox at once, so that its memory goes with what is taken.
                inner.inbox.bytes.split_to(left.min(4 * PIECE)).freeze()
            };
            if !bytes.is_empty() {
                self.shared.taken(Some(&self.state), bytes.len(), true);
                return Ok(Some(bytes));
            }
            waiting.await;
        }
    }
}

impl Drop for StreamReader {
    fn drop(&mut self) {
        let mut inner = self.state.inner();
        inner.deaf = true;
        let mut inbox = std::mem::take(&mut inner.inbox);
        inner.inbox.fin = inbox.fin;
        drop(inner);
        self.shared.discard(&mut inbox);
    }
}

impl StreamWriter {
    /// Sends all of it, waiting for the peer where it must.
    pub async fn write(&mut self, mut data: Bytes) -> Result<(), SpdyError> {
        while !data.is_empty() {
            // Nothing may be lost or sent twice when the future is dropped: first the place, then the window,
            // and then nothing waits any more.
            let waiting = self.state.room.notified();
            let place = self.shared.data.reserve();
            let place = tokio::select! {
                place = place => place.map_err(|_| SpdyError::Closed)?,
                () = self.shared.closed.cancelled() => return Err(SpdyError::Closed),
            };
            let allowed = self.allowance(data.len().min(PIECE))?;
            if allowed == 0 {
                drop(place);
                waiting.await;
                continue;
            }
            place.send(Out::Data {
                stream: self.state.id,
                fin: false,
                data: data.split_to(allowed),
            });
        }
        Ok(())
    }

    /// How much of `wanted` may go now; it is taken off the windows.
    fn allowance(&self, wanted: usize) -> Result<usize, SpdyError> {
        let mut all = self.shared.state();
        let mut inner = self.state.inner();
        if let Some(ended) = inner.ended {
            return Err(ended.into());
        }
        let mut allowed = i64::try_from(wanted).unwrap_or(i64::MAX);
        if all.heeds {
            allowed = allowed.min(inner.window).min(all.send_window).max(0);
        }
        inner.window -= allowed;
        all.send_window -= allowed;
        Ok(usize::try_from(allowed).unwrap_or(0))
    }

    /// Ends our half; what the peer sends can still be read.
    pub async fn finish(&mut self) -> Result<(), SpdyError> {
        let place = self.shared.data.reserve();
        let place = tokio::select! {
            place = place => place.map_err(|_| SpdyError::Closed)?,
            () = self.shared.closed.cancelled() => return Err(SpdyError::Closed),
        };
        let mut inner = self.state.inner();
        if let Some(ended) = inner.ended {
            return Err(ended.into());
        }
        if !std::mem::replace(&mut inner.mute, true) {
            place.send(Out::Data {
                stream: self.state.id,
                fin: true,
                data: Bytes::new(),
            });
        }
        let both = inner.inbox.fin;
        drop(inner);
        if both {
            self.shared.forget(self.state.id);
        }
        Ok(())
    }

    /// Waits until nothing can be sent any more: a reset of the peer's, or the end of the connection.
    pub async fn ended(&self) {
        loop {
            let waiting = self.state.room.notified();
            if self.state.inner().ended.is_some() {
                return;
            }
            waiting.await;
        }
    }

    /// Ends both halves at once.
    pub fn reset(&self, status: u32) {
        let stream = self.state.id;
        let already = {
            let mut inner = self.state.inner();
            inner.mute = true;
            inner.ended.replace(Ended::Closed).is_some()
        };
        if !already {
            self.shared.send(Control::Reset { stream, status });
            self.shared.forget(stream);
        }
        self.state.arrived.notify_one();
    }
}

impl Drop for StreamWriter {
    fn drop(&mut self) {
        if !self.state.inner().mute && !self.shared.closed.is_cancelled() {
            self.reset(reset::CANCEL);
        }
    }
}
