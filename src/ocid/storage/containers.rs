//! Containers' filesystems: a writable folder on top of an image's layers, and the lease that keeps
//! those layers while the container exists.

use std::collections::HashMap;
use std::fs::{self, DirBuilder};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::layers::{is_missing, name};
use super::overlay::{Users, View, mount_mapped, mount_overlay, mount_read_only, unmount};
use super::{MOST_LAYERS, StorageError, failed};
use crate::host::fs::{read_capped, remove_tree};
use crate::ocid::image::digest::Digest;

/// Version of `lease.json`.
const VERSION: u32 = 1;

/// What a container stands on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    version: u32,
    /// The image's id, `sha256:...`.
    pub image: String,
    /// Diff ids, lowest first.
    pub layers: Vec<Digest>,
    /// Diff ids of the images that it has as volumes, in any order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<Digest>,
}

impl Lease {
    pub fn new(image: &str, layers: Vec<Digest>) -> Self {
        Self {
            version: VERSION,
            image: image.to_owned(),
            layers,
            volumes: Vec::new(),
        }
    }

    /// Every layer that it keeps.
    pub fn kept(&self) -> impl Iterator<Item = &Digest> {
        self.layers.iter().chain(&self.volumes)
    }
}

/// The folder of a container's files; refuses what could name another place.
pub fn folder(root: &Path, container_id: &str) -> Result<PathBuf, StorageError> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    if container_id.is_empty() || container_id.len() > 64 || !container_id.bytes().all(plain) {
        return Err(StorageError::InvalidId(container_id.to_owned()));
    }
    Ok(root.join("containers").join(container_id))
}

/// Writes down the lease. Not synced: after a power cut there is no container it could protect.
pub fn write_lease(folder: &Path, lease: &Lease) -> Result<(), StorageError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(failed("make the folder", folder))?;
    let path = folder.join("lease.json");
    let temporary = folder.join("lease.json.new");
    let bytes = serde_json::to_vec(lease).map_err(|e| StorageError::Record {
        path: path.clone(),
        problem: e.to_string(),
    })?;
    fs::write(&temporary, bytes).map_err(failed("write", &temporary))?;
    fs::rename(&temporary, &path).map_err(failed("put in place", &path))
}

/// All leases below `root`, by container id. A damaged one (the machine lost its power while it was
/// written) protects nothing, as its container is gone as well.
pub fn leases(root: &Path) -> Result<HashMap<String, Lease>, StorageError> {
    let containers = root.join("containers");
    let entries = match fs::read_dir(&containers) {
        Err(e) if is_missing(&e) => return Ok(HashMap::new()),
        other => other.map_err(failed("list", &containers))?,
    };
    let mut leases = HashMap::new();
    for entry in entries {
        let entry = entry.map_err(failed("list", &containers))?;
        let path = entry.path().join("lease.json");
        let bytes = match read_capped(&path, 1 << 20) {
            Err(e) if is_missing(&e) || e.raw_os_error() == Some(libc::ENOTDIR) => continue,
            other => other.map_err(failed("read", &path))?,
        };
        match serde_json::from_slice::<Lease>(&bytes) {
            Ok(lease) if lease.version == VERSION => {
                leases.insert(entry.file_name().to_string_lossy().into_owned(), lease);
            }
            Ok(lease) => {
                let problem = format!("it is of version {}", lease.version);
                return Err(StorageError::Record { path, problem });
            }
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "a damaged lease is ignored")
            }
        }
    }
    Ok(leases)
}

/// What a container stands on: the folders of its layers, topmost first.
pub fn layers_below(root: &Path, container_id: &str) -> Result<Vec<PathBuf>, StorageError> {
    let path = folder(root, container_id)?.join("lease.json");
    let bytes = read_capped(&path, 1 << 20).map_err(failed("read", &path))?;
    let lease: Lease = serde_json::from_slice(&bytes).map_err(|e| StorageError::Record {
        path,
        problem: e.to_string(),
    })?;
    let store = root.join("layers");
    let layers = stack(&lease.layers).into_iter();
    Ok(layers
        .map(|diff_id| store.join(name(diff_id)).join("d"))
        .collect())
}

/// Mounts a container's filesystem on `target`, replacing a mount left there. The writable folder
/// of an earlier mount is kept; overlayfs' work folder is made anew. `view` is how the container
/// sees it.
pub fn mount(
    root: &Path,
    container_id: &str,
    layers: &[Digest],
    view: &View,
    target: &Path,
) -> Result<(), StorageError> {
    let own = folder(root, container_id)?;
    let store = root.join("layers");
    let mut lower = lower(&store, layers)?;
    if lower.is_empty() {
        lower.push(EMPTY.to_owned());
    }
    unmount(target).map_err(failed("unmount", target))?;
    let made = DirBuilder::new().recursive(true).mode(0o700).create(&own);
    made.map_err(failed("make the folder", &own))?;
    let top = lower.first().map(String::as_str).unwrap_or(EMPTY);
    make_upper(&own.join("upper"), &store.join(top), view.users.as_ref())?;
    remove_tree(&own, Path::new("work")).map_err(failed("remove the old", &own.join("work")))?;
    let work = own.join("work");
    fs::create_dir(&work).map_err(failed("make the folder", &work))?;
    let made = DirBuilder::new().recursive(true).mode(0o755).create(target);
    made.map_err(failed("make the folder", target))?;
    let relative = |what: &str| format!("../containers/{container_id}/{what}");
    let mounted = match &view.users {
        Some(users) => mount_mapped(&store, &lower, Some(&own), users, view, target),
        None => mount_overlay(
            &store,
            &lower,
            &relative("upper"),
            &relative("work"),
            view,
            target,
        ),
    };
    mounted.map_err(|source| StorageError::Mount {
        target: target.to_owned(),
        layers: lower.len(),
        source: source.into(),
    })
}

/// Mounts an image's layers, and nothing that could be written, on `target`, replacing a mount left
/// there.
pub fn mount_volume(
    root: &Path,
    layers: &[Digest],
    view: &View,
    target: &Path,
) -> Result<(), StorageError> {
    let store = root.join("layers");
    let mut lower = lower(&store, layers)?;
    // Without an upper folder overlayfs wants two that do not lie within each other.
    for empty in [EMPTY, ALSO_EMPTY] {
        if lower.len() < 2 {
            lower.push(empty.to_owned());
        }
    }
    unmount(target).map_err(failed("unmount", target))?;
    let made = DirBuilder::new().recursive(true).mode(0o711).create(target);
    made.map_err(failed("make the folder", target))?;
    let mounted = match &view.users {
        Some(users) => mount_mapped(&store, &lower, None, users, view, target),
        None => mount_read_only(&store, &lower, view, target),
    };
    mounted.map_err(|source| StorageError::Mount {
        target: target.to_owned(),
        layers: lower.len(),
        source: source.into(),
    })
}

/// Folders without anything in them, as seen from the folder of the layers.
const EMPTY: &str = "../empty";
const ALSO_EMPTY: &str = "../also-empty";

/// The layers' folders in `store`, topmost first; each of them is there.
fn lower(store: &Path, layers: &[Digest]) -> Result<Vec<String>, StorageError> {
    let stack = stack(layers);
    if stack.len() > MOST_LAYERS {
        return Err(StorageError::TooManyLayers(stack.len()));
    }
    for diff_id in &stack {
        let tree = store.join(name(diff_id)).join("d");
        if let Err(e) = fs::metadata(&tree) {
            return Err(if is_missing(&e) {
                StorageError::MissingLayer((*diff_id).clone())
            } else {
                failed("look at", &tree)(e)
            });
        }
    }
    Ok(stack.iter().map(|d| format!("{}/d", name(d))).collect())
}

/// The overlay's root folder takes its owner and mode from the upper folder, so that gets the image's.
fn make_upper(upper: &Path, top: &Path, users: Option<&Users>) -> Result<(), StorageError> {
    match fs::create_dir(upper) {
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => return Ok(()),
        other => other.map_err(failed("make the folder", upper))?,
    }
    let root = fs::metadata(top).map_err(failed("look at", top))?;
    let owner = (root.uid(), root.gid());
    // An owner whom the namespace does not know stays out of its reach.
    let mapped = users.and_then(|users| users.maps.owner(owner.0, owner.1));
    let (uid, gid) = mapped.unwrap_or(owner);
    chown(upper, Some(uid), Some(gid)).map_err(failed("give an owner to", upper))?;
    let mode = fs::Permissions::from_mode(root.mode() & 0o7777);
    fs::set_permissions(upper, mode).map_err(failed("set the mode of", upper))
}

/// Layers topmost first, each once: overlayfs takes no folder twice, and of a layer that an image
/// has twice the lower one changes nothing, since the upper one lays the same files over it.
fn stack(layers: &[Digest]) -> Vec<&Digest> {
    let mut stack: Vec<&Digest> = Vec::new();
    for diff_id in layers.iter().rev() {
        if !stack.contains(&diff_id) {
            stack.push(diff_id);
        }
    }
    stack
}

/// Unmounts a container's filesystem; nothing mounted is no error.
pub fn unmount_from(target: &Path) -> Result<(), StorageError> {
    unmount(target).map_err(failed("unmount", target))
}

/// Removes what the storage keeps of a container, and its folder if nobody else has anything in it.
/// What is gone already is no error.
pub fn remove(root: &Path, container_id: &str) -> Result<(), StorageError> {
    let own = folder(root, container_id)?;
    for part in ["upper", "work", "lease.json.new", "lease.json"] {
        remove_tree(&own, Path::new(part)).map_err(failed("remove", &own.join(part)))?;
    }
    match fs::remove_dir(&own) {
        Err(e) if is_missing(&e) || e.raw_os_error() == Some(libc::ENOTEMPTY) => Ok(()),
        other => other.map_err(failed("remove", &own)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_ids_name_a_folder() {
        let root = Path::new("/r");
        assert!(folder(root, &"0f".repeat(32)).is_ok());
        for bad in ["", "..", "a/b", "/etc", "a:b", "a,b", &"a".repeat(65)] {
            assert!(
                matches!(folder(root, bad), Err(StorageError::InvalidId(_))),
                "{bad}"
            );
        }
    }

    #[test]
    fn a_layer_that_comes_twice_is_mounted_once_on_top() {
        let (a, b) = (Digest::sha256(b"a"), Digest::sha256(b"b"));
        let layers = [a.clone(), b.clone(), a.clone()];
        assert_eq!(stack(&layers), [&a, &b]);
    }

    #[test]
    fn leases_are_read_back_and_damaged_ones_ignored() {
        let dir = tempfile::tempdir().unwrap();
        assert!(leases(dir.path()).unwrap().is_empty());
        let lease = Lease::new("sha256:i", vec![Digest::sha256(b"a")]);
        write_lease(&folder(dir.path(), "c1").unwrap(), &lease).unwrap();
        let torn = folder(dir.path(), "c2").unwrap();
        fs::create_dir_all(&torn).unwrap();
        fs::write(torn.join("lease.json"), b"").unwrap();
        let found = leases(dir.path()).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found["c1"], lease);
        remove(dir.path(), "c1").unwrap();
        remove(dir.path(), "c1").unwrap();
        assert!(leases(dir.path()).unwrap().is_empty());
    }
}
