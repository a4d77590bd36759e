//! A large file that nobody sees before it is whole, written by whoever has it open.
//!
//! [`write_atomic`](super::fs::write_atomic) is for what fits in memory. Here the file has no name while it
//! is written (`O_TMPFILE`), so that neither an error nor a crash leaves a part of it behind; where the
//! filesystem cannot do that, it has a hidden name beside the final one, which goes with the value.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, open, openat, renameat};
use nix::sys::stat::{Mode, SFlag, fchmod, fstatat};
use nix::unistd::{UnlinkatFlags, linkat, unlinkat};

use super::fs::fd_path;

/// Hidden names are tried so often; another process has to be in the way each time.
const TRIES: u32 = 16;
/// As long as a hidden name may take of the final one's (NAME_MAX is 255).
const KEPT_OF_NAME: usize = 200;

/// The file, and the folder in which it will have its name.
#[derive(Debug)]
pub struct Whole {
    folder: OwnedFd,
    name: OsString,
    file: File,
    /// The name it has meanwhile.
    hidden: Option<OsString>,
}

impl Whole {
    /// A new file that will be `path`, with this mode whatever the umask is. The folder is looked up once;
    /// `path` itself is never followed: a link or a file there is replaced by [`Whole::place`], a folder is an
    /// error now (`IsADirectory`).
    pub fn create(path: &Path, mode: u32) -> io::Result<Self> {
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(Errno::EISDIR.into());
        };
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let folder = open(folder, flags, Mode::empty())?;
        match fstatat(&folder, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(there)
                if SFlag::from_bits_truncate(there.st_mode) & SFlag::S_IFMT == SFlag::S_IFDIR =>
            {
                return Err(Errno::EISDIR.into());
            }
            Ok(_) | Err(Errno::ENOENT) => {}
            Err(e) => return Err(e.into()),
        }
        let private = Mode::from_bits_truncate(0o600);
        let flags = OFlag::O_RDWR | OFlag::O_CLOEXEC;
        let (file, hidden) = match openat(&folder, ".", flags | OFlag::O_TMPFILE, private) {
            Ok(file) => (file, None),
            // Kernels and filesystems without it give one of these (open(2)).
            Err(Errno::EOPNOTSUPP | Errno::EISDIR | Errno::ENOENT) => {
                let exclusive = flags | OFlag::O_CREAT | OFlag::O_EXCL;
                let (file, hidden) = beside(name, |hidden| {
                    openat(&folder, hidden.as_os_str(), exclusive, private)
                })?;
                (file, Some(hidden))
            }
            Err(e) => return Err(e.into()),
        };
        let whole = Self {
            folder,
            name: name.to_owned(),
            file: File::from(file),
            hidden,
        };
        fchmod(&whole.file, Mode::from_bits_truncate(mode))?;
        Ok(whole)
    }

    /// To be written to.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Makes what was written durable and gives the file its name, in place of what has it now.
    pub fn place(mut self) -> io::Result<()> {
        self.file.sync_all()?;
        if self.hidden.is_none() {
            let unnamed = fd_path(&self.file);
            let link = |name: &std::ffi::OsStr| {
                linkat(
                    AT_FDCWD,
                    &unnamed,
                    &self.folder,
                    name,
                    AtFlags::AT_SYMLINK_FOLLOW,
                )
            };
            match link(&self.name) {
                Ok(()) => return self.sync_folder(),
                Err(Errno::EEXIST) => {}
                Err(e) => return Err(e.into()),
            }
            // A link cannot take another file's place, a rename can.
            let ((), hidden) = beside(&self.name, |hidden| link(hidden))?;
            self.hidden = Some(hidden);
        }
        if let Some(hidden) = self.hidden.as_deref() {
            renameat(&self.folder, hidden, &self.folder, self.name.as_os_str())?;
        }
        self.hidden = None;
        self.sync_folder()
    }

    fn sync_folder(&self) -> io::Result<()> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        File::from(openat(&self.folder, ".", flags, Mode::empty())?).sync_all()
    }
}

impl Drop for Whole {
    fn drop(&mut self) {
        if let Some(hidden) = self.hidden.take()
            && let Err(error) =
                unlinkat(&self.folder, hidden.as_os_str(), UnlinkatFlags::NoRemoveDir)
        {
            tracing::warn!(name = %hidden.display(), %error, "a part of a file was not removed");
        }
    }
}

/// Does something under a hidden name that nobody has.
fn beside<T>(
    name: &std::ffi::OsStr,
    mut act: impl FnMut(&OsString) -> nix::Result<T>,
) -> io::Result<(T, OsString)> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let bytes = name.as_bytes();
    let kept = std::ffi::OsStr::from_bytes(bytes.get(..KEPT_OF_NAME).unwrap_or(bytes));
    for _ in 0..TRIES {
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let mut hidden = OsString::from(".");
        hidden.push(kept);
        hidden.push(format!(".{}-{count}", std::process::id()));
        match act(&hidden) {
            Err(Errno::EEXIST) => {}
            other => return Ok((other?, hidden)),
        }
    }
    Err(Errno::EEXIST.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::Write;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn it_appears_whole_and_replaces_what_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let names = || fs::read_dir(dir.path()).unwrap().count();
        for text in ["one", "two"] {
            let whole = Whole::create(&path, 0o640).unwrap();
            whole.file().write_all(text.as_bytes()).unwrap();
            assert_ne!(fs::read_to_string(&path).unwrap_or_default(), text);
            whole.place().unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
            let mode = fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!((mode & 0o7777, names()), (0o640, 1));
        }
    }

    #[test]
    fn one_that_is_given_up_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let whole = Whole::create(&dir.path().join("f"), 0o600).unwrap();
        whole.file().write_all(b"part").unwrap();
        drop(whole);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_link_is_replaced_and_a_folder_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let (target, link) = (dir.path().join("target"), dir.path().join("link"));
        fs::write(&target, "kept").unwrap();
        symlink(&target, &link).unwrap();
        Whole::create(&link, 0o600).unwrap().place().unwrap();
        assert_eq!(fs::read_to_string(&target).unwrap(), "kept");
        assert!(fs::symlink_metadata(&link).unwrap().is_file());
        let error = Whole::create(dir.path(), 0o600).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::IsADirectory);
        let error = Whole::create(&dir.path().join("no/f"), 0o600).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_hidden_name_is_nobody_elses_and_fits() {
        let long = "n".repeat(255);
        let mut seen = Vec::new();
        let ((), hidden) = beside(long.as_ref(), |name| {
            seen.push(name.clone());
            if seen.len() == 1 {
                Err(Errno::EEXIST)
            } else {
                Ok(())
            }
        })
        .unwrap();
        assert_eq!(seen.len(), 2);
        assert!(hidden == seen[1] && hidden != seen[0] && hidden.len() <= 255);
        assert!(beside(long.as_ref(), |_| -> nix::Result<()> { Err(Errno::EEXIST) }).is_err());
    }
}
