//! Whom a call is about, for every line that is logged on its way.

use tracing::Span;

use crate::cri::v1;
use crate::ocid::daemon::Daemon;

/// What a request names.
pub enum About<'a> {
    Nothing,
    Pod(&'a str),
    Container(&'a str),
    Image(&'a str),
    /// A pod that is to be made.
    New(&'a v1::PodSandboxMetadata),
}

/// A request that may name a pod, a container or an image.
pub trait Subject {
    fn about(&self) -> About<'_> {
        About::Nothing
    }
}

/// Writes into a call's span whom it is about: ids in full, where they are known.
pub fn describe(span: &Span, daemon: &Daemon, request: &impl Subject) {
    match request.about() {
        About::Nothing => {}
        About::Pod(id) => {
            let known = daemon.sandboxes.get(id).map(|pod| pod.now().id.clone());
            span.record("pod", known.as_deref().unwrap_or(id));
        }
        About::Container(id) => match daemon.containers.get(id).map(|c| c.now()) {
            Some(record) => {
                span.record("pod", record.sandbox_id.as_str());
                span.record("container", record.id.as_str());
            }
            None => {
                span.record("container", id);
            }
        },
        About::Image(name) => {
            span.record("image", name);
        }
        About::New(pod) => {
            let name = format!("{}/{}", pod.namespace, pod.name);
            span.record("name", name.as_str());
        }
    }
}

macro_rules! about {
    ($($field:ident: $about:ident: $($request:ident)*;)*) => {
        $($(impl Subject for v1::$request {
            fn about(&self) -> About<'_> {
                About::$about(&self.$field)
            }
        })*)*
    };
}

about! {
    pod_sandbox_id: Pod:
        StopPodSandboxRequest RemovePodSandboxRequest PodSandboxStatusRequest PodSandboxStatsRequest
        PortForwardRequest CreateContainerRequest UpdatePodSandboxResourcesRequest;
    container_id: Container:
        StartContainerRequest StopContainerRequest RemoveContainerRequest ContainerStatusRequest
        ContainerStatsRequest UpdateContainerResourcesRequest ReopenContainerLogRequest ExecSyncRequest
        ExecRequest AttachRequest CheckpointContainerRequest;
}

macro_rules! about_nothing {
    ($($request:ident)*) => {
        $(impl Subject for v1::$request {})*
    };
}

about_nothing! {
    VersionRequest StatusRequest RuntimeConfigRequest UpdateRuntimeConfigRequest ListPodSandboxRequest
    ListContainersRequest ListContainerStatsRequest ListPodSandboxStatsRequest ListMetricDescriptorsRequest
    ListPodSandboxMetricsRequest GetEventsRequest StreamPodSandboxesRequest StreamContainersRequest
    StreamContainerStatsRequest StreamPodSandboxStatsRequest StreamPodSandboxMetricsRequest
    ListImagesRequest ImageFsInfoRequest StreamImagesRequest
}

macro_rules! about_image {
    ($($request:ident)*) => {
        $(impl Subject for v1::$request {
            fn about(&self) -> About<'_> {
                let name = self.image.as_ref().map(|image| image.image.as_str());
                name.map_or(About::Nothing, About::Image)
            }
        })*
    };
}

about_image! { ImageStatusRequest PullImageRequest RemoveImageRequest }

impl Subject for v1::RunPodSandboxRequest {
    fn about(&self) -> About<'_> {
        let config = self.config.as_ref();
        let metadata = config.and_then(|config| config.metadata.as_ref());
        metadata.map_or(About::Nothing, About::New)
    }
}
