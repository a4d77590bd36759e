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
    remove::remove(daemon, &request.container_id).await?;
    Ok(RemoveContainerResponse {})
}
