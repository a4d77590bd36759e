//! ReopenContainerLog.

use std::path::Path;
use std::sync::Arc;

use crate::cri::v1::{ReopenContainerLogRequest, ReopenContainerLogResponse};
use crate::ocid::daemon::Daemon;
use crate::ocid::error::Error;
use crate::ocid::failpoint::{self, Point};
use crate::ocid::monitor::client::{self, ClientError};
use crate::ocid::runtime::exits;
use crate::ocid::state::record::{ContainerRecord, Phase};

/// After a rotation: the monitor opens the log at its path anew.
pub async fn reopen_container_log(
    daemon: &Arc<Daemon>,
    request: ReopenContainerLogRequest,
) -> Result<ReopenContainerLogResponse, Arc<Error>> {
    let id = &request.container_id;
    daemon.containers.check("container_id", id)?;
    let container = daemon.containers.expect(id)?;
    // One at a time: a monitor has few ears.
    let _gate = container.gate().await;
    let record = container.now();
    if record.phase != Phase::Running {
        return Err(not_running(&record, record.phase_name()));
    }
    if let Err(e) = reopen(&daemon.bundle(&record.id)).await {
        // One whose end is on disk, but not in our record yet, has no monitor any more to talk to.
        let ended = matches!(exits::read_record(&daemon.exits(), id), Ok(Some(_)));
        return Err(if ended {
            not_running(&record, "exited")
        } else {
            Arc::new(e.into())
        });
    }
    failpoint::pass(Point::LogReopened).await?;
    Ok(ReopenContainerLogResponse {})
}

async fn reopen(bundle: &Path) -> Result<(), ClientError> {
    client::connect(bundle).await?.reopen_log().await
}

fn not_running(record: &ContainerRecord, state: &str) -> Arc<Error> {
    Arc::new(Error::State {
        what: "container",
        id: record.id.clone(),
        state: state.to_owned(),
        wanted: "running",
    })
}
