//! StopContainer: the stop signal, a grace period, then the end.

use std::sync::Arc;
use std::time::Duration;

use super::Container;
use crate::ocid::daemon::{Daemon, blocking};
use crate::ocid::error::{Error, Result};
use crate::ocid::failpoint::{self, Point};
use crate::ocid::sandbox::config::NamespaceMode;
use crate::ocid::state::record::{ContainerRecord, Phase};

/// Stops a container; `grace` in seconds, 0 kills at once. One that is unknown or ended is stopped.
pub async fn stop(daemon: &Arc<Daemon>, id: &str, grace: i64) -> Result<()> {
    let Some(container) = daemon.containers.get(id) else {
        return Ok(());
    };
    let grace = Duration::from_secs(u64::try_from(grace).unwrap_or(0));
    let daemon = Arc::clone(daemon);
    daemon
        .clone()
        .tracked(async move { stop_now(&daemon, &container, grace).await })
        .await
}

async fn stop_now(daemon: &Arc<Daemon>, container: &Arc<Container>, grace: Duration) -> Result<()> {
    let record = container.now();
    let _stopping = daemon.checkpoints.stop(&record.id);
    if record.phase != Phase::Running || grace.is_zero() {
        return kill(daemon, container).await;
    }
    // Not under the gate: a second call with a shorter grace period must get through.
    signal(daemon, &record, record.stop_signal)?;
    failpoint::pass(Point::StopSignalled).await?;
    if tokio::time::timeout(grace, ended(container)).await.is_ok() {
        return Ok(());
    }
    tracing::debug!(container = %record.id, ?grace, "the grace period is over");
    failpoint::pass(Point::StopOverdue).await?;
    kill(daemon, container).await
}

/// Kills the container with everything in it and waits until its end is recorded.
pub async fn kill(daemon: &Arc<Daemon>, container: &Arc<Container>) -> Result<()> {
    let record = container.now();
    if matches!(record.phase, Phase::Stopped | Phase::Removing) {
        return Ok(());
    }
    let _stopping = daemon.checkpoints.stop(&record.id);
    signal(daemon, &record, libc::SIGKILL)?;
    failpoint::pass(Point::StopKilled).await?;
    let record_ = Arc::clone(&record);
    let daemon_ = Arc::clone(daemon);
    blocking(move || kill_rest(&daemon_, &record_)).await?;
    if tokio::time::timeout(kill_limit(daemon), ended(container))
        .await
        .is_err()
    {
        return Err(Arc::new(Error::State {
            what: "container",
            id: record.id.clone(),
            state: "still running after SIGKILL".to_owned(),
            wanted: "stopped",
        }));
    }
    Ok(())
}

/// The end of init takes everything in its PID namespace along; where that is shared with others, the
/// rest is found by the container's cgroup.
fn kill_rest(daemon: &Daemon, record: &ContainerRecord) -> std::result::Result<(), Error> {
    let Some(sandbox) = daemon.sandboxes.get(&record.sandbox_id) else {
        return Ok(());
    };
    let pod = sandbox.now();
    if record
        .config
        .security
        .namespaces(&pod.config.namespaces)
        .pid
        == NamespaceMode::Container
    {
        return Ok(());
    }
    let cgroup = daemon.pod_cgroup(&pod.config.cgroup_parent)?;
    let path = cgroup.container_path(&record.id);
    if !daemon
        .cgroups
        .kill(&path, kill_limit(daemon))
        .map_err(Error::io("kill everything in", &path))?
    {
        tracing::warn!(container = %record.id, cgroup = %path, "killed processes do not end");
    }
    Ok(())
}

/// Sends a signal to the container's first process; one that is gone needs none.
fn signal(daemon: &Daemon, record: &ContainerRecord, number: i32) -> Result<()> {
    let Some(init) = record.init else {
        return Ok(());
    };
    let runtime = daemon.runtime_of(record);
    runtime
        .signal(&init, number)
        .map_err(Error::io("signal", format!("/proc/{}", init.pid)))?;
    Ok(())
}

/// How long a killed container may take to be gone; beyond it something holds it in the kernel.
fn kill_limit(daemon: &Daemon) -> Duration {
    // Not even a willing kernel is done in no time.
    Duration::from_secs(
        daemon
            .settings()
            .config
            .crio
            .runtime
            .ctr_stop_timeout
            .max(1),
    )
}

async fn ended(container: &Container) {
    container
        .until(|r| matches!(r.phase, Phase::Stopped | Phase::Removing))
        .await;
}
