//! The one task that writes to a connection: answers before data, several frames per write.

use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::connection::Out;
use super::frame::{self, Control};
use super::headers::Deflater;

/// Frames are gathered up to this many bytes.
const BATCH: usize = 64 << 10;

/// Writes until the connection is over. When writing is no longer possible, it is.
pub(super) async fn run<W: AsyncWrite + Unpin>(
    mut io: W,
    mut control: mpsc::Receiver<Out>,
    mut data: mpsc::Receiver<Out>,
    closed: CancellationToken,
) {
    let work = async {
        let mut deflater = Deflater::default();
        let mut bytes = Vec::new();
        loop {
            let mut out = tokio::select! {
                biased;
                Some(out) = control.recv() => Some(out),
                Some(out) = data.recv() => Some(out),
                else => return,
            };
            let mut last = false;
            while let Some(next) = out {
                last |= encode(next, &mut deflater, &mut bytes);
                out = match last || bytes.len() >= BATCH {
                    true => None,
                    false => control.try_recv().or_else(|_| data.try_recv()).ok(),
                };
            }
            if io.write_all(&bytes).await.is_err() || io.flush().await.is_err() {
                closed.cancel();
                return;
            }
            bytes.clear();
            bytes.shrink_to(2 * BATCH);
            if last {
                // The peer closes when it has read everything; the reader sees that.
                if io.shutdown().await.is_err() {
                    closed.cancel();
                }
                return;
            }
        }
    };
    tokio::select! {
        () = work => {}
        () = closed.cancelled() => {}
    }
}

/// Appends a frame. True when nothing may follow.
fn encode(out: Out, deflater: &mut Deflater, bytes: &mut Vec<u8>) -> bool {
    match out {
        Out::Control(frame) => frame.encode(bytes),
        Out::Syn {
            stream,
            reply,
            headers,
        } => {
            let (block, fin) = (deflater.block(&headers), false);
            let frame = match reply {
                true => Control::SynReply { stream, fin, block },
                false => Control::SynStream {
                    stream,
                    associated: 0,
                    priority: 0,
                    fin,
                    unidirectional: false,
                    block,
                },
            };
            frame.encode(bytes);
        }
        Out::Data { stream, fin, data } => frame::encode_data(stream, fin, &data, bytes),
        Out::End { last, status } => {
            Control::GoAway { last, status }.encode(bytes);
            return true;
        }
    }
    false
}
