//! Lines to the journal, in journald's native protocol: one datagram per entry, `FIELD=value\n`
//! (<https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>). Values here hold no newline, so the length-prefixed form is
//! not needed.
//!
//! The CRI log is the record; the journal is a courtesy. A journald that does not keep up is waited for, but
//! not for long: it must not stop a container.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::log::Piece;
use super::protocol;
use super::stdio::Channel;

/// How long one entry may wait for journald to make room.
const PATIENCE: Duration = Duration::from_millis(100);
/// How long no entry is sent after one that waited in vain.
const PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    socket: UnixDatagram,
    /// The fields that every entry has, in the protocol's form.
    fields: Vec<u8>,
    silent_until: Option<Instant>,
}

impl Journal {
    pub fn open(settings: &protocol::Journal) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(PATIENCE))?;
        let mut fields = Vec::new();
        for (name, value) in &settings.fields {
            if is_field_name(name) && !value.contains('\n') {
                fields.extend_from_slice(format!("{name}={value}\n").as_bytes());
            }
        }
        Ok(Self {
            path: settings.socket.clone(),
            socket,
            fields,
            silent_until: None,
        })
    }

    /// One entry per piece; priority `info` for stdout, `err` for stderr, as container engines have it.
    pub fn write(&mut self, channel: Channel, pieces: &[Piece<'_>]) {
        if self
            .silent_until
            .is_some_and(|until| Instant::now() < until)
        {
            return;
        }
        self.silent_until = None;
        for piece in pieces {
            let mut entry = self.fields.clone();
            let (priority, partial) = match channel {
                Channel::Stdout => ("6", piece.partial),
                Channel::Stderr => ("3", piece.partial),
            };
            entry.extend_from_slice(format!("PRIORITY={priority}\n").as_bytes());
            if partial {
                entry.extend_from_slice(b"CONTAINER_PARTIAL_MESSAGE=true\n");
            }
            entry.extend_from_slice(b"MESSAGE=");
            entry.extend_from_slice(piece.content);
            entry.push(b'\n');
            if self.socket.send_to(&entry, &self.path).is_err() {
                // Not there, or not keeping up. Both may pass.
                self.silent_until = Some(Instant::now() + PAUSE);
                return;
            }
        }
    }
}

/// journald drops an entry with a field that is not named like this.
fn is_field_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    name.len() <= 64
        && name.chars().all(allowed)
        && name.starts_with(|c: char| c.is_ascii_uppercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_carry_their_fields() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let settings = protocol::Journal {
            socket: path.clone(),
            fields: vec![
                ("CONTAINER_NAME".to_owned(), "redis".to_owned()),
                ("lower".to_owned(), "x".to_owned()),
                ("FORGED".to_owned(), "a\nPRIORITY=0".to_owned()),
            ],
        };
        let mut journal = Journal::open(&settings).unwrap();
        let piece = |content, partial| [Piece { content, partial }];
        journal.write(Channel::Stdout, &piece(b"nobody hears", false));
        journal.silent_until = None;
        let journald = UnixDatagram::bind(&path).unwrap();
        journal.write(Channel::Stdout, &piece(b"ready", false));
        journal.write(Channel::Stderr, &piece(b"\xff", true));
        let receive = || {
            let mut buffer = [0; 512];
            let n = journald.recv(&mut buffer).unwrap();
            buffer[..n].to_vec()
        };
        assert_eq!(
            receive(),
            b"CONTAINER_NAME=redis\nPRIORITY=6\nMESSAGE=ready\n"
        );
        assert_eq!(
            receive(),
            b"CONTAINER_NAME=redis\nPRIORITY=3\nCONTAINER_PARTIAL_MESSAGE=true\nMESSAGE=\xff\n"
        );
    }

    #[test]
    fn a_stuck_journal_costs_one_wait() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let _stuck = UnixDatagram::bind(&path).unwrap();
        let settings = protocol::Journal {
            socket: path,
            fields: Vec::new(),
        };
        let mut journal = Journal::open(&settings).unwrap();
        let piece = [Piece {
            content: b"x",
            partial: false,
        }];
        let begin = Instant::now();
        for _ in 0..5000 {
            journal.write(Channel::Stdout, &piece);
        }
        assert!(journal.silent_until.is_some());
        assert!(begin.elapsed() < PAUSE, "{:?}", begin.elapsed());
    }
}
