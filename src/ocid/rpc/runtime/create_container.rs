//! CreateContainer.

use std::sync::Arc;

use crate::cri::v1::{CreateContainerRequest, CreateContainerResponse};
use crate::ocid::container::config::ContainerConfig;
use crate::ocid::container::create;
use crate::ocid::daemon::Daemon;
use crate::ocid::error::{Error, Result};
use crate::ocid::field::FieldError;

/// The pod's own configuration counts, not the copy of it in the request: the two are the same by
/// contract, and ours was validated.
pub async fn create_container(
    daemon: &Arc<Daemon>,
    request: CreateContainerRequest,
) -> Result<CreateContainerResponse> {
    let sandbox = &request.pod_sandbox_id;
    daemon.sandboxes.check("pod_sandbox_id", sandbox)?;
    let config = request
        .config
        .ok_or_else(|| FieldError::required("config"))
        .and_then(ContainerConfig::try_from)
        .map_err(Error::from)?;
    let container_id = create::create(daemon, sandbox, config).await?;
    Ok(CreateContainerResponse { container_id })
}
