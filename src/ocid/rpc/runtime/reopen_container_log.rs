//! ReopenContainerLog.

use std::sync::Arc;

use crate::cri::v1::{ReopenContainerLogRequest, ReopenContainerLogResponse};
use crate::ocid::daemon::{Daemon, blocking};
use crate::ocid::error::{Error, Result};
use crate::ocid::monitor::client::MonitorClient;
use crate::ocid::state::record::Phase;

/// After a rotation: the monitor opens the log at its path anew.
pub async fn reopen_container_log(
    daemon: &Arc<Daemon>,
    request: ReopenContainerLogRequest,
) -> Result<ReopenContainerLogResponse> {
    let record = daemon.containers.expect(&request.container_id)?.now();
    if record.phase != Phase::Running {
        return Err(Arc::new(Error::State {
            what: "container",
            id: record.id.clone(),
            state: record.phase_name().to_owned(),
            wanted: "running",
        }));
    }
    let bundle = daemon.bundle(&record.id);
    blocking(move || Ok(MonitorClient::connect(&bundle)?.reopen_log()?)).await?;
    Ok(ReopenContainerLogResponse {})
}
