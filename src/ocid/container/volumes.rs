//! Image volumes: an image's files, read-only, in a container of another image.
//!
//! Each is an overlay of the image's layers on `BUNDLE/volumes/N` (N counts the config's mounts) that
//! the container binds, whole or a sub-path of it. Nothing can change in it, so a sub-path that was
//! resolved once stays where it is. The container's lease keeps the layers while the image is removed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::config::Mount;
use super::error::{SpecError, VolumeError};
use crate::host::mount::unmount_below;
use crate::host::rooted::Rooted;
use crate::ocid::image::ImageStore;
use crate::ocid::storage::View;

/// The mounts' sources on the machine, by their place in the config.
pub type Sources = BTreeMap<usize, PathBuf>;

/// What [`mount`] made.
#[derive(Debug, Default)]
pub struct Mounted {
    pub sources: Sources,
    /// The ids of the images, by the same places.
    pub images: BTreeMap<usize, String>,
}

/// Mounts every image that `mounts` names. What was mounted before a failure is for [`unmount`].
pub fn mount(
    images: &ImageStore,
    container_id: &str,
    mounts: &[Mount],
    bundle: &Path,
    view: &View,
) -> Result<Mounted, SpecError> {
    let mut mounted = Mounted::default();
    for (i, mount) in mounts.iter().enumerate() {
        let Some(wanted) = &mount.image else { continue };
        let field = || format!("config.mounts[{i}]");
        let image = images
            .get(&wanted.image)
            .ok_or_else(|| VolumeError::NoImage {
                field: field(),
                image: wanted.image.clone(),
            })?;
        let target = folder(bundle).join(i.to_string());
        images
            .mount_volume(container_id, &image, view, &target)
            .map_err(|source| VolumeError::Mount {
                field: field(),
                image: wanted.image.clone(),
                source,
            })?;
        let source = below(&target, mount, &field())?;
        mounted.sources.insert(i, source);
        mounted.images.insert(i, image.id.clone());
    }
    Ok(mounted)
}

/// Takes away every image volume of the container with this bundle; none is no error.
pub fn unmount(bundle: &Path) -> std::io::Result<()> {
    unmount_below(&folder(bundle))
}

fn folder(bundle: &Path) -> PathBuf {
    bundle.join("volumes")
}

/// The sub-path as a process chrooted into the volume would find it.
fn below(volume: &Path, mount: &Mount, field: &str) -> Result<PathBuf, SpecError> {
    let path = &mount.image_sub_path;
    if path.as_os_str().is_empty() {
        return Ok(volume.to_owned());
    }
    let found = Rooted::open(volume).and_then(|root| root.resolve(path));
    match found.map_err(|e| SpecError::io("look up in the image volume", path, e))? {
        Some(found) => Ok(found),
        None => Err(VolumeError::NoSubPath {
            field: field.to_owned(),
            path: path.clone(),
            image: mount
                .image
                .as_ref()
                .map(|i| i.image.clone())
                .unwrap_or_default(),
        }
        .into()),
    }
}
