//! ImageFsInfo.

use std::sync::Arc;

use crate::cri::v1::{
    FilesystemIdentifier, FilesystemUsage, ImageFsInfoRequest, ImageFsInfoResponse, UInt64Value,
};
use crate::host::clock::now_ns;
use crate::ocid::daemon::{Daemon, blocking};
use crate::ocid::error::Result;

/// Images and writable layers share one filesystem.
pub async fn image_fs_info(
    daemon: &Arc<Daemon>,
    _: ImageFsInfoRequest,
) -> Result<ImageFsInfoResponse> {
    let usage = {
        let daemon = Arc::clone(daemon);
        blocking(move || Ok(daemon.images.usage())).await?
    };
    let usage = FilesystemUsage {
        timestamp: now_ns(),
        fs_id: Some(FilesystemIdentifier {
            mountpoint: usage.mountpoint.display().to_string(),
        }),
        used_bytes: Some(UInt64Value { value: usage.bytes }),
        inodes_used: Some(UInt64Value {
            value: usage.inodes,
        }),
    };
    Ok(ImageFsInfoResponse {
        image_filesystems: vec![usage.clone()],
        container_filesystems: vec![usage],
    })
}
