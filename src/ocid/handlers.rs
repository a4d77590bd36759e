//! Runtime handlers: the OCI runtimes that pods can ask for by name.
//!
//! Each is made from its table of the configuration. One that is replaced or taken out when the configuration
//! is reloaded, or that was another in an earlier daemon, serves those pods on that were made with it: records
//! name the runtime's place.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OnceCell;

use super::config;
use super::container::facts::HostFacts;
use super::container::spec::Defaults;
use super::daemon::blocking;
use super::error::{Error, Result};
use super::runtime::{Place, Runtime};
use crate::host::idmap;

/// An OCI runtime, what its containers get, and what it and this machine can do together.
pub struct Handler {
    pub runtime: Runtime,
    pub defaults: Arc<Defaults>,
    /// The images' layers.
    layers: PathBuf,
    facts: Facts,
}

type Facts = Arc<OnceCell<Arc<HostFacts>>>;

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
        let path = self.runtime.path();
        nix::unistd::access(path, nix::unistd::AccessFlags::X_OK)
            .map_err(std::io::Error::from)
            .map_err(Error::io("run the OCI runtime", path))
    }
}

/// What all handlers have in common, and those that only older pods use.
pub struct Workshop {
    /// This program.
    pub exe: PathBuf,
    systemd: bool,
    open_files: Option<(u64, u64)>,
    layers: PathBuf,
    runroot: PathBuf,
    retired: Mutex<Vec<(String, Arc<Handler>)>>,
}

impl Workshop {
    /// `open_files` is the limit (soft, hard) for what is started.
    pub fn new(
        exe: PathBuf,
        config: &config::Config,
        systemd: bool,
        open_files: Option<(u64, u64)>,
    ) -> Self {
        Self {
            exe,
            systemd,
            open_files,
            layers: config.crio.root.join("layers"),
            runroot: config.crio.runroot.clone(),
            retired: Mutex::default(),
        }
    }

    /// The handler of a table. `known` is the one of that name until now: if it is the same program, what was
    /// found out about it still holds.
    pub fn make(
        &self,
        name: &str,
        table: &config::Handler,
        runtime: &config::Runtime,
        defaults: Arc<Defaults>,
        known: Option<&Handler>,
    ) -> Handler {
        let root = match table.runtime_root.as_os_str().is_empty() {
            true => self.root(name),
            false => table.runtime_root.clone(),
        };
        let path = match table.path() {
            Some(path) if path.components().count() > 1 => path,
            Some(name) => find_runtime(&name.to_string_lossy()),
            None => find_runtime(name),
        };
        let facts = known
            .filter(|known| known.runtime.path() == path)
            .map(|known| Arc::clone(&known.facts));
        Handler {
            runtime: self
                .runtime(path, root)
                .with_create_limit(table.create_limit())
                .with_no_pivot(runtime.no_pivot),
            defaults,
            layers: self.layers.clone(),
            facts: facts.unwrap_or_default(),
        }
    }

    fn root(&self, name: &str) -> PathBuf {
        self.runroot.join("oci").join(name)
    }

    fn runtime(&self, path: PathBuf, root: PathBuf) -> Runtime {
        let runtime = Runtime::new(path, root, self.systemd, self.exe.clone());
        match self.open_files {
            Some((soft, hard)) => runtime.with_open_files(soft, hard),
            None => runtime,
        }
    }

    /// Keeps what is no longer configured for the pods that were made with it.
    pub fn retire(&self, name: &str, handler: &Arc<Handler>) {
        let mut retired = self.retired.lock().unwrap_or_else(PoisonError::into_inner);
        retired.retain(|(n, old)| n != name || old.runtime.place() != handler.runtime.place());
        retired.push((name.to_owned(), Arc::clone(handler)));
    }

    /// The handler that a pod or container was made with, by its name and, where its record says so, its place.
    /// The state folder decides: the program may have moved.
    pub fn of_old(
        &self,
        name: &str,
        place: Option<&Place>,
        configured: &BTreeMap<String, Arc<Handler>>,
        defaults: &Arc<Defaults>,
    ) -> Arc<Handler> {
        let usual = self.root(name);
        let root = place.map_or(usual.as_path(), |place| &place.root);
        let here = |handler: &&Arc<Handler>| handler.runtime.place().root == root;
        // The name may be another's by now, as the default's is where a pod named none.
        let now = configured.get(name).filter(here);
        if let Some(handler) = now.or_else(|| configured.values().find(here)) {
            return Arc::clone(handler);
        }
        let mut retired = self.retired.lock().unwrap_or_else(PoisonError::into_inner);
        let known = retired
            .iter()
            .rev()
            .find(|(_, handler)| handler.runtime.place().root == root);
        if let Some((_, handler)) = known {
            return Arc::clone(handler);
        }
        let path = match place {
            Some(place) => place.path.clone(),
            None => find_runtime(name),
        };
        let handler = Arc::new(Handler {
            runtime: self.runtime(path, root.to_owned()),
            defaults: Arc::clone(defaults),
            layers: self.layers.clone(),
            facts: Facts::default(),
        });
        retired.push((name.to_owned(), Arc::clone(&handler)));
        handler
    }
}

fn find_runtime(name: &str) -> PathBuf {
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
