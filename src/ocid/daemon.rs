//! The daemon's parts, and what every operation needs of them.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tokio_util::task::TaskTracker;

use super::config::{CgroupManager, Config};
use super::container::Container;
use super::container::spec::{Defaults, HostFacts};
use super::error::{Error, Result};
use super::field::FieldError;
use super::network::Network;
use super::runtime::Runtime;
use super::sandbox::Sandbox;
use super::state::joined::Joined;
use super::state::table::Table;
use super::storage::ImageStore;
use crate::host::cgroup::{Cgroups, Driver, PodCgroup};

/// One daemon: settings, parts, and everything it keeps.
pub struct Daemon {
    pub config: Config,
    pub images: ImageStore,
    pub network: Network,
    pub runtimes: BTreeMap<String, Runtime>,
    pub defaults: Defaults,
    pub host: HostFacts,
    pub sandboxes: Table<Sandbox>,
    pub containers: Table<Container>,
    pub names: Names,
    pub cgroups: Cgroups,
    pub joined: Joined,
    /// Mutating operations; each outlives the call that began it.
    pub tasks: TaskTracker,
}

impl Daemon {
    /// State that outlives a reboot.
    pub fn root(&self) -> &Path {
        &self.config.crio.root
    }

    /// State that does not.
    pub fn runroot(&self) -> &Path {
        &self.config.crio.runroot
    }

    pub fn sandbox_folder(&self, id: &str) -> PathBuf {
        self.root().join("sandboxes").join(id)
    }

    pub fn container_folder(&self, id: &str) -> PathBuf {
        self.root().join("containers").join(id)
    }

    /// Pinned namespaces of a pod.
    pub fn namespaces(&self, sandbox: &str) -> PathBuf {
        self.runroot().join("ns").join(sandbox)
    }

    /// A pod's files and /dev/shm.
    pub fn sandbox_run(&self, id: &str) -> PathBuf {
        self.runroot().join("sandboxes").join(id)
    }

    /// A container's OCI bundle.
    pub fn bundle(&self, id: &str) -> PathBuf {
        self.runroot().join("containers").join(id)
    }

    /// Where monitors leave exit records.
    pub fn exits(&self) -> PathBuf {
        self.runroot().join("exits")
    }

    /// The runtime of this handler name; empty means the default's.
    pub fn runtime(&self, handler: &str) -> Result<&Runtime> {
        let name = if handler.is_empty() { &self.config.crio.runtime.default_runtime } else { handler };
        self.runtimes.get(name).ok_or_else(|| {
            let known: Vec<&str> = self.runtimes.keys().map(String::as_str).collect();
            let problem = format!("is `{name}`, none of the configured handlers: {}", known.join(", "));
            Arc::new(FieldError::new("runtime_handler", problem).into())
        })
    }

    /// The place of a pod's containers in the cgroup tree.
    pub fn pod_cgroup(&self, cgroup_parent: &str) -> std::result::Result<PodCgroup, Error> {
        let driver = match self.config.cgroup_manager() {
            CgroupManager::Systemd => Driver::Systemd,
            CgroupManager::Cgroupfs => Driver::Cgroupfs,
        };
        Ok(PodCgroup::new(driver, cgroup_parent)?)
    }

    /// Runs an operation that must come to its end even when its caller goes away.
    pub async fn tracked<T, F>(self: &Arc<Self>, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        self.tasks
            .spawn(work)
            .await
            .unwrap_or_else(|e| Err(Arc::new(Error::Internal(e.to_string()))))
    }
}

/// Runs code that blocks on files or mounts away from the threads that answer calls.
pub async fn blocking<T, F>(work: F) -> Result<T>
where
    T: Send + 'static,
    F: FnOnce() -> std::result::Result<T, Error> + Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(Arc::new),
        Err(e) => Err(Arc::new(Error::Internal(e.to_string()))),
    }
}

/// Names taken, each by one id: a pod's name, namespace, uid and attempt; a container's within its pod.
#[derive(Debug, Default)]
pub struct Names(Mutex<HashMap<String, String>>);

impl Names {
    /// Takes `name` for `id`; refused while another has it.
    pub fn take(&self, what: &'static str, name: &str, id: &str) -> Result<()> {
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match names.get(name) {
            Some(other) if other != id => {
                let (name, id) = (name.to_owned(), other.clone());
                Err(Arc::new(Error::Exists { what, name, id }))
            }
            _ => {
                names.insert(name.to_owned(), id.to_owned());
                Ok(())
            }
        }
    }

    /// Gives back whatever `id` holds.
    pub fn release(&self, id: &str) {
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        names.retain(|_, holder| holder != id);
    }
}

/// A new id: 64 hex digits, 256 random bits.
pub fn new_id() -> Result<String> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|e| Error::Internal(format!("no random bytes: {e}")))?;
    Ok(hex::encode(bytes))
}
