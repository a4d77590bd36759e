//! Events and the lists that come as streams.

use anyhow::{Context, Result, ensure};
use crio_setup::cri::v1;
use crio_setup::cri::v1::ContainerEventType as Kind;
use nix::sys::signal::Signal;
use tonic::Streaming;

use crate::world::{LIMIT, World};

type Events = Streaming<v1::ContainerEventResponse>;

async fn listen(world: &World) -> Result<Events> {
    let request = v1::GetEventsRequest {};
    let answer = world.client.runtime().get_container_events(request).await?;
    Ok(answer.into_inner())
}

async fn next(events: &mut Events) -> Result<v1::ContainerEventResponse> {
    let event = tokio::time::timeout(LIMIT, events.message()).await;
    event.context("no event")??.context("the stream has ended")
}

/// Id and kind of everything up to the deletion of `last`.
async fn until_deleted(events: &mut Events, last: &str) -> Result<Vec<v1::ContainerEventResponse>> {
    let mut seen = Vec::new();
    loop {
        let event = next(events).await?;
        let end = event.container_id == last
            && event.container_event_type() == Kind::ContainerDeletedEvent;
        seen.push(event);
        if end {
            return Ok(seen);
        }
    }
}

#[tokio::test]
async fn every_step_is_told_once_in_order_with_the_state_of_then() -> Result<()> {
    const LIFE: [Kind; 4] = [
        Kind::ContainerCreatedEvent,
        Kind::ContainerStartedEvent,
        Kind::ContainerStoppedEvent,
        Kind::ContainerDeletedEvent,
    ];
    let mut world = World::start().await?;
    let mut first = listen(&world).await?;
    let mut second = listen(&world).await?;
    let sandbox = world.pod_config("told");
    let pod = world.run_pod(&sandbox).await?;
    let sleeper = world.container_config("sleeper", &["sleep", "600"]);
    let sleeper = world.up(&pod, &sandbox, sleeper).await?;
    let mut brief = Vec::new();
    for number in 0..8 {
        let config = world.container_config(&format!("brief-{number}"), &["true"]);
        let id = world.up(&pod, &sandbox, config).await?;
        world.ended(&id).await?;
        world.client.remove_container(&id).await?;
        brief.push(id);
    }
    world.client.stop_pod_sandbox(&pod).await?;
    world.client.remove_pod_sandbox(&pod).await?;

    let seen = until_deleted(&mut first, &pod).await?;
    ensure!(seen == until_deleted(&mut second, &pod).await?);
    ensure!(seen.len() == 4 * (2 + brief.len()), "{seen:#?}");
    for id in brief.iter().chain([&pod, &sleeper]) {
        let own = seen.iter().filter(|event| &event.container_id == id);
        let kinds: Vec<Kind> = own.map(|event| event.container_event_type()).collect();
        ensure!(kinds == LIFE, "{id}: {kinds:?}");
    }
    for event in &seen {
        let status = event.pod_sandbox_status.as_ref().context("no pod")?;
        ensure!(status.id == pod && event.created_at > 0, "{event:?}");
        let own = event.containers_statuses.iter();
        let own = own.into_iter().find(|c| c.id == event.container_id);
        let state = own.map(v1::ContainerStatus::state);
        let fits = match event.container_event_type() {
            _ if event.container_id == pod => state.is_none(),
            Kind::ContainerCreatedEvent => state == Some(v1::ContainerState::ContainerCreated),
            // The brief one may be over by the time that its start is told.
            Kind::ContainerStartedEvent => matches!(
                state,
                Some(v1::ContainerState::ContainerRunning | v1::ContainerState::ContainerExited)
            ),
            Kind::ContainerStoppedEvent => state == Some(v1::ContainerState::ContainerExited),
            Kind::ContainerDeletedEvent => state.is_none(),
        };
        ensure!(fits, "{event:#?}");
    }
    let ready = |kind: Kind| {
        let mut own = seen.iter().filter(|event| event.container_id == pod);
        let event = own.find(|event| event.container_event_type() == kind);
        event
            .and_then(|event| event.pod_sandbox_status.as_ref())
            .map(v1::PodSandboxStatus::state)
    };
    let (up, down) = (Kind::ContainerStartedEvent, Kind::ContainerStoppedEvent);
    ensure!(ready(up) == Some(v1::PodSandboxState::SandboxReady));
    ensure!(ready(down) == Some(v1::PodSandboxState::SandboxNotready));

    // A daemon that stops ends its streams, and is not held up by them.
    world.end_daemon_beside(Signal::SIGTERM).await?;
    let end = tokio::time::timeout(LIMIT, first.message())
        .await
        .context("no end")?;
    ensure!(matches!(end, Ok(None) | Err(_)), "{end:?}");
    world.start_daemon().await?;
    world.assert_clean(&[]).await
}

#[tokio::test]
async fn lists_come_as_streams_too() -> Result<()> {
    let world = World::start().await?;
    let sandbox = world.pod_config("listed");
    let pod = world.run_pod(&sandbox).await?;
    let mut containers = Vec::new();
    for number in 0..3 {
        let config = world.container_config(&format!("c{number}"), &["true"]);
        containers.push(world.create(&pod, &sandbox, config).await?);
    }
    containers.reverse();
    let mut runtime = world.client.runtime();
    let mut pods = runtime
        .stream_pod_sandboxes(v1::StreamPodSandboxesRequest { filter: None })
        .await?
        .into_inner();
    let page = pods.message().await?.context("no page")?;
    let listed = world.client.list_pod_sandboxes(None).await?;
    ensure!(
        page.pod_sandboxes == listed && listed.len() == 1,
        "{page:?}"
    );
    ensure!(pods.message().await?.is_none());

    let filter = v1::ContainerFilter {
        pod_sandbox_id: pod.clone(),
        ..Default::default()
    };
    let request = v1::StreamContainersRequest {
        filter: Some(filter),
    };
    let mut pages = runtime.stream_containers(request).await?.into_inner();
    let page = pages.message().await?.context("no page")?;
    let ids: Vec<String> = page.containers.into_iter().map(|c| c.id).collect();
    ensure!(ids == containers, "{ids:?}");
    ensure!(pages.message().await?.is_none());

    let mut images = world.client.images();
    let request = v1::StreamImagesRequest { filter: None };
    let mut pages = images.stream_images(request).await?.into_inner();
    let page = pages.message().await?.context("no page")?;
    ensure!(
        page.images == world.client.list_images(None).await?,
        "{page:?}"
    );
    world.assert_clean(&[]).await
}
