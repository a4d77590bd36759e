//! Files inside another root (a container's filesystem): symlinks and `..` are resolved as a process
//! chrooted there would see them, by the kernel (openat2(2), RESOLVE_IN_ROOT), so that no path in a
//! hostile image leads out.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, open, openat2, readlinkat};
use nix::sys::stat::{Mode, SFlag, fchmod, fstat, mkdirat};
use nix::unistd::{Gid, Uid, fchown, fchownat, symlinkat};

use super::fs::fd_path;

/// A lookup that raced with a rename elsewhere is repeated this often.
const ATTEMPTS: u32 = 16;
/// As many symlinks as the kernel follows in one path.
const MOST_LINKS: u32 = 40;

/// An open root.
#[derive(Debug)]
pub struct Rooted(OwnedFd);

impl Rooted {
    pub fn open(root: &Path) -> io::Result<Self> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        Ok(Self(open(root, flags, Mode::empty())?))
    }

    /// A regular file's content, at most `cap` bytes; None where there is none. A larger file and
    /// one that is not regular (a fifo would hang us) are errors.
    pub fn read(&self, path: &Path, cap: u64) -> io::Result<Option<Vec<u8>>> {
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        let fd = match self.lookup(path, flags) {
            Ok(fd) => fd,
            Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        if SFlag::from_bits_truncate(fstat(&fd)?.st_mode) & SFlag::S_IFMT != SFlag::S_IFREG {
            return Err(invalid(path, "is not a regular file"));
        }
        let mut bytes = Vec::new();
        File::from(fd)
            .take(cap.saturating_add(1))
            .read_to_end(&mut bytes)?;
        if bytes.len() as u64 > cap {
            return Err(invalid(path, "is larger than it can sensibly be"));
        }
        Ok(Some(bytes))
    }

    /// Where something in the root is, as this process reaches it, all links resolved; None where
    /// there is nothing. It stays there only as long as nobody writes in the root.
    pub fn resolve(&self, path: &Path) -> io::Result<Option<PathBuf>> {
        match self.lookup(path, OFlag::O_PATH) {
            Ok(fd) => std::fs::read_link(fd_path(&fd)).map(Some),
            Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// Mode, owner and group of a regular file; None where there is none.
    pub fn owner(&self, path: &Path) -> io::Result<Option<(u32, u32, u32)>> {
        match self.lookup(path, OFlag::O_PATH) {
            Ok(fd) => {
                let meta = fstat(&fd)?;
                let regular = meta.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFREG.bits();
                Ok(regular.then_some((meta.st_mode & 0o7777, meta.st_uid, meta.st_gid)))
            }
            Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// Makes a folder and those above it. New ones get this mode and, where given, this owner;
    /// existing ones are left as they are. A symlink to something missing is followed, and what it
    /// names is made.
    pub fn create_dir_all(
        &self,
        path: &Path,
        mode: u32,
        owner: Option<(u32, u32)>,
    ) -> io::Result<()> {
        let mut todo: Vec<OsString> = parts(path);
        todo.reverse();
        let mut done = PathBuf::new();
        let mut links = 0;
        while let Some(part) = todo.pop() {
            let next = done.join(&part);
            match self.lookup(&next, OFlag::O_PATH | OFlag::O_DIRECTORY) {
                Ok(_) => {
                    done = next;
                    continue;
                }
                Err(Errno::ENOENT) => {}
                Err(e) => return Err(e.into()),
            }
            let parent = self.lookup(&done, OFlag::O_PATH | OFlag::O_DIRECTORY)?;
            match mkdirat(&parent, part.as_os_str(), Mode::from_bits_truncate(mode)) {
                Ok(()) => {
                    let made = self.lookup(&next, OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
                    // The umask had a say in mkdir.
                    fchmod(&made, Mode::from_bits_truncate(mode))?;
                    if let Some((uid, gid)) = owner {
                        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
                        fchown(&made, Some(uid), Some(gid))?;
                    }
                    done = next;
                }
                Err(Errno::EEXIST) => {
                    links += 1;
                    if links > MOST_LINKS {
                        return Err(Errno::ELOOP.into());
                    }
                    let target = PathBuf::from(readlinkat(&parent, part.as_os_str())?);
                    if target.is_absolute() {
                        done = PathBuf::new();
                    }
                    todo.extend(parts(&target).into_iter().rev());
                }
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    /// Makes a symlink, given to `owner` where there is one; something that stands there already is left
    /// alone.
    pub fn symlink(&self, target: &Path, link: &Path, owner: Option<(u32, u32)>) -> io::Result<()> {
        let name = link
            .file_name()
            .ok_or_else(|| invalid(link, "names no file"))?;
        let folder = link.parent().unwrap_or(Path::new(""));
        let folder = self.lookup(folder, OFlag::O_PATH | OFlag::O_DIRECTORY)?;
        match symlinkat(target, folder.as_fd(), name) {
            Ok(()) => {}
            Err(Errno::EEXIST) => return Ok(()),
            Err(e) => return Err(e.into()),
        }
        if let Some((uid, gid)) = owner {
            let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
            let flags = AtFlags::AT_SYMLINK_NOFOLLOW;
            fchownat(folder.as_fd(), name, Some(uid), Some(gid), flags)?;
        }
        Ok(())
    }

    fn lookup(&self, path: &Path, flags: OFlag) -> nix::Result<OwnedFd> {
        let path = if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            path
        };
        let how = OpenHow::new()
            .flags(flags | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        let mut attempt = 0;
        loop {
            match openat2(&self.0, path, how) {
                // A rename or mount elsewhere got between; the kernel asks to try again.
                Err(Errno::EAGAIN) if attempt < ATTEMPTS => attempt += 1,
                other => return other,
            }
        }
    }
}

fn parts(path: &Path) -> Vec<OsString> {
    let name = |c: Component<'_>| match c {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some(OsStr::new("..").to_owned()),
        _ => None,
    };
    path.components().filter_map(name).collect()
}

fn invalid(path: &Path, problem: &str) -> io::Error {
    let message = format!("`{}` {problem}", path.display());
    io::Error::new(io::ErrorKind::InvalidData, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    struct Tree {
        dir: tempfile::TempDir,
        root: Rooted,
    }

    fn tree() -> Tree {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("root/etc")).unwrap();
        fs::create_dir(dir.path().join("outside")).unwrap();
        fs::write(dir.path().join("outside/secret"), "secret").unwrap();
        let root = Rooted::open(&dir.path().join("root")).unwrap();
        Tree { dir, root }
    }

    impl Tree {
        fn path(&self, relative: &str) -> PathBuf {
            self.dir.path().join("root").join(relative)
        }
    }

    #[test]
    fn links_are_read_inside_only() {
        let t = tree();
        fs::write(t.path("etc/passwd"), "inside").unwrap();
        symlink("/etc/passwd", t.path("absolute")).unwrap();
        symlink("../../../../etc/passwd", t.path("etc/climbing")).unwrap();
        symlink(t.dir.path().join("outside/secret"), t.path("leaving")).unwrap();
        symlink("/proc/self/root/etc", t.path("magic")).unwrap();
        let read = |p: &str| t.root.read(Path::new(p), 100).unwrap();
        assert_eq!(read("/absolute").unwrap(), b"inside");
        assert_eq!(read("/etc/climbing").unwrap(), b"inside");
        assert_eq!(read("/etc/../../etc/passwd").unwrap(), b"inside");
        assert_eq!(read("/leaving"), None);
        assert_eq!(read("/magic"), None);
        assert_eq!(read("/etc/none"), None);
    }

    #[test]
    fn paths_are_resolved_inside_only() {
        let t = tree();
        fs::create_dir_all(t.path("a/b")).unwrap();
        symlink("/a", t.path("link")).unwrap();
        symlink(t.dir.path().join("outside"), t.path("leaving")).unwrap();
        let at = |p: &str| t.root.resolve(Path::new(p)).unwrap();
        assert_eq!(at("link/b"), Some(t.path("a/b").canonicalize().unwrap()));
        assert_eq!(at("../../a"), Some(t.path("a").canonicalize().unwrap()));
        assert_eq!((at("leaving"), at("none")), (None, None));
        fs::write(t.path("etc/passwd"), "x").unwrap();
        fs::set_permissions(t.path("etc/passwd"), fs::Permissions::from_mode(0o640)).unwrap();
        let owner = |p: &str| t.root.owner(Path::new(p)).unwrap();
        let own = nix::unistd::geteuid().as_raw();
        let (mode, uid, _) = owner("/etc/passwd").unwrap();
        assert_eq!((mode, uid), (0o640, own));
        assert_eq!((owner("/etc"), owner("/etc/none")), (None, None));
    }

    #[test]
    fn odd_files_are_refused() {
        let t = tree();
        nix::unistd::mkfifo(&t.path("fifo"), Mode::S_IRWXU).unwrap();
        fs::write(t.path("large"), "12345").unwrap();
        assert!(t.root.read(Path::new("/fifo"), 100).is_err());
        assert!(t.root.read(Path::new("/etc"), 100).is_err());
        assert!(t.root.read(Path::new("/large"), 4).is_err());
        assert!(t.root.read(Path::new("/large"), 5).unwrap().is_some());
    }

    #[test]
    fn folders_are_made_inside_only() {
        let t = tree();
        let make = |p: &str| t.root.create_dir_all(Path::new(p), 0o750, None);
        make("/a/b").unwrap();
        make("/a/b").unwrap();
        make("/").unwrap();
        let mode = fs::metadata(t.path("a/b")).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o750);

        symlink("/var/lib/app", t.path("app")).unwrap();
        make("/app/data").unwrap();
        assert!(t.path("var/lib/app/data").is_dir());
        symlink(t.dir.path().join("outside"), t.path("leaving")).unwrap();
        make("/leaving/new").unwrap();
        assert!(!t.dir.path().join("outside/new").exists());
        symlink("../../up", t.path("etc/climbing")).unwrap();
        make("/etc/climbing/new").unwrap();
        assert!(t.path("up/new").is_dir());
        symlink("loop", t.path("loop")).unwrap();
        assert!(make("/loop/x").is_err());
        fs::write(t.path("file"), "").unwrap();
        assert!(make("/file/x").is_err());
    }

    #[test]
    fn only_new_folders_get_the_owner() {
        let t = tree();
        let own = (
            nix::unistd::geteuid().as_raw(),
            nix::unistd::getegid().as_raw(),
        );
        // Only root can give files away.
        let other = if own.0 == 0 { (1234, 5678) } else { own };
        let owner = Some(other);
        t.root
            .create_dir_all(Path::new("/etc/new"), 0o755, owner)
            .unwrap();
        let of = |p: &str| {
            let meta = fs::metadata(t.path(p)).unwrap();
            (meta.uid(), meta.gid())
        };
        assert_eq!(of("etc/new"), other);
        assert_eq!(of("etc"), own);
    }

    #[test]
    fn a_symlink_is_made_where_nothing_stands() {
        let t = tree();
        let link = |to: &str| t.root.symlink(Path::new(to), Path::new("/etc/mtab"), None);
        link("/proc/mounts").unwrap();
        link("/elsewhere").unwrap();
        assert_eq!(
            fs::read_link(t.path("etc/mtab")).unwrap(),
            Path::new("/proc/mounts")
        );
        assert!(
            t.root
                .symlink(Path::new("x"), Path::new("/no/such"), None)
                .is_err()
        );
    }
}
