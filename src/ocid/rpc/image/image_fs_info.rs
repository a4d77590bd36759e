//! ImageFsInfo.

use std::path::Path;
use std::sync::Arc;

use crate::cri::v1::{
    FilesystemIdentifier, FilesystemUsage, ImageFsInfoRequest, ImageFsInfoResponse, UInt64Value,
};
use crate::host::clock::now_ns;
use crate::ocid::daemon::{Daemon, blocking};
use crate::ocid::error::Result;
use crate::ocid::stats::{container, filesystem};

/// What layers of images take, and what containers have written, those that have ended included. Both are
/// known by one folder where they share a filesystem: kubelet takes two for two filesystems.
pub async fn image_fs_info(
    daemon: &Arc<Daemon>,
    _: ImageFsInfoRequest,
) -> Result<ImageFsInfoResponse> {
    let images = {
        let daemon = Arc::clone(daemon);
        blocking(move || Ok(daemon.images.usage())).await?
    };
    let at = now_ns();
    let records = daemon.containers.all().into_iter().map(|one| one.now());
    let written = container::written(daemon, &records.collect::<Vec<_>>()).await;
    let sum = |get: fn(&crate::ocid::stats::Written) -> u64| written.values().map(get).sum();
    // As old as the oldest of them.
    let measured = written.values().map(|one| one.at).min().unwrap_or(at);
    Ok(ImageFsInfoResponse {
        image_filesystems: vec![usage(at, &images.mountpoint, images.bytes, images.inodes)],
        container_filesystems: vec![usage(
            measured,
            &filesystem(daemon),
            sum(|one| one.bytes),
            sum(|one| one.inodes),
        )],
    })
}

fn usage(timestamp: i64, mountpoint: &Path, bytes: u64, inodes: u64) -> FilesystemUsage {
    FilesystemUsage {
        timestamp,
        fs_id: Some(FilesystemIdentifier {
            mountpoint: mountpoint.display().to_string(),
        }),
        used_bytes: Some(UInt64Value { value: bytes }),
        inodes_used: Some(UInt64Value { value: inodes }),
    }
}
