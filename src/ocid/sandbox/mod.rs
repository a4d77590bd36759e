//! Pod sandboxes: namespaces, network, files, and the way from RunPodSandbox to removal.
//!
//! One idea holds the life of a pod together: [`teardown::teardown`] undoes everything a pod can have, in
//! reverse order and idempotently, from its record and its id alone. Failure in mid-creation, removal,
//! and a restart that finds a half-made pod all use it.

pub mod config;
pub mod files;
pub mod run;
pub mod stop;
pub mod sysctl;
pub mod teardown;
pub mod update;

use std::net::IpAddr;
use std::path::PathBuf;

use config::{NamespaceMode, SandboxConfig};

use super::daemon::Daemon;
use super::network::PodNetwork;
use super::state::live::Live;
use super::state::record::SandboxRecord;
use super::storage::Users;

/// A pod that lives.
pub type Sandbox = Live<SandboxRecord>;

/// Set on the pod of the self-test: its network comes from a folder of its own.
const SELFTEST: &str = "io.ocid.selftest";

impl SandboxConfig {
    /// What no two pods share at a time.
    pub fn name(&self) -> String {
        let m = &self.metadata;
        format!("{}_{}_{}_{}", m.name, m.namespace, m.uid, m.attempt)
    }

    pub fn has_own_network(&self) -> bool {
        self.namespaces.network == NamespaceMode::Pod
    }
}

impl SandboxRecord {
    /// The pod's addresses, the first of them primary.
    pub fn ips(&self) -> &[IpAddr] {
        self.network.as_ref().map_or(&[], |network| &network.ips)
    }

    /// The pod as the network plugins know it.
    pub fn pod_network(&self, daemon: &Daemon) -> PodNetwork {
        let selftest = self
            .config
            .annotations
            .get(SELFTEST)
            .is_some_and(|v| v == "true");
        let mut pod = PodNetwork {
            cidrs: daemon.subnets.now(),
            // A fixed place, so that no pod can name a folder of its own.
            conf: selftest.then(|| daemon.runroot().join("selftest/net.d")),
            ..PodNetwork::new(&self.id, daemon.network_namespace(&self.id), &self.config)
        };
        if daemon
            .settings()
            .config
            .crio
            .runtime
            .disable_hostport_mapping
        {
            pod.port_mappings.clear();
        }
        pod
    }

    /// The pod's user namespace and its maps, where it has one.
    pub fn users(&self, daemon: &Daemon) -> Option<Users> {
        let maps = self.config.namespaces.userns.as_ref()?.maps();
        let namespace = daemon.namespaces(&self.id).join("user");
        Some(Users { namespace, maps })
    }

    /// The root of the pod's user namespace, to whom what its containers find of ours belongs. None: the machine's.
    pub fn root(&self) -> Option<(u32, u32)> {
        self.config.namespaces.userns.as_ref()?.maps().owner(0, 0)
    }

    /// Pinned namespaces, for those kinds that the pod's containers share.
    pub fn pinned(&self, daemon: &Daemon) -> Pinned {
        let (folder, modes) = (daemon.namespaces(&self.id), &self.config.namespaces);
        let own_name = modes.network != NamespaceMode::Node;
        Pinned {
            net: self.config.has_own_network().then(|| folder.join("net")),
            uts: own_name.then(|| folder.join("uts")),
            ipc: (modes.ipc == NamespaceMode::Pod).then(|| folder.join("ipc")),
            user: modes.userns.as_ref().map(|_| folder.join("user")),
            pid: self
                .pause
                .map(|pause| PathBuf::from(format!("/proc/{}/ns/pid", pause.pid))),
        }
    }
}

/// Paths of namespaces to join.
#[derive(Debug, Clone, Default)]
pub struct Pinned {
    pub net: Option<PathBuf>,
    pub uts: Option<PathBuf>,
    pub ipc: Option<PathBuf>,
    /// Owns the others.
    pub user: Option<PathBuf>,
    pub pid: Option<PathBuf>,
}
