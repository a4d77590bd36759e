//! Sessions over a WebSocket (RFC 6455): the first byte of each message is the number of a channel, or the
//! messages are pieces of an SPDY connection.
//!
//! A WebSocket knows no flow control of its own: what a channel does not take holds up those behind it, and TCP the
//! client.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};
use tokio_util::sync::CancellationToken;

use super::Wanted;
use super::channels::{Carrier, Channels, ErrorChannel, Gone, Input, Output};
use crate::host::hangup::HungUp;

/// The longest message that is taken.
const MESSAGE_MAX: usize = 1 << 20;
/// The longest that is sent.
const PIECE: usize = 32 << 10;
/// Messages that wait, either way, per channel.
const QUEUE: usize = 8;
/// Bytes of all channels together that nobody has taken yet; past that the connection is not read.
const BUFFER: usize = 1 << 20;
/// In version 5: the channel whose messages name a channel that is done.
const CLOSE: u8 = 255;
/// How long the client of a tunnel has to close its side.
const FAREWELL: Duration = Duration::from_secs(10);
/// Bytes of a tunnel under way.
const TUNNEL: usize = 64 << 10;

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;

type Outgoing = mpsc::Sender<Message>;

/// What the client sends on one channel.
pub struct ChannelReader(mpsc::Receiver<Piece>);

/// A message's data, and its place in the connection's buffer.
type Piece = (Bytes, OwnedSemaphorePermit);

impl ChannelReader {
    /// The next bytes; `None` at the end, or when the client is gone.
    pub async fn read(&mut self) -> Option<Bytes> {
        let (data, _place) = self.0.recv().await?;
        Some(data)
    }

    /// One without a connection.
    #[cfg(test)]
    pub fn of(pieces: &[&str]) -> Self {
        let (sender, receiver) = mpsc::channel(pieces.len().max(1));
        let places = Arc::new(Semaphore::new(pieces.len()));
        for piece in pieces {
            let place = Arc::clone(&places).try_acquire_owned().unwrap();
            sender
                .try_send((Bytes::from((*piece).to_owned()), place))
                .unwrap();
        }
        Self(receiver)
    }
}

/// Sends on one channel.
pub struct ChannelWriter {
    channel: u8,
    base64: bool,
    out: Outgoing,
}

impl ChannelWriter {
    pub async fn write(&mut self, mut data: Bytes) -> Result<(), Gone> {
        loop {
            let piece = data.split_to(data.len().min(PIECE));
            let message = message(self.channel, &piece, self.base64);
            self.out.send(message).await.map_err(|_| Gone)?;
            if data.is_empty() {
                return Ok(());
            }
        }
    }
}

/// A regular end: clients take a close without a code for a failure.
fn goodbye() -> Message {
    Message::Close(Some(CloseFrame {
        code: CloseCode::Normal,
        reason: Utf8Bytes::default(),
    }))
}

/// A channel's number and its data: bytes, or a digit and base64.
fn message(channel: u8, data: &[u8], base64: bool) -> Message {
    if base64 {
        return Message::text(format!("{channel}{}", STANDARD.encode(data)));
    }
    let mut whole = Vec::with_capacity(data.len() + 1);
    whole.push(channel);
    whole.extend_from_slice(data);
    Message::binary(whole)
}

/// The channel and the data of a client's message; `None` for what is neither.
pub fn parse(message: &Message, base64: bool) -> Option<(u8, Bytes)> {
    match message {
        Message::Binary(bytes) if !base64 => Some((*bytes.first()?, bytes.slice(1..))),
        Message::Text(text) if base64 => {
            let (channel, data) = text.as_str().split_at_checked(1)?;
            let channel = channel.parse().ok()?;
            Some((channel, STANDARD.decode(data).ok()?.into()))
        }
        _ => None,
    }
}

/// Says goodbye in the end.
pub struct Closer {
    out: Outgoing,
    gone: CancellationToken,
}

impl Closer {
    /// Cancelled when the client is gone.
    pub fn gone(&self) -> CancellationToken {
        self.gone.clone()
    }

    /// Waits until the client has taken everything and closed its side, up to `limit`.
    pub async fn close(self, limit: Duration) {
        let farewell = async {
            if self.out.send(goodbye()).await.is_ok() {
                self.gone.cancelled().await;
            }
        };
        let _ = tokio::time::timeout(limit, farewell).await;
        self.gone.cancel();
    }
}

/// Takes over an upgraded connection. Its two tasks end with `gone`, which they cancel when the client is.
async fn open<S>(io: S, gone: &CancellationToken) -> (Outgoing, SplitStream<WebSocketStream<S>>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let config = WebSocketConfig::default()
        .read_buffer_size(16 << 10)
        .write_buffer_size(16 << 10)
        .max_write_buffer_size(4 << 20)
        .max_message_size(Some(MESSAGE_MAX))
        .max_frame_size(Some(MESSAGE_MAX));
    let socket = WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await;
    let (sink, stream) = socket.split();
    let (out, waiting) = mpsc::channel(QUEUE);
    tokio::spawn(send(sink, waiting, gone.clone()));
    (out, stream)
}

async fn send<S>(
    mut sink: SplitSink<WebSocketStream<S>, Message>,
    mut waiting: mpsc::Receiver<Message>,
    gone: CancellationToken,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let work = async {
        while let Some(message) = waiting.recv().await {
            if sink.send(message).await.is_err() {
                gone.cancel();
                return;
            }
        }
    };
    tokio::select! {
        () = work => {}
        () = gone.cancelled() => {}
    }
}

/// Hands each message to its channel until the client is gone.
async fn receive<S>(
    mut stream: SplitStream<WebSocketStream<S>>,
    mut hung_up: HungUp,
    channels: &mut [(u8, Option<mpsc::Sender<Piece>>)],
    version: u8,
    base64: bool,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let places = Arc::new(Semaphore::new(BUFFER));
    while let Some(Ok(message)) = stream.next().await {
        match &message {
            Message::Close(_) => return,
            // Answered by the library.
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => continue,
            Message::Text(_) | Message::Binary(_) => {}
        }
        let Some((number, data)) = parse(&message, base64) else {
            tracing::debug!("a message that belongs to no channel");
            return;
        };
        if number == CLOSE && version >= 5 {
            for (channel, sender) in channels.iter_mut() {
                if data.first() == Some(channel) {
                    *sender = None;
                }
            }
            continue;
        }
        let found = channels.iter_mut().find(|(channel, _)| *channel == number);
        if let Some((_, place)) = found
            && let Some(sender) = place
            && !data.is_empty()
        {
            let places = Arc::clone(&places);
            let handed = async {
                let size = u32::try_from(data.len().min(BUFFER)).unwrap_or(u32::MAX);
                let room = places.acquire_many_owned(size).await.ok()?;
                sender.send((data, room)).await.ok()
            };
            match hung_up.or(handed).await {
                Some(Some(())) => {}
                // Nobody reads it any more.
                Some(None) => *place = None,
                None => return,
            }
        }
    }
}

/// Channels by their numbers: those that are written to, and those that are read from.
async fn channels<S>(
    io: S,
    hung_up: HungUp,
    inputs: &[u8],
    (version, base64): (u8, bool),
    gone: &CancellationToken,
) -> (Outgoing, Vec<Input>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (out, stream) = open(io, gone).await;
    let (mut senders, mut receivers) = (Vec::new(), Vec::new());
    for channel in inputs {
        let (sender, receiver) = mpsc::channel(QUEUE);
        senders.push((*channel, Some(sender)));
        receivers.push(Input::Socket(ChannelReader(receiver)));
    }
    let gone = gone.clone();
    tokio::spawn(async move {
        tokio::select! {
            () = receive(stream, hung_up, &mut senders, version, base64) => {}
            () = gone.cancelled() => {}
        }
        // Before its channels end: that alone would only be the end of its input.
        gone.cancel();
        drop(senders);
    });
    (out, receivers)
}

/// The channels of exec and attach.
pub async fn remote<S>(
    io: S,
    hung_up: HungUp,
    wanted: Wanted,
    version: u8,
    base64: bool,
) -> Option<Channels>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let gone = CancellationToken::new();
    let (out, inputs) = channels(io, hung_up, &[STDIN, RESIZE], (version, base64), &gone).await;
    let mut inputs = inputs.into_iter();
    let (stdin, resize) = (inputs.next(), inputs.next());
    let output = |channel| {
        let out = out.clone();
        Output::Socket(ChannelWriter {
            channel,
            base64,
            out,
        })
    };
    let mut channels = Channels {
        stdin: stdin.filter(|_| wanted.stdin),
        stdout: wanted.stdout.then(|| output(STDOUT)),
        stderr: wanted.stderr.then(|| output(STDERR)),
        resize: resize.filter(|_| wanted.tty),
        error: ErrorChannel {
            output: output(ERROR),
            json: version >= 4,
        },
        gone: gone.clone(),
        carrier: Carrier::Socket(Closer {
            out: out.clone(),
            gone,
        }),
    };
    // Clients wait for a first message to know that the other side is there.
    let first = channels.stdout.as_mut().or(channels.stderr.as_mut());
    let first = first.unwrap_or(&mut channels.error.output);
    first.write(Bytes::new()).await.ok()?;
    Some(channels)
}

/// The two channels of each port: data, and errors.
pub struct Port {
    pub number: u16,
    pub data: (Input, Output),
    pub error: Output,
}

/// The channels of port-forward: for the n-th port 2n for data and 2n + 1 for errors, each begun by the port's
/// number, low byte first.
pub async fn forward<S>(
    io: S,
    hung_up: HungUp,
    ports: &[u16],
    version: u8,
    base64: bool,
) -> (Vec<Port>, Closer)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let gone = CancellationToken::new();
    let numbers: Vec<(u16, u8)> = ports.iter().copied().zip((0..=254).step_by(2)).collect();
    let data: Vec<u8> = numbers.iter().map(|(_, channel)| *channel).collect();
    let (out, inputs) = channels(io, hung_up, &data, (version, base64), &gone).await;
    let mut all = Vec::new();
    for ((number, channel), input) in numbers.into_iter().zip(inputs) {
        let output = |channel| {
            let out = out.clone();
            Output::Socket(ChannelWriter {
                channel,
                base64,
                out,
            })
        };
        let (mut data, mut error) = (output(channel), output(channel + 1));
        for begun in [&mut data, &mut error] {
            let number = Bytes::copy_from_slice(&number.to_le_bytes());
            // A client that is gone is noticed by whoever reads.
            let _ = begun.write(number).await;
        }
        all.push(Port {
            number,
            data: (input, data),
            error,
        });
    }
    (all, Closer { out, gone })
}

/// The bytes in the messages as one stream.
pub async fn tunnel<S>(io: S, mut hung_up: HungUp) -> DuplexStream
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let gone = CancellationToken::new();
    let (out, mut stream) = open(io, &gone).await;
    let (ours, theirs) = tokio::io::duplex(TUNNEL);
    let (mut reader, mut writer) = tokio::io::split(theirs);
    let inward = async move {
        while let Some(Ok(message)) = stream.next().await {
            match message {
                Message::Binary(bytes) => {
                    let written = hung_up.or(writer.write_all(&bytes)).await;
                    if !matches!(written, Some(Ok(()))) {
                        return;
                    }
                }
                Message::Text(_) | Message::Close(_) => return,
                Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
            }
        }
    };
    let outward = async move {
        let mut buffer = BytesMut::new();
        loop {
            buffer.reserve(PIECE);
            match reader.read_buf(&mut buffer).await {
                Ok(1..) => {}
                Ok(0) | Err(_) => break,
            }
            let message = Message::Binary(buffer.split().freeze());
            if out.send(message).await.is_err() {
                return;
            }
        }
        // The client closes when it has read everything.
        let _ = out.send(goodbye()).await;
        tokio::time::sleep(FAREWELL).await;
    };
    tokio::spawn(async move {
        // The connection in the pipe sees its end once both halves are dropped.
        tokio::select! {
            () = inward => {}
            () = outward => {}
            () = gone.cancelled() => {}
        }
        gone.cancel();
    });
    ours
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_name_their_channel() {
        for base64 in [false, true] {
            let sent = message(3, b"\0data", base64);
            let (channel, data) = parse(&sent, base64).unwrap();
            assert_eq!((channel, &data[..]), (3, &b"\0data"[..]));
            assert!(parse(&sent, !base64).is_none());
            let empty = parse(&message(1, b"", base64), base64).unwrap();
            assert!(empty.1.is_empty());
        }
        assert_eq!(message(1, b"hi", true), Message::text("1aGk="));
        for bad in ["", "x", "1?", "\u{e9}"] {
            assert!(parse(&Message::text(bad), true).is_none(), "{bad}");
        }
        assert!(parse(&Message::binary(Vec::new()), false).is_none());
    }
}
