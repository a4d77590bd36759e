//! RemoveImage.

use std::sync::Arc;

use crate::cri::v1::{RemoveImageRequest, RemoveImageResponse};
use crate::ocid::daemon::{Daemon, blocking};
use crate::ocid::error::Result;
use crate::ocid::rpc::convert::named;

/// Succeeds on an image that is not here.
pub async fn remove_image(
    daemon: &Arc<Daemon>,
    request: RemoveImageRequest,
) -> Result<RemoveImageResponse> {
    let name = named("image", request.image)?;
    let daemon = Arc::clone(daemon);
    daemon
        .clone()
        .tracked(blocking(move || Ok(daemon.images.remove(&name)?)))
        .await?;
    Ok(RemoveImageResponse {})
}
