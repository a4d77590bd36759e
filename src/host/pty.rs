//! Pseudo-terminals: receiving one from the OCI runtime, its size, its other end.
#![allow(unsafe_code)]

use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use nix::cmsg_space;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

/// Receives one descriptor over a unix socket (unix(7), SCM_RIGHTS), as an OCI runtime sends the master of a
/// container's terminal to `--console-socket`. Anything but exactly one descriptor is an error.
pub fn receive_fd(from: &UnixStream) -> io::Result<OwnedFd> {
    let mut name = [0; 4096];
    let mut iov = [IoSliceMut::new(&mut name)];
    let mut space = cmsg_space!([RawFd; 4]);
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(from.as_raw_fd(), &mut iov, Some(&mut space), flags)?;
    let mut received = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = control {
            // SAFETY: the kernel has just installed these for us and nothing else knows of them.
            received.extend(
                fds.into_iter()
                    .map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }),
            );
        }
    }
    match (received.pop(), received.is_empty()) {
        (Some(fd), true) => Ok(fd),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "not exactly one descriptor came over the socket",
        )),
    }
}

/// Sets a terminal's size; the kernel tells its foreground processes (SIGWINCH).
pub fn resize(terminal: impl AsFd, columns: u16, rows: u16) -> io::Result<()> {
    let size = libc::winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: TIOCSWINSZ reads one winsize from the given address.
    match unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), libc::TIOCSWINSZ, &size) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Opens the other end of a master, whatever mount namespace its device stands in (ioctl_tty(2), TIOCGPTPEER).
pub fn peer(master: impl AsFd) -> io::Result<OwnedFd> {
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: takes flags, returns a new descriptor or -1.
    let fd = unsafe { libc::ioctl(master.as_fd().as_raw_fd(), libc::TIOCGPTPEER, flags) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::pty::openpty;
    use nix::sys::socket::{ControlMessage, sendmsg};
    use std::fs::File;
    use std::io::{IoSlice, Read, Write};

    fn send(to: &UnixStream, fds: &[RawFd]) {
        let rights = [ControlMessage::ScmRights(fds)];
        let iov = [IoSlice::new(b"/dev/ptmx")];
        sendmsg::<()>(to.as_raw_fd(), &iov, &rights, MsgFlags::empty(), None).unwrap();
    }

    #[test]
    fn a_terminal_travels_is_sized_and_opened_from_behind() {
        let pty = openpty(None, None).unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        send(&theirs, &[pty.master.as_raw_fd()]);
        let master = receive_fd(&ours).unwrap();
        resize(&master, 132, 43).unwrap();
        let mut slave = File::from(peer(&master).unwrap());
        slave.write_all(b"hi\n").unwrap();
        let mut got = [0; 8];
        let n = File::from(master).read(&mut got).unwrap();
        assert_eq!(&got[..n], b"hi\r\n");
    }

    #[test]
    fn none_or_two_descriptors_are_refused() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(b"x").unwrap();
        assert!(receive_fd(&ours).is_err());
        let null = File::open("/dev/null").unwrap();
        send(&theirs, &[null.as_raw_fd(), null.as_raw_fd()]);
        assert!(receive_fd(&ours).is_err());
    }

    #[test]
    fn a_file_has_no_size_and_no_other_end() {
        let null = File::open("/dev/null").unwrap();
        assert!(resize(&null, 80, 24).is_err());
        assert!(peer(&null).is_err());
    }
}
