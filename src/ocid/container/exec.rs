//! ExecSync.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use oci_spec::runtime::Process;
use serde::Deserialize;

use crate::host::cgroup::Version;
use crate::host::fs::read_capped;
use crate::ocid::daemon::Daemon;
use crate::ocid::error::{Error, Result};
use crate::ocid::field::{FieldError, no_nul};
use crate::ocid::handlers::Handler;
use crate::ocid::runtime::{ContainerCgroup, ExecCgroups, ExecOutput, ExecRequest};
use crate::ocid::state::record::{ContainerRecord, Phase};

/// Runs a command in a container and waits for it; `limit` in seconds, 0 is without one. A caller who gives up
/// ends the command: nobody would ever see what it says.
pub async fn exec_sync(
    daemon: &Arc<Daemon>,
    id: &str,
    args: Vec<String>,
    limit: i64,
) -> Result<ExecOutput> {
    let limit = check(&args, limit)?;
    let record = in_phase(daemon, id, &[Phase::Running])?;
    let command = Command::new(daemon, &record).await?;
    let runtime = daemon.runtime_of(&record);
    let output = runtime.exec_sync(&command.request(&args), limit).await;
    output.map_err(|e| Arc::new(e.into()))
}

/// The container by its id, which must be in one of these phases, all of which are a running one to its client.
pub fn in_phase(daemon: &Daemon, id: &str, phases: &[Phase]) -> Result<Arc<ContainerRecord>> {
    let record = daemon.containers.expect(id)?.now();
    if phases.contains(&record.phase) {
        return Ok(record);
    }
    Err(Arc::new(Error::State {
        what: "container",
        id: record.id.clone(),
        state: record.phase_name().to_owned(),
        wanted: "running",
    }))
}

/// What the runtime needs to know for running a command in a container.
pub struct Command {
    id: String,
    bundle: PathBuf,
    process: Process,
    cgroup: Option<ContainerCgroup>,
    owner: Option<(u32, u32)>,
}

impl Command {
    pub async fn new(daemon: &Daemon, record: &ContainerRecord) -> Result<Self> {
        let handler = daemon.handler_of(record);
        let bundle = daemon.bundle(&record.id);
        Ok(Self {
            id: record.id.clone(),
            cgroup: cgroup(daemon, &handler, record).await?,
            process: process(&bundle)?,
            bundle,
            owner: owner(daemon, record),
        })
    }

    pub fn request<'a>(&'a self, args: &'a [String]) -> ExecRequest<'a> {
        ExecRequest {
            id: &self.id,
            bundle: &self.bundle,
            args,
            process: &self.process,
            cgroup: self.cgroup.clone(),
            owner: self.owner,
        }
    }
}

/// What of a request can be wrong in itself; the limit.
fn check(args: &[String], limit: i64) -> std::result::Result<Option<Duration>, Error> {
    match args.first().map(String::as_str) {
        None => return Err(FieldError::required("cmd").into()),
        Some("") => return Err(FieldError::required("cmd[0]").into()),
        Some(_) => {}
    }
    for (i, arg) in args.iter().enumerate() {
        no_nul(&format!("cmd[{i}]"), arg)?;
    }
    let problem = || FieldError::new("timeout", format!("is {limit}, not a number of seconds"));
    let seconds = u64::try_from(limit).map_err(|_| problem())?;
    Ok((seconds > 0).then(|| Duration::from_secs(seconds)))
}

/// To whom a command's pipes are given, so that it can open them anew.
fn owner(daemon: &Daemon, record: &ContainerRecord) -> Option<(u32, u32)> {
    daemon.sandboxes.get(&record.sandbox_id)?.now().root()
}

/// The container's cgroup, and whether this runtime can run a command in one below it.
async fn cgroup(
    daemon: &Daemon,
    handler: &Handler,
    record: &ContainerRecord,
) -> Result<Option<ContainerCgroup>> {
    let Some(sandbox) = daemon.sandboxes.get(&record.sandbox_id) else {
        return Ok(None);
    };
    let parent = daemon.pod_cgroup(&sandbox.now().config.cgroup_parent)?;
    let path = parent.container_path(&record.id);
    // With the freezer none can fork away from under a kill; see `host::cgroup`.
    let able = handler.facts().await?.exec_cgroup;
    let (controller, told) = match daemon.cgroups.version() {
        Version::V2 => (None, able != ExecCgroups::No),
        Version::V1 => (Some(FREEZER), able == ExecCgroups::PerController),
    };
    let folder = daemon.cgroups.folder(controller.unwrap_or_default(), &path);
    Ok(folder.map(|folder| ContainerCgroup {
        folder,
        controller,
        told,
    }))
}

/// Larger specifications were not written by us.
pub const SPEC_CAP: u64 = 16 << 20;
/// Of cgroup v1.
const FREEZER: &str = "freezer";

/// The process of the container's specification: whom, where and with what rights a command runs.
fn process(bundle: &Path) -> std::result::Result<Process, Error> {
    #[derive(Deserialize)]
    struct Spec {
        process: Process,
    }
    let path = bundle.join("config.json");
    let bytes = read_capped(&path, SPEC_CAP).map_err(Error::io("read", &path))?;
    let spec: Spec = serde_json::from_slice(&bytes)
        .map_err(std::io::Error::from)
        .map_err(Error::io("parse", &path))?;
    Ok(spec.process)
}
