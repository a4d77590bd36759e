//! Why a container's specification could not be made.

use std::io;
use std::path::PathBuf;

use super::apparmor::AppArmorError;
use crate::ocid::field::FieldError;
use crate::ocid::storage::StorageError;

/// The first thing that stood in the way.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    #[error(transparent)]
    Field(#[from] FieldError),
    #[error("neither the container's config nor its image names a command")]
    NoCommand,
    #[error("the image has no user `{0}` in its /etc/passwd")]
    NoSuchUser(String),
    #[error("the image has no group `{0}` in its /etc/group")]
    NoSuchGroup(String),
    #[error("`{field}` asks for `{}`, which is not there", .path.display())]
    Missing { field: String, path: PathBuf },
    #[error("`{field}` asks for what this machine does not have: {need}")]
    Unavailable { field: String, need: String },
    #[error("`{field}` names the device `{device}`, which {problem}")]
    Cdi {
        field: String,
        device: String,
        problem: String,
    },
    #[error("`{field}` asks for the default AppArmor profile, which cannot be loaded")]
    AppArmor {
        field: String,
        source: AppArmorError,
    },
    #[error("{act} `{}`", .path.display())]
    Io {
        act: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("read the seccomp profile `{}`: {problem}", .path.display())]
    Seccomp { path: PathBuf, problem: String },
    /// Begins with the word that tells kubelet what failed (ErrImageVolumeMountFailed of the CRI's
    /// errors).
    #[error("ImageVolumeMountFailed: {0}")]
    Volume(#[from] VolumeError),
    #[error("assemble the runtime specification")]
    Assemble(#[source] oci_spec::OciSpecError),
}

/// Why an image could not be mounted as a volume.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    #[error("`{field}.image` names `{image}`, which is not here")]
    NoImage { field: String, image: String },
    #[error("`{field}.image_sub_path` is `{}`, which the image `{image}` does not have", .path.display())]
    NoSubPath {
        field: String,
        path: PathBuf,
        image: String,
    },
    #[error("mount the image `{image}` for `{field}`")]
    Mount {
        field: String,
        image: String,
        source: StorageError,
    },
}

/// Whose fault it is; one match turns it into a gRPC code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpecErrorKind {
    /// `InvalidArgument`
    Invalid,
    /// `NotFound`
    NotFound,
    /// `FailedPrecondition`
    Precondition,
    /// `Internal`
    Internal,
}

impl SpecError {
    pub(crate) fn io(act: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        Self::Io {
            act,
            path: path.into(),
            source,
        }
    }

    pub fn kind(&self) -> SpecErrorKind {
        match self {
            Self::Field(_) | Self::NoCommand | Self::NoSuchUser(_) | Self::NoSuchGroup(_) => {
                SpecErrorKind::Invalid
            }
            Self::Missing { .. }
            | Self::Cdi { .. }
            | Self::Volume(VolumeError::NoImage { .. } | VolumeError::NoSubPath { .. }) => {
                SpecErrorKind::NotFound
            }
            Self::Unavailable { .. } | Self::Seccomp { .. } | Self::AppArmor { .. } => {
                SpecErrorKind::Precondition
            }
            Self::Io { .. } | Self::Assemble(_) | Self::Volume(VolumeError::Mount { .. }) => {
                SpecErrorKind::Internal
            }
        }
    }

    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NoCommand => Some("set `command` in the container's config".to_owned()),
            Self::NoSuchUser(_) => {
                Some("use `run_as_user` with a number, or another image".to_owned())
            }
            Self::AppArmor {
                source: AppArmorError::NoParser,
                ..
            } => Some("`apt-get install apparmor` brings it".to_owned()),
            Self::Volume(VolumeError::NoImage { image, .. }) => {
                Some(format!("pull it first: `crictl pull {image}`"))
            }
            Self::Volume(VolumeError::Mount { source, .. }) => source.hint(),
            _ => None,
        }
    }
}
