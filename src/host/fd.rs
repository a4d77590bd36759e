//! Descriptors: closing what was inherited, and asking how much a pipe holds.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::stat::{SFlag, fstat};
use nix::unistd::{Gid, Uid, fchown};

/// Closes whatever the process that started us left open above the standard descriptors. For the first line of
/// a program: nothing of our own may be open yet.
pub fn close_inherited() -> io::Result<()> {
    // SAFETY: the caller has opened nothing, so nothing in this process owns what is closed.
    match unsafe { libc::close_range(3, u32::MAX, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Closes every descriptor, the standard ones too. For a forked child that only waits from here on: nothing
/// that owns a descriptor may be used after this.
pub fn close_all() -> io::Result<()> {
    // SAFETY: the caller gives up every descriptor of the process; a later use of one yields EBADF, since
    // nothing opens another.
    match unsafe { libc::close_range(0, u32::MAX, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Takes descriptor 0 for ourselves and leaves `/dev/null` in its place, so that no child ever shares it.
pub fn take_stdin() -> io::Result<OwnedFd> {
    take(0)
}

/// As [`take_stdin`], for descriptors 1 and 2: the writers of what is passed on to somebody else.
pub fn take_output() -> io::Result<[OwnedFd; 2]> {
    Ok([take(1)?, take(2)?])
}

fn take(number: i32) -> io::Result<OwnedFd> {
    let null = File::options().read(true).write(true).open("/dev/null")?;
    // SAFETY: standard descriptors are open for as long as the process lives (std reopens missing ones at start).
    let standard = unsafe { BorrowedFd::borrow_raw(number) };
    let taken = fcntl(standard, FcntlArg::F_DUPFD_CLOEXEC(3))?;
    // SAFETY: the kernel has just made this descriptor for us.
    let taken = unsafe { OwnedFd::from_raw_fd(taken) };
    // SAFETY: replaces what stands at a standard number; nothing in Rust owns those.
    if unsafe { libc::dup2(null.as_raw_fd(), number) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(taken)
}

/// Gives a pipe to a user and group: in a user namespace even root may open `/dev/stdout` anew only where it
/// belongs to one of the namespace's own. Either end will do. What is no pipe (`/dev/null`) stays the machine's.
pub fn give_pipe(fd: impl AsFd, owner: Option<(u32, u32)>) -> io::Result<()> {
    let Some((uid, gid)) = owner else {
        return Ok(());
    };
    let kind = SFlag::from_bits_truncate(fstat(&fd)?.st_mode) & SFlag::S_IFMT;
    if kind != SFlag::S_IFIFO {
        return Ok(());
    }
    Ok(fchown(
        fd,
        Some(Uid::from_raw(uid)),
        Some(Gid::from_raw(gid)),
    )?)
}

/// How many bytes can be read from a pipe, socket or terminal now.
pub fn readable(fd: impl AsFd) -> io::Result<usize> {
    let mut count: libc::c_int = 0;
    // SAFETY: FIONREAD stores one int at the given address.
    match unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::FIONREAD, &mut count) } {
        0 => Ok(usize::try_from(count).unwrap_or(0)),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Makes reads and writes return `WouldBlock` instead of waiting.
pub fn set_nonblocking(fd: impl AsFd) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(fd.as_fd(), FcntlArg::F_GETFL)?);
    fcntl(fd.as_fd(), FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn pipes_are_given_and_nothing_else() {
        use std::os::unix::fs::MetadataExt;
        let owner = |file: &File| {
            let found = file.metadata().unwrap();
            (found.uid(), found.gid())
        };
        let (reader, writer) = io::pipe().unwrap();
        let reader = File::from(OwnedFd::from(reader));
        give_pipe(&writer, None).unwrap();
        assert_eq!(owner(&reader), (0, 0));
        give_pipe(&writer, Some((500_000, 500_001))).unwrap();
        assert_eq!(owner(&reader), (500_000, 500_001));
        let null = File::open("/dev/null").unwrap();
        give_pipe(&null, Some((500_000, 500_001))).unwrap();
        assert_eq!(owner(&null), (0, 0));
    }

    #[test]
    fn a_pipe_says_what_it_holds() {
        let (reader, mut writer) = io::pipe().unwrap();
        assert_eq!(readable(&reader).unwrap(), 0);
        writer.write_all(b"12345").unwrap();
        assert_eq!(readable(&reader).unwrap(), 5);
        assert!(readable(File::open("/").unwrap()).is_err());
    }
}
