//! StopContainer.

use std::sync::Arc;

use crate::cri::v1::{StopContainerRequest, StopContainerResponse};
use crate::ocid::container::stop;
use crate::ocid::daemon::Daemon;
use crate::ocid::error::Result;

pub async fn stop_container(
    daemon: &Arc<Daemon>,
    request: StopContainerRequest,
) -> Result<StopContainerResponse> {
    let id = &request.container_id;
    daemon.containers.check("container_id", id)?;
    stop::stop(daemon, id, request.timeout).await?;
    Ok(StopContainerResponse {})
}
