//! One place where what went wrong becomes a gRPC status.

use std::error::Error as _;
use std::fmt::Write;
use std::io::ErrorKind;
use std::sync::Arc;

use tonic::{Code, Response, Status};

use crate::ocid::container::checkpoint::CheckpointError;
use crate::ocid::container::error::SpecErrorKind;
use crate::ocid::error::{Error, Result};
use crate::ocid::image::ImageError;
use crate::ocid::runtime::RuntimeError;
use crate::ocid::storage::StorageError;
use crate::ocid::storage::unpack::LayerError;

/// The answer to an RPC; a refusal or failure goes to the log as well.
pub fn answer<T>(rpc: &'static str, answer: Result<T>) -> std::result::Result<Response<T>, Status> {
    match answer {
        Ok(answer) => Ok(Response::new(answer)),
        Err(error) => {
            let status = status(&error);
            tracing::warn!(rpc, code = ?status.code(), error = status.message(), "refused");
            Err(status)
        }
    }
}

fn status(error: &Arc<Error>) -> Status {
    Status::new(code(error), chain(error))
}

/// The code of an answer that is this error.
pub fn code(error: &Arc<Error>) -> Code {
    match &**error {
        Error::Field(_) => Code::InvalidArgument,
        Error::NotFound { .. } => Code::NotFound,
        Error::Exists { .. } => Code::AlreadyExists,
        Error::State { .. } => Code::FailedPrecondition,
        Error::Io { source, .. } => io(source.kind()),
        Error::Spec(error) => match error.kind() {
            SpecErrorKind::Invalid => Code::InvalidArgument,
            SpecErrorKind::NotFound => Code::NotFound,
            SpecErrorKind::Precondition => Code::FailedPrecondition,
            SpecErrorKind::Internal => Code::Internal,
        },
        Error::Image(error) => image(error),
        Error::Storage(error) => storage(error),
        Error::Network(_) | Error::Pause(_) => Code::Internal,
        Error::Runtime(error) => runtime(error),
        Error::Monitor(_) => Code::Unavailable,
        Error::CgroupParent(_) => Code::InvalidArgument,
        Error::Forward { .. } => Code::Unavailable,
        Error::Token(_) => Code::ResourceExhausted,
        Error::Checkpoint(error) => checkpoint(error),
        Error::Internal(_) => Code::Internal,
    }
}

fn runtime(error: &RuntimeError) -> Code {
    match error {
        RuntimeError::TimedOut { .. } => Code::DeadlineExceeded,
        RuntimeError::NoSuchContainer { .. } => Code::NotFound,
        RuntimeError::NotRunning { .. } => Code::FailedPrecondition,
        RuntimeError::CommandNotFound { .. } => Code::InvalidArgument,
        _ => Code::Internal,
    }
}

fn checkpoint(error: &CheckpointError) -> Code {
    match error {
        CheckpointError::Off | CheckpointError::NoCriu | CheckpointError::OldCriu { .. } => {
            Code::FailedPrecondition
        }
        CheckpointError::NoRuntime { .. } => Code::Unimplemented,
        CheckpointError::Version { .. } | CheckpointError::Dump { .. } => Code::Internal,
        CheckpointError::Late(_) => Code::DeadlineExceeded,
        CheckpointError::Stopping => Code::Aborted,
        CheckpointError::Io { source, .. } => io(source.kind()),
        CheckpointError::Runtime(error) => runtime(error),
    }
}

fn io(kind: ErrorKind) -> Code {
    match kind {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Code::ResourceExhausted,
        _ => Code::Internal,
    }
}

fn image(error: &ImageError) -> Code {
    match error {
        ImageError::Reference(_) => Code::InvalidArgument,
        ImageError::Everywhere { error, .. } => image(error),
        ImageError::NotFound { .. } => Code::NotFound,
        ImageError::Unauthenticated { .. } => Code::Unauthenticated,
        ImageError::Denied { .. } | ImageError::Forbidden { .. } => Code::PermissionDenied,
        ImageError::Unavailable { .. } => Code::Unavailable,
        ImageError::Manifest { .. } | ImageError::WrongDigest { .. } => Code::DataLoss,
        ImageError::Config { .. } => Code::FailedPrecondition,
        ImageError::Layer { source, .. } | ImageError::Storage(source) => storage(source),
        ImageError::Interrupted(_) => Code::Aborted,
    }
}

fn storage(error: &StorageError) -> Code {
    let source = match error {
        StorageError::Io { source, .. } | StorageError::Mount { source, .. } => source.kind(),
        StorageError::Layer(LayerError::Apply { source, .. }) => source.kind(),
        StorageError::MissingLayer(_) => return Code::NotFound,
        _ => return Code::Internal,
    };
    io(source)
}

/// The error with its causes, outermost first.
pub fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let _ = write!(text, ": {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_apart_and_the_cause_is_in_the_message() {
        let io = Error::io("write", "/x")(std::io::Error::from_raw_os_error(libc::ENOSPC));
        let status = status(&Arc::new(io));
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert!(
            status.message().starts_with("write `/x`: No space left"),
            "{status}"
        );
    }
}
