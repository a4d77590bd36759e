//! StartContainer.

use std::sync::Arc;

use super::Container;
use crate::host::clock::now_ns;
use crate::ocid::daemon::Daemon;
use crate::ocid::error::{Error, Result};
use crate::ocid::events::Kind;
use crate::ocid::failpoint::{self, Point};
use crate::ocid::state::record::Phase;

/// Starts what was created. A repeat of a call whose client went away joins it or finds its result; after a
/// restart of the daemon, which does not know who got an answer, the first call on a running container does.
pub async fn start(daemon: &Arc<Daemon>, id: &str) -> Result<()> {
    let container = daemon.containers.expect(id)?;
    let name = format!("start {}", container.now().id);
    let work = {
        let daemon = Arc::clone(daemon);
        async move {
            start_now(&daemon, &container).await?;
            let id = container.now().id.clone();
            daemon.joined.offer(&id);
            Ok(id)
        }
    };
    let id = daemon.joined.run(&daemon.tasks, name, work).await?;
    // Reached only by a caller that is still there: it takes the answer along.
    daemon.joined.take_offer(&id);
    Ok(())
}

async fn start_now(daemon: &Arc<Daemon>, container: &Arc<Container>) -> Result<()> {
    let sandbox = daemon.sandboxes.expect(&container.now().sandbox_id)?;
    let _share = sandbox.share().await;
    let _gate = container.gate().await;
    let record = container.now();
    if record.phase == Phase::Running && daemon.joined.take_offer(&record.id) {
        return Ok(());
    }
    if record.phase != Phase::Created {
        return Err(Arc::new(Error::State {
            what: "container",
            id: record.id.clone(),
            state: record.phase_name().to_owned(),
            wanted: "created",
        }));
    }
    // Before the start: a container may be over before the runtime's process is.
    container.change(|r| {
        r.phase = Phase::Running;
        r.started_at = now_ns();
    })?;
    failpoint::pass(Point::StartNoted).await?;
    let runtime = daemon.runtime_of(&record);
    if let Err(error) = runtime.start(&record.id).await
        // The runtime of a daemon that was killed may have got there first.
        && !runtime.is_started(&record.id).await.unwrap_or(false)
    {
        let message = error.to_string();
        container.change(|r| {
            if r.phase == Phase::Running {
                r.phase = Phase::Created;
            }
            // Also where it has ended over this: by that it is told from one that ran.
            r.started_at = 0;
            r.message = message;
        })?;
        return Err(Arc::new(error.into()));
    }
    failpoint::pass(Point::StartStarted).await?;
    daemon.tell(Kind::Started, &container.now());
    tracing::info!(container = %record.id, "container is started");
    Ok(())
}
