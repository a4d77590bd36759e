//! A container's output: bytes from a pipe or a terminal, cut into the lines of the log.
//!
//! There is one buffer of fixed size per stream. While the log is being written nothing is read, so a
//! container that writes faster than the disk waits, and no memory grows.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use super::log::Piece;
use crate::host::fd;

/// A line is at most this long in the log; a longer one comes in pieces (what kubelet expects).
pub const LINE_CAP: usize = 16 * 1024;
/// How long the beginning of a line waits for its end before it is logged as a piece.
const PATIENCE: Duration = Duration::from_millis(250);
/// A terminal passes on what was written to it a little later: how long silence means that there is no more.
const TERMINAL_SILENCE: Duration = Duration::from_millis(50);
/// The most that a terminal is read after the end of the container, should someone else go on writing.
const TERMINAL_REST: usize = 64 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channel {
    Stdout,
    Stderr,
}

impl Channel {
    pub fn name(self) -> &'static str {
        match self {
            Channel::Stdout => "stdout",
            Channel::Stderr => "stderr",
        }
    }
}

/// What a read brought.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress {
    Read(usize),
    Nothing,
    End,
}

/// One stream of a container.
#[derive(Debug)]
pub struct Stream {
    pub channel: Channel,
    file: File,
    terminal: bool,
    cutter: Cutter,
}

impl Stream {
    /// `fd` is the reading end of a pipe or the master of a terminal; it is made non-blocking.
    pub fn new(channel: Channel, fd: OwnedFd, terminal: bool) -> io::Result<Self> {
        fd::set_nonblocking(&fd)?;
        Ok(Self {
            channel,
            file: File::from(fd),
            terminal,
            cutter: Cutter::default(),
        })
    }

    pub fn file(&self) -> &File {
        &self.file
    }

    /// Reads once and hands on the bytes that came, and the lines that this completed.
    pub fn read(
        &mut self,
        tap: impl FnOnce(&[u8]),
        sink: impl FnMut(&[Piece<'_>]),
    ) -> io::Result<Progress> {
        let room = self.cutter.room();
        let progress = match self.file.read(room) {
            Ok(0) => Progress::End,
            Ok(n) => {
                tap(room.get(..n).unwrap_or_default());
                Progress::Read(n)
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Progress::Nothing,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Progress::Nothing,
            // A terminal without anyone behind it.
            Err(e) if self.terminal && e.raw_os_error() == Some(libc::EIO) => Progress::End,
            Err(e) => return Err(e),
        };
        match progress {
            Progress::Read(n) => self.cutter.advance(n, Instant::now(), sink),
            Progress::End => self.cutter.finish(sink),
            Progress::Nothing => {}
        }
        Ok(progress)
    }

    /// When [`Stream::flush`] has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        self.cutter.deadline
    }

    /// Hands on the beginning of a line that waited too long for its end.
    pub fn flush(&mut self, now: Instant, sink: impl FnMut(&[Piece<'_>])) {
        self.cutter.flush(now, sink);
    }

    /// Reads what the container left, after its end: what a pipe holds now, and no more, for another process may
    /// have it open and go on writing.
    pub fn drain(
        &mut self,
        mut tap: impl FnMut(&[u8]),
        mut sink: impl FnMut(&[Piece<'_>]),
    ) -> io::Result<()> {
        let mut rest = if self.terminal {
            TERMINAL_REST
        } else {
            fd::readable(&self.file)?
        };
        while rest > 0 {
            match self.read(&mut tap, &mut sink)? {
                Progress::Read(n) => rest = rest.saturating_sub(n),
                Progress::End => return Ok(()),
                Progress::Nothing if self.terminal && self.wait(TERMINAL_SILENCE)? => {}
                Progress::Nothing => break,
            }
        }
        self.cutter.finish(sink);
        Ok(())
    }

    fn wait(&self, limit: Duration) -> io::Result<bool> {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        use std::os::fd::AsFd;
        let mut fds = [PollFd::new(self.file.as_fd(), PollFlags::POLLIN)];
        Ok(poll(
            &mut fds,
            PollTimeout::try_from(limit).unwrap_or(PollTimeout::ZERO),
        )? > 0)
    }
}

/// Cuts bytes into lines and pieces of lines.
#[derive(Debug, Default)]
struct Cutter {
    /// Made when the first byte comes: most streams of most containers stay silent.
    buffer: Vec<u8>,
    filled: usize,
    /// A piece of the current line has been handed on.
    open: bool,
    deadline: Option<Instant>,
}

impl Cutter {
    /// Where the next bytes go; never empty.
    fn room(&mut self) -> &mut [u8] {
        if self.buffer.is_empty() {
            self.buffer = vec![0; LINE_CAP];
        }
        self.buffer.get_mut(self.filled..).unwrap_or_default()
    }

    /// `n` more bytes stand in the room.
    fn advance(&mut self, n: usize, now: Instant, mut sink: impl FnMut(&[Piece<'_>])) {
        self.filled = (self.filled + n).min(self.buffer.len());
        let data = self.buffer.get(..self.filled).unwrap_or_default();
        let complete = data
            .iter()
            .rposition(|&b| b == b'\n')
            .map_or(0, |end| end + 1);
        let (lines, rest) = data.split_at(complete);
        if let Some(lines) = lines.strip_suffix(b"\n") {
            let mut pieces = lines.split(|&b| b == b'\n').map(|content| Piece {
                content,
                partial: false,
            });
            // A few at a time: memory for thousands of empty lines would be many times their own.
            let mut some = [Piece {
                content: b"",
                partial: false,
            }; 64];
            loop {
                let mut count = 0;
                for (slot, piece) in some.iter_mut().zip(pieces.by_ref()) {
                    *slot = piece;
                    count += 1;
                }
                if count == 0 {
                    break;
                }
                sink(some.get(..count).unwrap_or_default());
            }
            self.open = false;
            self.deadline = None;
        }
        let rest = rest.len();
        if rest == self.buffer.len() {
            sink(&[Piece {
                content: &self.buffer,
                partial: true,
            }]);
            self.open = true;
            self.deadline = None;
            self.filled = 0;
        } else {
            self.buffer.copy_within(complete..self.filled, 0);
            self.filled = rest;
            if rest > 0 && self.deadline.is_none() {
                self.deadline = Some(now + PATIENCE);
            }
        }
    }

    fn flush(&mut self, now: Instant, mut sink: impl FnMut(&[Piece<'_>])) {
        if self.deadline.is_some_and(|d| d <= now) {
            let content = self.buffer.get(..self.filled).unwrap_or_default();
            sink(&[Piece {
                content,
                partial: true,
            }]);
            self.open = true;
            self.filled = 0;
            self.deadline = None;
        }
    }

    /// The stream is over: what has no newline is a line all the same, and one begun is ended, so that a reader
    /// who waits for `F` is not left waiting.
    fn finish(&mut self, mut sink: impl FnMut(&[Piece<'_>])) {
        let content = self.buffer.get(..self.filled).unwrap_or_default();
        if self.open || !content.is_empty() {
            sink(&[Piece {
                content,
                partial: false,
            }]);
        }
        self.filled = 0;
        self.open = false;
        self.deadline = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    /// What a sink was handed, a `P` or `F` before each content.
    #[derive(Default)]
    struct Seen(Vec<String>);

    impl Seen {
        fn sink(&mut self) -> impl FnMut(&[Piece<'_>]) {
            |pieces| {
                for p in pieces {
                    let tag = if p.partial { 'P' } else { 'F' };
                    let text = String::from_utf8_lossy(p.content);
                    self.0.push(format!("{tag}{text}"));
                }
            }
        }
    }

    fn none(_: &[u8]) {}

    fn pipe() -> (Stream, io::PipeWriter) {
        let (reader, writer) = io::pipe().unwrap();
        let stream = Stream::new(Channel::Stdout, reader.into(), false).unwrap();
        (stream, writer)
    }

    #[test]
    fn lines_are_cut_wherever_the_reads_fall() {
        let (mut stream, mut writer) = pipe();
        let mut seen = Seen::default();
        for part in ["a\nb", "c", "\n\nd\n", "end"] {
            writer.write_all(part.as_bytes()).unwrap();
            assert_eq!(
                stream.read(none, seen.sink()).unwrap(),
                Progress::Read(part.len())
            );
        }
        assert_eq!(seen.0, ["Fa", "Fbc", "F", "Fd"]);
        assert_eq!(stream.read(none, seen.sink()).unwrap(), Progress::Nothing);
        drop(writer);
        assert_eq!(stream.read(none, seen.sink()).unwrap(), Progress::End);
        assert_eq!(seen.0.last().unwrap(), "Fend");
        stream.drain(none, seen.sink()).unwrap();
        assert_eq!(seen.0.len(), 5, "an end is told once");
    }

    #[test]
    fn a_long_line_comes_in_pieces() {
        let (mut stream, mut writer) = pipe();
        let mut seen = Seen::default();
        let line = "x".repeat(LINE_CAP + 5) + "\ny\n";
        writer.write_all(line.as_bytes()).unwrap();
        while stream.read(none, seen.sink()).unwrap() != Progress::Nothing {}
        let shape: Vec<_> = seen.0.iter().map(|s| (&s[..1], s.len() - 1)).collect();
        assert_eq!(shape, [("P", LINE_CAP), ("F", 5), ("F", 1)]);
    }

    #[test]
    fn many_short_lines_all_arrive() {
        let (mut stream, mut writer) = pipe();
        let mut seen = Seen::default();
        let text: String = (0..5000).map(|n| format!("{n}\n")).collect();
        writer.write_all(text.as_bytes()).unwrap();
        while stream.read(none, seen.sink()).unwrap() != Progress::Nothing {}
        let expected: Vec<String> = (0..5000).map(|n| format!("F{n}")).collect();
        assert_eq!(seen.0, expected);
    }

    #[test]
    fn a_prompt_is_logged_when_its_line_does_not_end() {
        let (mut stream, mut writer) = pipe();
        let mut seen = Seen::default();
        writer.write_all(b"name: ").unwrap();
        stream.read(none, seen.sink()).unwrap();
        let due = stream.deadline().unwrap();
        stream.flush(due - Duration::from_millis(1), seen.sink());
        assert!(seen.0.is_empty());
        stream.flush(due, seen.sink());
        assert_eq!(
            (seen.0.as_slice(), stream.deadline()),
            (&["Pname: ".to_owned()][..], None)
        );
        drop(writer);
        stream.read(none, seen.sink()).unwrap();
        assert_eq!(seen.0, ["Pname: ", "F"]);
    }

    #[test]
    fn a_writer_who_stays_does_not_hold_the_end() {
        let (mut stream, writer) = pipe();
        let mut seen = Seen::default();
        let mut endless = writer.try_clone().unwrap();
        let full = vec![b'z'; 60_000];
        endless.write_all(&full).unwrap();
        endless.write_all(b"\nlast").unwrap();
        stream.drain(none, seen.sink()).unwrap();
        assert_eq!(seen.0.last().unwrap(), "Flast");
        let length: usize = seen.0.iter().map(|s| s.len() - 1).sum();
        assert_eq!(length, full.len() + 4);
        drop(writer);
    }

    #[test]
    fn a_terminal_ends_when_nobody_is_behind_it() {
        let pty = nix::pty::openpty(None, None).unwrap();
        let mut stream = Stream::new(Channel::Stdout, pty.master, true).unwrap();
        let mut seen = Seen::default();
        File::from(pty.slave).write_all(b"bye\n").unwrap();
        stream.drain(none, seen.sink()).unwrap();
        assert_eq!(seen.0, ["Fbye\r"]);
    }
}
