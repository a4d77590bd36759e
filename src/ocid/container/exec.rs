//! ExecSync.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use oci_spec::runtime::Process;
use serde::Deserialize;

use crate::host::fs::read_capped;
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
    let limit = u64::try_from(limit)
        .ok()
        .filter(|s| *s > 0)
        .map(Duration::from_secs);
    let daemon = Arc::clone(daemon);
    daemon
        .clone()
        .tracked(async move {
            let runtime = daemon.runtime(&record.runtime_handler)?;
            let bundle = daemon.bundle(&record.id);
            let process = process(&bundle)?;
            let request = ExecRequest {
                id: &record.id,
                bundle: &bundle,
                args: &args,
                process: &process,
                limit,
            };
            runtime
                .exec_sync(&request)
                .await
                .map_err(|e| Arc::new(e.into()))
        })
        .await
}

/// Larger specifications were not written by us.
const SPEC_CAP: u64 = 16 << 20;

/// The process of the container's specification: whom, where and with what rights a command runs.
fn process(bundle: &Path) -> std::result::Result<Process, Error> {
    #[derive(Deserialize)]
    struct Spec {
        process: Process,
    }
    let path = bundle.join("config.json");
    let bytes = read_capped(&path, SPEC_CAP).map_err(Error::io("read", &path))?;
    let spec: Spec = serde_json::from_slice(&bytes)
        .map_err(std::io::Error::from)
        .map_err(Error::io("parse", &path))?;
    Ok(spec.process)
}
