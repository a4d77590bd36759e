//! A command for a running container, and the folder of one such exec in the container's bundle, where the runtime
//! finds it.

use std::io;
use std::path::{Path, PathBuf};

use oci_spec::runtime::Process;
use tempfile::TempDir;

use super::RuntimeError;
use crate::ocid::monitor::protocol::ExecCgroup;

/// A command for a running container.
#[derive(Debug, Clone)]
pub struct ExecRequest<'a> {
    pub id: &'a str,
    /// The container's bundle; a folder for this exec is made in it for the time being.
    pub bundle: &'a Path,
    pub args: &'a [String],
    /// The container's own process: its user, environment, folder, capabilities and limits hold for the command.
    pub process: &'a Process,
    /// The container's cgroup, where a command can be kept together in one below it.
    pub cgroup: Option<ContainerCgroup>,
    /// User and group to whom the command's pipes are given; else they stay ours.
    pub owner: Option<(u32, u32)>,
}

/// A container's cgroup as `exec --cgroup` speaks of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerCgroup {
    /// In cgroup2, or in the hierarchy of `controller`.
    pub folder: PathBuf,
    /// On cgroup v1: the controller whose cgroup is meant; the command stays in the container's own of all others.
    pub controller: Option<&'static str>,
    /// The runtime starts a command there if it is told to; else it has to be moved.
    pub told: bool,
}

impl ContainerCgroup {
    fn below(&self, name: &str) -> ExecCgroup {
        ExecCgroup {
            folder: self.folder.join(name),
            argument: self.told.then(|| match self.controller {
                Some(controller) => format!("{controller}:{name}"),
                None => name.to_owned(),
            }),
        }
    }
}

/// Holds `process.json` and what is put beside it. Dropped, it is removed.
#[derive(Debug)]
pub(super) struct ExecFolder(TempDir);

impl ExecFolder {
    pub fn make(r: &ExecRequest<'_>, tty: bool) -> Result<Self, RuntimeError> {
        let io = |what| {
            move |source| RuntimeError::Io {
                what,
                id: r.id.to_owned(),
                source,
            }
        };
        let folder = tempfile::Builder::new()
            .prefix("exec-")
            .tempdir_in(r.bundle)
            .map_err(io("make a folder for an exec"))?;
        serde_json::to_vec(&process(r, tty))
            .map_err(io::Error::from)
            .and_then(|text| std::fs::write(folder.path().join("process.json"), text))
            .map_err(io("write the process"))?;
        Ok(Self(folder))
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// A cgroup for this exec alone, by the folder's name.
    pub fn cgroup(&self, r: &ExecRequest<'_>) -> Option<ExecCgroup> {
        let name = self.path().file_name()?.to_str()?;
        Some(r.cgroup.as_ref()?.below(name))
    }
}

/// The container's process with another command line, and a terminal or not.
fn process(r: &ExecRequest<'_>, tty: bool) -> Process {
    let mut process = r.process.clone();
    process.set_args(Some(r.args.to_vec()));
    process.set_terminal(Some(tty));
    process.set_console_size(None);
    let named = |env: &Vec<String>| env.iter().any(|pair| pair.starts_with("TERM="));
    if tty && !process.env().as_ref().is_some_and(named) {
        let mut env = process.env().clone().unwrap_or_default();
        env.push("TERM=xterm".to_owned());
        process.set_env(Some(env));
    }
    process
}
