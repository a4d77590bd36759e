//! The upstream releases that this build installs: URL, sum and layout of each, pinned.
//!
//! The built-in catalog can be replaced as a whole by a file of the same form (a mirror's, a
//! test's); the sums in it are checked like the built-in ones.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::artifact::Sha256Sum;

use super::settings::Component;

const BUILT_IN: &str = include_str!("catalog.json");
/// Above the largest pinned file by far.
const DEFAULT_SIZE_CAP: u64 = 512 << 20;

/// A processor architecture, by Go's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Arch {
    Amd64,
    Arm64,
}

impl Arch {
    /// That of the running kernel's `uname -m`.
    pub fn from_machine(machine: &str) -> Option<Self> {
        match machine {
            "x86_64" => Some(Self::Amd64),
            "aarch64" => Some(Self::Arm64),
            _ => None,
        }
    }
}

/// The numbers of a version; what follows them (`+ds1`, `-rc1`) does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version([u32; 3]);

impl Version {
    pub const fn new(major: u32, minor: u32, patch: u32) -> Self {
        Self([major, minor, patch])
    }
}

/// Text that is no version.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not a version like `1.2.3`")]
pub struct NotAVersion(String);

impl FromStr for Version {
    type Err = NotAVersion;

    fn from_str(text: &str) -> Result<Self, NotAVersion> {
        let bad = || NotAVersion(text.to_owned());
        let numbers = text
            .split(|c: char| !(c.is_ascii_digit() || c == '.'))
            .next()
            .unwrap_or_default();
        let mut parsed = [0; 3];
        let mut parts = numbers.split('.');
        for (i, slot) in parsed.iter_mut().enumerate() {
            match parts.next() {
                Some(part) => *slot = part.parse().map_err(|_| bad())?,
                // `1.2` is a version, `1` is a number.
                None if i == 2 => {}
                None => return Err(bad()),
            }
        }
        Ok(Self(parsed))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [major, minor, patch] = self.0;
        write!(f, "{major}.{minor}.{patch}")
    }
}

/// What an artifact is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// One executable.
    Binary,
    /// A gzipped tar.
    Tgz,
}

/// One upstream file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Artifact {
    pub component: Component,
    pub version: String,
    pub arch: Arch,
    pub kind: Kind,
    pub url: String,
    pub sha256: Sha256Sum,
    /// Bytes, where they are known.
    #[serde(default)]
    pub size: Option<u64>,
    /// Leading folders of an archive's members that are dropped.
    #[serde(default)]
    pub strip: usize,
    /// Members (after `strip`) without which the archive is of no use.
    #[serde(default)]
    pub members: Vec<String>,
}

impl Artifact {
    /// The largest download that can still be this file.
    pub fn size_cap(&self) -> u64 {
        self.size.unwrap_or(DEFAULT_SIZE_CAP)
    }
}

/// The pinned releases.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Catalog {
    pub artifacts: Vec<Artifact>,
}

/// Why there is no catalog.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    #[error("read the catalog `{path}`")]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("parse the catalog `{path}`")]
    Parse {
        path: PathBuf,
        source: serde_json::Error,
    },
}

impl Catalog {
    /// The catalog at `path`, or the built-in one.
    pub fn load(path: Option<&Path>) -> Result<Self, CatalogError> {
        let (path, text) = match path {
            None => (Path::new("(built in)"), BUILT_IN.to_owned()),
            Some(path) => {
                let text = std::fs::read_to_string(path).map_err(|source| CatalogError::Read {
                    path: path.to_owned(),
                    source,
                })?;
                (path, text)
            }
        };
        serde_json::from_str(&text).map_err(|source| CatalogError::Parse {
            path: path.to_owned(),
            source,
        })
    }

    /// The file of a component for a machine.
    pub fn find(&self, component: Component, arch: Arch) -> Option<&Artifact> {
        self.artifacts
            .iter()
            .find(|a| a.component == component && a.arch == arch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_catalog_is_complete() {
        let catalog = Catalog::load(None).unwrap();
        for arch in [Arch::Amd64, Arch::Arm64] {
            for component in [Component::Runc, Component::CniPlugins, Component::Docker] {
                let artifact = catalog.find(component, arch).unwrap();
                assert!(artifact.url.starts_with("https://"), "{}", artifact.url);
                assert!(artifact.url.contains(&artifact.version));
                assert_eq!(artifact.kind == Kind::Tgz, !artifact.members.is_empty());
            }
            assert!(catalog.find(Component::Host, arch).is_none());
        }
        assert_eq!(catalog.artifacts.len(), 6);
    }

    #[test]
    fn versions_compare_by_number() {
        let v = |s: &str| s.parse::<Version>().unwrap();
        assert!(v("1.10.0") > v("1.9.9"));
        assert_eq!(v("1.1.5+ds1"), Version::new(1, 1, 5));
        assert_eq!(v("1.2"), Version::new(1, 2, 0));
        for bad in ["", "1", "x", "1.", ".", "1..2", "99999999999.1"] {
            assert!(bad.parse::<Version>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_catalog_of_another_form_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.json");
        for bad in ["", "[]", r#"{"artifacts": [{"component": "runc"}]}"#] {
            std::fs::write(&path, bad).unwrap();
            let e = Catalog::load(Some(&path)).unwrap_err();
            assert!(matches!(e, CatalogError::Parse { .. }), "{e}");
        }
        let e = Catalog::load(Some(&dir.path().join("none"))).unwrap_err();
        assert!(matches!(e, CatalogError::Read { .. }));
    }
}
