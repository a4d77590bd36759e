//! ListImages, and StreamImages, the same in several messages.

use std::sync::Arc;

use crate::cri::v1::{
    ListImagesRequest, ListImagesResponse, StreamImagesRequest, StreamImagesResponse,
};
use crate::ocid::daemon::Daemon;
use crate::ocid::error::Result;
use crate::ocid::rpc::convert::image;
use crate::ocid::rpc::stream::{Answers, pages};

/// All of them, or the one that the filter names.
pub async fn list_images(
    daemon: &Arc<Daemon>,
    request: ListImagesRequest,
) -> Result<ListImagesResponse> {
    let name = request
        .filter
        .and_then(|filter| filter.image)
        .map(|spec| spec.image);
    let images = match name.filter(|name| !name.is_empty()) {
        Some(name) => daemon.images.get(&name).into_iter().collect(),
        None => daemon.images.list(),
    };
    Ok(ListImagesResponse {
        images: images.iter().map(|found| image(found)).collect(),
    })
}

pub async fn stream_images(
    daemon: &Arc<Daemon>,
    request: StreamImagesRequest,
) -> Result<Answers<StreamImagesResponse>> {
    let StreamImagesRequest { filter } = request;
    let list = list_images(daemon, ListImagesRequest { filter }).await?;
    Ok(pages(list.images, |images| StreamImagesResponse { images }))
}
