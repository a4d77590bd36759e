//! Images made in the test: archives, layers, configurations, manifests.

use std::io::Write;

use crio_setup::ocid::image::digest::Digest;
use serde_json::json;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Oci,
    Docker,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    Gzip,
    Zstd,
    Plain,
}

#[derive(Clone)]
pub struct Layer {
    pub blob: Vec<u8>,
    pub digest: Digest,
    pub diff_id: Digest,
    compression: Compression,
}

pub struct Packed {
    pub form: Form,
    pub config: Vec<u8>,
    pub layers: Vec<Layer>,
    pub manifest: Vec<u8>,
}

/// An archive of regular files, parents implied; a name ending in `/` is a folder.
pub fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, data) in files {
        let mut header = tar::Header::new_ustar();
        let folder = name.ends_with('/');
        header.set_entry_type(if folder {
            tar::EntryType::Directory
        } else {
            tar::EntryType::Regular
        });
        header.set_mode(if folder { 0o755 } else { 0o644 });
        header.set_size(data.len() as u64);
        header.set_mtime(1_600_000_000);
        builder.append_data(&mut header, name, *data).unwrap();
    }
    builder.into_inner().unwrap()
}

/// Bytes that do not compress, always the same for a seed.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

impl Layer {
    pub fn new(archive: &[u8], compression: Compression) -> Self {
        let blob = match compression {
            Compression::Gzip => {
                let level = flate2::Compression::fast();
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
                encoder.write_all(archive).unwrap();
                encoder.finish().unwrap()
            }
            Compression::Zstd => zstd::encode_all(archive, 1).unwrap(),
            Compression::Plain => archive.to_vec(),
        };
        Self {
            digest: Digest::sha256(&blob),
            diff_id: Digest::sha256(archive),
            blob,
            compression,
        }
    }

    fn media_type(&self, form: Form) -> &'static str {
        match (form, self.compression) {
            (Form::Oci, Compression::Gzip) => "application/vnd.oci.image.layer.v1.tar+gzip",
            (Form::Oci, Compression::Zstd) => "application/vnd.oci.image.layer.v1.tar+zstd",
            (Form::Oci, Compression::Plain) => "application/vnd.oci.image.layer.v1.tar",
            (Form::Docker, Compression::Plain) => "application/vnd.docker.image.rootfs.diff.tar",
            (Form::Docker, _) => "application/vnd.docker.image.rootfs.diff.tar.gzip",
        }
    }
}

impl Packed {
    /// An image of these layers whose configuration has a label of its own.
    pub fn new(form: Form, label: &str, layers: &[Layer]) -> Self {
        let diff_ids: Vec<&str> = layers.iter().map(|l| l.diff_id.as_str()).collect();
        let config = json!({
            "architecture": "amd64",
            "os": "linux",
            "config": {"Env": ["A=b"], "Cmd": ["/f"], "User": "1000:1000", "Labels": {"label": label}},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "history": [{"created": "2020-01-01T00:00:00Z", "created_by": "test"}],
        });
        let config = serde_json::to_vec(&config).unwrap();
        let manifest = Self::manifest(form, &config, layers);
        Self {
            form,
            config,
            layers: layers.to_vec(),
            manifest,
        }
    }

    pub fn manifest(form: Form, config: &[u8], layers: &[Layer]) -> Vec<u8> {
        let kind = match form {
            Form::Oci => "application/vnd.oci.image.config.v1+json",
            Form::Docker => "application/vnd.docker.container.image.v1+json",
        };
        let layers: Vec<_> = layers
            .iter()
            .map(|l| json!({"mediaType": l.media_type(form), "digest": l.digest, "size": l.blob.len()}))
            .collect();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": media_type(form),
            "config": {"mediaType": kind, "digest": Digest::sha256(config), "size": config.len()},
            "layers": layers,
        });
        serde_json::to_vec(&manifest).unwrap()
    }

    pub fn id(&self) -> String {
        Digest::sha256(&self.config).to_string()
    }

    pub fn digest(&self) -> Digest {
        Digest::sha256(&self.manifest)
    }
}

pub fn media_type(form: Form) -> &'static str {
    match form {
        Form::Oci => "application/vnd.oci.image.manifest.v1+json",
        Form::Docker => "application/vnd.docker.distribution.manifest.v2+json",
    }
}

/// An index with one entry for each platform (`architecture`, or `unknown`).
pub fn index(form: Form, images: &[(&str, &Packed)]) -> (Vec<u8>, &'static str) {
    let kind = match form {
        Form::Oci => "application/vnd.oci.image.index.v1+json",
        Form::Docker => "application/vnd.docker.distribution.manifest.list.v2+json",
    };
    let entry = |(architecture, image): &(&str, &Packed)| {
        let os = if *architecture == "unknown" {
            "unknown"
        } else {
            "linux"
        };
        json!({
            "mediaType": media_type(image.form), "digest": image.digest(), "size": image.manifest.len(),
            "platform": {"architecture": architecture, "os": os},
        })
    };
    let manifests: Vec<_> = images.iter().map(entry).collect();
    let index = json!({"schemaVersion": 2, "mediaType": kind, "manifests": manifests});
    (serde_json::to_vec(&index).unwrap(), kind)
}
