//! CheckpointContainer.

use std::sync::Arc;

use crate::cri::v1::{CheckpointContainerRequest, CheckpointContainerResponse};
use crate::ocid::container::checkpoint;
use crate::ocid::daemon::Daemon;
use crate::ocid::error::Result;

pub async fn checkpoint_container(
    daemon: &Arc<Daemon>,
    request: CheckpointContainerRequest,
) -> Result<CheckpointContainerResponse> {
    let id = &request.container_id;
    daemon.containers.check("container_id", id)?;
    checkpoint::checkpoint(daemon, id, &request.location, request.timeout).await?;
    Ok(CheckpointContainerResponse {})
}
