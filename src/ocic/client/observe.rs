//! The calls that tell what is being used and what happens.

use std::time::Duration;

use tonic::Streaming;

use super::{Answer, Client, ClientError, filled, whole_seconds, within};
use crate::cri::v1::{
    CheckpointContainerRequest, ContainerEventResponse, ContainerStats, ContainerStatsFilter,
    GetEventsRequest, ListContainerStatsRequest, ListMetricDescriptorsRequest,
    ListMetricDescriptorsResponse, ListPodSandboxMetricsRequest, ListPodSandboxMetricsResponse,
    ListPodSandboxStatsRequest, PodSandboxStats, PodSandboxStatsFilter, PullImageRequest,
};

impl Client {
    pub async fn list_container_stats(
        &self,
        filter: ContainerStatsFilter,
    ) -> Answer<Vec<ContainerStats>> {
        let filter = Some(filter);
        let mut to = self.runtime();
        let call = to.list_container_stats(ListContainerStatsRequest { filter });
        let answer = within("ListContainerStats", Some(self.limit), call).await?;
        Ok(answer.stats)
    }

    pub async fn list_pod_sandbox_stats(
        &self,
        filter: PodSandboxStatsFilter,
    ) -> Answer<Vec<PodSandboxStats>> {
        let filter = Some(filter);
        let mut to = self.runtime();
        let call = to.list_pod_sandbox_stats(ListPodSandboxStatsRequest { filter });
        let answer = within("ListPodSandboxStats", Some(self.limit), call).await?;
        Ok(answer.stats)
    }

    pub async fn list_metric_descriptors(&self) -> Answer<ListMetricDescriptorsResponse> {
        let mut to = self.runtime();
        let call = to.list_metric_descriptors(ListMetricDescriptorsRequest {});
        within("ListMetricDescriptors", Some(self.limit), call).await
    }

    pub async fn list_pod_sandbox_metrics(&self) -> Answer<ListPodSandboxMetricsResponse> {
        let mut to = self.runtime();
        let call = to.list_pod_sandbox_metrics(ListPodSandboxMetricsRequest {});
        within("ListPodSandboxMetrics", Some(self.limit), call).await
    }

    /// What happens to containers from now on, for as long as the stream is read.
    pub async fn events(&self) -> Answer<Events> {
        let mut to = self.runtime();
        let call = to.get_container_events(GetEventsRequest {});
        let stream = within(EVENTS, Some(self.limit), call).await?;
        Ok(Events { stream })
    }

    /// Writes a running container's state into the archive `location`, which the daemon makes. `timeout` is in
    /// whole seconds (a started one counts), and 0 the daemon's own limit: then there is none here.
    pub async fn checkpoint_container(
        &self,
        id: &str,
        location: &str,
        timeout: Duration,
    ) -> Answer<()> {
        let request = CheckpointContainerRequest {
            container_id: id.to_owned(),
            location: location.to_owned(),
            timeout: whole_seconds(timeout),
        };
        let limit = (!timeout.is_zero()).then(|| self.limit.saturating_add(timeout));
        let mut to = self.runtime();
        let call = to.checkpoint_container(request);
        within("CheckpointContainer", limit, call).await?;
        Ok(())
    }

    /// Pulls with everything that the CRI lets one say. Has no time limit.
    pub async fn pull_image_as(&self, request: PullImageRequest) -> Answer<String> {
        let mut to = self.images();
        let answer = within("PullImage", None, to.pull_image(request)).await?;
        filled("PullImage", "image_ref", answer.image_ref)
    }
}

const EVENTS: &str = "GetContainerEvents";

/// The stream of events.
#[derive(Debug)]
pub struct Events {
    stream: Streaming<ContainerEventResponse>,
}

impl Events {
    /// The next one; `None` when the daemon has ended the stream. Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Answer<Option<ContainerEventResponse>> {
        self.stream
            .message()
            .await
            .map_err(|status| ClientError::of(EVENTS, status))
    }
}
