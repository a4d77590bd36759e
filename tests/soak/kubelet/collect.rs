//! Garbage collection: of containers, of pods that nobody keeps, of images.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use crio_setup::cri::v1::{self, ContainerState, PodSandboxState};

use super::node::{Node, lock};
use super::pod::remove_logs;
use crate::calls::Outcome;

/// One dead container of each name stays, and the newest sandbox of a pod that somebody keeps.
pub async fn containers(node: Arc<Node>) -> Result<()> {
    while !node.is_finished() {
        node.pause(node.pace.collection).await;
        node.alive().await;
        if let Some((pods, containers)) = node.list().await? {
            collect(&node, &pods, &containers).await?;
        }
    }
    Ok(())
}

async fn collect(node: &Node, pods: &[v1::PodSandbox], containers: &[v1::Container]) -> Result<()> {
    // After the lists: who is not among them has been given up.
    let kept = lock(&node.kept).clone();
    let mut newest: HashMap<(&str, &str), u32> = HashMap::new();
    for one in containers {
        let metadata = one.metadata.as_ref().context("no metadata")?;
        let newest = newest
            .entry((&one.pod_sandbox_id, &metadata.name))
            .or_default();
        *newest = metadata.attempt.max(*newest);
    }
    let mut latest: HashMap<&str, u32> = HashMap::new();
    for pod in pods {
        let metadata = pod.metadata.as_ref().context("no metadata")?;
        let latest = latest.entry(&metadata.uid).or_default();
        *latest = metadata.attempt.max(*latest);
    }
    for pod in pods {
        let metadata = pod.metadata.as_ref().context("no metadata")?;
        let is_kept = kept.contains(&metadata.uid);
        let ready = pod.state() == PodSandboxState::SandboxReady;
        let old = latest
            .get(metadata.uid.as_str())
            .is_some_and(|latest| metadata.attempt < *latest);
        let whole = !is_kept || (old && !ready);
        for one in containers.iter().filter(|one| one.pod_sandbox_id == pod.id) {
            let metadata = one.metadata.as_ref().context("no metadata")?;
            let name = (one.pod_sandbox_id.as_str(), metadata.name.as_str());
            let dead = one.state() != ContainerState::ContainerRunning;
            let newest = newest
                .get(&name)
                .is_some_and(|newest| metadata.attempt == *newest);
            if whole || (dead && !newest) {
                node.count("containers collected");
                let remove = || node.client.remove_container(&one.id);
                node.insist("RemoveContainer", remove).await?;
            }
        }
        if whole {
            node.count("pods collected");
            let remove = || node.client.remove_pod_sandbox(&pod.id);
            node.insist("RemovePodSandbox", remove).await?;
        }
        if !is_kept {
            remove_logs(node, &metadata.name)?;
        }
    }
    Ok(())
}

/// Images are pulled, are there, and are removed, as nobody uses them.
pub async fn images(node: Arc<Node>) -> Result<()> {
    for image in node.extra.iter().cycle() {
        node.pause(node.pace.collection).await;
        if node.is_finished() {
            break;
        }
        node.alive().await;
        let used = node.client.pull_image(&node.image, None);
        node.must("PullImage", used).await?;
        let pull = || node.client.pull_image(image, None);
        let id = node.insist("PullImage", pull).await?;
        let listed = node
            .insist("ListImages", || node.client.list_images(None))
            .await?;
        ensure!(
            listed.iter().any(|one| one.id == id),
            "{id} is not listed: {listed:?}"
        );
        node.insist("RemoveImage", || node.client.remove_image(image))
            .await?;
        match node
            .call("ImageStatus", node.client.image_status(image, false))
            .await?
        {
            Outcome::Done(answer) => ensure!(answer.image.is_none(), "{answer:?}"),
            Outcome::Refused(code, message) => anyhow::bail!("ImageStatus: {code:?} {message}"),
            Outcome::Lost => {}
        }
    }
    Ok(())
}
