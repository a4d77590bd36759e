//! CheckpointContainer: a copy of a running container, for whoever wants to look into it or go on with it elsewhere.
//!
//! ```text
//! frozen       record (frozen) -> runc pause -> runc checkpoint (criu) -> what it changed in its files, its log
//! runs again   runc resume -> record -> one archive, written without a name -> fsync, name
//! ```
//!
//! It is frozen for as long as memory and files are copied, so that they are of one moment, and knows nothing of it
//! afterwards. The archive has what checkpointctl, CRI-O and containerd read: `config.dump`, `spec.dump`,
//! `status.dump`, `bind.mounts`, `checkpoint/` with criu's images, `dump.log`, `stats-dump`, `rootfs-diff.tar`,
//! `deleted.files` and `container.log`; it is root's alone, since it holds all memory of the container. A time limit
//! or a stop of the container ends it at every stage and undoes it.

mod archive;
mod changes;
mod describe;
mod error;
mod leftovers;
mod staging;
mod underway;

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Container;
use super::create::log_path;
use crate::host::clock::now_ns;
use crate::host::whole::Whole;
use crate::ocid::daemon::Daemon;
use crate::ocid::error::{Error, Result};
use crate::ocid::failpoint::{self, Point};
use crate::ocid::field::{FieldError, absolute};
use crate::ocid::handlers::{Handler, find_program};
use crate::ocid::runtime::RuntimeError;
use crate::ocid::runtime::checkpoint::{Dump, OLDEST_CRIU, criu_version, errors_in};
use crate::ocid::state::record::{ContainerRecord, Phase, SandboxRecord};
use crate::ocid::storage::containers::layers_below;

pub use error::CheckpointError;
pub use underway::Checkpoints;

use describe::{Spec, Subject};
use staging::Staging;
use underway::Until;

/// As long as kubelet waits for an answer where it is told nothing else.
const USUAL_LIMIT: Duration = Duration::from_secs(120);
/// More than this is no limit.
const LONGEST: Duration = Duration::from_secs(30 * 24 * 3600);

/// Writes a checkpoint of a running container to the file `location`; `limit` in seconds, 0 is the usual.
pub async fn checkpoint(daemon: &Arc<Daemon>, id: &str, location: &str, limit: i64) -> Result<()> {
    let (location, limit) = check(location, limit).map_err(Error::from)?;
    let container = daemon.containers.expect(id)?;
    let record = container.now();
    let handler = daemon.handler_of(&record);
    let criu = criu(daemon, &handler).await.map_err(Error::from)?;
    let daemon = Arc::clone(daemon);
    daemon
        .clone()
        .tracked(async move {
            let begin = Instant::now();
            let underway = daemon.checkpoints.begin(&record.id, limit);
            let underway = underway.map_err(Error::from)?;
            let work = Work {
                daemon: &daemon,
                container: &container,
                criu: &criu,
                location: &location,
                until: underway.until.clone(),
            };
            let frozen = work.run().await?;
            tracing::info!(
                container = %record.id, location = %location.display(), ?frozen, whole = ?begin.elapsed(),
                "container is checkpointed"
            );
            Ok(())
        })
        .await
}

/// What of a request can be wrong in itself.
fn check(location: &str, limit: i64) -> std::result::Result<(PathBuf, Duration), FieldError> {
    let path = absolute("location", location)?;
    // `components()` takes these off.
    let folder = location.ends_with('/') || location.ends_with("/.");
    if folder || path.file_name().is_none() {
        let problem = format!("is `{location}`, which names no file");
        return Err(FieldError::new("location", problem));
    }
    let limit = match u64::try_from(limit) {
        Ok(0) => USUAL_LIMIT,
        Ok(seconds) => Duration::from_secs(seconds).min(LONGEST),
        Err(_) => {
            let problem = format!("is {limit}; 0 is the usual limit");
            return Err(FieldError::new("timeout", problem));
        }
    };
    Ok((path, limit))
}

/// The criu to use, where configuration, machine and runtime have checkpoints. Looked up each time: it may be installed
/// while we run.
async fn criu(daemon: &Daemon, handler: &Handler) -> std::result::Result<PathBuf, CheckpointError> {
    if !daemon.settings().config.crio.runtime.enable_criu_support {
        return Err(CheckpointError::Off);
    }
    if !handler.runtime.has_checkpoints().await? {
        let path = handler.runtime.path().to_owned();
        return Err(CheckpointError::NoRuntime { path });
    }
    let path = find_program("criu").ok_or(CheckpointError::NoCriu)?;
    match criu_version(&path).await {
        Ok(Some(version)) if version >= OLDEST_CRIU => Ok(path),
        Ok(version) => Err(CheckpointError::OldCriu { path, version }),
        Err(source) => Err(CheckpointError::Version { path, source }),
    }
}

/// Lets a container run whose checkpoint did not come to its end, as if there had been none. Also for a restart that
/// finds one.
pub async fn undo(daemon: &Arc<Daemon>, container: &Arc<Container>) -> Result<()> {
    let record = container.now();
    if let Some(pod) = daemon.sandboxes.get(&record.sandbox_id) {
        let daemon = Arc::clone(daemon);
        let cleared = crate::ocid::daemon::blocking(move || {
            leftovers::clear(&daemon, &record, &pod.now());
            Ok(())
        });
        cleared.await?;
    }
    thaw(daemon, container).await
}

/// Lets a container run that was frozen for a checkpoint, as far as it still is.
async fn thaw(daemon: &Arc<Daemon>, container: &Arc<Container>) -> Result<()> {
    let record = container.now();
    let alive = |r: &ContainerRecord| {
        r.phase == Phase::Running && r.init.is_some_and(|init| init.is_running())
    };
    let resumed = match daemon.runtime_of(&record).resume(&record.id).await {
        // It has ended meanwhile, or is about to: there is nothing to be thawed.
        Err(_) if !alive(&container.now()) => Ok(()),
        Err(RuntimeError::NoSuchContainer { .. } | RuntimeError::NotRunning { .. }) => Ok(()),
        other => other,
    };
    if resumed.is_ok() {
        container.note(|r| r.frozen = false);
    }
    resumed.map_err(|e| Arc::new(CheckpointError::from(e).into()))
}

/// One checkpoint.
struct Work<'a> {
    daemon: &'a Arc<Daemon>,
    container: &'a Arc<Container>,
    criu: &'a Path,
    location: &'a Path,
    until: Until,
}

impl Work<'_> {
    /// How long it was frozen.
    async fn run(&self) -> Result<Duration> {
        // Nobody else may change the container meanwhile; its end waits for it too.
        let gate = self.until.within(self.container.gate()).await;
        let _gate = gate.map_err(Error::from)?;
        let record = self.container.now();
        if record.phase != Phase::Running {
            return Err(self.not_running(record.phase_name()));
        }
        let pod = self.daemon.sandboxes.expect(&record.sandbox_id)?.now();
        // Whatever is wrong with the place is said before anything is done to the container.
        let archive = self.open_archive().await?;
        let staging = self.stage().await?;
        match self.take(&record, &pod, &staging).await {
            Ok(frozen) => {
                self.archive(archive, staging).await?;
                failpoint::pass(Point::CheckpointPlaced).await?;
                Ok(frozen)
            }
            Err(error) => {
                let discarded = crate::ocid::daemon::blocking(move || {
                    drop((archive, staging));
                    Ok(())
                });
                discarded.await?;
                Err(error)
            }
        }
    }

    /// Collects everything; how long the container was frozen for it.
    async fn take(
        &self,
        record: &Arc<ContainerRecord>,
        pod: &Arc<SandboxRecord>,
        staging: &Staging,
    ) -> Result<Duration> {
        let begin = Instant::now();
        self.container.change(|r| r.frozen = true)?;
        let collected = self.collect(record, pod, staging).await;
        let thawed = match &collected {
            Ok(()) => thaw(self.daemon, self.container).await,
            // criu may have been killed.
            Err(_) => undo(self.daemon, self.container).await,
        };
        let frozen = begin.elapsed();
        if let Err(error) = &thawed {
            tracing::error!(container = %record.id, %error, "a container stays frozen");
        }
        if self.until.over().is_none() && !record.init.is_some_and(|init| init.is_running()) {
            return Err(self.not_running("exited"));
        }
        collected?;
        thawed?;
        failpoint::pass(Point::CheckpointThawed).await?;
        Ok(frozen)
    }

    fn not_running(&self, state: &str) -> Arc<Error> {
        Arc::new(Error::State {
            what: "container",
            id: self.container.now().id.clone(),
            state: state.to_owned(),
            wanted: "running",
        })
    }

    async fn open_archive(&self) -> Result<Whole> {
        let path = self.location.to_owned();
        let made = self.blocking(move |_| {
            Whole::create(&path, 0o600).map_err(|e| {
                let wrong = match e.kind() {
                    io::ErrorKind::IsADirectory => "which is a folder",
                    io::ErrorKind::NotFound => "in a folder that is not there",
                    io::ErrorKind::NotADirectory => "below what is no folder",
                    _ => return Error::io("make the archive", &path)(e),
                };
                FieldError::new("location", format!("is `{}`, {wrong}", path.display())).into()
            })
        });
        made.await
    }

    async fn stage(&self) -> Result<Staging> {
        let tmp = self.daemon.root().join("tmp");
        self.blocking(move |_| Ok(Staging::make(&tmp)?)).await
    }

    /// Everything that the archive will hold. The container is frozen for it, and after it, whatever comes of it.
    async fn collect(
        &self,
        record: &Arc<ContainerRecord>,
        pod: &Arc<SandboxRecord>,
        staging: &Staging,
    ) -> Result<()> {
        failpoint::pass(Point::CheckpointNoted).await?;
        let handler = self.daemon.handler_of(record);
        let paused = self.until.within(handler.runtime.pause(&record.id)).await;
        paused
            .and_then(|paused| paused.map_err(CheckpointError::from))
            .map_err(Error::from)?;
        failpoint::pass(Point::CheckpointFrozen).await?;
        self.dump(&handler, record, staging)
            .await
            .map_err(Error::from)?;
        failpoint::pass(Point::CheckpointDumped).await?;
        self.copy(&handler, record, pod, staging).await?;
        Ok(failpoint::pass(Point::CheckpointCollected).await?)
    }

    async fn dump(
        &self,
        handler: &Handler,
        record: &ContainerRecord,
        staging: &Staging,
    ) -> std::result::Result<(), CheckpointError> {
        let images = staging.path().join(archive::IMAGES);
        let dump = Dump {
            criu: self.criu,
            images: &images,
            work: staging.path(),
            // It is the shorter of the two that counts.
            limit: LONGEST,
        };
        let dumped = self
            .until
            .within(handler.runtime.checkpoint(&record.id, &dump))
            .await?;
        dumped.map_err(|error| match error {
            RuntimeError::Failed { .. } => {
                let criu = errors_in(staging.path());
                // criu's own words are all there is of its cause.
                if criu.contains("No space left on device") {
                    let full = io::Error::from(io::ErrorKind::StorageFull);
                    return CheckpointError::io("dump to", staging.path())(full);
                }
                let runtime = error.to_string();
                CheckpointError::Dump { runtime, criu }
            }
            other => other.into(),
        })
    }

    /// What is in files already, and what tells whose it is.
    async fn copy(
        &self,
        handler: &Handler,
        record: &Arc<ContainerRecord>,
        pod: &Arc<SandboxRecord>,
        staging: &Staging,
    ) -> Result<()> {
        let log = log_path(pod, &record.config)?;
        let (record, pod) = (Arc::clone(record), Arc::clone(pod));
        let (root, bundle) = (
            self.daemon.root().to_owned(),
            self.daemon.bundle(&record.id),
        );
        let (folder, program) = (staging.path().to_owned(), handler.runtime.path().to_owned());
        self.blocking(move |until| {
            let handler = match record.runtime_handler.as_str() {
                "" => program
                    .file_name()
                    .unwrap_or_default()
                    .to_string_lossy()
                    .into_owned(),
                name => name.to_owned(),
            };
            let subject = Subject {
                record: &record,
                pod: &pod,
                handler: &handler,
                log: log.as_deref(),
                at: now_ns(),
            };
            let spec = Spec::read(&bundle)?;
            let lower = layers_below(&root, &record.id)?;
            let parts = changes::Parts {
                upper: &root.join("containers").join(&record.id).join("upper"),
                lower: &lower,
                root: &bundle.join("rootfs"),
                mounts: &spec.mount_points(),
            };
            let path = folder.join(archive::ROOTFS_DIFF);
            let file = new_file(&path)?;
            let sink = archive::Sink { file: &file, until };
            let deleted = changes::write(&parts, io::BufWriter::new(sink), until)
                .map_err(Error::io("write", &path))?;
            if !deleted.is_empty() {
                write_json(&folder, archive::DELETED, &deleted)?;
            }
            if let Some(log) = &log {
                copy_log(log, &folder.join(archive::CONTAINER_LOG), until)?;
            }
            write_json(&folder, describe::BIND_MOUNTS, &spec.bind_mounts())?;
            write_json(&folder, describe::CONFIG, &describe::config(&subject))?;
            write_json(&folder, describe::STATUS, &describe::status(&subject))?;
            write_json(&folder, describe::SPEC, &spec.dump(&subject))
        })
        .await
    }

    async fn archive(&self, whole: Whole, staging: Staging) -> Result<()> {
        let path = self.location.to_owned();
        self.blocking(move |until| {
            let written = archive::write(staging.path(), whole.file(), until);
            written.map_err(Error::io("write the archive", &path))?;
            let reached = failpoint::reach(Point::CheckpointArchived);
            reached.map_err(Error::io("go on with", &path))?;
            // Now or not at all.
            until
                .check()
                .map_err(Error::io("write the archive", &path))?;
            whole.place().map_err(Error::io("put in place", &path))?;
            // What was collected is a second copy of the container's memory.
            drop(staging);
            Ok(())
        })
        .await
    }

    /// Runs code that blocks, and that looks at its time by itself. Over is over, whatever it failed at.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Until) -> std::result::Result<T, Error> + Send + 'static,
    ) -> Result<T> {
        let until = self.until.clone();
        let done = crate::ocid::daemon::blocking(move || {
            let done = work(&until);
            match (done, until.over()) {
                (Err(Error::Io { source, .. }), Some(over))
                    if source.kind() == io::ErrorKind::TimedOut =>
                {
                    Err(over.into())
                }
                (done, _) => done,
            }
        });
        done.await
    }
}

fn new_file(path: &Path) -> std::result::Result<File, Error> {
    let mut options = File::options();
    options.write(true).create_new(true).mode(0o600);
    options.open(path).map_err(Error::io("make", path))
}

fn write_json(
    folder: &Path,
    name: &str,
    value: &impl serde::Serialize,
) -> std::result::Result<(), Error> {
    let path = folder.join(name);
    let file = new_file(&path)?;
    let written = serde_json::to_writer_pretty(io::BufWriter::new(file), value);
    written
        .map_err(io::Error::from)
        .map_err(Error::io("write", path))
}

/// As much of the log as there is now. What lies in its place and is no file is not the log.
fn copy_log(log: &Path, to: &Path, until: &Until) -> std::result::Result<(), Error> {
    let mut options = File::options();
    options
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let file = match options.open(log) {
        Ok(file) => file,
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ELOOP)) => return Ok(()),
        Err(e) => return Err(Error::io("read", log)(e)),
    };
    let found = file.metadata().map_err(Error::io("look at", log))?;
    if !found.is_file() {
        return Ok(());
    }
    let copy = new_file(to)?;
    let mut sink = archive::Sink { file: &copy, until };
    let copied = io::copy(&mut file.take(found.len()), &mut sink);
    copied.map(drop).map_err(Error::io("copy the log", log))
}

#[cfg(test)]
mod tests;
