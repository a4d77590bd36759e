//! The daemon's parts, and what every operation needs of them.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::config::{self, CgroupManager, Config};
use super::container::Container;
use super::container::capabilities;
use super::container::checkpoint::Checkpoints;
use super::container::config::Device;
use super::container::facts::HostFacts;
use super::container::seccomp::SeccompProfile;
use super::container::spec::{Defaults, Ulimit};
use super::error::{Error, Result};
use super::events::Events;
use super::field::FieldError;
use super::image::{ImageOptions, ImageStore};
use super::metrics::Metrics;
use super::network::Network;
use super::network::subnets::Subnets;
use super::runtime::Runtime;
use super::sandbox::Sandbox;
use super::state::joined::Joined;
use super::state::table::Table;
use super::stats::Stats;
use super::streaming::Streaming;
use crate::host::cgroup::{Cgroups, Driver, PodCgroup};
use crate::host::idmap;

/// One daemon: settings, parts, and everything it keeps.
pub struct Daemon {
    pub config: Config,
    pub images: ImageStore,
    pub network: Network,
    pub subnets: Subnets,
    pub handlers: BTreeMap<String, Handler>,
    pub defaults: Defaults,
    pub default_sysctls: Vec<(String, String)>,
    pub sandboxes: Table<Sandbox>,
    pub containers: Table<Container>,
    pub names: Names,
    pub cgroups: Cgroups,
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

/// A runtime handler: an OCI runtime, and what it and this machine can do together.
pub struct Handler {
    pub runtime: Runtime,
    pub path: PathBuf,
    /// The images' layers.
    layers: PathBuf,
    facts: OnceCell<Arc<HostFacts>>,
}

/// Since when overlayfs takes id-mapped layers.
const MAPPED_OVERLAY: (u32, u32) = (5, 19);

impl Handler {
    /// Looked up at the first use, and again while the runtime does not answer: asking takes as long as
    /// the whole start of the daemon.
    pub async fn facts(&self) -> Result<Arc<HostFacts>> {
        let probe = async {
            let features = self.runtime.features().await.map_err(Error::from)?;
            let mut facts = HostFacts::probe();
            facts.recursive_read_only &= features.recursive_read_only;
            facts.user_namespaces = features.user_namespaces && self.maps_ids(facts.kernel).await?;
            facts.exec_cgroup = features.exec_cgroup;
            Ok(Arc::new(facts))
        };
        self.facts.get_or_try_init(|| probe).await.cloned()
    }

    /// Can the layers' ids be mapped, and can an overlay stand on such mounts?
    async fn maps_ids(&self, kernel: (u32, u32)) -> Result<bool> {
        if kernel < MAPPED_OVERLAY {
            return Ok(false);
        }
        let layers = self.layers.clone();
        blocking(move || match idmap::is_possible(&layers) {
            Ok(()) => Ok(true),
            Err(error) => {
                tracing::info!(%error, "pods cannot have user namespaces");
                Ok(false)
            }
        })
        .await
    }

    /// Can the runtime be run?
    pub fn check(&self) -> std::result::Result<(), Error> {
        nix::unistd::access(&self.path, nix::unistd::AccessFlags::X_OK)
            .map_err(std::io::Error::from)
            .map_err(Error::io("run the OCI runtime", &self.path))
    }
}

impl Daemon {
    /// A daemon with these settings, before it has looked at what is left of an earlier one.
    /// `open_files` is the limit (soft, hard) that this process was started with.
    pub fn open(config: Config, open_files: Option<(u64, u64)>) -> Result<Arc<Self>> {
        let crio = &config.crio;
        let exe = std::env::current_exe()
            .map_err(Error::io("find this program's own file", "/proc/self/exe"))?;
        let systemd = config.cgroup_manager() == CgroupManager::Systemd;
        let mut configured = crio.runtime.runtimes.clone();
        if configured.is_empty() {
            configured.insert(
                crio.runtime.default_runtime.clone(),
                config::Handler::default(),
            );
        }
        let handlers = configured.into_iter().map(|(name, handler)| {
            let path = find_runtime(&name, &handler.runtime_path);
            let state = crio.runroot.join("oci").join(&name);
            let mut runtime = Runtime::new(path.clone(), state, systemd, exe.clone());
            if let Some((soft, hard)) = open_files {
                runtime = runtime.with_open_files(soft, hard);
            }
            (
                name,
                Handler {
                    runtime,
                    path,
                    layers: crio.root.join("layers"),
                    facts: OnceCell::new(),
                },
            )
        });
        let handlers = handlers.collect();
        let pairs = |list: &[String]| -> Vec<(String, String)> {
            let pairs = list.iter().filter_map(|entry| entry.split_once('='));
            pairs
                .map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned()))
                .collect()
        };
        let images =
            ImageStore::open(&crio.root, image_options(&crio.image)).map_err(Error::from)?;
        Ok(Arc::new(Self {
            images,
            network: Network::new(&crio.network.network_dir, crio.network.plugin_dirs.clone())
                .with_default_network(crio.network.cni_default_network.clone()),
            subnets: Subnets::open(&crio.root),
            handlers,
            defaults: defaults(&crio.runtime)?,
            default_sysctls: pairs(&crio.runtime.default_sysctls),
            cgroups: Cgroups::detect().map_err(Error::io("look at", "/sys/fs/cgroup"))?,
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

    /// The OCI runtime of this handler name; empty means the default's.
    pub fn runtime(&self, handler: &str) -> Result<&Runtime> {
        self.handler(handler).map(|handler| &handler.runtime)
    }

    /// The handler of this name; empty means the default.
    pub fn handler(&self, name: &str) -> Result<&Handler> {
        let name = if name.is_empty() {
            &self.config.crio.runtime.default_runtime
        } else {
            name
        };
        self.handlers.get(name).ok_or_else(|| {
            let known: Vec<&str> = self.handlers.keys().map(String::as_str).collect();
            let problem = format!(
                "is `{name}`, none of the configured handlers: {}",
                known.join(", ")
            );
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

fn image_options(image: &config::Image) -> ImageOptions {
    let mut options = ImageOptions {
        insecure_registries: image.insecure_registries.clone(),
        pinned_images: image.pinned_images.clone(),
        short_names: image.short_name_mode,
        progress_timeout: Some(image.pull_progress_timeout).filter(|limit| !limit.is_zero()),
        ..ImageOptions::default()
    };
    if !image.global_auth_file.as_os_str().is_empty() {
        options.auth_files = vec![image.global_auth_file.clone()];
    }
    if !image.signature_policy.as_os_str().is_empty() {
        options.policy.clone_from(&image.signature_policy);
        options.policy_required = true;
    }
    options
}

/// What the runtime table says about every container.
fn defaults(runtime: &config::Runtime) -> Result<Defaults> {
    let mut capabilities = Vec::new();
    for name in &runtime.default_capabilities {
        let capability = capabilities::parse(name).ok_or_else(|| {
            let problem = format!("`{name}` is not a capability");
            Error::from(FieldError::new(
                "crio.runtime.default_capabilities",
                problem,
            ))
        })?;
        capabilities.push(capability);
    }
    let profile = &runtime.seccomp_profile;
    let seccomp_profile = if profile.as_os_str().is_empty() || !profile.exists() {
        None
    } else {
        Some(Arc::new(
            SeccompProfile::load(profile).map_err(Error::from)?,
        ))
    };
    let mut ulimits = Vec::new();
    for text in &runtime.default_ulimits {
        let wrong = || {
            let problem = format!("`{text}` is not `NAME=SOFT:HARD`");
            Error::from(FieldError::new("crio.runtime.default_ulimits", problem))
        };
        ulimits.push(Ulimit::parse(text).ok_or_else(wrong)?);
    }
    let devices = runtime.additional_devices.iter();
    let devices = devices
        .map(|text| Device::parse_line("crio.runtime.additional_devices", text))
        .collect::<std::result::Result<_, _>>()
        .map_err(Error::from)?;
    Ok(Defaults {
        capabilities,
        add_inheritable_capabilities: runtime.add_inheritable_capabilities,
        pids_limit: runtime.pids_limit,
        env: runtime.default_env.clone(),
        ulimits,
        seccomp_profile,
        seccomp_when_unset: runtime.seccomp_use_default_when_empty,
        apparmor_profile: runtime.apparmor_profile.clone(),
        selinux: runtime.selinux,
        cdi_dirs: runtime.cdi_spec_dirs.clone(),
        read_only: runtime.read_only,
        devices,
        absent_mount_sources_to_reject: runtime.absent_mount_sources_to_reject.clone(),
    })
}

/// The configured path, else the first program of this name where daemons look for programs.
fn find_runtime(name: &str, configured: &Path) -> PathBuf {
    if !configured.as_os_str().is_empty() {
        return configured.to_owned();
    }
    // One that is missing now may be there later: Status says that it is not.
    find_program(name).unwrap_or_else(|| Path::new("/usr/local/bin").join(name))
}

/// The first program of this name where daemons look for programs.
pub fn find_program(name: &str) -> Option<PathBuf> {
    const ALSO: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let path =
        std::env::var("PATH").map_or_else(|_| ALSO.to_owned(), |path| format!("{path}:{ALSO}"));
    which::which_in(name, Some(path), "/").ok()
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
