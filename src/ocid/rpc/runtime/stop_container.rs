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
    stop::stop(daemon, &request.container_id, request.timeout).await?;
    Ok(StopContainerResponse {})
}
