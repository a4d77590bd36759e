//! Exec.

use std::sync::Arc;

use crate::cri::v1::{ExecRequest, ExecResponse};
use crate::ocid::daemon::Daemon;
use crate::ocid::error::Result;
use crate::ocid::field::FieldError;
use crate::ocid::streaming::{Request, Wanted, exec};

pub async fn exec(daemon: &Arc<Daemon>, request: ExecRequest) -> Result<ExecResponse> {
    let field = |e: FieldError| Arc::new(e.into());
    let wanted = Wanted {
        tty: request.tty,
        stdin: request.stdin,
        stdout: request.stdout,
        stderr: request.stderr,
    };
    let wanted = wanted.check().map_err(field)?;
    if request.cmd.is_empty() {
        return Err(field(FieldError::new("cmd", "no command")));
    }
    let record = exec::running(daemon, &request.container_id)?;
    let url = daemon.streaming.url(Request::Exec {
        container: record.id.clone(),
        command: request.cmd,
        wanted,
    })?;
    Ok(ExecResponse { url })
}
