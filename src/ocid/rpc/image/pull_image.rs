//! PullImage.

use std::sync::Arc;

use crate::cri::v1::{PullImageRequest, PullImageResponse};
use crate::ocid::daemon::Daemon;
use crate::ocid::error::{Error, Result};
use crate::ocid::image::RegistryAuth;
use crate::ocid::rpc::convert::named;

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
    let daemon = Arc::clone(daemon);
    daemon
        .clone()
        .tracked(async move {
            let image = daemon.images.pull(&name, auth).await.map_err(Error::from)?;
            tracing::info!(image = %name, id = %image.id, "image is pulled");
            Ok(PullImageResponse {
                image_ref: image.id.clone(),
            })
        })
        .await
}
