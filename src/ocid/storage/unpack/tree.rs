//! The folder a layer is unpacked into, and the only way to names in it.
//!
//! Every folder is opened by openat2(2) with `RESOLVE_IN_ROOT`, so links that the layer itself made
//! resolve as they will inside the container and lead nowhere else; the last component of a path is
//! never followed. Opened folders are kept, because archives list a folder's files in a row.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{FileStat, Mode, SFlag, fstatat, mkdirat, mknodat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::host::fs::{fd_path, remove_tree};

/// Folders kept open.
const KEPT: usize = 64;
/// Deepest folder: real images stay far below, and what is deeper could hardly be removed again.
pub const DEEPEST: usize = 512;

/// What stands at a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Present {
    Nothing,
    Folder,
    /// A whiteout: character device 0:0 (overlayfs.rst, "whiteouts and opaque directories").
    Whiteout,
    Other,
}

pub struct Tree {
    root: OwnedFd,
    kept: HashMap<Vec<u8>, OwnedFd>,
    /// Folders that were made because a path needed them, not because the archive lists them.
    implied: Vec<Vec<u8>>,
}

impl Tree {
    pub fn new(root: OwnedFd) -> Self {
        Self {
            root,
            kept: HashMap::new(),
            implied: Vec::new(),
        }
    }

    /// Paths of the folders made on the way since the last call.
    pub fn take_implied(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.implied)
    }

    /// The folder at a cleaned path ("" is the root), made with its parents if it is missing.
    pub fn folder(&mut self, path: &[u8]) -> io::Result<BorrowedFd<'_>> {
        if path.is_empty() {
            return Ok(self.root.as_fd());
        }
        if !self.kept.contains_key(path) {
            let folder = match self.open(path) {
                Err(e) if is(&e, Errno::ENOENT) || is(&e, Errno::ENOTDIR) => self.make(path)?,
                other => other?,
            };
            if self.kept.len() >= KEPT {
                self.kept.clear();
            }
            self.kept.insert(path.to_vec(), folder);
        }
        match self.kept.get(path) {
            Some(folder) => Ok(folder.as_fd()),
            None => Err(Errno::ENOENT.into()),
        }
    }

    /// The folder at a path, which must be there.
    pub fn open(&self, path: &[u8]) -> io::Result<OwnedFd> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        self.open_as(path, flags)
    }

    /// As [`Tree::open`], for calls that a path descriptor is not enough for.
    pub fn open_readable(&self, path: &[u8]) -> io::Result<OwnedFd> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        self.open_as(path, flags)
    }

    fn open_as(&self, path: &[u8], flags: OFlag) -> io::Result<OwnedFd> {
        let path = if path.is_empty() { b"." } else { path };
        let how = |resolve| {
            let inside = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS;
            OpenHow::new().flags(flags).resolve(inside | resolve)
        };
        match openat2(&self.root, path, how(ResolveFlag::RESOLVE_NO_SYMLINKS)) {
            Err(Errno::ELOOP) => {}
            other => return Ok(other?),
        }
        // Links can lead deeper than the path is long, so the place itself is measured.
        let folder = openat2(&self.root, path, how(ResolveFlag::empty()))?;
        let depth = |fd: &OwnedFd| std::fs::read_link(fd_path(fd)).map(|p| p.components().count());
        if depth(&folder)?.saturating_sub(depth(&self.root)?) > DEEPEST {
            return Err(Errno::ENAMETOOLONG.into());
        }
        Ok(folder)
    }

    fn make(&mut self, path: &[u8]) -> io::Result<OwnedFd> {
        let mut parent = self.open(b"")?;
        let ends = path.iter().enumerate().filter(|(_, b)| **b == b'/');
        let ends: Vec<usize> = ends.map(|(at, _)| at).chain([path.len()]).collect();
        let mut start = 0;
        for end in ends {
            let (sofar, name) = (path.get(..end), path.get(start..end));
            let (Some(sofar), Some(name)) = (sofar, name) else {
                return Err(Errno::EINVAL.into());
            };
            start = end + 1;
            parent = match self.open(sofar) {
                Err(e) if is(&e, Errno::ENOENT) || is(&e, Errno::ENOTDIR) => {
                    make_folder(&parent, name)?;
                    self.implied.push(sofar.to_vec());
                    self.open(sofar)?
                }
                other => other?,
            };
        }
        Ok(parent)
    }

    /// Makes the folder `name` in `parent`, or takes the one that is there; anything else goes.
    pub fn make_or_keep(&mut self, parent: &[u8], name: &[u8]) -> io::Result<()> {
        loop {
            let present = present(self.folder(parent)?, name)?;
            match present {
                Present::Folder => return Ok(()),
                Present::Nothing | Present::Whiteout => {
                    return make_folder(&self.folder(parent)?, name);
                }
                Present::Other => self.clear(parent, name)?,
            }
        }
    }

    /// Puts a whiteout at a name, unless this layer has something of its own there: then that hides
    /// what is below (a folder only once it is opaque).
    pub fn white_out(&mut self, parent: &[u8], name: &[u8]) -> io::Result<()> {
        let folder = self.folder(parent)?;
        match present(folder, name)? {
            Present::Nothing => {
                mknodat(folder, name, SFlag::S_IFCHR, Mode::empty(), 0).map_err(io::Error::from)
            }
            Present::Folder => set_opaque(folder, name),
            Present::Whiteout | Present::Other => Ok(()),
        }
    }

    /// Makes the folder hide what the layers below have in it.
    pub fn make_opaque(&mut self, path: &[u8]) -> io::Result<()> {
        let folder = self.folder(path)?;
        set_opaque_fd(folder)
    }

    /// Removes what stands at a name, whatever it is.
    pub fn clear(&mut self, parent: &[u8], name: &[u8]) -> io::Result<()> {
        // What is removed may be a kept folder, or a link that a kept one was reached by.
        self.kept.clear();
        let folder = self.open(parent)?;
        match unlinkat(&folder, name, UnlinkatFlags::NoRemoveDir) {
            Err(Errno::EISDIR) => {
                remove_tree(&fd_path(&folder), Path::new(OsStr::from_bytes(name)))
            }
            other => other.map_err(io::Error::from),
        }
    }
}

/// What stands at `name` in a folder; a link is not followed.
pub fn present(folder: impl AsFd, name: &[u8]) -> io::Result<Present> {
    let stat: FileStat = match fstatat(folder, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Err(Errno::ENOENT) => return Ok(Present::Nothing),
        other => other?,
    };
    let kind = SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits());
    Ok(if kind == SFlag::S_IFDIR {
        Present::Folder
    } else if kind == SFlag::S_IFCHR && stat.st_rdev == 0 {
        Present::Whiteout
    } else {
        Present::Other
    })
}

/// Makes a folder where nothing or a whiteout is. In place of a whiteout it is opaque: the layer
/// took the old one away. Its mode is for us alone until the layer is complete, so that neither a
/// setgid bit nor a default access list is inherited by what is unpacked into it.
fn make_folder(parent: &impl AsFd, name: &[u8]) -> io::Result<()> {
    match mkdirat(parent, name, Mode::S_IRWXU) {
        Err(Errno::EEXIST) if present(parent, name)? == Present::Whiteout => {
            unlinkat(parent, name, UnlinkatFlags::NoRemoveDir)?;
            mkdirat(parent, name, Mode::S_IRWXU)?;
            set_opaque(parent, name)
        }
        // The path leads through something that is no folder.
        Err(Errno::EEXIST) => Err(Errno::ENOTDIR.into()),
        other => other.map_err(io::Error::from),
    }
}

fn set_opaque(parent: impl AsFd, name: &[u8]) -> io::Result<()> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let folder = nix::fcntl::openat(parent, name, flags, Mode::empty())?;
    set_opaque_fd(folder)
}

fn set_opaque_fd(folder: impl AsFd) -> io::Result<()> {
    xattr::set_deref(fd_path(&folder), OPAQUE, b"y")
}

/// overlayfs.rst, "whiteouts and opaque directories".
pub const OPAQUE: &str = "trusted.overlay.opaque";

pub fn is(e: &io::Error, errno: Errno) -> bool {
    e.raw_os_error() == Some(errno as i32)
}
