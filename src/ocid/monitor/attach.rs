//! Those who are attached to a container: each gets a copy of its output, and any may write to its input.
//!
//! Nothing is kept for an attacher beyond what one read brought. While one has not taken that, the container's
//! output is not read, so it goes as fast as its slowest reader; dropping what a terminal across a network cannot take
//! at once would garble it. But the log must not stand still for somebody who has stopped reading: whoever takes
//! nothing for [`PATIENCE`] is let go.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};

use super::call;
use super::protocol::{ATTACHED_END, ATTACHED_HEAD};
use super::stdio::Channel;
use crate::host::fd;

/// How long an attacher may take nothing of what waits for it.
const PATIENCE: Duration = Duration::from_secs(10);
/// At a time; more are turned away.
const MOST: usize = 16;
/// Input that is read at once.
const PIECE: usize = 4096;

/// All of a container's.
pub struct Attachers {
    all: Vec<Attacher>,
    input: Input,
}

/// A connection that has asked to be attached, with what it sent behind its request.
pub struct Newcomer {
    pub stream: UnixStream,
    pub sent: Vec<u8>,
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
}

struct Attacher {
    stream: UnixStream,
    stdin: bool,
    stdout: bool,
    stderr: bool,
    /// What it has not taken yet, and since when it takes nothing.
    waiting: Vec<u8>,
    since: Instant,
    /// It has gone, and what it typed has not been read yet: the container takes its time.
    hung: bool,
}

/// The container's input.
struct Input {
    /// Absent where there is none, and once it is closed.
    fd: Option<OwnedFd>,
    /// It ends with the first who attached to it.
    once: bool,
    /// It ends when what waits has been taken.
    closing: bool,
    waiting: Vec<u8>,
}

impl Attachers {
    /// `input` is the writing end of the container's input, or its terminal; made non-blocking.
    pub fn new(input: Option<OwnedFd>, once: bool) -> io::Result<Self> {
        if let Some(input) = &input {
            fd::set_nonblocking(input)?;
        }
        Ok(Self {
            all: Vec::new(),
            input: Input {
                fd: input,
                once,
                closing: false,
                waiting: Vec::new(),
            },
        })
    }

    pub fn full(&self) -> bool {
        self.all.len() >= MOST
    }

    pub fn add(&mut self, new: Newcomer) {
        if new.stdin {
            self.input.push(&new.sent);
        }
        self.all.push(Attacher {
            stream: new.stream,
            stdin: new.stdin,
            stdout: new.stdout,
            stderr: new.stderr,
            waiting: Vec::new(),
            since: Instant::now(),
            hung: false,
        });
    }

    /// Somebody has not taken everything: the container's output is to wait.
    pub fn behind(&self) -> bool {
        self.all.iter().any(|a| !a.waiting.is_empty())
    }

    /// When the next of those will be let go.
    pub fn deadline(&self) -> Option<Instant> {
        let behind = self.all.iter().filter(|a| !a.waiting.is_empty());
        behind.map(|a| a.since + PATIENCE).min()
    }

    /// A copy of what the container wrote, for those who want it.
    pub fn write(&mut self, channel: Channel, data: &[u8]) {
        let number = match channel {
            Channel::Stdout => 1,
            Channel::Stderr => 2,
        };
        self.each(|attacher| {
            let wanted = match channel {
                Channel::Stdout => attacher.stdout,
                Channel::Stderr => attacher.stderr,
            };
            !wanted || attacher.send(number, data)
        });
    }

    /// What [`Attachers::serve`] is to be told of.
    pub fn watch<'a>(&'a self, fds: &mut Vec<PollFd<'a>>) {
        for attacher in self.watched() {
            let mut events = PollFlags::empty();
            events.set(PollFlags::POLLOUT, !attacher.waiting.is_empty());
            // One piece at a time goes to the container.
            let reads = attacher.stdin && self.input.waiting.is_empty();
            events.set(PollFlags::POLLIN, reads);
            fds.push(PollFd::new(attacher.stream.as_fd(), events));
        }
        if let Some(input) = self.input.waits() {
            fds.push(PollFd::new(input.as_fd(), PollFlags::POLLOUT));
        }
    }

    /// All but those who have gone and can only be read once the container has taken its input: a hang-up would be
    /// reported again and again.
    fn watched(&self) -> impl Iterator<Item = &Attacher> {
        let held = self.input.waits().is_some();
        self.all.iter().filter(move |a| !(a.hung && held))
    }

    /// Deals with what happened on those, in the same order; and with those who took too long.
    pub fn serve(&mut self, ready: &[PollFlags]) {
        let now = Instant::now();
        let mut ready = ready.iter().copied();
        let gone = PollFlags::POLLERR | PollFlags::POLLHUP | PollFlags::POLLNVAL;
        let held = self.input.waits().is_some();
        let input = &mut self.input;
        self.all.retain_mut(|attacher| {
            if attacher.hung && held {
                return true;
            }
            let events = ready.next().unwrap_or(PollFlags::empty());
            let mut stays = true;
            if events.contains(PollFlags::POLLIN) && attacher.stdin {
                match attacher.receive(input) {
                    Ok(true) => {}
                    Ok(false) => {
                        attacher.stdin = false;
                        input.end();
                    }
                    Err(_) => stays = false,
                }
            } else if events.intersects(gone) && attacher.stdin && held {
                attacher.hung = true;
                (attacher.stdout, attacher.stderr) = (false, false);
                attacher.waiting = Vec::new();
            } else if events.intersects(gone) {
                stays = false;
            }
            if events.contains(PollFlags::POLLOUT) {
                stays &= attacher.flush();
            }
            if !attacher.waiting.is_empty() && attacher.since + PATIENCE <= now {
                eprintln!("an attacher takes nothing and is let go");
                stays = false;
            }
            if !stays && attacher.stdin {
                input.end();
            }
            stays
        });
        if ready.next().is_some_and(|events| !events.is_empty()) {
            input.flush();
        }
    }

    /// Waits until everybody has taken everything, or has been let go.
    pub fn settle(&mut self) {
        while let Some(deadline) = self.deadline() {
            let mut fds: Vec<PollFd<'_>> = self
                .watched()
                .map(|attacher| {
                    let mut events = PollFlags::empty();
                    events.set(PollFlags::POLLOUT, !attacher.waiting.is_empty());
                    PollFd::new(attacher.stream.as_fd(), events)
                })
                .collect();
            match poll(&mut fds, call::timeout(Some(deadline))) {
                Ok(_) | Err(Errno::EINTR) => {}
                // It cannot be waited for.
                Err(_) => return,
            }
            let ready: Vec<PollFlags> = fds.iter().map(events).collect();
            self.serve(&ready);
        }
    }

    /// Tells everybody that the container has ended, and lets them go.
    pub fn end(&mut self) {
        self.each(|attacher| attacher.send(ATTACHED_END, b""));
        self.settle();
        self.all.clear();
        self.input.fd = None;
    }

    /// Lets go those of whom `stays` says so.
    fn each(&mut self, mut stays: impl FnMut(&mut Attacher) -> bool) {
        let input = &mut self.input;
        self.all.retain_mut(|attacher| {
            let stays = stays(attacher);
            if !stays && attacher.stdin {
                input.end();
            }
            stays
        });
    }
}

/// What happened on a descriptor.
pub fn events(fd: &PollFd<'_>) -> PollFlags {
    fd.revents().unwrap_or(PollFlags::empty())
}

impl Attacher {
    /// False when it is gone.
    fn send(&mut self, channel: u8, data: &[u8]) -> bool {
        if self.waiting.is_empty() {
            self.since = Instant::now();
        }
        // What one read brought is at most as long as a line of the log.
        let length = u16::try_from(data.len()).unwrap_or(u16::MAX);
        let data = data.get(..usize::from(length)).unwrap_or_default();
        let [high, low] = length.to_be_bytes();
        let head: [u8; ATTACHED_HEAD] = [channel, high, low];
        self.waiting.extend_from_slice(&head);
        self.waiting.extend_from_slice(data);
        self.flush()
    }

    /// False when it is gone.
    fn flush(&mut self) -> bool {
        while !self.waiting.is_empty() {
            match self.stream.write(&self.waiting) {
                Ok(count) => {
                    self.waiting.drain(..count);
                    self.since = Instant::now();
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return true,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        // There is a monitor for every container, and most of the time nobody is attached.
        self.waiting = Vec::new();
        true
    }

    /// Hands on what it sent; false at its end.
    fn receive(&mut self, input: &mut Input) -> io::Result<bool> {
        let mut piece = [0; PIECE];
        match self.stream.read(&mut piece) {
            Ok(0) => Ok(false),
            Ok(count) => {
                input.push(piece.get(..count).unwrap_or_default());
                Ok(true)
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(true),
            Err(e) => Err(e),
        }
    }
}

impl Input {
    fn waits(&self) -> Option<&OwnedFd> {
        self.fd.as_ref().filter(|_| !self.waiting.is_empty())
    }

    fn push(&mut self, data: &[u8]) {
        if self.fd.is_some() {
            self.waiting.extend_from_slice(data);
            self.flush();
        }
    }

    fn flush(&mut self) {
        while let Some(fd) = self.waits() {
            match nix::unistd::write(fd, &self.waiting) {
                Ok(count) => drop(self.waiting.drain(..count)),
                Err(Errno::EAGAIN) => return,
                Err(Errno::EINTR) => {}
                // The container has closed it.
                Err(_) => self.fd = None,
            }
        }
        self.waiting = Vec::new();
        if self.closing {
            self.fd = None;
        }
    }

    /// Somebody who was attached to it is done.
    fn end(&mut self) {
        if self.once {
            self.closing = true;
            self.flush();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    fn attached(attachers: &mut Attachers, stdin: bool) -> UnixStream {
        let (ours, stream) = UnixStream::pair().unwrap();
        stream.set_nonblocking(true).unwrap();
        let sent = Vec::new();
        attachers.add(Newcomer {
            stream,
            sent,
            stdin,
            stdout: true,
            stderr: false,
        });
        ours
    }

    fn turn(attachers: &mut Attachers) {
        let mut fds = Vec::new();
        attachers.watch(&mut fds);
        poll(&mut fds, 1000u16).unwrap();
        let ready: Vec<PollFlags> = fds.iter().map(events).collect();
        attachers.serve(&ready);
    }

    fn read(stream: &mut UnixStream, count: usize) -> Vec<u8> {
        let mut got = vec![0; count];
        stream.read_exact(&mut got).unwrap();
        got
    }

    #[test]
    fn output_goes_to_everybody_who_wants_it() {
        let mut attachers = Attachers::new(None, false).unwrap();
        let (mut one, mut two) = (
            attached(&mut attachers, false),
            attached(&mut attachers, true),
        );
        attachers.write(Channel::Stderr, b"not for us");
        attachers.write(Channel::Stdout, b"hi");
        assert_eq!(read(&mut one, 5), b"\x01\0\x02hi");
        assert_eq!(read(&mut two, 5), b"\x01\0\x02hi");
        drop(one);
        turn(&mut attachers);
        assert_eq!(attachers.all.len(), 1);
        attachers.end();
        assert_eq!(read(&mut two, 3), [ATTACHED_END, 0, 0]);
        assert_eq!(two.read(&mut [0; 1]).unwrap(), 0);
    }

    #[test]
    fn who_does_not_read_holds_up_and_is_then_let_go() {
        let mut attachers = Attachers::new(None, false).unwrap();
        let mut slow = attached(&mut attachers, false);
        let piece = [7; 16_384];
        let mut pieces = 0;
        while !attachers.behind() {
            attachers.write(Channel::Stdout, &piece);
            pieces += 1;
        }
        // It reads again: nothing was lost.
        let reading = std::thread::spawn(move || {
            read(&mut slow, pieces * (piece.len() + ATTACHED_HEAD));
            slow
        });
        attachers.settle();
        assert!(!attachers.behind() && attachers.all.len() == 1);
        let slow = reading.join().unwrap();
        while !attachers.behind() {
            attachers.write(Channel::Stdout, &piece);
        }
        for attacher in &mut attachers.all {
            attacher.since -= PATIENCE;
        }
        attachers.settle();
        assert!(attachers.all.is_empty());
        drop(slow);
    }

    #[test]
    fn input_ends_with_the_first_where_it_is_asked_for() {
        for once in [true, false] {
            let (reader, writer) = io::pipe().unwrap();
            let mut attachers = Attachers::new(Some(writer.into()), once).unwrap();
            let mut one = attached(&mut attachers, true);
            one.write_all(b"typed\n").unwrap();
            turn(&mut attachers);
            one.shutdown(std::net::Shutdown::Write).unwrap();
            turn(&mut attachers);
            let mut reader = File::from(OwnedFd::from(reader));
            let mut got = [0; 16];
            assert_eq!(reader.read(&mut got).unwrap(), 6);
            assert_eq!(attachers.input.fd.is_none(), once);
            // The output still comes.
            attachers.write(Channel::Stdout, b"x");
            assert_eq!(read(&mut one, 4), b"\x01\0\x01x");
        }
    }

    #[test]
    fn input_that_the_container_does_not_take_waits() {
        let (reader, writer) = io::pipe().unwrap();
        let mut attachers = Attachers::new(Some(writer.into()), true).unwrap();
        let mut one = attached(&mut attachers, true);
        let sent: Vec<u8> = (0..300_000).map(|n: u32| (n % 251) as u8).collect();
        let sending = sent.clone();
        let sender = std::thread::spawn(move || one.write_all(&sending).map(|()| drop(one)));
        let mut reader = File::from(OwnedFd::from(reader));
        let reading = std::thread::spawn(move || {
            let mut got = Vec::new();
            reader.read_to_end(&mut got).unwrap();
            got
        });
        while attachers.input.fd.is_some() {
            turn(&mut attachers);
            assert!(attachers.input.waiting.len() <= PIECE);
        }
        sender.join().unwrap().unwrap();
        assert!(reading.join().unwrap() == sent);
    }
}
