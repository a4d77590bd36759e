//! Addresses that nobody can give back: host-local, the address plugin, makes a lease's file and then
//! writes into it whose it is. Killed in between, or by a power cut before the disk has it, it leaves
//! an empty file, which no DEL takes for its own and which keeps the address from everybody else.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::conf::NetworkConf;
use crate::host::lock;

/// Where host-local keeps its leases unless it is told.
const DATA_DIR: &str = "/var/lib/cni/networks";
/// For host-local's lock, which it holds for a few files' time.
const PATIENCE: Duration = Duration::from_secs(10);

/// Removes the leases of this network that are nobody's. What cannot be removed is said in the log: an
/// address less is no reason to fail.
pub(super) async fn drop_unwritten(conf: &NetworkConf) {
    let folders: Vec<PathBuf> = conf
        .host_local()
        .map(|dir| Path::new(dir.unwrap_or(DATA_DIR)).join(&conf.name))
        .collect();
    let dropped = tokio::task::spawn_blocking(move || {
        folders
            .iter()
            .try_for_each(|folder| drop_in(folder, PATIENCE))
    });
    if let Err(e) = dropped.await.map_err(io::Error::other).and_then(|r| r) {
        tracing::warn!(network = conf.name, error = %e, "remove leases that were never written");
    }
}

/// Under host-local's own lock, so that none is being written.
fn drop_in(folder: &Path, patience: Duration) -> io::Result<()> {
    let file = match File::open(folder.join("lock")) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    let _lock = lock::exclusive(file, patience)?;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let address = name.to_str().and_then(|n| n.parse::<IpAddr>().ok());
        let metadata = entry.metadata()?;
        if let Some(address) = address
            && metadata.is_file()
            && metadata.len() == 0
        {
            fs::remove_file(entry.path())?;
            tracing::info!(%address, "removed a lease that was never written");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_never_written_goes_and_only_under_the_lock() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| dir.path().join(name);
        assert!(drop_in(&file("none"), Duration::ZERO).is_ok());
        for (name, text) in [
            ("lock", ""),
            ("last_reserved_ip.0", ""),
            ("10.1.0.2", ""),
            ("10.1.0.3", "pod\r\neth0"),
            ("fd00::2", ""),
        ] {
            fs::write(file(name), text).unwrap();
        }
        let held = lock::exclusive(File::open(file("lock")).unwrap(), Duration::ZERO).unwrap();
        let busy = drop_in(dir.path(), Duration::from_millis(1)).unwrap_err();
        assert_eq!(busy.kind(), ErrorKind::WouldBlock);
        assert!(file("10.1.0.2").exists());
        drop(held);
        drop_in(dir.path(), PATIENCE).unwrap();
        let mut left: Vec<_> = fs::read_dir(dir.path())
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        left.sort();
        assert_eq!(left, ["10.1.0.3", "last_reserved_ip.0", "lock"]);
    }
}
