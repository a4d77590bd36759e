//! ImageStatus.

use std::collections::HashMap;
use std::sync::Arc;

use crate::cri::v1::{ImageStatusRequest, ImageStatusResponse};
use crate::ocid::daemon::Daemon;
use crate::ocid::error::{Error, Result};
use crate::ocid::field::FieldError;
use crate::ocid::rpc::convert::image;

/// An image that is not here has no status, and that is no error.
pub async fn image_status(
    daemon: &Arc<Daemon>,
    request: ImageStatusRequest,
) -> Result<ImageStatusResponse> {
    let spec = request
        .image
        .ok_or_else(|| Error::from(FieldError::required("image")))?;
    let found = daemon.images.get(&spec.image);
    let mut info = HashMap::new();
    if let Some(found) = &found
        && request.verbose
    {
        let config = serde_json::json!({ "id": found.id, "imageSpec": found.config });
        info.insert("info".to_owned(), config.to_string());
    }
    Ok(ImageStatusResponse {
        image: found.as_deref().map(image),
        info,
    })
}
