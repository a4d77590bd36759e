//! Records in the run root: whole or absent whenever a process dies, and without an fsync. After a crash of the
//! machine they mean nothing, since no process that they speak of is left, and a container's start and end must
//! not wait for a disk.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use serde::Serialize;

/// Replaces the file at `path`, mode 0600.
pub fn write(path: &Path, record: &impl Serialize) -> io::Result<()> {
    let folder = match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    };
    // A name of our own for the time being: two writers must not meet, and readers skip what begins with a dot.
    let mut temporary = tempfile::Builder::new()
        .prefix(".tmp-")
        .tempfile_in(folder)?;
    temporary.write_all(&serde_json::to_vec(record)?)?;
    temporary.persist(path).map_err(|e| e.error)?;
    Ok(())
}

/// Removes the file; none is no error.
pub fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_replaced_whole() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r.json");
        write(&path, &[1, 2, 3]).unwrap();
        write(&path, &[4]).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "[4]");
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        remove(&path).unwrap();
        remove(&path).unwrap();
        assert!(write(&dir.path().join("no/r.json"), &0).is_err());
    }
}
