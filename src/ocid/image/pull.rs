//! PullImage: from a name to an image on disk.
//!
//! One task per image and set of credentials, whoever asks; it goes on when they stop waiting. Its
//! layers are fetched side by side and unpacked while they arrive; two pulls that need one layer
//! share the work. Only when every layer stands does the image's record appear.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use reqwest::Response;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::auth::{self, RegistryAuth};
use super::digest::Digest;
use super::error::ImageError;
use super::manifest::{self, Blob, Document, Manifest, Platform};
use super::policy;
use super::record::{Image, Record, diff_ids};
use super::reference::{Named, Reference};
use super::registries::Source;
use super::registry::{Attempt, Fetched, Repository, chain_without_url};
use super::store::{ImageStore, Inner};
use crate::host::memory;
use crate::ocid::failpoint::{self, Point};
use crate::ocid::storage::layers::Pin;
use crate::ocid::storage::unpack::{Expected, Fed, LayerError, feed};
use crate::ocid::storage::{StorageError, failed};

/// How often a download that broke off is taken up again where it stopped.
const RESUMPTIONS: u32 = 5;

type Outcome = Option<Result<Arc<Image>, ImageError>>;
type Key = (Named, Option<RegistryAuth>);

/// Pulls under way, and who unpacks which layer.
#[derive(Default)]
pub struct Pulls {
    running: Mutex<HashMap<Key, watch::Receiver<Outcome>>>,
    layers: Mutex<HashMap<Digest, Weak<tokio::sync::Mutex<()>>>>,
}

impl ImageStore {
    /// Pulls an image, or joins the pull of it that is under way. Must be called in a tokio runtime.
    /// The pull goes on if the caller stops waiting.
    pub async fn pull(
        &self,
        reference: &str,
        auth: Option<RegistryAuth>,
    ) -> Result<Arc<Image>, ImageError> {
        let named = Named::parse(reference)?;
        let mut outcome = self.start(named, auth);
        let outcome = match outcome.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone(),
            Err(_) => None,
        };
        outcome.unwrap_or_else(|| Err(ImageError::Interrupted(reference.to_owned())))
    }

    fn start(&self, named: Named, auth: Option<RegistryAuth>) -> watch::Receiver<Outcome> {
        let key = (named.clone(), auth.clone());
        let mut running = self.0.pulls.running();
        if let Some(outcome) = running.get(&key) {
            return outcome.clone();
        }
        let (sender, receiver) = watch::channel(None);
        running.insert(key.clone(), receiver.clone());
        let entry = Entry {
            store: self.0.clone(),
            key,
        };
        tokio::spawn(async move {
            let outcome = pull(&entry.store, &named, auth.as_ref()).await;
            // Whoever asks from here on starts a new pull: a tag may have moved by now.
            drop(entry);
            sender.send_replace(Some(outcome));
        });
        receiver
    }
}

/// A pull's place in the table, which it leaves also when it panics.
struct Entry {
    store: Arc<Inner>,
    key: Key,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.store.pulls.running().remove(&self.key);
    }
}

impl Pulls {
    fn running(&self) -> std::sync::MutexGuard<'_, HashMap<Key, watch::Receiver<Outcome>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lock that whoever unpacks this layer holds.
    fn layer(&self, diff_id: &Digest) -> Arc<tokio::sync::Mutex<()>> {
        let mut layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
        layers.retain(|_, lock| lock.strong_count() > 0);
        if let Some(lock) = layers.get(diff_id).and_then(Weak::upgrade) {
            return lock;
        }
        let lock = Arc::new(tokio::sync::Mutex::new(()));
        layers.insert(diff_id.clone(), Arc::downgrade(&lock));
        lock
    }
}

async fn pull(
    store: &Arc<Inner>,
    named: &Named,
    auth: Option<&RegistryAuth>,
) -> Result<Arc<Image>, ImageError> {
    let registries = store.registries()?;
    let mut failure = None;
    for reference in registries.candidates(named) {
        policy::check(&store.options.policy, &reference)?;
        for source in registries.sources(&reference)? {
            match open(store, &reference, &source, auth).await {
                Ok((repository, fetched)) => {
                    let pulled = pull_from(store, &reference, repository, fetched).await;
                    // Buffers of many threads are gone; glibc would keep their pages for good.
                    memory::trim();
                    return pulled;
                }
                Err(e) => {
                    tracing::debug!(%reference, source = %source.reference, error = %e, "not here");
                    failure = Some(e);
                }
            }
        }
    }
    Err(failure.unwrap_or_else(|| ImageError::Interrupted(named.qualified().to_string())))
}

async fn open(
    store: &Inner,
    reference: &Reference,
    source: &Source,
    auth: Option<&RegistryAuth>,
) -> Result<(Repository, Fetched), ImageError> {
    // The request's credentials are for the image's own registry, not for its mirrors.
    let given = match auth {
        Some(auth) if !source.mirror => auth.credentials(reference)?,
        _ => None,
    };
    let credentials = match given {
        Some(credentials) => Some(credentials),
        None => auth::from_file(&store.options.auth_file, &source.reference)?,
    };
    Repository::open(source, credentials, &store.options.certs_dirs).await
}

/// An image's manifest, and the digests by which it can be pulled.
struct Resolved {
    manifest: Manifest,
    digests: Vec<Digest>,
}

async fn resolve(
    reference: &Reference,
    repository: &Repository,
    fetched: Fetched,
) -> Result<Resolved, ImageError> {
    let wrong = |problem: String| ImageError::Manifest {
        reference: reference.to_string(),
        problem,
    };
    let top = fetched.digest.clone();
    let kind = fetched.content_type.as_deref();
    match manifest::parse(&fetched.bytes, kind).map_err(wrong)? {
        Document::Manifest(manifest) => Ok(Resolved {
            manifest,
            digests: vec![top],
        }),
        Document::Index(choices) => {
            let choice = manifest::choose(&choices, &Platform::of_this_machine()).map_err(wrong)?;
            let fetched = repository.manifest(choice.digest.as_str()).await;
            let fetched = fetched.map_err(Attempt::into_error)?;
            let kind = fetched.content_type.as_deref();
            match manifest::parse(&fetched.bytes, kind).map_err(wrong)? {
                Document::Manifest(manifest) => Ok(Resolved {
                    manifest,
                    digests: vec![top, fetched.digest],
                }),
                Document::Index(_) => Err(wrong("an index inside an index".to_owned())),
            }
        }
    }
}

async fn pull_from(
    store: &Arc<Inner>,
    reference: &Reference,
    repository: Repository,
    fetched: Fetched,
) -> Result<Arc<Image>, ImageError> {
    let wrong = |problem: String| ImageError::Manifest {
        reference: reference.to_string(),
        problem,
    };
    let Resolved { manifest, digests } = resolve(reference, &repository, fetched).await?;
    let id = &manifest.config.digest;
    if !id.as_str().starts_with("sha256:") {
        return Err(wrong(
            "its configuration's digest is not a sha256".to_owned(),
        ));
    }
    let record = match store.record(id) {
        Some(record) => record,
        None => {
            let bytes = repository.small_blob(id, manifest.config.size).await?;
            let config = String::from_utf8(bytes);
            let config = config.map_err(|_| wrong("its configuration is not UTF-8".to_owned()))?;
            Record::new(id.clone(), config, Vec::new(), 0)
        }
    };
    let config = record.image(false).map_err(wrong)?.config;
    let diff_ids = diff_ids(&config, manifest.layers.len()).map_err(wrong)?;
    let reach = |point| failpoint::reach(point).map_err(failed("go on in", &store.root));
    reach(Point::PullResolved)?;
    let pins: Vec<Pin> = diff_ids.iter().map(|d| store.layers.pin(d)).collect();
    let layers = manifest.layers.into_iter().zip(diff_ids.iter().cloned());
    let fetched = fetch_layers(store, reference, Arc::new(repository), layers).await;
    let (store, reference) = (store.clone(), reference.clone());
    let committed = tokio::task::spawn_blocking(move || {
        let name = reference.to_string();
        let committed =
            fetched.and_then(|()| commit(&store, record, diff_ids, &reference, &digests));
        drop(pins);
        // After a failure the layers that did arrive are nobody's; after a tag has moved it may be
        // the old image's turn next time, which keeps its layers.
        if committed.is_err() {
            match store.withdraw_unused() {
                Ok(unused) => drop(unused),
                Err(error) => tracing::warn!(%error, "layers of a failed pull are left"),
            }
        }
        committed.map_err(|e: ImageError| match e {
            ImageError::Interrupted(_) => ImageError::Interrupted(name),
            other => other,
        })
    });
    committed
        .await
        .unwrap_or_else(|e| Err(ImageError::Interrupted(e.to_string())))
}

fn commit(
    store: &Inner,
    mut record: Record,
    diff_ids: Vec<Digest>,
    reference: &Reference,
    digests: &[Digest],
) -> Result<Arc<Image>, ImageError> {
    let mut size = record.config.len() as u64;
    for diff_id in &diff_ids {
        let layer = store.layers.get(diff_id);
        let layer = layer.ok_or_else(|| StorageError::MissingLayer(diff_id.clone()))?;
        size = size.saturating_add(layer.archive);
    }
    store.layers.make_durable(&diff_ids)?;
    failpoint::reach(Point::PullDurable).map_err(failed("go on in", &store.root))?;
    record.layers = diff_ids;
    record.size = size;
    Ok(store.commit(record, reference, digests)?)
}

/// Returns when all layers stand, or when after a first failure the others have been given up.
async fn fetch_layers(
    store: &Arc<Inner>,
    reference: &Reference,
    repository: Arc<Repository>,
    layers: impl Iterator<Item = (Blob, Digest)>,
) -> Result<(), ImageError> {
    let cancel = CancellationToken::new();
    let mut tasks = JoinSet::new();
    let mut seen = HashSet::new();
    for (blob, diff_id) in layers {
        if seen.insert(diff_id.clone()) {
            let fetch = Fetch {
                store: store.clone(),
                repository: repository.clone(),
                reference: reference.to_string(),
                blob,
                diff_id,
                cancel: cancel.clone(),
            };
            tasks.spawn(fetch.run());
        }
    }
    // If this future is dropped, so are the tasks, and their downloads end.
    let mut failure = None;
    while let Some(ended) = tasks.join_next().await {
        let ended = ended.unwrap_or_else(|e| Err(ImageError::Interrupted(e.to_string())));
        if let Err(e) = ended {
            cancel.cancel();
            failure.get_or_insert(e);
        }
    }
    failure.map_or(Ok(()), Err)
}

/// One layer of one pull.
struct Fetch {
    store: Arc<Inner>,
    repository: Arc<Repository>,
    reference: String,
    blob: Blob,
    diff_id: Digest,
    cancel: CancellationToken,
}

impl Fetch {
    async fn run(self) -> Result<(), ImageError> {
        let cancel = self.cancel.clone();
        let turn = async {
            let alone = self.store.pulls.layer(&self.diff_id).lock_owned().await;
            if self.store.layers.get(&self.diff_id).is_some() {
                return None;
            }
            let permit = self.store.permits.clone().acquire_owned().await.ok();
            Some((alone, permit))
        };
        let turn = tokio::select! {
            turn = turn => turn,
            () = cancel.cancelled() => return Err(self.interrupted()),
        };
        match turn {
            Some(turn) => {
                let fetched = self.fetch().await;
                drop(turn);
                fetched
            }
            None => Ok(()),
        }
    }

    async fn fetch(&self) -> Result<(), ImageError> {
        let (sender, feed) = feed();
        let (done, unpacked) = oneshot::channel();
        let layers = self.store.layers.clone();
        let expected = Expected {
            blob: self.blob.digest.clone(),
            size: self.blob.size,
            diff_id: self.diff_id.clone(),
        };
        let thread = std::thread::Builder::new()
            .name("layer-unpack".to_owned())
            .spawn(move || {
                // Nobody waits any more when the runtime is shut down; the layer stands or is gone.
                let _ = done.send(layers.add(&expected, feed));
            });
        let layer_error = |source| ImageError::Layer {
            reference: self.reference.clone(),
            digest: self.blob.digest.clone(),
            source,
        };
        thread.map_err(|e| layer_error(LayerError::Thread(Arc::new(e)).into()))?;
        let downloaded = self.download(sender).await;
        match (unpacked.await, downloaded) {
            (Ok(Ok(_)), _) => Ok(()),
            (Ok(Err(StorageError::Layer(LayerError::Abandoned))), Err(e)) => Err(e),
            (Ok(Err(e)), _) => Err(layer_error(e)),
            (Err(_), _) => Err(self.interrupted()),
        }
    }

    /// Feeds the blob to the unpacking threads, and says `End` when all of it was fed.
    async fn download(
        &self,
        sender: mpsc::Sender<Fed<prost::bytes::Bytes>>,
    ) -> Result<(), ImageError> {
        let (mut fed, mut resumed, mut progress) = (0, 0, 0);
        let mut broken: Option<ImageError> = None;
        loop {
            let response = tokio::select! {
                response = self.repository.blob(&self.blob.digest, fed) => response,
                () = self.cancel.cancelled() => return Err(self.interrupted()),
            };
            // If it cannot be taken up again, the reason is what broke it off.
            let response = response.map_err(|e| broken.take().unwrap_or(e))?;
            match self.feed(response, &sender, &mut fed).await {
                Ok(true) => return Ok(()),
                Ok(false) => {
                    // The unpacking side has failed or is content if it has left; else it wants more.
                    if fed >= self.blob.size {
                        let _ = sender.send(Fed::End).await;
                        return Ok(());
                    }
                    broken = Some(self.short(fed));
                }
                Err(e) => broken = Some(e),
            }
            resumed += 1;
            if fed == progress || resumed > RESUMPTIONS || self.cancel.is_cancelled() {
                return Err(broken.unwrap_or_else(|| self.interrupted()));
            }
            tracing::debug!(blob = %self.blob.digest, fed, "a download broke off and is taken up again");
            progress = fed;
        }
    }

    /// True when nobody takes any more; false at the end of the response.
    async fn feed(
        &self,
        mut response: Response,
        sender: &mpsc::Sender<Fed<prost::bytes::Bytes>>,
        fed: &mut u64,
    ) -> Result<bool, ImageError> {
        loop {
            let piece = tokio::select! {
                piece = response.chunk() => piece,
                () = self.cancel.cancelled() => return Err(self.interrupted()),
            };
            let piece = piece.map_err(|e| ImageError::Unavailable {
                url: format!("{} {}", self.reference, self.blob.digest),
                message: format!(
                    "after {fed} of {} bytes: {}",
                    self.blob.size,
                    chain_without_url(&e)
                ),
            })?;
            let Some(piece) = piece else {
                return Ok(false);
            };
            let length = piece.len() as u64;
            let sent = tokio::select! {
                sent = sender.send(Fed::Piece(piece)) => sent,
                () = self.cancel.cancelled() => return Err(self.interrupted()),
            };
            if sent.is_err() {
                return Ok(true);
            }
            *fed += length;
        }
    }

    fn short(&self, fed: u64) -> ImageError {
        ImageError::Unavailable {
            url: format!("{} {}", self.reference, self.blob.digest),
            message: format!("it ends after {fed} of {} bytes", self.blob.size),
        }
    }

    fn interrupted(&self) -> ImageError {
        ImageError::Interrupted(self.reference.clone())
    }
}
