//! Bridge interfaces that were made for us and that nobody else removes: the bridge plugin leaves
//! its bridge behind.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// Not among libc's constants (linux/sockios.h).
const SIOCBRDELBR: libc::Ioctl = 0x89a1;

/// Is there an interface of this name?
pub fn exists(name: &str) -> bool {
    Path::new("/sys/class/net").join(name).exists()
}

/// Takes the bridge `name` down and removes it, with the addresses and routes it has. True when it was
/// there. An interface of that name that is no bridge is an error (`PermissionDenied`, as the kernel
/// says it) and stays as it is.
pub fn remove(name: &str) -> io::Result<bool> {
    // SAFETY: `ifreq` is plain old data, for which all zeroes is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays zero: it ends the name.
    if name.is_empty() || name.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Inet, SockType::Datagram, flags, None)?;
    let fd = socket.as_raw_fd();
    let delete = |request: &libc::ifreq| {
        // SAFETY: an open socket; the argument is a terminated name, which the kernel only reads.
        Errno::result(unsafe { libc::ioctl(fd, SIOCBRDELBR, request.ifr_name.as_ptr()) })
    };
    let deleted = match delete(&request) {
        // It is a bridge, and up; whatever is no bridge was refused before that is looked at.
        Err(Errno::EBUSY) => take_down(fd, &mut request).and_then(|()| delete(&request)),
        other => other,
    };
    match deleted {
        Ok(_) => Ok(true),
        Err(Errno::ENXIO | Errno::ENODEV) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// netdevice(7)
fn take_down(socket: RawFd, request: &mut libc::ifreq) -> nix::Result<()> {
    // SAFETY: an open socket, and an `ifreq` with a terminated name that outlives the call; the
    // kernel fills in `ifru_flags`.
    Errno::result(unsafe { libc::ioctl(socket, libc::SIOCGIFFLAGS, &mut *request) })?;
    // SAFETY: the call before has written the field that is read, and only that one.
    unsafe { request.ifr_ifru.ifru_flags &= !(libc::IFF_UP as libc::c_short) };
    // SAFETY: as for the first call; the kernel only reads.
    Errno::result(unsafe { libc::ioctl(socket, libc::SIOCSIFFLAGS, &*request) })?;
    Ok(())
}

/// Removes the bridge `name` unless interfaces are attached to it. True when it was removed; false
/// when there is none, when it is in use, or when the interface is no bridge.
pub fn remove_unused(name: &str) -> io::Result<bool> {
    let attached = Path::new("/sys/class/net").join(name).join("brif");
    match std::fs::read_dir(attached) {
        Ok(mut attached) => match attached.next() {
            None => remove(name),
            Some(_) => Ok(false),
        },
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::command::Command;

    /// Runs `f` on a thread in a network namespace of its own, with a /sys that shows it.
    fn in_own_network(f: impl FnOnce() + Send) {
        use nix::mount::{MsFlags, mount};
        use nix::sched::{CloneFlags, unshare};
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
                let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
                mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
                mount(
                    Some("sysfs"),
                    "/sys",
                    Some("sysfs"),
                    MsFlags::empty(),
                    None::<&str>,
                )
                .unwrap();
                f();
            });
            thread.join().unwrap();
        });
    }

    fn ip(args: &[&str]) {
        Command::new("ip").args(args).run().unwrap();
    }

    #[test]
    fn a_bridge_is_removed_and_nothing_else() {
        in_own_network(|| {
            ip(&["link", "add", "br-sample", "type", "bridge"]);
            ip(&["addr", "add", "198.18.0.1/28", "dev", "br-sample"]);
            ip(&["link", "set", "br-sample", "up"]);
            ip(&[
                "link",
                "add",
                "veth-sample",
                "type",
                "veth",
                "peer",
                "name",
                "other",
            ]);
            assert!(exists("br-sample"));
            ip(&["link", "set", "other", "master", "br-sample"]);
            assert!(!remove_unused("br-sample").unwrap(), "in use");
            ip(&["link", "set", "other", "nomaster"]);
            assert!(!remove_unused("veth-sample").unwrap(), "no bridge");
            assert!(remove_unused("br-sample").unwrap());
            assert!(!remove_unused("br-sample").unwrap());
            ip(&["link", "add", "br-sample", "type", "bridge"]);
            assert!(remove("br-sample").unwrap());
            assert!(!exists("br-sample"));
            assert!(!remove("br-sample").unwrap());
            assert!(remove("veth-sample").is_err());
            assert!(exists("veth-sample"));
            ip(&["link", "add", "br-down", "type", "bridge"]);
            assert!(remove("br-down").unwrap());
        });
        assert!(remove("").is_err());
        assert!(remove("a-name-that-is-too-long").is_err());
    }
}
