//! `runtime.v1.ImageService`.

mod image_fs_info;
mod image_status;
mod list_images;
mod pull_image;
mod remove_image;

use super::serve;
use crate::cri::v1;
use crate::cri::v1::image_service_server::ImageService;

serve! {
    impl ImageService {
        list_images(ListImagesRequest) -> ListImagesResponse = list_images::list_images;
        image_status(ImageStatusRequest) -> ImageStatusResponse = image_status::image_status;
        pull_image(PullImageRequest) -> PullImageResponse = pull_image::pull_image;
        remove_image(RemoveImageRequest) -> RemoveImageResponse = remove_image::remove_image;
        image_fs_info(ImageFsInfoRequest) -> ImageFsInfoResponse = image_fs_info::image_fs_info;

        @stream
        stream_images(StreamImagesRequest) -> StreamImagesStream<StreamImagesResponse>
            = list_images::stream_images;
    }
}
