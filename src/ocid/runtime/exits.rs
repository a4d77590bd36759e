//! How containers ended: the exit records that monitors write into one folder, learnt by a watch on it.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::host::fs::read_capped;
use crate::host::inotify::{Change, FolderWatch};
use crate::ocid::monitor::protocol::{ExitRecord, VERSION};
use crate::ocid::monitor::record;
use crate::ocid::state::record::check;

/// Records are far smaller.
const RECORD_MAX: u64 = 64 * 1024;

/// The exit records of a folder: those that stand there, then each new one. A record may come more than once.
#[derive(Debug)]
pub struct ExitWatch {
    dir: PathBuf,
    watch: FolderWatch,
    found: VecDeque<PathBuf>,
}

impl ExitWatch {
    /// Starts to watch; the folder must exist. Needs an async runtime.
    pub fn new(dir: PathBuf) -> io::Result<Self> {
        let mut watch = Self {
            watch: FolderWatch::new(&dir)?,
            dir,
            found: VecDeque::new(),
        };
        watch.scan()?;
        Ok(watch)
    }

    /// The next record. Nothing is lost when the future is dropped. A record that cannot be read is passed over
    /// with a warning; an error means that the watch itself is broken.
    pub async fn next(&mut self) -> io::Result<ExitRecord> {
        loop {
            while let Some(path) = self.found.pop_front() {
                match read(&path) {
                    Ok(record) => return Ok(record),
                    // Its container has been removed meanwhile.
                    Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                    Err(e) => {
                        tracing::warn!(path = %path.display(), error = %e, "read an exit record");
                    }
                }
            }
            match self.watch.next().await? {
                Change::Appeared(name) if is_record(&name) => {
                    self.found.push_back(self.dir.join(name));
                }
                Change::Appeared(_) => {}
                Change::Overflow => self.scan()?,
            }
        }
    }

    fn scan(&mut self) -> io::Result<()> {
        for entry in fs::read_dir(&self.dir)? {
            let name = entry?.file_name();
            if is_record(&name) {
                self.found.push_back(self.dir.join(name));
            }
        }
        Ok(())
    }
}

/// `ID.json`; temporary files begin with a dot.
fn is_record(name: &OsStr) -> bool {
    name.to_str()
        .is_some_and(|n| !n.starts_with('.') && n.ends_with(".json"))
}

/// The record of one container; `None` while it has none.
pub fn read_record(exits_dir: &Path, id: &str) -> io::Result<Option<ExitRecord>> {
    match read(&ExitRecord::path(exits_dir, id)) {
        Ok(record) => Ok(Some(record)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// Removes the record of one container; none is no error.
pub fn remove_record(exits_dir: &Path, id: &str) -> io::Result<()> {
    record::remove(&ExitRecord::path(exits_dir, id))
}

/// Writes a record in a monitor's stead.
pub(super) fn write_record(exits_dir: &Path, exit: &ExitRecord) -> io::Result<()> {
    record::write(&ExitRecord::path(exits_dir, &exit.id), exit)
}

fn read(path: &Path) -> io::Result<ExitRecord> {
    let exit: ExitRecord = serde_json::from_slice(&read_capped(path, RECORD_MAX)?)?;
    check(exit.version, VERSION)?;
    Ok(exit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn record(id: &str) -> ExitRecord {
        ExitRecord {
            version: 1,
            id: id.to_owned(),
            exit_code: 3,
            signal: None,
            finished_at: 1,
            oom_killed: false,
            monitor_lost: false,
        }
    }

    #[tokio::test]
    async fn old_and_new_records_come_and_rubbish_does_not() {
        let dir = tempfile::tempdir().unwrap();
        write_record(dir.path(), &record("old")).unwrap();
        fs::write(dir.path().join("broken.json"), "{").unwrap();
        let newer = ExitRecord {
            version: VERSION + 1,
            ..record("newer")
        };
        write_record(dir.path(), &newer).unwrap();
        let error = read_record(dir.path(), "newer").unwrap_err().to_string();
        assert!(error.contains("written by a newer ocid"), "{error}");
        let mut watch = ExitWatch::new(dir.path().to_owned()).unwrap();
        assert_eq!(watch.next().await.unwrap(), record("old"));
        let wait = tokio::time::timeout(Duration::from_millis(50), watch.next()).await;
        assert!(wait.is_err());
        write_record(dir.path(), &record("new")).unwrap();
        assert_eq!(watch.next().await.unwrap(), record("new"));
        assert_eq!(read_record(dir.path(), "new").unwrap(), Some(record("new")));
        remove_record(dir.path(), "new").unwrap();
        remove_record(dir.path(), "new").unwrap();
        assert_eq!(read_record(dir.path(), "new").unwrap(), None);
    }

    #[tokio::test]
    async fn a_folder_that_goes_away_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let mut watch = ExitWatch::new(dir.path().to_owned()).unwrap();
        dir.close().unwrap();
        assert_eq!(
            watch.next().await.unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
        assert!(ExitWatch::new(PathBuf::from("/no/such")).is_err());
    }
}
