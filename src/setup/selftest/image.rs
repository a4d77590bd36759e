//! The self-test's image: one layer with one file, this very program.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::json;
use tar::{Builder, EntryType, Header};

use crate::artifact::Sha256Sum;
use crate::artifact::digest::Hashing;

/// Where the program stands in the image.
pub const PROGRAM: &str = "/ocid";
/// The user that the image names: nobody, by number, since it has no passwd file.
const USER: &str = "65534:65534";

pub const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// An image as a registry serves it.
pub struct TestImage {
    pub manifest: Vec<u8>,
    pub config: Vec<u8>,
    pub layer: Vec<u8>,
}

/// An image of the program at `exe`. `token` makes it another image than that of every other run.
pub fn build(exe: &Path, token: &str) -> io::Result<TestImage> {
    let (layer, diff_id) = layer(exe)?;
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let config = json!({
        "architecture": architecture,
        "os": "linux",
        "config": {
            "User": USER,
            "Entrypoint": [PROGRAM],
            "Cmd": ["selftest-peer"],
            "WorkingDir": "/",
            "Labels": { "io.ocid.selftest": token },
        },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{diff_id}")] },
        "history": [{ "created_by": "crio-setup selftest" }],
    });
    let config = config.to_string().into_bytes();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": descriptor(CONFIG_TYPE, &config),
        "layers": [descriptor(LAYER_TYPE, &layer)],
    });
    Ok(TestImage {
        manifest: manifest.to_string().into_bytes(),
        config,
        layer,
    })
}

/// `sha256:` and the sum.
pub fn digest(blob: &[u8]) -> String {
    format!("sha256:{}", Sha256Sum::of(blob))
}

fn descriptor(media_type: &str, blob: &[u8]) -> serde_json::Value {
    json!({ "mediaType": media_type, "digest": digest(blob), "size": blob.len() })
}

/// The gzipped tar, and the sum of the tar.
fn layer(exe: &Path) -> io::Result<(Vec<u8>, Sha256Sum)> {
    let mut program = File::open(exe)?;
    let size = program.metadata()?.len();
    // Fast: the bytes travel over loopback, only the time to squeeze them counts.
    let gzip = GzEncoder::new(Vec::new(), Compression::fast());
    let mut tar = Builder::new(Hashing::new(gzip));
    // The folders that the runtime mounts over.
    for folder in ["dev/", "etc/", "proc/", "sys/", "tmp/"] {
        tar.append_data(&mut header(EntryType::Directory, 0), folder, io::empty())?;
    }
    let mut entry = header(EntryType::Regular, size);
    tar.append_data(&mut entry, PROGRAM.trim_start_matches('/'), &mut program)?;
    let (gzip, diff_id) = tar.into_inner()?.finish();
    let mut layer = gzip.finish()?;
    layer.flush()?;
    Ok((layer, diff_id))
}

fn header(kind: EntryType, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(0o755);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    header
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::read::GzDecoder;
    use std::io::Read;

    #[test]
    fn every_digest_is_true() {
        let dir = tempfile::tempdir().unwrap();
        let exe = dir.path().join("exe");
        std::fs::write(&exe, "program").unwrap();
        let image = build(&exe, "one").unwrap();
        let manifest: serde_json::Value = serde_json::from_slice(&image.manifest).unwrap();
        assert_eq!(manifest["config"]["digest"], digest(&image.config));
        assert_eq!(manifest["config"]["size"], image.config.len());
        assert_eq!(manifest["layers"][0]["digest"], digest(&image.layer));

        let mut tar = Vec::new();
        GzDecoder::new(&image.layer[..])
            .read_to_end(&mut tar)
            .unwrap();
        let config: serde_json::Value = serde_json::from_slice(&image.config).unwrap();
        assert_eq!(config["rootfs"]["diff_ids"][0], digest(&tar));
        let mut archive = tar::Archive::new(&tar[..]);
        let mut programs = 0;
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            if entry.path().unwrap().to_str() != Some("ocid") {
                continue;
            }
            assert_eq!(entry.header().mode().unwrap(), 0o755);
            let mut content = String::new();
            entry.read_to_string(&mut content).unwrap();
            assert_eq!(content, "program");
            programs += 1;
        }
        assert_eq!(programs, 1);

        let other = build(&exe, "two").unwrap();
        assert_eq!(other.layer, image.layer);
        assert_ne!(other.manifest, image.manifest);
    }
}
