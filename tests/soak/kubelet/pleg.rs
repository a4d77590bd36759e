//! The source of what happens: container events, with a relist whenever a stream begins.

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use crio_setup::cri::v1::GetEventsRequest;
use crio_setup::host::clock::now_ns;

use super::node::Node;
use super::tracker::listed;

/// Listens from one daemon to the next until the node is finished.
pub async fn listen(node: Arc<Node>) -> Result<()> {
    while !node.is_finished() {
        node.alive().await;
        let since = node.deaths.count();
        let mut to = node.client.runtime();
        let opened = to.get_container_events(GetEventsRequest {});
        let mut events = match opened.await {
            Ok(answer) => answer.into_inner(),
            Err(status) => {
                let told = || format!("GetContainerEvents: {status}");
                node.deaths.explain(since, told).await?;
                continue;
            }
        };
        node.count("streams of events");
        node.tracker.open();
        let Some((pods, containers)) = node.list().await? else {
            continue;
        };
        node.tracker.relisted(listed(&pods, &containers), now_ns());
        node.wake_all();
        loop {
            let next = tokio::select! {
                next = events.message() => next,
                () = node.over() => return Ok(()),
            };
            match next {
                Ok(Some(event)) => {
                    node.tracker.event(&event)?;
                    let pod = event.pod_sandbox_status.context("no pod")?;
                    node.wake(&pod.id);
                }
                other => {
                    node.tracker.broken();
                    if let Err(status) = &other
                        && status.code() == tonic::Code::DataLoss
                    {
                        bail!("{status}");
                    }
                    let told = || format!("the stream of events ends: {other:?}");
                    node.deaths.explain(since, told).await?;
                    break;
                }
            }
        }
    }
    Ok(())
}

/// Holds what was told against what there is, again and again.
pub async fn verify(node: Arc<Node>) -> Result<()> {
    while !node.is_finished() {
        node.pause(node.pace.verification).await;
        node.alive().await;
        let Some(before) = node.tracker.picture() else {
            continue;
        };
        if let Some((pods, containers)) = node.list().await? {
            node.tracker
                .agrees(before, &listed(&pods, &containers))
                .await?;
        }
    }
    Ok(())
}
