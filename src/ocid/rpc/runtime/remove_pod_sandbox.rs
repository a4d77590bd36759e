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
    stop::remove(daemon, &request.pod_sandbox_id).await?;
    Ok(RemovePodSandboxResponse {})
}
