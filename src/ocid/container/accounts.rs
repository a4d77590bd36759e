//! Lines in /etc/passwd and /etc/group for a container's user and group where its image has none, so
//! that programs which look themselves up find a name and a home.
//!
//! As CRI-O does it: a copy of the image's file with one more line, mounted over it. None where the
//! image has no such file, where a mount of the user's own covers it, and where the container's user
//! could write the line itself, which images made for arbitrary user ids do at their start.

use std::path::{Path, PathBuf};

use super::error::SpecError;
use super::user::{LARGEST_FILE, ResolvedUser};
use crate::host::fs::write_replace;
use crate::host::rooted::Rooted;
use crate::host::users;

/// Copies to be mounted: where on the machine, where in the container.
pub(super) type Copies = Vec<(PathBuf, &'static str)>;

/// Writes the copies that `user` needs to `folder`; `home` is where it is at home.
pub(super) fn copies(
    rootfs: &Rooted,
    folder: &Path,
    user: &ResolvedUser,
    home: &str,
    is_covered: impl Fn(&Path) -> bool,
) -> Result<Copies, SpecError> {
    let (uid, gid) = (user.uid, user.gid);
    // A colon or line break would be another field or line.
    let home = if home.contains([':', '\n']) {
        "/"
    } else {
        home
    };
    let mut copies = Copies::new();
    let mut add = |target: &'static str, known: fn(&[u8], u32) -> bool, id, line: String| {
        if is_covered(Path::new(target)) {
            return Ok(());
        }
        let written = copy(rootfs, folder, target, id, known, &line);
        let written = written.map_err(|e| SpecError::io("add a line to the image's", target, e))?;
        copies.extend(written.map(|path| (path, target)));
        Ok::<(), SpecError>(())
    };
    add(
        "/etc/passwd",
        |file, uid| users::passwd(file).iter().any(|p| p.uid == uid),
        uid,
        format!("{uid}:x:{uid}:{gid}:{uid} user:{home}:/sbin/nologin\n"),
    )?;
    add(
        "/etc/group",
        |file, gid| users::group(file).iter().any(|g| g.gid == gid),
        gid,
        format!("{gid}:x:{gid}:\n"),
    )?;
    Ok(copies)
}

/// The copy of one file; None where there is no need or no place for the line.
fn copy(
    rootfs: &Rooted,
    folder: &Path,
    target: &str,
    id: u32,
    known: fn(&[u8], u32) -> bool,
    line: &str,
) -> std::io::Result<Option<PathBuf>> {
    let path = Path::new(target);
    let Some((mode, uid, gid)) = rootfs.owner(path)? else {
        return Ok(None);
    };
    let owner = if target == "/etc/group" { gid } else { uid };
    let writable = mode & 0o022 != 0 || (owner == id && mode & 0o200 != 0);
    let mut bytes = rootfs.read(path, LARGEST_FILE)?.unwrap_or_default();
    if writable || bytes.is_empty() || known(&bytes, id) {
        return Ok(None);
    }
    if !bytes.ends_with(b"\n") {
        bytes.push(b'\n');
    }
    bytes.extend_from_slice(line.as_bytes());
    let name = path.file_name().unwrap_or(path.as_os_str());
    let copy = folder.join(name);
    write_replace(&copy, &bytes, mode)?;
    std::os::unix::fs::chown(&copy, Some(uid), Some(gid))?;
    Ok(Some(copy))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    struct Image(tempfile::TempDir);

    impl Image {
        fn new() -> Self {
            let image = Self(tempfile::tempdir().unwrap());
            fs::create_dir_all(image.0.path().join("root/etc")).unwrap();
            image.file("passwd", "root:x:0:0::/:/bin/sh", 0o644);
            image.file("group", "root:x:0:\n", 0o644);
            image
        }

        fn file(&self, name: &str, text: &str, mode: u32) {
            let path = self.0.path().join("root/etc").join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }

        /// The last line of every copy by name.
        fn copies(&self, uid: u32, gid: u32, home: &str) -> Vec<(String, String)> {
            let root = Rooted::open(&self.0.path().join("root")).unwrap();
            let user = ResolvedUser {
                uid,
                gid,
                supplemental: vec![gid],
            };
            let made = copies(&root, self.0.path(), &user, home, |_| false).unwrap();
            let last = |path: &PathBuf| {
                let text = fs::read_to_string(path).unwrap();
                text.lines().last().unwrap_or_default().to_owned()
            };
            made.iter()
                .map(|(path, at)| ((*at).to_owned(), last(path)))
                .collect()
        }
    }

    #[test]
    fn unknown_ids_get_a_line() {
        let image = Image::new();
        let lines = image.copies(1000, 2000, "/app");
        let of = |at: &str, line: &str| (at.to_owned(), line.to_owned());
        assert_eq!(
            lines,
            [
                of(
                    "/etc/passwd",
                    "1000:x:1000:2000:1000 user:/app:/sbin/nologin"
                ),
                of("/etc/group", "2000:x:2000:"),
            ]
        );
        let whole = fs::read_to_string(image.0.path().join("passwd")).unwrap();
        assert!(whole.starts_with("root:x:0:0::/:/bin/sh\n1000:"), "{whole}");
        assert_eq!(
            image.copies(1000, 0, "/a:b")[0].1,
            "1000:x:1000:0:1000 user:/:/sbin/nologin"
        );
        assert!(image.copies(0, 0, "/").is_empty());
    }

    #[test]
    fn files_that_are_left_alone() {
        let image = Image::new();
        image.file("passwd", "root:x:0:0::/:\n", 0o664);
        assert!(
            image.copies(1000, 0, "/").is_empty(),
            "the group may write it"
        );
        image.file("passwd", "", 0o644);
        assert!(
            image.copies(1000, 0, "/").is_empty(),
            "an empty file says something"
        );
        let root = image.0.path().join("root/etc");
        fs::remove_file(root.join("passwd")).unwrap();
        assert!(image.copies(1000, 0, "/").is_empty());
        fs::write(image.0.path().join("outside"), "evil:x:7:7::/:\n").unwrap();
        symlink(image.0.path().join("outside"), root.join("passwd")).unwrap();
        assert!(
            image.copies(1000, 0, "/").is_empty(),
            "not followed out of the root"
        );
        let covered = copies(
            &Rooted::open(&image.0.path().join("root")).unwrap(),
            image.0.path(),
            &ResolvedUser {
                uid: 5,
                gid: 5,
                supplemental: vec![],
            },
            "/",
            |path| path == Path::new("/etc/group"),
        );
        assert!(covered.unwrap().is_empty());
    }
}
