//! Exec: a command whose streams are the client's.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio_util::sync::CancellationToken;

use super::Wanted;
use super::channels::{Channels, Input, Output};
use super::status::Outcome;
use crate::host::terminal::Terminal;
use crate::host::{fd, pty};
use crate::ocid::container::exec::{Command, in_phase};
use crate::ocid::daemon::Daemon;
use crate::ocid::error::{Error, Result};
use crate::ocid::runtime::{RuntimeError, Session, Streams};
use crate::ocid::state::record::{ContainerRecord, Phase};

/// Bytes per read of an output.
const PIECE: usize = 32 << 10;
/// The most that is read of a terminal after the end of the command, should somebody else go on writing.
const TERMINAL_REST: usize = 64 << 10;
/// A terminal passes on what was written to it a little later: how long silence means that there is no more.
const TERMINAL_SILENCE: Duration = Duration::from_millis(50);
/// The longest document of the terminal's size.
const SIZE_MAX: usize = 4096;

/// The container by its id, which must be running.
pub fn running(daemon: &Daemon, id: &str) -> Result<Arc<ContainerRecord>> {
    in_phase(daemon, id, &[Phase::Running])
}

/// Runs the command to its end, or until the client is gone: then the command is killed, with its children.
pub async fn run(
    daemon: &Arc<Daemon>,
    container: &str,
    command: &[String],
    wanted: Wanted,
    mut channels: Channels,
) {
    let gone = channels.gone.clone();
    let outcome = tokio::select! {
        outcome = exec(daemon, container, command, wanted, &mut channels) => outcome,
        () = gone.cancelled() => {
            tracing::debug!(container, "the client of an exec is gone");
            return;
        }
    };
    let act = "executing command in";
    channels.report(act, container, outcome).await;
}

async fn exec(
    daemon: &Arc<Daemon>,
    container: &str,
    command: &[String],
    wanted: Wanted,
    channels: &mut Channels,
) -> Result<Outcome> {
    let record = running(daemon, container)?;
    let runtime = daemon.runtime_of(&record);
    let streams = Streams {
        tty: wanted.tty,
        stdin: channels.stdin.is_some(),
        stdout: channels.stdout.is_some(),
        stderr: channels.stderr.is_some(),
    };
    let failed = |e: RuntimeError| Arc::new(Error::from(e));
    let session = {
        let inside = Command::new(daemon, &record).await?;
        let request = inside.request(command);
        let started = runtime.exec_session(&request, streams).await;
        started.map_err(failed)?
    };
    attend(session, channels).await.map_err(failed)
}

/// Moves bytes until the command has ended and all that it wrote is sent. Given up when the client is gone: then
/// the command must be killed, not told by the end of its input or by a broken pipe, which would have it leave its
/// children behind. So its streams are closed after the session, and by nobody when the client is gone.
async fn attend(
    mut given: Session,
    channels: &mut Channels,
) -> std::result::Result<Outcome, RuntimeError> {
    let ended = CancellationToken::new();
    let (mut stdout, mut stderr) = (given.stdout.take(), given.stderr.take());
    let terminal = given.terminal.take().map(Terminal::new).transpose();
    let terminal = match terminal {
        Ok(terminal) => terminal,
        Err(error) => {
            tracing::warn!(%error, "use the terminal of an exec");
            None
        }
    };
    let pipe = given.stdin.take().map(pipe::Sender::from_owned_fd);
    let mut pipe = pipe.and_then(std::result::Result::ok);
    let gone = channels.gone.clone();
    let mut session = given;
    let input = async {
        match (channels.stdin.as_mut(), &terminal) {
            (Some(stdin), Some(terminal)) => type_in(stdin, terminal).await,
            (Some(stdin), None) => feed(stdin, &mut pipe, &gone).await,
            _ => {}
        }
    };
    let resize = async {
        if let (Some(sizes), Some(terminal)) = (channels.resize.as_mut(), &terminal) {
            let mut sizes = Sizes::new(sizes);
            while let Some((columns, rows)) = sizes.next().await {
                // The command may just have closed it.
                let _ = pty::resize(terminal, columns, rows);
            }
        }
    };
    let output = async {
        match &terminal {
            Some(terminal) => show(terminal, channels.stdout.as_mut(), &ended).await,
            None => {
                tokio::join!(
                    pump(&mut stdout, channels.stdout.as_mut(), &ended, &gone),
                    pump(&mut stderr, channels.stderr.as_mut(), &ended, &gone),
                );
            }
        }
    };
    let exit = async {
        let exit = session.exit().await;
        ended.cancel();
        exit
    };
    let done = async { tokio::join!(exit, output).0 };
    tokio::pin!(input, resize, done);
    let (mut fed, mut sized) = (false, false);
    loop {
        tokio::select! {
            exit = &mut done => return exit.map(Outcome::from),
            () = &mut input, if !fed => fed = true,
            () = &mut resize, if !sized => sized = true,
        }
    }
}

/// The client's input into a pipe, whose end follows it.
async fn feed(stdin: &mut Input, pipe: &mut Option<pipe::Sender>, gone: &CancellationToken) {
    while let (Some(bytes), Some(pipe)) = (stdin.read().await, pipe.as_mut()) {
        // The command has closed its input; what else comes is nobody's.
        if pipe.write_all(&bytes).await.is_err() {
            return;
        }
    }
    if !gone.is_cancelled() {
        *pipe = None;
    }
}

/// The client's input into a terminal. Its end does not close it: there is only one, and it is also the output.
async fn type_in(stdin: &mut Input, terminal: &Terminal) {
    while let Some(bytes) = stdin.read().await {
        if terminal.write_all(&bytes).await.is_err() {
            return;
        }
    }
}

/// One output to the client, until its end; after the command's end only what is there by then, for a process
/// that the command has left behind may hold it open.
async fn pump<R: AsyncRead + AsFd + Unpin>(
    place: &mut Option<R>,
    output: Option<&mut Output>,
    ended: &CancellationToken,
    gone: &CancellationToken,
) {
    let (Some(pipe), Some(output)) = (place.as_mut(), output) else {
        return;
    };
    let mut buffer = BytesMut::new();
    let mut rest = None;
    loop {
        if rest.is_none() && ended.is_cancelled() {
            rest = Some(fd::readable(&*pipe).unwrap_or(0));
        }
        if rest == Some(0) {
            break;
        }
        buffer.reserve(PIECE);
        let count = tokio::select! {
            read = pipe.read_buf(&mut buffer) => read.unwrap_or(0),
            () = ended.cancelled(), if rest.is_none() => continue,
        };
        if count == 0 {
            break;
        }
        rest = rest.map(|rest: usize| rest.saturating_sub(count));
        if output.write(buffer.split().freeze()).await.is_err() {
            // One that wants no more of this stream alone breaks its pipe.
            if !gone.is_cancelled() {
                *place = None;
            }
            return;
        }
    }
    output.finish().await;
}

/// As [`pump`], for a terminal.
async fn show(terminal: &Terminal, mut output: Option<&mut Output>, ended: &CancellationToken) {
    let mut rest = None;
    let mut buffer = vec![0; PIECE / 4];
    loop {
        let read = tokio::select! {
            read = terminal.read(&mut buffer) => read,
            () = ended.cancelled(), if rest.is_none() => {
                rest = Some(TERMINAL_REST);
                continue;
            }
            () = tokio::time::sleep(TERMINAL_SILENCE), if rest.is_some() => break,
        };
        // At an error nobody is behind it any more.
        let Ok(count @ 1..) = read else { break };
        let bytes = Bytes::copy_from_slice(buffer.get(..count).unwrap_or_default());
        rest = rest.map(|rest: usize| rest.saturating_sub(bytes.len()));
        // What nobody wants is read all the same: the command must not wait for it.
        if let Some(output) = &mut output
            && output.write(bytes).await.is_err()
        {
            return;
        }
        if rest == Some(0) {
            break;
        }
    }
    if let Some(output) = output {
        output.finish().await;
    }
}

/// The sizes of a client's window, one JSON document after the other.
pub struct Sizes<'a> {
    input: &'a mut Input,
    waiting: Vec<u8>,
}

impl<'a> Sizes<'a> {
    pub fn new(input: &'a mut Input) -> Self {
        let waiting = Vec::new();
        Self { input, waiting }
    }

    /// The latest columns and rows; `None` when no more come, or what comes is none.
    pub async fn next(&mut self) -> Option<(u16, u16)> {
        loop {
            self.waiting.extend_from_slice(&self.input.read().await?);
            if self.waiting.len() > SIZE_MAX {
                return None;
            }
            let (last, used) = sizes(&self.waiting)?;
            self.waiting.drain(..used.min(self.waiting.len()));
            if last.is_some() {
                return last;
            }
        }
    }
}

/// The last whole document and where the whole ones end; `None` when it is not JSON.
fn sizes(text: &[u8]) -> Option<(Option<(u16, u16)>, usize)> {
    #[derive(serde::Deserialize)]
    struct Size {
        #[serde(rename = "Width", alias = "width")]
        width: u16,
        #[serde(rename = "Height", alias = "height")]
        height: u16,
    }
    let mut documents = serde_json::Deserializer::from_slice(text).into_iter::<Size>();
    let mut last = None;
    loop {
        let used = documents.byte_offset();
        match documents.next() {
            Some(Ok(size)) => last = Some((size.width, size.height)),
            Some(Err(e)) if !e.is_eof() => return None,
            Some(Err(_)) | None => return Some((last, used)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ocid::streaming::socket::ChannelReader;

    #[tokio::test]
    async fn sizes_come_in_pieces() {
        let long = "{\"Width\":".to_owned() + &" ".repeat(SIZE_MAX);
        let mut input = Input::Socket(ChannelReader::of(&[
            "{\"Width\":80,",
            "\"Height\":24}\n{\"Width\":1,\"Height\":2} {\"Wi",
            "dth\":132,\"Height\":43}",
            "{\"Width\":-1,\"Height\":43}",
            &long,
        ]));
        let mut sizes = Sizes::new(&mut input);
        assert_eq!(sizes.next().await, Some((1, 2)));
        assert_eq!(sizes.next().await, Some((132, 43)));
        assert_eq!(sizes.next().await, None);
        assert_eq!(sizes.next().await, None);
    }
}
