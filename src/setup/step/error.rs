//! Why a step failed.

use std::io;
use std::path::PathBuf;

use crate::artifact::FetchError;
use crate::artifact::archive::ArchiveError;
use crate::host::apt::AptError;
use crate::host::command::CommandError;
use crate::host::service::ServiceError;
use crate::setup::store::StoreError;
use crate::template::TemplateError;

/// Why a step could not be looked at or done.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    #[error("{act} `{path}`")]
    Io {
        act: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("write `{path}`: there is {what} that is not ours")]
    Foreign { path: PathBuf, what: String },
    #[error("find the program `{0}` after its package was installed")]
    NoProgram(String),
    #[error(
        "ask the CNI plugins in `{0}` for their versions: they do not answer, or have none in common from 0.4.0 to 1.0.0"
    )]
    Plugins(PathBuf),
    #[error("{act} {unit}")]
    Unit {
        act: &'static str,
        unit: String,
        source: CommandError,
    },
    #[error(transparent)]
    Command(#[from] CommandError),
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error(transparent)]
    Template(#[from] TemplateError),
    #[error(transparent)]
    Service(#[from] ServiceError),
    #[error(transparent)]
    Apt(#[from] AptError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl StepError {
    pub(super) fn io(
        act: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { act, path, source }
    }

    /// The command that helps.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Io { path, source, .. } => {
                let folder = path.parent().unwrap_or(path).display();
                Some(match source.kind() {
                    io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                        format!("make room: see `df -h {folder}`")
                    }
                    _ => format!("see `ls -la {folder}`"),
                })
            }
            Self::Foreign { path, .. } => Some(format!(
                "move `{}` away, or let it be replaced until `uninstall` with `--replace-foreign`",
                path.display()
            )),
            Self::NoProgram(name) => Some(format!("see `dpkg -S {name}`")),
            Self::Plugins(folder) => Some(format!(
                "try `CNI_COMMAND=VERSION {}/bridge`",
                folder.display()
            )),
            Self::Unit { unit, .. } => Some(format!("see `journalctl -u {unit} -n 50`")),
            Self::Command(_) | Self::Template(TemplateError::Unknown(_)) => None,
            Self::Template(e) => e.hint(),
            Self::Fetch(e) => e.hint(),
            Self::Archive(e) => e.hint(),
            Self::Service(e) => e.hint(),
            Self::Apt(e) => e.hint(),
            Self::Store(e) => e.hint(),
        }
    }
}
