//! CreateContainer.

use std::collections::BTreeMap;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use super::Container;
use super::config::ContainerConfig;
use super::facts::HostFacts;
use super::mapped;
use super::remove::teardown;
use super::selinux::{self, Labels};
use super::spec::{self, BuiltSpec, Defaults, SandboxView, SpecInputs};
use super::volumes;
use crate::host::clock::now_ns;
use crate::host::fs::write_replace;
use crate::ocid::daemon::{Daemon, blocking, new_id};
use crate::ocid::error::{Error, Result};
use crate::ocid::events::Kind;
use crate::ocid::failpoint::{self, Point};
use crate::ocid::field::FieldError;
use crate::ocid::handlers::Handler;
use crate::ocid::image::Image;
use crate::ocid::runtime::create::JOURNAL_SOCKET;
use crate::ocid::runtime::{CreateRequest, JournalTags};
use crate::ocid::sandbox::Sandbox;
use crate::ocid::sandbox::config::NamespaceMode;
use crate::ocid::sandbox::files::Files;
use crate::ocid::state::record::{ContainerRecord, Phase, Record, SandboxRecord, boot_id};
use crate::ocid::storage::View;

/// Makes a container that is ready to start; answers with its id. A call with the name of one that is
/// being made in the same pod waits for that one; a repeat of the call that made one finds that one.
pub async fn create(
    daemon: &Arc<Daemon>,
    sandbox: &str,
    config: ContainerConfig,
) -> Result<String> {
    let sandbox = daemon.sandboxes.expect(sandbox)?;
    let name = format!(
        "{}_{}_{}",
        config.metadata.name,
        sandbox.now().id,
        config.metadata.attempt
    );
    let work = {
        let (daemon, name) = (Arc::clone(daemon), name.clone());
        async move { make(&daemon, &sandbox, config, &name).await }
    };
    daemon
        .joined
        .run(&daemon.tasks, format!("container {name}"), work)
        .await
}

async fn make(
    daemon: &Arc<Daemon>,
    sandbox: &Arc<Sandbox>,
    config: ContainerConfig,
    name: &str,
) -> Result<String> {
    // The pod stays as it is until the container stands.
    let _share = sandbox.share().await;
    let pod = sandbox.now();
    if pod.phase != Phase::Created {
        return Err(not_ready(&pod));
    }
    let id = new_id()?;
    tracing::Span::current().record("container", id.as_str());
    if let Err(taken) = daemon.names.take("container", name, &id) {
        return found_again(daemon, &config, taken);
    }
    let Some(image) = daemon.images.get(&config.image.image) else {
        daemon.names.release(&id);
        return Err(Arc::new(Error::NotFound {
            what: "image",
            id: config.image.image.clone(),
        }));
    };
    let handler = daemon.handler_of_pod(&pod);
    let record = ContainerRecord::new(id.clone(), &pod, config, &image, &handler, now_ns());
    let container = Arc::new(Container::new(daemon.container_folder(&id), record));
    match build(daemon, &pod, &container, &image, &handler).await {
        Ok(()) => {
            daemon.containers.insert(&id, Arc::clone(&container));
            daemon.tell(Kind::Created, &container.now());
            super::exit::watch_monitor(daemon, &container);
            tracing::info!(pod = %pod.id, container = %id, %name, image = %image.id, "container is created");
            Ok(id)
        }
        Err(error) => {
            if let Err(undo) = teardown(daemon, &container).await {
                tracing::warn!(container = %id, error = %undo, "a failed container left something behind");
            }
            daemon.names.release(&id);
            Err(error)
        }
    }
}

/// The container that has the name already, where this call repeats the one that made it: a client cannot
/// always tell whether its call was carried out. One that has ended would be of no use to it.
fn found_again(daemon: &Daemon, config: &ContainerConfig, taken: Arc<Error>) -> Result<String> {
    if let Error::Exists { id, .. } = &*taken
        && let Some(container) = daemon.containers.get(id)
        && matches!(container.now().phase, Phase::Created | Phase::Running)
        && container.now().config == *config
    {
        return Ok(id.clone());
    }
    Err(taken)
}

async fn build(
    daemon: &Arc<Daemon>,
    pod: &Arc<SandboxRecord>,
    container: &Arc<Container>,
    image: &Arc<Image>,
    handler: &Arc<Handler>,
) -> Result<()> {
    failpoint::pass(Point::CreateReserved).await?;
    let record = container.now();
    let (id, bundle) = (record.id.clone(), daemon.bundle(&record.id));
    let rootfs = bundle.join("rootfs");
    let log_path = log_path(pod, &record.config)?;
    make_folder(container.folder(), 0o700)?;
    record
        .save(container.folder(), false)
        .map_err(Error::io("write the record in", container.folder()))?;
    failpoint::pass(Point::CreateRecorded).await?;
    make_folder(&rootfs, 0o711)?;
    let facts = handler.facts().await?;
    let mut warnings = Vec::new();
    let labels = selinux::labels(
        &record.config,
        &pod.config,
        &pod.id,
        &handler.defaults,
        &facts,
        &mut warnings,
    )
    .map_err(Error::from)?;
    let view = View {
        users: pod.users(daemon),
        context: labels.as_ref().map(|l| l.mount.clone()),
    };
    daemon
        .images
        .mount_container_for(&id, image, view.clone(), &rootfs)
        .await
        .map_err(Error::from)?;
    failpoint::pass(Point::CreateMounted).await?;

    let (built, volume_images) = {
        let (daemon, pod, record, image) = (
            Arc::clone(daemon),
            Arc::clone(pod),
            Arc::clone(&record),
            Arc::clone(image),
        );
        let (bundle, log_path) = (bundle.clone(), log_path.clone());
        let defaults = Arc::clone(&handler.defaults);
        blocking(move || {
            if let Some(folder) = log_path.as_deref().and_then(Path::parent) {
                make_folder(folder, 0o755)?;
            }
            let rootfs = bundle.join("rootfs");
            let (images, mounts) = (&daemon.images, &record.config.mounts);
            let volumes = volumes::mount(images, &record.id, mounts, &bundle, &view)?;
            let given = Given {
                rootfs: &rootfs,
                volumes: &volumes.sources,
                labels: labels.as_ref(),
                defaults: &defaults,
            };
            let built = build_spec(&daemon, &facts, &pod, &record, &image, &given)?;
            let path = bundle.join("config.json");
            let bytes = serde_json::to_vec(&built.spec)
                .map_err(|e| Error::Internal(format!("the specification is no JSON: {e}")))?;
            write_replace(&path, &bytes, 0o600).map_err(Error::io("write", &path))?;
            Ok((built, volumes.images))
        })
        .await?
    };
    for warning in warnings.iter().chain(&built.warnings) {
        tracing::warn!(container = %id, "{warning}");
    }

    failpoint::pass(Point::CreateSpecified).await?;
    let settings = daemon.settings();
    let logs = &settings.config.crio.runtime;
    let request = CreateRequest {
        id: id.clone(),
        bundle,
        log_path,
        tty: record.config.tty,
        stdin: record.config.stdin,
        stdin_once: record.config.stdin_once,
        log_size_max: u64::try_from(logs.log_size_max).ok(),
        journal: logs.log_to_journald.then(|| tags(pod, &record)),
        exits_dir: daemon.exits(),
        owner: pod.root(),
    };
    let created = handler
        .runtime
        .create(&request)
        .await
        .map_err(Error::from)?;
    failpoint::pass(Point::CreateMade).await?;
    container.change(|r| {
        r.init = Some(created.init);
        r.monitor = Some(created.monitor);
        r.user = Some(built.user.clone());
        r.stop_signal = built.stop_signal.number();
        r.volume_images = volume_images;
        r.phase = Phase::Created;
    })?;
    failpoint::pass(Point::CreateNoted).await?;
    container.commit().await?;
    Ok(failpoint::pass(Point::CreateCommitted).await?)
}

/// What stands ready for a container's specification.
struct Given<'a> {
    rootfs: &'a Path,
    volumes: &'a volumes::Sources,
    labels: Option<&'a Labels>,
    defaults: &'a Defaults,
}

fn build_spec(
    daemon: &Daemon,
    facts: &HostFacts,
    pod: &SandboxRecord,
    record: &ContainerRecord,
    image: &Image,
    given: &Given<'_>,
) -> std::result::Result<BuiltSpec, Error> {
    let bundle = daemon.bundle(&record.id);
    let files = Files::of(&daemon.sandbox_run(&pod.id));
    let pinned = pod.pinned(daemon);
    let cgroups_path = daemon
        .pod_cgroup(&pod.config.cgroup_parent)?
        .runtime_path(&record.id);
    let target_pid = target_pid(daemon, record)?;
    let ipc = record
        .config
        .security
        .namespaces(&pod.config.namespaces)
        .ipc;
    let shm = match (ipc, target_pid) {
        (NamespaceMode::Target, Some(pid)) => mapped::shm_of(pid, &bundle)?,
        _ => files.shm,
    };
    let view = SandboxView {
        id: &pod.id,
        config: &pod.config,
        net: pinned.net,
        ipc: pinned.ipc,
        uts: pinned.uts,
        user: pinned.user,
        pid: pinned.pid,
        target_pid,
        resolv_conf: files.resolv_conf,
        hosts: files.hosts,
        hostname: files.hostname,
        shm,
        cgroups_path,
    };
    let inputs = SpecInputs {
        container_id: &record.id,
        config: &record.config,
        sandbox: &view,
        image: &image.config,
        rootfs: given.rootfs,
        bundle: &bundle,
        folder: &daemon.container_folder(&record.id),
        volumes: given.volumes,
        labels: given.labels,
        defaults: given.defaults,
        host: facts,
    };
    Ok(spec::build(&inputs)?)
}

/// The process whose namespaces the container joins, in mode TARGET.
fn target_pid(
    daemon: &Daemon,
    record: &ContainerRecord,
) -> std::result::Result<Option<i32>, Error> {
    let Some(id) = record.config.security.target() else {
        return Ok(None);
    };
    let target = daemon.containers.get(id).map(|container| container.now());
    match target {
        Some(target) if target.sandbox_id != record.sandbox_id => {
            let field = "config.linux.security_context.namespace_options.target_id";
            Err(FieldError::new(field, format!("is `{id}`, a container of another pod")).into())
        }
        Some(target) if target.phase == Phase::Running => Ok(target.init.map(|init| init.pid)),
        Some(target) => Err(Error::State {
            what: "target container",
            id: target.id.clone(),
            state: target.phase_name().to_owned(),
            wanted: "running",
        }),
        None => Err(Error::NotFound {
            what: "target container",
            id: id.to_owned(),
        }),
    }
}

/// The pod's log folder with the container's file, which may not leave it. None where either is absent:
/// then nothing is logged, as the CRI has it.
pub fn log_path(pod: &SandboxRecord, config: &ContainerConfig) -> Result<Option<PathBuf>> {
    let (Some(folder), Some(file)) = (&pod.config.log_directory, &config.log_path) else {
        return Ok(None);
    };
    let stays = file
        .components()
        .all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
    if !stays || file.file_name().is_none() {
        let problem = format!("is `{}`, which leaves the pod's log folder", file.display());
        return Err(Arc::new(FieldError::new("config.log_path", problem).into()));
    }
    Ok(Some(folder.join(file)))
}

fn tags(pod: &SandboxRecord, record: &ContainerRecord) -> JournalTags {
    JournalTags {
        pod_name: pod.config.metadata.name.clone(),
        pod_namespace: pod.config.metadata.namespace.clone(),
        pod_id: pod.id.clone(),
        container_name: record.config.metadata.name.clone(),
        container_id: record.id.clone(),
        socket: JOURNAL_SOCKET.into(),
    }
}

fn not_ready(pod: &SandboxRecord) -> Arc<Error> {
    Arc::new(Error::State {
        what: "pod",
        id: pod.id.clone(),
        state: "not ready".to_owned(),
        wanted: "ready",
    })
}

fn make_folder(path: &Path, mode: u32) -> std::result::Result<(), Error> {
    DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .map_err(Error::io("make the folder", path))
}

impl ContainerRecord {
    fn new(
        id: String,
        pod: &SandboxRecord,
        config: ContainerConfig,
        image: &Image,
        handler: &Handler,
        at: i64,
    ) -> Self {
        Self {
            version: Self::VERSION,
            id,
            sandbox_id: pod.id.clone(),
            phase: Phase::Creating,
            boot_id: boot_id(),
            image_id: image.id.clone(),
            image_name: config.image.image.clone(),
            image_ref: image.repo_digests.first().unwrap_or(&image.id).clone(),
            config,
            runtime_handler: pod.runtime_handler.clone(),
            runtime: Some(handler.runtime.place()),
            user: None,
            volume_images: BTreeMap::new(),
            stop_signal: libc::SIGTERM,
            created_at: at,
            started_at: 0,
            finished_at: 0,
            exit_code: 0,
            oom_killed: false,
            message: String::new(),
            init: None,
            monitor: None,
            released: false,
            frozen: false,
        }
    }
}
