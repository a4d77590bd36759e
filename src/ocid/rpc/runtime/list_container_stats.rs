//! ListContainerStats, and StreamContainerStats, the same in several messages.

use std::sync::Arc;

use super::usage;
use crate::cri::v1::{
    ContainerStats, ContainerStatsFilter, ListContainerStatsRequest, ListContainerStatsResponse,
    StreamContainerStatsRequest, StreamContainerStatsResponse,
};
use crate::ocid::daemon::Daemon;
use crate::ocid::error::Result;
use crate::ocid::rpc::convert::{newest_first, selects};
use crate::ocid::rpc::stream::{Answers, pages};
use crate::ocid::stats::{container, filesystem};

/// Of containers that have processes, newest first; the filter is read as ListContainers reads it.
async fn list(
    daemon: &Arc<Daemon>,
    filter: Option<ContainerStatsFilter>,
) -> Result<Vec<ContainerStats>> {
    let ContainerStatsFilter {
        id,
        pod_sandbox_id,
        label_selector,
    } = filter.unwrap_or_default();
    let one = match id.as_str() {
        "" => None,
        id => Some(
            daemon
                .containers
                .get(id)
                .map(|found| found.now().id.clone()),
        ),
    };
    let pod = match pod_sandbox_id.as_str() {
        "" => None,
        id => Some(daemon.sandboxes.get(id).map(|found| found.now().id.clone())),
    };
    let mut records: Vec<_> = container::alive(daemon)
        .filter(|r| one.as_ref().is_none_or(|id| id.as_ref() == Some(&r.id)))
        .filter(|r| {
            pod.as_ref()
                .is_none_or(|id| id.as_ref() == Some(&r.sandbox_id))
        })
        .filter(|r| selects(&label_selector, &r.config.labels))
        .collect();
    newest_first(&mut records, |r| (r.created_at, &r.id));
    let found = container::of(daemon, records).await?;
    let filesystem = filesystem(daemon);
    let stats = found.iter().map(|one| usage::container(one, &filesystem));
    Ok(stats.collect())
}

pub async fn list_container_stats(
    daemon: &Arc<Daemon>,
    request: ListContainerStatsRequest,
) -> Result<ListContainerStatsResponse> {
    let stats = list(daemon, request.filter).await?;
    Ok(ListContainerStatsResponse { stats })
}

pub async fn stream_container_stats(
    daemon: &Arc<Daemon>,
    request: StreamContainerStatsRequest,
) -> Result<Answers<StreamContainerStatsResponse>> {
    let stats = list(daemon, request.filter).await?;
    Ok(pages(stats, |container_stats| {
        StreamContainerStatsResponse { container_stats }
    }))
}
