//! The master of a terminal, read and written in an async runtime.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use tokio::io::unix::AsyncFd;

use super::fd::set_nonblocking;

/// A terminal's master, or anything else that can be polled.
#[derive(Debug)]
pub struct Terminal(AsyncFd<OwnedFd>);

impl Terminal {
    /// Makes it non-blocking. Needs an async runtime.
    pub fn new(master: OwnedFd) -> io::Result<Self> {
        set_nonblocking(&master)?;
        // SAFETY: an `OwnedFd` answers with the same open descriptor for as long as it lives, and it lives in
        // the registration.
        let registered = unsafe { AsyncFd::register(master) };
        registered.map(Self).map_err(io::Error::from)
    }

    /// Reads once; 0 at its end. With nobody behind it this is an error (EIO).
    pub async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut ready = self.0.readable().await?;
            let read = ready.try_io(|fd| Ok(nix::unistd::read(fd.get_ref(), buffer)?));
            if let Ok(count) = read {
                return count;
            }
        }
    }

    /// Writes all of it.
    pub async fn write_all(&self, mut data: &[u8]) -> io::Result<()> {
        while !data.is_empty() {
            let mut ready = self.0.writable().await?;
            let written = ready.try_io(|fd| Ok(nix::unistd::write(fd.get_ref(), data)?));
            if let Ok(count) = written {
                data = data.get(count?..).unwrap_or_default();
            }
        }
        Ok(())
    }
}

impl AsFd for Terminal {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.get_ref().as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::{Read, Write};

    #[tokio::test]
    async fn both_ways_until_nobody_is_behind_it() {
        let pty = nix::pty::openpty(None, None).unwrap();
        let terminal = Terminal::new(pty.master).unwrap();
        let mut slave = File::from(pty.slave);
        slave.write_all(b"hi\n").unwrap();
        let mut buffer = [0; 64];
        let count = terminal.read(&mut buffer).await.unwrap();
        assert_eq!(&buffer[..count], b"hi\r\n");
        terminal.write_all(b"you\n").await.unwrap();
        let count = slave.read(&mut buffer).unwrap();
        assert_eq!(&buffer[..count], b"you\n");
        // Its own echo, and then the end.
        let count = terminal.read(&mut buffer).await.unwrap();
        assert_eq!(&buffer[..count], b"you\r\n");
        drop(slave);
        assert!(terminal.read(&mut buffer).await.is_err());
    }
}
