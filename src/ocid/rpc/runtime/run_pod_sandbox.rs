//! RunPodSandbox.

use std::sync::Arc;

use crate::cri::v1::{RunPodSandboxRequest, RunPodSandboxResponse};
use crate::ocid::daemon::Daemon;
use crate::ocid::error::{Error, Result};
use crate::ocid::field::FieldError;
use crate::ocid::sandbox::config::SandboxConfig;
use crate::ocid::sandbox::run;

pub async fn run_pod_sandbox(
    daemon: &Arc<Daemon>,
    request: RunPodSandboxRequest,
) -> Result<RunPodSandboxResponse> {
    let config = request
        .config
        .ok_or_else(|| FieldError::required("config"))
        .and_then(SandboxConfig::try_from)
        .map_err(Error::from)?;
    let pod_sandbox_id = run::run(daemon, config, request.runtime_handler).await?;
    Ok(RunPodSandboxResponse { pod_sandbox_id })
}
