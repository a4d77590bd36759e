//! The last thread: entries of the archive become files.
//!
//! A regular file costs open, write, one call for its times, close; owner and mode only where they
//! differ from what creation gave. Folders get owner, mode, attributes and times at the end, when
//! nothing is put into them any more.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::FchmodatFlags;
use nix::sys::stat::{
    Mode, SFlag, UtimensatFlags, fchmod, fchmodat, futimens, makedev, mknodat, utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchown, fchownat, ftruncate, linkat, symlinkat};

use super::attributes::{set_xattrs, set_xattrs_of_node, umask};
use super::tree::{DEEPEST, Present, Tree, is, present};
use super::{LayerError, Limits, Plain};
use crate::ocid::storage::tar::{Header, Kind, Mtime, Reader, TarError};

/// Whiteout files' prefix, and the marker of an opaque folder (OCI image spec, layer.md, "Whiteouts").
const WHITEOUT: &[u8] = b".wh.";
const OPAQUE_MARKER: &[u8] = b".wh..wh..opq";
/// Other files of aufs' own.
const AUFS: &[u8] = b".wh..wh.";
/// Bytes of folder names and attributes that are kept in memory to the end.
const FOLDER_BYTES: usize = 128 << 20;
/// Longest path, as for any call of the kernel.
const LONGEST_PATH: usize = 4095;

#[derive(Debug, Default, Clone, Copy)]
pub struct Tally {
    pub disk: u64,
    pub inodes: u64,
    logical: u64,
}

/// Writes all entries below `root`, which is empty, and reads the archive to its very end.
pub fn run(root: OwnedFd, plain: &mut Plain, limits: Limits) -> Result<Tally, LayerError> {
    let mut writer = Writer {
        tree: Tree::new(root),
        folders: BTreeMap::new(),
        folder_bytes: 0,
        tally: Tally::default(),
        umask: umask(),
        limits,
    };
    let mut archive = Reader::new(&mut *plain);
    let mut entries = 0;
    while let Some(header) = archive.next_entry().map_err(Arc::new)? {
        entries += 1;
        if entries > limits.entries {
            return Err(over(limits.entries, "entries"));
        }
        writer.entry(&mut archive, &header)?;
    }
    plain.drain().map_err(|e| Arc::new(TarError::Read(e)))?;
    writer.finish_folders()?;
    Ok(writer.tally)
}

/// A folder's attributes, put on at the end.
struct Folder {
    owner: (u32, u32),
    mode: u32,
    mtime: Option<Mtime>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

struct Writer {
    tree: Tree,
    folders: BTreeMap<Vec<u8>, Folder>,
    folder_bytes: usize,
    tally: Tally,
    umask: u32,
    limits: Limits,
}

/// Gives an error its act and entry.
fn failed<E: Into<io::Error>>(act: &'static str, entry: &[u8]) -> impl FnOnce(E) -> LayerError {
    move |e| LayerError::Apply {
        act,
        entry: String::from_utf8_lossy(entry).into_owned(),
        source: Arc::new(e.into()),
    }
}

fn hostile(entry: &[u8], problem: &'static str) -> LayerError {
    LayerError::Hostile {
        entry: String::from_utf8_lossy(entry).chars().take(200).collect(),
        problem,
    }
}

fn over(limit: u64, unit: &'static str) -> LayerError {
    LayerError::Limit { limit, unit }
}

impl Writer {
    fn entry(
        &mut self,
        archive: &mut Reader<&mut Plain>,
        header: &Header,
    ) -> Result<(), LayerError> {
        let path = clean(&header.path).map_err(|problem| hostile(&header.path, problem))?;
        if path.is_empty() {
            // The root itself; only a folder can be.
            return match header.kind {
                Kind::Directory => self.remember(path, header),
                _ => Err(hostile(&header.path, "would replace the root folder")),
            };
        }
        let (parent, name) = split(&path);
        if parent.split(|b| *b == b'/').any(|c| c.starts_with(AUFS)) || is_aufs(name) {
            return Ok(());
        }
        if parent
            .split(|b| *b == b'/')
            .any(|c| c.starts_with(WHITEOUT))
        {
            return Err(hostile(&header.path, "lies below a whiteout"));
        }
        if name == OPAQUE_MARKER {
            let opaque = self.tree.make_opaque(parent);
            opaque.map_err(failed("make opaque the folder of", &path))?;
            return self.remember_implied();
        }
        if let Some(hidden) = name.strip_prefix(WHITEOUT) {
            if matches!(hidden, b"" | b"." | b"..") {
                return Err(hostile(&header.path, "is a whiteout of nothing"));
            }
            let whiteout = self.tree.white_out(parent, hidden);
            whiteout.map_err(failed("make the whiteout", &path))?;
            self.tally.inodes += 1;
            return self.remember_implied();
        }
        match header.kind {
            Kind::Directory => {
                let made = self.tree.make_or_keep(parent, name);
                made.map_err(failed("make the folder", &path))?;
                self.remember(path, header)?;
            }
            Kind::Regular => self.regular(archive, header, &path)?,
            _ => {
                self.special(header, &path)?;
                self.tally.inodes += 1;
            }
        }
        self.remember_implied()
    }

    fn regular(
        &mut self,
        archive: &mut Reader<&mut Plain>,
        header: &Header,
        path: &[u8],
    ) -> Result<(), LayerError> {
        self.tally.logical = self.tally.logical.saturating_add(header.size);
        if self.tally.logical > self.limits.bytes {
            return Err(over(self.limits.bytes, "bytes"));
        }
        let file = self.create(header, path)?;
        let mut written = 0;
        match &header.segments {
            None => {
                let mut file = &file;
                loop {
                    let data = archive.data().map_err(Arc::new)?;
                    if data.is_empty() {
                        break;
                    }
                    let count = data.len();
                    file.write_all(data).map_err(failed("write", path))?;
                    archive.consume(count);
                    written += count as u64;
                }
            }
            Some(segments) => {
                let size = i64::try_from(header.size)
                    .map_err(|_| hostile(path, "has a size out of range"))?;
                ftruncate(&file, size).map_err(failed("set the size of", path))?;
                for segment in segments {
                    let mut done = 0;
                    while done < segment.length {
                        let left = usize::try_from(segment.length - done).unwrap_or(usize::MAX);
                        let data = archive.data().map_err(Arc::new)?;
                        let data = data.get(..left).unwrap_or(data);
                        if data.is_empty() {
                            return Err(hostile(path, "has less data than its map says"));
                        }
                        let count = data.len();
                        file.write_all_at(data, segment.offset + done)
                            .map_err(failed("write", path))?;
                        archive.consume(count);
                        done += count as u64;
                        written += count as u64;
                    }
                }
            }
        }
        self.tally.disk += written.next_multiple_of(4096);
        self.tally.inodes += 1;
        let owned = (header.uid, header.gid) != (0, 0);
        if owned {
            let (uid, gid) = ids(header);
            fchown(&file, Some(uid), Some(gid)).map_err(failed("give an owner to", path))?;
        }
        // Creation obeys the umask; a change of owner takes the setuid bits away.
        if owned || header.mode & (self.umask | 0o7000) != 0 {
            let mode = Mode::from_bits_truncate(header.mode);
            fchmod(&file, mode).map_err(failed("set the mode of", path))?;
        }
        if !header.xattrs.is_empty() {
            set_xattrs(&file, &header.xattrs).map_err(failed("set an attribute of", path))?;
        }
        let time = timespec(header.mtime);
        futimens(&file, &time, &time).map_err(failed("set the time of", path))
    }

    /// A new, empty file in place of whatever was there.
    fn create(&mut self, header: &Header, path: &[u8]) -> Result<File, LayerError> {
        let (parent, name) = split(path);
        let flags =
            OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mode = Mode::from_bits_truncate(header.mode & 0o777);
        let mut cleared = false;
        loop {
            let folder = self.tree.folder(parent);
            let folder = folder.map_err(failed("open the folder of", path))?;
            match openat(folder, name, flags, mode) {
                Ok(file) => return Ok(File::from(file)),
                Err(Errno::EEXIST) if !cleared => {
                    self.tree
                        .clear(parent, name)
                        .map_err(failed("replace", path))?;
                    cleared = true;
                }
                Err(e) => return Err(failed("create", path)(e)),
            }
        }
    }

    /// Links, devices and pipes.
    fn special(&mut self, header: &Header, path: &[u8]) -> Result<(), LayerError> {
        let (parent, name) = split(path);
        let folder = self.tree.folder(parent);
        let folder = folder.map_err(failed("open the folder of", path))?;
        let act = "make the link, device or pipe";
        if header.kind == Kind::HardLink {
            return self.hard_link(header, path);
        }
        if present(folder, name).map_err(failed(act, path))? != Present::Nothing {
            let cleared = self.tree.clear(parent, name);
            cleared.map_err(failed("replace", path))?;
        }
        let folder = self.tree.folder(parent);
        let folder = folder.map_err(failed("open the folder of", path))?;
        let node = match header.kind {
            Kind::Symlink => {
                if header.link.is_empty() || header.link.len() > LONGEST_PATH {
                    return Err(hostile(path, "is a link without a usable target"));
                }
                symlinkat(header.link.as_slice(), folder, name)
                    .map_err(failed("make the link", path))?;
                None
            }
            Kind::CharDevice => Some(SFlag::S_IFCHR),
            Kind::BlockDevice => Some(SFlag::S_IFBLK),
            _ => Some(SFlag::S_IFIFO),
        };
        if let Some(kind) = node {
            let (major, minor) = header.device;
            let device = makedev(u64::from(major), u64::from(minor));
            mknodat(folder, name, kind, Mode::empty(), device).map_err(failed(act, path))?;
        }
        let (uid, gid) = ids(header);
        let nofollow = AtFlags::AT_SYMLINK_NOFOLLOW;
        fchownat(folder, name, Some(uid), Some(gid), nofollow)
            .map_err(failed("give an owner to", path))?;
        if node.is_some() {
            let mode = Mode::from_bits_truncate(header.mode);
            fchmodat(folder, name, mode, FchmodatFlags::FollowSymlink)
                .map_err(failed("set the mode of", path))?;
        }
        if !header.xattrs.is_empty() {
            set_xattrs_of_node(folder, name, &header.xattrs)
                .map_err(failed("set an attribute of", path))?;
        }
        let time = timespec(header.mtime);
        utimensat(folder, name, &time, &time, UtimensatFlags::NoFollowSymlink)
            .map_err(failed("set the time of", path))
    }

    fn hard_link(&mut self, header: &Header, path: &[u8]) -> Result<(), LayerError> {
        let target = clean(&header.link).map_err(|problem| hostile(&header.link, problem))?;
        if target.is_empty() {
            return Err(hostile(path, "is a hard link to the root folder"));
        }
        if target == path {
            return Ok(());
        }
        let (parent, name) = split(path);
        let (from, target_name) = split(&target);
        let act = "make the hard link";
        let nothing = || hostile(path, "is a hard link to nothing in this layer");
        let from = match self.tree.open(from) {
            Err(e) if is(&e, Errno::ENOENT) || is(&e, Errno::ENOTDIR) => return Err(nothing()),
            other => other.map_err(failed(act, path))?,
        };
        // Asked first, so that a wrong link does not cost what it would replace.
        match present(&from, target_name).map_err(failed(act, path))? {
            Present::Other => {}
            Present::Nothing => return Err(nothing()),
            Present::Folder => return Err(hostile(path, "is a hard link to a folder")),
            Present::Whiteout => return Err(hostile(path, "is a hard link to a whiteout")),
        }
        let folder = self.tree.folder(parent);
        let folder = folder.map_err(failed("open the folder of", path))?;
        match linkat(&from, target_name, folder, name, AtFlags::empty()) {
            Err(Errno::EEXIST) => {}
            other => return other.map_err(failed(act, path)),
        }
        let cleared = self.tree.clear(parent, name);
        cleared.map_err(failed("replace", path))?;
        let folder = self.tree.folder(parent);
        let folder = folder.map_err(failed("open the folder of", path))?;
        linkat(&from, target_name, folder, name, AtFlags::empty()).map_err(failed(act, path))
    }

    fn remember(&mut self, path: Vec<u8>, header: &Header) -> Result<(), LayerError> {
        let folder = Folder {
            owner: (header.uid, header.gid),
            mode: header.mode,
            mtime: Some(header.mtime),
            xattrs: header.xattrs.clone(),
        };
        self.keep(path, folder)
    }

    /// Folders the archive does not list belong to root and may be entered by all, as with CRI-O.
    fn remember_implied(&mut self) -> Result<(), LayerError> {
        for path in self.tree.take_implied() {
            if !self.folders.contains_key(&path) {
                let folder = Folder {
                    owner: (0, 0),
                    mode: 0o755,
                    mtime: None,
                    xattrs: Vec::new(),
                };
                self.keep(path, folder)?;
            }
        }
        Ok(())
    }

    fn keep(&mut self, path: Vec<u8>, folder: Folder) -> Result<(), LayerError> {
        let attributes = folder.xattrs.iter().map(|(n, v)| n.len() + v.len());
        self.folder_bytes += path.len() + size_of::<Folder>() + attributes.sum::<usize>();
        if self.folder_bytes > FOLDER_BYTES {
            return Err(over(
                FOLDER_BYTES as u64,
                "bytes of folder names and attributes",
            ));
        }
        if self.folders.insert(path, folder).is_none() {
            self.tally.inodes += 1;
            self.tally.disk += 4096;
        }
        Ok(())
    }

    fn finish_folders(&self) -> Result<(), LayerError> {
        for (path, attributes) in &self.folders {
            let folder = match self.tree.open_readable(path) {
                // Replaced by something else later in the archive.
                Err(e) if is(&e, Errno::ENOENT) || is(&e, Errno::ENOTDIR) => continue,
                other => other.map_err(failed("open the folder", path))?,
            };
            let (uid, gid) = attributes.owner;
            if (uid, gid) != (0, 0) {
                let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
                fchown(&folder, Some(uid), Some(gid)).map_err(failed("give an owner to", path))?;
            }
            let mode = Mode::from_bits_truncate(attributes.mode);
            fchmod(&folder, mode).map_err(failed("set the mode of", path))?;
            set_xattrs(&folder, &attributes.xattrs).map_err(failed("set an attribute of", path))?;
            if let Some(mtime) = attributes.mtime {
                let time = timespec(mtime);
                futimens(&folder, &time, &time).map_err(failed("set the time of", path))?;
            }
        }
        Ok(())
    }
}

/// A path without leading slash, empty components, `.` and `..`; "" is the root.
fn clean(path: &[u8]) -> Result<Vec<u8>, &'static str> {
    if path.contains(&0) {
        return Err("has a NUL byte in its name");
    }
    if path.len() > LONGEST_PATH {
        return Err("has a path longer than 4095 bytes");
    }
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop().ok_or("leads out of the layer")?;
            }
            part => parts.push(part),
        }
    }
    if parts.len() > DEEPEST {
        return Err("is nested more than 512 folders deep");
    }
    Ok(parts.join(&b'/'))
}

/// Parent ("" is the root) and name.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|b| *b == b'/') {
        Some(at) => (
            path.get(..at).unwrap_or(&[]),
            path.get(at + 1..).unwrap_or(&[]),
        ),
        None => (&[], path),
    }
}

fn is_aufs(name: &[u8]) -> bool {
    name.starts_with(AUFS) && name != OPAQUE_MARKER
}

fn ids(header: &Header) -> (Uid, Gid) {
    (Uid::from_raw(header.uid), Gid::from_raw(header.gid))
}

fn timespec(time: Mtime) -> TimeSpec {
    TimeSpec::new(time.seconds, i64::from(time.nanoseconds))
}
