//! RunPodSandbox.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;

use super::config::{NamespaceMode, SandboxConfig};
use super::files::{Files, SHM_SIZE, hostname};
use super::teardown::teardown;
use super::Sandbox;
use crate::host::cgroup;
use crate::host::clock::now_ns;
use crate::host::mount;
use crate::host::namespace::{self, Wanted};
use crate::ocid::daemon::{Daemon, blocking, new_id};
use crate::ocid::error::{Error, Result};
use crate::ocid::pause;
use crate::ocid::state::record::{Phase, Record, SandboxRecord};

/// Makes a pod that is ready for containers; answers with its id. A call with the name of one that is
/// being made waits for that one.
pub async fn run(daemon: &Arc<Daemon>, config: SandboxConfig, handler: String) -> Result<String> {
    let name = config.name();
    let work = {
        let (daemon, name) = (Arc::clone(daemon), name.clone());
        async move { make(&daemon, config, handler, &name).await }
    };
    daemon.joined.run(&daemon.tasks, format!("pod {name}"), work).await
}

async fn make(
    daemon: &Arc<Daemon>,
    config: SandboxConfig,
    handler: String,
    name: &str,
) -> Result<String> {
    daemon.runtime(&handler)?;
    cgroup::check_parent(&config.cgroup_parent, daemon.cgroup_driver()).map_err(Error::from)?;
    let id = new_id()?;
    daemon.names.take("pod", name, &id)?;
    let record = SandboxRecord::new(id.clone(), config, handler, now_ns());
    let sandbox = Arc::new(Sandbox::new(daemon.sandbox_folder(&id), record));
    match build(daemon, &sandbox).await {
        Ok(()) => {
            daemon.sandboxes.insert(&id, Arc::clone(&sandbox));
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

async fn build(daemon: &Arc<Daemon>, sandbox: &Arc<Sandbox>) -> Result<()> {
    let record = sandbox.now();
    let run = daemon.sandbox_run(&record.id);
    make_folder(sandbox.folder())?;
    record
        .save(sandbox.folder(), false)
        .map_err(Error::io("write the record in", sandbox.folder()))?;
    make_folder(&run)?;

    let hostname = hostname(&record.config, &record.id);
    pin(daemon, &record, &hostname).await?;
    let network = async {
        if !record.config.has_own_network() {
            return Ok(None);
        }
        let attached = daemon.network.add(&record.pod_network(daemon)).await;
        Ok::<_, Arc<Error>>(Some(attached.map_err(Error::from)?))
    };
    let local = async {
        let (driver, own_shm) = (daemon.cgroup_driver(), record.config.namespaces.ipc == NamespaceMode::Pod);
        let (record, files) = (Arc::clone(&record), Files::of(&run));
        blocking(move || {
            if own_shm {
                make_folder(&files.shm)?;
                mount::shm(&files.shm, SHM_SIZE).map_err(Error::io("mount", &files.shm))?;
            }
            cgroup::create_pod(&record.config.cgroup_parent, &record.id, driver).map_err(Error::from)
        })
        .await?;
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
        .write(&record.config, &hostname, sandbox.now().ips())
        .map_err(Error::io("write the pod's files in", &run))?;
    sandbox.change(|r| r.phase = Phase::Created)?;
    sandbox.commit().await
}

async fn pin(daemon: &Daemon, record: &Arc<SandboxRecord>, hostname: &str) -> Result<()> {
    let modes = &record.config.namespaces;
    let own_network = record.config.has_own_network();
    let wanted = Wanted {
        net: own_network,
        ipc: modes.ipc == NamespaceMode::Pod,
        uts: own_network.then(|| hostname.to_owned()),
        sysctls: sysctls(daemon, record),
    };
    let folder = daemon.namespaces(&record.id);
    blocking(move || {
        namespace::pin(&folder, &wanted)
            .map(drop)
            .map_err(Error::io("pin the namespaces of the pod in", &folder))
    })
    .await
}

/// The daemon's defaults under the pod's own, which were validated by name and value.
fn sysctls(daemon: &Daemon, record: &SandboxRecord) -> Vec<(String, String)> {
    let defaults = daemon.config.crio.runtime.default_sysctls.iter();
    let mut all: std::collections::BTreeMap<String, String> = defaults
        .filter_map(|entry| entry.split_once('='))
        .map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned()))
        .collect();
    all.extend(record.config.sysctls.clone());
    all.into_iter().collect()
}

/// A process that holds the PID namespace, where the pod's containers share one.
async fn start_pause(daemon: &Arc<Daemon>, sandbox: &Arc<Sandbox>) -> Result<()> {
    let record = sandbox.now();
    if record.config.namespaces.pid != NamespaceMode::Pod {
        return Ok(());
    }
    let pinned = record.pinned(daemon);
    let process = pause::spawn(&pinned.net, &pinned.ipc, &pinned.uts).await.map_err(Error::from)?;
    sandbox.change(|r| r.pause = Some(process))?;
    let driver = daemon.cgroup_driver();
    cgroup::join_pod(&record.config.cgroup_parent, &record.id, driver, process.pid)
        .map_err(Error::from)?;
    Ok(())
}

fn make_folder(path: &Path) -> std::result::Result<(), Error> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(Error::io("make the folder", path))
}
