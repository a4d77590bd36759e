//! RemovePodSandbox.

use std::sync::Arc;

use crate::cri::v1::{RemovePodSandboxRequest, RemovePodSandboxResponse};
use crate::ocid::daemon::Daemon;
use crate::ocid::error::Result;
use crate::ocid::sandbox::stop;

pub async fn remove_pod_sandbox(
    daemon: &Arc<Daemon>,
    request: RemovePodSandboxRequest,
) -> Result<RemovePodSandboxResponse> {
    let id = &request.pod_sandbox_id;
    daemon.sandboxes.check("pod_sandbox_id", id)?;
    stop::remove(daemon, id).await?;
    Ok(RemovePodSandboxResponse {})
}
