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
    stop::stop(daemon, &request.pod_sandbox_id).await?;
    Ok(StopPodSandboxResponse {})
}
