//! The terminal that a person sits at: raw mode and its size.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};

/// Passes every key on and shows nothing by itself, until it is dropped.
pub struct Raw {
    terminal: OwnedFd,
    before: Termios,
}

impl Raw {
    /// An error when it is no terminal.
    pub fn enter(terminal: impl AsFd) -> io::Result<Self> {
        let terminal = terminal.as_fd().try_clone_to_owned()?;
        let before = tcgetattr(&terminal)?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(&terminal, SetArg::TCSADRAIN, &raw)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // The terminal is gone: nothing is left to be put back.
        let _ = tcsetattr(&self.terminal, SetArg::TCSADRAIN, &self.before);
    }
}

/// Columns and rows; an error when it is no terminal.
pub fn size(terminal: impl AsFd) -> io::Result<(u16, u16)> {
    let mut size = libc::winsize {
        ws_row: 0,
        ws_col: 0,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    let fd = terminal.as_fd().as_raw_fd();
    // SAFETY: TIOCGWINSZ stores one winsize at the given address.
    match unsafe { libc::ioctl(fd, libc::TIOCGWINSZ, &mut size) } {
        0 => Ok((size.ws_col, size.ws_row)),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::termios::LocalFlags;

    #[test]
    fn raw_ends_with_its_guard() {
        let pty = nix::pty::openpty(None, None).unwrap();
        crate::host::pty::resize(&pty.master, 132, 43).unwrap();
        assert_eq!(size(&pty.slave).unwrap(), (132, 43));
        let echoes = || {
            let flags = tcgetattr(&pty.slave).unwrap().local_flags;
            flags.contains(LocalFlags::ECHO)
        };
        assert!(echoes());
        let raw = Raw::enter(&pty.slave).unwrap();
        assert!(!echoes());
        drop(raw);
        assert!(echoes());
        let null = std::fs::File::open("/dev/null").unwrap();
        assert!(Raw::enter(&null).is_err() && size(&null).is_err());
    }
}
