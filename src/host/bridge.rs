//! Removal of a bridge interface that nobody uses any more: CNI's bridge plugin and dockerd make
//! theirs and leave them behind.
#![allow(unsafe_code)]

use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// linux/sockios.h
const SIOCBRDELBR: libc::c_ulong = 0x89a1;

/// Is there an interface of this name?
pub fn exists(name: &str) -> bool {
    valid(name).is_ok() && Path::new("/sys/class/net").join(name).exists()
}

/// Removes the bridge `name` unless interfaces are attached to it. True when it was removed; false
/// when there is none, when it is in use, or when the interface is no bridge.
pub fn remove_unused(name: &str) -> io::Result<bool> {
    valid(name)?;
    let sys = Path::new("/sys/class/net").join(name);
    if !sys.join("bridge").is_dir() || fs::read_dir(sys.join("brif"))?.next().is_some() {
        return Ok(false);
    }
    let socket = socket(
        AddressFamily::Inet,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    // SAFETY: zeroes are a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    // A bridge that is up cannot be deleted. The flags are all zero: down.
    // SAFETY: the request outlives the call, which reads an ifreq.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &request) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call reads a name of at most IFNAMSIZ bytes, ended by the zeroes above.
    if unsafe { libc::ioctl(socket.as_raw_fd(), SIOCBRDELBR as _, &request.ifr_name) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(true)
}

/// The kernel's own rule (dev_valid_name): one path component of less than IFNAMSIZ bytes.
fn valid(name: &str) -> io::Result<()> {
    let odd = |b: u8| b == b'/' || b == b':' || b.is_ascii_whitespace() || b == 0;
    if name.is_empty() || name.len() >= libc::IFNAMSIZ || matches!(name, "." | "..") {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    if name.bytes().any(odd) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_names_and_missing_bridges() {
        for bad in ["", ".", "..", "a/b", "a b", "0123456789abcdef"] {
            assert!(remove_unused(bad).is_err(), "{bad}");
        }
        assert!(!remove_unused("no-such-br0").unwrap());
        assert!(!remove_unused("lo").unwrap(), "no bridge");
        assert!(!exists("no-such-br0"));
    }
}
