//! ReopenContainerLog.

use std::sync::Arc;

use crate::cri::v1::{ReopenContainerLogRequest, ReopenContainerLogResponse};
use crate::ocid::daemon::Daemon;
use crate::ocid::error::{Error, Result};
use crate::ocid::failpoint::{self, Point};
use crate::ocid::monitor::client;
use crate::ocid::state::record::Phase;

/// After a rotation: the monitor opens the log at its path anew.
pub async fn reopen_container_log(
    daemon: &Arc<Daemon>,
    request: ReopenContainerLogRequest,
) -> Result<ReopenContainerLogResponse> {
    let id = &request.container_id;
    daemon.containers.check("container_id", id)?;
    let container = daemon.containers.expect(id)?;
    // One at a time: a monitor has few ears.
    let _gate = container.gate().await;
    let record = container.now();
    if record.phase != Phase::Running {
        return Err(Arc::new(Error::State {
            what: "container",
            id: record.id.clone(),
            state: record.phase_name().to_owned(),
            wanted: "running",
        }));
    }
    let mut monitor = client::connect(&daemon.bundle(&record.id))
        .await
        .map_err(Error::from)?;
    monitor.reopen_log().await.map_err(Error::from)?;
    failpoint::pass(Point::LogReopened).await?;
    Ok(ReopenContainerLogResponse {})
}
