//! The OCI runtime (runc, crun), driven for the daemon: create through a monitor ([`create`]), start, kill,
//! delete, exec ([`exec`], [`session`]), checkpoints ([`checkpoint`]), how containers ended ([`exits`]) and what of
//! them is left after a restart ([`adopt`]).

pub mod adopt;
pub mod checkpoint;
pub mod create;
pub mod error;
pub mod exec;
pub mod exits;
mod leftovers;
pub mod request;
pub mod session;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use oci_spec::runtime::LinuxResources;
use serde::{Deserialize, Serialize};

use crate::host::command::{Command, Output};
use crate::host::process::ProcessId;
use crate::ocid::monitor::protocol::OciRuntime;
use crate::ocid::monitor::{error_in, last_line};

pub use self::adopt::Adopted;
pub use self::create::{CreateRequest, Created, JournalTags};
pub use self::error::RuntimeError;
pub use self::exec::ExecOutput;
pub use self::exits::ExitWatch;
pub use self::request::{ContainerCgroup, ExecRequest};
pub use self::session::{Session, Streams};
pub use crate::ocid::monitor::protocol::ExitRecord;

/// How long the runtime may take for anything but `create` and `exec`.
const LIMIT: Duration = Duration::from_secs(60);
/// How long it may take to create a container (on a loaded machine, with hooks).
const CREATE_LIMIT: Duration = Duration::from_secs(240);

/// One OCI runtime and its state folder. Methods need an async runtime.
#[derive(Debug, Clone)]
pub struct Runtime {
    oci: OciRuntime,
    exe: PathBuf,
    open_files: Option<(u64, u64)>,
    create_limit: Duration,
}

/// An OCI runtime's program and its state folder, as records keep them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    pub path: PathBuf,
    pub root: PathBuf,
}

/// What a runtime says that it can do; what its version lets expect where it has no `features` command (runc
/// before 1.1, crun before 1.8.6).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Features {
    pub oci_version_max: String,
    /// Recursive read-only mounts (`rro`).
    pub recursive_read_only: bool,
    /// Containers in a user namespace.
    pub user_namespaces: bool,
    pub apparmor: bool,
    pub selinux: bool,
    pub seccomp: bool,
    pub exec_cgroup: ExecCgroups,
}

/// What `exec --cgroup` can do: run a command in a cgroup below the container's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ExecCgroups {
    #[default]
    No,
    /// On cgroup v2.
    Unified,
    /// And on v1 in the hierarchy of one controller.
    PerController,
}

impl Runtime {
    /// `path` of the runtime, its state folder `root`, and `exe`, our own binary, which runs the monitors.
    pub fn new(path: PathBuf, root: PathBuf, systemd_cgroup: bool, exe: PathBuf) -> Self {
        Self {
            oci: OciRuntime {
                path,
                root,
                systemd_cgroup,
                no_pivot: false,
            },
            exe,
            open_files: None,
            create_limit: CREATE_LIMIT,
        }
    }

    /// The limit of open files (soft, hard) to put back for everything that is started, where the daemon has
    /// raised its own.
    pub fn with_open_files(mut self, soft: u64, hard: u64) -> Self {
        self.open_files = Some((soft, hard));
        self
    }

    /// Containers are entered without pivot_root(2).
    pub fn with_no_pivot(mut self, no_pivot: bool) -> Self {
        self.oci.no_pivot = no_pivot;
        self
    }

    /// How long `create` may take before the runtime is killed.
    pub fn with_create_limit(mut self, limit: Duration) -> Self {
        self.create_limit = limit;
        self
    }

    /// The runtime's program.
    pub fn path(&self) -> &std::path::Path {
        &self.oci.path
    }

    /// The program and its state folder.
    pub fn place(&self) -> Place {
        Place {
            path: self.oci.path.clone(),
            root: self.oci.root.clone(),
        }
    }

    /// Our own binary.
    pub fn exe(&self) -> &std::path::Path {
        &self.exe
    }

    /// Starts a created container's process.
    pub async fn start(&self, id: &str) -> Result<(), RuntimeError> {
        self.run("start", id, &["start", id]).await.map(drop)
    }

    /// Sends a signal through the runtime; with `all` to every process of the container. A container that is gone
    /// or does not run is `NoSuchContainer` or `NotRunning`.
    pub async fn kill(&self, id: &str, signal: i32, all: bool) -> Result<(), RuntimeError> {
        let number = signal.to_string();
        let mut args = vec!["kill"];
        if all {
            args.push("--all");
        }
        args.extend([id, &number]);
        self.run("kill", id, &args).await.map(drop)
    }

    /// Sends a signal to a container's first process without calling the runtime; false when it is gone. Cheaper
    /// than [`Runtime::kill`], and no profile that confines the runtime's program stands in the way.
    pub fn signal(&self, init: &ProcessId, signal: i32) -> io::Result<bool> {
        match init.open().and_then(|fd| fd.send(signal)) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Deletes what the runtime holds of a container: its state and cgroup; with `force` also its processes. An
    /// unknown id is no error. What a runtime that was killed left of it goes, too.
    pub async fn delete(&self, id: &str, force: bool) -> Result<(), RuntimeError> {
        let args: &[&str] = if force {
            &["delete", "--force", id]
        } else {
            &["delete", id]
        };
        self.uncover(id).await?;
        match self.run("delete", id, args).await {
            Err(RuntimeError::NoSuchContainer { .. }) => {}
            other => drop(other?),
        }
        self.forget(id).await
    }

    /// Gives a container that is created or runs new limits; those that are not set stay.
    pub async fn update(&self, id: &str, limits: &LinuxResources) -> Result<(), RuntimeError> {
        let limits = serde_json::to_vec(limits).map_err(|e| RuntimeError::Failed {
            action: "update",
            id: id.to_owned(),
            message: format!("the limits are no JSON: {e}"),
        })?;
        let args = ["update", "--resources", "-", id];
        let command = self.command(&args).stdin(limits);
        self.finish("update", id, command).await.map(drop)
    }

    /// The runtime's name and version, e.g. `runc` and `1.1.5`.
    pub async fn version(&self) -> Result<(String, String), RuntimeError> {
        let output = Command::new(&self.oci.path)
            .arg("--version")
            .limit(LIMIT)
            .run_async()
            .await?;
        Ok(parse_version(&output.text()))
    }

    /// What the runtime can do. Of one that cannot say it is concluded from its version.
    pub async fn features(&self) -> Result<Features, RuntimeError> {
        let output = Command::new(&self.oci.path)
            .arg("features")
            .limit(LIMIT)
            .output_async()
            .await?;
        if output.status.success() {
            return Ok(parse_features(&output.stdout));
        }
        let (name, version) = self.version().await?;
        Ok(features_by_version(&name, &version))
    }

    /// Runs one command of the runtime and turns its failure into its own words.
    async fn run(
        &self,
        action: &'static str,
        id: &str,
        args: &[&str],
    ) -> Result<Output, RuntimeError> {
        self.finish(action, id, self.command(args)).await
    }

    fn command(&self, args: &[&str]) -> Command {
        Command::new(&self.oci.path)
            .args(self.oci.global_args())
            .args(args)
            // The runtime passes readiness on to containers when it sees this.
            .env("NOTIFY_SOCKET", "")
            .limit(LIMIT)
    }

    async fn finish(
        &self,
        action: &'static str,
        id: &str,
        command: Command,
    ) -> Result<Output, RuntimeError> {
        let output = command.output_async().await?;
        if output.status.success() {
            return Ok(output);
        }
        let message = error_in(&output.stderr)
            .or_else(|| last_line(&output.stderr))
            .unwrap_or_else(|| format!("it ended with {}", output.status));
        Err(RuntimeError::from_message(action, id, message))
    }
}

/// The first line is `NAME version VERSION` for runc, crun and youki alike.
fn parse_version(text: &str) -> (String, String) {
    let mut words = text.lines().next().unwrap_or_default().split_whitespace();
    let name = words.next().unwrap_or_default().to_owned();
    let version = words.find(|w| *w != "version").unwrap_or_default();
    (name, version.to_owned())
}

/// The document of the runtime specification's `features` command.
fn parse_features(text: &[u8]) -> Features {
    let Ok(json) = serde_json::from_slice::<serde_json::Value>(text) else {
        return Features::default();
    };
    let at = |pointer: &str| {
        json.pointer(pointer)
            .and_then(|v| v.as_bool())
            .unwrap_or(false)
    };
    let mount_options = json.get("mountOptions").and_then(|v| v.as_array());
    Features {
        oci_version_max: json
            .get("ociVersionMax")
            .and_then(|v| v.as_str())
            .unwrap_or_default()
            .to_owned(),
        recursive_read_only: mount_options.is_some_and(|o| o.iter().any(|v| v == "rro")),
        user_namespaces: json
            .pointer("/linux/namespaces")
            .and_then(|v| v.as_array())
            .is_some_and(|kinds| kinds.iter().any(|kind| kind == "user")),
        apparmor: at("/linux/apparmor/enabled"),
        selinux: at("/linux/selinux/enabled"),
        seccomp: at("/linux/seccomp/enabled"),
        exec_cgroup: match json.get("annotations").and_then(|v| v.as_object()) {
            // `features` and `exec --cgroup` came with the same release of runc, 1.1.0.
            Some(a) if a.contains_key("org.opencontainers.runc.version") => {
                ExecCgroups::PerController
            }
            Some(a) if a.contains_key("run.oci.crun.version") => ExecCgroups::Unified,
            _ => ExecCgroups::No,
        },
    }
}

/// What releases before the `features` command are known to do.
fn features_by_version(name: &str, version: &str) -> Features {
    let mut numbers = version.split(|c: char| !c.is_ascii_digit());
    let mut number = || numbers.next().and_then(|n| n.parse().ok()).unwrap_or(0_u32);
    let version = (number(), number());
    let crun = name == "crun";
    Features {
        // Both have known them from their beginnings, runc's betas aside.
        user_namespaces: (name == "runc" || crun) && version >= (0, 1),
        // runc learnt it together with `features`.
        recursive_read_only: crun && version >= (1, 4),
        seccomp: name == "runc" || crun,
        ..Features::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(
            parse_version("runc version 1.1.5+ds1\ncommit: x\n"),
            pair("runc", "1.1.5+ds1")
        );
        assert_eq!(parse_version("crun version 1.28\n"), pair("crun", "1.28"));
        assert_eq!(parse_version(""), pair("", ""));
    }

    #[test]
    fn features_of_runtimes_that_do_not_tell() {
        let of = features_by_version;
        let runc = of("runc", "1.0.3+ds1");
        assert!(runc.user_namespaces && !runc.recursive_read_only);
        assert!(!of("crun", "1.3").recursive_read_only);
        assert!(of("crun", "1.8.1").recursive_read_only);
        assert_eq!(runc.exec_cgroup, ExecCgroups::No);
        assert_eq!(of("runsc", "release-2023"), Features::default());
        assert_eq!(of("", ""), Features::default());
    }

    #[test]
    fn features_are_read() {
        let text = br#"{"ociVersionMax":"1.0.2","mountOptions":["ro","rro"],
            "linux":{"seccomp":{"enabled":true},"namespaces":["mount","user"]}}"#;
        let features = parse_features(text);
        assert!(features.recursive_read_only && features.user_namespaces && features.seccomp);
        assert!(!features.apparmor && features.oci_version_max == "1.0.2");
        assert_eq!(parse_features(b"Incorrect Usage"), Features::default());
        let annotated = |name: &str| {
            let text = format!(r#"{{"annotations":{{"{name}":"1"}}}}"#);
            parse_features(text.as_bytes()).exec_cgroup
        };
        let runc = annotated("org.opencontainers.runc.version");
        assert_eq!(runc, ExecCgroups::PerController);
        assert_eq!(annotated("run.oci.crun.version"), ExecCgroups::Unified);
        assert_eq!(annotated("other"), ExecCgroups::No);
    }
}
