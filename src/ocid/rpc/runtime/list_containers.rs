//! ListContainers, and StreamContainers, the same in several messages.

use std::sync::Arc;

use crate::cri::v1::{
    ContainerFilter, ContainerState, ListContainersRequest, ListContainersResponse,
    StreamContainersRequest, StreamContainersResponse,
};
use crate::ocid::daemon::Daemon;
use crate::ocid::error::Result;
use crate::ocid::rpc::convert::{container_item, enumerated, newest_first, selects};
use crate::ocid::rpc::stream::{Answers, pages};

/// Newest first. As in CRI-O an id of the filter may be a beginning that only one has, and one that names
/// nothing finds nothing; labels are compared whole.
pub async fn list_containers(
    daemon: &Arc<Daemon>,
    request: ListContainersRequest,
) -> Result<ListContainersResponse> {
    let filter = request.filter.unwrap_or_default();
    let ContainerFilter {
        id,
        state,
        pod_sandbox_id,
        label_selector,
    } = filter;
    let state = state.map(|state| state.state);
    enumerated::<ContainerState>("filter.state.state", state)?;
    let mut containers = if id.is_empty() {
        daemon.containers.all()
    } else {
        daemon.containers.get(&id).into_iter().collect()
    };
    if !pod_sandbox_id.is_empty() {
        let pod = daemon.sandboxes.get(&pod_sandbox_id);
        let pod = pod.map(|pod| pod.now().id.clone());
        containers.retain(|c| pod.as_ref() == Some(&c.now().sandbox_id));
    }
    let mut containers: Vec<_> = containers
        .iter()
        .map(|container| container.now())
        .filter(|r| selects(&label_selector, &r.config.labels))
        .map(|r| container_item(&r))
        .filter(|item| state.is_none_or(|wanted| wanted == item.state))
        .collect();
    newest_first(&mut containers, |c| (c.created_at, &c.id));
    Ok(ListContainersResponse { containers })
}

pub async fn stream_containers(
    daemon: &Arc<Daemon>,
    request: StreamContainersRequest,
) -> Result<Answers<StreamContainersResponse>> {
    let StreamContainersRequest { filter } = request;
    let list = list_containers(daemon, ListContainersRequest { filter }).await?;
    Ok(pages(list.containers, |containers| {
        StreamContainersResponse { containers }
    }))
}
