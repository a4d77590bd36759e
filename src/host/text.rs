//! The text of a file that the kernel writes when it is read: a cgroup's account, a table below `/proc`.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;

/// Most are shorter than this, which is also as much as the kernel writes at once where a file has many records.
const USUAL: usize = 4096;
/// No record of such a file is longer.
const RECORD: usize = 1024;

thread_local! {
    /// One for each thread, between two uses.
    static IDLE: Cell<Option<Box<Text>>> = const { Cell::new(None) };
}

/// What was last read.
pub struct Text {
    usual: [u8; USUAL],
    long: Vec<u8>,
    length: usize,
}

impl Text {
    pub fn new() -> Self {
        Self {
            usual: [0; USUAL],
            long: Vec::new(),
            length: 0,
        }
    }

    /// Lends the thread's own, so that reads of many short files need no room of their own.
    pub fn with<T>(work: impl FnOnce(&mut Self) -> T) -> T {
        let mut text = IDLE.take().unwrap_or_else(|| Box::new(Self::new()));
        let done = work(&mut text);
        // A rare long one is no reason to hold on to so much.
        text.long = Vec::new();
        IDLE.set(Some(text));
        done
    }

    pub fn bytes(&self) -> &[u8] {
        let room = match self.long.is_empty() {
            true => &self.usual[..],
            false => &self.long,
        };
        room.get(..self.length).unwrap_or_default()
    }

    /// Reads a file from its beginning to its end, in one system call for all but the longest: these files have no
    /// size to go by, and std's way with such is to begin with a few bytes. The kernel stops early only before a
    /// record that no longer fits, so what ends well before the room does is whole.
    pub fn read(&mut self, file: &File) -> io::Result<()> {
        self.long.clear();
        self.length = read_at(file, &mut self.usual, 0)?;
        if self.length + RECORD <= USUAL {
            return Ok(());
        }
        self.long.extend_from_slice(&self.usual);
        loop {
            self.long.resize(2 * self.length.max(USUAL), 0);
            let rest = self.long.get_mut(self.length..).unwrap_or_default();
            match read_at(file, rest, self.length)? {
                0 => return Ok(()),
                read => self.length += read,
            }
        }
    }
}

fn read_at(file: &File, room: &mut [u8], offset: usize) -> io::Result<usize> {
    loop {
        match file.read_at(room, offset as u64) {
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn all_of_a_file_is_read_whatever_its_length() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let mut text = Text::new();
        for length in [0, 1, 3071, 3072, 3073, 4095, 4096, 4097, 8192, 20_000, 5, 0] {
            let written: Vec<u8> = (0..length).map(|n| (n % 251) as u8).collect();
            fs::write(&path, &written).unwrap();
            text.read(&File::open(&path).unwrap()).unwrap();
            assert_eq!(text.bytes(), written, "{length}");
        }
    }
}
