//! What a folder takes on disk, as du(1) counts it.

use std::collections::HashSet;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open, openat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat};
use nix::sys::statvfs::statvfs;

use super::context::during;

/// What [`of_tree`] counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiskUsage {
    /// Blocks, in bytes.
    pub bytes: u64,
    pub inodes: u64,
}

/// A filesystem's size.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Capacity {
    pub bytes: u64,
    pub inodes: u64,
    pub inodes_free: u64,
}

/// A folder in a folder in a folder: each holds a descriptor while it is walked. What lies deeper is not counted.
const DEEPEST: usize = 512;

/// A folder with all that is in it, itself included. A file with several names counts once; no link is followed
/// and no other mount entered, whatever is renamed meanwhile. What goes away during the walk does not count.
/// Blocks for a time in proportion to the number of files.
pub fn of_tree(root: &Path) -> io::Result<DiskUsage> {
    let shown = root.display();
    let failed = |e: Errno| during(format_args!("measure `{shown}`"))(e);
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let folder = open(root, flags, Mode::empty()).map_err(failed)?;
    let stat = fstat(&folder).map_err(failed)?;
    let mut walk = Walk {
        device: stat.st_dev,
        several_names: HashSet::new(),
        total: DiskUsage::default(),
    };
    walk.count(&stat);
    walk.folder(folder, 0).map_err(failed)?;
    Ok(walk.total)
}

/// Of the filesystem that `path` is on.
pub fn capacity(path: &Path) -> io::Result<Capacity> {
    let found = statvfs(path).map_err(during(format_args!("look at `{}`", path.display())))?;
    Ok(Capacity {
        bytes: found.blocks().saturating_mul(found.fragment_size()),
        inodes: found.files(),
        inodes_free: found.files_free(),
    })
}

struct Walk {
    device: u64,
    several_names: HashSet<u64>,
    total: DiskUsage,
}

impl Walk {
    fn count(&mut self, stat: &FileStat) {
        let folder = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFDIR;
        if !folder && stat.st_nlink > 1 && !self.several_names.insert(stat.st_ino) {
            return;
        }
        // stat(2): blocks of 512 bytes, whatever the filesystem's own size is.
        let bytes = u64::try_from(stat.st_blocks)
            .unwrap_or(0)
            .saturating_mul(512);
        self.total.bytes = self.total.bytes.saturating_add(bytes);
        self.total.inodes += 1;
    }

    fn folder(&mut self, folder: OwnedFd, depth: usize) -> nix::Result<()> {
        let mut folders: Vec<CString> = Vec::new();
        let mut list = Dir::from_fd(folder)?;
        let mut names: Vec<(CString, Option<Type>)> = Vec::new();
        for entry in list.iter() {
            let entry = entry?;
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                names.push((entry.file_name().to_owned(), entry.file_type()));
            }
        }
        for (name, kind) in names {
            let stat = match fstatat(&list, name.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
                Err(Errno::ENOENT) => continue,
                other => other?,
            };
            if stat.st_dev != self.device {
                continue;
            }
            self.count(&stat);
            if kind.is_none_or(|kind| kind == Type::Directory) {
                folders.push(name);
            }
        }
        for name in folders {
            self.enter(&list, &name, depth)?;
        }
        Ok(())
    }

    fn enter(&mut self, parent: &Dir, name: &CStr, depth: usize) -> nix::Result<()> {
        if depth == DEEPEST {
            return Ok(());
        }
        let flags = OFlag::O_RDONLY
            | OFlag::O_DIRECTORY
            | OFlag::O_NOFOLLOW
            | OFlag::O_NONBLOCK
            | OFlag::O_CLOEXEC;
        let folder = match openat(parent, name, flags, Mode::empty()) {
            // Gone, or another thing by now.
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => return Ok(()),
            other => other?,
        };
        if fstat(&folder)?.st_dev != self.device {
            return Ok(());
        }
        self.folder(folder, depth + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, symlink};

    #[test]
    fn blocks_are_counted_once_and_links_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        fs::create_dir_all(root.join("a/b")).unwrap();
        fs::write(dir.path().join("outside"), vec![1; 1 << 20]).unwrap();
        fs::write(root.join("a/b/file"), vec![1; 100_000]).unwrap();
        fs::hard_link(root.join("a/b/file"), root.join("again")).unwrap();
        symlink(dir.path(), root.join("link")).unwrap();
        let sparse = fs::File::create(root.join("sparse")).unwrap();
        sparse.set_len(1 << 30).unwrap();
        let blocks = |name: &str| fs::symlink_metadata(root.join(name)).unwrap().blocks() * 512;
        let found = of_tree(&root).unwrap();
        let names = ["", "a", "a/b", "a/b/file", "link", "sparse"];
        let bytes = names.iter().map(|name| blocks(name)).sum();
        let inodes = names.len() as u64;
        assert_eq!(found, DiskUsage { bytes, inodes });
        assert!(of_tree(&root.join("link")).is_err());
        assert!(of_tree(&root.join("gone")).is_err());
    }

    #[test]
    fn a_filesystem_has_a_size() {
        let found = capacity(Path::new("/")).unwrap();
        assert!(found.bytes > 0 && found.inodes >= found.inodes_free);
        assert!(capacity(Path::new("/no/such/path")).is_err());
    }
}
