//! The node's pod subnets, as UpdateRuntimeConfig tells them. Kubelet does so when they change and not when
//! the daemon starts, so they are kept on disk.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::host::fs::{read_capped, write_atomic};

/// Below the daemon's root.
const FILE: &str = "runtime-config.json";
const VERSION: u32 = 1;
const CAP: u64 = 64 << 10;

#[derive(Debug, Serialize, Deserialize)]
struct Record {
    version: u32,
    pod_cidrs: Vec<IpNet>,
}

/// One subnet per address family, or none.
#[derive(Debug)]
pub struct Subnets {
    path: PathBuf,
    known: RwLock<Vec<IpNet>>,
}

impl Subnets {
    /// What was written down below `root`. A file that cannot be read is said in the log and counts as
    /// none: pods that need it will fail and say so.
    pub fn open(root: &Path) -> Self {
        let path = root.join(FILE);
        let read = read_capped(&path, CAP).and_then(|bytes| {
            let record: Record = serde_json::from_slice(&bytes)?;
            Ok(record.pod_cidrs)
        });
        let known = read.unwrap_or_else(|error| {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::error!(path = %path.display(), %error, "the pod subnets cannot be read");
            }
            Vec::new()
        });
        Self {
            path,
            known: RwLock::new(known),
        }
    }

    /// The file they are kept in.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn now(&self) -> Vec<IpNet> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.clone()
    }

    /// Writes them down, then uses them, for pods that are yet to come. Blocks.
    pub fn set(&self, subnets: Vec<IpNet>) -> io::Result<()> {
        // Held across the write: the file is never older than what is used.
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if *known == subnets {
            return Ok(());
        }
        let record = Record {
            version: VERSION,
            pod_cidrs: subnets,
        };
        if let Some(folder) = self.path.parent() {
            fs::create_dir_all(folder)?;
        }
        write_atomic(&self.path, &serde_json::to_vec(&record)?, 0o600)?;
        *known = record.pod_cidrs;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let subnets = Subnets::open(dir.path());
        assert!(subnets.now().is_empty());
        let wanted: Vec<IpNet> = vec!["10.1.0.0/24".parse().unwrap(), "fd00::/64".parse().unwrap()];
        subnets.set(wanted.clone()).unwrap();
        assert_eq!(subnets.now(), wanted);
        assert_eq!(Subnets::open(dir.path()).now(), wanted);
        fs::write(dir.path().join(FILE), "{").unwrap();
        assert!(Subnets::open(dir.path()).now().is_empty());
    }
}
