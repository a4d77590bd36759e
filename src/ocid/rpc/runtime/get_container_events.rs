//! GetContainerEvents.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::StreamExt;
use tonic::Status;

use crate::cri::v1::{ContainerEventResponse, ContainerEventType, GetEventsRequest};
use crate::ocid::daemon::Daemon;
use crate::ocid::error::Result;
use crate::ocid::events::{Event, Kind};
use crate::ocid::rpc::convert::{container_status, sandbox_status};
use crate::ocid::rpc::stream::Answers;

/// Events from now on, until the client goes away or the daemon stops. A reader that falls too far
/// behind gets an error and no more: it must list anew, and no gap is passed over in silence.
pub async fn get_container_events(
    daemon: &Arc<Daemon>,
    _: GetEventsRequest,
) -> Result<Answers<ContainerEventResponse>> {
    let stopping = daemon.stopping.clone().cancelled_owned();
    let events = daemon.events.listen().take_until(stopping);
    let daemon = Arc::clone(daemon);
    let answers = events.map(move |event| match event {
        Ok(event) => Ok(convert(&daemon, &event)),
        Err(missed) => {
            daemon.metrics.lagging.fetch_add(1, Ordering::Relaxed);
            Err(Status::data_loss(format!(
                "the reader is too slow: {missed} events were not kept for it; list and start again"
            )))
        }
    });
    Ok(answers.boxed())
}

fn convert(daemon: &Daemon, event: &Event) -> ContainerEventResponse {
    let kind = match event.kind {
        Kind::Created => ContainerEventType::ContainerCreatedEvent,
        Kind::Started => ContainerEventType::ContainerStartedEvent,
        Kind::Stopped => ContainerEventType::ContainerStoppedEvent,
        Kind::Deleted => ContainerEventType::ContainerDeletedEvent,
    };
    let containers = event.containers.iter();
    ContainerEventResponse {
        container_id: event.id.clone(),
        container_event_type: kind.into(),
        created_at: event.at,
        pod_sandbox_status: Some(sandbox_status(&event.sandbox)),
        containers_statuses: containers.map(|c| container_status(daemon, c)).collect(),
    }
}
