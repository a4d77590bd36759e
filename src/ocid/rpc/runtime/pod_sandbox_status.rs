//! PodSandboxStatus.

use std::collections::HashMap;
use std::sync::Arc;

use crate::cri::v1::{PodSandboxStatusRequest, PodSandboxStatusResponse};
use crate::host::clock::now_ns;
use crate::ocid::daemon::Daemon;
use crate::ocid::error::Result;
use crate::ocid::rpc::convert::{container_status, sandbox_status, verbose};
use crate::ocid::sandbox::stop::containers;

pub async fn pod_sandbox_status(
    daemon: &Arc<Daemon>,
    request: PodSandboxStatusRequest,
) -> Result<PodSandboxStatusResponse> {
    let record = daemon.sandboxes.expect(&request.pod_sandbox_id)?.now();
    let statuses = containers(daemon, &record.id);
    let info = if request.verbose {
        verbose(&*record)
    } else {
        HashMap::new()
    };
    Ok(PodSandboxStatusResponse {
        status: Some(sandbox_status(&record)),
        info,
        containers_statuses: statuses
            .iter()
            .map(|c| container_status(daemon, &c.now()))
            .collect(),
        timestamp: now_ns(),
    })
}
