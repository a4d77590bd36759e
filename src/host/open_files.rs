//! Files that a process has open, and how many it may have (proc_pid_fd(5), prlimit(2)).
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

use super::context::during;

/// What the link of an open socket begins with; a file's begins with a slash.
const SOCKET: &[u8] = b"socket:";
/// Room for about a hundred entries.
const ENTRIES: usize = 4096;

/// Open descriptors of a process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OpenFiles {
    pub all: u64,
    pub sockets: u64,
}

/// Of one process; nothing where it has ended.
pub fn of_process(pid: i32) -> io::Result<OpenFiles> {
    let path = format!("/proc/{pid}/fd");
    let mut found = OpenFiles::default();
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let folder = match open(path.as_str(), flags, Mode::empty()) {
        Err(Errno::ENOENT | Errno::ESRCH) => return Ok(found),
        other => other.map_err(during(format_args!("list `{path}`")))?,
    };
    let mut room = [0; ENTRIES];
    loop {
        let entries = match next_entries(&folder, &mut room) {
            // It has ended meanwhile.
            Err(Errno::ENOENT | Errno::ESRCH) => return Ok(found),
            other => other.map_err(during(format_args!("list `{path}`")))?,
        };
        if entries.is_empty() {
            return Ok(found);
        }
        for name in names(entries).filter(|name| !name.to_bytes().starts_with(b".")) {
            match is_socket(folder.as_fd(), name) {
                Ok(socket) => {
                    found.all += 1;
                    found.sockets += u64::from(socket);
                }
                // Closed meanwhile.
                Err(e) if has_ended(&e) => {}
                Err(e) => {
                    let shown = format!("{path}/{}", name.to_string_lossy());
                    return Err(during(format_args!("read `{shown}`"))(e));
                }
            }
        }
    }
}

/// The next entries of a folder as the kernel writes them (getdents64(2)); none at its end. What the C library has for
/// it takes eight times the room and four more system calls.
fn next_entries<'a>(folder: &OwnedFd, room: &'a mut [u8]) -> Result<&'a [u8], Errno> {
    // SAFETY: an open folder, and room of the length that is given.
    let length = unsafe {
        libc::syscall(
            libc::SYS_getdents64,
            folder.as_raw_fd(),
            room.as_mut_ptr(),
            room.len(),
        )
    };
    let length = Errno::result(length)?;
    let length = usize::try_from(length).unwrap_or(0);
    Ok(room.get(..length).unwrap_or_default())
}

/// The names of such entries: of each, the length is after its number and place, and the name after its kind.
fn names(mut entries: &[u8]) -> impl Iterator<Item = &CStr> {
    std::iter::from_fn(move || {
        let length = entries.get(16..18)?.try_into().ok()?;
        let (entry, rest) = entries.split_at_checked(u16::from_ne_bytes(length).into())?;
        entries = rest;
        CStr::from_bytes_until_nul(entry.get(19..)?).ok()
    })
}

/// Does this link lead to a socket? No more of it is read than tells, nor is what it leads to asked, which may be a
/// file of a server that does not answer.
fn is_socket(folder: BorrowedFd<'_>, name: &CStr) -> io::Result<bool> {
    let mut target = [0_u8; SOCKET.len()];
    // SAFETY: an open folder, a name with its end, and room of the length that is given.
    let length = unsafe {
        libc::readlinkat(
            folder.as_raw_fd(),
            name.as_ptr(),
            target.as_mut_ptr().cast(),
            target.len(),
        )
    };
    Errno::result(length)?;
    Ok(target == SOCKET)
}

/// How many files a process may have open, by its soft limit; `None` where it has ended or there is no limit.
pub fn soft_limit(pid: i32) -> io::Result<Option<u64>> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: nothing is set, and the kernel writes one `rlimit` to where there is one.
    let asked = unsafe { libc::prlimit(pid, libc::RLIMIT_NOFILE, std::ptr::null(), &mut limit) };
    match Errno::result(asked) {
        Ok(_) => Ok(Some(limit.rlim_cur).filter(|limit| *limit != libc::RLIM_INFINITY)),
        Err(Errno::ESRCH) => Ok(None),
        // Of another user, to whom lacks CAP_SYS_RESOURCE; the file is anybody's to read.
        Err(Errno::EPERM) => soft_limit_by_file(pid),
        Err(e) => Err(during(format_args!("ask for the limits of process {pid}"))(
            e,
        )),
    }
}

/// As [`soft_limit`], from proc_pid_limits(5).
fn soft_limit_by_file(pid: i32) -> io::Result<Option<u64>> {
    let path = format!("/proc/{pid}/limits");
    match fs::read_to_string(&path) {
        Ok(text) => Ok(parse_limit(&text)),
        Err(e) if has_ended(&e) => Ok(None),
        Err(e) => Err(during(format_args!("read `{path}`"))(e)),
    }
}

fn has_ended(e: &io::Error) -> bool {
    e.kind() == io::ErrorKind::NotFound || e.raw_os_error() == Some(nix::libc::ESRCH)
}

/// `Max open files            1024                 524288               files`
fn parse_limit(text: &str) -> Option<u64> {
    let line = text
        .lines()
        .find_map(|l| l.strip_prefix("Max open files"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    #[test]
    fn sockets_are_told_apart() {
        let (_a, _b) = UnixStream::pair().unwrap();
        let pid = std::process::id() as i32;
        let found = of_process(pid).unwrap();
        assert!(
            found.sockets >= 2 && found.all >= found.sockets,
            "{found:?}"
        );
        // More than are read at once.
        let many: Vec<_> = (0..300).map(|_| fs::File::open("/").unwrap()).collect();
        let all = of_process(pid).unwrap().all;
        assert!(all >= 300 && many.len() == 300, "{all}");
        // Above the largest pid.
        assert_eq!(of_process(i32::MAX).unwrap(), OpenFiles::default());
    }

    #[test]
    fn the_soft_limit_is_the_first() {
        let text = "Limit                     Soft Limit           Hard Limit           Units\n\
             Max processes             unlimited            unlimited            processes\n\
             Max open files            1024                 524288               files\n";
        assert_eq!(parse_limit(text), Some(1024));
        let (soft, _) =
            nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).unwrap();
        let own = std::process::id() as i32;
        for ask in [soft_limit, soft_limit_by_file] {
            assert_eq!(ask(own).unwrap(), Some(soft));
            assert_eq!(ask(i32::MAX).unwrap(), None);
        }
    }
}
