//! PodSandboxStatus.

use std::collections::HashMap;
use std::sync::Arc;

use crate::cri::v1::{PodSandboxStatusRequest, PodSandboxStatusResponse};
use crate::host::clock::now_ns;
use crate::ocid::daemon::Daemon;
use crate::ocid::error::Result;
use crate::ocid::rpc::convert::{container_status, newest_first, sandbox_status};
use crate::ocid::rpc::verbose;
use crate::ocid::sandbox::stop::containers;

pub async fn pod_sandbox_status(
    daemon: &Arc<Daemon>,
    request: PodSandboxStatusRequest,
) -> Result<PodSandboxStatusResponse> {
    let id = &request.pod_sandbox_id;
    daemon.sandboxes.check("pod_sandbox_id", id)?;
    let record = daemon.sandboxes.expect(id)?.now();
    let info = if request.verbose {
        verbose::sandbox(daemon, &record)?
    } else {
        HashMap::new()
    };
    let mut containers_statuses: Vec<_> = containers(daemon, &record.id)
        .iter()
        .map(|c| container_status(daemon, &c.now()))
        .collect();
    newest_first(&mut containers_statuses, |c| (c.created_at, &c.id));
    Ok(PodSandboxStatusResponse {
        status: Some(sandbox_status(&record)),
        info,
        containers_statuses,
        timestamp: now_ns(),
    })
}
