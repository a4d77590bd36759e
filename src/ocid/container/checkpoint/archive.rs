//! The archive of a checkpoint: one tar, written while nobody can see it.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;

use tar::{Builder, EntryType, Header};

use super::describe::{BIND_MOUNTS, CONFIG, SPEC, STATUS};
use super::underway::Until;
use crate::ocid::runtime::checkpoint::LOG;

/// criu's images, in a folder.
pub const IMAGES: &str = "checkpoint";
/// What the container has added or changed in its filesystem.
pub const ROOTFS_DIFF: &str = "rootfs-diff.tar";
/// What it has deleted there.
pub const DELETED: &str = "deleted.files";
/// Its log, by containerd's name for it.
pub const CONTAINER_LOG: &str = "container.log";
/// criu's statistics.
const STATISTICS: &str = "stats-dump";

/// The small ones first, so that who only wants to know what it is need not read the memory.
const FILES: [&str; 9] = [
    CONFIG,
    SPEC,
    STATUS,
    BIND_MOUNTS,
    LOG,
    STATISTICS,
    DELETED,
    CONTAINER_LOG,
    ROOTFS_DIFF,
];

const BUFFER: usize = 256 << 10;

/// Writes what is collected in `folder` to `file`; a file that is not there is left out.
pub fn write(folder: &Path, file: &File, until: &Until) -> io::Result<()> {
    let mut tar = Builder::new(BufWriter::with_capacity(BUFFER, Sink { file, until }));
    for name in FILES {
        match File::open(folder.join(name)) {
            Ok(mut file) => tar.append_file(name, &mut file)?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
    }
    let images = folder.join(IMAGES);
    let mut header = Header::new_gnu();
    header.set_metadata(&fs::metadata(&images)?);
    header.set_entry_type(EntryType::Directory);
    header.set_size(0);
    tar.append_data(&mut header, format!("{IMAGES}/"), io::empty())?;
    let mut names = Vec::new();
    for entry in fs::read_dir(&images)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            names.push(entry.file_name());
        }
    }
    names.sort();
    for name in names {
        let mut file = File::open(images.join(&name))?;
        tar.append_file(Path::new(IMAGES).join(name), &mut file)?;
    }
    tar.into_inner()?.flush()
}

/// A file that is written to as long as there is time.
pub struct Sink<'a> {
    pub file: &'a File,
    pub until: &'a Until,
}

impl Write for Sink<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.until.check()?;
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
