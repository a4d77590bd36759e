//! The images that are here: found by name or id, removed, mounted for containers.
//!
//! Two locks. `writes` is held by whoever changes records on disk, across their fsync; `index` only
//! for moments, so that a slow disk does not hold up those who look. Layers are given up under
//! `index`, where no container can take a lease in between.

mod leases;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::JoinHandle;

use nix::fcntl::{Flock, FlockArg};
use tokio::sync::Semaphore;

use super::digest::Digest;
use super::error::ImageError;
use super::options::ImageOptions;
use super::pull::Pulls;
use super::record::{Image, Record};
use super::reference::{Named, Reference, is_id};
use super::registries::Registries;
use crate::host::fs::sync_dir;
use crate::ocid::failpoint::{self, Point};
use crate::ocid::storage::containers::{self, Lease};
use crate::ocid::storage::layers::{Layers, Unused, write_record};
use crate::ocid::storage::{FsUsage, StorageError, failed};

/// All images below one root. Cheap to clone; clones are the same store.
#[derive(Clone)]
pub struct ImageStore(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub root: PathBuf,
    options: RwLock<Arc<ImageOptions>>,
    pub layers: Arc<Layers>,
    pub permits: Arc<Semaphore>,
    pub pulls: Pulls,
    index: Mutex<Index>,
    writes: Mutex<()>,
    cleaning: Mutex<Option<JoinHandle<()>>>,
    _lock: Flock<File>,
}

#[derive(Default)]
struct Index {
    images: BTreeMap<String, Arc<Image>>,
    /// Container id to what it stands on.
    leases: HashMap<String, Lease>,
}

impl ImageStore {
    /// Opens the store below `root`, and gives up what a killed daemon left half done or unused;
    /// the files of that are deleted in the background. A second daemon on the folder is refused.
    pub fn open(root: &Path, options: ImageOptions) -> Result<Self, StorageError> {
        let images = root.join("images");
        let made = DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&images);
        made.map_err(failed("make the folder", &images))?;
        let lock = lock(&root.join("storage.lock"))?;
        let (layers, leftovers) = Layers::open(root, options.limits)?;
        let inner = Inner {
            root: root.to_owned(),
            layers: Arc::new(layers),
            permits: Arc::new(Semaphore::new(options.max_parallel_downloads.clamp(1, 64))),
            pulls: Pulls::default(),
            index: Mutex::default(),
            writes: Mutex::default(),
            cleaning: Mutex::default(),
            _lock: lock,
            options: RwLock::new(Arc::new(options)),
        };
        {
            let mut index = inner.index();
            index.images = inner.load_images()?;
            index.leases = containers::leases(root)?;
        }
        let unused = inner.withdraw_unused()?;
        let clean = move || {
            drop(leftovers);
            let count = unused.delete();
            if count > 0 {
                tracing::info!(count, "layers that no image needs were deleted");
            }
        };
        let thread = std::thread::Builder::new().name("layer-cleaning".to_owned());
        let thread = thread
            .spawn(clean)
            .map_err(failed("start a thread for", root))?;
        *inner
            .cleaning
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(thread);
        Ok(Self(Arc::new(inner)))
    }

    /// Goes on with other options; pulls under way end with those that they began with.
    pub fn reconfigure(&self, options: ImageOptions) {
        let options = Arc::new(options);
        *self
            .0
            .options
            .write()
            .unwrap_or_else(PoisonError::into_inner) = Arc::clone(&options);
        for image in self.0.index().images.values_mut() {
            let pinned = options.pins(&image.repo_tags, &image.repo_digests);
            if image.pinned != pinned {
                Arc::make_mut(image).pinned = pinned;
            }
        }
    }

    /// Waits until what [`ImageStore::open`] gave up is deleted.
    pub fn finish_cleaning(&self) {
        let thread = self
            .0
            .cleaning
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if thread.is_some_and(|t| t.join().is_err()) {
            tracing::error!("the deletion of unused layers panicked");
        }
    }

    /// An image by id (with or without `sha256:`), name, name and digest, or a beginning of its id
    /// that only it has.
    pub fn get(&self, name_or_id: &str) -> Option<Arc<Image>> {
        let index = self.0.index();
        self.0.find(&index, name_or_id).map(|(image, _)| image)
    }

    /// All images, in the order of their last pull.
    pub fn list(&self) -> Vec<Arc<Image>> {
        let mut images: Vec<Arc<Image>> = self.0.index().images.values().cloned().collect();
        images.sort_by_key(|i| i.pulled_at);
        images
    }

    /// Removes a name, and with its last name the image; by id the image with all its names. As in
    /// CRI-O a digest is a name where it was pulled by, and a mere property else, which stays. An
    /// unknown one is no error. Layers that neither an image nor a container needs go as well.
    /// Blocks for as long as deleting their files takes.
    pub fn remove(&self, name_or_id: &str) -> Result<(), ImageError> {
        let reach = |point| failpoint::reach(point).map_err(failed("go on in", &self.0.root));
        let unused = {
            let _writes = self.0.writes();
            let found = self.0.find(&self.0.index(), name_or_id);
            let Some((image, by)) = found else {
                return Ok(());
            };
            let mut image = (*image).clone();
            let gone = match by {
                Found::Id => true,
                Found::Tag(name) => {
                    image.repo_tags.retain(|t| *t != name);
                    image.is_nameless()
                }
                Found::Digest(name) => {
                    image.asked_digests.retain(|d| *d != name);
                    image.is_nameless()
                }
            };
            if gone {
                self.0.delete_record(&image.id)?;
                reach(Point::RemoveImageForgotten)?;
            } else {
                self.0.rename_record(image)?;
                reach(Point::RemoveImageRenamed)?;
            }
            self.0.withdraw_unused()?
        };
        reach(Point::RemoveImageWithdrawn)?;
        unused.delete();
        Ok(reach(Point::RemoveImageGone)?)
    }

    /// What the layers take on disk.
    pub fn usage(&self) -> FsUsage {
        let (bytes, inodes) = self.0.layers.totals();
        FsUsage {
            mountpoint: self.0.root.join("layers"),
            bytes,
            inodes,
        }
    }
}

/// What an image was found by, with the full form of the name.
enum Found {
    Id,
    Tag(String),
    Digest(String),
}

impl Inner {
    /// A panic elsewhere leaves the maps usable: each change of them is one assignment.
    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As they are now.
    pub fn options(&self) -> Arc<ImageOptions> {
        let options = self.options.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&options)
    }

    fn writes(&self) -> MutexGuard<'_, ()> {
        self.writes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn load_images(&self) -> Result<BTreeMap<String, Arc<Image>>, StorageError> {
        let folder = self.root.join("images");
        let mut records = Vec::new();
        for entry in fs::read_dir(&folder).map_err(failed("list", &folder))? {
            let path = entry.map_err(failed("list", &folder))?.path();
            if path.extension().is_some_and(|e| e == "json") {
                records.push(Record::read(&path)?);
            } else {
                // A temporary file of a record that was never put in place.
                fs::remove_file(&path).map_err(failed("remove", &path))?;
            }
        }
        // Of two images with one tag (killed between the two writes of a move), the later pull has it.
        records.sort_by_key(|r| std::cmp::Reverse(r.pulled_at));
        let options = self.options();
        let mut tags = HashSet::new();
        let mut images = BTreeMap::new();
        for mut record in records {
            let path = Record::path(&self.root, record.id.as_str());
            if let Some(missing) = record.layers.iter().find(|d| self.layers.get(d).is_none()) {
                tracing::warn!(image = %record.id, layer = %missing, "an image without its layer is removed");
                fs::remove_file(&path).map_err(failed("remove", &path))?;
                continue;
            }
            record.repo_tags.retain(|t| tags.insert(t.clone()));
            let pinned = options.pins(&record.repo_tags, &record.repo_digests);
            let image = record.image(pinned);
            let image = image.map_err(|problem| StorageError::Record { path, problem })?;
            images.insert(image.id.clone(), Arc::new(image));
        }
        Ok(images)
    }

    fn find(&self, index: &Index, text: &str) -> Option<(Arc<Image>, Found)> {
        let id = text.strip_prefix("sha256:").unwrap_or(text);
        if is_id(id) {
            let image = index.images.get(&format!("sha256:{id}"))?;
            return Some((image.clone(), Found::Id));
        }
        if let Ok(named) = Named::parse(text) {
            for reference in self.candidates(&named) {
                let found = find_name(index, &reference);
                if found.is_some() {
                    return found;
                }
            }
        }
        let hex = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
        if id.len() < 4 || !id.bytes().all(hex) {
            return None;
        }
        let prefix = format!("sha256:{id}");
        let mut fitting = index.images.range(prefix.clone()..);
        let mut next = || fitting.next().filter(|(key, _)| key.starts_with(&prefix));
        match (next(), next()) {
            (Some((_, image)), None) => Some((image.clone(), Found::Id)),
            _ => None,
        }
    }

    /// What a name may mean by registries.conf; if that cannot be read, docker.io.
    fn candidates(&self, named: &Named) -> Vec<Reference> {
        if named.registry.is_some() {
            return vec![named.qualified()];
        }
        match self.registries() {
            Ok(registries) => registries.candidates(named),
            Err(error) => {
                tracing::warn!(%error, "a short name is taken for one of docker.io");
                vec![named.qualified()]
            }
        }
    }

    pub fn registries(&self) -> Result<Registries, ImageError> {
        Registries::load(&self.options())
    }

    /// The record of an image that is here, as the base of a new one.
    pub fn record(&self, id: &Digest) -> Option<Record> {
        self.index().images.get(id.as_str())?;
        let read = Record::read(&Record::path(&self.root, id.as_str()));
        read.inspect_err(|error| tracing::warn!(%error, "an image's record cannot be read"))
            .ok()
    }

    /// Writes down an image under a new name, which other images lose. Blocks.
    pub fn commit(
        &self,
        mut record: Record,
        reference: &Reference,
        digests: &[Digest],
    ) -> Result<Arc<Image>, StorageError> {
        let _writes = self.writes();
        // Names that came in while this pull was under way are kept.
        let present = self.index().images.get(record.id.as_str()).cloned();
        if let Some(present) = present {
            record.repo_tags = present.repo_tags.clone();
            record.repo_digests = present.repo_digests.clone();
            record.asked_digests = present.asked_digests.clone();
        }
        let tag = reference.tagged();
        push_new(&mut record.repo_tags, tag.clone());
        for digest in digests {
            let name = format!("{}@{digest}", reference.name());
            push_new(&mut record.repo_digests, Some(name));
        }
        if let Some(digest) = &reference.digest {
            let name = format!("{}@{digest}", reference.name());
            push_new(&mut record.asked_digests, Some(name));
        }
        record.pulled_at = crate::host::clock::now_ns();
        let pinned = self.options().pins(&record.repo_tags, &record.repo_digests);
        let path = Record::path(&self.root, record.id.as_str());
        let image = record
            .image(pinned)
            .map_err(|problem| StorageError::Record {
                path: path.clone(),
                problem,
            })?;
        write_record(&path, &record)?;
        failpoint::reach(Point::PullRecorded).map_err(failed("go on in", &self.root))?;
        let image = Arc::new(image);
        let losers: Vec<Arc<Image>> = {
            let mut index = self.index();
            index.images.insert(image.id.clone(), image.clone());
            let others = index.images.values().filter(|i| i.id != image.id);
            let losers = others.filter(|i| tag.as_ref().is_some_and(|t| i.repo_tags.contains(t)));
            losers.cloned().collect()
        };
        for loser in losers {
            let mut loser = (*loser).clone();
            loser.repo_tags.retain(|t| Some(t) != tag.as_ref());
            self.rename_record(loser)?;
        }
        failpoint::reach(Point::PullCommitted).map_err(failed("go on in", &self.root))?;
        Ok(image)
    }

    /// Writes an image's changed names. The caller holds `writes`.
    fn rename_record(&self, mut image: Image) -> Result<(), StorageError> {
        let path = Record::path(&self.root, &image.id);
        let mut record = Record::read(&path)?;
        record.repo_tags = image.repo_tags.clone();
        record.repo_digests = image.repo_digests.clone();
        record.asked_digests = image.asked_digests.clone();
        write_record(&path, &record)?;
        image.pinned = self.options().pins(&image.repo_tags, &image.repo_digests);
        self.index()
            .images
            .insert(image.id.clone(), Arc::new(image));
        Ok(())
    }

    fn delete_record(&self, id: &str) -> Result<(), StorageError> {
        let path = Record::path(&self.root, id);
        match fs::remove_file(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            other => other.map_err(failed("remove", &path))?,
        }
        let folder = self.root.join("images");
        sync_dir(&folder).map_err(failed("make durable", &folder))?;
        self.index().images.remove(id);
        Ok(())
    }

    /// Takes every layer out of the store that nothing needs.
    pub fn withdraw_unused(&self) -> Result<Unused, StorageError> {
        let index = self.index();
        let of_images = index.images.values().flat_map(|i| &i.layers);
        let of_containers = index.leases.values().flat_map(Lease::kept);
        let used: HashSet<&Digest> = of_images.chain(of_containers).collect();
        self.layers.withdraw_unused(&used)
    }
}

fn find_name(index: &Index, reference: &Reference) -> Option<(Arc<Image>, Found)> {
    if let Some(digest) = &reference.digest {
        let name = format!("{}@{digest}", reference.name());
        let image = index
            .images
            .values()
            .find(|i| i.repo_digests.contains(&name))?;
        return Some((image.clone(), Found::Digest(name)));
    }
    let name = reference.tagged()?;
    let image = index
        .images
        .values()
        .find(|i| i.repo_tags.contains(&name))?;
    Some((image.clone(), Found::Tag(name)))
}

fn push_new(names: &mut Vec<String>, name: Option<String>) {
    names.extend(name.filter(|n| !names.contains(n)));
}

fn lock(path: &Path) -> Result<Flock<File>, StorageError> {
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path);
    let file = file.map_err(failed("open", path))?;
    let locked = Flock::lock(file, FlockArg::LockExclusiveNonblock);
    locked.map_err(|(_, e)| failed("lock (another ocid may use the folder)", path)(e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_store_on_the_folder_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let first = ImageStore::open(dir.path(), ImageOptions::default()).unwrap();
        let second = ImageStore::open(dir.path(), ImageOptions::default());
        assert!(second.is_err_and(|e| e.to_string().contains("lock")));
        drop(first);
        ImageStore::open(dir.path(), ImageOptions::default()).unwrap();
    }
}
