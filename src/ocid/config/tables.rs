//! The tables of the configuration: what each key is, and what it is when a file does not say.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::handler::Handler;
use crate::ocid::duration;
use crate::ocid::image::ShortNames;
use crate::ocid::stats::metrics::Group;

/// The effective settings of a daemon.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    pub crio: Crio,
}

/// `[crio]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Crio {
    /// State that outlives a reboot: images, layers, what pods and containers were asked to be.
    pub root: PathBuf,
    /// State that does not: the socket, pinned namespaces, bundles, exit records.
    pub runroot: PathBuf,
    pub api: Api,
    pub runtime: Runtime,
    pub image: Image,
    pub network: Network,
    pub stats: Stats,
    pub metrics: Metrics,
}

/// `[crio.api]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Api {
    /// The unix socket that serves the CRI.
    pub listen: PathBuf,
    /// Where exec, attach and port-forward are served; empty: loopback.
    pub stream_address: String,
    /// 0: any free port.
    pub stream_port: String,
    pub stream_enable_tls: bool,
    /// Clients that speak no newer TLS are turned away: `VersionTLS12` or `VersionTLS13`; empty: the former.
    pub stream_min_tls_version: String,
    /// PEM: our certificate with its chain, and its key.
    pub stream_tls_cert: PathBuf,
    pub stream_tls_key: PathBuf,
    /// PEM: the authorities that clients' certificates must come from; empty: clients need none.
    pub stream_tls_ca: PathBuf,
    /// A stream on which nothing moves for this long is closed (`4h`, `90s`, `1h30m`); empty: four hours.
    pub stream_idle_timeout: String,
    /// The longest request, bytes; 0 or less: 16 MiB.
    pub grpc_max_recv_msg_size: i64,
    /// The longest answer, bytes; 0 or less: no limit of ours.
    pub grpc_max_send_msg_size: i64,
}

/// `[crio.runtime]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Runtime {
    pub default_runtime: String,
    pub runtimes: BTreeMap<String, Handler>,
    /// Absent: `systemd` where systemd is PID 1, else `cgroupfs`.
    pub cgroup_manager: Option<CgroupManager>,
    pub seccomp_profile: PathBuf,
    /// A container that says nothing about seccomp gets the default profile instead of none.
    pub seccomp_use_default_when_empty: bool,
    /// A profile for privileged containers, which have none otherwise; empty is none.
    pub privileged_seccomp_profile: PathBuf,
    /// The AppArmor profile of containers that name none. Ours is loaded when it is needed, any other
    /// must be loaded already; `unconfined` is none.
    pub apparmor_profile: String,
    /// Containers and their files have SELinux labels, where SELinux is on.
    pub selinux: bool,
    /// Not those in pods with the machine's network.
    pub hostnetwork_disable_selinux: bool,
    /// Folders with descriptions of CDI devices, the later the stronger.
    pub cdi_spec_dirs: Vec<PathBuf>,
    /// The root of every container is read-only.
    pub read_only: bool,
    /// `NAME=SOFT:HARD`, e.g. `nofile=1024:2048`.
    pub default_ulimits: Vec<String>,
    /// `HOST[:CONTAINER[:PERMISSIONS]]` of device nodes that every container gets.
    pub additional_devices: Vec<String>,
    /// Devices that a pod may ask for by the annotation `io.kubernetes.cri-o.Devices`, where its handler
    /// allows that one.
    pub allowed_devices: Vec<String>,
    /// Device nodes belong to whom the container is told to run as.
    pub device_ownership_from_security_context: bool,
    /// Lines `SOURCE:TARGET` of what is mounted, read-only, in every container; empty is no file.
    pub default_mounts_file: PathBuf,
    /// The time zone of containers: a name below `/usr/share/zoneinfo`, `Local` for the machine's, or empty
    /// for the image's own.
    pub timezone: String,
    /// Mount sources that are refused, not made, where they are missing.
    pub absent_mount_sources_to_reject: Vec<PathBuf>,
    /// Capabilities are inheritable too, as they were before 2022.
    pub add_inheritable_capabilities: bool,
    pub default_capabilities: Vec<String>,
    /// `name=value`, laid under what the pod asks for.
    pub default_sysctls: Vec<String>,
    /// `KEY=value`, laid under the image's and the container's own.
    pub default_env: Vec<String>,
    /// Per container; -1 is without limit.
    pub pids_limit: i64,
    /// Bytes per container log, -1 without limit.
    pub log_size_max: i64,
    pub log_to_journald: bool,
    /// `error`, `warn`, `info`, `debug` or `trace`; after it, where wanted, levels of single modules, as in
    /// `info,image=debug`.
    pub log_level: String,
    /// A regular expression: only lines of the daemon's log that it is found in are written.
    pub log_filter: String,
    /// Seconds within which a container that was killed must be gone.
    pub ctr_stop_timeout: u64,
    /// Containers are entered without pivot_root(2), for roots in memory.
    pub no_pivot: bool,
    /// Host ports that pods ask for are left to others.
    pub disable_hostport_mapping: bool,
    /// CheckpointContainer is served, where criu is installed.
    pub enable_criu_support: bool,
    /// The processors, as in `0-1,4`, of the processes that hold pods; empty is any.
    pub infra_ctr_cpuset: String,
}

/// `crio.runtime.cgroup_manager`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CgroupManager {
    Systemd,
    Cgroupfs,
}

/// `[crio.image]`
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Image {
    /// `HOST[:PORT]` of registries that may be spoken to over plain HTTP.
    pub insecure_registries: Vec<String>,
    /// Credentials in the form of docker's config.json.
    pub global_auth_file: PathBuf,
    /// A folder of credentials for the pods of single namespaces, which go before all others that are
    /// stored: `NAMESPACE-HASH.json`, where HASH is the SHA-256 of the image's name without tag and digest,
    /// or `NAMESPACE.json`. Empty is none.
    pub namespaced_auth_dir: PathBuf,
    /// containers-policy.json(5), which then must be there; empty: `/etc/containers/policy.json` if it is
    /// there.
    pub signature_policy: PathBuf,
    /// A folder of policies, `NAMESPACE.json`, for the pods of single namespaces; empty is none.
    pub signature_policy_dir: PathBuf,
    /// A pull that receives nothing for so long is given up; 0: none is.
    #[serde(with = "duration")]
    pub pull_progress_timeout: Duration,
    /// Absent: what registries.conf says.
    pub short_name_mode: Option<ShortNames>,
    /// Images that garbage collection must not take.
    pub pinned_images: Vec<String>,
    /// What becomes of the folders that an image declares as volumes.
    pub image_volumes: ImageVolumes,
}

/// `crio.image.image_volumes`
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ImageVolumes {
    /// Folders in the container's own writable layer.
    #[default]
    Mkdir,
    /// Empty folders of the container's beside it, mounted.
    Bind,
    Ignore,
}

/// `[crio.network]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Network {
    pub network_dir: PathBuf,
    pub plugin_dirs: Vec<PathBuf>,
    /// One more of them, of older files; empty is none.
    pub plugin_dir: PathBuf,
    /// The network of this name instead of the first one by file name.
    pub cni_default_network: Option<String>,
}

/// `[crio.stats]`
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Stats {
    /// What ListPodSandboxMetrics gives; by default only when a container was last seen, as with CRI-O.
    pub included_pod_metrics: Vec<Group>,
    /// Seconds between two collections of statistics and metrics, of which answers then are; 0: each call measures.
    pub collection_period: u64,
    /// The same of statistics alone. One of the two.
    pub stats_collection_period: u64,
}

/// `[crio.metrics]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Metrics {
    /// Serve Prometheus' text format over HTTP?
    pub enable_metrics: bool,
    /// An address of this machine.
    pub metrics_host: String,
    pub metrics_port: u16,
    /// A unix socket to serve it on as well, always without TLS; empty is none.
    pub metrics_socket: PathBuf,
    /// PEM: the certificate with its chain, and its key, for HTTPS instead of HTTP; both or neither. A
    /// renewed pair is read when the configuration is reloaded.
    pub metrics_cert: PathBuf,
    pub metrics_key: PathBuf,
    /// As for streams.
    pub metrics_min_tls_version: String,
    /// Names of what is served, with or without `crio_` and `container_runtime_`; absent: everything.
    pub metrics_collectors: Option<Vec<String>>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            enable_metrics: false,
            metrics_host: "127.0.0.1".to_owned(),
            metrics_port: 9090,
            metrics_socket: PathBuf::new(),
            metrics_cert: PathBuf::new(),
            metrics_key: PathBuf::new(),
            metrics_min_tls_version: String::new(),
            metrics_collectors: None,
        }
    }
}

impl Default for Crio {
    fn default() -> Self {
        Self {
            root: "/var/lib/ocid".into(),
            runroot: "/run/ocid".into(),
            api: Api::default(),
            runtime: Runtime::default(),
            image: Image::default(),
            network: Network::default(),
            stats: Stats::default(),
            metrics: Metrics::default(),
        }
    }
}

impl Default for Api {
    fn default() -> Self {
        Self {
            listen: super::DEFAULT_SOCKET.into(),
            stream_address: "127.0.0.1".to_owned(),
            stream_port: "0".to_owned(),
            stream_enable_tls: false,
            stream_min_tls_version: String::new(),
            stream_tls_cert: PathBuf::new(),
            stream_tls_key: PathBuf::new(),
            stream_tls_ca: PathBuf::new(),
            stream_idle_timeout: String::new(),
            grpc_max_recv_msg_size: 0,
            grpc_max_send_msg_size: 0,
        }
    }
}

impl Default for Runtime {
    fn default() -> Self {
        Self {
            default_runtime: "runc".to_owned(),
            runtimes: BTreeMap::new(),
            cgroup_manager: None,
            seccomp_profile: "/etc/ocid/seccomp.json".into(),
            seccomp_use_default_when_empty: false,
            privileged_seccomp_profile: PathBuf::new(),
            apparmor_profile: "ocid-default".to_owned(),
            selinux: false,
            hostnetwork_disable_selinux: true,
            cdi_spec_dirs: vec!["/etc/cdi".into(), "/var/run/cdi".into()],
            read_only: false,
            default_ulimits: Vec::new(),
            additional_devices: Vec::new(),
            allowed_devices: ["/dev/fuse", "/dev/net/tun"].map(str::to_owned).to_vec(),
            device_ownership_from_security_context: false,
            default_mounts_file: PathBuf::new(),
            timezone: String::new(),
            absent_mount_sources_to_reject: Vec::new(),
            add_inheritable_capabilities: false,
            default_capabilities: DEFAULT_CAPABILITIES.map(str::to_owned).to_vec(),
            default_sysctls: Vec::new(),
            default_env: Vec::new(),
            pids_limit: -1,
            log_size_max: -1,
            log_to_journald: false,
            log_level: "info".to_owned(),
            log_filter: String::new(),
            ctr_stop_timeout: 60,
            no_pivot: false,
            disable_hostport_mapping: false,
            enable_criu_support: true,
            infra_ctr_cpuset: String::new(),
        }
    }
}

/// What CRI-O grants when its file says nothing.
const DEFAULT_CAPABILITIES: [&str; 9] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "KILL",
];

impl Default for Network {
    fn default() -> Self {
        Self {
            network_dir: "/etc/cni/net.d".into(),
            plugin_dirs: vec!["/opt/cni/bin".into()],
            plugin_dir: PathBuf::new(),
            cni_default_network: None,
        }
    }
}
