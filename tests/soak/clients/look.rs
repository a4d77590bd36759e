//! What is there, against what must be.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use crio_setup::cri::v1::{self, ContainerState};

use super::Caller;
use crate::calls::Outcome;

impl Caller {
    /// Lists and statuses against the model.
    pub(super) async fn look(&mut self) -> Result<()> {
        let client = self.client.clone();
        let own = [("client".to_owned(), self.number.to_string())];
        let filters = (
            v1::PodSandboxFilter {
                label_selector: own.clone().into(),
                ..Default::default()
            },
            v1::ContainerFilter {
                label_selector: own.into(),
                ..Default::default()
            },
        );
        let call = async move {
            let pods = client.list_pod_sandboxes(Some(filters.0)).await?;
            let containers = client.list_containers(Some(filters.1)).await?;
            let mut ended = BTreeMap::new();
            for container in &containers {
                if container.state() == ContainerState::ContainerExited {
                    let answer = client.container_status(&container.id, false).await?;
                    ended.insert(container.id.clone(), answer.status);
                }
            }
            Ok((pods, containers, ended))
        };
        let (pods, containers, ended) = match self.call("lists and statuses", call).await? {
            Outcome::Done(found) => found,
            Outcome::Refused(code, message) => bail!("lists and statuses: {code:?} {message}"),
            Outcome::Lost => return Ok(()),
        };
        self.check(&pods, &containers)?;
        for (id, status) in ended {
            let status = status.context("no status")?;
            let listed = status.state() == ContainerState::ContainerExited;
            ensure!(
                listed && status.finished_at >= status.created_at,
                "{status:?}"
            );
            // Stopped before it said anything, or ended by itself with its own code. 2: the stop signal
            // met the runtime's own first process, a Go program, before it became ours; Go ends itself so
            // where a signal cannot, as in process 1 of a namespace.
            let brief = self.model.containers.get(&id).and_then(|c| c.brief);
            let known = [Some(137), Some(143), Some(2), brief];
            ensure!(known.contains(&Some(status.exit_code)), "{status:?}");
        }
        Ok(())
    }

    fn check(&self, pods: &[v1::PodSandbox], containers: &[v1::Container]) -> Result<()> {
        for (id, pod) in &self.model.pods {
            let listed = pods.iter().filter(|p| p.id == *id).count();
            let fits = listed == 1 || self.model.is_unsure(id);
            ensure!(fits, "{pod:?} is listed {listed} times");
        }
        for (id, container) in &self.model.containers {
            let listed = containers.iter().filter(|c| c.id == *id).count();
            let unsure = self.model.is_unsure(id) || self.model.is_unsure(&container.pod);
            ensure!(
                listed == 1 || unsure,
                "{container:?} is listed {listed} times"
            );
        }
        for pod in pods {
            let name = pod.metadata.as_ref().context("no metadata")?.name.as_str();
            let fits = self.model.pod_may_be(&pod.id, pod.state()) || self.model.is_unsure(name);
            ensure!(fits, "{pod:?} in {:?}", self.model);
        }
        for container in containers {
            let name = container
                .metadata
                .as_ref()
                .context("no metadata")?
                .name
                .as_str();
            let state = container.state();
            let fits = self.model.may_be(&container.id, state) || self.model.is_unsure(name);
            ensure!(fits, "{container:?} in {:?}", self.model);
        }
        Ok(())
    }
}
