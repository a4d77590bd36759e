//! An image in memory, and as it is written down in `ROOT/images/HEX.json`.

use std::path::{Path, PathBuf};

use oci_spec::image::ImageConfiguration;
use serde::{Deserialize, Serialize};

use super::digest::Digest;
use crate::host::fs::read_capped;
use crate::ocid::storage::StorageError;

/// Version of an image's record.
const VERSION: u32 = 1;
/// Most bytes of a record: a configuration, escaped, and names.
const LARGEST: u64 = 32 << 20;

/// An image that is here in whole.
#[derive(Debug, Clone, PartialEq)]
pub struct Image {
    /// `sha256:HEX`: the digest of the configuration.
    pub id: String,
    /// `REGISTRY/REPOSITORY:TAG`.
    pub repo_tags: Vec<String>,
    /// `REGISTRY/REPOSITORY@DIGEST`, of the manifest and of the index it was found in.
    pub repo_digests: Vec<String>,
    /// Those of them that were asked for: each a name as a tag is one.
    pub asked_digests: Vec<String>,
    /// Bytes of its unpacked layers' archives and of its configuration, as CRI-O counts.
    pub size: u64,
    pub config: ImageConfiguration,
    /// Diff ids, lowest first.
    pub layers: Vec<Digest>,
    /// Nanoseconds since the epoch of the last pull.
    pub pulled_at: i64,
    /// Not to be garbage collected (`pinned_images` of the configuration).
    pub pinned: bool,
}

impl Image {
    /// The image's default user as the CRI wants it: a uid, or a name that is not a number.
    pub fn user(&self) -> ImageUser {
        let config = self.config.config().as_ref();
        let user = config.and_then(|c| c.user().as_deref()).unwrap_or("");
        let user = user.split(':').next().unwrap_or("");
        match user.parse::<u32>() {
            Ok(uid) => ImageUser::Uid(uid),
            Err(_) if user.is_empty() => ImageUser::None,
            Err(_) => ImageUser::Name(user.to_owned()),
        }
    }

    /// Is there no name left to find it by but its id?
    pub fn is_nameless(&self) -> bool {
        self.repo_tags.is_empty() && self.asked_digests.is_empty()
    }

    /// Any one reference, for messages.
    pub fn label(&self) -> &str {
        let names = self.repo_tags.first().or(self.repo_digests.first());
        names.map_or(self.id.as_str(), String::as_str)
    }
}

/// Who an image's process runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageUser {
    /// It does not say, which means root; the CRI has neither uid nor name then.
    None,
    Uid(u32),
    Name(String),
}

/// What is on disk. The configuration stays byte for byte as it was, since its digest is the id.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    version: u32,
    pub id: Digest,
    pub config: String,
    pub layers: Vec<Digest>,
    pub size: u64,
    pub repo_tags: Vec<String>,
    pub repo_digests: Vec<String>,
    #[serde(default)]
    pub asked_digests: Vec<String>,
    pub pulled_at: i64,
}

impl Record {
    pub fn new(id: Digest, config: String, layers: Vec<Digest>, size: u64) -> Self {
        Self {
            version: VERSION,
            id,
            config,
            layers,
            size,
            repo_tags: Vec::new(),
            repo_digests: Vec::new(),
            asked_digests: Vec::new(),
            pulled_at: 0,
        }
    }

    /// Reads one; a version of a later ocid is an error, as overwriting it would lose what it says.
    pub fn read(path: &Path) -> Result<Self, StorageError> {
        let damaged = |problem: String| StorageError::Record {
            path: path.to_owned(),
            problem,
        };
        let bytes = read_capped(path, LARGEST).map_err(|e| damaged(e.to_string()))?;
        let record: Self = serde_json::from_slice(&bytes).map_err(|e| damaged(e.to_string()))?;
        if record.version != VERSION {
            return Err(damaged(format!("it is of version {}", record.version)));
        }
        if record.id.of_same_kind(record.config.as_bytes()) != record.id {
            return Err(damaged("its configuration has another digest".to_owned()));
        }
        Ok(record)
    }

    /// Parses the configuration.
    pub fn image(&self, pinned: bool) -> Result<Image, String> {
        let config: ImageConfiguration =
            serde_json::from_str(&self.config).map_err(|e| format!("its configuration: {e}"))?;
        Ok(Image {
            id: self.id.to_string(),
            repo_tags: self.repo_tags.clone(),
            repo_digests: self.repo_digests.clone(),
            asked_digests: self.asked_digests.clone(),
            size: self.size,
            config,
            layers: self.layers.clone(),
            pulled_at: self.pulled_at,
            pinned,
        })
    }

    /// Where it is written.
    pub fn path(root: &Path, id: &str) -> PathBuf {
        let hex = id.split_once(':').map_or(id, |(_, hex)| hex);
        root.join("images").join(format!("{hex}.json"))
    }
}

/// The diff ids of a configuration, which must be as many as the manifest's layers.
pub fn diff_ids(config: &ImageConfiguration, layers: usize) -> Result<Vec<Digest>, String> {
    let ids: Result<Vec<Digest>, _> = config
        .rootfs()
        .diff_ids()
        .iter()
        .map(|d| Digest::parse(d))
        .collect();
    let ids = ids.map_err(|e| format!("its configuration: {e}"))?;
    if ids.len() == layers {
        return Ok(ids);
    }
    let problem = "its configuration counts other layers than its manifest";
    Err(format!("{problem} ({} and {layers})", ids.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = r#"{"architecture":"amd64","os":"linux","config":{"User":"USER","Volumes":null,"Entrypoint":null,"Labels":null,"ExposedPorts":null,"OnBuild":null},"container_config":{},"rootfs":{"type":"layers","diff_ids":[]},"history":null}"#;

    fn image(user: &str) -> Image {
        let config = CONFIG.replace("USER", user);
        let record = Record::new(Digest::sha256(config.as_bytes()), config, vec![], 0);
        record.image(false).unwrap()
    }

    #[test]
    fn users() {
        assert_eq!(image("").user(), ImageUser::None);
        assert_eq!(image("1000:2000").user(), ImageUser::Uid(1000));
        assert_eq!(image("redis:root").user(), ImageUser::Name("redis".into()));
        assert_eq!(image("-1").user(), ImageUser::Name("-1".into()));
    }

    #[test]
    fn a_changed_record_is_found_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r.json");
        let record = Record::new(Digest::sha256(CONFIG.as_bytes()), CONFIG.into(), vec![], 0);
        std::fs::write(&path, serde_json::to_vec(&record).unwrap()).unwrap();
        assert_eq!(Record::read(&path).unwrap(), record);
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replace("amd64", "arm64")).unwrap();
        assert!(Record::read(&path).is_err());
        std::fs::write(&path, text.replace("\"version\":1", "\"version\":2")).unwrap();
        assert!(
            Record::read(&path)
                .unwrap_err()
                .to_string()
                .contains("version 2")
        );
    }
}
