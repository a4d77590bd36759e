//! Layers and container filesystems on disk.
//!
//! ```text
//! ROOT/layers/NAME/d           a layer, as overlayfs takes it; NAME: 24 hex digits of its diff id
//! ROOT/layers/NAME/layer.json  its whole diff id and its sizes
//! ROOT/containers/ID/upper     what a container wrote (and `work`, overlayfs' own)
//! ROOT/containers/ID/lease.json  which layers it stands on
//! ROOT/tmp                     layers that are being unpacked or deleted; emptied at start
//! ROOT/empty                   the lower layer of an image without layers
//! ROOT/also-empty              the same beside it, where an image is a volume
//! ```
//!
//! Layers are keyed by diff id, so images share them whatever compression or registry they came
//! from. Names are short because mount(2) takes one page of options for up to 127 of them. A layer
//! is unpacked in `tmp` and renamed: what stands in `layers` is whole. It is made durable, by one
//! syncfs(2), before an image's record names it.

pub mod containers;
pub mod layers;
mod overlay;
pub mod tar;
pub mod unpack;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::ocid::image::digest::Digest;
pub use overlay::{Users, View};
use unpack::LayerError;

/// Most layers an image may have; docker's limit, and what one page of mount options holds.
pub const MOST_LAYERS: usize = 127;

/// Why something in the storage could not be done.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StorageError {
    #[error("{act} `{}`", path.display())]
    Io {
        act: &'static str,
        path: PathBuf,
        source: Arc<io::Error>,
    },
    #[error("the record `{}` is damaged: {problem}", path.display())]
    Record { path: PathBuf, problem: String },
    #[error(transparent)]
    Layer(#[from] LayerError),
    #[error("the image has {0} layers, more than the {MOST_LAYERS} that can be mounted")]
    TooManyLayers(usize),
    #[error("the image's layer {0} is not there")]
    MissingLayer(Digest),
    #[error("layers {0} and {1} have the same short name")]
    NameTaken(Digest, Digest),
    #[error("`{0}` is not a container id")]
    InvalidId(String),
    #[error("mount an overlay of {layers} layers on `{}`", target.display())]
    Mount {
        target: PathBuf,
        layers: usize,
        source: Arc<io::Error>,
    },
}

impl StorageError {
    /// The command or act that helps, where there is one.
    pub fn hint(&self) -> Option<String> {
        let source = match self {
            Self::Io { source, .. } | Self::Layer(LayerError::Apply { source, .. }) => source,
            Self::MissingLayer(_) => return Some("pull the image again".to_owned()),
            Self::Mount { source, .. } if source.raw_os_error() == Some(libc::ENODEV) => {
                return Some("load the overlay module: `modprobe overlay`".to_owned());
            }
            _ => return None,
        };
        use io::ErrorKind::{QuotaExceeded, StorageFull};
        matches!(source.kind(), StorageFull | QuotaExceeded)
            .then(|| "free some space where ocid keeps its images: `df -h`".to_owned())
    }
}

/// Gives an I/O error its act and path.
pub(crate) fn failed<E: Into<io::Error>>(
    act: &'static str,
    path: &Path,
) -> impl FnOnce(E) -> StorageError {
    move |e| StorageError::Io {
        act,
        path: path.to_owned(),
        source: Arc::new(e.into()),
    }
}

/// What the stored layers take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FsUsage {
    /// The folder whose filesystem they are on.
    pub mountpoint: PathBuf,
    /// Bytes, in blocks of 4 KiB.
    pub bytes: u64,
    pub inodes: u64,
}
