//! StopPodSandbox and RemovePodSandbox. Both succeed on an id that nobody knows.

use std::sync::Arc;

use futures_util::future::join_all;

use super::Sandbox;
use super::teardown::{disconnect, teardown};
use crate::ocid::container::{Container, remove as container_remove, stop as container_stop};
use crate::ocid::daemon::Daemon;
use crate::ocid::error::Result;
use crate::ocid::events::Kind;
use crate::ocid::failpoint::{self, Point};
use crate::ocid::state::record::Phase;

/// Kills the pod's containers and gives its network back. The pod stays listed until it is removed.
pub async fn stop(daemon: &Arc<Daemon>, id: &str) -> Result<()> {
    let Some(sandbox) = daemon.sandboxes.get(id) else {
        return Ok(());
    };
    let daemon = Arc::clone(daemon);
    daemon
        .clone()
        .tracked(async move { stop_now(&daemon, &sandbox).await })
        .await
}

/// As [`stop`], then removes the pod with its containers.
pub async fn remove(daemon: &Arc<Daemon>, id: &str) -> Result<()> {
    let Some(sandbox) = daemon.sandboxes.get(id) else {
        return Ok(());
    };
    let daemon = Arc::clone(daemon);
    daemon
        .clone()
        .tracked(async move { remove_now(&daemon, &sandbox).await })
        .await
}

async fn stop_now(daemon: &Arc<Daemon>, sandbox: &Arc<Sandbox>) -> Result<()> {
    let _gate = sandbox.gate().await;
    if sandbox.now().phase != Phase::Created {
        return Ok(());
    }
    failpoint::pass(Point::StopPodBegun).await?;
    let containers = containers(daemon, &sandbox.now().id);
    let kills = containers
        .iter()
        .map(|container| container_stop::kill(daemon, container));
    join_all(kills).await.into_iter().collect::<Result<()>>()?;
    failpoint::pass(Point::StopPodKilled).await?;
    let released = async {
        join_all(
            containers
                .iter()
                .map(|container| container.until(|r| r.released)),
        )
        .await;
    };
    disconnect(daemon, sandbox, released).await?;
    failpoint::pass(Point::StopPodReleased).await?;
    let now = sandbox.note(|r| r.phase = Phase::Stopped);
    failpoint::pass(Point::StopPodStopped).await?;
    daemon.tell_pod(Kind::Stopped, &now);
    tracing::info!(pod = %sandbox.now().id, "pod is stopped");
    Ok(())
}

/// Also the way on for a removal that a restart found begun.
pub async fn remove_now(daemon: &Arc<Daemon>, sandbox: &Arc<Sandbox>) -> Result<()> {
    stop_now(daemon, sandbox).await?;
    let _gate = sandbox.gate().await;
    let id = sandbox.now().id.clone();
    if daemon.sandboxes.get(&id).is_none() {
        return Ok(());
    }
    sandbox.note(|r| r.phase = Phase::Removing);
    failpoint::pass(Point::RemovePodMarked).await?;
    let removals = containers(daemon, &id)
        .into_iter()
        .map(|container| async move { container_remove::remove_now(daemon, &container).await });
    join_all(removals)
        .await
        .into_iter()
        .collect::<Result<()>>()?;
    failpoint::pass(Point::RemovePodEmptied).await?;
    teardown(daemon, sandbox).await?;
    failpoint::pass(Point::RemovePodGone).await?;
    daemon.sandboxes.remove(&id);
    daemon.tell_pod(Kind::Deleted, &sandbox.now());
    daemon.names.release(&id);
    tracing::info!(pod = %id, "pod is removed");
    Ok(())
}

/// The containers of a pod.
pub fn containers(daemon: &Daemon, sandbox: &str) -> Vec<Arc<Container>> {
    let mut all = daemon.containers.all();
    all.retain(|container| container.now().sandbox_id == sandbox);
    all
}
