//! The content of a file: known when planning, or only once an earlier step has installed what it
//! speaks of.

use std::path::{Path, PathBuf};

use crate::setup::probe::{Plugins, find_packaged};
use crate::template::{self, BridgeNetwork, DockerUnit, Loopback, OcidConf};

use super::{Context, StepError};

/// Where a program is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProgramAt {
    Path(PathBuf),
    /// Wherever the distribution's package puts it.
    Packaged(&'static str),
}

impl ProgramAt {
    /// `None` while its package is not installed.
    pub fn resolve(&self, root: &Path) -> Option<PathBuf> {
        match self {
            Self::Path(path) => Some(path.clone()),
            Self::Packaged(name) => find_packaged(root, name),
        }
    }

    pub fn require(&self, root: &Path) -> Result<PathBuf, StepError> {
        self.resolve(root).ok_or_else(|| match self {
            Self::Path(path) => StepError::NoProgram(path.display().to_string()),
            Self::Packaged(name) => StepError::NoProgram((*name).to_owned()),
        })
    }
}

/// The content of a file.
#[derive(Debug, Clone)]
pub enum Content {
    Text(String),
    /// The bridge network, in the CNI version of the plugins in `folder`.
    Bridge {
        folder: PathBuf,
        subnet: String,
    },
    /// The loopback network, likewise.
    Loopback {
        folder: PathBuf,
    },
    OcidConf {
        conf: Box<OcidConf>,
        runc: ProgramAt,
    },
    DockerUnit {
        dockerd: ProgramAt,
        tools: Option<PathBuf>,
    },
}

impl Content {
    /// `None` while what it speaks of is not installed.
    pub fn render(&self, context: &mut Context<'_>) -> Result<Option<Vec<u8>>, StepError> {
        let root = context.settings.root.clone();
        let text = match self {
            Self::Text(text) => Some(text.clone()),
            Self::Bridge { folder, subnet } => match cni_version(folder, context) {
                None => None,
                Some(version) => {
                    let mut network = BridgeNetwork::tutorial(version);
                    network.subnet.clone_from(subnet);
                    Some(template::render("cni/10-mynet.conflist", &network)?)
                }
            },
            Self::Loopback { folder } => match cni_version(folder, context) {
                None => None,
                Some(cni_version) => Some(template::render(
                    "cni/99-loopback.conflist",
                    &Loopback { cni_version },
                )?),
            },
            Self::OcidConf { conf, runc } => match runc.resolve(&root) {
                None => None,
                Some(path) => {
                    let mut conf = conf.clone();
                    conf.runtime_path = path;
                    Some(template::render("ocid/ocid.conf", &*conf)?)
                }
            },
            Self::DockerUnit { dockerd, tools } => match dockerd.resolve(&root) {
                None => None,
                Some(path) => Some(template::render(
                    "systemd/docker.service",
                    &DockerUnit::new(path, tools.clone()),
                )?),
            },
        };
        Ok(text.map(String::into_bytes))
    }

    /// The content, by now.
    pub fn require(&self, context: &mut Context<'_>) -> Result<Vec<u8>, StepError> {
        if let Some(bytes) = self.render(context)? {
            return Ok(bytes);
        }
        Err(match self {
            Self::Bridge { folder, .. } | Self::Loopback { folder } => {
                StepError::Plugins(folder.clone())
            }
            Self::OcidConf { runc: program, .. }
            | Self::DockerUnit {
                dockerd: program, ..
            } => {
                program.require(&context.settings.root)?;
                StepError::NoProgram(String::new())
            }
            Self::Text(_) => StepError::NoProgram(String::new()),
        })
    }
}

fn cni_version(folder: &Path, context: &mut Context<'_>) -> Option<String> {
    let root = context.settings.root.clone();
    Plugins::in_folder(&root, folder, &mut context.probes).map(|plugins| plugins.cni_version)
}
