//! UpdateContainerResources: new limits for a container that is there already.

use std::sync::Arc;

use super::resources::Resources;
use crate::ocid::daemon::Daemon;
use crate::ocid::error::{Error, Result};
use crate::ocid::failpoint::{self, Point};
use crate::ocid::state::record::Phase;

/// Gives a container new limits; what `update` does not say stays as it is. The limits of the record
/// change once the kernel has taken them: a call that failed, or that a crash cut off, is repeated by
/// its caller and comes to the same end.
pub async fn update(daemon: &Arc<Daemon>, id: &str, update: Resources) -> Result<()> {
    let container = daemon.containers.expect(id)?;
    let daemon = Arc::clone(daemon);
    daemon
        .clone()
        .tracked(async move {
            // Two updates at once would mix, and an end meanwhile would take the cgroup away.
            let _gate = container.gate().await;
            let record = container.now();
            if !matches!(record.phase, Phase::Created | Phase::Running) {
                return Err(Arc::new(Error::State {
                    what: "container",
                    id: record.id.clone(),
                    state: record.phase_name().to_owned(),
                    wanted: "created or running",
                }));
            }
            let resources = record
                .config
                .resources
                .updated("linux", &update)
                .map_err(Error::from)?;
            let handler = daemon.handler_of(&record);
            let facts = handler.facts().await?;
            let mut warnings = Vec::new();
            let limits = resources
                .oci(handler.defaults.pids_limit, &facts, &mut warnings)
                .map_err(Error::from)?;
            for warning in &warnings {
                tracing::warn!(container = %record.id, "{warning}");
            }
            handler
                .runtime
                .update(&record.id, &limits)
                .await
                .map_err(Error::from)?;
            failpoint::pass(Point::UpdateApplied).await?;
            container.change(|r| r.config.resources = resources)?;
            failpoint::pass(Point::UpdateNoted).await?;
            tracing::info!(container = %record.id, "container has new limits");
            container.commit().await
        })
        .await
}
