//! ContainerStats.

use std::sync::Arc;

use super::usage;
use crate::cri::v1::{ContainerStatsRequest, ContainerStatsResponse};
use crate::ocid::daemon::Daemon;
use crate::ocid::error::Result;
use crate::ocid::stats::{container, filesystem};

pub async fn container_stats(
    daemon: &Arc<Daemon>,
    request: ContainerStatsRequest,
) -> Result<ContainerStatsResponse> {
    let record = daemon.containers.expect(&request.container_id)?.now();
    let found = container::of(daemon, vec![record]).await?;
    let filesystem = filesystem(daemon);
    Ok(ContainerStatsResponse {
        stats: found.first().map(|one| usage::container(one, &filesystem)),
    })
}
