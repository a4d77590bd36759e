//! What an archive may do: how far it may grow, and where its paths and links may lead.

use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

/// The decompressed stream; past its cap it is an error, not an end.
pub struct Capped<R> {
    pub inner: R,
    pub left: u64,
}

/// Marks the error of [`Capped`] among those of the reader.
#[derive(Debug, thiserror::Error)]
#[error("the decompressed archive is larger than allowed")]
pub struct CapReached;

impl<R: Read> Read for Capped<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // One byte more than is left tells an archive of exactly the cap from a larger one.
        let room = usize::try_from(self.left.saturating_add(1)).unwrap_or(usize::MAX);
        let room = room.min(buffer.len());
        let n = self
            .inner
            .read(buffer.get_mut(..room).unwrap_or_default())?;
        self.left = self
            .left
            .checked_sub(n as u64)
            .ok_or_else(|| io::Error::other(CapReached))?;
        Ok(n)
    }
}

/// A member's path without `./`; absolute ones and those with `..` are refused, also where they would
/// come back inside.
pub fn inside(path: &Path) -> Result<PathBuf, String> {
    if path.as_os_str().as_bytes().contains(&0) {
        return Err("has a zero byte in its path".to_owned());
    }
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => clean.push(name),
            Component::CurDir => {}
            Component::ParentDir => return Err("has `..` in its path".to_owned()),
            Component::RootDir | Component::Prefix(_) => {
                return Err("has an absolute path".to_owned());
            }
        }
    }
    Ok(clean)
}

/// May a symlink in a folder `depth` levels below the destination say this? `..` only at the start:
/// after a name it would depend on where that name, perhaps a link itself, leads.
pub fn stays_inside(target: &Path, depth: usize) -> bool {
    let mut up = 0;
    let mut named = false;
    for part in target.components() {
        match part {
            Component::ParentDir if named => return false,
            Component::ParentDir => up += 1,
            Component::Normal(_) => named = true,
            Component::CurDir => {}
            Component::RootDir | Component::Prefix(_) => return false,
        }
    }
    named && up <= depth
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        assert_eq!(inside(Path::new("./a//b/./c")), Ok("a/b/c".into()));
        assert_eq!(inside(Path::new("./")), Ok(PathBuf::new()));
        for bad in ["/a", "../a", "a/../b", "a/..", "a\0b"] {
            assert!(inside(Path::new(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn symlink_targets() {
        for (target, depth) in [("a", 0), ("./a/b", 0), ("../a", 1), ("../../a/b", 2)] {
            assert!(stays_inside(Path::new(target), depth), "{target}");
        }
        let bad = [
            ("/a", 3),
            ("../a", 0),
            ("../../a", 1),
            ("a/../b", 3),
            ("..", 1),
            ("", 0),
            (".", 0),
        ];
        for (target, depth) in bad {
            assert!(!stays_inside(Path::new(target), depth), "{target}");
        }
    }

    #[test]
    fn a_stream_of_exactly_the_cap_passes() {
        let read = |left| {
            io::copy(
                &mut Capped {
                    inner: &b"12345"[..],
                    left,
                },
                &mut io::sink(),
            )
        };
        assert_eq!(read(5).unwrap(), 5);
        assert!(read(4).unwrap_err().get_ref().unwrap().is::<CapReached>());
    }
}
