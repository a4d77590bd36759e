//! The end of a container: learnt from its monitor, recorded, cleaned up after.
//!
//! A monitor writes the exit record when the log is complete and then ends itself, so the end of the
//! monitor process (a pidfd, readable once) is the one event to wait for, before and after a restart of
//! the daemon; a monitor that ended without a record was killed.

use std::sync::Arc;

use tokio::sync::Semaphore;

use super::Container;
use super::remove::release;
use crate::host::clock::now_ns;
use crate::ocid::daemon::Daemon;
use crate::ocid::error::{Error, Result};
use crate::ocid::events::Kind;
use crate::ocid::failpoint::{self, Point};
use crate::ocid::runtime::{Created, ExitRecord};
use crate::ocid::state::record::{ContainerRecord, Phase};

/// Waits, in a task of its own, for the monitor's end, and settles the container then.
pub fn watch_monitor(daemon: &Arc<Daemon>, container: &Arc<Container>) {
    let (daemon, container) = (Arc::clone(daemon), Arc::clone(container));
    tokio::spawn(async move {
        let record = container.now();
        if let Some(monitor) = record.monitor
            && let Err(error) = daemon.runtime_of(&record).monitor_ended(&monitor).await
        {
            tracing::error!(container = %record.id, %error, "the monitor cannot be watched");
            return;
        }
        let tasks = daemon.tasks.clone();
        tasks.spawn(async move {
            if let Err(error) = settle(&daemon, &container).await {
                tracing::error!(container = %container.now().id, %error, "an ended container is not cleaned up");
            }
        });
    });
}

/// Records the end of a container whose monitor is gone, and gives back what it held.
async fn settle(daemon: &Arc<Daemon>, container: &Arc<Container>) -> Result<()> {
    note(daemon, container).await?;
    give_back(daemon, container).await
}

/// Gives back what an ended container held, in a task of its own that waits for one of `places`. Also while the daemon
/// drains: a stop of its pod may be waiting for that.
pub fn give_back_later(daemon: &Arc<Daemon>, container: &Arc<Container>, places: &Arc<Semaphore>) {
    let (daemon, container, places) = (
        Arc::clone(daemon),
        Arc::clone(container),
        Arc::clone(places),
    );
    let tasks = daemon.tasks.clone();
    tasks.spawn(async move {
        let _place = places.acquire().await;
        if let Err(error) = give_back(&daemon, &container).await {
            tracing::error!(container = %container.now().id, %error, "an ended container is not cleaned up");
        }
    });
}

/// Records the end of a container whose monitor is gone.
pub async fn note(daemon: &Arc<Daemon>, container: &Arc<Container>) -> Result<()> {
    let record = container.now();
    if !matches!(record.phase, Phase::Stopped | Phase::Removing) {
        let exit = match last_words(daemon, &record).await {
            // It has ended; of how, nothing can be known.
            Err(error) if record.init.is_some_and(|init| !init.is_running()) => {
                tracing::error!(container = %record.id, %error, "the exit record cannot be read");
                unknown_end(container, &error);
                None
            }
            other => Some(other?),
        };
        failpoint::pass(Point::EndRead).await?;
        if let Some(exit) = exit {
            container.note(|r| {
                r.phase = Phase::Stopped;
                r.exit_code = exit.exit_code;
                r.finished_at = exit.finished_at;
                r.oom_killed = exit.oom_killed;
                if exit.monitor_lost {
                    r.message = "the container was killed: its monitor ended first".to_owned();
                }
            });
        }
        let now = container.now();
        if now.oom_killed {
            let pod = daemon.sandboxes.get(&now.sandbox_id).map(|pod| pod.now());
            daemon.metrics.observe_oom(&now, pod.as_deref());
        }
        daemon.tell(Kind::Stopped, &now);
        tracing::info!(container = %now.id, code = now.exit_code, reason = now.reason(), "container has ended");
    }
    failpoint::pass(Point::EndNoted).await?;
    Ok(())
}

async fn give_back(daemon: &Arc<Daemon>, container: &Arc<Container>) -> Result<()> {
    let _gate = container.gate().await;
    let record = container.now();
    if record.released || daemon.containers.get(&record.id).is_none() {
        return Ok(());
    }
    let released = release(daemon, container).await;
    failpoint::pass(Point::EndReleased).await?;
    // Said even after an error: those who wait must not wait for ever, and removal tries again.
    container.note(|r| r.released = true);
    released
}

fn unknown_end(container: &Container, error: &Error) {
    let mut message = format!("its end is not known: {error}");
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        message.push_str(&format!(": {error}"));
        cause = error.source();
    }
    container.note(|r| {
        r.phase = Phase::Stopped;
        r.exit_code = 255;
        r.finished_at = now_ns();
        r.message = message;
    });
}

/// The monitor's record. Without one, what is left of the container is killed: nobody reads its output
/// or would see its end.
async fn last_words(daemon: &Daemon, record: &ContainerRecord) -> Result<ExitRecord> {
    let exits = daemon.exits();
    let (Some(init), Some(monitor)) = (record.init, record.monitor) else {
        return Err(Arc::new(Error::Internal(format!(
            "container `{}` was never created",
            record.id
        ))));
    };
    let runtime = daemon.runtime_of(record);
    let created = Created { init, monitor };
    let exit = runtime.bury(&record.id, &created, &exits).await;
    exit.map_err(|e| Arc::new(e.into()))
}
