//! The end of a container: learnt from its monitor, recorded, cleaned up after.
//!
//! A monitor writes the exit record when the log is complete and then ends itself, so the end of the
//! monitor process (a pidfd, readable once) is the one event to wait for, before and after a restart of
//! the daemon; a monitor that ended without a record was killed.

use std::sync::Arc;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::Container;
use super::remove::release;
use crate::host::clock::now_ns;
use crate::ocid::daemon::{Daemon, blocking};
use crate::ocid::error::{Error, Result};
use crate::ocid::runtime::ExitRecord;
use crate::ocid::sandbox::teardown::end;
use crate::ocid::state::record::{ContainerRecord, Phase};

/// What a container answers whose true exit code nobody saw.
const UNKNOWN_CODE: i32 = 255;

/// Waits, in a task of its own, for the monitor's end, and settles the container then.
pub fn watch_monitor(daemon: &Arc<Daemon>, container: &Arc<Container>) {
    let (daemon, container) = (Arc::clone(daemon), Arc::clone(container));
    tokio::spawn(async move {
        monitor_end(&container.now()).await;
        let tasks = daemon.tasks.clone();
        tasks.spawn(async move {
            if let Err(error) = settle(&daemon, &container).await {
                tracing::error!(container = %container.now().id, %error, "an ended container is not cleaned up");
            }
        });
    });
}

async fn monitor_end(record: &ContainerRecord) {
    let Some(fd) = record.monitor.and_then(|monitor| monitor.open().ok()) else { return };
    match AsyncFd::with_interest(fd, Interest::READABLE) {
        Ok(fd) => {
            if let Err(error) = fd.readable().await {
                tracing::error!(container = %record.id, %error, "the monitor cannot be watched");
            }
        }
        Err(error) => tracing::error!(container = %record.id, %error, "the monitor cannot be watched"),
    }
}

/// Records the end of a container whose monitor is gone, and gives back what it held.
pub async fn settle(daemon: &Arc<Daemon>, container: &Arc<Container>) -> Result<()> {
    let record = container.now();
    if !matches!(record.phase, Phase::Stopped | Phase::Removing) {
        let seen = {
            let (daemon, record) = (Arc::clone(daemon), Arc::clone(&record));
            blocking(move || read_or_kill(&daemon, &record)).await?
        };
        let now = container.change(|r| {
            r.phase = Phase::Stopped;
            match &seen {
                Some(exit) => {
                    r.exit_code = exit.exit_code;
                    r.finished_at = exit.finished_at;
                    r.oom_killed = exit.oom_killed;
                }
                None => {
                    r.exit_code = UNKNOWN_CODE;
                    r.finished_at = now_ns();
                    r.message = "the container's monitor ended without an exit record".to_owned();
                }
            }
        })?;
        tracing::info!(container = %now.id, code = now.exit_code, reason = now.reason(), "container has ended");
    }
    let _gate = container.gate().await;
    if container.now().released || daemon.containers.get(&record.id).is_none() {
        return Ok(());
    }
    let released = release(daemon, container).await;
    // Said even after an error: those who wait must not wait for ever, and removal tries again.
    container.change(|r| r.released = true)?;
    released
}

/// The monitor's record. Without one, what is left of the container is killed: nobody reads its output
/// or would see its end.
fn read_or_kill(
    daemon: &Daemon,
    record: &ContainerRecord,
) -> std::result::Result<Option<ExitRecord>, Error> {
    let exits = daemon.exits();
    let exit = ExitRecord::load(&exits, &record.id)
        .map_err(Error::io("read the exit record in", &exits))?;
    if exit.is_none()
        && let Some(init) = record.init
    {
        end(init)?;
    }
    Ok(exit)
}
