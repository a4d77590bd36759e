//! Everything that a pod can have, undone: in reverse order, idempotently, whatever is missing.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::Sandbox;
use super::files::Files;
use crate::host::fs::remove_tree;
use crate::host::mount;
use crate::host::namespace;
use crate::host::process::ProcessId;
use crate::ocid::daemon::{Daemon, blocking};
use crate::ocid::error::{Error, Result};
use crate::ocid::failpoint::{self, Point};
use crate::ocid::state::record::SandboxRecord;

/// How long a killed pause process may take to go.
const KILL_LIMIT: Duration = Duration::from_secs(10);

/// Takes the pod off its network and ends what runs for it; its record and folder stay. `released` is
/// over when the pod's containers have given back their cgroups.
pub async fn disconnect(
    daemon: &Arc<Daemon>,
    sandbox: &Arc<Sandbox>,
    released: impl Future<Output = ()>,
) -> Result<()> {
    let record = sandbox.now();
    // A first error does not keep the rest from being undone.
    let (network, ()) = tokio::join!(release_network(daemon, &record), released);
    failpoint::pass(Point::StopPodDetached).await?;
    let local = {
        let (daemon, record) = (Arc::clone(daemon), Arc::clone(&record));
        blocking(move || release_local(&daemon, &record)).await
    };
    network?;
    local?;
    if record.network.is_some() || record.pause.is_some() {
        sandbox.note(|r| {
            r.network = None;
            r.pause = None;
        });
    }
    Ok(())
}

/// [`disconnect`], and the pod's folders too.
pub async fn teardown(daemon: &Arc<Daemon>, sandbox: &Arc<Sandbox>) -> Result<()> {
    let disconnected = disconnect(daemon, sandbox, std::future::ready(())).await;
    failpoint::pass(Point::RemovePodReleased).await?;
    let (id, root, runroot) = (
        sandbox.now().id.clone(),
        daemon.root().to_owned(),
        daemon.runroot().to_owned(),
    );
    let removed = blocking(move || {
        remove(&runroot, &Path::new("sandboxes").join(&id))?;
        failpoint::reach(Point::RemovePodFiles).map_err(Error::io("go on in", &root))?;
        // The record goes last: while it stands, a restart goes on from here.
        remove(&root, &Path::new("sandboxes").join(&id))
    })
    .await;
    disconnected.and(removed)
}

async fn release_network(daemon: &Daemon, record: &SandboxRecord) -> Result<()> {
    if !record.config.has_own_network() {
        return Ok(());
    }
    let pod = record.pod_network(daemon);
    daemon
        .network
        .del(&pod, record.network.as_ref())
        .await
        .map_err(|e| Arc::new(Error::from(e)))
}

fn release_local(daemon: &Daemon, record: &SandboxRecord) -> std::result::Result<(), Error> {
    if let Some(pause) = record.pause {
        end(pause)?;
    }
    let run = daemon.sandbox_run(&record.id);
    let shm = Files::of(&run).shm;
    mount::unmount(&shm).map_err(Error::io("unmount", &shm))?;
    let namespaces = daemon.namespaces(&record.id);
    namespace::unpin(&namespaces).map_err(Error::io("unpin the namespaces in", &namespaces))?;
    // It would keep the pod's network alive.
    daemon
        .interfaces
        .forget(&daemon.network_namespace(&record.id));
    let cgroup = daemon.pod_cgroup(&record.config.cgroup_parent)?;
    daemon
        .cgroups
        .release(&record.id, &cgroup)
        .map_err(Error::io("remove the cgroup", cgroup.path()))
}

/// Kills a process of ours and waits until it is gone.
pub fn end(process: ProcessId) -> std::result::Result<(), Error> {
    let path = || format!("/proc/{}", process.pid);
    let Ok(fd) = process.open() else {
        return Ok(());
    };
    match fd.kill(Signal::SIGKILL) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(Error::io("kill", path()))?,
    }
    if !fd.wait(KILL_LIMIT).map_err(Error::io("wait for", path()))? {
        tracing::warn!(pid = process.pid, "a killed process does not end");
    }
    Ok(())
}

/// Removes a folder below one of ours.
pub fn remove(root: &Path, relative: &Path) -> std::result::Result<(), Error> {
    remove_tree(root, relative).map_err(Error::io("remove", root.join(relative)))
}
