//! Where a checkpoint is collected: a folder of root's in the store's `tmp`, which every start empties.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::archive::IMAGES;
use super::error::CheckpointError;
use crate::host::fs::remove_tree;

/// Goes with the value, which takes a while: not on a thread that answers calls.
#[derive(Debug)]
pub struct Staging {
    tmp: PathBuf,
    path: PathBuf,
}

impl Staging {
    pub fn make(tmp: &Path) -> Result<Self, CheckpointError> {
        let mut builder = tempfile::Builder::new();
        builder
            .prefix("checkpoint-")
            .permissions(fs::Permissions::from_mode(0o700));
        let folder = builder.tempdir_in(tmp);
        let folder = folder.map_err(CheckpointError::io("make a folder in", tmp))?;
        let staging = Self {
            tmp: tmp.to_owned(),
            path: folder.keep(),
        };
        let images = staging.path.join(IMAGES);
        fs::create_dir(&images).map_err(CheckpointError::io("make the folder", images))?;
        Ok(staging)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        let name = self.path.file_name().unwrap_or_default();
        if let Err(error) = remove_tree(&self.tmp, Path::new(name)) {
            tracing::warn!(path = %self.path.display(), %error, "a checkpoint's folder was not removed");
        }
    }
}
