//! UpdatePodSandboxResources.

use std::sync::Arc;

use crate::cri::v1::{UpdatePodSandboxResourcesRequest, UpdatePodSandboxResourcesResponse};
use crate::ocid::container::resources::Resources;
use crate::ocid::daemon::Daemon;
use crate::ocid::error::{Error, Result};
use crate::ocid::sandbox::update;

pub async fn update_pod_sandbox_resources(
    daemon: &Arc<Daemon>,
    request: UpdatePodSandboxResourcesRequest,
) -> Result<UpdatePodSandboxResourcesResponse> {
    let parse = |field: &str, resources: Option<_>| {
        resources
            .map(|resources| Resources::parse(field, resources))
            .transpose()
            .map_err(Error::from)
    };
    let overhead = parse("overhead", request.overhead)?;
    let resources = parse("resources", request.resources)?;
    update::update(daemon, &request.pod_sandbox_id, overhead, resources).await?;
    Ok(UpdatePodSandboxResourcesResponse {})
}
