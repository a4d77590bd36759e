//! `ocic events`

use std::io;

use tokio::signal::unix::{SignalKind, signal};

use crate::cli::output::Format;
use crate::cri::v1::ContainerEventResponse;
use crate::ocic::json;

use super::{Failure, Session, show};

/// One line each, in JSON one document a line; until Ctrl-C, or the daemon's end.
pub async fn run(session: &Session<'_>) -> Result<(), Failure> {
    let mut events = session.client().await?.events().await?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Failure::Start)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(Failure::Start)?;
    // Who reads along knows from here on that nothing is missed.
    session.output.note("listening");
    loop {
        tokio::select! {
            event = events.next() => match event? {
                Some(event) => session.line(&line(session, &event)?)?,
                None => return Err(Failure::EventsEnded),
            },
            _ = interrupt.recv() => return Ok(()),
            _ = terminate.recv() => return Ok(()),
        }
    }
}

fn line(session: &Session<'_>, event: &ContainerEventResponse) -> Result<String, Failure> {
    match session.output.format {
        Format::Table => Ok(show::event(event)),
        Format::Json => {
            let text = json::value(event).and_then(|value| serde_json::to_string(&value));
            text.map_err(|e| Failure::Output(io::Error::other(e)))
        }
    }
}
