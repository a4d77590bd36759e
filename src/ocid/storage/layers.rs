//! The store of layers: whole ones found by diff id, new ones unpacked and committed, unused ones
//! deleted.

use std::collections::{HashMap, HashSet};
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::unpack::{self, Expected, Feed, Limits};
use super::{StorageError, failed};
use crate::host::fs::{read_capped, remove_tree, write_atomic};
use crate::ocid::failpoint::{self, Point};
use crate::ocid::image::digest::Digest;

/// Version of `layer.json`.
const VERSION: u32 = 1;
/// Hex digits of the diff id in a folder's name.
const NAME_LENGTH: usize = 24;

/// A whole layer on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    version: u32,
    pub diff_id: Digest,
    /// Bytes of the plain archive that it was unpacked from.
    pub archive: u64,
    /// Bytes on disk, in blocks of 4 KiB.
    pub disk: u64,
    pub inodes: u64,
}

/// All layers below one root.
pub struct Layers {
    root: PathBuf,
    limits: Limits,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    whole: HashMap<Digest, Arc<Layer>>,
    /// Layers that a pull in progress counts on, with the number of such pulls.
    pinned: HashMap<Digest, usize>,
    /// Layers that a power cut would spoil.
    fresh: HashSet<Digest>,
}

/// Keeps a layer from being collected while it lives.
pub struct Pin {
    layers: Arc<Layers>,
    diff_id: Digest,
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut state = self.layers.state();
        if let Some(count) = state.pinned.get_mut(&self.diff_id) {
            *count -= 1;
            if *count == 0 {
                state.pinned.remove(&self.diff_id);
            }
        }
    }
}

/// The name of a layer's folder in `ROOT/layers`.
pub fn name(diff_id: &Digest) -> String {
    diff_id.hex().chars().take(NAME_LENGTH).collect()
}

impl Layers {
    /// Opens the store, making its folders. The second value deletes, when it is dropped, what a
    /// killed daemon left half done: that may be a lot of files, and nobody needs to wait for it.
    pub fn open(root: &Path, limits: Limits) -> Result<(Self, Unused), StorageError> {
        for (folder, mode) in [
            ("", 0o700),
            ("layers", 0o700),
            ("tmp", 0o700),
            ("empty", 0o755),
            ("also-empty", 0o755),
        ] {
            let path = root.join(folder);
            let made = DirBuilder::new().recursive(true).mode(mode).create(&path);
            made.map_err(failed("make the folder", &path))?;
        }
        let layers = Self {
            root: root.to_owned(),
            limits,
            state: Mutex::default(),
        };
        let leftovers = layers.leftovers()?;
        layers.load()?;
        Ok((layers, leftovers))
    }

    fn leftovers(&self) -> Result<Unused, StorageError> {
        let tmp = self.root.join("tmp");
        let mut found = Vec::new();
        for entry in fs::read_dir(&tmp).map_err(failed("list", &tmp))? {
            let path = entry.map_err(failed("list", &tmp))?.path();
            let tmp = tmp.clone();
            found.push(Staging { tmp, path });
        }
        Ok(Unused(found))
    }

    fn load(&self) -> Result<(), StorageError> {
        let folder = self.root.join("layers");
        let mut whole = HashMap::new();
        for entry in fs::read_dir(&folder).map_err(failed("list", &folder))? {
            let entry = entry.map_err(failed("list", &folder))?;
            let found = read_layer(&entry.path());
            match found {
                Ok(layer) if entry.file_name() == *name(&layer.diff_id) => {
                    whole.insert(layer.diff_id.clone(), Arc::new(layer));
                }
                other => {
                    let problem = other
                        .err()
                        .map_or("its name is wrong".to_owned(), |e| e.to_string());
                    tracing::warn!(path = %entry.path().display(), %problem, "a damaged layer is removed");
                    self.discard(&entry.path())?;
                }
            }
        }
        self.state().whole = whole;
        Ok(())
    }

    /// A whole layer by its diff id.
    pub fn get(&self, diff_id: &Digest) -> Option<Arc<Layer>> {
        self.state().whole.get(diff_id).cloned()
    }

    /// Keeps the layer, there already or not, from being collected.
    pub fn pin(self: &Arc<Self>, diff_id: &Digest) -> Pin {
        *self.state().pinned.entry(diff_id.clone()).or_default() += 1;
        Pin {
            layers: self.clone(),
            diff_id: diff_id.clone(),
        }
    }

    /// Unpacks a layer from a download and puts it in place. Blocks until every byte was checked; on
    /// an error nothing of it is left. A layer that is there already is returned as it is. It is not
    /// durable before [`Layers::make_durable`].
    pub fn add(&self, expected: &Expected, feed: Feed) -> Result<Arc<Layer>, StorageError> {
        let diff_id = &expected.diff_id;
        if let Some(layer) = self.get(diff_id) {
            return Ok(layer);
        }
        let staging = Staging::new(&self.root.join("tmp"), &name(diff_id))?;
        let tree = staging.path.join("d");
        fs::create_dir(&tree).map_err(failed("make the folder", &tree))?;
        let anyone = fs::Permissions::from_mode(0o755);
        fs::set_permissions(&tree, anyone).map_err(failed("set the mode of", &tree))?;
        let folder: OwnedFd = File::open(&tree).map_err(failed("open", &tree))?.into();
        let unpacked = unpack::unpack(folder, feed, expected, self.limits)?;
        let layer = Layer {
            version: VERSION,
            diff_id: diff_id.clone(),
            archive: unpacked.archive,
            disk: unpacked.disk,
            inodes: unpacked.inodes,
        };
        let record = staging.path.join("layer.json");
        let problem = |e: serde_json::Error| StorageError::Record {
            path: record.clone(),
            problem: e.to_string(),
        };
        let bytes = serde_json::to_vec(&layer).map_err(problem)?;
        fs::write(&record, bytes).map_err(failed("write", &record))?;
        failpoint::reach(Point::PullUnpacked).map_err(failed("go on in", &tree))?;
        let layer = self.put_in_place(layer, staging)?;
        failpoint::reach(Point::PullPlaced).map_err(failed("go on in", &tree))?;
        Ok(layer)
    }

    fn put_in_place(&self, layer: Layer, staging: Staging) -> Result<Arc<Layer>, StorageError> {
        let layers = self.root.join("layers");
        let path = layers.join(name(&layer.diff_id));
        let mut state = self.state();
        if let Some(layer) = state.whole.get(&layer.diff_id) {
            return Ok(layer.clone());
        }
        match fs::rename(&staging.path, &path) {
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOTEMPTY | libc::EEXIST)) => {
                let other = read_layer(&path)?.diff_id;
                return Err(StorageError::NameTaken(layer.diff_id, other));
            }
            other => other.map_err(failed("put in place", &path))?,
        }
        let layer = Arc::new(layer);
        state.whole.insert(layer.diff_id.clone(), layer.clone());
        state.fresh.insert(layer.diff_id.clone());
        Ok(layer)
    }

    /// Makes these layers durable, before the record that refers to them is written; until then a
    /// power cut only costs layers that no record names, and those are removed at the next start.
    /// One syncfs(2) for all of an image: an fsync per file would be a journal commit each, and one
    /// sync per layer would wait for everybody's writes as often.
    pub fn make_durable(&self, diff_ids: &[Digest]) -> Result<(), StorageError> {
        let fresh = {
            let state = self.state();
            if !diff_ids.iter().any(|d| state.fresh.contains(d)) {
                return Ok(());
            }
            state.fresh.clone()
        };
        let layers = self.root.join("layers");
        let folder = File::open(&layers).map_err(failed("open", &layers))?;
        nix::unistd::syncfs(&folder).map_err(failed("make durable", &layers))?;
        self.state().fresh.retain(|d| !fresh.contains(d));
        Ok(())
    }

    /// Deletes every layer that is neither in `used` nor pinned. The caller holds whatever lock
    /// keeps `used` true until [`Unused::delete`]'s turn comes: by then they can no longer be found.
    pub fn withdraw_unused(&self, used: &HashSet<&Digest>) -> Result<Unused, StorageError> {
        let mut state = self.state();
        let unused = state.whole.keys();
        let unused = unused.filter(|d| !used.contains(d) && !state.pinned.contains_key(*d));
        let unused: Vec<Digest> = unused.cloned().collect();
        let mut withdrawn = Vec::new();
        for diff_id in unused {
            let name = name(&diff_id);
            let staging = Staging::new(&self.root.join("tmp"), &name)?;
            let path = self.root.join("layers").join(&name);
            let place = staging.path.join("d");
            fs::rename(&path, &place).map_err(failed("withdraw", &path))?;
            state.whole.remove(&diff_id);
            state.fresh.remove(&diff_id);
            withdrawn.push(staging);
        }
        Ok(Unused(withdrawn))
    }

    /// Bytes on disk and inodes of all whole layers.
    pub fn totals(&self) -> (u64, u64) {
        let state = self.state();
        let layers = state.whole.values();
        layers.fold((0, 0), |(disk, inodes), l| {
            (disk.saturating_add(l.disk), inodes.saturating_add(l.inodes))
        })
    }

    fn discard(&self, path: &Path) -> Result<(), StorageError> {
        let name = path.file_name().unwrap_or_default();
        remove_tree(&self.root.join("layers"), Path::new(name)).map_err(failed("remove", path))
    }

    /// A panic elsewhere leaves the maps as they were: each change of them is one insertion.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Layers that nothing refers to any more; dropping them deletes their files.
pub struct Unused(Vec<Staging>);

impl Unused {
    /// Deletes the files, which takes as long as there are many. Returns how many layers went.
    pub fn delete(self) -> usize {
        self.0.len()
    }
}

/// A folder in `tmp` that goes with the value, unless it was renamed away.
struct Staging {
    tmp: PathBuf,
    path: PathBuf,
}

impl Staging {
    fn new(tmp: &Path, prefix: &str) -> Result<Self, StorageError> {
        let mut builder = tempfile::Builder::new();
        builder
            .prefix(prefix)
            .permissions(fs::Permissions::from_mode(0o700));
        let folder = builder
            .tempdir_in(tmp)
            .map_err(failed("make a folder in", tmp))?;
        Ok(Self {
            tmp: tmp.to_owned(),
            path: folder.keep(),
        })
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        let name = self.path.file_name().unwrap_or_default();
        // What cannot be removed now is removed at the next start.
        if let Err(error) = remove_tree(&self.tmp, Path::new(name)) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove");
        }
    }
}

fn read_layer(folder: &Path) -> Result<Layer, StorageError> {
    let path = folder.join("layer.json");
    let bytes = read_capped(&path, 1 << 16).map_err(failed("read", &path))?;
    let damaged = |problem: String| StorageError::Record {
        path: path.clone(),
        problem,
    };
    let layer: Layer = serde_json::from_slice(&bytes).map_err(|e| damaged(e.to_string()))?;
    if layer.version != VERSION {
        return Err(damaged(format!("it is of version {}", layer.version)));
    }
    Ok(layer)
}

/// Writes a record so that it is whole or absent after a crash.
pub(crate) fn write_record(path: &Path, record: &impl Serialize) -> Result<(), StorageError> {
    let bytes = serde_json::to_vec(record).map_err(|e| StorageError::Record {
        path: path.to_owned(),
        problem: e.to_string(),
    })?;
    write_atomic(path, &bytes, 0o600).map_err(failed("write", path))
}

/// No such file or folder?
pub(crate) fn is_missing(e: &io::Error) -> bool {
    e.kind() == io::ErrorKind::NotFound
}
