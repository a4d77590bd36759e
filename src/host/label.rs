//! SELinux labels of files: the extended attribute `security.selinux`.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::dir::{Dir, Type};
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::{Mode, SFlag, fstat};

use super::fs::fd_path;

const ATTRIBUTE: &str = "security.selinux";
/// Deeper trees are nobody's volume; each level holds a descriptor.
const DEEPEST: u32 = 512;

/// Labels one file or folder. A filesystem that has no labels is left as it is.
pub fn label(path: &Path, label: &str) -> io::Result<()> {
    set(
        &open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?,
        label,
    )
}

/// Labels a file, or a folder with everything below it. Symlinks are neither followed nor labelled, not
/// even those that somebody puts in place meanwhile.
pub fn label_tree(path: &Path, label: &str) -> io::Result<()> {
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    tree(&open(path, flags, Mode::empty())?, label, 0)
}

fn tree(fd: &OwnedFd, label: &str, depth: u32) -> io::Result<()> {
    let kind = SFlag::from_bits_truncate(fstat(fd)?.st_mode) & SFlag::S_IFMT;
    if kind == SFlag::S_IFLNK {
        return Ok(());
    }
    set(fd, label)?;
    if kind != SFlag::S_IFDIR {
        return Ok(());
    }
    if depth == DEEPEST {
        let message = format!("folders within folders, more than {DEEPEST}");
        return Err(io::Error::other(message));
    }
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let mut folder = Dir::from_fd(openat(fd, ".", flags, Mode::empty())?)?;
    let mut names = Vec::new();
    for entry in folder.iter() {
        let entry = entry?;
        let name = entry.file_name();
        if !matches!(name.to_bytes(), b"." | b"..") && entry.file_type() != Some(Type::Symlink) {
            names.push(name.to_owned());
        }
    }
    for name in names {
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        match openat(fd, name.as_c_str(), flags, Mode::empty()) {
            Ok(child) => tree(&child, label, depth + 1)?,
            // It went while we looked.
            Err(nix::errno::Errno::ENOENT) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

fn set(fd: impl AsFd, label: &str) -> io::Result<()> {
    // The kernel's own labels end with a NUL.
    let mut value = label.as_bytes().to_vec();
    value.push(0);
    match xattr::set_deref(fd_path(fd), ATTRIBUTE, &value) {
        Err(e) if e.raw_os_error() == Some(libc::ENOTSUP) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn everything_below_and_nothing_beyond() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: only root may set labels");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("volume/a/b")).unwrap();
        fs::write(at("volume/a/b/file"), "").unwrap();
        fs::write(at("outside"), "").unwrap();
        symlink(at("outside"), at("volume/a/link")).unwrap();
        label_tree(&at("volume"), "u:r:t:s0:c1,c2").unwrap();
        let of = |name: &str| {
            let value = xattr::get(at(name), ATTRIBUTE).unwrap();
            value.map(|v| String::from_utf8(v).unwrap())
        };
        for name in ["volume", "volume/a", "volume/a/b", "volume/a/b/file"] {
            assert_eq!(of(name).as_deref(), Some("u:r:t:s0:c1,c2\0"), "{name}");
        }
        assert_eq!((of("outside"), of("volume/a/link")), (None, None));
        label_tree(&at("volume/a/link"), "other").unwrap();
        label(&at("volume"), "one").unwrap();
        assert_eq!(of("volume").as_deref(), Some("one\0"));
        assert_eq!(of("volume/a").as_deref(), Some("u:r:t:s0:c1,c2\0"));
        assert_eq!(of("outside"), None);
        assert!(label_tree(&at("none"), "x").is_err());
    }
}
