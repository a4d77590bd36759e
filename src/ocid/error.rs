//! What can go wrong between a request and its answer. `rpc::status` alone turns it into gRPC.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::container::checkpoint::CheckpointError;
use super::container::error::SpecError;
use super::field::FieldError;
use super::image::ImageError;
use super::monitor::client::ClientError;
use super::network::NetworkError;
use super::pause::PauseError;
use super::runtime::RuntimeError;
use super::storage::StorageError;
use super::streaming::tokens::TokenError;
use crate::host::cgroup::ParentError;

/// Shared by everyone who joined the same operation, hence cheap to clone.
pub type Result<T> = std::result::Result<T, Arc<Error>>;

/// The reason why an RPC was refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Field(#[from] FieldError),
    #[error("{what} `{id}` is not known")]
    NotFound { what: &'static str, id: String },
    #[error("{what} `{name}` exists already as {id}")]
    Exists {
        what: &'static str,
        name: String,
        id: String,
    },
    #[error("{what} `{id}` is {state}, not {wanted}")]
    State {
        what: &'static str,
        id: String,
        state: String,
        wanted: &'static str,
    },
    #[error("{act} `{}`", path.display())]
    Io {
        act: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error(transparent)]
    Spec(#[from] SpecError),
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error(transparent)]
    Network(#[from] NetworkError),
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    #[error(transparent)]
    Pause(#[from] PauseError),
    #[error(transparent)]
    CgroupParent(#[from] ParentError),
    #[error(transparent)]
    Monitor(#[from] ClientError),
    #[error("{problem}")]
    Forward { problem: String },
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A task of ours ended without an answer: a bug, told apart from what users can cause.
    #[error("internal error: {0}")]
    Internal(String),
}

impl Error {
    /// For `map_err` on file operations.
    pub fn io(act: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { act, path, source }
    }
}
