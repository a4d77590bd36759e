//! StartContainer.

use std::sync::Arc;

use crate::cri::v1::{StartContainerRequest, StartContainerResponse};
use crate::ocid::container::start;
use crate::ocid::daemon::Daemon;
use crate::ocid::error::Result;

pub async fn start_container(
    daemon: &Arc<Daemon>,
    request: StartContainerRequest,
) -> Result<StartContainerResponse> {
    let id = &request.container_id;
    daemon.containers.check("container_id", id)?;
    start::start(daemon, id).await?;
    Ok(StartContainerResponse {})
}
