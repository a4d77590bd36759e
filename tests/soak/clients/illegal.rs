//! Calls that must be refused, each with its code, and those that find nothing to do.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use crio_setup::cri::v1::{ContainerState, PodSandboxConfig};
use tonic::Code;

use super::Caller;
use crate::calls::Outcome;
use crate::model::Container;

impl Caller {
    /// What must be refused, or is nothing to do.
    pub(super) async fn illegal(&mut self) -> Result<()> {
        let nobody = format!("{:064x}", self.numbers.next());
        let client = self.client.clone();
        let which = self.numbers.below(9);
        let running = |c: &Container| c.state == ContainerState::ContainerRunning;
        let running = self
            .model
            .container_ids(|c| running(c) && c.brief.is_none());
        let running = self.numbers.pick(&running).cloned();
        let pods = self.model.pod_ids(|_| true);
        let pod = self.numbers.pick(&pods).cloned();
        match (which, running, pod) {
            (0, ..) => {
                let call = async move { client.start_container(&nobody).await };
                let outcome = self.call("StartContainer of nobody", call).await?;
                self.refused("start of nobody", &[Code::NotFound], outcome)
            }
            (1, ..) => {
                let call = async move {
                    client.stop_container(&nobody, Duration::ZERO).await?;
                    client.remove_container(&nobody).await?;
                    client.stop_pod_sandbox(&nobody).await?;
                    client.remove_pod_sandbox(&nobody).await
                };
                match self.call("removal of nobody", call).await? {
                    Outcome::Refused(code, message) => bail!("{code:?} {message}"),
                    _ => Ok(()),
                }
            }
            (2, ..) => {
                let call = async move { client.container_status(&nobody, true).await };
                let outcome = self.call("ContainerStatus of nobody", call).await?;
                self.refused("status of nobody", &[Code::NotFound], outcome)
            }
            (3, ..) => {
                let config = self.config("lost", None);
                let sandbox = self.sandbox("lost");
                let call = async move { client.create_container(&nobody, config, sandbox).await };
                let outcome = self.call("CreateContainer in no pod", call).await?;
                self.refused("create in no pod", &[Code::NotFound], outcome)
            }
            (4, ..) => {
                let call = async move {
                    client
                        .run_pod_sandbox(PodSandboxConfig::default(), "")
                        .await
                };
                let outcome = self.call("RunPodSandbox of nothing", call).await?;
                self.refused("a pod of nothing", &[Code::InvalidArgument], outcome)
            }
            // After a restart the first call on a running container may be the repeat of one cut off.
            (5, Some(id), _) => {
                let call = async move { client.start_container(&id).await };
                match self.call("StartContainer again", call).await? {
                    Outcome::Done(()) if self.deaths.count() > 0 => Ok(()),
                    other => self.refused("start again", &[Code::FailedPrecondition], other),
                }
            }
            (6, _, Some(pod)) => {
                let sandbox = self.sandbox_of(&pod)?;
                let ready = self.model.pods.get(&pod).is_some_and(|pod| pod.ready);
                let call = async move { client.run_pod_sandbox(sandbox, "").await };
                match self.call("RunPodSandbox again", call).await? {
                    // One that is ready is what a repeat of the call that made it finds.
                    Outcome::Done(id) => {
                        ensure!(ready && id == pod, "a second pod {id} beside {pod}");
                        Ok(())
                    }
                    other => self.refused("run again", &[Code::AlreadyExists], other),
                }
            }
            (7, _, Some(pod)) => {
                let mut config = self.config("no-image", None);
                if let Some(image) = &mut config.image {
                    image.image = "127.0.0.1:5000/library/none:1".to_owned();
                }
                let ready = self.model.pods.get(&pod).is_some_and(|pod| pod.ready);
                let code = match ready {
                    true => Code::NotFound,
                    false => Code::FailedPrecondition,
                };
                let sandbox = self.sandbox_of(&pod)?;
                let call = async move { client.create_container(&pod, config, sandbox).await };
                let outcome = self.call("CreateContainer without image", call).await?;
                self.refused("create without image", &[code], outcome)
            }
            (8, _, Some(pod)) if self.model.pods.get(&pod).is_some_and(|pod| !pod.ready) => {
                let (config, sandbox) = (self.config("late", None), self.sandbox_of(&pod)?);
                let call = async move { client.create_container(&pod, config, sandbox).await };
                let outcome = self.call("CreateContainer in a stopped pod", call).await?;
                self.refused(
                    "create in a stopped pod",
                    &[Code::FailedPrecondition],
                    outcome,
                )
            }
            _ => Ok(()),
        }
    }
}
