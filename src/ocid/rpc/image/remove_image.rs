//! RemoveImage.

use std::sync::Arc;

use crate::cri::v1::{RemoveImageRequest, RemoveImageResponse};
use crate::ocid::daemon::{Daemon, blocking};
use crate::ocid::error::{Error, Result};
use crate::ocid::field::FieldError;

/// Succeeds on an image that is not here.
pub async fn remove_image(
    daemon: &Arc<Daemon>,
    request: RemoveImageRequest,
) -> Result<RemoveImageResponse> {
    let name = request
        .image
        .ok_or_else(|| Error::from(FieldError::required("image")))?
        .image;
    if name.is_empty() {
        return Err(Arc::new(FieldError::required("image.image").into()));
    }
    let daemon = Arc::clone(daemon);
    daemon
        .clone()
        .tracked(blocking(move || Ok(daemon.images.remove(&name)?)))
        .await?;
    Ok(RemoveImageResponse {})
}
