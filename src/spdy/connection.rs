//! One connection: what its reader, its writer and the ends of its streams share.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, BufReader};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use super::frame::{Control, INITIAL_WINDOW_SIZE, WINDOW, goaway, reset};
use super::stream::{Inbox, Stream, StreamState};
use super::{Headers, SpdyError, reader, writer};
use crate::host::hangup::HungUp;

/// Data frames that wait for the writer, 16 KiB each at most.
const DATA_QUEUE: usize = 8;
/// Answers (to pings and the like) that may wait for a peer that does not read.
const CONTROL_QUEUE: usize = 4096;
/// New streams that wait for somebody to look at them.
const NEW_QUEUE: usize = 32;
/// Small frames are read together, bytes.
const BUFFER: usize = 16 << 10;
/// How long a peer may take to answer to a new stream.
const REPLY_LIMIT: Duration = Duration::from_secs(30);

/// Which end we are: a client's streams have odd ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Client,
    Server,
}

/// What a peer may make grow.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Streams at a time that the peer has opened.
    pub streams: usize,
    /// The window of each stream, bytes.
    pub window: u32,
    /// Bytes of all streams together that nobody has taken yet; past that the connection is not read.
    pub buffer: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            streams: 2048,
            window: 256 << 10,
            buffer: 1 << 20,
        }
    }
}

/// An open connection. It lives until [`Connection::finish`], or until either side closes it.
#[derive(Clone)]
pub struct Connection {
    pub(super) shared: Arc<Shared>,
}

/// The streams that the peer opens.
pub struct Incoming {
    streams: mpsc::Receiver<NewStream>,
}

/// A stream that the peer would like to open.
pub struct NewStream {
    pub headers: Headers,
    stream: Stream,
}

/// What is to be written.
pub(super) enum Out {
    Control(Control),
    /// Headers are compressed when they are written: the order counts.
    Syn {
        stream: u32,
        reply: bool,
        headers: Headers,
    },
    Data {
        stream: u32,
        fin: bool,
        data: bytes::Bytes,
    },
    /// After everything before it: GOAWAY, and the end of our half.
    End {
        /// The last stream of the peer's that was seen.
        last: u32,
        status: u32,
    },
}

pub(super) struct Shared {
    pub role: Role,
    pub limits: Limits,
    state: Mutex<State>,
    control: mpsc::Sender<Out>,
    pub data: mpsc::Sender<Out>,
    /// Somebody took data.
    pub drained: Notify,
    /// The connection is over.
    pub closed: CancellationToken,
}

pub(super) struct State {
    pub streams: HashMap<u32, Arc<StreamState>>,
    pub incoming: Option<mpsc::Sender<NewStream>>,
    next: u32,
    /// The highest id that the peer has used.
    pub last: u32,
    /// Of `streams`, those that the peer has opened.
    pub theirs: usize,
    /// The peer has shown that it keeps windows.
    pub heeds: bool,
    /// What a new stream may send.
    pub send_initial: i64,
    /// What all streams together may send.
    pub send_window: i64,
    /// Bytes that lie in inboxes.
    pub buffered: usize,
    /// Bytes taken since the last WINDOW_UPDATE for the connection.
    pub taken: u32,
    /// The peer has sent GOAWAY.
    pub leaving: bool,
}

impl State {
    /// Have we ever given this id?
    pub fn has_opened(&self, id: u32) -> bool {
        id < self.next
    }
}

fn start<S>(io: S, role: Role, limits: Limits, hung_up: HungUp) -> (Connection, Incoming)
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let (control, control_out) = mpsc::channel(CONTROL_QUEUE);
    let (data, data_out) = mpsc::channel(DATA_QUEUE);
    let (incoming, streams) = mpsc::channel(NEW_QUEUE);
    let shared = Arc::new(Shared {
        role,
        limits,
        state: Mutex::new(State {
            streams: HashMap::new(),
            incoming: Some(incoming),
            next: if role == Role::Client { 1 } else { 2 },
            last: 0,
            theirs: 0,
            heeds: false,
            send_initial: i64::from(WINDOW),
            send_window: i64::from(WINDOW),
            buffered: 0,
            taken: 0,
            leaving: false,
        }),
        control,
        data,
        drained: Notify::new(),
        closed: CancellationToken::new(),
    });
    shared.send(Control::Settings(vec![(
        INITIAL_WINDOW_SIZE,
        limits.window,
    )]));
    // The whole connection's window has no setting.
    let more = u32::try_from(limits.buffer)
        .unwrap_or(u32::MAX >> 1)
        .saturating_sub(WINDOW);
    if more > 0 {
        shared.send(Control::WindowUpdate {
            stream: 0,
            delta: more,
        });
    }
    let (read_half, write_half) = tokio::io::split(io);
    tokio::spawn(writer::run(
        write_half,
        control_out,
        data_out,
        shared.closed.clone(),
    ));
    let reading = Arc::clone(&shared);
    tokio::spawn(async move {
        reader::run(
            BufReader::with_capacity(BUFFER, read_half),
            hung_up,
            &reading,
        )
        .await;
        reading.close();
    });
    (Connection { shared }, Incoming { streams })
}

impl Connection {
    /// Takes over a connection that has been upgraded. Needs an async runtime, in which it lives on by itself.
    pub fn start<S>(io: S, role: Role, limits: Limits) -> (Connection, Incoming)
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        start(io, role, limits, HungUp::never())
    }

    /// The same, for a peer that may hang up while nothing of it is read.
    pub fn watched<S>(io: S, role: Role, limits: Limits, hung_up: HungUp) -> (Connection, Incoming)
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        start(io, role, limits, hung_up)
    }

    /// Opens a stream and waits for the peer's reply.
    pub async fn open(&self, headers: Headers) -> Result<Stream, SpdyError> {
        let shared = &self.shared;
        let (stream, state) = {
            let mut all = shared.state();
            if shared.closed.is_cancelled() {
                return Err(SpdyError::Closed);
            }
            if all.leaving {
                return Err(SpdyError::GoingAway);
            }
            let id = all.next;
            all.next = id.checked_add(2).ok_or(SpdyError::GoingAway)?;
            let state = Arc::new(StreamState::new(id, all.send_initial));
            all.streams.insert(id, Arc::clone(&state));
            // In the order of the ids, so under the lock.
            shared.queue(Out::Syn {
                stream: id,
                reply: false,
                headers,
            });
            (Stream::new(Arc::clone(shared), Arc::clone(&state)), state)
        };
        match tokio::time::timeout(REPLY_LIMIT, state.replied()).await {
            Ok(answered) => answered.map(|()| stream),
            Err(_) => Err(SpdyError::Silent),
        }
    }

    /// Is over when the connection is.
    pub async fn closed(&self) {
        self.shared.closed.cancelled().await;
    }

    /// Is cancelled when the connection is over.
    pub fn token(&self) -> CancellationToken {
        self.shared.closed.clone()
    }

    /// Sends what is queued, says goodbye, and gives the peer up to `limit` to take it and close its side:
    /// closing ours with data of the peer unread would have the kernel throw away what the peer has not read.
    pub async fn finish(&self, limit: Duration) {
        let farewell = async {
            let (last, status) = (self.shared.state().last, goaway::OK);
            let end = Out::End { last, status };
            if self.shared.data.send(end).await.is_ok() {
                self.closed().await;
            }
        };
        let _ = tokio::time::timeout(limit, farewell).await;
        self.shared.close();
    }

    /// Closes at once.
    pub fn abort(&self) {
        self.shared.close();
    }
}

impl Incoming {
    /// The next one; `None` when the connection is over.
    pub async fn next(&mut self) -> Option<NewStream> {
        self.streams.recv().await
    }
}

impl NewStream {
    pub(super) fn new(headers: Headers, stream: Stream) -> Self {
        Self { headers, stream }
    }

    /// Tells the peer that it is welcome.
    pub fn accept(self) -> (Headers, Stream) {
        self.stream.reply();
        (self.headers, self.stream)
    }

    /// Resets it.
    pub fn refuse(self) {
        self.stream.reset(reset::REFUSED_STREAM);
    }
}

impl Shared {
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn send(&self, frame: Control) {
        self.queue(Out::Control(frame));
    }

    /// Never waits: a peer that asks and asks, and does not read the answers, is cut off.
    pub fn queue(&self, out: Out) {
        if self.control.try_send(out).is_err() {
            self.closed.cancel();
        }
    }

    /// Ends everything that waits for the connection.
    pub fn close(&self) {
        let (streams, incoming) = {
            let mut all = self.state();
            self.closed.cancel();
            (std::mem::take(&mut all.streams), all.incoming.take())
        };
        drop(incoming);
        for stream in streams.values() {
            stream.end(SpdyError::Closed);
        }
    }

    /// `count` bytes of the peer's need no more room; `stream` only while it may send more.
    pub fn taken(&self, stream: Option<&StreamState>, count: usize, lay: bool) {
        let mut all = self.state();
        if lay {
            all.buffered = all.buffered.saturating_sub(count);
        }
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        all.taken = all.taken.saturating_add(count);
        if all.taken as usize >= self.limits.buffer / 2 {
            let delta = std::mem::take(&mut all.taken);
            self.send(Control::WindowUpdate { stream: 0, delta });
        }
        drop(all);
        self.drained.notify_one();
        if let Some(stream) = stream
            && let Some(delta) = stream.taken(count, self.limits.window / 2)
        {
            let stream = stream.id;
            self.send(Control::WindowUpdate { stream, delta });
        }
    }

    /// Forgets a stream of which both halves are done.
    pub fn forget(&self, id: u32) {
        let mut all = self.state();
        if all.streams.remove(&id).is_some() && self.is_theirs(id) {
            all.theirs = all.theirs.saturating_sub(1);
        }
    }

    /// Has the peer given this id?
    pub fn is_theirs(&self, id: u32) -> bool {
        (id % 2 == 1) == (self.role == Role::Server)
    }

    /// What nobody will take any more.
    pub fn discard(&self, inbox: &mut Inbox) {
        let left = inbox.clear();
        if left > 0 {
            self.taken(None, left, true);
        }
    }
}
