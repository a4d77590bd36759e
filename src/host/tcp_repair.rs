//! TCP sockets of other processes that were left in repair mode.
//!
//! criu reads what is queued in an established connection in this mode, in which the kernel neither sends nor
//! acknowledges (TCP_REPAIR of tcp(7)). The mode is the socket's, not criu's: a criu that is killed leaves the
//! connection dead and open.
#![allow(unsafe_code)]

use std::fs;
use std::io;
use std::mem::size_of_val;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::process::PidFd;

/// Takes every TCP socket of a process out of repair mode, through a copy of its descriptor (pidfd_getfd(2), Linux 5.6);
/// how many were in it. `NotFound` when the process is gone.
pub fn end(pid: i32) -> io::Result<usize> {
    let process = PidFd::open(pid)?;
    let mut ended = 0;
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        let entry = entry?;
        let is_socket = fs::read_link(entry.path())
            .is_ok_and(|target| target.to_string_lossy().starts_with("socket:["));
        let number = entry.file_name().to_string_lossy().parse::<i32>();
        if let (true, Ok(number)) = (is_socket, number) {
            match copy(&process, number) {
                Ok(socket) => ended += usize::from(end_one(&socket)?),
                // It was closed meanwhile.
                Err(e) if e.raw_os_error() == Some(libc::EBADF) => {}
                Err(e) => return Err(e),
            }
        }
    }
    Ok(ended)
}

fn copy(process: &PidFd, number: i32) -> io::Result<OwnedFd> {
    // SAFETY: the call takes three integers and returns a new descriptor or -1.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), number, 0) };
    match i32::try_from(fd) {
        // SAFETY: the kernel has just made this descriptor for us.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

fn end_one(socket: &OwnedFd) -> io::Result<bool> {
    if get(socket, libc::SOL_SOCKET, libc::SO_PROTOCOL)? != libc::IPPROTO_TCP
        || get(socket, libc::IPPROTO_TCP, libc::TCP_REPAIR)? == 0
    {
        return Ok(false);
    }
    // With 0 the kernel also probes the peer's window, which sets the connection going again.
    let off: libc::c_int = 0;
    // SAFETY: the option's value is an int, which outlives the call.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_REPAIR,
            (&raw const off).cast(),
            size_of_val(&off) as libc::socklen_t,
        )
    };
    if set == 0 {
        Ok(true)
    } else {
        Err(io::Error::last_os_error())
    }
}

fn get(socket: &OwnedFd, level: libc::c_int, option: libc::c_int) -> io::Result<libc::c_int> {
    let mut value: libc::c_int = 0;
    let mut length = size_of_val(&value) as libc::socklen_t;
    // SAFETY: value and length are ours for the call, and the length is the value's.
    let got = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw mut value).cast(),
            &raw mut length,
        )
    };
    if got == 0 {
        Ok(value)
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn a_connection_goes_on_that_was_left_in_repair() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut theirs, _) = listener.accept().unwrap();
        let fd: OwnedFd = ours.try_clone().unwrap().into();
        let on: libc::c_int = 1;
        // SAFETY: as above.
        let set = unsafe {
            libc::setsockopt(
                fd.as_raw_fd(),
                libc::IPPROTO_TCP,
                libc::TCP_REPAIR,
                (&raw const on).cast(),
                size_of_val(&on) as libc::socklen_t,
            )
        };
        assert_eq!(set, 0, "{}", io::Error::last_os_error());
        // The socket has two descriptors here; other tests of this process have sockets too, none in repair.
        assert_eq!(end(std::process::id().cast_signed()).unwrap(), 1);
        ours.write_all(b"on").unwrap();
        let mut heard = [0; 2];
        theirs.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"on");
    }

    #[test]
    fn a_process_that_is_gone_is_told() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id().cast_signed();
        child.wait().unwrap();
        assert_eq!(end(pid).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
