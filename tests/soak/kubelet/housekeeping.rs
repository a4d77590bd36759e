//! What kubelet asks at regular times.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use crio_setup::cri::v1;
use crio_setup::ocic::client::ClientError;
use tonic::{Response, Status};

use super::node::Node;

/// What the generated client says, as ours does.
fn answer<T>(rpc: &'static str, answer: Result<Response<T>, Status>) -> Result<T, ClientError> {
    let answer = answer.map(Response::into_inner);
    answer.map_err(|status| ClientError::Refused { rpc, status })
}

/// The summary and the metrics. What a container has used never becomes less.
pub async fn statistics(node: Arc<Node>) -> Result<()> {
    let mut used: HashMap<String, u64> = HashMap::new();
    while !node.is_finished() {
        node.pause(node.pace.statistics).await;
        node.alive().await;
        let mut to = node.client.runtime();
        let pods = node.must("ListPodSandboxStats", async {
            let request = v1::ListPodSandboxStatsRequest { filter: None };
            answer(
                "ListPodSandboxStats",
                to.list_pod_sandbox_stats(request).await,
            )
        });
        if let Some(found) = pods.await? {
            for pod in &found.stats {
                ensure!(pod.attributes.is_some() && pod.linux.is_some(), "{pod:?}");
            }
        }
        let containers = node.must("ListContainerStats", async {
            let request = v1::ListContainerStatsRequest { filter: None };
            answer("ListContainerStats", to.list_container_stats(request).await)
        });
        if let Some(found) = containers.await? {
            let mut now = HashMap::new();
            for one in found.stats {
                let id = one.attributes.context("no attributes")?.id;
                let total = one.cpu.and_then(|cpu| cpu.usage_core_nano_seconds);
                let total = total.map_or(0, |total| total.value);
                let before = used.get(&id).copied().unwrap_or(0);
                // Of one that is about to end there is nothing.
                ensure!(
                    total >= before || total == 0,
                    "{id}: {total} after {before}"
                );
                now.insert(id, total.max(before));
            }
            used = now;
        }
        node.must("ImageFsInfo", node.client.image_fs_info())
            .await?;
        let metrics = node.must("ListPodSandboxMetrics", async {
            let request = v1::ListPodSandboxMetricsRequest {};
            answer(
                "ListPodSandboxMetrics",
                to.list_pod_sandbox_metrics(request).await,
            )
        });
        metrics.await?;
    }
    Ok(())
}

/// Is the daemon well? And the subnets, which kubelet tells again and again.
pub async fn status(node: Arc<Node>) -> Result<()> {
    while !node.is_finished() {
        node.pause(node.pace.status).await;
        node.alive().await;
        if let Some(version) = node.must("Version", node.client.version()).await? {
            ensure!(version.runtime_api_version == "v1", "{version:?}");
        }
        if let Some(answer) = node.must("Status", node.client.status(false)).await? {
            let status = answer.status.context("no status")?;
            let ready = status.conditions.iter().all(|condition| condition.status);
            ensure!(ready && status.conditions.len() >= 2, "{status:?}");
        }
        let update = node.client.update_runtime_config("10.88.0.0/16");
        node.must("UpdateRuntimeConfig", update).await?;
    }
    Ok(())
}
