//! The variables of each template, with the values of the tutorial as defaults.

use std::path::PathBuf;

use serde::Serialize;

/// What the tutorial gives dockerd, in today's spelling (`docker daemon` and the `overlay` driver
/// are gone). The same words serve where there is no systemd.
pub const DOCKERD_ARGS: [&str; 6] = [
    "--iptables=false",
    "--ip-masq=false",
    "--ip6tables=false",
    "--host=unix:///var/run/docker.sock",
    "--log-level=error",
    "--storage-driver=overlay2",
];

/// `systemd/ocid.service`
#[derive(Debug, Clone, Serialize)]
pub struct OcidUnit {
    /// Absolute path of `ocid`.
    pub exe: PathBuf,
    pub args: Vec<String>,
    /// Read if it exists.
    pub environment_file: PathBuf,
}

impl OcidUnit {
    pub fn new(exe: impl Into<PathBuf>) -> Self {
        Self {
            exe: exe.into(),
            args: Vec::new(),
            environment_file: "/etc/default/ocid".into(),
        }
    }
}

/// `systemd/docker.service`
#[derive(Debug, Clone, Serialize)]
pub struct DockerUnit {
    /// Absolute path of `dockerd`.
    pub exe: PathBuf,
    pub args: Vec<String>,
    /// The folder of the containerd and runc that belong to this dockerd; none for a distribution's.
    pub tools: Option<PathBuf>,
    /// Read if it exists.
    pub environment_file: PathBuf,
}

impl DockerUnit {
    /// With [`DOCKERD_ARGS`].
    pub fn new(exe: impl Into<PathBuf>, tools: Option<PathBuf>) -> Self {
        Self {
            exe: exe.into(),
            args: DOCKERD_ARGS.map(str::to_owned).to_vec(),
            tools,
            environment_file: "/etc/default/docker".into(),
        }
    }
}

/// `cni/10-mynet.conflist`: a bridge with NAT and host ports.
#[derive(Debug, Clone, Serialize)]
pub struct BridgeNetwork {
    /// At most what the installed plugins answer to VERSION.
    pub cni_version: String,
    pub name: String,
    /// Name of the bridge interface, at most 15 bytes.
    pub bridge: String,
    /// IPv4 network in CIDR form; its first address is the bridge's.
    pub subnet: String,
    /// Where host-local keeps its leases; none for its default, `/var/lib/cni/networks`.
    pub data_dir: Option<PathBuf>,
}

impl BridgeNetwork {
    /// `mynet` on `cni0`, 10.88.0.0/16.
    pub fn tutorial(cni_version: impl Into<String>) -> Self {
        Self {
            cni_version: cni_version.into(),
            name: "mynet".to_owned(),
            bridge: "cni0".to_owned(),
            subnet: "10.88.0.0/16".to_owned(),
            data_dir: None,
        }
    }
}

/// `cni/99-loopback.conflist`
#[derive(Debug, Clone, Serialize)]
pub struct Loopback {
    pub cni_version: String,
}

/// `ocid/ocid.conf`
#[derive(Debug, Clone, Serialize)]
pub struct OcidConf {
    pub root: PathBuf,
    pub runroot: PathBuf,
    /// Absolute path of the CRI socket.
    pub listen: PathBuf,
    /// `cgroupfs` or `systemd`.
    pub cgroup_manager: String,
    pub log_to_journald: bool,
    pub seccomp_profile: PathBuf,
    /// Name of the default runtime handler.
    pub runtime: String,
    /// Absolute path of its program.
    pub runtime_path: PathBuf,
    /// `HOST[:PORT]` each.
    pub insecure_registries: Vec<String>,
    pub network_dir: PathBuf,
    pub plugin_dirs: Vec<PathBuf>,
}

impl OcidConf {
    /// The tutorial's node without systemd, with the runc at `runtime_path`.
    pub fn new(runtime_path: impl Into<PathBuf>) -> Self {
        Self {
            root: "/var/lib/ocid".into(),
            runroot: "/run/ocid".into(),
            listen: "/run/ocid/ocid.sock".into(),
            cgroup_manager: "cgroupfs".to_owned(),
            log_to_journald: true,
            seccomp_profile: "/etc/ocid/seccomp.json".into(),
            runtime: "runc".to_owned(),
            runtime_path: runtime_path.into(),
            insecure_registries: Vec::new(),
            network_dir: "/etc/cni/net.d".into(),
            plugin_dirs: vec!["/opt/cni/bin".into()],
        }
    }
}

/// `ocid/crictl.yaml`
#[derive(Debug, Clone, Serialize)]
pub struct Crictl {
    /// `unix://` and the absolute path of the socket.
    pub endpoint: String,
}

/// `apparmor/ocid-default`
#[derive(Debug, Clone, Serialize)]
pub struct AppArmorProfile {
    /// By which the kernel, and whoever asks for it, knows it.
    pub name: String,
}

impl AppArmorProfile {
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into() }
    }
}
