//! The files of accounts, kept open between reads.
//!
//! To find a file by its name and to open it costs several times what the kernel takes to write an account. An
//! open one is written anew for each read from its beginning, and says ENODEV once its cgroup is gone: what is
//! read is never of the past, nor of another cgroup that has come to bear the name. `cgroup.procs` is not read in
//! this way: version 1 shows readers of an open one a list that may be a second old. It is opened from its folder,
//! which is kept, with the names of the cgroups below it.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use nix::sys::resource::{Resource, getrlimit};

use crate::host::cgroup::is_gone;
use crate::host::text::Text;

/// So many are kept, and a quarter of what this process may have open where that is less; the rest is opened for
/// each read. 200 containers with every metric take 5000.
const MOST: usize = 8192;

/// The kept files, by their cgroup's path. What reads of them is nobody's business but this module's: the answers
/// are as if each had been opened for the occasion.
#[derive(Debug, Default)]
pub(in crate::host::cgroup) struct Files {
    of: Mutex<HashMap<String, Arc<Mutex<OfCgroup>>>>,
    open: Arc<AtomicUsize>,
    most: OnceLock<usize>,
}

/// An account: the controller and the file's name.
pub(super) type Name = (&'static str, Cow<'static, str>);

/// Those of one cgroup. They are asked for in the same order again and again: the one after the last is the next.
#[derive(Debug, Default)]
struct OfCgroup {
    kept: Vec<Kept>,
    next: usize,
    /// What was last seen below it ([`Files::set_below`]).
    below: Option<Arc<[String]>>,
}

impl OfCgroup {
    fn find(&mut self, name: &Name) -> Option<usize> {
        let is_it = |kept: &Kept| kept.name == *name;
        let at = match self.kept.get(self.next).is_some_and(is_it) {
            true => self.next,
            false => self.kept.iter().position(is_it)?,
        };
        self.next = at + 1;
        Some(at)
    }
}

/// The open folder of a cgroup.
pub(in crate::host::cgroup) struct Folder {
    pub file: Arc<File>,
    /// How many cgroups are directly below it now.
    pub below: u64,
    /// The names that were last seen below it. Whoever takes them for those of now looks at their number and at each
    /// of them.
    pub seen: Option<Arc<[String]>>,
}

#[derive(Debug)]
struct Kept {
    name: Name,
    file: Arc<File>,
    _place: Place,
}

/// One of those that may be kept.
#[derive(Debug)]
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Files {
    /// What `read` makes of an account's text; `None` where there is no such file (any more). `place` says where
    /// the file is and is asked only if none is open.
    pub(super) fn read<T>(
        &self,
        cgroup: &str,
        name: &Name,
        place: impl FnOnce() -> Option<PathBuf>,
        parse: impl FnOnce(&str) -> T,
    ) -> io::Result<Option<T>> {
        let of = self.kept(cgroup);
        let mut of = lock(&of);
        Text::with(|text| {
            if let Some(at) = of.find(name) {
                match of.kept.get(at).map(|kept| text.read(&kept.file)) {
                    Some(Ok(())) => return understood(text.bytes(), parse).map(Some),
                    // Gone, and perhaps there is another cgroup of its name.
                    Some(Err(_)) | None => of.kept.clear(),
                }
            }
            let Some(place) = place() else {
                return Ok(None);
            };
            let Some(file) = opened(&place, text)? else {
                return Ok(None);
            };
            if let Some(place) = self.place() {
                of.kept.push(Kept {
                    name: name.clone(),
                    file: Arc::new(file),
                    _place: place,
                });
            }
            understood(text.bytes(), parse).map(Some)
        })
    }

    /// The folder of a cgroup; `None` where it is gone. Asked of an open one, as the kernel finds that sooner.
    pub(in crate::host::cgroup) fn folder(
        &self,
        cgroup: &str,
        controller: &'static str,
        place: impl FnOnce() -> PathBuf,
    ) -> io::Result<Option<Folder>> {
        let of = self.kept(cgroup);
        let mut of = lock(&of);
        let name = (controller, Cow::Borrowed(""));
        let file = match of.find(&name).and_then(|at| of.kept.get(at)) {
            Some(kept) => Arc::clone(&kept.file),
            None => {
                let file = match File::open(place()) {
                    Err(e) if is_gone(&e) => return Ok(None),
                    other => Arc::new(other?),
                };
                if let Some(place) = self.place() {
                    of.kept.push(Kept {
                        name,
                        file: Arc::clone(&file),
                        _place: place,
                    });
                }
                file
            }
        };
        // Itself and its name: every folder in it is one more.
        let below = file.metadata()?.nlink().saturating_sub(2);
        Ok(Some(Folder {
            file,
            below,
            seen: of.below.clone(),
        }))
    }

    /// Remembers what is below a cgroup ([`Folder::seen`]), and closes what is open of those that were there before.
    pub(in crate::host::cgroup) fn set_below(&self, cgroup: &str, names: Arc<[String]>) {
        let before = lock(&self.kept(cgroup)).below.replace(Arc::clone(&names));
        let gone = before.iter().flat_map(|before| before.iter());
        for name in gone.filter(|name| !names.contains(name)) {
            self.forget(&path_below(cgroup, name));
        }
    }

    /// Closes what is open of a cgroup that has gone, and of those below it.
    pub(in crate::host::cgroup) fn forget(&self, cgroup: &str) {
        let within = |path: &str| {
            let rest = path.strip_prefix(cgroup);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        self.retain(|path| !within(path));
    }

    /// Closes what is open of cgroups that `exists` does not know.
    pub(in crate::host::cgroup) fn retain(&self, exists: impl Fn(&str) -> bool) {
        self.all().retain(|cgroup, _| exists(cgroup));
    }

    fn all(&self) -> MutexGuard<'_, HashMap<String, Arc<Mutex<OfCgroup>>>> {
        lock(&self.of)
    }

    fn kept(&self, cgroup: &str) -> Arc<Mutex<OfCgroup>> {
        let mut all = self.all();
        match all.get(cgroup) {
            Some(kept) => Arc::clone(kept),
            None => Arc::clone(all.entry(cgroup.to_owned()).or_default()),
        }
    }

    /// Room for one more; `None` where enough are open.
    fn place(&self) -> Option<Place> {
        let most = *self.most.get_or_init(|| {
            let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((0, 0));
            MOST.min(usize::try_from(soft / 4).unwrap_or(MOST))
        });
        let place = Place(Arc::clone(&self.open));
        (place.0.fetch_add(1, Ordering::Relaxed) < most).then_some(place)
    }
}

/// The path of a cgroup below another.
pub(in crate::host::cgroup) fn path_below(cgroup: &str, name: &str) -> String {
    format!("{}/{name}", cgroup.trim_end_matches('/'))
}

/// What they guard is whole whatever a panicking thread was at.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A file, opened and read; `None` where there is none.
pub(super) fn opened(path: &Path, text: &mut Text) -> io::Result<Option<File>> {
    let file = match File::open(path) {
        Err(e) if is_gone(&e) => return Ok(None),
        other => other?,
    };
    match text.read(&file) {
        Ok(()) => Ok(Some(file)),
        // Pressure accounts that were switched off, at boot or for this cgroup.
        Err(e) if is_gone(&e) || e.kind() == ErrorKind::Unsupported => Ok(None),
        Err(e) => Err(e),
    }
}

pub(super) fn understood<T>(text: &[u8], parse: impl FnOnce(&str) -> T) -> io::Result<T> {
    match std::str::from_utf8(text) {
        Ok(text) => Ok(parse(text)),
        Err(e) => Err(io::Error::new(ErrorKind::InvalidData, e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const NAME: Name = ("c", Cow::Borrowed("f"));

    fn number(files: &Files, file: &Path) -> Option<u64> {
        let place = || Some(file.to_owned());
        let found = files.read("/a", &NAME, place, |text| text.trim().parse().ok());
        found.unwrap().flatten()
    }

    #[test]
    fn a_long_file_is_read_to_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f");
        let written = "x 1\n".repeat(5000);
        fs::write(&file, &written).unwrap();
        let mut text = Text::new();
        assert!(opened(&file, &mut text).unwrap().is_some());
        assert_eq!(text.bytes(), written.as_bytes());
    }

    #[test]
    fn one_that_is_kept_says_what_is_so_now() {
        let dir = tempfile::tempdir().unwrap();
        let (file, files) = (dir.path().join("f"), Files::default());
        assert_eq!(number(&files, &file), None);
        assert_eq!(files.open.load(Ordering::Relaxed), 0);
        fs::write(&file, "1\n").unwrap();
        assert_eq!(number(&files, &file), Some(1));
        fs::write(&file, "22\n").unwrap();
        assert_eq!(number(&files, &file), Some(22));
        assert_eq!(files.open.load(Ordering::Relaxed), 1);
        files.retain(|cgroup| cgroup == "/a");
        assert_eq!(files.open.load(Ordering::Relaxed), 1);
        files.retain(|_| false);
        assert_eq!(files.open.load(Ordering::Relaxed), 0);
        assert_eq!(number(&files, &file), Some(22));
        files.forget("/a");
        assert_eq!(files.open.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn beyond_the_bound_each_is_opened_for_its_read() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f");
        fs::write(&file, "1\n").unwrap();
        let files = Files {
            most: OnceLock::from(0),
            ..Files::default()
        };
        assert_eq!(number(&files, &file), Some(1));
        fs::write(&file, "2\n").unwrap();
        assert_eq!(number(&files, &file), Some(2));
        assert_eq!(files.open.load(Ordering::Relaxed), 0);
    }

    /// Of the kernel, where a test may make cgroups: a kept file is not taken for that of a later cgroup.
    #[test]
    fn a_cgroup_of_the_same_name_is_another() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let cgroups = crate::host::cgroup::Cgroups::detect().unwrap();
        let name = format!("/ocid-test-files-{}", std::process::id());
        let folder = cgroups.folder("pids", &name).unwrap();
        let place = || Some(folder.join("pids.max"));
        let files = Files::default();
        let read = || {
            files.read(&name, &("pids", "pids.max".into()), place, |text| {
                text.to_owned()
            })
        };
        assert_eq!(read().unwrap(), None);
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("pids.max"), "7").unwrap();
        let first = read();
        fs::remove_dir(&folder).unwrap();
        let gone = read();
        fs::create_dir(&folder).unwrap();
        let second = read();
        fs::remove_dir(&folder).unwrap();
        assert_eq!(first.unwrap().as_deref(), Some("7\n"));
        assert_eq!(gone.unwrap(), None);
        assert_eq!(second.unwrap().as_deref(), Some("max\n"));
    }
}
