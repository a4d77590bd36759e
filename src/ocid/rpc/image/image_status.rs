//! ImageStatus.

use std::collections::HashMap;
use std::sync::Arc;

use crate::cri::v1::{ImageStatusRequest, ImageStatusResponse};
use crate::ocid::daemon::Daemon;
use crate::ocid::error::Result;
use crate::ocid::rpc::convert::{image, named};
use crate::ocid::rpc::verbose;

/// An image that is not here has no status, and that is no error.
pub async fn image_status(
    daemon: &Arc<Daemon>,
    request: ImageStatusRequest,
) -> Result<ImageStatusResponse> {
    let name = named("image", request.image)?;
    let found = daemon.images.get(&name);
    let info = match &found {
        Some(found) if request.verbose => verbose::image(found),
        _ => HashMap::new(),
    };
    Ok(ImageStatusResponse {
        image: found.as_deref().map(image),
        info,
    })
}
