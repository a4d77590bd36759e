//! Unpacks a gzipped tar inside one folder, whatever the archive holds.
//!
//! Every member is opened below the folder by the kernel (`openat2`, no symlink on the way) and made
//! anew, so neither an earlier member nor a race can lead one outside. Links may only point inside.
//! Set-id bits, write permission for others and owners are not taken over. Members that were not
//! asked for are checked all the same. After an error nothing of the archive is left.

mod error;
mod rules;

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{UnlinkatFlags, linkat, symlinkat, unlinkat};
use tar::EntryType;

pub use self::error::ArchiveError;
use self::rules::{CapReached, Capped, inside, stays_inside};
use super::digest::{Hashing, Sha256Sum};
use crate::host::fs::open_beneath;

/// Longest name or attribute block that a member may bring along; a path has 4096 bytes at most.
const NAME_CAP: u64 = 64 << 10;
/// The permissions that a member may keep.
const MODE_MASK: u32 = 0o755;

/// What to unpack.
#[derive(Debug, Clone, Copy)]
pub struct Unpack<'a> {
    /// Named in errors.
    pub archive: &'a Path,
    /// An existing folder; nothing in it is overwritten.
    pub dest: &'a Path,
    /// Leading components to drop from each member's path (tar's `--strip-components`).
    pub strip: usize,
    /// Only these paths (after `strip`), and each of them must be there; none for all.
    pub wanted: Option<&'a [&'a str]>,
    pub caps: Caps,
}

/// What an archive may grow to.
#[derive(Debug, Clone, Copy)]
pub struct Caps {
    /// Bytes after decompression, headers and unwanted members included.
    pub bytes: u64,
    pub members: u64,
}

impl Default for Caps {
    /// Well above every release that we install.
    fn default() -> Self {
        Self {
            bytes: 1 << 30,
            members: 10_000,
        }
    }
}

/// A regular file that was unpacked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unpacked {
    /// Below the destination.
    pub path: PathBuf,
    pub mode: u32,
    /// In bytes.
    pub size: u64,
    pub sha256: Sha256Sum,
}

/// Unpacks the file at `what.archive`.
pub fn unpack(what: &Unpack<'_>) -> Result<Vec<Unpacked>, ArchiveError> {
    let file = File::open(what.archive).map_err(|source| ArchiveError::Read {
        archive: what.archive.to_owned(),
        source,
    })?;
    unpack_from(file, what)
}

/// Unpacks what `reader` gives; `what.archive` only names it.
pub fn unpack_from(reader: impl Read, what: &Unpack<'_>) -> Result<Vec<Unpacked>, ArchiveError> {
    let mut unpacking = Unpacking::new(*what)?;
    let result = unpacking.run(reader);
    if result.is_err() {
        unpacking.undo();
    }
    result?;
    Ok(unpacking.files)
}

/// What the members before a member say about it.
#[derive(Default)]
struct Prefix {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    unsupported: Option<String>,
}

#[derive(Clone, Copy, PartialEq)]
enum Made {
    Folder,
    File,
    Link,
}

struct Unpacking<'a> {
    what: Unpack<'a>,
    files: Vec<Unpacked>,
    /// In order of creation; `undo` goes backwards.
    made: Vec<(PathBuf, Made)>,
    regular: HashSet<PathBuf>,
    missing: HashMap<PathBuf, &'a str>,
}

impl<'a> Unpacking<'a> {
    fn new(what: Unpack<'a>) -> Result<Self, ArchiveError> {
        let wanted = what.wanted.unwrap_or_default();
        Ok(Self {
            what,
            files: Vec::new(),
            made: Vec::new(),
            regular: HashSet::new(),
            missing: wanted.iter().map(|w| (PathBuf::from(w), *w)).collect(),
        })
    }

    fn run(&mut self, reader: impl Read) -> Result<(), ArchiveError> {
        let mut reader = BufReader::with_capacity(64 << 10, reader);
        let magic = io::BufRead::fill_buf(&mut reader).map_err(|e| self.read_error(e))?;
        if !magic.starts_with(&[0x1f, 0x8b]) {
            return Err(ArchiveError::NotGzip {
                archive: self.what.archive.to_owned(),
            });
        }
        let stream = Capped {
            inner: MultiGzDecoder::new(reader),
            left: self.what.caps.bytes,
        };
        let mut archive = tar::Archive::new(stream);
        let mut prefix = Prefix::default();
        let mut count = 0;
        // Raw: long names and attributes come as members of their own, so that their size is ours to
        // limit; the crate would read them into memory whole.
        let entries = archive.entries().map_err(|e| self.read_error(e))?.raw(true);
        for entry in entries {
            let mut entry = entry.map_err(|e| self.read_error(e))?;
            count += 1;
            if count > self.what.caps.members {
                return Err(ArchiveError::TooLarge {
                    archive: self.what.archive.to_owned(),
                    cap: self.what.caps.members,
                    what: "members",
                });
            }
            self.member(&mut entry, &mut prefix)?;
        }
        // The checksum of the gzip stands at its very end.
        io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(|e| self.read_error(e))?;
        match self.missing.values().min() {
            None => Ok(()),
            Some(member) => Err(ArchiveError::Missing {
                archive: self.what.archive.to_owned(),
                member: (*member).to_owned(),
            }),
        }
    }

    fn member(
        &mut self,
        entry: &mut tar::Entry<'_, impl Read>,
        prefix: &mut Prefix,
    ) -> Result<(), ArchiveError> {
        let kind = entry.header().entry_type();
        match kind {
            EntryType::XGlobalHeader => return self.attributes(entry).map(drop),
            EntryType::GNULongName => {
                prefix.path = Some(self.attributes(entry)?);
                return Ok(());
            }
            EntryType::GNULongLink => {
                prefix.link = Some(self.attributes(entry)?);
                return Ok(());
            }
            EntryType::XHeader => {
                let block = self.attributes(entry)?;
                return self.pax(&block, prefix);
            }
            _ => {}
        }
        let prefix = std::mem::take(prefix);
        let raw = prefix
            .path
            .unwrap_or_else(|| entry.path_bytes().into_owned());
        let shown = String::from_utf8_lossy(&raw).into_owned();
        if let Some(problem) = prefix.unsupported {
            return Err(self.refused(&shown, problem));
        }
        let full = inside(Path::new(OsStr::from_bytes(&raw)))
            .map_err(|problem| self.refused(&shown, problem))?;
        let Some(path) = self.place(&full) else {
            return match kind {
                // `./`, or a folder that is stripped.
                EntryType::Directory => Ok(()),
                _ => Err(self.refused(&shown, "has no name below the destination".to_owned())),
            };
        };
        let chosen = self.what.wanted.is_none() || self.missing.remove(&path).is_some();
        let mode = entry.header().mode().map_err(|e| self.read_error(e))? & MODE_MASK;
        let link = prefix
            .link
            .or_else(|| entry.link_name_bytes().map(|l| l.into_owned()))
            .unwrap_or_default();
        match kind {
            EntryType::Directory if chosen => self.folder(&path),
            EntryType::Directory => Ok(()),
            EntryType::Regular | EntryType::Continuous if chosen => self.file(entry, path, mode),
            EntryType::Regular | EntryType::Continuous => Ok(()),
            EntryType::Symlink => self.symlink(&shown, path, &link, chosen),
            EntryType::Link => self.hard_link(&shown, path, &link, chosen),
            other => Err(self.refused(
                &shown,
                format!("is of a kind that is not unpacked ({other:?})"),
            )),
        }
    }

    /// The content of a member that describes the next one.
    fn attributes(&self, entry: &mut tar::Entry<'_, impl Read>) -> Result<Vec<u8>, ArchiveError> {
        if entry.size() > NAME_CAP {
            return Err(ArchiveError::TooLarge {
                archive: self.what.archive.to_owned(),
                cap: NAME_CAP,
                what: "bytes in a member's name or attributes",
            });
        }
        let mut bytes = Vec::new();
        entry
            .read_to_end(&mut bytes)
            .map_err(|e| self.read_error(e))?;
        if entry.header().entry_type() != EntryType::XHeader && bytes.last() == Some(&0) {
            bytes.pop();
        }
        Ok(bytes)
    }

    fn pax(&self, block: &[u8], prefix: &mut Prefix) -> Result<(), ArchiveError> {
        for record in tar::PaxExtensions::new(block) {
            let record = record.map_err(|e| self.read_error(e))?;
            match record.key_bytes() {
                b"path" => prefix.path = Some(record.value_bytes().to_owned()),
                b"linkpath" => prefix.link = Some(record.value_bytes().to_owned()),
                // Both change how many bytes follow, which only a broken or odd archive needs here.
                key if key == b"size" || key.starts_with(b"GNU.sparse.") => {
                    let key = String::from_utf8_lossy(key);
                    prefix.unsupported = Some(format!("has the attribute `{key}`"));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The path below the destination; none when `strip` leaves nothing of it.
    fn place(&self, full: &Path) -> Option<PathBuf> {
        let path: PathBuf = full.components().skip(self.what.strip).collect();
        (!path.as_os_str().is_empty()).then_some(path)
    }

    fn folder(&mut self, path: &Path) -> Result<(), ArchiveError> {
        let mut at = PathBuf::new();
        for part in path.components() {
            let parent = self.open(&at)?;
            at.push(part);
            match mkdirat(&parent, part.as_os_str(), Mode::from_bits_truncate(0o755)) {
                Ok(()) => self.made.push((at.clone(), Made::Folder)),
                Err(Errno::EEXIST) => {}
                Err(e) => return Err(self.write_error(&at, e.into())),
            }
        }
        // Were one of them a link or a file before, this says so.
        self.open(path).map(drop)
    }

    fn open(&self, folder: &Path) -> Result<OwnedFd, ArchiveError> {
        open_beneath(self.what.dest, folder).map_err(|e| self.write_error(folder, e))
    }

    /// The folder that `path` goes into, made if need be, and its name there.
    fn folder_of<'p>(&mut self, path: &'p Path) -> Result<(OwnedFd, &'p OsStr), ArchiveError> {
        let parent = path.parent().unwrap_or(Path::new(""));
        self.folder(parent)?;
        Ok((self.open(parent)?, path.file_name().unwrap_or_default()))
    }

    fn file(
        &mut self,
        entry: &mut tar::Entry<'_, impl Read>,
        path: PathBuf,
        mode: u32,
    ) -> Result<(), ArchiveError> {
        let (folder, name) = self.folder_of(&path)?;
        let flags =
            OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let fd = openat(&folder, name, flags, Mode::from_bits_truncate(0o600))
            .map_err(|e| self.write_error(&path, e.into()))?;
        self.made.push((path.clone(), Made::File));
        let mut file = Hashing::new(File::from(fd));
        // Not `io::copy`: which side failed decides what helps.
        let mut chunk = [0; 16 << 10];
        loop {
            let n = match entry.read(&mut chunk) {
                Ok(0) => break,
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(self.read_error(e)),
            };
            file.write_all(chunk.get(..n).unwrap_or_default())
                .map_err(|e| self.write_error(&path, e))?;
        }
        let size = file.count();
        if size != entry.size() {
            return Err(self.read_error(io::ErrorKind::UnexpectedEof.into()));
        }
        let (file, sha256) = file.finish();
        file.set_permissions(fs::Permissions::from_mode(mode))
            .and_then(|()| file.sync_all())
            .map_err(|e| self.write_error(&path, e))?;
        self.regular.insert(path.clone());
        self.files.push(Unpacked {
            path,
            mode,
            size,
            sha256,
        });
        Ok(())
    }

    fn symlink(
        &mut self,
        shown: &str,
        path: PathBuf,
        target: &[u8],
        chosen: bool,
    ) -> Result<(), ArchiveError> {
        let target = Path::new(OsStr::from_bytes(target));
        let depth = path.components().count().saturating_sub(1);
        if !stays_inside(target, depth) {
            let problem = format!("is a link that leaves the archive (`{}`)", target.display());
            return Err(self.refused(shown, problem));
        }
        if !chosen {
            return Ok(());
        }
        let (folder, name) = self.folder_of(&path)?;
        symlinkat(target, &folder, name).map_err(|e| self.write_error(&path, e.into()))?;
        self.made.push((path, Made::Link));
        Ok(())
    }

    fn hard_link(
        &mut self,
        shown: &str,
        path: PathBuf,
        target: &[u8],
        chosen: bool,
    ) -> Result<(), ArchiveError> {
        let raw = Path::new(OsStr::from_bytes(target));
        let known = inside(raw).ok().and_then(|t| self.place(&t));
        let Some(target) = known.filter(|t| self.regular.contains(t) || !chosen) else {
            let problem = format!("is a link to `{}`, no file of the archive", raw.display());
            return Err(self.refused(shown, problem));
        };
        if !chosen {
            return Ok(());
        }
        let (folder, name) = self.folder_of(&path)?;
        let (from, from_name) = self.folder_of(&target)?;
        linkat(&from, from_name, &folder, name, AtFlags::empty())
            .map_err(|e| self.write_error(&path, e.into()))?;
        self.made.push((path.clone(), Made::Link));
        self.regular.insert(path.clone());
        let original = self.files.iter().find(|f| f.path == target).cloned();
        self.files.extend(original.map(|f| Unpacked { path, ..f }));
        Ok(())
    }

    /// Removes what was made. What cannot be removed stays: the first error is the one to tell.
    fn undo(&mut self) {
        for (path, made) in self.made.drain(..).rev() {
            let flag = match made {
                Made::Folder => UnlinkatFlags::RemoveDir,
                Made::File | Made::Link => UnlinkatFlags::NoRemoveDir,
            };
            let parent = open_beneath(self.what.dest, path.parent().unwrap_or(Path::new("")));
            let removed = parent.and_then(|parent| {
                Ok(unlinkat(
                    &parent,
                    path.file_name().unwrap_or_default(),
                    flag,
                )?)
            });
            if let Err(error) = removed {
                tracing::warn!(path = %path.display(), %error, "remove what was unpacked");
            }
        }
    }

    fn read_error(&self, source: io::Error) -> ArchiveError {
        let archive = self.what.archive.to_owned();
        let mut cause = source
            .get_ref()
            .map(|e| e as &(dyn std::error::Error + 'static));
        while let Some(e) = cause {
            if e.is::<CapReached>() {
                return ArchiveError::TooLarge {
                    archive,
                    cap: self.what.caps.bytes,
                    what: "bytes",
                };
            }
            // An `io::Error` shows its inner error, not as a source.
            let inner = e.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
            cause = inner
                .map(|e| e as &(dyn std::error::Error + 'static))
                .or_else(|| e.source());
        }
        ArchiveError::Read { archive, source }
    }

    fn write_error(&self, path: &Path, source: io::Error) -> ArchiveError {
        ArchiveError::Write {
            archive: self.what.archive.to_owned(),
            path: self.what.dest.join(path),
            source,
        }
    }

    fn refused(&self, member: &str, problem: String) -> ArchiveError {
        ArchiveError::Refused {
            archive: self.what.archive.to_owned(),
            member: member.to_owned(),
            problem,
        }
    }
}

#[cfg(test)]
mod tests;
