//! StopPodSandbox.

use std::sync::Arc;

use crate::cri::v1::{StopPodSandboxRequest, StopPodSandboxResponse};
use crate::ocid::daemon::Daemon;
use crate::ocid::error::Result;
use crate::ocid::sandbox::stop;

pub async fn stop_pod_sandbox(
    daemon: &Arc<Daemon>,
    request: StopPodSandboxRequest,
) -> Result<StopPodSandboxResponse> {
    let id = &request.pod_sandbox_id;
    daemon.sandboxes.check("pod_sandbox_id", id)?;
    stop::stop(daemon, id).await?;
    Ok(StopPodSandboxResponse {})
}
