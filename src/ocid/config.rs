//! `/etc/ocid/ocid.conf` and its drop-ins: the tables and keys of CRI-O's crio.conf, so that such a
//! file can be used as it is.
//!
//! Drop-ins (`ocid.conf.d/*.conf`) are laid over the file in the order of their names, key by key.
//! A key that we do not honour is named in [`Loaded::ignored`], never dropped in silence.

mod report;
mod streams;

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use super::duration;
use super::image::ShortNames;
use super::stats::metrics::Group;
use crate::host::fs::read_capped;

/// Where the daemon looks when it is told nothing.
pub const DEFAULT_FILE: &str = "/etc/ocid/ocid.conf";
/// Where clients look when they are told nothing.
pub const DEFAULT_SOCKET: &str = "/run/ocid/ocid.sock";

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
    /// PEM: our certificate with its chain, and its key.
    pub stream_tls_cert: PathBuf,
    pub stream_tls_key: PathBuf,
    /// PEM: the authorities that clients' certificates must come from; empty: clients need none.
    pub stream_tls_ca: PathBuf,
    /// A stream on which nothing moves for this long is closed (`4h`, `90s`, `1h30m`); empty: four hours.
    pub stream_idle_timeout: String,
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
    /// The AppArmor profile of containers that name none. Ours is loaded when it is needed, any other
    /// must be loaded already; `unconfined` is none.
    pub apparmor_profile: String,
    /// Containers and their files have SELinux labels, where SELinux is on.
    pub selinux: bool,
    /// Folders with descriptions of CDI devices, the later the stronger.
    pub cdi_spec_dirs: Vec<PathBuf>,
    /// The root of every container is read-only.
    pub read_only: bool,
    /// `NAME=SOFT:HARD`, e.g. `nofile=1024:2048`.
    pub default_ulimits: Vec<String>,
    /// `HOST[:CONTAINER[:PERMISSIONS]]` of device nodes that every container gets.
    pub additional_devices: Vec<String>,
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
    /// `error`, `warn`, `info`, `debug` or `trace`.
    pub log_level: String,
    /// Seconds; for containers that CRI calls give no grace period.
    pub ctr_stop_timeout: u64,
    /// CheckpointContainer is served, where criu is installed.
    pub enable_criu_support: bool,
}

/// `[crio.runtime.runtimes.NAME]`
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Handler {
    /// Empty: the handler's name, looked up in `PATH`.
    pub runtime_path: PathBuf,
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
    /// containers-policy.json(5), which then must be there; empty: `/etc/containers/policy.json` if it is
    /// there.
    pub signature_policy: PathBuf,
    /// A pull that receives nothing for so long is given up; 0: none is.
    #[serde(with = "duration")]
    pub pull_progress_timeout: Duration,
    /// Absent: what registries.conf says.
    pub short_name_mode: Option<ShortNames>,
    /// Images that garbage collection must not take.
    pub pinned_images: Vec<String>,
}

/// `[crio.network]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Network {
    pub network_dir: PathBuf,
    pub plugin_dirs: Vec<PathBuf>,
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
    /// A unix socket to serve it on as well; empty is none.
    pub metrics_socket: PathBuf,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            enable_metrics: false,
            metrics_host: "127.0.0.1".to_owned(),
            metrics_port: 9090,
            metrics_socket: PathBuf::new(),
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
            listen: DEFAULT_SOCKET.into(),
            stream_address: "127.0.0.1".to_owned(),
            stream_port: "0".to_owned(),
            stream_enable_tls: false,
            stream_tls_cert: PathBuf::new(),
            stream_tls_key: PathBuf::new(),
            stream_tls_ca: PathBuf::new(),
            stream_idle_timeout: String::new(),
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
            apparmor_profile: "ocid-default".to_owned(),
            selinux: false,
            cdi_spec_dirs: vec!["/etc/cdi".into(), "/var/run/cdi".into()],
            read_only: false,
            default_ulimits: Vec::new(),
            additional_devices: Vec::new(),
            absent_mount_sources_to_reject: Vec::new(),
            add_inheritable_capabilities: false,
            default_capabilities: DEFAULT_CAPABILITIES.map(str::to_owned).to_vec(),
            default_sysctls: Vec::new(),
            default_env: Vec::new(),
            pids_limit: -1,
            log_size_max: -1,
            log_to_journald: false,
            log_level: "info".to_owned(),
            ctr_stop_timeout: 30,
            enable_criu_support: true,
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
            cni_default_network: None,
        }
    }
}

/// A configuration together with what in it has no effect.
#[derive(Debug, Default)]
pub struct Loaded {
    pub config: Config,
    /// `FILE: key` for each key that is not honoured.
    pub ignored: Vec<String>,
    /// Where each value that is no default comes from: its dotted key, and a file or a flag.
    pub origins: BTreeMap<String, String>,
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("read the configuration `{}`", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("parse the configuration `{}`", path.display())]
    Parse {
        path: PathBuf,
        source: Box<toml::de::Error>,
    },
    #[error("`{key}` in the configuration: {problem}")]
    Value { key: &'static str, problem: String },
}

impl ConfigError {
    /// The command that helps.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Read { path, .. } => Some(format!("look at it with `ls -l {}`", path.display())),
            Self::Parse { .. } => Some("the format is that of crio.conf(5)".to_owned()),
            Self::Value { .. } => None,
        }
    }
}

/// No configuration is larger on purpose.
const CAP: u64 = 1 << 20;

/// Loads `file` and the drop-ins in `file`.d. A missing file is no error unless `required`.
pub fn load(file: &Path, required: bool) -> Result<Loaded, ConfigError> {
    let mut ignored = Vec::new();
    let mut merged = Table::new();
    let mut origins = BTreeMap::new();
    let main = if required || file.exists() {
        Some(file.to_owned())
    } else {
        None
    };
    for path in main.into_iter().chain(drop_ins(file)?) {
        let read = |source| ConfigError::Read {
            path: path.clone(),
            source,
        };
        let text = String::from_utf8(read_capped(&path, CAP).map_err(read)?)
            .map_err(|e| read(io::Error::new(io::ErrorKind::InvalidData, e)))?;
        let (table, unknown) = parse(&text).map_err(|source| ConfigError::Parse {
            path: path.clone(),
            source: Box::new(source),
        })?;
        ignored.extend(
            unknown
                .into_iter()
                .map(|key| format!("{}: {key}", path.display())),
        );
        report::leaves("", &table, &mut |key, _| {
            origins.insert(key.to_owned(), path.display().to_string());
        });
        lay_over(&mut merged, table);
    }
    let config =
        Config::deserialize(Value::Table(merged)).map_err(|source| ConfigError::Parse {
            path: file.to_owned(),
            source: Box::new(source),
        })?;
    config.check()?;
    Ok(Loaded {
        config,
        ignored,
        origins,
    })
}

/// One file's table, checked by itself so that an error names this file, and its unknown keys.
fn parse(text: &str) -> Result<(Table, Vec<String>), toml::de::Error> {
    let table: Table = toml::from_str(text)?;
    let mut unknown = Vec::new();
    let _: Config = serde_ignored::deserialize(Value::Table(table.clone()), |path| {
        unknown.push(path.to_string());
    })?;
    Ok((table, unknown))
}

fn drop_ins(file: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let mut folder = file.as_os_str().to_owned();
    folder.push(".d");
    let folder = PathBuf::from(folder);
    let read = |source| ConfigError::Read {
        path: folder.clone(),
        source,
    };
    let entries = match std::fs::read_dir(&folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(read)?,
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(read)?.path();
        if path.extension().is_some_and(|e| e == "conf") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

fn lay_over(base: &mut Table, over: Table) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(Value::Table(below)), Value::Table(above)) => lay_over(below, above),
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

impl Config {
    /// What the types cannot say.
    pub fn check(&self) -> Result<(), ConfigError> {
        let absolute = [
            ("crio.root", &self.crio.root),
            ("crio.runroot", &self.crio.runroot),
            ("crio.api.listen", &self.crio.api.listen),
            ("crio.network.network_dir", &self.crio.network.network_dir),
        ];
        for (key, path) in absolute {
            if !path.is_absolute() {
                let problem = format!("`{}` is not an absolute path", path.display());
                return Err(ConfigError::Value { key, problem });
            }
        }
        self.crio.api.stream_socket()?;
        self.crio.api.idle_timeout()?;
        let runtime = &self.crio.runtime;
        if !runtime.runtimes.is_empty() && !runtime.runtimes.contains_key(&runtime.default_runtime)
        {
            let problem = format!(
                "no table `crio.runtime.runtimes.{}`",
                runtime.default_runtime
            );
            return Err(ConfigError::Value {
                key: "crio.runtime.default_runtime",
                problem,
            });
        }
        if self.level().is_none() {
            let problem = format!(
                "`{}` is none of error, warn, info, debug, trace",
                runtime.log_level
            );
            return Err(ConfigError::Value {
                key: "crio.runtime.log_level",
                problem,
            });
        }
        let stats = &self.crio.stats;
        if stats.collection_period != 0 && stats.stats_collection_period != 0 {
            return Err(ConfigError::Value {
                key: "crio.stats.stats_collection_period",
                problem: "it is set beside `collection_period`, which includes it".to_owned(),
            });
        }
        let host = &self.crio.metrics.metrics_host;
        if host.parse::<IpAddr>().is_err() {
            return Err(ConfigError::Value {
                key: "crio.metrics.metrics_host",
                problem: format!("`{host}` is no IP address"),
            });
        }
        let pairs = [
            ("crio.runtime.default_sysctls", &runtime.default_sysctls),
            ("crio.runtime.default_env", &runtime.default_env),
        ];
        for (key, list) in pairs {
            if let Some(bad) = list.iter().find(|entry| !entry.contains('=')) {
                return Err(ConfigError::Value {
                    key,
                    problem: format!("`{bad}` is not `name=value`"),
                });
            }
        }
        Ok(())
    }

    /// The level of the daemon's own log; CRI-O's `fatal` and `panic` read as `error`.
    pub fn level(&self) -> Option<tracing::Level> {
        match self.crio.runtime.log_level.to_ascii_lowercase().as_str() {
            "fatal" | "panic" => Some(tracing::Level::ERROR),
            "warning" => Some(tracing::Level::WARN),
            other => other.parse().ok(),
        }
    }

    /// The driver in effect: systemd's where systemd runs the machine, unless told otherwise.
    pub fn cgroup_manager(&self) -> CgroupManager {
        self.crio.runtime.cgroup_manager.unwrap_or_else(|| {
            // sd_booted(3)
            if Path::new("/run/systemd/system").is_dir() {
                CgroupManager::Systemd
            } else {
                CgroupManager::Cgroupfs
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use indoc::indoc;
    use std::fs;

    #[test]
    fn drop_ins_win_key_by_key_and_unknown_keys_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ocid.conf");
        fs::write(
            &file,
            indoc! {r#"
                [crio]
                root = "/a"
                [crio.runtime]
                cgroup_manager = "systemd"
                conmon = "/usr/bin/conmon"
                [crio.runtime.runtimes.runc]
                runtime_path = "/usr/bin/runc"
            "#},
        )
        .unwrap();
        fs::create_dir(dir.path().join("ocid.conf.d")).unwrap();
        fs::write(
            dir.path().join("ocid.conf.d/10-x.conf"),
            "[crio.runtime]\ncgroup_manager = \"cgroupfs\"\n",
        )
        .unwrap();
        fs::write(dir.path().join("ocid.conf.d/README"), "not toml [").unwrap();
        let loaded = load(&file, true).unwrap();
        let config = loaded.config;
        assert_eq!(config.crio.root, Path::new("/a"));
        assert_eq!(config.crio.runroot, Path::new("/run/ocid"));
        assert_eq!(config.cgroup_manager(), CgroupManager::Cgroupfs);
        assert_eq!(
            config.crio.runtime.runtimes["runc"].runtime_path,
            Path::new("/usr/bin/runc")
        );
        assert_eq!(
            loaded.ignored,
            [format!("{}: crio.runtime.conmon", file.display())]
        );
    }

    #[test]
    fn a_missing_file_counts_only_where_it_was_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("none.conf");
        assert_eq!(load(&file, false).unwrap().config, Config::default());
        assert!(matches!(load(&file, true), Err(ConfigError::Read { .. })));
    }

    #[test]
    fn bad_values_name_their_file_or_key() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ocid.conf");
        for (text, part) in [
            ("[crio.runtime]\npids_limit = \"many\"", "ocid.conf"),
            ("[crio]\nroot = \"relative\"", "crio.root"),
            (
                "[crio.metrics]\nmetrics_host = \"localhost\"",
                "crio.metrics.metrics_host",
            ),
            (
                "[crio.runtime]\nlog_level = \"loud\"",
                "crio.runtime.log_level",
            ),
            (
                "[crio.runtime]\ndefault_env = [\"A\"]",
                "crio.runtime.default_env",
            ),
            (
                "[crio.runtime]\ndefault_runtime = \"x\"\n[crio.runtime.runtimes.runc]",
                "default_runtime",
            ),
            (
                "[crio.stats]\nincluded_pod_metrics = [\"cpu\", \"weather\"]",
                "ocid.conf",
            ),
            (
                "[crio.stats]\ncollection_period = 10\nstats_collection_period = 10",
                "crio.stats.stats_collection_period",
            ),
            ("[crio", "ocid.conf"),
        ] {
            fs::write(&file, text).unwrap();
            let error = load(&file, true).unwrap_err();
            assert!(error.to_string().contains(part), "{text}: {error}");
        }
    }
}
