//! Reading a container's log in the CRI's format, one line of the file per write or part of one:
//! `2016-10-06T00:17:09.669794202Z stdout F the text`
//! (<https://github.com/kubernetes/design-proposals-archive/blob/main/node/kubelet-cri-logging.md>).

use std::collections::VecDeque;
use std::io::{self, BufRead, Read};

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
    let mut kept: VecDeque<(Stream, Vec<u8>)> = VecDeque::new();
    let mut open: [Option<Vec<u8>>; 2] = [None, None];
    let (mut buffer, mut number) = (Vec::new(), 0);
    loop {
        buffer.clear();
        number += 1;
        let read = from.by_ref().take(LONGEST).read_until(b'\n', &mut buffer);
        if read.map_err(LogError::Read)? == 0 {
            break;
        }
        let whole = buffer.pop_if(|last| *last == b'\n').is_some();
        let Some(entry) = parse(&buffer) else {
            if !whole && buffer.len() as u64 != LONGEST {
                break;
            }
            return Err(LogError::Malformed { line: number });
        };
        let [stdout, stderr] = &mut open;
        let started = match entry.stream {
            Stream::Stdout => stdout,
            Stream::Stderr => stderr,
        };
        let mut piece = Vec::with_capacity(entry.text.len() + 1);
        if started.is_none() && options.timestamps {
            piece.extend_from_slice(entry.time);
            piece.push(b' ');
        }
        piece.extend_from_slice(entry.text);
        if !entry.partial {
            piece.push(b'\n');
        }
        match options.tail {
            // Nothing is known yet of which lines are the last: parts wait for their end.
            Some(tail) => {
                let line = started.get_or_insert_default();
                line.append(&mut piece);
                if !entry.partial {
                    kept.push_back((entry.stream, started.take().unwrap_or_default()));
                    if kept.len() > tail {
                        kept.pop_front();
                    }
                }
            }
            None => {
                write(entry.stream, &piece).map_err(LogError::Write)?;
                *started = entry.partial.then(Vec::new);
            }
        }
    }
    // A line that has no end yet is the last one.
    for (stream, rest) in [Stream::Stdout, Stream::Stderr].into_iter().zip(open) {
        if let (Some(rest), Some(tail)) = (rest, options.tail) {
            kept.push_back((stream, rest));
            if kept.len() > tail {
                kept.pop_front();
            }
        }
    }
    for (stream, line) in kept {
        write(stream, &line).map_err(LogError::Write)?;
    }
    Ok(())
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
            timestamps: false,
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
            tail: None,
            timestamps: true,
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
}
