//! Version.

use std::sync::Arc;

use crate::cri::v1::{VersionRequest, VersionResponse};
use crate::ocid::daemon::Daemon;
use crate::ocid::error::Result;

/// The version of kubelet's own handshake, which every runtime answers.
const KUBE_API_VERSION: &str = "0.1.0";

pub async fn version(_: &Arc<Daemon>, _: VersionRequest) -> Result<VersionResponse> {
    Ok(VersionResponse {
        version: KUBE_API_VERSION.to_owned(),
        runtime_name: "ocid".to_owned(),
        runtime_version: env!("CARGO_PKG_VERSION").to_owned(),
        runtime_api_version: "v1".to_owned(),
    })
}
