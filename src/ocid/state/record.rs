//! Records on disk: one `state.json` per pod and per container, versioned, whole or absent.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::super::container::config::ContainerConfig;
use super::super::container::user::ResolvedUser;
use super::super::network::Attachment;
use super::super::runtime::Place;
use super::super::sandbox::config::SandboxConfig;
use crate::host::fs::{read_capped, write_atomic, write_replace};
use crate::host::process::ProcessId;

/// The file in a pod's or container's folder.
pub const FILE: &str = "state.json";
/// What this build writes. Older ones stay readable: new fields take serde defaults.
const VERSION: u32 = 1;
/// Larger records were not written by us.
const CAP: u64 = 16 << 20;

/// How far the life of a pod or container has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Being made: nobody has been told of it, so a restart undoes it.
    Creating,
    /// A pod that is ready; a container that is created and not started.
    Created,
    /// A container that was started.
    Running,
    /// A pod that was stopped; a container that has exited.
    Stopped,
    /// Being removed: a restart goes on with it.
    Removing,
}

/// A pod as the disk knows it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SandboxRecord {
    pub version: u32,
    pub id: String,
    pub phase: Phase,
    /// Of the boot that its processes and mounts belong to.
    pub boot_id: String,
    pub config: SandboxConfig,
    pub runtime_handler: String,
    /// What the handler was then; None: an older build's.
    #[serde(default)]
    pub runtime: Option<Place>,
    /// Nanoseconds since the epoch.
    pub created_at: i64,
    #[serde(default)]
    pub pause: Option<ProcessId>,
    #[serde(default)]
    pub network: Option<Attachment>,
}

/// A container as the disk knows it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ContainerRecord {
    pub version: u32,
    pub id: String,
    pub sandbox_id: String,
    pub phase: Phase,
    pub boot_id: String,
    pub config: ContainerConfig,
    pub runtime_handler: String,
    /// What the handler was then; None: an older build's.
    #[serde(default)]
    pub runtime: Option<Place>,
    /// `sha256:…` of the image's configuration.
    pub image_id: String,
    /// The image as the caller wrote it.
    pub image_name: String,
    /// A digest reference of the image, or its id where it has none.
    pub image_ref: String,
    #[serde(default)]
    pub user: Option<ResolvedUser>,
    /// The ids of the images that are its volumes, by their place among the config's mounts.
    #[serde(default)]
    pub volume_images: BTreeMap<usize, String>,
    /// The number of the signal that asks it to stop.
    pub stop_signal: i32,
    /// Nanoseconds since the epoch; 0 is not yet.
    pub created_at: i64,
    pub started_at: i64,
    pub finished_at: i64,
    pub exit_code: i32,
    #[serde(default)]
    pub oom_killed: bool,
    /// Why it could not run, where it could not.
    #[serde(default)]
    pub message: String,
    #[serde(default)]
    pub init: Option<ProcessId>,
    #[serde(default)]
    pub monitor: Option<ProcessId>,
    /// After its end: the runtime's state, the cgroup and the mount are given back.
    #[serde(default)]
    pub released: bool,
    /// Frozen for a checkpoint: a restart thaws it.
    #[serde(default)]
    pub frozen: bool,
}

impl SandboxRecord {
    pub fn new(
        id: String,
        config: SandboxConfig,
        runtime_handler: String,
        runtime: Place,
        at: i64,
    ) -> Self {
        Self {
            version: VERSION,
            id,
            phase: Phase::Creating,
            boot_id: boot_id(),
            config,
            runtime_handler,
            runtime: Some(runtime),
            created_at: at,
            pause: None,
            network: None,
        }
    }
}

impl ContainerRecord {
    pub const VERSION: u32 = VERSION;

    /// The phase, in a word for errors.
    pub fn phase_name(&self) -> &'static str {
        match self.phase {
            Phase::Creating => "being created",
            Phase::Created => "created",
            Phase::Running => "running",
            Phase::Stopped => "exited",
            Phase::Removing => "being removed",
        }
    }

    /// Why it ended, in the word that kubelet shows.
    pub fn reason(&self) -> &'static str {
        match self.phase {
            Phase::Stopped if self.oom_killed => "OOMKilled",
            Phase::Stopped if self.started_at == 0 && !self.message.is_empty() => {
                "ContainerCannotRun"
            }
            Phase::Stopped if self.exit_code == 0 => "Completed",
            Phase::Stopped => "Error",
            _ => "",
        }
    }
}

/// Written at every step of a life that a restart may have to undo.
pub trait Record: Serialize + DeserializeOwned {
    fn version(&self) -> u32;

    /// In the folder's `state.json`; `durable` survives a power cut, else only a crash of ours.
    fn save(&self, folder: &Path, durable: bool) -> io::Result<()> {
        let bytes = serde_json::to_vec(self)?;
        let path = folder.join(FILE);
        if durable {
            write_atomic(&path, &bytes, 0o600)
        } else {
            write_replace(&path, &bytes, 0o600)
        }
    }

    /// None when the folder has no record: it was being made, or being removed.
    fn load(folder: &Path) -> io::Result<Option<Self>> {
        match read_capped(&folder.join(FILE), CAP) {
            Ok(bytes) => {
                let record: Self = serde_json::from_slice(&bytes)?;
                check(record.version(), VERSION)?;
                Ok(Some(record))
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }
}

impl Record for SandboxRecord {
    fn version(&self) -> u32 {
        self.version
    }
}

impl Record for ContainerRecord {
    fn version(&self) -> u32 {
        self.version
    }
}

/// Refuses what a newer build wrote: its words may mean something else by now.
pub fn check(version: u32, known: u32) -> io::Result<()> {
    if version <= known {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::Unsupported,
        format!("it is of version {version}, written by a newer ocid; this one knows {known}"),
    ))
}

/// Tells this boot from others (random(4)); empty where /proc does not say.
pub fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|s| s.trim().to_owned())
        .unwrap_or_default()
}
