//! RuntimeConfig.

use std::sync::Arc;

use crate::cri::v1::{
    CgroupDriver, LinuxRuntimeConfiguration, RuntimeConfigRequest, RuntimeConfigResponse,
};
use crate::ocid::config::CgroupManager;
use crate::ocid::daemon::Daemon;
use crate::ocid::error::Result;

/// Tells kubelet which cgroup driver to use.
pub async fn runtime_config(
    daemon: &Arc<Daemon>,
    _: RuntimeConfigRequest,
) -> Result<RuntimeConfigResponse> {
    let driver = match daemon.config.cgroup_manager() {
        CgroupManager::Systemd => CgroupDriver::Systemd,
        CgroupManager::Cgroupfs => CgroupDriver::Cgroupfs,
    };
    Ok(RuntimeConfigResponse {
        linux: Some(LinuxRuntimeConfiguration {
            cgroup_driver: driver.into(),
        }),
    })
}
