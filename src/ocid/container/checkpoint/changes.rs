//! What a container has changed in its filesystem: `rootfs-diff.tar` and `deleted.files`, as podman's and CRI-O's
//! restore take them.
//!
//! The overlay's upper folder says what; the container is frozen meanwhile. A whiteout is a character device 0/0; a
//! folder that was deleted and made again is opaque, and what the layers have in it counts as deleted; one that was
//! renamed may be redirected, and a file may be metadata alone, where the kernel does so
//! (<https://docs.kernel.org/filesystems/overlayfs.html>): their content is read through the mounted root.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, open, openat, openat2, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstatat, major, minor};
use tar::{Builder, EntryType, Header};

use super::underway::Until;
use crate::host::context::during;
use crate::host::fs::fd_path;

/// Folders in folders; each holds a descriptor while it is walked.
const DEEPEST: usize = 512;
/// Attributes that steer overlayfs or belong to this machine.
const OURS: [&[u8]; 5] = [
    b"trusted.",
    b"user.overlay.",
    b"security.selinux",
    b"security.ima",
    b"security.evm",
];

/// The parts of a container's filesystem.
#[derive(Debug)]
pub struct Parts<'a> {
    /// What it wrote.
    pub upper: &'a Path,
    /// The layers below, topmost first.
    pub lower: &'a [PathBuf],
    /// All of it, as it is mounted.
    pub root: &'a Path,
    /// Where something else is mounted in the container: what lies there is the runtime's mount point.
    pub mounts: &'a BTreeSet<PathBuf>,
}

/// Writes what is new or changed to `into`, as a tar archive; the absolute paths of what is deleted.
pub fn write(parts: &Parts<'_>, into: impl Write, until: &Until) -> io::Result<Vec<String>> {
    let shown = parts.upper.display();
    let folder = open(parts.upper, FOLDER, Mode::empty());
    let folder = folder.map_err(during(format_args!("open `{shown}`")))?;
    let mut walk = Walk {
        parts,
        until,
        tar: Builder::new(into),
        names: HashMap::new(),
        deleted: Vec::new(),
    };
    let place = Place {
        path: PathBuf::new(),
        plain: false,
        depth: 0,
    };
    walk.folder(folder, &place)?;
    walk.tar.into_inner()?.flush()?;
    Ok(walk.deleted)
}

const FOLDER: OFlag = OFlag::O_RDONLY
    .union(OFlag::O_DIRECTORY)
    .union(OFlag::O_NOFOLLOW)
    .union(OFlag::O_CLOEXEC);

struct Walk<'a, W: Write> {
    parts: &'a Parts<'a>,
    until: &'a Until,
    tar: Builder<W>,
    /// Files with several names, by where they are, and the name that has the content.
    names: HashMap<(u64, u64), PathBuf>,
    deleted: Vec<String>,
}

/// A folder on the way.
struct Place {
    /// In the container, without the leading slash.
    path: PathBuf,
    /// Nothing of the layers shows through: what is there is all there is.
    plain: bool,
    depth: usize,
}

impl<W: Write> Walk<'_, W> {
    fn folder(&mut self, folder: OwnedFd, place: &Place) -> io::Result<()> {
        if place.depth > DEEPEST {
            return Err(io::Error::other(format!(
                "`/{}` is nested too deeply",
                place.path.display()
            )));
        }
        let names = names(&folder).map_err(|e| named(&place.path, "list")(e))?;
        for name in names {
            self.until.check()?;
            let path = place.path.join(&name);
            let stat = fstatat(&folder, name.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW);
            let stat = stat.map_err(|e| named(&path, "look at")(e))?;
            if is_whiteout(&stat) {
                self.delete(&path);
            } else if !self.parts.mounts.contains(&path) {
                let added = self.add(&folder, &name, &path, &stat, place);
                added.map_err(|e| named(&path, "archive")(e))?;
            }
        }
        Ok(())
    }

    fn delete(&mut self, path: &Path) {
        self.deleted.push(format!("/{}", path.to_string_lossy()));
    }

    fn add(
        &mut self,
        folder: &OwnedFd,
        name: &OsStr,
        path: &Path,
        stat: &FileStat,
        place: &Place,
    ) -> io::Result<()> {
        let kind = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT;
        if kind == SFlag::S_IFDIR {
            return self.add_folder(folder, name, path, stat, place);
        }
        // Tar has no sockets, and without its process one is nothing.
        if kind == SFlag::S_IFSOCK {
            return Ok(());
        }
        let mut header = header(stat);
        if stat.st_nlink > 1 {
            let place = (stat.st_dev, stat.st_ino);
            if let Some(first) = self.names.get(&place) {
                header.set_entry_type(EntryType::Link);
                return self.tar.append_link(&mut header, path, first);
            }
            self.names.insert(place, path.to_owned());
        }
        match kind {
            SFlag::S_IFREG => self.add_file(folder, name, path),
            SFlag::S_IFLNK => {
                let target = readlinkat(folder, name)?;
                header.set_entry_type(EntryType::Symlink);
                self.tar.append_link(&mut header, path, target)
            }
            SFlag::S_IFIFO | SFlag::S_IFCHR | SFlag::S_IFBLK => {
                header.set_entry_type(match kind {
                    SFlag::S_IFIFO => EntryType::Fifo,
                    SFlag::S_IFCHR => EntryType::Char,
                    _ => EntryType::Block,
                });
                let number = |n: u64| u32::try_from(n).map_err(io::Error::other);
                header.set_device_major(number(major(stat.st_rdev))?)?;
                header.set_device_minor(number(minor(stat.st_rdev))?)?;
                self.tar.append_data(&mut header, path, io::empty())
            }
            // The kernel knows no others.
            _ => Ok(()),
        }
    }

    fn add_file(&mut self, folder: &OwnedFd, name: &OsStr, path: &Path) -> io::Result<()> {
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let mut file = File::from(openat(folder, name, flags, Mode::empty())?);
        if has(&file, "trusted.overlay.metacopy")? {
            file = File::from(beneath(self.parts.root, path, flags)?);
        }
        self.attributes(&file)?;
        // Holes stay holes: no container fills the disk with a large empty file.
        self.tar.append_file(path, &mut file)
    }

    fn add_folder(
        &mut self,
        folder: &OwnedFd,
        name: &OsStr,
        path: &Path,
        stat: &FileStat,
        place: &Place,
    ) -> io::Result<()> {
        let mut child = openat(folder, name, FOLDER, Mode::empty())?;
        self.attributes(&child)?;
        let mut header = header(stat);
        header.set_entry_type(EntryType::Directory);
        self.tar.append_data(&mut header, path, io::empty())?;
        let mut plain = place.plain;
        if !plain && has(&child, "trusted.overlay.redirect")? {
            child = beneath(self.parts.root, path, FOLDER)?;
            plain = true;
        } else if !plain && value(&child, "trusted.overlay.opaque")?.as_deref() == Some(b"y") {
            self.delete_hidden(&child, path)?;
            plain = true;
        }
        let place = Place {
            path: path.to_owned(),
            plain,
            depth: place.depth + 1,
        };
        self.folder(child, &place)
    }

    /// What the layers have in a folder that hides it, as far as nothing new has its name; a folder in it that has is
    /// not told from one that is new altogether.
    fn delete_hidden(&mut self, folder: &OwnedFd, path: &Path) -> io::Result<()> {
        let present: HashSet<OsString> = names(folder)?.into_iter().collect();
        let mut hidden = BTreeSet::new();
        for layer in self.parts.lower {
            let below = match beneath(layer, path, FOLDER) {
                // The layer has no folder there.
                Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => continue,
                other => other?,
            };
            for name in names(&below)? {
                if !present.contains(&name) {
                    hidden.insert(name);
                }
            }
        }
        for name in hidden {
            self.delete(&path.join(name));
        }
        Ok(())
    }

    /// In a header of its own before the file's.
    fn attributes(&mut self, file: impl AsFd) -> io::Result<()> {
        let path = fd_path(&file);
        let list = match xattr::list_deref(&path) {
            Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => return Ok(()),
            other => other?,
        };
        let mut pairs = Vec::new();
        for name in list {
            let bytes = name.as_bytes();
            // A key ends at its first `=`.
            if OURS.iter().any(|ours| bytes.starts_with(ours)) || bytes.contains(&b'=') {
                continue;
            }
            if let (Some(text), Some(value)) = (name.to_str(), xattr::get_deref(&path, &name)?) {
                pairs.push((format!("SCHILY.xattr.{text}"), value));
            }
        }
        if pairs.is_empty() {
            return Ok(());
        }
        let pairs = pairs
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_slice()));
        self.tar.append_pax_extensions(pairs)
    }
}

/// Opens what lies at `path` below `root`; no link is followed.
fn beneath(root: &Path, path: &Path, flags: OFlag) -> nix::Result<OwnedFd> {
    let root = open(root, FOLDER, Mode::empty())?;
    let resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS;
    openat2(&root, path, OpenHow::new().flags(flags).resolve(resolve))
}

fn is_whiteout(stat: &FileStat) -> bool {
    let kind = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT;
    kind == SFlag::S_IFCHR && stat.st_rdev == 0
}

fn header(stat: &FileStat) -> Header {
    let mut header = Header::new_gnu();
    header.set_mode(stat.st_mode & 0o7777);
    header.set_uid(stat.st_uid.into());
    header.set_gid(stat.st_gid.into());
    header.set_mtime(u64::try_from(stat.st_mtime).unwrap_or(0));
    header.set_size(0);
    header
}

/// Without `.` and `..`, in order.
fn names(folder: &OwnedFd) -> io::Result<Vec<OsString>> {
    let again = openat(folder, ".", FOLDER, Mode::empty())?;
    let mut names = Vec::new();
    for entry in Dir::from_fd(again)?.iter() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if !matches!(name, b"." | b"..") {
            names.push(OsStr::from_bytes(name).to_owned());
        }
    }
    names.sort();
    Ok(names)
}

fn value(file: impl AsFd, name: &str) -> io::Result<Option<Vec<u8>>> {
    match xattr::get_deref(fd_path(file), name) {
        Err(e) if e.raw_os_error() == Some(Errno::EOPNOTSUPP as i32) => Ok(None),
        other => other,
    }
}

fn has(file: impl AsFd, name: &str) -> io::Result<bool> {
    Ok(value(file, name)?.is_some())
}

fn named<E: Into<io::Error>>(path: &Path, act: &'static str) -> impl FnOnce(E) -> io::Error {
    let path = path.to_owned();
    move |e| {
        let e = e.into();
        match e.kind() {
            // Said once, by the innermost.
            io::ErrorKind::TimedOut | io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                e
            }
            _ => during(format_args!("{act} the container's `/{}`", path.display()))(e),
        }
    }
}
