//! What containers stand on: layers that are kept for them, and mounted.

use std::fs;
use std::path::Path;

use super::{ImageStore, Inner};
use crate::ocid::image::error::ImageError;
use crate::ocid::image::record::Image;
use crate::ocid::storage::containers::{self, Lease};
use crate::ocid::storage::{StorageError, View, failed};

impl ImageStore {
    /// Keeps an image's layers for a container, also over a restart, until [`ImageStore::release`].
    pub fn lease(&self, image_id: &str, container_id: &str) -> Result<(), ImageError> {
        let image = self.get(image_id).ok_or_else(|| ImageError::NotFound {
            reference: image_id.to_owned(),
            message: "it is not here".to_owned(),
        })?;
        Ok(self.0.lease(container_id, &image)?)
    }

    /// Gives up a container's lease, and deletes layers that only it kept. Unknown is no error. Blocks.
    pub fn release(&self, container_id: &str) -> Result<(), StorageError> {
        let path = containers::folder(&self.0.root, container_id)?.join("lease.json");
        match fs::remove_file(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            other => other.map_err(failed("remove", &path))?,
        }
        let known = self.0.index().leases.remove(container_id).is_some();
        if known {
            self.0.withdraw_unused()?.delete();
        }
        Ok(())
    }

    /// Mounts a container's filesystem on `target`: the image's layers, and on top a folder of the
    /// container's own, which a second mount finds as the first left it. Takes the lease.
    pub async fn mount_container(
        &self,
        container_id: &str,
        image: &Image,
        target: &Path,
    ) -> Result<(), StorageError> {
        self.mount_container_for(container_id, image, View::default(), target)
            .await
    }

    /// [`ImageStore::mount_container`] for a container that sees its files by other users or labels.
    pub async fn mount_container_for(
        &self,
        container_id: &str,
        image: &Image,
        view: View,
        target: &Path,
    ) -> Result<(), StorageError> {
        let (store, id) = (self.0.clone(), container_id.to_owned());
        let (image, target) = (image.clone(), target.to_owned());
        let mounted = tokio::task::spawn_blocking(move || {
            store.lease(&id, &image)?;
            containers::mount(&store.root, &id, &image.layers, &view, &target)
        });
        mounted
            .await
            .unwrap_or_else(|e| Err(failed("mount on", target_of(&e))(std::io::Error::other(e))))
    }

    /// Mounts an image, read-only, as a volume of a container: `target` shows its layers, which the
    /// container's lease keeps from now on too. Unmounting is the caller's. Blocks.
    pub fn mount_volume(
        &self,
        container_id: &str,
        image: &Image,
        view: &View,
        target: &Path,
    ) -> Result<(), StorageError> {
        self.0.lease_volume(container_id, image)?;
        containers::mount_volume(&self.0.root, &image.layers, view, target)
    }

    /// Unmounts a container's filesystem; nothing mounted is no error. Blocks.
    pub fn unmount_container(&self, target: &Path) -> Result<(), StorageError> {
        containers::unmount_from(target)
    }

    /// Removes a container's files and its lease; they must be unmounted. Unknown is no error. Blocks.
    pub fn remove_container(&self, container_id: &str) -> Result<(), StorageError> {
        containers::remove(&self.0.root, container_id)?;
        self.release(container_id)
    }
}

fn target_of(_: &tokio::task::JoinError) -> &'static Path {
    Path::new("the container's rootfs")
}

impl Inner {
    fn lease(&self, container_id: &str, image: &Image) -> Result<(), StorageError> {
        self.change_lease(container_id, image, |known| {
            let mut lease = Lease::new(&image.id, image.layers.clone());
            lease.volumes = known.map(|l| l.volumes.clone()).unwrap_or_default();
            lease
        })
    }

    /// Adds an image that is a volume to a container's lease.
    fn lease_volume(&self, container_id: &str, image: &Image) -> Result<(), StorageError> {
        self.change_lease(container_id, image, |known| {
            let mut lease = match known {
                Some(lease) => lease.clone(),
                None => Lease::new("", Vec::new()),
            };
            lease.volumes.extend(image.layers.iter().cloned());
            lease.volumes.sort();
            lease.volumes.dedup();
            lease
        })
    }

    /// Replaces a container's lease by one that keeps `image` too.
    fn change_lease(
        &self,
        container_id: &str,
        image: &Image,
        change: impl FnOnce(Option<&Lease>) -> Lease,
    ) -> Result<(), StorageError> {
        let folder = containers::folder(&self.root, container_id)?;
        let (lease, old) = {
            let mut index = self.index();
            let known = index.leases.get(container_id);
            let lease = change(known);
            if known == Some(&lease) {
                return Ok(());
            }
            // From here on the layers cannot go, so it is enough to see them once.
            if let Some(missing) = image.layers.iter().find(|d| self.layers.get(d).is_none()) {
                return Err(StorageError::MissingLayer(missing.clone()));
            }
            let old = index.leases.insert(container_id.to_owned(), lease.clone());
            (lease, old)
        };
        containers::write_lease(&folder, &lease).inspect_err(|_| {
            let mut index = self.index();
            index.leases.remove(container_id);
            index
                .leases
                .extend(old.map(|old| (container_id.to_owned(), old)));
        })
    }
}
