//! ContainerStatus.

use std::collections::HashMap;
use std::sync::Arc;

use crate::cri::v1::{ContainerStatusRequest, ContainerStatusResponse};
use crate::ocid::daemon::Daemon;
use crate::ocid::error::Result;
use crate::ocid::rpc::convert::{container_status as convert, verbose};

pub async fn container_status(
    daemon: &Arc<Daemon>,
    request: ContainerStatusRequest,
) -> Result<ContainerStatusResponse> {
    let record = daemon.containers.expect(&request.container_id)?.now();
    let info = if request.verbose {
        verbose(&*record)
    } else {
        HashMap::new()
    };
    Ok(ContainerStatusResponse {
        status: Some(convert(daemon, &record)),
        info,
    })
}
