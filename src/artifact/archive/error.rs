//! What can be wrong with an archive.

use std::io;
use std::path::PathBuf;

/// Why an archive was not unpacked.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    #[error("read `{archive}`")]
    Read { archive: PathBuf, source: io::Error },
    #[error("read `{archive}`: not a gzip file")]
    NotGzip { archive: PathBuf },
    #[error("unpack `{archive}`: the member `{member}` {problem}")]
    Refused {
        archive: PathBuf,
        member: String,
        problem: String,
    },
    #[error("unpack `{archive}`: more than {cap} {what}")]
    TooLarge {
        archive: PathBuf,
        cap: u64,
        what: &'static str,
    },
    #[error("unpack `{archive}`: write `{path}`")]
    Write {
        archive: PathBuf,
        path: PathBuf,
        source: io::Error,
    },
    #[error("unpack `{archive}`: it holds no `{member}`")]
    Missing { archive: PathBuf, member: String },
}

impl ArchiveError {
    /// What helps.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Write { path, .. } => {
                let folder = path.parent().unwrap_or(path);
                Some(format!("see `df -h {}`", folder.display()))
            }
            Self::Read { archive, .. }
            | Self::NotGzip { archive }
            | Self::Missing { archive, .. } => {
                Some(format!("see `tar -tvzf {}`", archive.display()))
            }
            Self::Refused { .. } | Self::TooLarge { .. } => Some(
                "this is no release archive as its upstream makes them: do not use it".to_owned(),
            ),
        }
    }
}
