//! What runs in the self-test's container: this very program, under its hidden face `selftest-peer`.
//!
//! It is PID 1 of its own PID namespace, where a signal that arrives before it is handled is lost:
//! SIGTERM is blocked first of all and read from a descriptor. No async runtime, no clap.

use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// Where it listens inside the pod.
pub const PORT: u16 = 7007;
/// Printed once connections are accepted.
pub const READY: &str = "self-test peer: listening";
/// Printed, to stderr, when it was asked to stop.
pub const STOPPING: &str = "self-test peer: stopping";
/// Its exit code after SIGTERM: neither that of success nor that of a killed process.
pub const STOPPED: u8 = 7;
/// The exit code of `probe`.
pub const PROBED: u8 = 3;

/// How long a client may take to ask.
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest question that is read, in bytes.
const LONGEST: u64 = 1024;

/// `selftest-peer` serves until SIGTERM; `selftest-peer probe WORD` prints WORD to stdout and its
/// reverse to stderr, and exits with [`PROBED`].
pub fn main(mut args: impl Iterator<Item = OsString>) -> ExitCode {
    let done = match (args.next(), args.next()) {
        (Some(verb), Some(word)) if verb == "probe" => probe(&word.to_string_lossy()),
        (None, None) => serve(),
        _ => Err(io::Error::from(io::ErrorKind::InvalidInput)),
    };
    match done {
        Ok(code) => ExitCode::from(code),
        Err(e) => {
            // Nobody else can be told: if this fails too, the exit code says so.
            let _ = writeln!(io::stderr(), "self-test peer: {e}");
            ExitCode::FAILURE
        }
    }
}

fn probe(word: &str) -> io::Result<u8> {
    writeln!(io::stdout(), "{word}")?;
    let reverse: String = word.chars().rev().collect();
    writeln!(io::stderr(), "{reverse}")?;
    Ok(PROBED)
}

fn serve() -> io::Result<u8> {
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGTERM);
    mask.thread_block()?;
    let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC)?;
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT))?;
    answer_until(&listener, &signals)
}

fn answer_until(listener: &TcpListener, signals: &SignalFd) -> io::Result<u8> {
    writeln!(io::stdout(), "{READY}")?;
    loop {
        let mut fds = [
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(listener.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut fds, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            other => other?,
        };
        if fds.first().is_some_and(|fd| fd.any() == Some(true)) {
            writeln!(io::stderr(), "{STOPPING}")?;
            return Ok(STOPPED);
        }
        let (client, from) = listener.accept()?;
        if let Err(e) = answer(client) {
            writeln!(io::stderr(), "self-test peer: {from}: {e}")?;
        }
    }
}

/// Reads one line and sends it back, reversed.
fn answer(client: TcpStream) -> io::Result<()> {
    client.set_read_timeout(Some(PATIENCE))?;
    client.set_write_timeout(Some(PATIENCE))?;
    let mut line = String::new();
    BufReader::new(io::Read::take(&client, LONGEST)).read_line(&mut line)?;
    let reversed: String = line.trim_end().chars().rev().collect();
    writeln!(&client, "{reversed}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn answers_and_stops() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let thread = std::thread::spawn(move || {
            // A signal to this thread alone stands for the container's.
            let mut mask = SigSet::empty();
            mask.add(Signal::SIGTERM);
            mask.thread_block().unwrap();
            let signals = SignalFd::new(&mask).unwrap();
            let mut client = TcpStream::connect(address).unwrap();
            let asking = std::thread::spawn(move || {
                client.write_all(b"abc\n").unwrap();
                let mut said = String::new();
                client.read_to_string(&mut said).unwrap();
                said
            });
            let (client, _) = listener.accept().unwrap();
            answer(client).unwrap();
            let said = asking.join().unwrap();
            // It goes to the calling thread.
            nix::sys::signal::raise(Signal::SIGTERM).unwrap();
            (said, answer_until(&listener, &signals).unwrap())
        });
        assert_eq!(thread.join().unwrap(), ("cba\n".to_owned(), STOPPED));
    }

    #[test]
    fn bad_arguments_fail() {
        let code = main(["nonsense".into()].into_iter());
        assert_eq!(format!("{code:?}"), format!("{:?}", ExitCode::FAILURE));
        assert_eq!(probe("ab").unwrap(), PROBED);
    }
}
