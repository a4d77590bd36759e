//! CNI: the machine's network configurations, and pods attached to and detached from them by plugins.
//!
//! As the CNI specification (0.1.0 to 1.1.0) and CRI-O have it: the first file by name with a network
//! that is not loopback counts, read anew each time, so a file that appears or heals needs no
//! restart. `lo` is not a plugin's work here: [`crate::host::namespace::pin`] brings it up.
//!
//! Plugins run in the caller's own network namespace: nothing here moves to another thread.

mod bandwidth;
mod chain;
mod conf;
mod error;
mod folder;
mod lease;
mod pod;
mod result;
mod stray;
pub mod subnets;

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::Semaphore;

use crate::host::namespace;
use chain::{Chain, Subject};
use conf::NetworkConf;

pub use error::NetworkError;
pub use pod::PodNetwork;

/// The pod's interface, as everywhere in Kubernetes.
pub const INTERFACE: &str = "eth0";
/// For one run of one plugin, and for one that a dead daemon left behind.
const LIMIT: Duration = Duration::from_secs(30);
/// Chains of plugins at work at once. More would only wait for iptables' lock, in processes.
const AT_ONCE: usize = 16;

/// The machine's pod networks. One per daemon.
#[derive(Debug)]
pub struct Network {
    conf_dir: PathBuf,
    plugin_dirs: Vec<PathBuf>,
    default_network: Option<String>,
    /// Of the plugins: with the system's folders, where iptables is.
    search_path: OsString,
    at_work: Semaphore,
}

/// The CRI's NetworkReady condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkState {
    pub ready: bool,
    /// Empty, or `NetworkPluginNotReady`, which kubelet knows.
    pub reason: String,
    /// Empty, or what is missing, naming files and plugins.
    pub message: String,
}

/// What an ADD has made; DEL needs it back. Kept with the pod's state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Attachment {
    /// The network's name.
    pub network: String,
    /// The configuration list as it was used; a single configuration as a list of one.
    pub config: Value,
    /// The last plugin's result, in the form of the list's `cniVersion`.
    pub result: Value,
    /// The pod's addresses, the primary one first; never empty.
    pub ips: Vec<IpAddr>,
}

impl Network {
    /// `conf_dir` holds `*.conflist`, `*.conf` and `*.json`; the plugins lie in `plugin_dirs`.
    /// Neither has to exist yet.
    pub fn new(conf_dir: impl Into<PathBuf>, plugin_dirs: Vec<PathBuf>) -> Self {
        let path = std::env::var_os("PATH");
        Self {
            conf_dir: conf_dir.into(),
            plugin_dirs,
            default_network: None,
            search_path: chain::search_path(path.as_deref()),
            at_work: Semaphore::new(AT_ONCE),
        }
    }

    /// Uses the network of this name instead of the first by file name (`cni_default_network` of
    /// crio.conf).
    pub fn with_default_network(mut self, name: Option<String>) -> Self {
        self.default_network = name.filter(|n| !n.is_empty());
        self
    }

    /// Is there a network for pods, with all its plugins (and, from CNI 1.1.0 on, do these call
    /// themselves ready)? Reads the folder anew.
    pub async fn status(&self) -> NetworkState {
        let state = match self.network(&self.conf_dir) {
            Ok(conf) => match self.chain(&conf, None) {
                Ok(chain) => chain.status().await,
                Err(e) => Err(e),
            },
            Err(e) => Err(e),
        };
        match state {
            Ok(()) => NetworkState {
                ready: true,
                reason: String::new(),
                message: String::new(),
            },
            Err(e) => NetworkState {
                ready: false,
                reason: "NetworkPluginNotReady".to_owned(),
                message: e.to_string(),
            },
        }
    }

    /// Attaches a pod: ADD through the whole chain. On failure what was added is deleted again and
    /// the error holds the clean-up's too. Each plugin run is limited to 30 s. Do not drop the future
    /// half-way: a plugin would be killed at its work.
    pub async fn add(&self, pod: &PodNetwork) -> Result<Attachment, NetworkError> {
        pod.check()?;
        let args = pod.cni_args()?;
        let conf = self.network(pod.conf.as_deref().unwrap_or(&self.conf_dir))?;
        let subject = Subject {
            pod,
            args: &args,
            netns: Some(&pod.netns),
        };
        let chain = self.chain(&conf, Some(subject))?;
        let _permit = self.at_work.acquire().await.ok();
        let (result, ips) = chain.add().await?;
        Ok(Attachment {
            network: conf.name.clone(),
            config: conf.to_json(),
            result,
            ips,
        })
    }

    /// Detaches a pod: DEL through the whole chain, last plugin first, going on after a failure.
    /// With an attachment its cached configuration and result are used, whatever the folder holds
    /// now. Without one (the daemon died during ADD) the folder's network is taken, and when it has
    /// none there is nothing to do; a plugin that outlived that daemon is waited for. Idempotent; a
    /// namespace that is gone is no error.
    pub async fn del(
        &self,
        pod: &PodNetwork,
        attachment: Option<&Attachment>,
    ) -> Result<(), NetworkError> {
        let args = match pod.cni_args() {
            // ADD has refused it, too.
            Err(_) if attachment.is_none() => return Ok(()),
            other => other?,
        };
        let conf = match attachment {
            Some(attachment) => attachment.conf()?,
            None => match self.network(pod.conf.as_deref().unwrap_or(&self.conf_dir)) {
                Ok(conf) => {
                    stray::wait(&pod.sandbox_id, LIMIT).await;
                    conf
                }
                Err(e) => {
                    tracing::debug!(sandbox = pod.sandbox_id, error = %e, "no network to leave");
                    return Ok(());
                }
            },
        };
        let pinned = namespace::is_pinned(&pod.netns).map_err(NetworkError::Namespace)?;
        let subject = Subject {
            pod,
            args: &args,
            netns: pinned.then_some(pod.netns.as_path()),
        };
        let chain = self.chain(&conf, Some(subject))?;
        let _permit = self.at_work.acquire().await.ok();
        let done = match attachment {
            Some(attachment) => chain.del(&attachment.result).await,
            None => chain.del_half_made().await,
        };
        if attachment.is_some() && !pinned {
            // After a power cut, say.
            lease::drop_unwritten(&conf).await;
        }
        done
    }

    fn network(&self, dir: &Path) -> Result<NetworkConf, NetworkError> {
        let wanted = self.default_network.as_deref();
        // The folder of a pod of its own holds one network, by whatever name.
        let wanted = wanted.filter(|_| dir == self.conf_dir);
        folder::choose(dir, &self.plugin_dirs, wanted).map_err(NetworkError::NotReady)
    }

    fn chain<'a>(
        &'a self,
        conf: &'a NetworkConf,
        pod: Option<Subject<'a>>,
    ) -> Result<Chain<'a>, NetworkError> {
        let find = |kind: &str| {
            folder::find_plugin(&self.plugin_dirs, kind).ok_or_else(|| NetworkError::NoPlugin {
                plugin: kind.to_owned(),
                network: conf.name.clone(),
                dirs: self.plugin_dirs.clone(),
            })
        };
        Ok(Chain {
            conf,
            pod,
            programs: conf.plugin_types().map(find).collect::<Result<_, _>>()?,
            plugin_dirs: &self.plugin_dirs,
            search_path: &self.search_path,
        })
    }
}

impl Attachment {
    fn conf(&self) -> Result<NetworkConf, NetworkError> {
        let problem = |problem| NetworkError::Cached {
            network: self.network.clone(),
            problem,
        };
        match conf::from_json(self.config.clone()) {
            Ok(conf::Loaded::Network(conf)) => Ok(conf),
            Ok(conf::Loaded::Loopback) => Err(problem("is of a loopback".to_owned())),
            Err(e) => Err(problem(e)),
        }
    }
}

fn listed(dirs: &[PathBuf]) -> String {
    let dirs = dirs.iter().map(|d| format!("`{}`", d.display()));
    dirs.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
