//! Reading a container's log in the CRI's format, one line of the file per write or part of one:
//! `2016-10-06T00:17:09.669794202Z stdout F the text`
//! (<https://github.com/kubernetes/design-proposals-archive/blob/main/node/kubelet-cri-logging.md>).

use std::collections::VecDeque;
use std::io::{self, BufRead, Read};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// The longest line of the file that is accepted. Writers split at 16 KiB; this is far above it.
const LONGEST: u64 = 1 << 20;

/// Where the container wrote a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    Stdout,
    Stderr,
}

/// One line of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry<'a> {
    /// RFC 3339 with nanoseconds, as it stands in the file.
    pub time: &'a [u8],
    pub stream: Stream,
    /// More of the same line follows in a later entry.
    pub partial: bool,
    /// What the container wrote; without the line break, which a full entry ends with.
    pub text: &'a [u8],
}

/// Why a log cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("read the log")]
    Read(#[source] io::Error),
    #[error("write the log's lines")]
    Write(#[source] io::Error),
    #[error("line {line} of the log is not in the CRI's format")]
    Malformed { line: u64 },
}

/// Which lines, and how.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Only so many lines from the end.
    pub tail: Option<usize>,
    /// Only lines that began then or later.
    pub since: Option<OffsetDateTime>,
    /// Each line after its time.
    pub timestamps: bool,
}

/// Parses one line of the file, without its line break.
pub fn parse(line: &[u8]) -> Option<Entry<'_>> {
    let mut parts = line.splitn(4, |&b| b == b' ');
    let time = parts.next().filter(|t| t.contains(&b'T'))?;
    let stream = match parts.next()? {
        b"stdout" => Stream::Stdout,
        b"stderr" => Stream::Stderr,
        _ => return None,
    };
    // Tags are separated by colons; the first says whether the line is whole.
    let partial = match parts.next()?.split(|&b| b == b':').next()? {
        b"F" => false,
        b"P" => true,
        _ => return None,
    };
    let text = parts.next().unwrap_or_default();
    Some(Entry {
        time,
        stream,
        partial,
        text,
    })
}

/// Hands what the container wrote to `write`, piece by piece with its stream: the parts of a line are
/// joined again. A last line without its line break, which is being written at this moment, is
/// left out when it cannot be read yet.
pub fn copy(
    mut from: impl BufRead,
    options: Options,
    mut write: impl FnMut(Stream, &[u8]) -> io::Result<()>,
) -> Result<(), LogError> {
    let mut lines = Lines::new(options);
    lines.read(&mut from, &mut write)?;
    lines.last(&mut write)?;
    lines.release(&mut write)
}

/// What is known of a log between two looks at it.
#[derive(Debug)]
pub struct Lines {
    options: Options,
    /// The last lines so far, while only the last are wanted.
    kept: VecDeque<(Stream, Vec<u8>)>,
    /// What each stream's line, whose end has not come, is.
    open: [Open; 2],
    /// The beginning of a line of the file whose rest has not been read.
    rest: Vec<u8>,
    number: u64,
}

/// A line of a stream between its parts.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Open {
    /// There is none.
    Closed,
    /// It is too old to be shown.
    Skipped,
    /// Its beginning; empty where that has been written already.
    Begun(Vec<u8>),
}

impl Lines {
    pub fn new(options: Options) -> Self {
        Self {
            options,
            kept: VecDeque::new(),
            open: [Open::Closed, Open::Closed],
            rest: Vec::new(),
            number: 1,
        }
    }

    /// Reads to the end of what is there now. To be called again when there is more.
    pub fn read(
        &mut self,
        from: &mut impl BufRead,
        write: &mut impl FnMut(Stream, &[u8]) -> io::Result<()>,
    ) -> Result<(), LogError> {
        loop {
            let room = LONGEST.saturating_sub(self.rest.len() as u64);
            let read = from.by_ref().take(room).read_until(b'\n', &mut self.rest);
            let read = read.map_err(LogError::Read)?;
            let mut line = std::mem::take(&mut self.rest);
            if line.pop_if(|last| *last == b'\n').is_some() {
                self.take(&line, write)?;
                self.number += 1;
            } else if line.len() as u64 >= LONGEST {
                return Err(self.malformed());
            } else {
                self.rest = line;
                if read == 0 {
                    return Ok(());
                }
            }
        }
    }

    /// The file ends here: what stands after its last line break counts when it can be read as a line.
    pub fn last(
        &mut self,
        write: &mut impl FnMut(Stream, &[u8]) -> io::Result<()>,
    ) -> Result<(), LogError> {
        let line = std::mem::take(&mut self.rest);
        self.number = 1;
        match parse(&line) {
            Some(_) => self.take(&line, write),
            None => Ok(()),
        }
    }

    /// Writes the last lines, where only those are wanted; what comes from now on is written as it comes.
    pub fn release(
        &mut self,
        write: &mut impl FnMut(Stream, &[u8]) -> io::Result<()>,
    ) -> Result<(), LogError> {
        let Some(tail) = self.options.tail.take() else {
            return Ok(());
        };
        // A line that has no end yet is the last one.
        for (stream, open) in [Stream::Stdout, Stream::Stderr]
            .into_iter()
            .zip(&mut self.open)
        {
            if let Open::Begun(begun) = open {
                self.kept.push_back((stream, std::mem::take(begun)));
            }
        }
        let surplus = self.kept.len().saturating_sub(tail);
        for (stream, line) in self.kept.drain(..).skip(surplus) {
            write(stream, &line).map_err(LogError::Write)?;
        }
        Ok(())
    }

    fn malformed(&self) -> LogError {
        LogError::Malformed { line: self.number }
    }

    fn take(
        &mut self,
        line: &[u8],
        write: &mut impl FnMut(Stream, &[u8]) -> io::Result<()>,
    ) -> Result<(), LogError> {
        let Some(entry) = parse(line) else {
            return Err(self.malformed());
        };
        let Options {
            tail,
            since,
            timestamps,
        } = self.options;
        let [stdout, stderr] = &mut self.open;
        let open = match entry.stream {
            Stream::Stdout => stdout,
            Stream::Stderr => stderr,
        };
        let starts = *open == Open::Closed;
        if starts && since.is_some_and(|since| is_before(entry.time, since)) {
            *open = Open::Skipped;
        }
        if *open == Open::Skipped {
            if !entry.partial {
                *open = Open::Closed;
            }
            return Ok(());
        }
        let mut piece = Vec::with_capacity(entry.text.len() + 1);
        if starts && timestamps {
            piece.extend_from_slice(entry.time);
            piece.push(b' ');
        }
        piece.extend_from_slice(entry.text);
        if !entry.partial {
            piece.push(b'\n');
        }
        let Some(tail) = tail else {
            write(entry.stream, &piece).map_err(LogError::Write)?;
            *open = match entry.partial {
                true => Open::Begun(Vec::new()),
                false => Open::Closed,
            };
            return Ok(());
        };
        // Nothing is known yet of which lines are the last: parts wait for their end.
        let mut line = match std::mem::replace(open, Open::Closed) {
            Open::Begun(begun) => begun,
            Open::Closed | Open::Skipped => Vec::new(),
        };
        line.append(&mut piece);
        if entry.partial {
            *open = Open::Begun(line);
            return Ok(());
        }
        self.kept.push_back((entry.stream, line));
        if self.kept.len() > tail {
            self.kept.pop_front();
        }
        Ok(())
    }
}

/// A time that cannot be read is not before any other: too much is shown rather than too little.
fn is_before(time: &[u8], since: OffsetDateTime) -> bool {
    let text = std::str::from_utf8(time).ok();
    let time = text.and_then(|text| OffsetDateTime::parse(text, &Rfc3339).ok());
    time.is_some_and(|time| time < since)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "\
2026-01-02T03:04:05.000000001Z stdout F one
2026-01-02T03:04:05.000000002Z stdout P two, be
2026-01-02T03:04:05.000000003Z stderr F an  error
2026-01-02T03:04:05.000000004Z stdout F gun
2026-01-02T03:04:05.000000005Z stdout F 
";

    fn shown(log: &[u8], options: Options) -> Result<(String, String), LogError> {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        copy(log, options, |stream, bytes| {
            let to = match stream {
                Stream::Stdout => &mut out,
                Stream::Stderr => &mut err,
            };
            to.extend_from_slice(bytes);
            Ok(())
        })?;
        let text = |b| String::from_utf8(b).unwrap();
        Ok((text(out), text(err)))
    }

    fn tail(lines: usize) -> Options {
        Options {
            tail: Some(lines),
            ..Options::default()
        }
    }

    #[test]
    fn parts_are_joined_and_streams_kept_apart() {
        let (out, err) = shown(LOG.as_bytes(), Options::default()).unwrap();
        assert_eq!(out, "one\ntwo, begun\n\n");
        assert_eq!(err, "an  error\n");
    }

    #[test]
    fn a_tail_counts_lines_not_parts() {
        let (out, err) = shown(LOG.as_bytes(), tail(2)).unwrap();
        assert_eq!((out.as_str(), err.as_str()), ("two, begun\n\n", ""));
        let (out, err) = shown(LOG.as_bytes(), tail(3)).unwrap();
        assert_eq!(
            (out.as_str(), err.as_str()),
            ("two, begun\n\n", "an  error\n")
        );
        assert_eq!(shown(LOG.as_bytes(), tail(0)).unwrap().0, "");
        let open = "2026-01-02T03:04:05Z stdout P no end";
        assert_eq!(shown(open.as_bytes(), tail(1)).unwrap().0, "no end");
    }

    #[test]
    fn a_time_stands_once_before_each_line() {
        let options = Options {
            timestamps: true,
            ..Options::default()
        };
        let (out, _) = shown(LOG.as_bytes(), options).unwrap();
        let expected = "2026-01-02T03:04:05.000000001Z one\n\
                        2026-01-02T03:04:05.000000002Z two, begun\n\
                        2026-01-02T03:04:05.000000005Z \n";
        assert_eq!(out, expected);
    }

    #[test]
    fn binary_text_passes_and_tags_after_the_first_are_ignored() {
        let entry = parse(b"2026-01-02T03:04:05Z stderr F:x a\xff b").unwrap();
        assert_eq!(entry.text, b"a\xff b");
        assert_eq!((entry.stream, entry.partial), (Stream::Stderr, false));
    }

    #[test]
    fn what_is_no_log_is_refused_by_line() {
        for (log, line) in [
            ("{\"log\":\"docker\"}\n", 1),
            (
                "2026-01-02T03:04:05Z stdout F a\n2026-01-02T03:04:05Z stdin F a\n",
                2,
            ),
            ("2026-01-02T03:04:05Z stdout X a\n", 1),
            ("2026-01-02T03:04:05Z\n", 1),
        ] {
            match shown(log.as_bytes(), Options::default()) {
                Err(LogError::Malformed { line: l }) => assert_eq!(l, line, "{log}"),
                other => panic!("{log}: {other:?}"),
            }
        }
        let endless = vec![b'x'; LONGEST as usize + 1];
        assert!(matches!(
            shown(&endless, Options::default()),
            Err(LogError::Malformed { line: 1 })
        ));
    }

    #[test]
    fn a_line_being_written_is_left_out() {
        let log = "2026-01-02T03:04:05Z stdout F a\n2026-01-02T03:0";
        assert_eq!(shown(log.as_bytes(), Options::default()).unwrap().0, "a\n");
    }

    #[test]
    fn a_line_counts_by_when_it_began() {
        let log = "\
2026-01-02T03:04:05Z stdout F old
2026-01-02T03:04:06Z stdout P old, to the
2026-01-02T03:04:08Z stdout F  end
2026-01-02T04:04:07+01:00 stderr F in time
2026-01-02T03:04:08.5Z stdout F new
";
        let since = OffsetDateTime::parse("2026-01-02T03:04:07Z", &Rfc3339).unwrap();
        let options = Options {
            since: Some(since),
            ..Options::default()
        };
        let expected = ("new\n".to_owned(), "in time\n".to_owned());
        assert_eq!(shown(log.as_bytes(), options).unwrap(), expected);
    }

    #[test]
    fn what_comes_in_pieces_is_what_comes_at_once() {
        for options in [Options::default(), tail(2)] {
            let whole = shown(LOG.as_bytes(), options).unwrap();
            let (mut out, mut err) = (String::new(), String::new());
            let mut write = |stream, bytes: &[u8]| {
                let to = match stream {
                    Stream::Stdout => &mut out,
                    Stream::Stderr => &mut err,
                };
                to.push_str(std::str::from_utf8(bytes).unwrap());
                Ok(())
            };
            let mut lines = Lines::new(options);
            for piece in LOG.as_bytes().chunks(7) {
                lines.read(&mut &*piece, &mut write).unwrap();
            }
            lines.release(&mut write).unwrap();
            assert_eq!((out, err), whole);
        }
    }

    #[test]
    fn after_the_last_lines_come_the_new_ones() {
        let mut seen = Vec::new();
        let mut write = |_, bytes: &[u8]| {
            seen.push(String::from_utf8(bytes.to_vec()).unwrap());
            Ok(())
        };
        let mut lines = Lines::new(tail(1));
        let before = "2026-01-02T03:04:05Z stdout F a\n2026-01-02T03:04:05Z stdout P be";
        lines.read(&mut before.as_bytes(), &mut write).unwrap();
        lines.release(&mut write).unwrap();
        let after = "gun\n2026-01-02T03:04:06Z stdout F  now\n";
        lines.read(&mut after.as_bytes(), &mut write).unwrap();
        assert_eq!(seen, ["a\n", "begun", " now\n"]);
    }
}
