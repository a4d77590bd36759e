//! UpdatePodSandboxResources: new limits for a pod as a whole.

use std::sync::Arc;

use super::run::limits;
use crate::ocid::container::resources::Resources;
use crate::ocid::daemon::{Daemon, blocking};
use crate::ocid::error::{Error, Result};
use crate::ocid::failpoint::{self, Point};
use crate::ocid::state::record::Phase;

/// Changes what the pod may use and what it costs itself; an absent one stays as it is. The kernel is told
/// where the pod's cgroup is of our making: kubelet, which calls this afterwards, has told it of its own.
pub async fn update(
    daemon: &Arc<Daemon>,
    id: &str,
    overhead: Option<Resources>,
    resources: Option<Resources>,
) -> Result<()> {
    let sandbox = daemon.sandboxes.expect(id)?;
    let daemon = Arc::clone(daemon);
    daemon
        .clone()
        .tracked(async move {
            let _gate = sandbox.gate().await;
            let record = sandbox.now();
            if record.phase != Phase::Created {
                return Err(Arc::new(Error::State {
                    what: "pod",
                    id: record.id.clone(),
                    state: "not ready".to_owned(),
                    wanted: "ready",
                }));
            }
            let mut config = record.config.clone();
            config.overhead = overhead.or(config.overhead);
            config.resources = resources.or(config.resources);
            let (wanted, cgroup) = (limits(&config), daemon.pod_cgroup(&config.cgroup_parent)?);
            let cgroups = Arc::clone(&daemon);
            blocking(move || {
                let updated = cgroups.cgroups.update(&cgroup, &wanted);
                updated.map_err(Error::io("limit the cgroup", cgroup.path()))
            })
            .await?;
            failpoint::pass(Point::UpdatePodApplied).await?;
            sandbox.change(|r| r.config = config)?;
            failpoint::pass(Point::UpdatePodNoted).await?;
            tracing::info!(pod = %record.id, "pod has new limits");
            sandbox.commit().await
        })
        .await
}
