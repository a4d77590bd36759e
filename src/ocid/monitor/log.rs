//! The container's log in the CRI's format: `TIME STREAM TAG CONTENT\n`, TIME in RFC 3339 with nanoseconds,
//! TAG `F` for the end of a line and `P` for a piece of a longer one.
//!
//! Every batch is one `writev`, straight from the buffer that the pipe was read into. A file system without
//! room does not stop the container: what cannot be written whole is taken back and counted.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use time::OffsetDateTime;

use super::stdio::Channel;

/// Lines that go into one `writev`, three slices each.
const BATCH: usize = 20;

#[derive(Debug)]
pub struct CriLog {
    path: PathBuf,
    file: File,
    size: u64,
    size_max: Option<u64>,
    /// Bytes that found no room since the last time we said so.
    lost: u64,
    /// Did we make the file?
    created: bool,
}

/// One piece of output: a line without its newline, or part of one.
#[derive(Debug, Clone, Copy)]
pub struct Piece<'a> {
    pub content: &'a [u8],
    /// The line goes on in the next piece.
    pub partial: bool,
}

impl CriLog {
    /// Opens or makes the file, mode 0600. A symbolic link or anything but a regular file is refused: the
    /// folder may be one that a container can write to.
    pub fn open(path: &Path, size_max: Option<u64>) -> io::Result<Self> {
        let created = !path.try_exists()?;
        let file = open(path)?;
        let size = file.metadata()?.len();
        Ok(Self {
            path: path.to_owned(),
            file,
            size,
            size_max,
            lost: 0,
            created,
        })
    }

    /// Goes on in a file at the log's path, a new one when the old was renamed. On an error the old one stays.
    pub fn reopen(&mut self) -> io::Result<()> {
        let file = open(&self.path)?;
        self.size = file.metadata()?.len();
        self.file = file;
        Ok(())
    }

    /// Removes the file if this log made it and nothing was written.
    pub fn discard(self) -> io::Result<()> {
        if self.created && self.file.metadata()?.len() == 0 {
            fs::remove_file(&self.path)?;
        }
        Ok(())
    }

    /// Appends pieces of one stream, all with one time.
    pub fn write(&mut self, now: OffsetDateTime, channel: Channel, pieces: &[Piece<'_>]) {
        let full = header(now, channel, 'F');
        let partial = header(now, channel, 'P');
        for batch in pieces.chunks(BATCH) {
            let empty = IoSlice::new(b"");
            let mut slices = [empty; BATCH * 3];
            let mut size = 0;
            for (slice, piece) in slices.chunks_exact_mut(3).zip(batch) {
                let header = if piece.partial { &partial } else { &full };
                let parts = [header.as_bytes(), piece.content, b"\n"];
                for (slot, part) in slice.iter_mut().zip(parts) {
                    *slot = IoSlice::new(part);
                    size += part.len() as u64;
                }
            }
            let used = slices.get_mut(..batch.len() * 3).unwrap_or_default();
            self.append(used, size);
        }
    }

    fn append(&mut self, slices: &mut [IoSlice<'_>], size: u64) {
        if self
            .size_max
            .is_some_and(|max| self.size > 0 && self.size + size > max)
            && let Err(e) = self.start_anew()
        {
            eprintln!("start the log `{}` anew: {e}", self.path.display());
        }
        match self.try_append(slices) {
            Ok(()) => {
                self.size += size;
                if self.lost > 0 {
                    eprintln!("{} bytes of output found no room in the log", self.lost);
                    self.lost = 0;
                }
            }
            Err(e) => {
                if self.lost == 0 {
                    eprintln!("write the log `{}`: {e}", self.path.display());
                }
                self.lost += size;
            }
        }
    }

    /// All of it or nothing.
    fn try_append(&mut self, mut slices: &mut [IoSlice<'_>]) -> io::Result<()> {
        let mut written = 0;
        while slices.iter().any(|s| !s.is_empty()) {
            let error = match self.file.write_vectored(slices) {
                Ok(n @ 1..) => {
                    written += n as u64;
                    IoSlice::advance_slices(&mut slices, n);
                    continue;
                }
                Ok(_) => io::ErrorKind::WriteZero.into(),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => e,
            };
            if written > 0 {
                let size = self.file.metadata()?.len();
                self.file.set_len(size.saturating_sub(written))?;
            }
            return Err(error);
        }
        Ok(())
    }

    /// Puts an empty file in the place of this one, so that there is a log at any moment. Readers that follow the
    /// old one see its last lines to the end; only where no second file can be made, the old one is emptied.
    fn start_anew(&mut self) -> io::Result<()> {
        let mut new = self.path.clone().into_os_string();
        new.push(".tmp");
        let new = Path::new(&new);
        let made = match fs::remove_file(new) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => open_with(OpenOptions::new().create_new(true), new),
        };
        match made.and_then(|file| fs::rename(new, &self.path).map(|()| file)) {
            Ok(file) => self.file = file,
            Err(error) => {
                self.file.set_len(0).map_err(|_| error)?;
            }
        }
        self.size = 0;
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<File> {
    open_with(OpenOptions::new().create(true), path)
}

fn open_with(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    let file = options
        .append(true)
        .mode(0o600)
        // A pipe would block the open, a link would lead elsewhere.
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        let message = "it is not a regular file";
        Err(io::Error::new(io::ErrorKind::InvalidInput, message))
    }
}

fn header(now: OffsetDateTime, channel: Channel, tag: char) -> String {
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:09}Z {} {tag} ",
        now.year(),
        u8::from(now.month()),
        now.day(),
        now.hour(),
        now.minute(),
        now.second(),
        now.nanosecond(),
        channel.name(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp_nanos(1_772_600_767_000_000_089).unwrap()
    }

    fn full(content: &[u8]) -> Piece<'_> {
        Piece {
            content,
            partial: false,
        }
    }

    #[test]
    fn lines_have_the_form_of_the_cri() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let mut log = CriLog::open(&path, None).unwrap();
        let part = Piece {
            content: b"be\xff\0gin",
            partial: true,
        };
        log.write(now(), Channel::Stdout, &[part, full(b" end")]);
        log.write(now(), Channel::Stderr, &[full(b"")]);
        let time = "2026-03-04T05:06:07.000000089Z";
        let mut expected = format!("{time} stdout P be").into_bytes();
        expected.extend_from_slice(b"\xff\0gin\n");
        expected.extend_from_slice(format!("{time} stdout F  end\n{time} stderr F \n").as_bytes());
        assert_eq!(fs::read(&path).unwrap(), expected);
    }

    #[test]
    fn more_lines_than_a_batch_keep_their_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let mut log = CriLog::open(&path, None).unwrap();
        let lines: Vec<String> = (0..BATCH * 3 + 1).map(|n| n.to_string()).collect();
        let pieces: Vec<Piece<'_>> = lines.iter().map(|l| full(l.as_bytes())).collect();
        log.write(now(), Channel::Stdout, &pieces);
        let text = fs::read_to_string(&path).unwrap();
        let got: Vec<&str> = text
            .lines()
            .map(|l| l.rsplit(' ').next().unwrap())
            .collect();
        assert_eq!(got, lines);
    }

    #[test]
    fn a_renamed_log_is_left_and_a_new_one_begun() {
        let dir = tempfile::tempdir().unwrap();
        let (path, old) = (dir.path().join("0.log"), dir.path().join("0.log.old"));
        let mut log = CriLog::open(&path, None).unwrap();
        log.write(now(), Channel::Stdout, &[full(b"one")]);
        fs::rename(&path, &old).unwrap();
        log.write(now(), Channel::Stdout, &[full(b"two")]);
        log.reopen().unwrap();
        log.write(now(), Channel::Stdout, &[full(b"three")]);
        assert_eq!(fs::read_to_string(&old).unwrap().lines().count(), 2);
        assert!(fs::read_to_string(&path).unwrap().ends_with("F three\n"));
    }

    #[test]
    fn the_size_is_capped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let mut log = CriLog::open(&path, Some(200)).unwrap();
        for n in 0..50 {
            log.write(now(), Channel::Stdout, &[full(n.to_string().as_bytes())]);
            assert!(fs::metadata(&path).unwrap().len() <= 200);
        }
        assert!(fs::read_to_string(&path).unwrap().ends_with("F 49\n"));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        // What lies in the place of the next file and cannot be removed.
        fs::create_dir(dir.path().join("0.log.tmp")).unwrap();
        for n in 50..100 {
            log.write(now(), Channel::Stdout, &[full(n.to_string().as_bytes())]);
            assert!(fs::metadata(&path).unwrap().len() <= 200);
        }
        assert!(fs::read_to_string(&path).unwrap().ends_with("F 99\n"));
    }

    #[test]
    fn there_is_a_log_at_any_moment() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let mut log = CriLog::open(&path, Some(200)).unwrap();
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    fs::symlink_metadata(&path)?;
                }
                io::Result::Ok(())
            });
            for n in 0..20_000 {
                log.write(now(), Channel::Stdout, &[full(n.to_string().as_bytes())]);
            }
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            reader.join().unwrap().unwrap();
        });
    }

    #[test]
    fn without_room_nothing_is_written_by_halves() {
        // /dev/full is no regular file, so the log is opened elsewhere and its file exchanged.
        let dir = tempfile::tempdir().unwrap();
        let mut log = CriLog::open(&dir.path().join("0.log"), None).unwrap();
        let room = std::mem::replace(
            &mut log.file,
            OpenOptions::new().write(true).open("/dev/full").unwrap(),
        );
        log.write(now(), Channel::Stdout, &[full(b"dropped")]);
        assert!(log.lost > 0);
        log.file = room;
        log.write(now(), Channel::Stdout, &[full(b"kept")]);
        let text = fs::read_to_string(dir.path().join("0.log")).unwrap();
        assert!(log.lost == 0 && text.lines().count() == 1 && text.ends_with("F kept\n"));
    }

    #[test]
    fn links_and_pipes_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (link, pipe) = (dir.path().join("link"), dir.path().join("pipe"));
        std::os::unix::fs::symlink(dir.path().join("target"), &link).unwrap();
        assert!(CriLog::open(&link, None).is_err());
        assert!(!dir.path().join("target").exists());
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(CriLog::open(&pipe, None).is_err());
    }

    #[test]
    fn only_an_empty_log_of_our_making_is_discarded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        CriLog::open(&path, None).unwrap().discard().unwrap();
        assert!(!path.exists());
        fs::write(&path, "").unwrap();
        CriLog::open(&path, None).unwrap().discard().unwrap();
        assert!(path.exists());
    }
}
