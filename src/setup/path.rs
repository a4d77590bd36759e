//! Files and links put into place so that a crash at any moment leaves the old or the new one, with
//! the old one kept beside the receipt until nobody can want it back.
//!
//! Every put goes through one temporary name that can be computed from the path and the run: what
//! a killed run leaves behind is found again without a search.

use std::ffi::OsString;
use std::fs::{self, File, Metadata, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::artifact::Sha256Sum;
use crate::host::fs::{sync_dir, under};

use super::failpoint;

/// What tells a file from an edited or replaced one without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    pub size: u64,
    pub inode: u64,
    /// Nanoseconds since the epoch, as is `ctime_ns`.
    pub mtime_ns: i64,
    pub ctime_ns: i64,
}

impl Stamp {
    pub fn of(meta: &Metadata) -> Self {
        let ns = |seconds: i64, rest: i64| seconds.saturating_mul(1_000_000_000) + rest;
        Self {
            size: meta.size(),
            inode: meta.ino(),
            mtime_ns: ns(meta.mtime(), meta.mtime_nsec()),
            ctime_ns: ns(meta.ctime(), meta.ctime_nsec()),
        }
    }

    /// Of the file or link itself; `None` when nothing is there.
    pub fn read(path: &Path) -> io::Result<Option<Self>> {
        Ok(look(path)?.map(|meta| Self::of(&meta)))
    }

    /// Of what the path leads to; `None` when nothing is there.
    pub fn follow(path: &Path) -> io::Result<Option<Self>> {
        match fs::metadata(path) {
            Ok(meta) => Ok(Some(Self::of(&meta))),
            Err(e) if absent(&e) => Ok(None),
            Err(e) => Err(e),
        }
    }
}

/// What stood at a path before us.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Before {
    Absent,
    /// `image` is the name of the saved copy in the images folder.
    File {
        image: String,
        mode: u32,
        uid: u32,
        gid: u32,
        mtime_ns: i64,
    },
    Symlink {
        target: PathBuf,
        uid: u32,
        gid: u32,
    },
}

/// What we put at a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Wrote {
    File {
        sha256: Sha256Sum,
        mode: u32,
        /// Known once it stands there.
        stamp: Option<Stamp>,
    },
    Symlink {
        target: PathBuf,
    },
}

/// What stands at a path now.
#[derive(Debug)]
pub enum Current {
    Absent,
    File(Metadata),
    Symlink(PathBuf),
    /// A folder, device, socket or pipe.
    Other,
}

impl Current {
    pub fn at(path: &Path) -> io::Result<Self> {
        let Some(meta) = look(path)? else {
            return Ok(Self::Absent);
        };
        if meta.is_symlink() {
            return Ok(Self::Symlink(fs::read_link(path)?));
        }
        Ok(if meta.is_file() {
            Self::File(meta)
        } else {
            Self::Other
        })
    }

    /// Is this what we wrote? A file whose stamp differs is read.
    pub fn is(&self, path: &Path, wrote: &Wrote) -> io::Result<bool> {
        Ok(match (self, wrote) {
            (
                Self::File(meta),
                Wrote::File {
                    sha256,
                    mode,
                    stamp,
                },
            ) => {
                meta.mode() & 0o7777 == *mode
                    && (stamp.is_some_and(|s| s == Stamp::of(meta))
                        || Sha256Sum::of_file(path)? == *sha256)
            }
            (Self::Symlink(is), Wrote::Symlink { target }) => is == target,
            _ => false,
        })
    }
}

/// What a restore found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restored {
    Changed,
    /// It was already as before.
    Unchanged,
    /// It is neither what was there before nor what we put: somebody's, and left alone.
    Kept,
}

/// Where this run builds the successor of `path`: a name that neither systemd, CNI nor sysctl take
/// for one of their files.
pub fn temporary(path: &Path, run: &str) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".crio-setup-");
    name.push(run);
    path.with_file_name(name)
}

/// Saves what stands at `path` (relative to `root`) into the folder `images` under `name`.
pub fn capture(root: &Path, path: &Path, images: &Path, name: &str) -> io::Result<Before> {
    let real = under(root, path);
    match Current::at(&real)? {
        Current::Absent => Ok(Before::Absent),
        Current::Symlink(target) => {
            let meta = fs::symlink_metadata(&real)?;
            Ok(Before::Symlink {
                target,
                uid: meta.uid(),
                gid: meta.gid(),
            })
        }
        Current::File(meta) => {
            let image = images.join(name);
            save(&real, &meta, &image)?;
            sync_dir(images)?;
            Ok(Before::File {
                image: name.to_owned(),
                mode: meta.mode() & 0o7777,
                uid: meta.uid(),
                gid: meta.gid(),
                mtime_ns: Stamp::of(&meta).mtime_ns,
            })
        }
        Current::Other => Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "it is neither a file nor a link",
        )),
    }
}

/// A hard link keeps everything of the original and takes no space; elsewhere it is a copy.
fn save(real: &Path, meta: &Metadata, image: &Path) -> io::Result<()> {
    remove_if_there(image)?;
    if fs::hard_link(real, image).is_ok() {
        return Ok(());
    }
    copy_whole(real, image, meta.mode() & 0o7777, meta.uid(), meta.gid())?;
    set_mtime(image, Stamp::of(meta).mtime_ns)
}

/// Puts a file: temporary name, fsync, rename, fsync of the folder. Returns the new file's stamp.
pub fn put_file(real: &Path, run: &str, bytes: &[u8], mode: u32) -> io::Result<Stamp> {
    let temp = temporary(real, run);
    remove_if_there(&temp)?;
    let mut file = create(&temp)?;
    failpoint::pass("temporary-made");
    file.write_all(bytes)?;
    file.set_permissions(Permissions::from_mode(mode))?;
    file.sync_all()?;
    failpoint::pass("temporary-written");
    settle(&temp, real)
}

/// Moves a finished file of the same file system to its place. Returns its stamp there.
pub fn put_ready(ready: &Path, real: &Path, mode: u32) -> io::Result<Stamp> {
    let file = File::open(ready)?;
    file.set_permissions(Permissions::from_mode(mode))?;
    file.sync_all()?;
    settle(ready, real)
}

/// Puts a symlink: made under the temporary name, renamed.
pub fn put_symlink(real: &Path, run: &str, target: &Path) -> io::Result<()> {
    let temp = temporary(real, run);
    remove_if_there(&temp)?;
    symlink(target, &temp)?;
    failpoint::pass("temporary-link");
    fs::rename(&temp, real)?;
    sync_parent(real)
}

fn settle(temp: &Path, real: &Path) -> io::Result<Stamp> {
    fs::rename(temp, real)?;
    failpoint::pass("renamed");
    sync_parent(real)?;
    Ok(Stamp::of(&fs::symlink_metadata(real)?))
}

/// Puts back what was there before. Safe to repeat, and right from any state in which a killed put
/// or a killed restore leaves things.
pub fn restore(
    root: &Path,
    path: &Path,
    before: &Before,
    wrote: &Wrote,
    images: &Path,
    run: &str,
    discard_edits: bool,
) -> io::Result<Restored> {
    let real = under(root, path);
    let temp = temporary(&real, run);
    remove_if_there(&temp)?;
    let current = Current::at(&real)?;
    if is_before(&real, &current, before, images)? {
        return Ok(Restored::Unchanged);
    }
    let ours = matches!(current, Current::Absent) || current.is(&real, wrote)?;
    let edited = discard_edits && matches!(current, Current::File(_) | Current::Symlink(_));
    if !ours && !edited {
        return Ok(Restored::Kept);
    }
    match before {
        Before::Absent => {
            remove_if_there(&real)?;
            sync_parent(&real)?;
        }
        Before::Symlink { target, uid, gid } => {
            symlink(target, &temp)?;
            lchown(&temp, Some(*uid), Some(*gid))?;
            fs::rename(&temp, &real)?;
            sync_parent(&real)?;
        }
        Before::File {
            image,
            mode,
            uid,
            gid,
            mtime_ns,
        } => {
            let image = images.join(image);
            if fs::hard_link(&image, &temp).is_err() {
                copy_whole(&image, &temp, *mode, *uid, *gid)?;
                set_mtime(&temp, *mtime_ns)?;
            }
            fs::rename(&temp, &real)?;
            sync_parent(&real)?;
        }
    }
    Ok(Restored::Changed)
}

fn is_before(real: &Path, current: &Current, before: &Before, images: &Path) -> io::Result<bool> {
    Ok(match (current, before) {
        (Current::Absent, Before::Absent) => true,
        (Current::Symlink(is), Before::Symlink { target, .. }) => is == target,
        (
            Current::File(meta),
            Before::File {
                image,
                mode,
                uid,
                gid,
                ..
            },
        ) => {
            let image = images.join(image);
            let saved = fs::symlink_metadata(&image)?;
            let same_file = (saved.dev(), saved.ino()) == (meta.dev(), meta.ino());
            same_file
                || (meta.mode() & 0o7777, meta.uid(), meta.gid()) == (*mode, *uid, *gid)
                    && meta.size() == saved.size()
                    && Sha256Sum::of_file(real)? == Sha256Sum::of_file(&image)?
        }
        _ => false,
    })
}

/// Metadata of the file or link itself; `None` when nothing is there.
pub fn look(path: &Path) -> io::Result<Option<Metadata>> {
    match fs::symlink_metadata(path) {
        Ok(meta) => Ok(Some(meta)),
        Err(e) if absent(&e) => Ok(None),
        Err(e) => Err(e),
    }
}

/// A path below a missing folder, or below a file, leads to nothing as well.
fn absent(e: &io::Error) -> bool {
    matches!(
        e.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

/// Removes a file or link; one that is not there is no error.
pub fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if !absent(&e) => Err(e),
        _ => Ok(()),
    }
}

fn create(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
}

fn copy_whole(from: &Path, to: &Path, mode: u32, uid: u32, gid: u32) -> io::Result<()> {
    let (mut source, mut copy) = (File::open(from)?, create(to)?);
    io::copy(&mut source, &mut copy)?;
    for name in xattr::list(from)? {
        // A file system that has no attributes had none to lose.
        if let Some(value) = xattr::get(from, &name)? {
            xattr::set(to, &name, &value)?;
        }
    }
    chown(to, Some(uid), Some(gid))?;
    copy.set_permissions(Permissions::from_mode(mode))?;
    copy.sync_all()
}

fn set_mtime(path: &Path, mtime_ns: i64) -> io::Result<()> {
    let file = File::options().write(true).open(path)?;
    file.set_modified(time_of(mtime_ns))
}

fn time_of(ns: i64) -> SystemTime {
    let distance = Duration::from_nanos(ns.unsigned_abs());
    if ns < 0 {
        UNIX_EPOCH - distance
    } else {
        UNIX_EPOCH + distance
    }
}

fn sync_parent(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), sync_dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Place {
        dir: tempfile::TempDir,
    }

    impl Place {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            fs::create_dir(dir.path().join("images")).unwrap();
            fs::create_dir(dir.path().join("etc")).unwrap();
            Self { dir }
        }

        fn images(&self) -> PathBuf {
            self.dir.path().join("images")
        }

        fn real(&self) -> PathBuf {
            self.dir.path().join("etc/f")
        }

        fn capture(&self) -> Before {
            capture(self.dir.path(), Path::new("/etc/f"), &self.images(), "0").unwrap()
        }

        fn put(&self, bytes: &[u8]) -> Wrote {
            Wrote::File {
                sha256: Sha256Sum::of(bytes),
                mode: 0o644,
                stamp: Some(put_file(&self.real(), "r", bytes, 0o644).unwrap()),
            }
        }

        fn restore(&self, before: &Before, wrote: &Wrote) -> Restored {
            let path = Path::new("/etc/f");
            let images = self.images();
            restore(self.dir.path(), path, before, wrote, &images, "r", false).unwrap()
        }
    }

    #[test]
    fn a_replaced_file_comes_back_with_its_mode_and_time() {
        let place = Place::new();
        fs::write(place.real(), "theirs").unwrap();
        fs::set_permissions(place.real(), Permissions::from_mode(0o4751)).unwrap();
        set_mtime(&place.real(), 1_000_000_007).unwrap();
        let before = place.capture();
        let wrote = place.put(b"ours");
        assert_eq!(fs::read(place.real()).unwrap(), b"ours");
        assert_eq!(place.restore(&before, &wrote), Restored::Changed);
        let meta = fs::metadata(place.real()).unwrap();
        assert_eq!(fs::read(place.real()).unwrap(), b"theirs");
        assert_eq!(meta.mode() & 0o7777, 0o4751);
        assert_eq!(Stamp::of(&meta).mtime_ns, 1_000_000_007);
        assert_eq!(place.restore(&before, &wrote), Restored::Unchanged);
    }

    #[test]
    fn a_copied_image_keeps_as_much_as_a_link() {
        let place = Place::new();
        fs::write(place.real(), "theirs").unwrap();
        set_mtime(&place.real(), 5_000_000_000).unwrap();
        let meta = fs::metadata(place.real()).unwrap();
        let image = place.images().join("copy");
        copy_whole(&place.real(), &image, 0o640, meta.uid(), meta.gid()).unwrap();
        set_mtime(&image, Stamp::of(&meta).mtime_ns).unwrap();
        let copied = fs::metadata(&image).unwrap();
        assert_eq!(copied.mode() & 0o7777, 0o640);
        assert_eq!(Stamp::of(&copied).mtime_ns, 5_000_000_000);
        assert_ne!(copied.ino(), meta.ino());
    }

    #[test]
    fn links_and_nothing_come_back_too() {
        let place = Place::new();
        symlink("elsewhere", place.real()).unwrap();
        let before = place.capture();
        let wrote = place.put(b"ours");
        assert_eq!(place.restore(&before, &wrote), Restored::Changed);
        assert_eq!(fs::read_link(place.real()).unwrap(), Path::new("elsewhere"));

        fs::remove_file(place.real()).unwrap();
        let before = place.capture();
        let wrote = place.put(b"ours");
        assert_eq!(place.restore(&before, &wrote), Restored::Changed);
        assert!(look(&place.real()).unwrap().is_none());
    }

    #[test]
    fn what_was_edited_since_is_kept_and_leftovers_go() {
        let place = Place::new();
        let before = place.capture();
        let wrote = place.put(b"ours");
        fs::write(place.real(), "edited").unwrap();
        fs::write(temporary(&place.real(), "r"), "half").unwrap();
        assert_eq!(place.restore(&before, &wrote), Restored::Kept);
        assert_eq!(fs::read(place.real()).unwrap(), b"edited");
        assert_eq!(
            fs::read_dir(place.dir.path().join("etc")).unwrap().count(),
            1
        );
    }

    #[test]
    fn a_folder_in_the_way_is_an_error() {
        let place = Place::new();
        fs::create_dir(place.real()).unwrap();
        let e = capture(place.dir.path(), Path::new("/etc/f"), &place.images(), "0");
        assert_eq!(e.unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    }
}
