//! The start of the daemon: what stands on disk is adopted, finished or undone.
//!
//! - being created: undone, nobody was told of it;
//! - being removed: removed;
//! - of an earlier boot: nothing of it runs; it is stopped and stays listed until it is removed;
//! - else it is as the record says, and an exit that happened meanwhile is read from its record.
//!
//! What ended containers still hold is given back while the daemon serves already: that takes a run of
//! the runtime for each, and a node may have lost all of them.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use tokio::sync::Semaphore;

use super::record::{ContainerRecord, Phase, Record, SandboxRecord, boot_id};
use crate::host::clock::now_ns;
use crate::ocid::container::{Container, checkpoint, exit, remove as container_remove};
use crate::ocid::daemon::{Daemon, blocking};
use crate::ocid::error::{Error, Result};
use crate::ocid::monitor;
use crate::ocid::runtime::exits;
use crate::ocid::sandbox::{Sandbox, stop as sandbox_stop, teardown};

/// Ended containers that are cleaned up at once; each is mostly the runtime at work.
const AT_ONCE: usize = 4;

/// Reads every record and puts right what a crash or a reboot left. Only what cannot be read at all is
/// an error; what cannot be cleaned up is said in the log and does not keep the daemon from serving.
pub async fn restore(daemon: &Arc<Daemon>) -> Result<()> {
    let boot = boot_id();
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut known = BTreeSet::new();
    for id in ids(&daemon.root().join("sandboxes"))? {
        known.insert(id.clone());
        let folder = daemon.sandbox_folder(&id);
        match SandboxRecord::load(&folder) {
            Ok(Some(record)) => {
                let sandbox = Arc::new(Sandbox::new(folder, record));
                if let Err(error) = restore_sandbox(daemon, &sandbox, &boot).await {
                    tracing::error!(pod = %id, %error, "a pod was not put right");
                }
            }
            Ok(None) => forget(daemon.root(), "sandboxes", &id),
            Err(error) => tracing::error!(pod = %id, %error, "the record of a pod cannot be read"),
        }
    }
    for id in ids(&daemon.root().join("containers"))? {
        known.insert(id.clone());
        let folder = daemon.container_folder(&id);
        match ContainerRecord::load(&folder) {
            Ok(Some(record)) => {
                let container = Arc::new(Container::new(folder, record));
                if let Err(error) = restore_container(daemon, &container, &boot, &places).await {
                    tracing::error!(container = %id, %error, "a container was not put right");
                }
            }
            Ok(None) => forget(daemon.root(), "containers", &id),
            Err(error) => {
                tracing::error!(container = %id, %error, "the record of a container cannot be read")
            }
        }
    }
    finish_removals(daemon).await;
    for kind in ["containers", "sandboxes", "ns", "exits"] {
        for name in ids(&daemon.runroot().join(kind))? {
            // An exit record is a file, `ID.json`.
            let id = name.strip_suffix(".json").unwrap_or(&name);
            if !known.contains(id) {
                unmount(&daemon.runroot().join(kind).join(&name));
                forget(daemon.runroot(), kind, &name);
            }
        }
    }
    Ok(())
}

async fn restore_sandbox(daemon: &Arc<Daemon>, sandbox: &Arc<Sandbox>, boot: &str) -> Result<()> {
    if sandbox.now().boot_id != boot && sandbox.now().pause.is_some() {
        // Its number is another process' by now.
        sandbox.note(|r| r.pause = None);
    }
    let record = sandbox.now();
    if record.phase == Phase::Creating {
        return teardown::teardown(daemon, sandbox).await;
    }
    daemon
        .names
        .take("pod", &record.config.name(), &record.id)?;
    daemon.sandboxes.insert(&record.id, Arc::clone(sandbox));
    if record.phase == Phase::Created {
        daemon.cgroups.hold(
            &record.id,
            &daemon.pod_cgroup(&record.config.cgroup_parent)?,
        );
    }
    if record.phase == Phase::Created && !is_alive(daemon, &record, boot) {
        tracing::info!(pod = %record.id, "the pod did not outlive the reboot");
        sandbox.note(|r| r.phase = Phase::Stopped);
        teardown::disconnect(daemon, sandbox, std::future::ready(())).await?;
    }
    Ok(())
}

/// Do the pod's namespaces and its pause process still stand?
fn is_alive(daemon: &Daemon, record: &SandboxRecord, boot: &str) -> bool {
    let pinned = record.pinned(daemon);
    record.boot_id == boot
        && record.pause.is_none_or(|pause| pause.is_running())
        && [pinned.net, pinned.uts, pinned.ipc, pinned.user]
            .iter()
            .flatten()
            .all(|path| crate::host::namespace::is_pinned(path).unwrap_or(false))
}

async fn restore_container(
    daemon: &Arc<Daemon>,
    container: &Arc<Container>,
    boot: &str,
    places: &Arc<Semaphore>,
) -> Result<()> {
    if container.now().boot_id != boot {
        forget_processes(daemon, container)?;
    }
    let record = container.now();
    if record.phase == Phase::Creating {
        return container_remove::teardown(daemon, container).await;
    }
    let name = container_name(&record);
    daemon.names.take("container", &name, &record.id)?;
    daemon.containers.insert(&record.id, Arc::clone(container));
    if record.started_at != 0 {
        daemon.events.adopt(&record.id);
    }
    let running = |r: &ContainerRecord| {
        matches!(r.phase, Phase::Created | Phase::Running)
            && r.monitor.is_some_and(|monitor| monitor.is_running())
    };
    // It is looked after whether or not it can be thawed: it can still be stopped.
    if record.frozen
        && let Err(error) = checkpoint::undo(daemon, container).await
    {
        tracing::error!(container = %record.id, %error, "a container stays frozen");
    }
    if running(&record) {
        let runtime = daemon.runtime_of(&record);
        // Said before the runtime is called, so it may not be so.
        if record.phase == Phase::Running
            && !runtime.is_started(&record.id).await.map_err(Error::from)?
        {
            container.note(|r| {
                r.phase = Phase::Created;
                r.started_at = 0;
            });
        }
        // Nobody may have been told that it runs.
        daemon.joined.offer(&record.id);
        exit::watch_monitor(daemon, container);
        return Ok(());
    }
    exit::note(daemon, container).await?;
    exit::give_back_later(daemon, container, places);
    Ok(())
}

/// After a reboot the numbers of a container's processes are those of others, in its record and in its
/// bundle; what they wrote about it, if the run root has outlived the reboot, counts.
fn forget_processes(daemon: &Daemon, container: &Container) -> Result<()> {
    let record = container.now();
    let file = daemon.bundle(&record.id).join(monitor::protocol::RECORD);
    monitor::record::remove(&file).map_err(Error::io("remove", &file))?;
    let exit = match exits::read_record(&daemon.exits(), &record.id) {
        Ok(exit) => exit,
        Err(error) => {
            tracing::warn!(container = %record.id, %error, "an exit record of before the reboot cannot be read");
            None
        }
    };
    container.note(|r| {
        r.init = None;
        r.monitor = None;
        if !matches!(r.phase, Phase::Created | Phase::Running) {
            return;
        }
        r.phase = Phase::Stopped;
        match exit {
            Some(exit) => {
                r.exit_code = exit.exit_code;
                r.finished_at = exit.finished_at;
                r.oom_killed = exit.oom_killed;
            }
            None => {
                r.exit_code = 255;
                r.finished_at = now_ns();
                r.message = "the machine was restarted".to_owned();
            }
        }
    });
    Ok(())
}

/// The name that no two containers of a pod share.
pub fn container_name(record: &ContainerRecord) -> String {
    let m = &record.config.metadata;
    format!("{}_{}_{}", m.name, record.sandbox_id, m.attempt)
}

async fn finish_removals(daemon: &Arc<Daemon>) {
    for container in daemon.containers.all() {
        let record = container.now();
        // One whose pod has a record that cannot be read is nobody's to remove.
        let orphaned = daemon.sandboxes.get(&record.sandbox_id).is_none()
            && !daemon.sandbox_folder(&record.sandbox_id).exists();
        if (record.phase == Phase::Removing || orphaned)
            && let Err(error) = container_remove::remove_now(daemon, &container).await
        {
            tracing::error!(container = %record.id, %error, "a container was not removed");
        }
    }
    for sandbox in daemon.sandboxes.all() {
        if sandbox.now().phase == Phase::Removing
            && let Err(error) = sandbox_stop::remove_now(daemon, &sandbox).await
        {
            tracing::error!(pod = %sandbox.now().id, %error, "a pod was not removed");
        }
    }
}

/// The names in a folder of ours; none when it is not there yet.
fn ids(folder: &Path) -> Result<Vec<String>> {
    let list = || -> io::Result<Vec<String>> {
        let mut ids = Vec::new();
        for entry in fs::read_dir(folder)? {
            if let Ok(name) = entry?.file_name().into_string() {
                ids.push(name);
            }
        }
        Ok(ids)
    };
    match list() {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        other => Ok(other.map_err(Error::io("list", folder))?),
    }
}

/// What is mounted in a folder that no record speaks of: a bundle's root, pinned namespaces.
fn unmount(folder: &Path) {
    if let Err(error) = crate::host::mount::unmount_below(folder) {
        tracing::error!(folder = %folder.display(), %error, "a leftover was not unmounted");
    }
}

fn forget(root: &Path, kind: &str, id: &str) {
    if let Err(error) = teardown::remove(root, &Path::new(kind).join(id)) {
        tracing::error!(%id, %error, "a leftover was not removed");
    }
}

/// Makes the folders that everything else takes for granted.
pub async fn prepare(daemon: &Arc<Daemon>) -> Result<()> {
    let (root, runroot) = (daemon.root().to_owned(), daemon.runroot().to_owned());
    blocking(move || {
        use std::os::unix::fs::DirBuilderExt;
        let folders = ["sandboxes", "containers"].map(|kind| root.join(kind));
        let run = ["sandboxes", "containers", "exits", "ns"].map(|kind| runroot.join(kind));
        for folder in folders.iter().chain(&run) {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o711)
                .create(folder)
                .map_err(Error::io("make the folder", folder))?;
        }
        Ok(())
    })
    .await
}
