//! The state folder, `/var/lib/crio-setup`: receipt, journal of the run in progress, before-images.
//!
//! One run at a time: the folder itself is locked, so that there is no lock file to make or leave.
//! The journal is written ahead: a line is on disk before the change that it describes begins. The
//! receipt's rename ends a run; a journal that names the receipt's own run is a finished one's.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use crate::host::fs::{read_capped, remove_tree, sync_dir, under, write_atomic};
use crate::host::systemd;

use super::facts::SERVICES;
use super::failpoint;
use super::receipt::{Receipt, ReceiptError, Record};
use super::undo::Undo;

/// Where the state of the installer is.
pub const FOLDER: &str = "/var/lib/crio-setup";
const RECEIPT: &str = "receipt.json";
const JOURNAL: &str = "journal.jsonl";
const IMAGES: &str = "images";
/// Far above any receipt or journal of ours.
const CAP: u64 = 64 << 20;

/// Why the state folder could not be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("lock `{path}`: another crio-setup is at work")]
    Busy { path: PathBuf },
    #[error("{act} `{path}`")]
    Io {
        act: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("read the receipt `{path}`")]
    Receipt { path: PathBuf, source: ReceiptError },
    #[error("read the journal `{path}`, line {line}")]
    Journal {
        path: PathBuf,
        line: usize,
        source: serde_json::Error,
    },
}

impl StoreError {
    /// The command that helps.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Busy { .. } => Some("wait for it; see `ps -C crio-setup -f`".to_owned()),
            Self::Io { path, .. } => {
                let folder = path.parent().unwrap_or(path).display();
                Some(format!("see `ls -la {folder}; df -h {folder}`"))
            }
            Self::Receipt {
                source: ReceiptError::TooNew { .. },
                ..
            } => Some("use the crio-setup that made this installation, or a later one".to_owned()),
            // With the folder go the before-images, which are of use to people still.
            Self::Receipt { path, .. } => Some(format!(
                "put a copy of it back; where there is none, `mv {} /root/`: then what is installed counts as found, \
                 and `uninstall` leaves it",
                path.parent().unwrap_or(path).display()
            )),
            Self::Journal { path, .. } => Some(format!(
                "it was changed by something else: see `less {}`",
                path.display()
            )),
        }
    }

    /// Nothing is touched where another run is at work, or where what we did before cannot be read.
    pub fn is_refusal(&self) -> bool {
        !matches!(self, Self::Io { .. })
    }
}

fn io_error(act: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::Io { act, path, source }
}

/// The locked state folder.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
    root: PathBuf,
    /// Folders above it that we had to make.
    pub made: Vec<PathBuf>,
    _lock: Flock<File>,
}

/// A line of the journal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "line", rename_all = "kebab-case")]
pub enum Line {
    Begin {
        run: String,
        #[serde(default)]
        made: Vec<PathBuf>,
    },
    /// A step begins. Each record holds from here on, whatever of the change has happened.
    Started { records: Vec<Record> },
    /// The step is done. These records replace those of its start.
    Done { step: String, records: Vec<Record> },
    /// A working folder is about to be made.
    Scratch { path: PathBuf },
}

/// The journal of a run.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Run {
    pub id: String,
    pub made: Vec<PathBuf>,
    /// In the order of the run; undone from the end.
    pub records: Vec<Record>,
    pub scratch: Vec<PathBuf>,
}

impl Run {
    fn take(&mut self, line: Line) {
        match line {
            Line::Begin { run, made } => {
                self.id = run;
                self.made = made;
            }
            Line::Started { records } => self.records.extend(records),
            Line::Done { step, records } => {
                self.records.retain(|r| r.step != step);
                self.records.extend(records);
            }
            Line::Scratch { path } => self.scratch.push(path),
        }
    }
}

/// What the state folder tells without being locked.
#[derive(Debug, Default)]
pub struct Peek {
    pub receipt: Option<Receipt>,
    /// A run or an uninstall was cut off; the next `install` or `uninstall` puts it right.
    pub unfinished: bool,
}

impl Peek {
    /// Reads receipt and journal of the system at `root`.
    pub fn at(root: &Path) -> Result<Self, StoreError> {
        let folder = under(root, Path::new(FOLDER));
        let receipt = adopted(root, read_receipt(&folder)?);
        let unfinished = match read_journal(&folder)? {
            Some(run) => receipt.as_ref().is_none_or(|r| r.run != run.id),
            None => receipt.as_ref().is_some_and(|r| r.removing),
        };
        Ok(Self {
            receipt,
            unfinished,
        })
    }
}

impl Store {
    /// Locks the folder if there is one.
    pub fn open(root: &Path) -> Result<Option<Self>, StoreError> {
        let folder = under(root, Path::new(FOLDER));
        loop {
            let file = match File::open(&folder) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
                opened => opened.map_err(io_error("open", &folder))?,
            };
            let lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => lock,
                Err((_, Errno::EWOULDBLOCK)) => return Err(StoreError::Busy { path: folder }),
                Err((_, e)) => return Err(io_error("lock", &folder)(e.into())),
            };
            // An uninstall may have removed the folder between our opening and locking it.
            use std::os::unix::fs::MetadataExt;
            let held = lock.metadata().map_err(io_error("look at", &folder))?;
            match fs::metadata(&folder) {
                Ok(there) if (there.dev(), there.ino()) == (held.dev(), held.ino()) => {
                    return Ok(Some(Self {
                        folder,
                        root: root.to_owned(),
                        made: Vec::new(),
                        _lock: lock,
                    }));
                }
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(io_error("look at", &folder)(e));
                }
                _ => {}
            }
        }
    }

    /// Makes the folder, or takes the one that is there, and locks it.
    pub fn create(root: &Path) -> Result<Self, StoreError> {
        let folder = under(root, Path::new(FOLDER));
        let mut missing: Vec<PathBuf> = folder
            .ancestors()
            .skip(1)
            .take_while(|f| !f.exists())
            .map(Path::to_owned)
            .collect();
        missing.reverse();
        for parent in &missing {
            DirBuilder::new()
                .mode(0o755)
                .create(parent)
                .map_err(io_error("make the folder", parent))?;
        }
        let images = folder.join(IMAGES);
        for private in [&folder, &images] {
            match DirBuilder::new().mode(0o700).create(private) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                made => made.map_err(io_error("make the folder", private))?,
            }
        }
        match Self::open(root)? {
            Some(mut store) => {
                store.made = missing;
                Ok(store)
            }
            None => Err(StoreError::Busy { path: folder }),
        }
    }

    pub fn images(&self) -> PathBuf {
        self.folder.join(IMAGES)
    }

    pub fn receipt(&self) -> Result<Option<Receipt>, StoreError> {
        Ok(adopted(&self.root, read_receipt(&self.folder)?))
    }

    /// The journal of a run that has not been cleared away.
    pub fn journal(&self) -> Result<Option<Run>, StoreError> {
        read_journal(&self.folder)
    }

    /// Replaces the receipt: the run is committed.
    pub fn save(&self, receipt: &Receipt) -> Result<(), StoreError> {
        let path = self.folder.join(RECEIPT);
        let write = || {
            let mut bytes = serde_json::to_vec_pretty(receipt)?;
            bytes.push(b'\n');
            write_atomic(&path, &bytes, 0o600)
        };
        write().map_err(io_error("write the receipt", &path))
    }

    /// Begins the journal of a run.
    pub fn begin(&self, run: &str) -> Result<Journal, StoreError> {
        let path = self.folder.join(JOURNAL);
        let open = || {
            let file = File::options().append(true).create_new(true).open(&path)?;
            sync_dir(&self.folder)?;
            Ok(file)
        };
        let file = open().map_err(io_error("begin the journal", &path))?;
        let mut journal = Journal {
            file,
            path,
            run: Run::default(),
        };
        journal.write(Line::Begin {
            run: run.to_owned(),
            made: self.made.clone(),
        })?;
        Ok(journal)
    }

    /// The run is over, committed or undone: its journal goes, and every before-image that the
    /// receipt does not need.
    pub fn finish(&self, receipt: Option<&Receipt>) -> Result<(), StoreError> {
        let path = self.folder.join(JOURNAL);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(io_error("remove the journal", &path)(e));
            }
            _ => {}
        }
        sync_dir(&self.folder).map_err(io_error("write", &self.folder))?;
        failpoint::pass("journal-removed");
        let images = self.images();
        let needed: Vec<&str> = receipt
            .iter()
            .flat_map(|r| &r.records)
            .filter_map(|r| r.undo.image())
            .collect();
        let stale = |folder: &Path, keep: &dyn Fn(&str) -> bool| -> Result<(), StoreError> {
            let entries = match fs::read_dir(folder) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
                entries => entries.map_err(io_error("list", folder))?,
            };
            for entry in entries {
                let name = entry.map_err(io_error("list", folder))?.file_name();
                if !keep(&name.to_string_lossy()) {
                    let path = folder.join(&name);
                    fs::remove_file(&path).map_err(io_error("remove", &path))?;
                }
            }
            Ok(())
        };
        stale(&images, &|name| needed.contains(&name))?;
        // Temporary files of a receipt that was not finished.
        stale(&self.folder, &|name| !name.starts_with(".tmp-"))
    }

    /// Removes the state folder, and the folders above it in `made` when they are empty.
    pub fn remove(self, made: &[PathBuf]) -> Result<(), StoreError> {
        let (Some(parent), Some(name)) = (self.folder.parent(), self.folder.file_name()) else {
            return Ok(());
        };
        // The receipt last: killed before that, the next uninstall goes on from it.
        for part in [IMAGES, JOURNAL, RECEIPT] {
            remove_tree(&self.folder, Path::new(part)).map_err(io_error("empty", &self.folder))?;
            failpoint::pass("state-emptied");
        }
        remove_tree(parent, Path::new(name)).map_err(io_error("remove", &self.folder))?;
        for folder in made.iter().chain(&self.made).rev() {
            if folder.starts_with(&self.root) {
                // Not empty, or gone already: somebody else's now.
                let _ = fs::remove_dir(folder);
            }
        }
        Ok(())
    }
}

/// The journal of the run in progress.
#[derive(Debug)]
pub struct Journal {
    file: File,
    path: PathBuf,
    run: Run,
}

impl Journal {
    /// Appends a line; it is on disk when this returns.
    pub fn write(&mut self, line: Line) -> Result<(), StoreError> {
        let append = |file: &mut File| {
            let mut text = serde_json::to_string(&line)?;
            text.push('\n');
            file.write_all(text.as_bytes())?;
            file.sync_data()
        };
        append(&mut self.file).map_err(io_error("write the journal", &self.path))?;
        self.run.take(line);
        failpoint::pass("journaled");
        Ok(())
    }

    /// What has been written so far.
    pub fn run(&self) -> &Run {
        &self.run
    }
}

/// With the services that systemd started by itself, where this is the system that runs: a boot of an image.
fn adopted(root: &Path, receipt: Option<Receipt>) -> Option<Receipt> {
    let mut receipt = receipt?;
    if root == Path::new("/") && systemd::is_running(root) {
        receipt.adopt_services(&SERVICES);
    }
    Some(receipt)
}

fn read_receipt(folder: &Path) -> Result<Option<Receipt>, StoreError> {
    let path = folder.join(RECEIPT);
    match read_capped(&path, CAP) {
        Err(e) if missing(&e) => Ok(None),
        Err(e) => Err(io_error("read the receipt", &path)(e)),
        Ok(bytes) => Receipt::parse(&bytes)
            .map(Some)
            .map_err(|source| StoreError::Receipt { path, source }),
    }
}

fn read_journal(folder: &Path) -> Result<Option<Run>, StoreError> {
    let path = folder.join(JOURNAL);
    match read_capped(&path, CAP) {
        Err(e) if missing(&e) => Ok(None),
        Err(e) => Err(io_error("read the journal", &path)(e)),
        Ok(bytes) => parse_journal(&bytes)
            .map(Some)
            .map_err(|(line, source)| StoreError::Journal { path, line, source }),
    }
}

fn missing(e: &io::Error) -> bool {
    matches!(
        e.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

/// A last line that was cut off was never acted upon, and counts as not there.
fn parse_journal(bytes: &[u8]) -> Result<Run, (usize, serde_json::Error)> {
    let mut run = Run::default();
    let lines: Vec<&[u8]> = bytes
        .split(|b| *b == b'\n')
        .filter(|l| !l.is_empty())
        .collect();
    for (i, line) in lines.iter().enumerate() {
        match serde_json::from_slice(line) {
            Ok(line) => run.take(line),
            Err(_) if i + 1 == lines.len() => break,
            Err(e) => return Err((i + 1, e)),
        }
    }
    Ok(run)
}

/// The scratch folders of a run as records, so that they are undone like everything else.
pub fn scratch_records(run: &Run) -> impl Iterator<Item = Undo> + '_ {
    run.scratch
        .iter()
        .map(|path| Undo::Scratch { path: path.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::setup::settings::Component;

    fn record(step: &str, name: &str) -> Record {
        Record {
            step: step.to_owned(),
            component: Component::Host,
            undo: Undo::Bridge {
                name: name.to_owned(),
            },
        }
    }

    #[test]
    fn the_second_run_is_told_that_it_is_not_alone() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Store::open(dir.path()).unwrap().is_none());
        let first = Store::create(dir.path()).unwrap();
        let busy = Store::open(dir.path()).unwrap_err();
        assert!(matches!(busy, StoreError::Busy { .. }) && busy.is_refusal());
        let made = first.made.clone();
        assert_eq!(made.len(), 2);
        first.remove(&made).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_journal_is_read_up_to_its_torn_end() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::create(dir.path()).unwrap();
        let mut journal = store.begin("r1").unwrap();
        let started = vec![record("s", "a"), record("s", "b")];
        journal.write(Line::Started { records: started }).unwrap();
        let done = Line::Done {
            step: "s".to_owned(),
            records: vec![record("s", "b")],
        };
        journal.write(done).unwrap();
        let written = journal.run().clone();
        assert_eq!(store.journal().unwrap(), Some(written.clone()));
        assert_eq!(written.records, [record("s", "b")]);

        let path = dir.path().join("var/lib/crio-setup/journal.jsonl");
        let mut bytes = fs::read(&path).unwrap();
        bytes.extend_from_slice(b"{\"line\":\"started\",\"rec");
        fs::write(&path, &bytes).unwrap();
        assert_eq!(store.journal().unwrap(), Some(written));
        bytes.extend_from_slice(b"\n{\"line\":\"scratch\",\"path\":\"/x\"}\n");
        fs::write(&path, &bytes).unwrap();
        let e = store.journal().unwrap_err();
        assert!(matches!(e, StoreError::Journal { line: 4, .. }), "{e}");
        store.finish(None).unwrap();
        assert_eq!(store.journal().unwrap(), None);
    }

    #[test]
    fn only_images_that_the_receipt_needs_stay() {
        use crate::setup::path::{Before, Wrote};
        let dir = tempfile::tempdir().unwrap();
        let store = Store::create(dir.path()).unwrap();
        for name in ["kept", "stale"] {
            fs::write(store.images().join(name), "").unwrap();
        }
        let mut receipt = Receipt::default();
        let before = Before::File {
            image: "kept".to_owned(),
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime_ns: 0,
        };
        let mut needing = record("s", "x");
        needing.undo = Undo::Path {
            path: "/x".into(),
            before,
            wrote: Wrote::Symlink { target: "y".into() },
            origin: None,
        };
        receipt.add(needing);
        store.finish(Some(&receipt)).unwrap();
        let left: Vec<_> = fs::read_dir(store.images())
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert_eq!(left, ["kept"]);
    }
}
