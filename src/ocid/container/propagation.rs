//! Does a path of the machine lie on a mount that is shared or a slave? A mount that is to spread
//! must.

use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use super::error::SpecError;

/// The mounts of this mount namespace, with how they spread.
pub(super) struct Mounts(Vec<Entry>);

struct Entry {
    target: PathBuf,
    shared: bool,
    slave: bool,
}

impl Mounts {
    pub(super) fn read() -> Result<Self, SpecError> {
        let path = "/proc/thread-self/mountinfo";
        let bytes = fs::read(path).map_err(|e| SpecError::io("read", path, e))?;
        Ok(Self::parse(&bytes))
    }

    /// proc_pid_mountinfo(5): the fifth field is the mount point, the optional ones stand between
    /// the sixth and a `-`.
    fn parse(bytes: &[u8]) -> Self {
        let entry = |line: &[u8]| {
            let mut fields = line.split(|b| *b == b' ');
            let target = unescape(fields.nth(4)?);
            let optional: Vec<&[u8]> = fields.skip(1).take_while(|f| *f != b"-").collect();
            let any = |prefix: &[u8]| optional.iter().any(|f| f.starts_with(prefix));
            Some(Entry {
                target,
                shared: any(b"shared:"),
                slave: any(b"master:"),
            })
        };
        Self(bytes.split(|b| *b == b'\n').filter_map(entry).collect())
    }

    /// Is the mount that holds `path` shared?
    pub(super) fn is_shared(&self, path: &Path) -> bool {
        self.holding(path).is_some_and(|e| e.shared)
    }

    /// Is the mount that holds `path` shared or a slave?
    pub(super) fn is_shared_or_slave(&self, path: &Path) -> bool {
        self.holding(path).is_some_and(|e| e.shared || e.slave)
    }

    /// The deepest mount above the path; of several on one folder the last.
    fn holding(&self, path: &Path) -> Option<&Entry> {
        let above = self.0.iter().filter(|e| path.starts_with(&e.target));
        above.max_by_key(|e| e.target.components().count())
    }
}

/// The kernel writes blanks and backslashes as `\040` and the like.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let octal = after
            .get(..3)
            .filter(|_| *first == b'\\')
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match octal {
            Some(byte) => {
                bytes.push(byte);
                rest = after.get(3..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deepest_and_latest_mount_counts() {
        let mounts = Mounts::parse(
            b"1 0 8:1 / / rw shared:1 - ext4 /dev/sda rw\n\
              2 1 0:5 / /mnt rw - tmpfs t rw\n\
              3 1 0:6 / /mnt/a\\040b rw,noexec master:7 - tmpfs t rw\n\
              4 1 0:7 / /twice rw - tmpfs t rw\n\
              5 4 0:8 / /twice rw shared:2 propagate_from:9 - tmpfs t rw\nrubbish\n",
        );
        let at = |p: &str| {
            let path = Path::new(p);
            (mounts.is_shared(path), mounts.is_shared_or_slave(path))
        };
        assert_eq!(at("/srv"), (true, true));
        assert_eq!(at("/mnt/x"), (false, false));
        assert_eq!(at("/mntx"), (true, true));
        assert_eq!(at("/mnt/a b/c"), (false, true));
        assert_eq!(at("/twice"), (true, true));
    }

    #[test]
    fn this_machines_root_is_found() {
        let mounts = Mounts::read().unwrap();
        assert!(mounts.holding(Path::new("/")).is_some());
    }

    #[test]
    fn escapes() {
        assert_eq!(unescape(b"/a\\134b\\0"), Path::new("/a\\b\\0"));
    }
}
