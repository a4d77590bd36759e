//! What the types of the tables cannot say, and what their values come to.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use super::{CgroupManager, Config, ConfigError, Metrics, Network, Runtime};
use crate::ocid::metrics::COLLECTORS;

/// Where the time zones of a machine are described.
const ZONEINFO: &str = "/usr/share/zoneinfo";
const LOCALTIME: &str = "/etc/localtime";

fn wrong(key: &'static str, problem: String) -> ConfigError {
    ConfigError::Value { key, problem }
}

impl Config {
    /// What the types cannot say.
    pub fn check(&self) -> Result<(), ConfigError> {
        let crio = &self.crio;
        let (runtime, image) = (&crio.runtime, &crio.image);
        for (key, path) in [
            ("crio.root", &crio.root),
            ("crio.runroot", &crio.runroot),
            ("crio.api.listen", &crio.api.listen),
            ("crio.network.network_dir", &crio.network.network_dir),
        ] {
            absolute(key, path)?;
        }
        for (key, path) in [
            ("crio.network.plugin_dir", &crio.network.plugin_dir),
            ("crio.image.namespaced_auth_dir", &image.namespaced_auth_dir),
            (
                "crio.image.signature_policy_dir",
                &image.signature_policy_dir,
            ),
            ("crio.metrics.metrics_socket", &crio.metrics.metrics_socket),
        ] {
            if !path.as_os_str().is_empty() {
                absolute(key, path)?;
            }
        }
        crio.api.stream_socket()?;
        crio.api.idle_timeout()?;
        for (key, version) in [
            (
                "crio.api.stream_min_tls_version",
                &crio.api.stream_min_tls_version,
            ),
            (
                "crio.metrics.metrics_min_tls_version",
                &crio.metrics.metrics_min_tls_version,
            ),
        ] {
            if !matches!(version.as_str(), "" | "VersionTLS12" | "VersionTLS13") {
                let problem = format!("`{version}` is neither VersionTLS12 nor VersionTLS13");
                return Err(wrong(key, problem));
            }
        }
        let stats = &crio.stats;
        if stats.collection_period != 0 && stats.stats_collection_period != 0 {
            return Err(wrong(
                "crio.stats.stats_collection_period",
                "it is set beside `collection_period`, which includes it".to_owned(),
            ));
        }
        runtime.check_handlers()?;
        runtime.check()?;
        crio.metrics.check()
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

    /// The settings in effect after a reload: the old ones with all of the new that takes effect without a
    /// restart.
    pub fn reloaded(&self, new: &Self) -> Self {
        let mut next = self.clone();
        next.crio.image = new.crio.image.clone();
        next.crio.runtime = Runtime {
            // The cgroups of what runs are where they are.
            cgroup_manager: self.crio.runtime.cgroup_manager,
            ..new.crio.runtime.clone()
        };
        next
    }
}

fn absolute(key: &'static str, path: &Path) -> Result<(), ConfigError> {
    if path.is_absolute() {
        return Ok(());
    }
    let problem = format!("`{}` is not an absolute path", path.display());
    Err(wrong(key, problem))
}

impl Network {
    /// Every folder of plugins.
    pub fn plugin_dirs(&self) -> Vec<PathBuf> {
        let also = Some(&self.plugin_dir).filter(|dir| !dir.as_os_str().is_empty());
        self.plugin_dirs.iter().chain(also).cloned().collect()
    }
}

impl Runtime {
    fn check(&self) -> Result<(), ConfigError> {
        if self.log_targets().is_none() {
            let problem = format!(
                "`{}` is none of error, warn, info, debug, trace, nor that with `,MODULE=LEVEL` after it",
                self.log_level
            );
            return Err(wrong("crio.runtime.log_level", problem));
        }
        if let Err(error) = regex::Regex::new(&self.log_filter) {
            let problem = format!("`{}` is no regular expression: {error}", self.log_filter);
            return Err(wrong("crio.runtime.log_filter", problem));
        }
        for (key, list) in [
            ("crio.runtime.default_sysctls", &self.default_sysctls),
            ("crio.runtime.default_env", &self.default_env),
        ] {
            if let Some(bad) = list.iter().find(|entry| !entry.contains('=')) {
                return Err(wrong(key, format!("`{bad}` is not `name=value`")));
            }
        }
        if self.infra_cpus().is_none() {
            let problem = format!(
                "`{}` is no list of processors such as `0-1,4`",
                self.infra_ctr_cpuset
            );
            return Err(wrong("crio.runtime.infra_ctr_cpuset", problem));
        }
        self.localtime().map(drop)
    }

    /// The processors of the processes that hold pods; an empty set is any. None where the list is none.
    pub fn infra_cpus(&self) -> Option<BTreeSet<usize>> {
        /// glibc's cpu_set_t has no more.
        const MOST: usize = 1024;
        let mut cpus = BTreeSet::new();
        for range in self.infra_ctr_cpuset.split(',').map(str::trim) {
            if range.is_empty() && self.infra_ctr_cpuset.trim().is_empty() {
                break;
            }
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
            if first > last || last >= MOST {
                return None;
            }
            cpus.extend(first..=last);
        }
        Some(cpus)
    }

    /// The file that containers find at /etc/localtime instead of their image's.
    pub fn localtime(&self) -> Result<Option<PathBuf>, ConfigError> {
        let zone = self.timezone.as_str();
        let file = match zone {
            "" => return Ok(None),
            local if local.eq_ignore_ascii_case("local") => PathBuf::from(LOCALTIME),
            name => {
                let part = |part: &str| !part.is_empty() && part != "." && part != "..";
                if !name.split('/').all(part) {
                    let problem = format!("`{name}` is no name of a time zone");
                    return Err(wrong("crio.runtime.timezone", problem));
                }
                Path::new(ZONEINFO).join(name)
            }
        };
        if !file.is_file() {
            let problem = format!("`{zone}` is not described: no file `{}`", file.display());
            return Err(wrong("crio.runtime.timezone", problem));
        }
        Ok(Some(file))
    }

    /// The levels of the daemon's own log: of everything, and of single modules (`image` is all of
    /// `ocid::image`). CRI-O's `fatal` and `panic` read as `error`.
    pub fn log_targets(&self) -> Option<(tracing::Level, Vec<(String, tracing::Level)>)> {
        let mut parts = self.log_level.split(',').map(str::trim);
        let whole = level(parts.next()?)?;
        let mut modules = Vec::new();
        for part in parts {
            let (module, of_module) = part.split_once('=')?;
            let name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | ':');
            if module.is_empty() || !module.chars().all(name) {
                return None;
            }
            modules.push((module.to_owned(), level(of_module)?));
        }
        Some((whole, modules))
    }
}

fn level(name: &str) -> Option<tracing::Level> {
    match name.to_ascii_lowercase().as_str() {
        "fatal" | "panic" => Some(tracing::Level::ERROR),
        "warning" => Some(tracing::Level::WARN),
        // A bare number reads as a level otherwise.
        other if other.chars().all(|c| c.is_ascii_alphabetic()) => other.parse().ok(),
        _ => None,
    }
}

impl Metrics {
    fn check(&self) -> Result<(), ConfigError> {
        let host = &self.metrics_host;
        if host.parse::<IpAddr>().is_err() {
            return Err(wrong(
                "crio.metrics.metrics_host",
                format!("`{host}` is no IP address"),
            ));
        }
        let absent = |path: &Path| path.as_os_str().is_empty();
        match (absent(&self.metrics_cert), absent(&self.metrics_key)) {
            (true, false) => Err(wrong(
                "crio.metrics.metrics_cert",
                "`metrics_key` needs it".to_owned(),
            )),
            (false, true) => Err(wrong(
                "crio.metrics.metrics_key",
                "`metrics_cert` needs it".to_owned(),
            )),
            _ => Ok(()),
        }
    }

    /// Where to listen; None where metrics are off.
    pub fn address(&self) -> Option<SocketAddr> {
        let host = self.metrics_host.parse().ok()?;
        self.enable_metrics
            .then(|| SocketAddr::new(host, self.metrics_port))
    }

    /// Is the metric or group of this name (without a prefix) to be served?
    pub fn collects(&self, name: &str) -> bool {
        match &self.metrics_collectors {
            None => true,
            Some(wanted) => wanted.iter().any(|collector| bare(collector) == name),
        }
    }

    /// Of the collectors asked for those that are not to be had here.
    pub fn unknown_collectors(&self) -> Vec<&str> {
        let wanted = self.metrics_collectors.iter().flatten();
        wanted
            .map(String::as_str)
            .filter(|collector| !COLLECTORS.contains(&bare(collector)))
            .collect()
    }
}

/// A collector's name without the prefixes that CRI-O lets it have.
fn bare(collector: &str) -> &str {
    let name = collector
        .strip_prefix("container_runtime_")
        .unwrap_or(collector);
    name.strip_prefix("crio_").unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_of_single_modules() {
        let targets = |text: &str| {
            let runtime = Runtime {
                log_level: text.to_owned(),
                ..Runtime::default()
            };
            runtime.log_targets()
        };
        use tracing::Level;
        assert_eq!(targets("warning"), Some((Level::WARN, vec![])));
        assert_eq!(targets("Fatal"), Some((Level::ERROR, vec![])));
        let (whole, modules) = targets("info, image=debug,network::chain=trace").unwrap();
        assert_eq!(whole, Level::INFO);
        let names: Vec<_> = modules.iter().map(|(m, l)| (m.as_str(), *l)).collect();
        assert_eq!(
            names,
            [("image", Level::DEBUG), ("network::chain", Level::TRACE)]
        );
        for bad in [
            "",
            "loud",
            "3",
            "info,image",
            "info,=debug",
            "info,a b=debug",
            "info,image=x",
        ] {
            assert_eq!(targets(bad), None, "{bad}");
        }
    }

    #[test]
    fn lists_of_processors() {
        let cpus = |text: &str| {
            let runtime = Runtime {
                infra_ctr_cpuset: text.to_owned(),
                ..Runtime::default()
            };
            runtime.infra_cpus().map(Vec::from_iter)
        };
        assert_eq!(cpus(""), Some(vec![]));
        assert_eq!(cpus("0-2,5"), Some(vec![0, 1, 2, 5]));
        for bad in ["x", "2-1", "0,", "0-99999"] {
            assert_eq!(cpus(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_takes_effect_without_a_restart() {
        let old = Config::default();
        let mut new = old.clone();
        new.crio.runtime.pids_limit = 5;
        new.crio.runtime.cgroup_manager = Some(CgroupManager::Systemd);
        new.crio.image.pinned_images = vec!["a".to_owned()];
        new.crio.root = "/elsewhere".into();
        let next = old.reloaded(&new);
        let names = |changed: BTreeSet<String>| changed.into_iter().collect::<Vec<_>>();
        assert_eq!(
            names(old.changed(&next).unwrap()),
            ["crio.image.pinned_images", "crio.runtime.pids_limit"]
        );
        assert_eq!(
            names(next.changed(&new).unwrap()),
            ["crio.root", "crio.runtime.cgroup_manager"]
        );
    }

    #[test]
    fn collectors_by_any_of_their_names() {
        let metrics = Metrics {
            metrics_collectors: Some(
                [
                    "crio_operations_total",
                    "container_runtime_crio_containers_oom_total",
                    "weather",
                ]
                .map(str::to_owned)
                .to_vec(),
            ),
            ..Metrics::default()
        };
        assert!(metrics.collects("operations_total") && metrics.collects("containers_oom_total"));
        assert!(!metrics.collects("operations_errors_total"));
        assert_eq!(metrics.unknown_collectors(), ["weather"]);
        assert!(Metrics::default().collects("anything"));
    }
}
