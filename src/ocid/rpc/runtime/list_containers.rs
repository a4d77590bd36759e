//! ListContainers, and StreamContainers, the same in several messages.

use std::sync::Arc;

use crate::cri::v1::{
    ContainerFilter, ListContainersRequest, ListContainersResponse, StreamContainersRequest,
    StreamContainersResponse,
};
use crate::ocid::daemon::Daemon;
use crate::ocid::error::Result;
use crate::ocid::rpc::convert::{container_item, selects};
use crate::ocid::rpc::stream::{Answers, pages};

/// Newest first, as CRI-O lists them.
pub async fn list_containers(
    daemon: &Arc<Daemon>,
    request: ListContainersRequest,
) -> Result<ListContainersResponse> {
    let ContainerFilter {
        id,
        state,
        pod_sandbox_id,
        label_selector,
    } = request.filter.unwrap_or_default();
    let records = daemon
        .containers
        .all()
        .into_iter()
        .map(|container| container.now());
    let mut containers: Vec<_> = records
        .filter(|r| r.id.starts_with(&id) && r.sandbox_id.starts_with(&pod_sandbox_id))
        .filter(|r| selects(&label_selector, &r.config.labels))
        .map(|r| container_item(&r))
        .filter(|item| state.is_none_or(|wanted| wanted.state == item.state))
        .collect();
    containers.sort_by_key(|item| std::cmp::Reverse(item.created_at));
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
