//! PullImage.

use std::sync::Arc;

use crate::cri::v1::{PullImageRequest, PullImageResponse};
use crate::ocid::daemon::Daemon;
use crate::ocid::error::{Error, Result};
use crate::ocid::image::RegistryAuth;
use crate::ocid::rpc::convert::named;
use crate::ocid::rpc::status::code;
use crate::ocid::sandbox;

/// Answers with the image's id: what ListImages, ImageStatus and ContainerStatus call it too.
pub async fn pull_image(
    daemon: &Arc<Daemon>,
    request: PullImageRequest,
) -> Result<PullImageResponse> {
    let name = named("image", request.image)?;
    let auth = request.auth.map(|auth| RegistryAuth {
        username: auth.username,
        password: auth.password,
        auth: auth.auth,
        server_address: auth.server_address,
        identity_token: auth.identity_token,
        registry_token: auth.registry_token,
    });
    let pod = request.sandbox_config.and_then(|config| config.metadata);
    let namespace = pod.map(|pod| pod.namespace).filter(|ns| !ns.is_empty());
    if let Some(namespace) = &namespace {
        // It goes into names of files.
        sandbox::config::name("sandbox_config.metadata.namespace", namespace)
            .map_err(Error::from)?;
    }
    let daemon = Arc::clone(daemon);
    daemon
        .clone()
        .tracked(async move {
            let pulled = daemon.images.pull_for(&name, auth, namespace).await;
            let pulled = pulled.map_err(|e| Arc::new(Error::from(e)));
            let failed = pulled.as_ref().err().map(code);
            daemon.metrics.observe_pull(failed);
            let image = pulled?;
            tracing::info!(image = %name, id = %image.id, "image is pulled");
            Ok(PullImageResponse {
                image_ref: image.id.clone(),
            })
        })
        .await
}
