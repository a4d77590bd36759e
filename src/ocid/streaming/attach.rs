//! Attach: the streams of a container's own process, through its monitor.

use std::sync::Arc;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::Wanted;
use super::channels::{Channels, Input, Output};
use super::exec::Sizes;
use super::status::Outcome;
use crate::ocid::container::exec::in_phase;
use crate::ocid::daemon::Daemon;
use crate::ocid::error::{Error, Result};
use crate::ocid::monitor::client::{self, AttachedReader, AttachedWriter};
use crate::ocid::monitor::protocol::{ATTACHED_END, ATTACHED_HEAD};
use crate::ocid::state::record::{ContainerRecord, Phase};

/// The container by its id, which must be running, or ready to be started.
pub fn alive(daemon: &Daemon, id: &str) -> Result<Arc<ContainerRecord>> {
    in_phase(daemon, id, &[Phase::Created, Phase::Running])
}

/// Until the container ends or the client goes; the container does not notice the latter, but for the end of its
/// input where that was asked for.
pub async fn run(daemon: &Arc<Daemon>, container: &str, wanted: Wanted, mut channels: Channels) {
    let gone = channels.gone.clone();
    let outcome = tokio::select! {
        outcome = attach(daemon, container, wanted, &mut channels) => outcome,
        () = gone.cancelled() => return,
    };
    channels.report("attaching to", container, outcome).await;
}

async fn attach(
    daemon: &Arc<Daemon>,
    container: &str,
    wanted: Wanted,
    channels: &mut Channels,
) -> Result<Outcome> {
    let record = alive(daemon, container)?;
    let bundle = daemon.bundle(&record.id);
    let failed = |e: client::ClientError| Arc::new(Error::from(e));
    let monitor = client::connect(&bundle).await.map_err(failed)?;
    let attached = monitor.attach(wanted.stdin, wanted.stdout, wanted.stderr);
    let (mut reader, writer) = attached.await.map_err(failed)?;
    let input = async {
        if let Some(stdin) = &mut channels.stdin {
            feed(stdin, writer).await;
        } else {
            // Closing it would be the end of an input that was not asked for.
            std::future::pending::<()>().await;
            drop(writer);
        }
    };
    let resize = async {
        let Some(sizes) = &mut channels.resize else {
            return;
        };
        let mut sizes = Sizes::new(sizes);
        while let Some((columns, rows)) = sizes.next().await {
            let set = match client::connect(&bundle).await {
                Ok(mut monitor) => monitor.resize(columns, rows).await,
                Err(e) => Err(e),
            };
            if let Err(error) = set {
                tracing::debug!(container, %error, "set the size of a terminal");
            }
        }
    };
    let output = copy(&mut reader, &mut channels.stdout, &mut channels.stderr);
    tokio::pin!(input, resize, output);
    let (mut fed, mut sized) = (false, false);
    loop {
        tokio::select! {
            outcome = &mut output => return Ok(outcome),
            () = &mut input, if !fed => fed = true,
            () = &mut resize, if !sized => sized = true,
        }
    }
}

/// The client's input to the monitor, and its end.
async fn feed(stdin: &mut Input, mut writer: AttachedWriter) {
    while let Some(bytes) = stdin.read().await {
        if writer.write_all(&bytes).await.is_err() {
            break;
        }
    }
    // A monitor that is gone needs no end; the half stays until the attachment is over.
    let _ = writer.shutdown().await;
    std::future::pending::<()>().await;
}

/// The container's output, until it has ended.
async fn copy(
    reader: &mut AttachedReader,
    stdout: &mut Option<Output>,
    stderr: &mut Option<Output>,
) -> Outcome {
    let let_go = "the monitor has ended the attachment: its output was not taken in time";
    loop {
        let mut head = [0; ATTACHED_HEAD];
        if reader.read_exact(&mut head).await.is_err() {
            return Outcome::Failed(let_go.to_owned());
        }
        let [channel, high, low] = head;
        let mut data = vec![0; usize::from(u16::from_be_bytes([high, low]))];
        if reader.read_exact(&mut data).await.is_err() {
            return Outcome::Failed(let_go.to_owned());
        }
        let output = match channel {
            ATTACHED_END => return Outcome::Success,
            1 => &mut *stdout,
            2 => &mut *stderr,
            _ => continue,
        };
        if let Some(open) = output
            && open.write(Bytes::from(data)).await.is_err()
        {
            *output = None;
        }
    }
}
