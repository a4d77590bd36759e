//! ContainerStatus.

use std::collections::HashMap;
use std::sync::Arc;

use crate::cri::v1::{ContainerStatusRequest, ContainerStatusResponse};
use crate::ocid::daemon::{Daemon, blocking};
use crate::ocid::error::Result;
use crate::ocid::rpc::convert::container_status as convert;
use crate::ocid::rpc::verbose;

pub async fn container_status(
    daemon: &Arc<Daemon>,
    request: ContainerStatusRequest,
) -> Result<ContainerStatusResponse> {
    let id = &request.container_id;
    daemon.containers.check("container_id", id)?;
    let record = daemon.containers.expect(id)?.now();
    let status = convert(daemon, &record);
    let info = if request.verbose {
        let bundle = daemon.bundle(&record.id);
        blocking(move || verbose::container(&record, &bundle)).await?
    } else {
        HashMap::new()
    };
    Ok(ContainerStatusResponse {
        status: Some(status),
        info,
    })
}
