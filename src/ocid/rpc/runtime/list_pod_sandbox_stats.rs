//! ListPodSandboxStats, and StreamPodSandboxStats, the same in several messages.

use std::sync::Arc;

use super::usage;
use crate::cri::v1::{
    ListPodSandboxStatsRequest, ListPodSandboxStatsResponse, PodSandboxStats,
    PodSandboxStatsFilter, StreamPodSandboxStatsRequest, StreamPodSandboxStatsResponse,
};
use crate::ocid::daemon::Daemon;
use crate::ocid::error::Result;
use crate::ocid::rpc::convert::{newest_first, selects};
use crate::ocid::rpc::stream::{Answers, pages};
use crate::ocid::stats::{filesystem, pod};

/// Of pods that are ready, newest first; the filter is read as ListPodSandbox reads it.
async fn list(
    daemon: &Arc<Daemon>,
    filter: Option<PodSandboxStatsFilter>,
) -> Result<Vec<PodSandboxStats>> {
    let PodSandboxStatsFilter { id, label_selector } = filter.unwrap_or_default();
    let one = match id.as_str() {
        "" => None,
        id => Some(daemon.sandboxes.get(id).map(|found| found.now().id.clone())),
    };
    let mut records: Vec<_> = pod::ready(daemon)
        .filter(|r| one.as_ref().is_none_or(|id| id.as_ref() == Some(&r.id)))
        .filter(|r| selects(&label_selector, &r.config.labels))
        .collect();
    newest_first(&mut records, |r| (r.created_at, &r.id));
    let found = pod::of(daemon, records).await?;
    let filesystem = filesystem(daemon);
    Ok(found
        .iter()
        .map(|one| usage::pod(one, &filesystem))
        .collect())
}

pub async fn list_pod_sandbox_stats(
    daemon: &Arc<Daemon>,
    request: ListPodSandboxStatsRequest,
) -> Result<ListPodSandboxStatsResponse> {
    let stats = list(daemon, request.filter).await?;
    Ok(ListPodSandboxStatsResponse { stats })
}

pub async fn stream_pod_sandbox_stats(
    daemon: &Arc<Daemon>,
    request: StreamPodSandboxStatsRequest,
) -> Result<Answers<StreamPodSandboxStatsResponse>> {
    let stats = list(daemon, request.filter).await?;
    Ok(pages(stats, |pod_sandbox_stats| {
        StreamPodSandboxStatsResponse { pod_sandbox_stats }
    }))
}
