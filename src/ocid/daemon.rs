//! The daemon's parts, and what every operation needs of them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument, Span};

use super::config::{CgroupManager, Config};
use super::container::Container;
use super::container::checkpoint::Checkpoints;
use super::error::{Error, Result};
use super::events::Events;
use super::handlers::{Handler, Workshop};
use super::image::ImageStore;
use super::metrics::Metrics;
use super::network::Network;
use super::network::subnets::Subnets;
use super::runtime::{Place, Runtime};
use super::sandbox::Sandbox;
use super::settings::{Settings, image_options};
use super::state::joined::Joined;
use super::state::record::{ContainerRecord, SandboxRecord};
use super::state::table::Table;
use super::stats::Stats;
use super::streaming::Streaming;
use crate::host::cgroup::{Cgroups, Driver, PodCgroup};
use crate::host::interfaces::Interfaces;

/// One daemon: settings, parts, and everything it keeps.
pub struct Daemon {
    /// As at the start: for what no reload changes. The rest is in [`Daemon::settings`].
    pub config: Config,
    settings: RwLock<Arc<Settings>>,
    workshop: Workshop,
    pub images: ImageStore,
    pub network: Network,
    pub subnets: Subnets,
    pub sandboxes: Table<Sandbox>,
    pub containers: Table<Container>,
    pub names: Names,
    pub cgroups: Cgroups,
    pub interfaces: Interfaces,
    pub joined: Joined,
    pub streaming: Streaming,
    pub checkpoints: Checkpoints,
    pub events: Events,
    pub stats: Stats,
    pub metrics: Metrics,
    /// Cancelled when the daemon is told to stop: what would go on for ever ends.
    pub stopping: CancellationToken,
    /// Calls, and mutating operations, each of which outlives the call that began it.
    pub tasks: TaskTracker,
}

impl Daemon {
    /// A daemon with these settings, before it has looked at what is left of an earlier one.
    /// `open_files` is the limit (soft, hard) that this process was started with.
    pub fn open(config: Config, open_files: Option<(u64, u64)>) -> Result<Arc<Self>> {
        let crio = &config.crio;
        let exe = std::env::current_exe()
            .map_err(Error::io("find this program's own file", "/proc/self/exe"))?;
        let systemd = config.cgroup_manager() == CgroupManager::Systemd;
        let workshop = Workshop::new(exe, &config, systemd, open_files);
        let settings = Settings::make(config.clone(), &workshop, None)?;
        let images =
            ImageStore::open(&crio.root, image_options(&crio.image)).map_err(Error::from)?;
        Ok(Arc::new(Self {
            images,
            network: Network::new(&crio.network.network_dir, crio.network.plugin_dirs())
                .with_default_network(crio.network.cni_default_network.clone()),
            subnets: Subnets::open(&crio.root),
            settings: RwLock::new(Arc::new(settings)),
            workshop,
            cgroups: Cgroups::detect().map_err(Error::io("look at", "/sys/fs/cgroup"))?,
            interfaces: Interfaces::default(),
            sandboxes: Table::new("pod"),
            containers: Table::new("container"),
            names: Names::default(),
            joined: Joined::default(),
            streaming: Streaming::default(),
            checkpoints: Checkpoints::default(),
            events: Events::default(),
            stats: Stats::new(&crio.stats),
            metrics: Metrics::default(),
            stopping: CancellationToken::new(),
            tasks: TaskTracker::new(),
            config,
        }))
    }

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

    /// The network's among them.
    pub fn network_namespace(&self, sandbox: &str) -> PathBuf {
        self.namespaces(sandbox).join("net")
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

    /// What holds now; the caller's for as long as it wants the same of it.
    pub fn settings(&self) -> Arc<Settings> {
        let settings = self.settings.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&settings)
    }

    /// Puts the settings of this configuration in place of the ones until now, or none of them.
    pub fn reconfigure(&self, config: Config) -> Result<()> {
        let old = self.settings();
        let new = Settings::make(config, &self.workshop, Some(&old))?;
        for (name, handler) in &old.handlers {
            let place = new.handlers.get(name).map(|new| new.runtime.place());
            if place != Some(handler.runtime.place()) {
                self.workshop.retire(name, handler);
            }
        }
        self.images
            .reconfigure(image_options(&new.config.crio.image));
        let mut settings = self
            .settings
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *settings = Arc::new(new);
        Ok(())
    }

    /// This program.
    pub fn exe(&self) -> &Path {
        &self.workshop.exe
    }

    /// The handler of this name for a new pod; empty means the default.
    pub fn handler(&self, name: &str) -> Result<Arc<Handler>> {
        self.settings().handler(name).cloned()
    }

    /// The handler that a pod was made with, also when it is configured no longer.
    pub fn handler_of_pod(&self, pod: &SandboxRecord) -> Arc<Handler> {
        self.handler_of_old(&pod.runtime_handler, pod.runtime.as_ref())
    }

    /// The handler that a container was made with, likewise.
    pub fn handler_of(&self, container: &ContainerRecord) -> Arc<Handler> {
        self.handler_of_old(&container.runtime_handler, container.runtime.as_ref())
    }

    /// The OCI runtime that a container was made with.
    pub fn runtime_of(&self, container: &ContainerRecord) -> Runtime {
        self.handler_of(container).runtime.clone()
    }

    fn handler_of_old(&self, name: &str, place: Option<&Place>) -> Arc<Handler> {
        let settings = self.settings();
        let default = &settings.config.crio.runtime.default_runtime;
        let name = if name.is_empty() { default } else { name };
        let defaults = settings.handlers.get(default).map(|h| &h.defaults);
        let none = Arc::default();
        let defaults = defaults.unwrap_or(&none);
        let configured = &settings.handlers;
        self.workshop.of_old(name, place, configured, defaults)
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
            .spawn(work.in_current_span())
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
    let span = Span::current();
    match tokio::task::spawn_blocking(move || span.in_scope(work)).await {
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
