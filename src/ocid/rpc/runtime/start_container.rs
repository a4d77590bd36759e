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
    start::start(daemon, &request.container_id).await?;
    Ok(StartContainerResponse {})
}
