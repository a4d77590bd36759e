//! PullImage: from a name to an image on disk.
//!
//! One task per image and set of credentials, whoever asks; it goes on when they stop waiting. Its
//! layers are fetched side by side and unpacked while they arrive; two pulls that need one layer
//! share the work. Only when every layer stands does the image's record appear. Whatever goes wrong at a
//! mirror, the next source is tried: it may have what the mirror lacks, or tell the truth.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::auth::{self, RegistryAuth};
use super::digest::Digest;
use super::error::{ImageError, chain};
use super::fetch::Fetch;
use super::manifest::{self, Blob, Document, Manifest, Platform};
use super::namespaced::Namespaced;
use super::options::ImageOptions;
use super::policy;
use super::progress::Progress;
use super::record::{Image, Record, diff_ids};
use super::reference::{Named, Reference};
use super::registries::{Registries, Source};
use super::registry::{Attempt, Fetched, Repository};
use super::store::{ImageStore, Inner};
use crate::host::memory;
use crate::ocid::failpoint::{self, Point};
use crate::ocid::storage::layers::Pin;
use crate::ocid::storage::{StorageError, failed};

type Outcome = Option<Result<Arc<Image>, ImageError>>;
type Key = (Named, Option<RegistryAuth>, Option<String>);

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
        self.pull_for(reference, auth, None).await
    }

    /// [`ImageStore::pull`] for a pod of this namespace, which may have credentials and a policy of its own.
    pub async fn pull_for(
        &self,
        reference: &str,
        auth: Option<RegistryAuth>,
        namespace: Option<String>,
    ) -> Result<Arc<Image>, ImageError> {
        let named = Named::parse(reference)?;
        let mut outcome = self.start(named, auth, namespace);
        let outcome = match outcome.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone(),
            Err(_) => None,
        };
        outcome.unwrap_or_else(|| Err(ImageError::Interrupted(reference.to_owned())))
    }

    fn start(
        &self,
        named: Named,
        auth: Option<RegistryAuth>,
        namespace: Option<String>,
    ) -> watch::Receiver<Outcome> {
        let options = self.0.options();
        let by_namespace =
            options.namespaced_auth.is_some() || options.namespaced_policies.is_some();
        let namespace = namespace.filter(|_| by_namespace);
        let key = (named.clone(), auth.clone(), namespace.clone());
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
            let progress = Arc::new(Progress::default());
            let wanted = Wanted {
                named: &named,
                auth: auth.as_ref(),
                namespace: namespace.as_deref(),
            };
            let pull = pull(&entry.store, &options, &wanted, &progress);
            let outcome = match options.progress_timeout {
                Some(limit) => {
                    let image = named.qualified().to_string();
                    progress.watch(&image, limit, pull).await
                }
                None => pull.await,
            };
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
    pub fn layer(&self, diff_id: &Digest) -> Arc<tokio::sync::Mutex<()>> {
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

/// What somebody asks for, and by what right.
struct Wanted<'a> {
    named: &'a Named,
    auth: Option<&'a RegistryAuth>,
    namespace: Option<&'a str>,
}

async fn pull(
    store: &Arc<Inner>,
    options: &ImageOptions,
    wanted: &Wanted<'_>,
    progress: &Arc<Progress>,
) -> Result<Arc<Image>, ImageError> {
    let registries = store.registries()?;
    let mut failure = None;
    for reference in registries.resolve(wanted.named)? {
        let pull = Pull {
            store,
            options,
            namespaced: Namespaced::take(options, wanted.namespace, &reference)?,
            registries: &registries,
            reference,
            auth: wanted.auth,
            progress,
        };
        match pull.pull_anywhere().await {
            Ok(image) => return Ok(image),
            Err(e) if !e.may_differ_elsewhere() => return Err(e),
            Err(e) => failure = Some(e),
        }
    }
    Err(failure.unwrap_or_else(|| ImageError::Interrupted(wanted.named.qualified().to_string())))
}

/// One of the images that the name may mean.
struct Pull<'a> {
    store: &'a Arc<Inner>,
    /// As they were when the pull began.
    options: &'a ImageOptions,
    namespaced: Namespaced,
    registries: &'a Registries,
    reference: Reference,
    auth: Option<&'a RegistryAuth>,
    progress: &'a Arc<Progress>,
}

impl Pull<'_> {
    /// From its mirrors, or its own registry.
    async fn pull_anywhere(&self) -> Result<Arc<Image>, ImageError> {
        let options = self.options;
        match &self.namespaced.policy {
            Some(policy) => policy::check(policy, true, &self.reference)?,
            None => policy::check(&options.policy, options.policy_required, &self.reference)?,
        }
        let mut sources = self.registries.sources(&self.reference)?;
        let own = sources.pop();
        let mut failed = Vec::new();
        for mirror in &sources {
            match self.pull_from(mirror, false).await {
                Err(e) if e.may_differ_elsewhere() => {
                    tracing::debug!(mirror = %mirror.reference, error = %chain(&e), "not from here");
                    failed.push(chain(&e));
                }
                done => return done,
            }
        }
        let Some(own) = own else {
            return Err(ImageError::Interrupted(self.reference.to_string()));
        };
        self.pull_from(&own, true).await.map_err(|error| {
            if failed.is_empty() || !error.may_differ_elsewhere() {
                return error;
            }
            ImageError::Everywhere {
                error: Box::new(error),
                mirrors: failed.join("; "),
            }
        })
    }

    async fn pull_from(&self, source: &Source, last: bool) -> Result<Arc<Image>, ImageError> {
        let image = self.reference.to_string();
        let resolved = async {
            let (repository, fetched) = self.open(source, last).await?;
            self.progress.received(fetched.bytes.len() as u64);
            let resolved = resolve(&self.reference, &repository, fetched).await?;
            let record = record(self.store, &self.reference, &repository, &resolved).await?;
            Ok((repository, resolved, record))
        };
        let (repository, resolved, record) = self.progress.answer(&image, resolved).await?;
        let pulled = self.layers(repository, resolved, record).await;
        // Buffers of many threads are gone; glibc would keep their pages for good.
        memory::trim();
        pulled
    }

    async fn open(&self, source: &Source, last: bool) -> Result<(Repository, Fetched), ImageError> {
        let options = self.options;
        // The request's credentials are for the image's own registry, not for its mirrors.
        let given = match self.auth {
            Some(auth) if source.named => auth.credentials(&self.reference)?,
            _ => None,
        };
        let given = match given {
            None => self.namespaced.credentials(&source.reference).await?,
            given => given,
        };
        let credentials = match given {
            Some(credentials) => Some(credentials),
            None => {
                let helpers = self.registries.helpers();
                auth::stored(&helpers, &options.auth_files, &source.reference).await?
            }
        };
        Repository::open(
            source,
            credentials,
            &options.certs_dirs,
            options.retries,
            last,
        )
        .await
    }

    /// Fetches what is missing, and writes the image down.
    async fn layers(
        &self,
        repository: Repository,
        resolved: Resolved,
        record: Record,
    ) -> Result<Arc<Image>, ImageError> {
        let Resolved { manifest, digests } = resolved;
        let problem = |problem| ImageError::Manifest {
            reference: self.reference.to_string(),
            problem,
        };
        let config = record.image(false).map_err(problem)?.config;
        let diff_ids = diff_ids(&config, manifest.layers.len()).map_err(problem)?;
        failpoint::reach(Point::PullResolved).map_err(failed("go on in", &self.store.root))?;
        let pins: Vec<Pin> = diff_ids.iter().map(|d| self.store.layers.pin(d)).collect();
        let layers = manifest.layers.into_iter().zip(diff_ids.iter().cloned());
        let fetched = self.fetch_layers(Arc::new(repository), layers).await;
        let (store, reference) = (self.store.clone(), self.reference.clone());
        let committed = tokio::task::spawn_blocking(move || {
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
            committed
        });
        committed
            .await
            .unwrap_or_else(|e| Err(ImageError::Interrupted(e.to_string())))
    }

    /// Returns when all layers stand, or when after a first failure the others have been given up.
    async fn fetch_layers(
        &self,
        repository: Arc<Repository>,
        layers: impl Iterator<Item = (Blob, Digest)>,
    ) -> Result<(), ImageError> {
        let cancel = self.progress.cancel.child_token();
        let mut tasks = JoinSet::new();
        let mut seen = HashSet::new();
        for (blob, diff_id) in layers {
            if seen.insert(diff_id.clone()) {
                let fetch = Fetch {
                    store: self.store.clone(),
                    repository: repository.clone(),
                    reference: self.reference.to_string(),
                    blob,
                    diff_id,
                    progress: self.progress.clone(),
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

/// The image's record as far as it is known before its layers are: the one that is here, or a new one
/// with the configuration that the manifest names.
async fn record(
    store: &Inner,
    reference: &Reference,
    repository: &Repository,
    resolved: &Resolved,
) -> Result<Record, ImageError> {
    let wrong = |problem: &str| ImageError::Manifest {
        reference: reference.to_string(),
        problem: problem.to_owned(),
    };
    let Blob { digest: id, size } = &resolved.manifest.config;
    if !id.as_str().starts_with("sha256:") {
        return Err(wrong("its configuration's digest is not a sha256"));
    }
    if let Some(record) = store.record(id) {
        return Ok(record);
    }
    let bytes = repository.small_blob(id, *size).await?;
    let config = String::from_utf8(bytes);
    let config = config.map_err(|_| wrong("its configuration is not UTF-8"))?;
    let record = Record::new(id.clone(), config, Vec::new(), 0);
    let ours = record.image(false).and_then(|image| runs_here(&image));
    ours.map_err(|problem| wrong(&problem))?;
    Ok(record)
}

/// An index leaves out what is for others; a single image may be anything. Another architecture's may run
/// all the same, by an interpreter that the kernel knows.
fn runs_here(image: &Image) -> Result<(), String> {
    let os = image.config.os().to_string();
    if !os.is_empty() && os != "linux" {
        return Err(format!("it is for the operating system `{os}`"));
    }
    let (own, here) = (image.config.architecture(), Platform::of_this_machine());
    if own.to_string() != here.architecture {
        tracing::warn!(id = %image.id, architecture = %own, "an image for another architecture");
    }
    Ok(())
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
