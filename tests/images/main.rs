//! Images end to end: a real registry, a lying one, real overlay mounts. Needs root, as ocid does.

mod containers;
mod credentials;
mod failures;
mod killed;
mod liar;
mod pack;
mod proxy;
mod pulls;
mod registries;
mod registry;
mod retries;
mod tls;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crio_setup::ocid::image::{ImageOptions, ImageStore, Retries};

/// A store in a folder of its own, with no configuration of the machine's.
pub struct Home {
    pub dir: tempfile::TempDir,
    pub options: ImageOptions,
}

impl Default for Home {
    fn default() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let etc = dir.path().join("etc");
        fs::create_dir(&etc).unwrap();
        let options = ImageOptions {
            registries_conf: etc.join("registries.conf"),
            registries_conf_dir: etc.join("registries.conf.d"),
            short_name_aliases: etc.join("short-name-aliases.conf"),
            auth_files: vec![etc.join("auth.json")],
            retries: Retries {
                most: 3,
                pause: Duration::from_millis(5),
                longest: Duration::from_secs(2),
            },
            certs_dirs: vec![etc.join("certs.d")],
            policy: etc.join("policy.json"),
            ..ImageOptions::default()
        };
        Self { dir, options }
    }
}

impl Home {
    pub fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    pub fn etc(&self, name: &str) -> PathBuf {
        self.dir.path().join("etc").join(name)
    }

    pub fn open(&self) -> ImageStore {
        let store = ImageStore::open(&self.root(), self.options.clone()).unwrap();
        store.finish_cleaning();
        store
    }

    /// Names in a folder below the root, sorted.
    pub fn names(&self, folder: &str) -> Vec<String> {
        names(&self.root().join(folder))
    }

    /// Nothing of any image is there.
    pub fn assert_empty(&self) {
        for folder in ["images", "layers", "tmp"] {
            assert_eq!(self.names(folder), [""; 0], "{folder}");
        }
    }
}

pub fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = entries
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Unmounts what a test mounted, however it ends.
pub struct Mounted(pub PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
    }
}

/// Reqwest is built without a default for TLS; the daemon brings its own, plain clients of the tests
/// need one as well.
pub fn crypto() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// An error with its causes.
pub fn told(e: &dyn std::error::Error) -> String {
    crio_setup::ocid::image::chain(e)
}
