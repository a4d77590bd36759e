//! The calls that tell what is being used and what happens.

use tonic::Streaming;

use super::{Answer, Client, ClientError, filled, within};
use crate::cri::v1::{
    ContainerEventResponse, ContainerStats, ContainerStatsFilter, GetEventsRequest,
    ListContainerStatsRequest, ListMetricDescriptorsRequest, ListMetricDescriptorsResponse,
    ListPodSandboxMetricsRequest, ListPodSandboxMetricsResponse, ListPodSandboxStatsRequest,
    PodSandboxStats, PodSandboxStatsFilter, PullImageRequest,
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
