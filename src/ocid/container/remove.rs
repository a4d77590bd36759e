//! RemoveContainer, and everything that a container can have, undone.

use std::path::Path;
use std::sync::Arc;

use super::Container;
use super::create::log_path;
use super::mapped;
use super::stop::kill;
use super::volumes;
use crate::ocid::daemon::{Daemon, blocking};
use crate::ocid::error::{Error, Result};
use crate::ocid::events::Kind;
use crate::ocid::failpoint::{self, Point};
use crate::ocid::runtime::{Adopted, Runtime};
use crate::ocid::sandbox::teardown::{end, remove as remove_folder};
use crate::ocid::state::record::{ContainerRecord, Phase};

/// Removes a container, killed first if it runs. Succeeds on an id that nobody knows.
pub async fn remove(daemon: &Arc<Daemon>, id: &str) -> Result<()> {
    let Some(container) = daemon.containers.get(id) else {
        return Ok(());
    };
    let daemon = Arc::clone(daemon);
    daemon
        .clone()
        .tracked(async move { remove_now(&daemon, &container).await })
        .await
}

/// Also the way on for a removal that a restart found begun.
pub async fn remove_now(daemon: &Arc<Daemon>, container: &Arc<Container>) -> Result<()> {
    kill(daemon, container).await?;
    let _gate = container.gate().await;
    let id = container.now().id.clone();
    if daemon.containers.get(&id).is_none() {
        return Ok(());
    }
    container.note(|r| r.phase = Phase::Removing);
    failpoint::pass(Point::RemoveMarked).await?;
    teardown(daemon, container).await?;
    failpoint::pass(Point::RemoveGone).await?;
    daemon.containers.remove(&id);
    daemon.tell(Kind::Deleted, &container.now());
    daemon.names.release(&id);
    daemon.joined.take_offer(&id);
    tracing::info!(container = %id, "container is removed");
    Ok(())
}

/// Gives back what only a living container needs: the runtime's state and cgroup, the mount.
pub async fn release(daemon: &Arc<Daemon>, container: &Arc<Container>) -> Result<()> {
    let record = container.now();
    let runtime = daemon.runtime_of(&record);
    if record.init.is_none() {
        end_unknown(daemon, &runtime, &record.id).await?;
    }
    let deleted = runtime
        .delete(&record.id, true)
        .await
        .map_err(|e| Arc::new(Error::from(e)));
    failpoint::pass(Point::EndDeleted).await?;
    let bundle = daemon.bundle(&record.id);
    let unmounted = {
        let daemon = Arc::clone(daemon);
        blocking(move || {
            // First of all: they are somebody's, and the bundle is about to be deleted.
            mapped::unmount(&bundle).map_err(Error::io("unmount the volumes of", &bundle))?;
            let volumes = volumes::unmount(&bundle);
            daemon.images.unmount_container(&bundle.join("rootfs"))?;
            volumes.map_err(Error::io("unmount the image volumes of", bundle))
        })
        .await
    };
    let swept = sweep_cgroup(daemon, &record).await;
    deleted.and(unmounted).and(swept)
}

/// A runtime that was killed at its start may have left the container's cgroup, of which it then knows nothing.
async fn sweep_cgroup(daemon: &Arc<Daemon>, record: &ContainerRecord) -> Result<()> {
    let Some(sandbox) = daemon.sandboxes.get(&record.sandbox_id) else {
        return Ok(());
    };
    let pod = daemon.pod_cgroup(&sandbox.now().config.cgroup_parent)?;
    let (daemon, path) = (Arc::clone(daemon), pod.container_path(&record.id));
    blocking(move || {
        let swept = daemon.cgroups.remove(&path);
        swept.map_err(Error::io("remove the cgroup", path))
    })
    .await
}

/// The log that the monitor of a container began that never came to be.
fn remove_empty_log(daemon: &Daemon, record: &ContainerRecord) -> std::result::Result<(), Error> {
    let Some(sandbox) = daemon.sandboxes.get(&record.sandbox_id) else {
        return Ok(());
    };
    let Ok(Some(path)) = log_path(&sandbox.now(), &record.config) else {
        return Ok(());
    };
    match std::fs::symlink_metadata(&path) {
        Ok(file) if file.is_file() && file.len() == 0 => {
            std::fs::remove_file(&path).map_err(Error::io("remove", path))
        }
        _ => Ok(()),
    }
}

/// Ends a container that a crash in mid-creation left with a monitor but without a word in its record.
async fn end_unknown(daemon: &Arc<Daemon>, runtime: &Runtime, id: &str) -> Result<()> {
    let adopted = runtime
        .adopt(id, &daemon.bundle(id), &daemon.exits())
        .await
        .map_err(Error::from)?;
    match adopted {
        Adopted::Created(it) | Adopted::Running(it) | Adopted::Abandoned(it) => {
            blocking(move || end(it.init).and_then(|()| end(it.monitor))).await
        }
        Adopted::Absent | Adopted::Exited(_) => Ok(()),
    }
}

/// [`release`], and the container's processes, files and folders too. Idempotent, whatever is missing.
pub async fn teardown(daemon: &Arc<Daemon>, container: &Arc<Container>) -> Result<()> {
    let record = container.now();
    let released = if record.released {
        Ok(())
    } else {
        release(daemon, container).await
    };
    failpoint::pass(Point::RemoveReleased).await?;
    let removed = {
        let daemon = Arc::clone(daemon);
        blocking(move || {
            let id = &record.id;
            if let Some(monitor) = record.monitor {
                end(monitor)?;
            }
            if record.phase == Phase::Creating {
                remove_empty_log(&daemon, &record)?;
            }
            let reach = |point| failpoint::reach(point).map_err(Error::io("go on with", id));
            remove_folder(daemon.runroot(), &Path::new("containers").join(id))?;
            reach(Point::RemoveBundle)?;
            remove_folder(
                daemon.runroot(),
                &Path::new("exits").join(format!("{id}.json")),
            )?;
            reach(Point::RemoveExit)?;
            daemon.images.remove_container(id)?;
            reach(Point::RemoveFiles)?;
            // The record goes last: while it stands, a restart goes on from here.
            remove_folder(daemon.root(), &Path::new("containers").join(id))?;
            Ok(())
        })
        .await
    };
    released.and(removed)
}
