//! The CRI over a unix socket, one thin method per RPC.
//!
//! Every call has a time limit. Calls that by nature last as long as something else does (a grace
//! period, a command's own limit) get that on top of it; a pull, which lasts as long as the network
//! needs, has none.

mod error;
mod observe;

use std::future::Future;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Response, Status};

use crate::cri::v1::image_service_client::ImageServiceClient;
use crate::cri::v1::runtime_service_client::RuntimeServiceClient;
use crate::cri::v1::{
    AttachRequest, AuthConfig, CheckpointContainerRequest, Container, ContainerConfig,
    ContainerFilter, ContainerStatusRequest, ContainerStatusResponse, CreateContainerRequest,
    ExecRequest, ExecSyncRequest, ExecSyncResponse, Image, ImageFilter, ImageFsInfoRequest,
    ImageFsInfoResponse, ImageSpec, ImageStatusRequest, ImageStatusResponse,
    LinuxContainerResources, ListContainersRequest, ListImagesRequest, ListPodSandboxRequest,
    NetworkConfig, PodSandbox, PodSandboxConfig, PodSandboxFilter, PodSandboxStatusRequest,
    PodSandboxStatusResponse, PortForwardRequest, PullImageRequest, RemoveContainerRequest,
    RemoveImageRequest, RemovePodSandboxRequest, ReopenContainerLogRequest, RunPodSandboxRequest,
    RuntimeConfig, RuntimeConfigRequest, RuntimeConfigResponse, StartContainerRequest,
    StatusRequest, StatusResponse, StopContainerRequest, StopPodSandboxRequest,
    UpdateContainerResourcesRequest, UpdatePodSandboxResourcesRequest, UpdateRuntimeConfigRequest,
    VersionRequest, VersionResponse,
};

pub use error::ClientError;
pub use observe::Events;

/// Where `ocid` listens unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/ocid/ocid.sock";

/// The largest answer accepted: an ExecSync may carry 16 MiB of stdout and as much of stderr, which
/// is far above gRPC's own default of 4 MiB.
const LARGEST_ANSWER: usize = 64 << 20;

/// The API version that a CRI client asks for (the field has no other defined value).
const API_VERSION: &str = "v1";

/// A connection to a CRI daemon. Cheap to clone; clones share the connection, which is made anew
/// when the daemon has restarted.
#[derive(Debug, Clone)]
pub struct Client {
    runtime: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
    limit: Duration,
}

type Answer<T> = Result<T, ClientError>;

impl Client {
    /// Connects to the daemon's socket; `limit` bounds that, and each call afterwards.
    pub async fn connect(socket: &Path, limit: Duration) -> Answer<Self> {
        let channel = opened(socket, limit).await?;
        Ok(Self::over(channel.clone(), channel, limit))
    }

    /// Connects to two sockets, of which the second serves images.
    pub async fn connect_both(socket: &Path, images: &Path, limit: Duration) -> Answer<Self> {
        let channel = opened(socket, limit).await?;
        Ok(Self::over(channel, opened(images, limit).await?, limit))
    }

    fn over(runtime: Channel, images: Channel, limit: Duration) -> Self {
        Self {
            runtime: RuntimeServiceClient::new(runtime).max_decoding_message_size(LARGEST_ANSWER),
            images: ImageServiceClient::new(images).max_decoding_message_size(LARGEST_ANSWER),
            limit,
        }
    }

    /// The same connection with another time limit per call.
    pub fn with_limit(&self, limit: Duration) -> Self {
        Self {
            limit,
            ..self.clone()
        }
    }

    /// The generated client, for an RPC that has no method here.
    pub fn runtime(&self) -> RuntimeServiceClient<Channel> {
        self.runtime.clone()
    }

    /// The generated client of the image service.
    pub fn images(&self) -> ImageServiceClient<Channel> {
        self.images.clone()
    }

    pub async fn version(&self) -> Answer<VersionResponse> {
        let request = VersionRequest {
            version: API_VERSION.to_owned(),
        };
        let mut to = self.runtime();
        within("Version", Some(self.limit), to.version(request)).await
    }

    /// Conditions (`RuntimeReady`, `NetworkReady`), runtime handlers; with `verbose` also `info`.
    pub async fn status(&self, verbose: bool) -> Answer<StatusResponse> {
        let mut to = self.runtime();
        let request = StatusRequest { verbose };
        within("Status", Some(self.limit), to.status(request)).await
    }

    /// Which cgroup driver the daemon uses.
    pub async fn runtime_config(&self) -> Answer<RuntimeConfigResponse> {
        let mut to = self.runtime();
        let call = to.runtime_config(RuntimeConfigRequest {});
        within("RuntimeConfig", Some(self.limit), call).await
    }

    /// Returns the new pod's id. An empty `handler` means the daemon's default runtime.
    pub async fn run_pod_sandbox(&self, config: PodSandboxConfig, handler: &str) -> Answer<String> {
        let request = RunPodSandboxRequest {
            config: Some(config),
            runtime_handler: handler.to_owned(),
        };
        let mut to = self.runtime();
        let call = to.run_pod_sandbox(request);
        let answer = within("RunPodSandbox", Some(self.limit), call).await?;
        filled("RunPodSandbox", "pod_sandbox_id", answer.pod_sandbox_id)
    }

    /// Stops a pod and its containers; succeeds on an unknown id.
    pub async fn stop_pod_sandbox(&self, id: &str) -> Answer<()> {
        let pod_sandbox_id = id.to_owned();
        let mut to = self.runtime();
        let call = to.stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id });
        within("StopPodSandbox", Some(self.limit), call).await?;
        Ok(())
    }

    /// Removes a pod and its containers; succeeds on an unknown id.
    pub async fn remove_pod_sandbox(&self, id: &str) -> Answer<()> {
        let pod_sandbox_id = id.to_owned();
        let mut to = self.runtime();
        let call = to.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id });
        within("RemovePodSandbox", Some(self.limit), call).await?;
        Ok(())
    }

    pub async fn pod_sandbox_status(
        &self,
        id: &str,
        verbose: bool,
    ) -> Answer<PodSandboxStatusResponse> {
        let pod_sandbox_id = id.to_owned();
        let request = PodSandboxStatusRequest {
            pod_sandbox_id,
            verbose,
        };
        let mut to = self.runtime();
        let call = to.pod_sandbox_status(request);
        within("PodSandboxStatus", Some(self.limit), call).await
    }

    pub async fn list_pod_sandboxes(
        &self,
        filter: Option<PodSandboxFilter>,
    ) -> Answer<Vec<PodSandbox>> {
        let mut to = self.runtime();
        let call = to.list_pod_sandbox(ListPodSandboxRequest { filter });
        let answer = within("ListPodSandbox", Some(self.limit), call).await?;
        Ok(answer.items)
    }

    /// Returns the new container's id. `sandbox` is the config that the pod was made from, as the
    /// CRI wants it repeated.
    pub async fn create_container(
        &self,
        pod: &str,
        config: ContainerConfig,
        sandbox: PodSandboxConfig,
    ) -> Answer<String> {
        let request = CreateContainerRequest {
            pod_sandbox_id: pod.to_owned(),
            config: Some(config),
            sandbox_config: Some(sandbox),
        };
        let mut to = self.runtime();
        let call = to.create_container(request);
        let answer = within("CreateContainer", Some(self.limit), call).await?;
        filled("CreateContainer", "container_id", answer.container_id)
    }

    pub async fn start_container(&self, id: &str) -> Answer<()> {
        let container_id = id.to_owned();
        let mut to = self.runtime();
        let call = to.start_container(StartContainerRequest { container_id });
        within("StartContainer", Some(self.limit), call).await?;
        Ok(())
    }

    /// Sends the stop signal, and kills after `grace` (whole seconds; a started one counts). Succeeds
    /// on an unknown id.
    pub async fn stop_container(&self, id: &str, grace: Duration) -> Answer<()> {
        let request = StopContainerRequest {
            container_id: id.to_owned(),
            timeout: whole_seconds(grace),
        };
        let limit = self.limit.saturating_add(grace);
        let mut to = self.runtime();
        within("StopContainer", Some(limit), to.stop_container(request)).await?;
        Ok(())
    }

    /// Removes a container, running or not; succeeds on an unknown id.
    pub async fn remove_container(&self, id: &str) -> Answer<()> {
        let container_id = id.to_owned();
        let mut to = self.runtime();
        let call = to.remove_container(RemoveContainerRequest { container_id });
        within("RemoveContainer", Some(self.limit), call).await?;
        Ok(())
    }

    pub async fn container_status(
        &self,
        id: &str,
        verbose: bool,
    ) -> Answer<ContainerStatusResponse> {
        let request = ContainerStatusRequest {
            container_id: id.to_owned(),
            verbose,
        };
        let mut to = self.runtime();
        let call = to.container_status(request);
        within("ContainerStatus", Some(self.limit), call).await
    }

    /// New limits for a container that is created or runs; what `linux` leaves at 0 stays as it is.
    pub async fn update_container_resources(
        &self,
        id: &str,
        linux: LinuxContainerResources,
    ) -> Answer<()> {
        let request = UpdateContainerResourcesRequest {
            container_id: id.to_owned(),
            linux: Some(linux),
            ..Default::default()
        };
        let mut to = self.runtime();
        let call = to.update_container_resources(request);
        within("UpdateContainerResources", Some(self.limit), call).await?;
        Ok(())
    }

    /// New limits for a pod as a whole.
    pub async fn update_pod_sandbox_resources(
        &self,
        id: &str,
        overhead: Option<LinuxContainerResources>,
        resources: Option<LinuxContainerResources>,
    ) -> Answer<()> {
        let request = UpdatePodSandboxResourcesRequest {
            pod_sandbox_id: id.to_owned(),
            overhead,
            resources,
        };
        let mut to = self.runtime();
        let call = to.update_pod_sandbox_resources(request);
        within("UpdatePodSandboxResources", Some(self.limit), call).await?;
        Ok(())
    }

    /// Tells the node's pod subnets: one, or one of each family with a comma between them.
    pub async fn update_runtime_config(&self, pod_cidr: &str) -> Answer<()> {
        let network_config = Some(NetworkConfig {
            pod_cidr: pod_cidr.to_owned(),
        });
        let request = UpdateRuntimeConfigRequest {
            runtime_config: Some(RuntimeConfig { network_config }),
        };
        let mut to = self.runtime();
        let call = to.update_runtime_config(request);
        within("UpdateRuntimeConfig", Some(self.limit), call).await?;
        Ok(())
    }

    pub async fn list_containers(&self, filter: Option<ContainerFilter>) -> Answer<Vec<Container>> {
        let mut to = self.runtime();
        let call = to.list_containers(ListContainersRequest { filter });
        let answer = within("ListContainers", Some(self.limit), call).await?;
        Ok(answer.containers)
    }

    /// After a rotation: the daemon closes the old log file and makes a new one.
    pub async fn reopen_container_log(&self, id: &str) -> Answer<()> {
        let container_id = id.to_owned();
        let mut to = self.runtime();
        let call = to.reopen_container_log(ReopenContainerLogRequest { container_id });
        within("ReopenContainerLog", Some(self.limit), call).await?;
        Ok(())
    }

    /// Writes a checkpoint of a running container to `location`, a path of the daemon's machine; `timeout` of zero is
    /// the daemon's usual.
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
        // It is the daemon that ends it in time.
        let limit = self.limit.saturating_add(timeout);
        let mut to = self.runtime();
        let call = to.checkpoint_container(request);
        within("CheckpointContainer", Some(limit), call).await?;
        Ok(())
    }

    /// Runs `command` in a container to its end. Past `timeout` (whole seconds; a started one counts;
    /// `None` has no limit at all) the daemon kills it and answers DeadlineExceeded.
    pub async fn exec_sync(
        &self,
        id: &str,
        command: Vec<String>,
        timeout: Option<Duration>,
    ) -> Answer<ExecSyncResponse> {
        let request = ExecSyncRequest {
            container_id: id.to_owned(),
            cmd: command,
            timeout: timeout.map_or(0, whole_seconds),
        };
        let limit = timeout.map(|t| self.limit.saturating_add(t));
        let mut to = self.runtime();
        within("ExecSync", limit, to.exec_sync(request)).await
    }

    /// Returns the URL at which the command is run, once.
    pub async fn exec(&self, request: ExecRequest) -> Answer<String> {
        let mut to = self.runtime();
        let answer = within("Exec", Some(self.limit), to.exec(request)).await?;
        filled("Exec", "url", answer.url)
    }

    /// Returns the URL at which the container's streams are.
    pub async fn attach(&self, request: AttachRequest) -> Answer<String> {
        let mut to = self.runtime();
        let answer = within("Attach", Some(self.limit), to.attach(request)).await?;
        filled("Attach", "url", answer.url)
    }

    /// Returns the URL at which connections into the pod are made.
    pub async fn port_forward(&self, request: PortForwardRequest) -> Answer<String> {
        let mut to = self.runtime();
        let call = to.port_forward(request);
        let answer = within("PortForward", Some(self.limit), call).await?;
        filled("PortForward", "url", answer.url)
    }

    /// Returns the image's reference as the daemon keeps it. Has no time limit.
    pub async fn pull_image(&self, image: &str, auth: Option<AuthConfig>) -> Answer<String> {
        self.pull_image_for(image, auth, None).await
    }

    /// The same for a pod, whose namespace may have credentials and a policy of its own.
    pub async fn pull_image_for(
        &self,
        image: &str,
        auth: Option<AuthConfig>,
        sandbox_config: Option<PodSandboxConfig>,
    ) -> Answer<String> {
        let request = PullImageRequest {
            image: Some(spec(image)),
            auth,
            sandbox_config,
        };
        let mut to = self.images();
        let answer = within("PullImage", None, to.pull_image(request)).await?;
        filled("PullImage", "image_ref", answer.image_ref)
    }

    pub async fn list_images(&self, filter: Option<ImageFilter>) -> Answer<Vec<Image>> {
        let mut to = self.images();
        let call = to.list_images(ListImagesRequest { filter });
        let answer = within("ListImages", Some(self.limit), call).await?;
        Ok(answer.images)
    }

    /// `image` in the answer is `None` when the store does not have it.
    pub async fn image_status(&self, image: &str, verbose: bool) -> Answer<ImageStatusResponse> {
        let request = ImageStatusRequest {
            image: Some(spec(image)),
            verbose,
        };
        let mut to = self.images();
        within("ImageStatus", Some(self.limit), to.image_status(request)).await
    }

    /// Removes an image with all its names; succeeds when the store does not have it.
    pub async fn remove_image(&self, image: &str) -> Answer<()> {
        let image = Some(spec(image));
        let mut to = self.images();
        let call = to.remove_image(RemoveImageRequest { image });
        within("RemoveImage", Some(self.limit), call).await?;
        Ok(())
    }

    pub async fn image_fs_info(&self) -> Answer<ImageFsInfoResponse> {
        let mut to = self.images();
        let call = to.image_fs_info(ImageFsInfoRequest {});
        within("ImageFsInfo", Some(self.limit), call).await
    }
}

async fn opened(socket: &Path, limit: Duration) -> Answer<Channel> {
    let opened = tokio::time::timeout(limit, open(socket)).await;
    opened.unwrap_or_else(|_| {
        let socket = socket.to_owned();
        Err(ClientError::ConnectTimedOut { socket, limit })
    })
}

/// Connects ourselves first, for an error that says what is wrong with the socket, and hands that
/// stream to tonic; later connections are tonic's to ask for.
async fn open(socket: &Path) -> Answer<Channel> {
    let path: Arc<Path> = Arc::from(socket);
    let first = UnixStream::connect(socket)
        .await
        .map_err(|source| ClientError::Connect {
            socket: socket.to_owned(),
            source,
        })?;
    let first = Arc::new(Mutex::new(Some(first)));
    let connector = tower::service_fn(move |_| {
        let path = Arc::clone(&path);
        let ready = first.lock().unwrap_or_else(PoisonError::into_inner).take();
        async move {
            match ready {
                Some(stream) => Ok(TokioIo::new(stream)),
                None => UnixStream::connect(&path).await.map(TokioIo::new),
            }
        }
    });
    // The socket's path would be an invalid `:authority`; servers expect `localhost`.
    Endpoint::from_static("http://localhost")
        .connect_with_connector(connector)
        .await
        .map_err(|source| ClientError::Handshake {
            socket: socket.to_owned(),
            source,
        })
}

async fn within<T>(
    rpc: &'static str,
    limit: Option<Duration>,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Answer<T> {
    let answer = match limit {
        Some(limit) => tokio::time::timeout(limit, call)
            .await
            .map_err(|_| ClientError::TimedOut { rpc, limit })?,
        None => call.await,
    };
    answer
        .map(Response::into_inner)
        .map_err(|status| ClientError::of(rpc, status))
}

fn filled(rpc: &'static str, field: &'static str, value: String) -> Answer<String> {
    if value.is_empty() {
        Err(ClientError::Incomplete { rpc, field })
    } else {
        Ok(value)
    }
}

fn spec(image: &str) -> ImageSpec {
    ImageSpec {
        image: image.to_owned(),
        user_specified_image: image.to_owned(),
        ..ImageSpec::default()
    }
}

/// CRI counts in whole seconds, and 0 means something else: 1 ms must not become 0.
fn whole_seconds(d: Duration) -> i64 {
    let whole = d.as_secs().saturating_add(u64::from(d.subsec_nanos() > 0));
    i64::try_from(whole).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
