//! Attach.

use std::sync::Arc;

use crate::cri::v1::{AttachRequest, AttachResponse};
use crate::ocid::daemon::Daemon;
use crate::ocid::error::{Error, Result};
use crate::ocid::streaming::{Request, Wanted, attach};

pub async fn attach(daemon: &Arc<Daemon>, request: AttachRequest) -> Result<AttachResponse> {
    let wanted = Wanted {
        tty: request.tty,
        stdin: request.stdin,
        stdout: request.stdout,
        stderr: request.stderr,
    };
    let wanted = wanted.check().map_err(|e| Arc::new(Error::from(e)))?;
    let record = attach::alive(daemon, &request.container_id)?;
    let url = daemon.streaming.url(Request::Attach {
        container: record.id.clone(),
        wanted,
    })?;
    Ok(AttachResponse { url })
}
