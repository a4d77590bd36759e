//! The self-test's pod and container, as a kubelet would ask for them.

use std::collections::HashMap;
use std::path::Path;

use crate::cri::v1::{
    ContainerConfig, ContainerMetadata, ImageSpec, LinuxPodSandboxConfig,
    LinuxSandboxSecurityContext, NamespaceMode, NamespaceOption, PodSandboxConfig,
    PodSandboxMetadata,
};

/// The annotation by which ocid takes the self-test's network, and the label by which we find what a
/// killed run left.
pub const MARK: &str = "io.ocid.selftest";
/// The container's log, in the pod's log folder.
pub const LOG: &str = "peer.log";

/// A pod of its own network, with processes apart: the modes that kubelet sets by default.
pub fn sandbox(token: &str, logs: &Path) -> PodSandboxConfig {
    let mark = || HashMap::from([(MARK.to_owned(), "true".to_owned())]);
    PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: format!("selftest-{token}"),
            uid: format!("selftest-{token}"),
            namespace: "ocid-selftest".to_owned(),
            attempt: 0,
        }),
        hostname: "selftest".to_owned(),
        log_directory: logs.display().to_string(),
        labels: mark().into_iter().collect(),
        annotations: mark().into_iter().collect(),
        linux: Some(LinuxPodSandboxConfig {
            security_context: Some(LinuxSandboxSecurityContext {
                namespace_options: Some(NamespaceOption {
                    network: NamespaceMode::Pod.into(),
                    pid: NamespaceMode::Container.into(),
                    ipc: NamespaceMode::Pod.into(),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// The peer, by the entrypoint of its image.
pub fn container(image: &str) -> ContainerConfig {
    ContainerConfig {
        metadata: Some(ContainerMetadata {
            name: "peer".to_owned(),
            attempt: 0,
        }),
        image: Some(ImageSpec {
            image: image.to_owned(),
            user_specified_image: image.to_owned(),
            ..Default::default()
        }),
        log_path: LOG.to_owned(),
        ..Default::default()
    }
}
