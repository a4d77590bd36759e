//! ListPodSandboxMetrics, and StreamPodSandboxMetrics, the same in several messages.

use std::sync::Arc;

use crate::cri::v1;
use crate::cri::v1::{
    ListPodSandboxMetricsRequest, ListPodSandboxMetricsResponse, StreamPodSandboxMetricsRequest,
    StreamPodSandboxMetricsResponse,
};
use crate::ocid::daemon::Daemon;
use crate::ocid::error::Result;
use crate::ocid::rpc::stream::{Answers, pages};
use crate::ocid::stats::metrics::{Kind, Metric, PodMetrics, of_all_pods};

pub async fn list_pod_sandbox_metrics(
    daemon: &Arc<Daemon>,
    _: ListPodSandboxMetricsRequest,
) -> Result<ListPodSandboxMetricsResponse> {
    let pods = of_all_pods(daemon).await?.into_iter();
    Ok(ListPodSandboxMetricsResponse {
        pod_metrics: pods.map(pod).collect(),
    })
}

pub async fn stream_pod_sandbox_metrics(
    daemon: &Arc<Daemon>,
    _: StreamPodSandboxMetricsRequest,
) -> Result<Answers<StreamPodSandboxMetricsResponse>> {
    let pods = of_all_pods(daemon).await?.into_iter();
    let pods: Vec<_> = pods.map(pod).collect();
    Ok(pages(pods, |pod_sandbox_metrics| {
        StreamPodSandboxMetricsResponse {
            pod_sandbox_metrics,
        }
    }))
}

fn pod(of: PodMetrics) -> v1::PodSandboxMetrics {
    let containers = of.containers.into_iter();
    v1::PodSandboxMetrics {
        pod_sandbox_id: of.id,
        metrics: of.metrics.into_iter().map(metric).collect(),
        container_metrics: containers
            .map(|of| v1::ContainerMetrics {
                container_id: of.id,
                metrics: of.metrics.into_iter().map(metric).collect(),
            })
            .collect(),
    }
}

fn metric(of: Metric) -> v1::Metric {
    let kind = match of.kind {
        Kind::Counter => v1::MetricType::Counter,
        Kind::Gauge => v1::MetricType::Gauge,
    };
    v1::Metric {
        name: of.name.to_owned(),
        timestamp: of.at,
        metric_type: kind.into(),
        label_values: of.labels,
        value: Some(v1::UInt64Value { value: of.value }),
    }
}
