//! The monitor's socket: one JSON line per request, one per answer. Few clients at a time, small lines, no waiting
//! on any of them.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use nix::sys::stat::{Mode, umask};

use super::protocol::{Answer, LINE_MAX, Request, VERSION};

/// The daemon needs one or two; the rest is turned away rather than remembered.
const CLIENTS_MAX: usize = 16;

#[derive(Debug)]
pub struct Control {
    listener: UnixListener,
    clients: Vec<Client>,
}

#[derive(Debug)]
struct Client {
    stream: UnixStream,
    line: Vec<u8>,
    greeted: bool,
}

impl Control {
    /// Listens at `path`, for root only.
    pub fn bind(path: &Path) -> io::Result<Self> {
        let before = umask(Mode::from_bits_truncate(0o177));
        let bound = UnixListener::bind(path);
        umask(before);
        let listener = bound?;
        listener.set_nonblocking(true)?;
        Ok(Self {
            listener,
            clients: Vec::new(),
        })
    }

    /// What to wait on: readable means that [`Control::serve`] has something to do.
    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let clients = self.clients.iter().map(|c| c.stream.as_fd());
        std::iter::once(self.listener.as_fd()).chain(clients)
    }

    /// Takes new clients and answers every whole line that has come.
    pub fn serve(&mut self, mut answer: impl FnMut(Request) -> Answer) {
        while let Ok((stream, _)) = self.listener.accept() {
            if self.clients.len() < CLIENTS_MAX && stream.set_nonblocking(true).is_ok() {
                self.clients.push(Client {
                    stream,
                    line: Vec::new(),
                    greeted: false,
                });
            }
        }
        self.clients.retain_mut(|client| client.serve(&mut answer));
    }
}

impl Client {
    /// False when this client is done with, or we with it.
    fn serve(&mut self, answer: &mut impl FnMut(Request) -> Answer) -> bool {
        let mut chunk = [0; 512];
        loop {
            let n = match self.stream.read(&mut chunk) {
                Ok(0) => return false,
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return true,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return false,
            };
            self.line
                .extend_from_slice(chunk.get(..n).unwrap_or_default());
            while let Some(end) = self.line.iter().position(|&b| b == b'\n') {
                let line: Vec<u8> = self.line.drain(..=end).collect();
                let answer = self.answer(&line, answer);
                let Ok(mut text) = serde_json::to_vec(&answer) else {
                    return false;
                };
                text.push(b'\n');
                // Answers are smaller than any socket buffer: one that does not fit belongs to a client that
                // does not read.
                if self.stream.write_all(&text).is_err() {
                    return false;
                }
            }
            if self.line.len() > LINE_MAX {
                return false;
            }
        }
    }

    fn answer(&mut self, line: &[u8], answer: &mut impl FnMut(Request) -> Answer) -> Answer {
        let refused = |message: String| Answer::Refused { message };
        match serde_json::from_slice(line) {
            Ok(Request::Hello { version }) => {
                self.greeted = true;
                // What both understand; older versions are spoken for ever.
                let version = version.clamp(1, VERSION);
                Answer::Hello { version }
            }
            Ok(_) if !self.greeted => refused("the first request must be `hello`".to_owned()),
            Ok(request) => answer(request),
            Err(e) => refused(format!("not a request of version {VERSION}: {e}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::BufRead;

    fn control(dir: &tempfile::TempDir) -> (Control, std::path::PathBuf) {
        let path = dir.path().join("s");
        (Control::bind(&path).unwrap(), path)
    }

    fn say(control: &mut Control, stream: &mut UnixStream, text: &str) -> String {
        stream.write_all(text.as_bytes()).unwrap();
        control.serve(|request| match request {
            Request::ReopenLog => Answer::Done,
            _ => Answer::Refused {
                message: "other".to_owned(),
            },
        });
        let mut line = String::new();
        io::BufReader::new(stream).read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    #[test]
    fn a_client_says_hello_first() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let (mut control, path) = control(&dir);
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let mut client = UnixStream::connect(&path).unwrap();
        let refused = say(&mut control, &mut client, "\"reopen_log\"\n");
        assert!(refused.contains("hello"), "{refused}");
        let hello = say(&mut control, &mut client, "{\"hello\":{\"version\":7}}\n");
        assert_eq!(hello, "{\"hello\":{\"version\":1}}");
        assert_eq!(
            say(&mut control, &mut client, "\"reopen_log\"\n"),
            "\"done\""
        );
        let unknown = say(&mut control, &mut client, "{\"fly\":{}}\n");
        assert!(unknown.starts_with("{\"refused\""), "{unknown}");
        assert_eq!(control.fds().count(), 2);
        drop(client);
        control.serve(|_| Answer::Done);
        assert_eq!(control.fds().count(), 1);
    }

    #[test]
    fn floods_are_turned_away() {
        let dir = tempfile::tempdir().unwrap();
        let (mut control, path) = control(&dir);
        let mut client = UnixStream::connect(&path).unwrap();
        client.write_all(&[b'x'; LINE_MAX + 600]).unwrap();
        control.serve(|_| Answer::Done);
        assert_eq!(control.fds().count(), 1);
        let many: Vec<_> = (0..CLIENTS_MAX + 4)
            .map(|_| UnixStream::connect(&path).unwrap())
            .collect();
        control.serve(|_| Answer::Done);
        assert_eq!(control.fds().count(), 1 + CLIENTS_MAX);
        drop(many);
    }
}
