//! RemoveContainer.

use std::sync::Arc;

use crate::cri::v1::{RemoveContainerRequest, RemoveContainerResponse};
use crate::ocid::container::remove;
use crate::ocid::daemon::Daemon;
use crate::ocid::error::Result;

pub async fn remove_container(
    daemon: &Arc<Daemon>,
    request: RemoveContainerRequest,
) -> Result<RemoveContainerResponse> {
    let id = &request.container_id;
    daemon.containers.check("container_id", id)?;
    remove::remove(daemon, id).await?;
    Ok(RemoveContainerResponse {})
}
