//! Why a container was not checkpointed.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::host::command::CommandError;
use crate::ocid::runtime::RuntimeError;
use crate::ocid::runtime::checkpoint::OLDEST_CRIU;

/// The first thing that stood in the way.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    #[error("checkpoints are off: `enable_criu_support` of `[crio.runtime]` is false")]
    Off,
    #[error(
        "checkpoints need the program `criu`, which is not here: `apt-get install criu` brings it"
    )]
    NoCriu,
    #[error("ask `{}` for its version", path.display())]
    Version { path: PathBuf, source: CommandError },
    #[error(
        "checkpoints need `criu` of version {}.{} or later: `{}` is {}", OLDEST_CRIU.0, OLDEST_CRIU.1,
        path.display(), of(*.version)
    )]
    OldCriu {
        path: PathBuf,
        version: Option<(u32, u32)>,
    },
    #[error("the OCI runtime `{}` was built without checkpoints", path.display())]
    NoRuntime { path: PathBuf },
    /// criu's own errors beside the runtime's, which only name its log.
    #[error("{runtime}{}", beside(.criu))]
    Dump { runtime: String, criu: String },
    #[error("the container was not checkpointed within {0:?}; nothing is left of the attempt")]
    Late(Duration),
    #[error("the container is being stopped")]
    Stopping,
    #[error("{act} `{}`", path.display())]
    Io {
        act: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
}

impl CheckpointError {
    /// For `map_err` on file operations.
    pub(super) fn io<E: Into<io::Error>>(
        act: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(E) -> Self {
        let path = path.into();
        move |source| Self::Io {
            act,
            path,
            source: source.into(),
        }
    }
}

fn of(version: Option<(u32, u32)>) -> String {
    match version {
        Some((major, minor)) => format!("{major}.{minor}"),
        None => "of an unknown one".to_owned(),
    }
}

fn beside(criu: &str) -> String {
    match criu {
        "" => String::new(),
        errors => format!("; criu says: {errors}"),
    }
}
