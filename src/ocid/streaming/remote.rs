//! Exec and attach over SPDY: the client opens one stream per channel and says in a header which it is.

use std::time::Duration;

use super::Wanted;
use super::channels::{Carrier, Channels, ErrorChannel, Input, Output};
use crate::spdy::{Connection, Incoming, Stream};

/// How long the client has to open them all.
const LIMIT: Duration = Duration::from_secs(30);

/// The streams of a client, as they come.
#[derive(Default)]
struct Found {
    stdin: Option<Stream>,
    stdout: Option<Stream>,
    stderr: Option<Stream>,
    resize: Option<Stream>,
    error: Option<Stream>,
}

impl Found {
    fn place(&mut self, kind: &str) -> Option<&mut Option<Stream>> {
        match kind {
            "stdin" => Some(&mut self.stdin),
            "stdout" => Some(&mut self.stdout),
            "stderr" => Some(&mut self.stderr),
            "resize" => Some(&mut self.resize),
            "error" => Some(&mut self.error),
            _ => None,
        }
    }

    fn complete(&self, wanted: Wanted, resize: bool) -> bool {
        let all = [
            (true, &self.error),
            (wanted.stdin, &self.stdin),
            (wanted.stdout, &self.stdout),
            (wanted.stderr, &self.stderr),
            (resize, &self.resize),
        ];
        all.iter().all(|(needed, found)| !needed || found.is_some())
    }
}

/// Waits for the streams that this request needs. `None` when the client does not open them in time, or goes.
pub async fn channels(
    connection: Connection,
    mut incoming: Incoming,
    wanted: Wanted,
    version: u8,
) -> Option<Channels> {
    // Version 3 brought sizes; a client of that or later always opens the stream for them.
    let resize = wanted.tty && version >= 3;
    let mut found = Found::default();
    let search = async {
        while !found.complete(wanted, resize) {
            let Some(new) = incoming.next().await else {
                return false;
            };
            let kind = new.headers.get("streamtype").unwrap_or_default().to_owned();
            match found.place(&kind) {
                Some(place) if place.is_none() => *place = Some(new.accept().1),
                _ => {
                    tracing::debug!(kind, "a stream that was not asked for");
                    new.refuse();
                }
            }
        }
        true
    };
    if !matches!(tokio::time::timeout(LIMIT, search).await, Ok(true)) {
        connection.abort();
        return None;
    }
    let mut unused = Vec::new();
    let mut input = |wanted: bool, stream: Option<Stream>| {
        let (reader, writer) = stream?.split();
        unused.push(writer);
        wanted.then_some(Input::Spdy(reader))
    };
    let (stdin, resize) = (
        input(wanted.stdin, found.stdin),
        input(resize, found.resize),
    );
    let output = |stream: Stream| Output::Spdy(stream.split().1);
    let error = ErrorChannel {
        output: output(found.error?),
        json: version >= 4,
    };
    Some(Channels {
        stdin,
        stdout: found.stdout.filter(|_| wanted.stdout).map(output),
        stderr: found.stderr.filter(|_| wanted.stderr).map(output),
        resize,
        error,
        gone: connection.token(),
        carrier: Carrier::Spdy { connection, unused },
    })
}
