//! Mounts that hang nowhere yet, and id-mapped ones among them: what belongs to user 0 on disk is seen
//! as the user's that a user namespace has in its place (mount_setattr(2), `MOUNT_ATTR_IDMAP`).
#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2};
use nix::sched::{CloneFlags, setns, unshare};

use super::context::during;
use super::namespace::{IdMap, IdMaps, on_a_thread, user_namespace};

const OPEN_TREE_CLONE: libc::c_uint = 1;
const AT_RECURSIVE: libc::c_uint = 0x8000;
const MOVE_MOUNT_F_EMPTY_PATH: libc::c_uint = 4;
const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;

/// mount_setattr(2).
#[repr(C)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

/// A copy of a mount. It goes with the last descriptor unless it is attached somewhere.
#[derive(Debug)]
pub struct Detached(OwnedFd);

impl Detached {
    /// Of what is mounted at `source`, or a bind mount of it; with `deep` also of the mounts below.
    pub fn copy(source: &Path, deep: bool) -> io::Result<Self> {
        let text = CString::new(source.as_os_str().as_bytes())?;
        open_tree(libc::AT_FDCWD, &text, recursive(deep))
            .map(Self)
            .map_err(during(format_args!(
                "copy the mount `{}`",
                source.display()
            )))
    }

    /// Of what stands at `source` in another mount namespace, without the mounts below. No link is followed
    /// there: it is somebody's who may not choose what we copy.
    pub fn copy_from(mounts: &Path, source: &Path) -> io::Result<Self> {
        let shown = mounts.display();
        let namespace = File::open(mounts).map_err(during(format_args!("open `{shown}`")))?;
        let within = on_a_thread("foreign-mount", || {
            // A thread that shares its current folder with others may not leave their mounts.
            unshare(CloneFlags::CLONE_FS)?;
            setns(&namespace, CloneFlags::CLONE_NEWNS)
                .map_err(during(format_args!("enter the mounts `{shown}`")))?;
            let how = OpenHow::new()
                .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
                .resolve(ResolveFlag::RESOLVE_NO_SYMLINKS);
            let found = openat2(AT_FDCWD, source, how);
            let found = found.map_err(during(format_args!("open `{}`", source.display())))?;
            open_tree(found.as_raw_fd(), c"", libc::AT_EMPTY_PATH.cast_unsigned()).map_err(during(
                format_args!("copy the mount `{}`", source.display()),
            ))
        });
        within.and_then(|copy| copy).map(Self)
    }

    /// Maps ids as `user_namespace` does. `EINVAL` where a file system in it cannot (NFS), `EPERM` where
    /// it is mapped already.
    pub fn map_ids(&self, user_namespace: &File, deep: bool) -> io::Result<()> {
        let userns_fd = u64::try_from(user_namespace.as_raw_fd()).map_err(io::Error::other)?;
        let attributes = MountAttr {
            attr_set: MOUNT_ATTR_IDMAP,
            attr_clr: 0,
            propagation: 0,
            userns_fd,
        };
        let flags = libc::AT_EMPTY_PATH.cast_unsigned() | recursive(deep);
        // SAFETY: two open descriptors, an empty C string, and a struct of the given size, all of which
        // outlive the call.
        let set = unsafe {
            libc::syscall(
                libc::SYS_mount_setattr,
                self.0.as_raw_fd(),
                c"".as_ptr(),
                flags,
                &raw const attributes,
                size_of::<MountAttr>(),
            )
        };
        Errno::result(set).map_err(during("map the ids of a mount"))?;
        Ok(())
    }

    /// Shows it at `target`, which must be there.
    pub fn attach(&self, target: &Path) -> io::Result<()> {
        let text = CString::new(target.as_os_str().as_bytes())?;
        // SAFETY: an open descriptor and two C strings that outlive the call.
        let moved = unsafe {
            libc::syscall(
                libc::SYS_move_mount,
                self.0.as_raw_fd(),
                c"".as_ptr(),
                libc::AT_FDCWD,
                text.as_ptr(),
                MOVE_MOUNT_F_EMPTY_PATH,
            )
        };
        Errno::result(moved).map_err(during(format_args!("mount on `{}`", target.display())))?;
        Ok(())
    }
}

/// open_tree(2) of a copy: `path` from the folder `at`, or `at` itself.
fn open_tree(at: RawFd, path: &CStr, flags: libc::c_uint) -> Result<OwnedFd, Errno> {
    let flags = flags | OPEN_TREE_CLONE | libc::O_CLOEXEC.cast_unsigned();
    // SAFETY: the path is a C string that outlives the call.
    let fd = unsafe { libc::syscall(libc::SYS_open_tree, at, path.as_ptr(), flags) };
    let fd = i32::try_from(Errno::result(fd)?).map_err(|_| Errno::EBADF)?;
    // SAFETY: a descriptor that the kernel has just made, owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn recursive(deep: bool) -> libc::c_uint {
    if deep { AT_RECURSIVE } else { 0 }
}

/// Can the ids of what lies in `folder` be mapped? Tries it: kernel (5.12) and file system decide.
pub fn is_possible(folder: &Path) -> io::Result<()> {
    let map = IdMap {
        inside: 0,
        outside: 1 << 16,
        length: 1 << 16,
    };
    let maps = IdMaps {
        uids: vec![map],
        gids: vec![map],
    };
    let namespace = user_namespace(&maps)?;
    Detached::copy(folder, false)?.map_ids(&namespace, false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::mount;
    use crate::host::namespace::tests::with_private_mounts;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, chown};

    #[test]
    fn owners_are_seen_mapped_and_stay_as_they_are_on_disk() {
        let dir = tempfile::tempdir().unwrap();
        let (real, shown) = (dir.path().join("real"), dir.path().join("shown"));
        fs::create_dir(&real).unwrap();
        fs::create_dir(&shown).unwrap();
        fs::write(real.join("f"), "x").unwrap();
        chown(real.join("f"), Some(7), Some(8)).unwrap();
        let map = |outside| IdMap {
            inside: 0,
            outside,
            length: 1000,
        };
        let maps = IdMaps {
            uids: vec![map(200_000)],
            gids: vec![map(300_000)],
        };
        with_private_mounts(|| {
            is_possible(&real).unwrap();
            let namespace = user_namespace(&maps).unwrap();
            let copy = Detached::copy(&real, true).unwrap();
            copy.map_ids(&namespace, true).unwrap();
            copy.map_ids(&namespace, true).expect_err("it is mapped");
            copy.attach(&shown).unwrap();
            let owner = |path: &Path| {
                let found = fs::metadata(path).unwrap();
                (found.uid(), found.gid())
            };
            assert_eq!(owner(&shown.join("f")), (200_007, 300_008));
            assert_eq!(owner(&real.join("f")), (7, 8));
            mount::unmount(&shown).unwrap();
            assert_eq!(maps.owner(7, 999), Some((200_007, 300_999)));
            assert_eq!(maps.owner(7, 1000), None);
        });
        let e = Detached::copy(&dir.path().join("gone"), false).unwrap_err();
        assert_eq!(e.kind(), io::ErrorKind::NotFound);
        is_possible(Path::new("/proc")).expect_err("proc has no owners to map");
    }
}
