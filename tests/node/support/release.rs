//! Release archives of the true layout, filled with the distribution's programs, and a catalog that
//! says where they are and what they hash to.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::Machine;
use super::image::architecture;
use super::mirror::Mirror;
use super::upstream::{Answer, Upstream};

/// The catalog's place inside the machine.
pub const CATALOG: &str = "/srv/catalog.json";

const RUNC: &str = "/runc.release";
const PLUGINS: &str = "/cni-plugins.tgz";
const DOCKER: &str = "/docker.tgz";

/// One release file.
#[derive(Clone)]
pub struct Release {
    pub component: &'static str,
    pub path: &'static str,
    pub bytes: Arc<Vec<u8>>,
    version: &'static str,
    kind: &'static str,
    strip: usize,
    members: Vec<&'static str>,
}

impl Release {
    /// An entry of the catalog, with the hash of `bytes` whatever is served.
    fn entry(&self, upstream: &Upstream) -> Value {
        json!({
            "component": self.component,
            "version": self.version,
            "arch": architecture(),
            "kind": self.kind,
            "url": upstream.url(self.path),
            "sha256": hash(&self.bytes),
            "size": self.bytes.len(),
            "strip": self.strip,
            "members": self.members,
        })
    }
}

/// The runc of the distribution, as upstream releases it: a bare program.
pub fn runc() -> Result<Release> {
    let bytes = fs::read("/usr/sbin/runc").context("`apt-get install runc` brings it")?;
    Ok(Release {
        component: "runc",
        path: RUNC,
        bytes: Arc::new(bytes),
        version: "1.1.5",
        kind: "binary",
        strip: 0,
        members: Vec::new(),
    })
}

/// The distribution's plugins in one archive, with a folder entry and two texts, as upstream's.
pub fn plugins() -> Result<Release> {
    let folder = Path::new("/usr/lib/cni");
    let mut tgz = Tgz::default();
    tgz.folder("./")?;
    for entry in fs::read_dir(folder).context("`apt-get install containernetworking-plugins`")? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        tgz.file(&format!("./{name}"), 0o755, &fs::read(entry.path())?)?;
    }
    tgz.file("./LICENSE", 0o644, b"Apache-2.0\n")?;
    tgz.file("./README.md", 0o644, b"plugins\n")?;
    Ok(plugins_of(tgz.finish()?))
}

/// Any bytes in the place of the plugins' archive.
pub fn plugins_of(bytes: Vec<u8>) -> Release {
    Release {
        component: "cni-plugins",
        path: PLUGINS,
        bytes: Arc::new(bytes),
        version: "1.1.1",
        kind: "tgz",
        strip: 0,
        members: vec!["bridge", "host-local", "loopback", "portmap"],
    }
}

/// docker's static archive brings its own runc and containerd, all in one folder.
pub fn docker(machine: &Machine, _way: &Mirror) -> Result<Release> {
    let script = "mkdir -p /srv/debs && cd /srv/debs && apt-get -qq download docker.io containerd tini \
                  && for deb in *.deb; do dpkg-deb -x $deb tree; done && rm *.deb";
    machine.run(&["sh", "-c", script])?;
    let mut tgz = Tgz::default();
    tgz.folder("docker/")?;
    let tree = machine.path("/srv/debs/tree");
    for (name, from) in [
        ("containerd", "usr/bin/containerd"),
        ("containerd-shim-runc-v2", "usr/bin/containerd-shim-runc-v2"),
        ("ctr", "usr/bin/ctr"),
        ("docker", "usr/bin/docker"),
        ("docker-init", "usr/bin/tini"),
        ("docker-proxy", "usr/sbin/docker-proxy"),
        ("dockerd", "usr/sbin/dockerd"),
    ] {
        let path = tree.join(from);
        let bytes = fs::read(&path).with_context(|| path.display().to_string())?;
        tgz.file(&format!("docker/{name}"), 0o755, &bytes)?;
    }
    tgz.file("docker/runc", 0o755, &fs::read("/usr/sbin/runc")?)?;
    machine.run(&["rm", "-rf", "/srv/debs"])?;
    Ok(Release {
        component: "docker",
        path: DOCKER,
        bytes: Arc::new(tgz.finish()?),
        version: "20.10.24",
        kind: "tgz",
        strip: 1,
        members: vec![
            "containerd",
            "containerd-shim-runc-v2",
            "docker",
            "docker-init",
            "docker-proxy",
            "dockerd",
            "runc",
        ],
    })
}

/// Serves the releases whole and writes the catalog that names them.
pub fn publish(machine: &Machine, upstream: &Upstream, releases: &[Release]) -> Result<()> {
    for release in releases {
        upstream.set(release.path, Answer::Whole(release.bytes.clone()))?;
    }
    let artifacts: Vec<Value> = releases.iter().map(|r| r.entry(upstream)).collect();
    let catalog = json!({ "artifacts": artifacts });
    machine.write(CATALOG, serde_json::to_vec_pretty(&catalog)?, 0o644)
}

/// A gzipped tar in the making.
pub struct Tgz(tar::Builder<GzEncoder<Vec<u8>>>);

impl Default for Tgz {
    fn default() -> Self {
        Self(tar::Builder::new(GzEncoder::new(
            Vec::new(),
            flate2::Compression::fast(),
        )))
    }
}

impl Tgz {
    fn append(&mut self, kind: tar::EntryType, path: &str, mode: u32, bytes: &[u8]) -> Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(bytes.len() as u64);
        header.set_mtime(1_577_836_800);
        // The name goes in as it is: `./` and `../` are what these archives are about.
        let name = header.as_gnu_mut().context("a gnu header")?;
        let bytes_of_path = path.as_bytes();
        name.name
            .get_mut(..bytes_of_path.len())
            .context("a name of at most 100 bytes")?
            .copy_from_slice(bytes_of_path);
        header.set_cksum();
        Ok(self.0.append(&header, bytes)?)
    }

    pub fn folder(&mut self, path: &str) -> Result<()> {
        self.append(tar::EntryType::Directory, path, 0o755, b"")
    }

    pub fn file(&mut self, path: &str, mode: u32, bytes: &[u8]) -> Result<()> {
        self.append(tar::EntryType::Regular, path, mode, bytes)
    }

    pub fn finish(self) -> Result<Vec<u8>> {
        let mut gzip = self.0.into_inner()?;
        gzip.flush()?;
        Ok(gzip.finish()?)
    }
}

/// A file's hash, computed inside the machine.
pub fn sum(machine: &Machine, path: &str) -> Result<String> {
    let output = machine.run(&["sha256sum", path])?;
    Ok(output.split(' ').next().unwrap_or_default().to_owned())
}

/// The hash that `sum` should give for these bytes.
pub fn hash(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}
