//! Files that are whole or absent after a crash, and deletions that cannot leave their folder.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};

/// Writes `bytes` to `path` so that after a crash either the old or the new file stands there, whole:
/// temporary file beside it, fsync, rename, fsync of the folder. `mode` holds whatever the umask is.
pub fn write_atomic(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let folder = parent(path)?;
    let temp = temp_beside(folder, bytes, mode)?;
    temp.as_file().sync_all()?;
    temp.persist(path).map_err(|e| e.error)?;
    sync_dir(folder)
}

/// As [`write_atomic`] without the fsyncs: whole after a crash of ours, not after a power cut. For
/// what a reboot makes void anyway.
pub fn write_replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let temp = temp_beside(parent(path)?, bytes, mode)?;
    temp.persist(path).map_err(|e| e.error)?;
    Ok(())
}

fn temp_beside(folder: &Path, bytes: &[u8], mode: u32) -> io::Result<tempfile::NamedTempFile> {
    let mut temp = tempfile::Builder::new()
        .prefix(".tmp-")
        .permissions(fs::Permissions::from_mode(0o600))
        .tempfile_in(folder)?;
    temp.write_all(bytes)?;
    temp.as_file()
        .set_permissions(fs::Permissions::from_mode(mode))?;
    Ok(temp)
}

/// Makes the names in a folder durable.
pub fn sync_dir(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Reads a file of at most `cap` bytes; a larger one is an error (`InvalidData`), not a cut.
pub fn read_capped(path: &Path, cap: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(cap + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > cap {
        let message = format!("{} is larger than {cap} bytes", path.display());
        return Err(io::Error::new(io::ErrorKind::InvalidData, message));
    }
    Ok(bytes)
}

/// Removes the tree or file `relative` below `root`, without following a symlink at any level and
/// without leaving `root` or its mount. What is already gone is no error.
pub fn remove_tree(root: &Path, relative: &Path) -> io::Result<()> {
    let name = relative.file_name().ok_or_else(|| outside(relative))?;
    if relative
        .components()
        .any(|c| !matches!(c, Component::Normal(_)))
    {
        return Err(outside(relative));
    }
    let folder = match open_beneath(root, relative.parent().unwrap_or(Path::new(""))) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    remove_at(&folder, name, 0)
}

/// Opens a folder below `root`; symlinks, `..` and other mounts on the way are refused by the kernel.
pub fn open_beneath(root: &Path, relative: &Path) -> io::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let root = nix::fcntl::open(root, flags, Mode::empty())?;
    if relative.as_os_str().is_empty() {
        return Ok(root);
    }
    let how = OpenHow::new().flags(flags).resolve(
        ResolveFlag::RESOLVE_BENEATH
            | ResolveFlag::RESOLVE_NO_SYMLINKS
            | ResolveFlag::RESOLVE_NO_XDEV,
    );
    Ok(openat2(&root, relative, how)?)
}

/// Deeper trees than this are refused rather than recursed into.
const DEEPEST: u32 = 4096;

fn remove_at(folder: &OwnedFd, name: &OsStr, depth: u32) -> io::Result<()> {
    if depth > DEEPEST {
        return Err(io::Error::other(
            "the tree is nested too deeply to be removed",
        ));
    }
    match unlinkat(folder, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => return Ok(()),
        Err(Errno::EISDIR) => {}
        Err(e) => return Err(e.into()),
    }
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    // The device would not tell: a bind mount may be of the same one.
    let resolve = ResolveFlag::RESOLVE_NO_XDEV | ResolveFlag::RESOLVE_NO_SYMLINKS;
    let child = openat2(folder, name, OpenHow::new().flags(flags).resolve(resolve))?;
    let mut names = Vec::new();
    for entry in Dir::from_fd(child.try_clone()?)?.iter() {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push((entry.file_name().to_owned(), entry.file_type()));
        }
    }
    for (entry, kind) in names {
        if kind.is_some_and(|k| k != Type::Directory) {
            match unlinkat(&child, entry.as_c_str(), UnlinkatFlags::NoRemoveDir) {
                Ok(()) | Err(Errno::ENOENT) => continue,
                Err(Errno::EISDIR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        use std::os::unix::ffi::OsStrExt;
        remove_at(&child, OsStr::from_bytes(entry.to_bytes()), depth + 1)?;
    }
    match unlinkat(folder, name, UnlinkatFlags::RemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// The folder that holds `path`.
fn parent(path: &Path) -> io::Result<&Path> {
    match path.parent() {
        Some(p) if p.as_os_str().is_empty() => Ok(Path::new(".")),
        Some(p) => Ok(p),
        None => Err(outside(path)),
    }
}

fn outside(path: &Path) -> io::Error {
    let message = format!("{} names nothing inside its folder", path.display());
    io::Error::new(io::ErrorKind::InvalidInput, message)
}

/// Joins an absolute path from configuration or from a plan to another root, e.g. `/etc/x` below
/// `/mnt/image`.
pub fn under(root: &Path, absolute: &Path) -> PathBuf {
    root.join(absolute.strip_prefix("/").unwrap_or(absolute))
}

/// A file descriptor's path in /proc, for calls that take only paths.
pub fn fd_path(fd: impl AsFd) -> PathBuf {
    use std::os::fd::AsRawFd;
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn write_atomic_replaces_and_sets_the_mode() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        write_atomic(&path, b"one", 0o640).unwrap();
        write_atomic(&path, b"two", 0o600).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o7777,
            0o600
        );
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn remove_tree_does_not_follow_links() {
        let dir = tempfile::tempdir().unwrap();
        let kept = dir.path().join("kept");
        fs::create_dir_all(kept.join("deep")).unwrap();
        let tree = dir.path().join("root/tree/a/b");
        fs::create_dir_all(&tree).unwrap();
        symlink(&kept, tree.join("link")).unwrap();
        symlink(&kept, dir.path().join("root/alias")).unwrap();
        let root = dir.path().join("root");
        remove_tree(&root, Path::new("tree")).unwrap();
        assert!(!root.join("tree").exists());
        assert!(remove_tree(&root, Path::new("alias/deep")).is_err());
        remove_tree(&root, Path::new("alias")).unwrap();
        assert!(kept.join("deep").exists());
        remove_tree(&root, Path::new("never/was")).unwrap();
    }

    #[test]
    fn remove_tree_refuses_paths_that_leave() {
        let dir = tempfile::tempdir().unwrap();
        for bad in ["..", "a/../..", "/etc", ""] {
            assert!(remove_tree(dir.path(), Path::new(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn read_capped_refuses_the_larger() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        fs::write(&path, b"12345").unwrap();
        assert_eq!(read_capped(&path, 5).unwrap(), b"12345");
        assert!(read_capped(&path, 4).is_err());
    }
}
