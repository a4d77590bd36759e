//! Handing descriptors to another process over a unix socket (unix(7), SCM_RIGHTS).
#![allow(unsafe_code)]

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};

/// What one byte of a socket brought.
#[derive(Debug)]
pub enum Received {
    /// A descriptor, which rode on the byte.
    Descriptor(OwnedFd),
    /// The byte alone.
    Byte(u8),
    End,
}

/// Sends one byte with a descriptor on it.
pub fn send(to: impl AsFd, fd: impl AsFd) -> io::Result<()> {
    let fds = [fd.as_fd().as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&fds)];
    let iov = [IoSlice::new(b"\0")];
    let flags = MsgFlags::MSG_NOSIGNAL;
    loop {
        match sendmsg::<()>(to.as_fd().as_raw_fd(), &iov, &rights, flags, None) {
            Err(Errno::EINTR) => {}
            other => return Ok(other.map(drop)?),
        }
    }
}

/// Takes one byte, and the descriptor that rides on it. More than one is an error.
pub fn receive(from: impl AsFd) -> io::Result<Received> {
    let mut byte = [0];
    let mut iov = [IoSliceMut::new(&mut byte)];
    let mut space = cmsg_space!([RawFd; 4]);
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = loop {
        match recvmsg::<()>(from.as_fd().as_raw_fd(), &mut iov, Some(&mut space), flags) {
            Err(Errno::EINTR) => {}
            other => break other?,
        }
    };
    let count = message.bytes;
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
        (Some(fd), true) => Ok(Received::Descriptor(fd)),
        (None, _) if count == 0 => Ok(Received::End),
        (None, _) => Ok(Received::Byte(byte[0])),
        (Some(_), false) => {
            let message = "more than one descriptor came over the socket";
            Err(io::Error::new(io::ErrorKind::InvalidData, message))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_descriptor_rides_on_its_own_byte() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let (reader, writer) = io::pipe().unwrap();
        send(&ours, &writer).unwrap();
        drop(writer);
        ours.write_all(b"ab").unwrap();
        drop(ours);
        let Received::Descriptor(fd) = receive(&theirs).unwrap() else {
            panic!("no descriptor");
        };
        File::from(fd).write_all(b"hi").unwrap();
        let mut text = String::new();
        File::from(OwnedFd::from(reader))
            .read_to_string(&mut text)
            .unwrap();
        assert_eq!(text, "hi");
        assert!(matches!(receive(&theirs).unwrap(), Received::Byte(b'a')));
        assert!(matches!(receive(&theirs).unwrap(), Received::Byte(b'b')));
        assert!(matches!(receive(&theirs).unwrap(), Received::End));
    }
}
