//! `runtime.v1.RuntimeService`.

mod attach;
mod checkpoint_container;
mod container_stats;
mod container_status;
mod create_container;
mod exec;
mod exec_sync;
mod get_container_events;
mod list_container_stats;
mod list_containers;
mod list_metric_descriptors;
mod list_pod_sandbox;
mod list_pod_sandbox_metrics;
mod list_pod_sandbox_stats;
mod pod_sandbox_stats;
mod pod_sandbox_status;
mod port_forward;
mod remove_container;
mod remove_pod_sandbox;
mod reopen_container_log;
mod run_pod_sandbox;
mod runtime_config;
mod start_container;
mod status;
mod stop_container;
mod stop_pod_sandbox;
mod update_container_resources;
mod update_pod_sandbox_resources;
mod update_runtime_config;
mod usage;
mod version;

use super::serve;
use crate::cri::v1;
use crate::cri::v1::runtime_service_server::RuntimeService;

serve! {
    impl RuntimeService {
        version(VersionRequest) -> VersionResponse = version::version;
        status(StatusRequest) -> StatusResponse = status::status;
        runtime_config(RuntimeConfigRequest) -> RuntimeConfigResponse = runtime_config::runtime_config;
        run_pod_sandbox(RunPodSandboxRequest) -> RunPodSandboxResponse
            = run_pod_sandbox::run_pod_sandbox;
        stop_pod_sandbox(StopPodSandboxRequest) -> StopPodSandboxResponse
            = stop_pod_sandbox::stop_pod_sandbox;
        remove_pod_sandbox(RemovePodSandboxRequest) -> RemovePodSandboxResponse
            = remove_pod_sandbox::remove_pod_sandbox;
        pod_sandbox_status(PodSandboxStatusRequest) -> PodSandboxStatusResponse
            = pod_sandbox_status::pod_sandbox_status;
        list_pod_sandbox(ListPodSandboxRequest) -> ListPodSandboxResponse
            = list_pod_sandbox::list_pod_sandbox;
        create_container(CreateContainerRequest) -> CreateContainerResponse
            = create_container::create_container;
        start_container(StartContainerRequest) -> StartContainerResponse
            = start_container::start_container;
        stop_container(StopContainerRequest) -> StopContainerResponse = stop_container::stop_container;
        remove_container(RemoveContainerRequest) -> RemoveContainerResponse
            = remove_container::remove_container;
        list_containers(ListContainersRequest) -> ListContainersResponse
            = list_containers::list_containers;
        container_status(ContainerStatusRequest) -> ContainerStatusResponse
            = container_status::container_status;
        reopen_container_log(ReopenContainerLogRequest) -> ReopenContainerLogResponse
            = reopen_container_log::reopen_container_log;
        exec_sync(ExecSyncRequest) -> ExecSyncResponse = exec_sync::exec_sync;
        exec(ExecRequest) -> ExecResponse = exec::exec;
        attach(AttachRequest) -> AttachResponse = attach::attach;
        port_forward(PortForwardRequest) -> PortForwardResponse = port_forward::port_forward;
        container_stats(ContainerStatsRequest) -> ContainerStatsResponse
            = container_stats::container_stats;
        list_container_stats(ListContainerStatsRequest) -> ListContainerStatsResponse
            = list_container_stats::list_container_stats;
        pod_sandbox_stats(PodSandboxStatsRequest) -> PodSandboxStatsResponse
            = pod_sandbox_stats::pod_sandbox_stats;
        list_pod_sandbox_stats(ListPodSandboxStatsRequest) -> ListPodSandboxStatsResponse
            = list_pod_sandbox_stats::list_pod_sandbox_stats;
        list_metric_descriptors(ListMetricDescriptorsRequest) -> ListMetricDescriptorsResponse
            = list_metric_descriptors::list_metric_descriptors;
        list_pod_sandbox_metrics(ListPodSandboxMetricsRequest) -> ListPodSandboxMetricsResponse
            = list_pod_sandbox_metrics::list_pod_sandbox_metrics;
        update_container_resources(UpdateContainerResourcesRequest)
            -> UpdateContainerResourcesResponse
            = update_container_resources::update_container_resources;
        update_pod_sandbox_resources(UpdatePodSandboxResourcesRequest)
            -> UpdatePodSandboxResourcesResponse
            = update_pod_sandbox_resources::update_pod_sandbox_resources;
        update_runtime_config(UpdateRuntimeConfigRequest) -> UpdateRuntimeConfigResponse
            = update_runtime_config::update_runtime_config;
        checkpoint_container(CheckpointContainerRequest) -> CheckpointContainerResponse
            = checkpoint_container::checkpoint_container;

        @stream
        get_container_events(GetEventsRequest)
            -> GetContainerEventsStream<ContainerEventResponse>
            = get_container_events::get_container_events;
        stream_pod_sandboxes(StreamPodSandboxesRequest)
            -> StreamPodSandboxesStream<StreamPodSandboxesResponse>
            = list_pod_sandbox::stream_pod_sandboxes;
        stream_containers(StreamContainersRequest)
            -> StreamContainersStream<StreamContainersResponse>
            = list_containers::stream_containers;
        stream_container_stats(StreamContainerStatsRequest)
            -> StreamContainerStatsStream<StreamContainerStatsResponse>
            = list_container_stats::stream_container_stats;
        stream_pod_sandbox_stats(StreamPodSandboxStatsRequest)
            -> StreamPodSandboxStatsStream<StreamPodSandboxStatsResponse>
            = list_pod_sandbox_stats::stream_pod_sandbox_stats;
        stream_pod_sandbox_metrics(StreamPodSandboxMetricsRequest)
            -> StreamPodSandboxMetricsStream<StreamPodSandboxMetricsResponse>
            = list_pod_sandbox_metrics::stream_pod_sandbox_metrics;
    }
}
