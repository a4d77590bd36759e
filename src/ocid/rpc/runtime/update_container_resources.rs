//! UpdateContainerResources.

use std::sync::Arc;

use crate::cri::v1::{UpdateContainerResourcesRequest, UpdateContainerResourcesResponse};
use crate::ocid::container::resources::Resources;
use crate::ocid::container::update;
use crate::ocid::daemon::Daemon;
use crate::ocid::error::{Error, Result};

/// A request without limits for Linux changes nothing, but the container must be there.
pub async fn update_container_resources(
    daemon: &Arc<Daemon>,
    request: UpdateContainerResourcesRequest,
) -> Result<UpdateContainerResourcesResponse> {
    let id = &request.container_id;
    daemon.containers.check("container_id", id)?;
    let resources =
        Resources::parse("linux", request.linux.unwrap_or_default()).map_err(Error::from)?;
    update::update(daemon, id, resources).await?;
    Ok(UpdateContainerResourcesResponse {})
}
