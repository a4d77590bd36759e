//! ExecSync.

use std::sync::Arc;

use crate::cri::v1::{ExecSyncRequest, ExecSyncResponse};
use crate::ocid::container::exec;
use crate::ocid::daemon::Daemon;
use crate::ocid::error::Result;

pub async fn exec_sync(daemon: &Arc<Daemon>, request: ExecSyncRequest) -> Result<ExecSyncResponse> {
    let id = &request.container_id;
    daemon.containers.check("container_id", id)?;
    let output = exec::exec_sync(daemon, id, request.cmd, request.timeout).await?;
    Ok(ExecSyncResponse {
        stdout: output.stdout,
        stderr: output.stderr,
        exit_code: output.exit_code,
    })
}
