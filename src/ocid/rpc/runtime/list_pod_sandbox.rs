//! ListPodSandbox, and StreamPodSandboxes, the same in several messages.

use std::sync::Arc;

use crate::cri::v1::{
    ListPodSandboxRequest, ListPodSandboxResponse, PodSandboxFilter, StreamPodSandboxesRequest,
    StreamPodSandboxesResponse,
};
use crate::ocid::daemon::Daemon;
use crate::ocid::error::Result;
use crate::ocid::rpc::convert::{sandbox_item, selects};
use crate::ocid::rpc::stream::{Answers, pages};

/// Newest first, as CRI-O lists them.
pub async fn list_pod_sandbox(
    daemon: &Arc<Daemon>,
    request: ListPodSandboxRequest,
) -> Result<ListPodSandboxResponse> {
    let PodSandboxFilter {
        id,
        state,
        label_selector,
    } = request.filter.unwrap_or_default();
    let records = daemon
        .sandboxes
        .all()
        .into_iter()
        .map(|sandbox| sandbox.now());
    let mut items: Vec<_> = records
        .filter(|r| r.id.starts_with(&id) && selects(&label_selector, &r.config.labels))
        .map(|r| sandbox_item(&r))
        .filter(|item| state.is_none_or(|wanted| wanted.state == item.state))
        .collect();
    items.sort_by_key(|item| std::cmp::Reverse(item.created_at));
    Ok(ListPodSandboxResponse { items })
}

pub async fn stream_pod_sandboxes(
    daemon: &Arc<Daemon>,
    request: StreamPodSandboxesRequest,
) -> Result<Answers<StreamPodSandboxesResponse>> {
    let StreamPodSandboxesRequest { filter } = request;
    let list = list_pod_sandbox(daemon, ListPodSandboxRequest { filter }).await?;
    Ok(pages(list.items, |pod_sandboxes| {
        StreamPodSandboxesResponse { pod_sandboxes }
    }))
}
