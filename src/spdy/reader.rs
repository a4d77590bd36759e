//! The one task that reads from a connection.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::mpsc;

use super::SpdyError;
use super::connection::{NewStream, Out, Role, Shared};
use super::frame::{Control, FrameError, HEAD, Head, INITIAL_WINDOW_SIZE, goaway, reset};
use super::headers::{HeadersError, Inflater};
use super::stream::{PIECE, Stream, StreamState};
use crate::host::hangup::HungUp;

/// How long a peer that broke the rules has to read so.
const FAREWELL: Duration = Duration::from_secs(1);

/// Why reading ended.
#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error("read")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Headers(#[from] HeadersError),
    #[error("a window that grew too large")]
    Window,
    #[error("stream {0} where it cannot be")]
    Stream(u32),
}

/// Reads until the connection is over, for whatever reason.
pub(super) async fn run<R: AsyncRead + Unpin>(io: R, hung_up: HungUp, shared: &Arc<Shared>) {
    let mut reader = Reader {
        io,
        hung_up,
        shared,
        inflater: Inflater::default(),
        piece: vec![0; PIECE],
    };
    let ended = tokio::select! {
        ended = reader.frames() => ended,
        () = shared.closed.cancelled() => return,
    };
    match ended {
        Ok(()) | Err(ReadError::Io(_)) => {}
        Err(error) => {
            tracing::debug!(%error, "a peer does not speak SPDY/3.1");
            let (last, status) = (shared.state().last, goaway::PROTOCOL_ERROR);
            shared.queue(Out::End { last, status });
            let mut sink = tokio::io::sink();
            // Nothing it says counts any more; it gets a moment to hear why.
            let rest = tokio::io::copy(&mut reader.io, &mut sink);
            let _ = tokio::time::timeout(FAREWELL, rest).await;
        }
    }
}

struct Reader<'a, R> {
    io: R,
    hung_up: HungUp,
    shared: &'a Arc<Shared>,
    inflater: Inflater,
    piece: Vec<u8>,
}

impl<R: AsyncRead + Unpin> Reader<'_, R> {
    async fn frames(&mut self) -> Result<(), ReadError> {
        loop {
            let mut head = [0; HEAD];
            match self.io.read_exact(&mut head).await {
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                other => other?,
            };
            match Head::parse(head)? {
                Head::Data {
                    stream,
                    fin,
                    length,
                } => self.data(stream, fin, length).await?,
                Head::Control {
                    kind,
                    flags,
                    length,
                } => {
                    let mut payload = vec![0; length];
                    self.io.read_exact(&mut payload).await?;
                    let frame = Control::parse(kind, flags, &payload)?;
                    self.control(frame).await?;
                }
            }
        }
    }

    /// `work`, unless the peer hangs up while it is held up.
    async fn patiently<T>(&mut self, work: impl Future<Output = T>) -> Result<T, ReadError> {
        let done = self.hung_up.or(work).await;
        done.ok_or_else(|| io::Error::from(io::ErrorKind::ConnectionAborted).into())
    }

    /// In pieces: a frame may be as long as 16 MiB.
    async fn data(&mut self, id: u32, fin: bool, mut length: usize) -> Result<(), ReadError> {
        let stream = self.shared.state().streams.get(&id).cloned();
        if stream.is_none() {
            self.unknown(id)?;
        }
        while length > 0 {
            if !has_room(self.shared) {
                self.patiently(room(self.shared)).await?;
            }
            let piece = self.piece.get_mut(..length.min(PIECE)).unwrap_or_default();
            let count = self.io.read(piece).await?;
            if count == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            length -= count;
            let data = piece.get(..count).unwrap_or_default();
            // Counted before it can be taken.
            self.shared.state().buffered += count;
            let kept = stream.as_ref().is_some_and(|stream| stream.push(data));
            if !kept {
                self.shared.taken(stream.as_deref(), count, true);
            }
        }
        if fin && stream.is_some_and(|stream| stream.fin()) {
            self.shared.forget(id);
        }
        Ok(())
    }

    /// A frame for a stream that is not open: one that was may still have some under way.
    fn unknown(&self, id: u32) -> Result<(), ReadError> {
        let never = {
            let all = self.shared.state();
            if self.shared.is_theirs(id) {
                id > all.last
            } else {
                !all.has_opened(id)
            }
        };
        if never {
            self.shared.send(Control::Reset {
                stream: id,
                status: reset::INVALID_STREAM,
            });
        }
        Ok(())
    }

    async fn control(&mut self, frame: Control) -> Result<(), ReadError> {
        let shared = self.shared;
        match frame {
            Control::SynStream {
                stream,
                fin,
                unidirectional,
                block,
                ..
            } => {
                // Inflated in any case: the next block builds on it.
                let headers = self.inflater.block(&block)?;
                let opened = self.open(stream, fin)?;
                if let Some((opened, incoming)) = opened {
                    let new = NewStream::new(headers, opened);
                    if unidirectional {
                        new.refuse();
                    } else {
                        // Nobody may be waiting for streams any more; then it is reset by its drop.
                        let _ = self.patiently(incoming.send(new)).await?;
                    }
                }
            }
            Control::SynReply { stream, fin, block } => {
                self.inflater.block(&block)?;
                self.with(stream, |state| {
                    state.reply();
                    fin && state.fin()
                });
            }
            Control::Headers { stream, fin, block } => {
                self.inflater.block(&block)?;
                self.with(stream, |state| fin && state.fin());
            }
            Control::Reset { stream, status } => {
                self.with(stream, |state| {
                    state.end(SpdyError::Reset(status));
                    true
                });
            }
            Control::Settings(settings) => self.settings(&settings)?,
            // Only those that the peer began are answered.
            Control::Ping(id) if (id % 2 == 1) == (shared.role == Role::Server) => {
                shared.send(Control::Ping(id));
            }
            Control::Ping(_) | Control::Unknown(_) => {}
            Control::GoAway { .. } => shared.state().leaving = true,
            Control::WindowUpdate { stream, delta } => self.window(stream, delta)?,
        }
        Ok(())
    }

    /// Does something to a stream if it is still open, and forgets it when that says so.
    fn with(&self, id: u32, act: impl FnOnce(&StreamState) -> bool) {
        let stream = self.shared.state().streams.get(&id).cloned();
        if stream.is_some_and(|stream| act(&stream)) {
            self.shared.forget(id);
        }
    }

    fn open(
        &self,
        id: u32,
        fin: bool,
    ) -> Result<Option<(Stream, mpsc::Sender<NewStream>)>, ReadError> {
        let shared = self.shared;
        let mut all = shared.state();
        if !shared.is_theirs(id) || id <= all.last {
            return Err(ReadError::Stream(id));
        }
        all.last = id;
        let incoming = all.incoming.clone().filter(|sender| !sender.is_closed());
        match incoming {
            Some(incoming) if all.theirs < shared.limits.streams => {
                all.theirs += 1;
                let state = Arc::new(StreamState::new(id, all.send_initial));
                all.streams.insert(id, Arc::clone(&state));
                drop(all);
                if fin {
                    state.fin();
                }
                Ok(Some((Stream::new(Arc::clone(shared), state), incoming)))
            }
            _ => {
                drop(all);
                let status = reset::REFUSED_STREAM;
                shared.send(Control::Reset { stream: id, status });
                Ok(None)
            }
        }
    }

    fn settings(&self, settings: &[(u32, u32)]) -> Result<(), ReadError> {
        let mut all = self.shared.state();
        all.heeds = true;
        for (id, value) in settings {
            if *id != INITIAL_WINDOW_SIZE {
                continue;
            }
            let value = i64::from(*value);
            if value > i64::from(i32::MAX) {
                return Err(ReadError::Window);
            }
            let delta = value - all.send_initial;
            all.send_initial = value;
            for stream in all.streams.values() {
                if !stream.grant(delta) {
                    return Err(ReadError::Window);
                }
            }
        }
        // Whoever was held up by nothing so far looks again.
        for stream in all.streams.values() {
            stream.room.notify_one();
        }
        Ok(())
    }

    fn window(&self, id: u32, delta: u32) -> Result<(), ReadError> {
        let mut all = self.shared.state();
        all.heeds = true;
        if id == 0 {
            all.send_window += i64::from(delta);
            if all.send_window > i64::from(i32::MAX) {
                return Err(ReadError::Window);
            }
            for stream in all.streams.values() {
                stream.room.notify_one();
            }
            return Ok(());
        }
        let Some(stream) = all.streams.get(&id).cloned() else {
            return Ok(());
        };
        drop(all);
        if !stream.grant(i64::from(delta)) {
            stream.end(SpdyError::Reset(reset::FLOW_CONTROL_ERROR));
            let status = reset::FLOW_CONTROL_ERROR;
            self.shared.send(Control::Reset { stream: id, status });
            self.shared.forget(id);
        }
        Ok(())
    }
}

fn has_room(shared: &Shared) -> bool {
    shared.state().buffered < shared.limits.buffer
}

/// Waits until somebody has taken some of what lies in the inboxes.
async fn room(shared: &Shared) {
    loop {
        let drained = shared.drained.notified();
        if has_room(shared) {
            return;
        }
        drained.await;
    }
}
