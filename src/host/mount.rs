//! Mounts: make, find, undo.
//!
//! Undoing is idempotent everywhere, so that a clean-up can run again after a crash: a path that is
//! not mounted on, or not there, is what the caller wants. Unmounts are lazy (`MNT_DETACH`): a
//! process that still holds a file open below must not keep a pod from being removed. They never
//! follow a symlink (`UMOUNT_NOFOLLOW`).
#![allow(unsafe_code)]

use std::ffi::{CString, OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, umount2};

use super::context::during;

/// One line of `/proc/PID/mountinfo` (proc_pid_mountinfo(5)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountPoint {
    /// The folder of the file system that stands at the mount point; `/` unless it is a bind mount.
    pub root: PathBuf,
    pub target: PathBuf,
    pub fs_type: String,
    pub source: OsString,
    /// The super block's options, comma-separated: controllers for a cgroup mount, layers for an
    /// overlay.
    pub options: OsString,
}

/// Every mount of this mount namespace, parents before children, later mounts on the same path last.
/// Costs time in proportion to all mounts: to ask about one path use [`is_mounted`].
pub fn all() -> io::Result<Vec<MountPoint>> {
    let path = "/proc/thread-self/mountinfo";
    let bytes = fs::read(path).map_err(during(format_args!("read `{path}`")))?;
    parse(&bytes).ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("`{path}` has a line that is no mount"),
        )
    })
}

/// The mount points at or below `folder` (an absolute path without symlinks), parents first.
/// A path that is mounted on twice is there twice.
pub fn at_or_below(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let targets = all()?.into_iter().map(|m| m.target);
    Ok(targets.filter(|t| t.starts_with(folder)).collect())
}

/// Is something mounted on this very path? `false` where there is no such path. One system call
/// (statx(2), `STATX_ATTR_MOUNT_ROOT`, Linux 5.8), whatever the number of mounts.
pub fn is_mounted(path: &Path) -> io::Result<bool> {
    let text = CString::new(path.as_os_str().as_bytes())?;
    let flags = libc::AT_SYMLINK_NOFOLLOW | libc::AT_NO_AUTOMOUNT;
    // SAFETY: `statx` is plain old data, for which all zeroes is a value.
    let mut found: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: the path is a C string and `found` a statx that outlive the call.
    let failed = unsafe { libc::statx(libc::AT_FDCWD, text.as_ptr(), flags, 0, &mut found) };
    let root = libc::STATX_ATTR_MOUNT_ROOT as u64;
    if failed != 0 {
        return match Errno::last() {
            Errno::ENOENT | Errno::ENOTDIR => Ok(false),
            e => Err(during(format_args!("look up `{}`", path.display()))(e)),
        };
    }
    if found.stx_attributes_mask & root == 0 {
        return Ok(all()?.iter().any(|m| m.target == path));
    }
    Ok(found.stx_attributes & root != 0)
}

/// mount(2), with an error that names type and target.
pub fn mount(
    source: &Path,
    target: &Path,
    fs_type: Option<&str>,
    flags: MsFlags,
    data: Option<&OsStr>,
) -> io::Result<()> {
    nix::mount::mount(Some(source), target, fs_type, flags, data).map_err(during(format_args!(
        "mount {} on `{}`",
        fs_type.map_or_else(|| format!("`{}`", source.display()), |kind| kind.to_owned()),
        target.display()
    )))
}

/// A tmpfs on `target`, of at most `size` bytes, without devices, programs or setuid: `/dev/shm`.
/// `mode` is that of its root folder, `owner` its user and group, else the machine's root.
pub fn tmpfs(target: &Path, size: u64, mode: u32, owner: Option<(u32, u32)>) -> io::Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let (uid, gid) = owner.unwrap_or((0, 0));
    let data = OsString::from(format!("mode={mode:o},size={size},uid={uid},gid={gid}"));
    mount(Path::new("shm"), target, Some("tmpfs"), flags, Some(&data))
}

/// Shows `source` (a folder or a file) at `target`, which must exist. Mounts below `source` do not
/// come along.
pub fn bind(source: &Path, target: &Path) -> io::Result<()> {
    mount(source, target, None, MsFlags::MS_BIND, None)
}

/// Takes away whatever is mounted on this path, all layers of it. Nothing mounted, or no such path:
/// done.
pub fn unmount(path: &Path) -> io::Result<()> {
    loop {
        match umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => {}
            Err(Errno::EINVAL | Errno::ENOENT | Errno::ENOTDIR) => return Ok(()),
            Err(e) => return Err(during(format_args!("unmount `{}`", path.display()))(e)),
        }
    }
}

/// Takes away every mount at or below `folder` (an absolute path without symlinks), deepest first.
/// Goes on after a failure, whose error it then returns.
pub fn unmount_below(folder: &Path) -> io::Result<()> {
    let mut result = Ok(());
    for target in at_or_below(folder)?.iter().rev() {
        let done = unmount(target);
        result = result.and(done);
    }
    result
}

/// Parses mountinfo; `None` when a line does not have its fields.
fn parse(bytes: &[u8]) -> Option<Vec<MountPoint>> {
    let lines = bytes.split(|b| *b == b'\n').filter(|l| !l.is_empty());
    lines.map(parse_line).collect()
}

fn parse_line(line: &[u8]) -> Option<MountPoint> {
    let mut fields = line.split(|b| *b == b' ');
    let root = unescape(fields.nth(3)?);
    let target = unescape(fields.next()?);
    // Any number of optional fields, ended by a lone dash.
    fields.find(|f| *f == b"-")?;
    let fs_type = String::from_utf8_lossy(fields.next()?).into_owned();
    Some(MountPoint {
        root: root.into(),
        target: target.into(),
        fs_type,
        source: unescape(fields.next()?),
        options: unescape(fields.next()?),
    })
}

/// The kernel writes space, tab, newline and backslash as a backslash and three octal digits.
fn unescape(field: &[u8]) -> OsString {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        match (first, tail) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', tail @ ..]) => {
                bytes.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = tail;
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    OsString::from_vec(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::namespace::tests::with_private_mounts;

    #[test]
    fn mountinfo_is_read_with_its_escapes() {
        let text = b"36 35 98:0 / /a\\040b rw,noatime shared:1 master:2 - ext4 /dev/x\\134y rw\n\
            37 36 0:5 /sub /c rw - cgroup cgroup rw,cpu,cpuacct\n";
        let mounts = parse(text).unwrap();
        assert_eq!(mounts[0].target, Path::new("/a b"));
        assert_eq!(mounts[0].source, "/dev/x\\y");
        assert_eq!(mounts[1].root, Path::new("/sub"));
        assert_eq!(mounts[1].options, "rw,cpu,cpuacct");
        assert_eq!(parse(b"36 35 98:0 / /a rw\n"), None);
        assert_eq!(parse(b"").unwrap(), []);
        assert_eq!(unescape(b"\\04"), "\\04");
    }

    #[test]
    fn the_root_is_a_mount_and_a_plain_folder_is_none() {
        let dir = tempfile::tempdir().unwrap();
        assert!(is_mounted(Path::new("/proc")).unwrap());
        assert!(!is_mounted(dir.path()).unwrap());
        assert!(!is_mounted(&dir.path().join("gone")).unwrap());
        assert!(all().unwrap().iter().any(|m| m.target == Path::new("/")));
    }

    #[test]
    fn mounts_are_found_and_undone_down_to_the_last() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        with_private_mounts(|| {
            let (a, b) = (root.join("a"), root.join("a/b"));
            fs::create_dir(&a).unwrap();
            tmpfs(&a, 1 << 20, 0o1777, None).unwrap();
            fs::create_dir(&b).unwrap();
            tmpfs(&b, 1 << 20, 0o700, None).unwrap();
            bind(&a, &b).unwrap();
            assert!(is_mounted(&b).unwrap());
            assert_eq!(
                at_or_below(&root).unwrap(),
                [a.as_path(), b.as_path(), b.as_path()]
            );
            fs::write(a.join("f"), vec![0; 2 << 20]).expect_err("larger than the tmpfs");
            unmount_below(&root).unwrap();
            assert!(at_or_below(&root).unwrap().is_empty());
            assert!(!is_mounted(&a).unwrap());
            unmount(&a).unwrap();
            unmount(&root.join("never/was")).unwrap();
        });
    }

    #[test]
    fn a_symlink_is_not_followed_to_another_mount() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        with_private_mounts(|| {
            let (kept, link) = (root.join("kept"), root.join("link"));
            fs::create_dir(&kept).unwrap();
            tmpfs(&kept, 1 << 20, 0o755, None).unwrap();
            std::os::unix::fs::symlink(&kept, &link).unwrap();
            unmount(&link).unwrap();
            assert!(is_mounted(&kept).unwrap());
            assert!(!is_mounted(&link).unwrap());
            unmount(&kept).unwrap();
        });
    }
}
