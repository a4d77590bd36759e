//! ListPodSandbox, and StreamPodSandboxes, the same in several messages.

use std::sync::Arc;

use crate::cri::v1::{
    ListPodSandboxRequest, ListPodSandboxResponse, PodSandboxFilter, PodSandboxState,
    StreamPodSandboxesRequest, StreamPodSandboxesResponse,
};
use crate::ocid::daemon::Daemon;
use crate::ocid::error::Result;
use crate::ocid::rpc::convert::{enumerated, newest_first, sandbox_item, selects};
use crate::ocid::rpc::stream::{Answers, pages};

/// Newest first, with the same kinds of filters as ListContainers.
pub async fn list_pod_sandbox(
    daemon: &Arc<Daemon>,
    request: ListPodSandboxRequest,
) -> Result<ListPodSandboxResponse> {
    let filter = request.filter.unwrap_or_default();
    let PodSandboxFilter {
        id,
        state,
        label_selector,
    } = filter;
    let state = state.map(|state| state.state);
    enumerated::<PodSandboxState>("filter.state.state", state)?;
    let sandboxes = if id.is_empty() {
        daemon.sandboxes.all()
    } else {
        daemon.sandboxes.get(&id).into_iter().collect()
    };
    let mut items: Vec<_> = sandboxes
        .iter()
        .map(|sandbox| sandbox.now())
        .filter(|r| selects(&label_selector, &r.config.labels))
        .map(|r| sandbox_item(&r))
        .filter(|item| state.is_none_or(|wanted| wanted == item.state))
        .collect();
    newest_first(&mut items, |s| (s.created_at, &s.id));
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
