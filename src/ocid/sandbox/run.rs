//! RunPodSandbox.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;

use super::Sandbox;
use super::config::{NamespaceMode, SandboxConfig, UserNamespace};
use super::files::{Files, SHM_SIZE, machine_name};
use super::sysctl;
use super::teardown::teardown;
use crate::host::cgroup::{Limits, PodCgroup};
use crate::host::clock::now_ns;
use crate::host::mount;
use crate::host::namespace::{self, Wanted};
use crate::ocid::container::allowed::Allowed;
use crate::ocid::container::resources::Resources;
use crate::ocid::container::security::IdMapping;
use crate::ocid::container::spec::check_sandbox;
use crate::ocid::daemon::{Daemon, blocking, new_id};
use crate::ocid::error::{Error, Result};
use crate::ocid::events::Kind;
use crate::ocid::failpoint::{self, Point};
use crate::ocid::pause::{self, PauseRequest};
use crate::ocid::state::record::{Phase, Record, SandboxRecord};

/// Makes a pod that is ready for containers; answers with its id. A call with the name of one that is
/// being made waits for that one; a repeat of the call that made one finds that one.
pub async fn run(daemon: &Arc<Daemon>, config: SandboxConfig, handler: String) -> Result<String> {
    let name = config.name();
    let work = {
        let (daemon, name) = (Arc::clone(daemon), name.clone());
        async move { make(&daemon, config, handler, &name).await }
    };
    daemon
        .joined
        .run(&daemon.tasks, format!("pod {name}"), work)
        .await
}

async fn make(
    daemon: &Arc<Daemon>,
    config: SandboxConfig,
    handler: String,
    name: &str,
) -> Result<String> {
    let used = daemon.handler(&handler)?;
    let facts = used.facts().await?;
    check_sandbox(&config, &facts).map_err(Error::from)?;
    let shm_size = Allowed::new(&used.defaults, &config).shm_size();
    let shm_size = shm_size.map_err(Error::from)?.unwrap_or(SHM_SIZE);
    let cgroup = daemon.pod_cgroup(&config.cgroup_parent)?;
    let id = new_id()?;
    tracing::Span::current().record("pod", id.as_str());
    if let Err(taken) = daemon.names.take("pod", name, &id) {
        return found_again(daemon, &config, &handler, taken);
    }
    let place = used.runtime.place();
    let record = SandboxRecord::new(id.clone(), config, handler, place, now_ns());
    let sandbox = Arc::new(Sandbox::new(daemon.sandbox_folder(&id), record));
    match build(daemon, &sandbox, cgroup, shm_size).await {
        Ok(()) => {
            daemon.sandboxes.insert(&id, Arc::clone(&sandbox));
            daemon.tell_pod(Kind::Created, &sandbox.now());
            daemon.tell_pod(Kind::Started, &sandbox.now());
            tracing::info!(pod = %id, %name, ips = ?sandbox.now().ips(), "pod is ready");
            Ok(id)
        }
        Err(error) => {
            if let Err(undo) = teardown(daemon, &sandbox).await {
                tracing::warn!(pod = %id, error = %undo, "a failed pod left something behind");
            }
            daemon.names.release(&id);
            Err(error)
        }
    }
}

/// The pod that has the name already, where this call repeats the one that made it: a client cannot always tell
/// whether its call was carried out. One that is not ready any more would be of no use to it.
fn found_again(
    daemon: &Daemon,
    config: &SandboxConfig,
    handler: &str,
    taken: Arc<Error>,
) -> Result<String> {
    if let Error::Exists { id, .. } = &*taken
        && let Some(sandbox) = daemon.sandboxes.get(id)
        && sandbox.now().phase == Phase::Created
        && sandbox.now().config == *config
        && sandbox.now().runtime_handler == handler
    {
        return Ok(id.clone());
    }
    Err(taken)
}

async fn build(
    daemon: &Arc<Daemon>,
    sandbox: &Arc<Sandbox>,
    cgroup: PodCgroup,
    shm_size: u64,
) -> Result<()> {
    failpoint::pass(Point::PodReserved).await?;
    let record = sandbox.now();
    let run = daemon.sandbox_run(&record.id);
    make_folder(sandbox.folder())?;
    record
        .save(sandbox.folder(), false)
        .map_err(Error::io("write the record in", sandbox.folder()))?;
    failpoint::pass(Point::PodRecorded).await?;
    make_folder(&run)?;
    let owner = record.root();

    let hostname = record.config.hostname_or(&record.id, &machine_name());
    pin(daemon, &record, &hostname).await?;
    failpoint::pass(Point::PodPinned).await?;
    let network = async {
        if !record.config.has_own_network() {
            return Ok(None);
        }
        let attached = daemon.network.add(&record.pod_network(daemon)).await;
        let attached = attached.map_err(Error::from)?;
        failpoint::pass(Point::PodAttached).await?;
        Ok::<_, Arc<Error>>(Some(attached))
    };
    let local = async {
        let own_shm = record.config.namespaces.ipc == NamespaceMode::Pod;
        let (record, files) = (Arc::clone(&record), Files::of(&run));
        let cgroups = Arc::clone(daemon);
        blocking(move || {
            if own_shm {
                make_folder(&files.shm)?;
                mount::tmpfs(&files.shm, shm_size, 0o1777, owner)
                    .map_err(Error::io("mount", &files.shm))?;
            }
            let made = cgroups
                .cgroups
                .make(&record.id, &cgroup, &limits(&record.config));
            made.map_err(Error::io("make the cgroup", cgroup.path()))
        })
        .await?;
        failpoint::pass(Point::PodCgroup).await?;
        start_pause(daemon, sandbox).await
    };
    // The plugins take most of the time; everything that does not need an address runs beside them.
    let (network, local) = tokio::join!(network, local);
    if let Ok(Some(attachment)) = &network {
        sandbox.change(|r| r.network = Some(attachment.clone()))?;
    }
    network?;
    local?;
    let files = Files::of(&run);
    files
        .write(&record.config, &hostname, sandbox.now().ips(), owner)
        .map_err(Error::io("write the pod's files in", &run))?;
    failpoint::pass(Point::PodFiles).await?;
    sandbox.change(|r| r.phase = Phase::Created)?;
    failpoint::pass(Point::PodCreated).await?;
    sandbox.commit().await?;
    Ok(failpoint::pass(Point::PodCommitted).await?)
}

async fn pin(daemon: &Daemon, record: &Arc<SandboxRecord>, hostname: &str) -> Result<()> {
    let modes = &record.config.namespaces;
    let own_network = record.config.has_own_network();
    let wanted = Wanted {
        net: own_network,
        ipc: modes.ipc == NamespaceMode::Pod,
        // Containers with a network of their own each share the pod's name.
        uts: (modes.network != NamespaceMode::Node).then(|| hostname.to_owned()),
        sysctls: sysctl::effective(&record.config, &daemon.settings().default_sysctls)
            .into_iter()
            .collect(),
        user: modes.userns.as_ref().map(|userns| userns.maps()),
    };
    let folder = daemon.namespaces(&record.id);
    blocking(move || {
        namespace::pin(&folder, &wanted)
            .map(drop)
            .map_err(Error::io("pin the namespaces of the pod in", &folder))
    })
    .await
}

/// The least of the users and groups that a user namespace knows, nobody where it is among them.
fn nobody(userns: &UserNamespace) -> Option<(u32, u32)> {
    const NOBODY: u32 = 65534;
    let last = |ids: &[IdMapping]| Some(ids.first()?.length.checked_sub(1)?.min(NOBODY));
    last(&userns.uids).zip(last(&userns.gids))
}

/// What the pod as a whole may use: its resources and what it costs itself. Only for a cgroup of our
/// making; kubelet makes and limits its own.
pub(super) fn limits(config: &SandboxConfig) -> Limits {
    let parts = || config.resources.iter().chain(&config.overhead);
    // Nothing and unlimited is unlimited.
    let sum = |get: fn(&Resources) -> i64| {
        parts().map(get).filter(|value| *value != 0).reduce(|a, b| {
            if a < 0 || b < 0 {
                -1
            } else {
                a.saturating_add(b)
            }
        })
    };
    Limits {
        memory: sum(|r| r.memory_limit),
        cpu_shares: parts()
            .map(|r| r.cpu_shares)
            .filter(|shares| *shares > 0)
            .reduce(u64::saturating_add),
        cpu_quota: sum(|r| r.cpu_quota),
        cpu_period: parts().map(|r| r.cpu_period).find(|period| *period > 0),
        pids: None,
    }
}

/// A process that holds the PID namespace, where the pod's containers share one.
async fn start_pause(daemon: &Arc<Daemon>, sandbox: &Arc<Sandbox>) -> Result<()> {
    let record = sandbox.now();
    if record.config.namespaces.pid != NamespaceMode::Pod {
        return Ok(());
    }
    let pinned = record.pinned(daemon);
    let request = PauseRequest {
        net: pinned.net,
        ipc: pinned.ipc,
        uts: pinned.uts,
        user: pinned.user,
        nobody: record.config.namespaces.userns.as_ref().and_then(nobody),
        // It stays in the daemon's: on version 2 a pod's cgroup holds cgroups, no processes.
        cgroup_procs: Vec::new(),
        cpus: daemon
            .settings()
            .config
            .crio
            .runtime
            .infra_cpus()
            .unwrap_or_default(),
        ..PauseRequest::default()
    };
    let pause = pause::spawn(daemon.exe(), &request)
        .await
        .map_err(Error::from)?;
    failpoint::pass(Point::PodPaused).await?;
    sandbox.change(|r| r.pause = Some(pause.id))?;
    pause.keep().await.map_err(Error::from)?;
    Ok(())
}

fn make_folder(path: &Path) -> std::result::Result<(), Error> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(Error::io("make the folder", path))
}
