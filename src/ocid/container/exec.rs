//! ExecSync.

use std::sync::Arc;
use std::time::Duration;

use crate::ocid::daemon::Daemon;
use crate::ocid::error::{Error, Result};
use crate::ocid::field::FieldError;
use crate::ocid::runtime::{ExecOutput, ExecRequest};
use crate::ocid::state::record::Phase;

/// Runs a command in a container and waits for it; `limit` in seconds, 0 is without one.
pub async fn exec_sync(
    daemon: &Arc<Daemon>,
    id: &str,
    args: Vec<String>,
    limit: i64,
) -> Result<ExecOutput> {
    if args.is_empty() {
        return Err(Arc::new(FieldError::new("cmd", "no command").into()));
    }
    let container = daemon.containers.expect(id)?;
    let record = container.now();
    if record.phase != Phase::Running {
        return Err(Arc::new(Error::State {
            what: "container",
            id: record.id.clone(),
            state: record.phase_name().to_owned(),
            wanted: "running",
        }));
    }
    let request = ExecRequest {
        id: record.id.clone(),
        bundle: daemon.bundle(&record.id),
        args,
        limit: u64::try_from(limit).ok().filter(|s| *s > 0).map(Duration::from_secs),
    };
    let daemon = Arc::clone(daemon);
    daemon
        .clone()
        .tracked(async move {
            let runtime = daemon.runtime(&record.runtime_handler)?;
            runtime.exec_sync(&request).await.map_err(|e| Arc::new(e.into()))
        })
        .await
}
