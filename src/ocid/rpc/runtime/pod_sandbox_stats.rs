//! PodSandboxStats.

use std::sync::Arc;

use super::usage;
use crate::cri::v1::{PodSandboxStatsRequest, PodSandboxStatsResponse};
use crate::ocid::daemon::Daemon;
use crate::ocid::error::Result;
use crate::ocid::stats::{filesystem, pod};

pub async fn pod_sandbox_stats(
    daemon: &Arc<Daemon>,
    request: PodSandboxStatsRequest,
) -> Result<PodSandboxStatsResponse> {
    let record = daemon.sandboxes.expect(&request.pod_sandbox_id)?.now();
    let found = pod::of(daemon, vec![record]).await?;
    let filesystem = filesystem(daemon);
    Ok(PodSandboxStatsResponse {
        stats: found.first().map(|one| usage::pod(one, &filesystem)),
    })
}
