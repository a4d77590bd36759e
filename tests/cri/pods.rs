//! Short ways to pods with this or that, for the tests of pods.

use crio_setup::cri::v1;

pub mod host {
    //! The machine's ids of a pod with a user namespace.
    pub const UID: u32 = 500_000;
    pub const GID: u32 = 600_000;
}

/// The namespaces that a pod's config asks for.
pub fn namespaces(config: &mut v1::PodSandboxConfig) -> &mut v1::NamespaceOption {
    linux(config)
        .security_context
        .get_or_insert_default()
        .namespace_options
        .get_or_insert_default()
}

pub fn linux(config: &mut v1::PodSandboxConfig) -> &mut v1::LinuxPodSandboxConfig {
    config.linux.get_or_insert_default()
}

/// One range of 65536 users and groups, as kubelet gives a pod.
pub fn userns() -> v1::UserNamespace {
    let map = |host_id| v1::IdMapping {
        host_id,
        container_id: 0,
        length: 65_536,
    };
    v1::UserNamespace {
        mode: v1::NamespaceMode::Pod.into(),
        uids: vec![map(host::UID)],
        gids: vec![map(host::GID)],
    }
}
