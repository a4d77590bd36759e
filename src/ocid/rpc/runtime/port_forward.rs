//! PortForward.

use std::sync::Arc;

use crate::cri::v1::{PortForwardRequest, PortForwardResponse};
use crate::ocid::daemon::Daemon;
use crate::ocid::error::Result;
use crate::ocid::field::FieldError;
use crate::ocid::streaming::{Request, forward};

pub async fn port_forward(
    daemon: &Arc<Daemon>,
    request: PortForwardRequest,
) -> Result<PortForwardResponse> {
    let mut ports = Vec::new();
    for port in request.port {
        let number = u16::try_from(port).ok().filter(|number| *number > 0);
        let wrong = || Arc::new(FieldError::new("port", format!("`{port}` is not a port")).into());
        ports.push(number.ok_or_else(wrong)?);
    }
    let record = forward::ready(daemon, &request.pod_sandbox_id)?;
    let url = daemon.streaming.url(Request::Forward {
        sandbox: record.id.clone(),
        ports,
    })?;
    Ok(PortForwardResponse { url })
}
