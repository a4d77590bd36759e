//! Images made in the test: files in a tar, compressed, hashed, described as OCI says.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// Something to be stored by its digest.
#[derive(Debug, Clone)]
pub struct Blob {
    pub media_type: &'static str,
    pub bytes: Vec<u8>,
}

impl Blob {
    pub fn digest(&self) -> String {
        digest(&self.bytes)
    }

    fn descriptor(&self) -> Value {
        json!({ "mediaType": self.media_type, "digest": self.digest(), "size": self.bytes.len() })
    }
}

pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

#[derive(Debug, Clone, Copy)]
pub enum Compression {
    Gzip,
    Zstd,
}

/// One layer in the making; folders come into being as files need them.
pub struct Layer {
    tar: tar::Builder<Vec<u8>>,
    folders: BTreeMap<PathBuf, ()>,
}

impl Default for Layer {
    fn default() -> Self {
        Self {
            tar: tar::Builder::new(Vec::new()),
            folders: BTreeMap::new(),
        }
    }
}

impl Layer {
    fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(size);
        // 2020-01-01: a layer made twice is the same layer.
        header.set_mtime(1_577_836_800);
        header
    }

    pub fn folder(&mut self, path: &str, mode: u32) -> Result<()> {
        let relative = Path::new(path.trim_start_matches('/'));
        if relative.as_os_str().is_empty() || self.folders.contains_key(relative) {
            return Ok(());
        }
        self.parents(relative)?;
        let mut header = Self::header(tar::EntryType::Directory, mode, 0);
        self.tar
            .append_data(&mut header, relative, std::io::empty())?;
        self.folders.insert(relative.to_owned(), ());
        Ok(())
    }

    fn parents(&mut self, relative: &Path) -> Result<()> {
        match relative.parent() {
            Some(parent) => self.folder(parent.to_str().context("not UTF-8")?, 0o755),
            None => Ok(()),
        }
    }

    pub fn file(&mut self, path: &str, mode: u32, bytes: &[u8]) -> Result<()> {
        let relative = Path::new(path.trim_start_matches('/'));
        self.parents(relative)?;
        let mut header = Self::header(tar::EntryType::Regular, mode, bytes.len() as u64);
        Ok(self.tar.append_data(&mut header, relative, bytes)?)
    }

    pub fn symlink(&mut self, path: &str, target: &str) -> Result<()> {
        let relative = Path::new(path.trim_start_matches('/'));
        self.parents(relative)?;
        let mut header = Self::header(tar::EntryType::Symlink, 0o777, 0);
        Ok(self.tar.append_link(&mut header, relative, target)?)
    }

    /// The diff id and the compressed layer.
    pub fn finish(self, compression: Compression) -> Result<(String, Blob)> {
        let tar = self.tar.into_inner()?;
        let diff_id = digest(&tar);
        let blob = match compression {
            Compression::Gzip => {
                let mut gzip = GzEncoder::new(Vec::new(), flate2::Compression::fast());
                gzip.write_all(&tar)?;
                Blob {
                    media_type: "application/vnd.oci.image.layer.v1.tar+gzip",
                    bytes: gzip.finish()?,
                }
            }
            Compression::Zstd => Blob {
                media_type: "application/vnd.oci.image.layer.v1.tar+zstd",
                bytes: zstd::encode_all(tar.as_slice(), 1)?,
            },
        };
        debug_assert!(blob.media_type.starts_with(LAYER));
        Ok((diff_id, blob))
    }
}

/// A whole image: what a registry must hold before the index makes sense.
#[derive(Debug, Clone)]
pub struct Image {
    pub blobs: Vec<Blob>,
    pub manifest: Blob,
    pub index: Blob,
}

/// How this machine's architecture is called in an image index.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Puts layers and a container configuration (`Cmd`, `Env`, ... as Docker spells them) together, with
/// an index that also names an architecture which is not this machine's.
pub fn assemble(layers: Vec<(String, Blob)>, config: Value) -> Result<Image> {
    let (diff_ids, layers): (Vec<String>, Vec<Blob>) = layers.into_iter().unzip();
    let config = json!({
        "architecture": architecture(),
        "os": "linux",
        "config": config,
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    let config = Blob {
        media_type: CONFIG,
        bytes: serde_json::to_vec(&config)?,
    };
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": config.descriptor(),
        "layers": layers.iter().map(Blob::descriptor).collect::<Vec<_>>(),
    });
    let manifest = Blob {
        media_type: MANIFEST,
        bytes: serde_json::to_vec(&manifest)?,
    };
    let entry = |architecture: &str| {
        let mut entry = manifest.descriptor();
        entry["platform"] = json!({ "architecture": architecture, "os": "linux" });
        entry
    };
    // The foreign entry points to the same manifest: a registry refuses an index of absent ones.
    let index = json!({
        "schemaVersion": 2,
        "mediaType": INDEX,
        "manifests": [entry("s390x"), entry(architecture())],
    });
    let index = Blob {
        media_type: INDEX,
        bytes: serde_json::to_vec(&index)?,
    };
    let mut blobs = layers;
    blobs.push(config);
    Ok(Image {
        blobs,
        manifest,
        index,
    })
}
