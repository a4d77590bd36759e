//! ListPodSandboxMetrics, and StreamPodSandboxMetrics, the same in several messages.

use std::sync::Arc;

use crate::cri::v1::{
    ListPodSandboxMetricsRequest, ListPodSandboxMetricsResponse, StreamPodSandboxMetricsRequest,
    StreamPodSandboxMetricsResponse,
};
use crate::ocid::daemon::Daemon;
use crate::ocid::error::Result;
use crate::ocid::rpc::stream::{Answers, pages};
use crate::ocid::stats::metrics::of_all_pods;

pub async fn list_pod_sandbox_metrics(
    daemon: &Arc<Daemon>,
    _: ListPodSandboxMetricsRequest,
) -> Result<ListPodSandboxMetricsResponse> {
    let pods = of_all_pods(daemon).await?;
    Ok(ListPodSandboxMetricsResponse {
        pod_metrics: Vec::new(),
        encoded: pods,
    })
}

pub async fn stream_pod_sandbox_metrics(
    daemon: &Arc<Daemon>,
    _: StreamPodSandboxMetricsRequest,
) -> Result<Answers<StreamPodSandboxMetricsResponse>> {
    let pods = of_all_pods(daemon).await?;
    // What we wrote can be read.
    let pods = pods.iter().filter_map(|pod| pod.decode().ok());
    Ok(pages(pods.collect(), |pod_sandbox_metrics| {
        StreamPodSandboxMetricsResponse {
            pod_sandbox_metrics,
        }
    }))
}
