//! Files that a process has open, and how many it may have (proc_pid_fd(5), proc_pid_limits(5)).

use std::fs;
use std::io;
use std::path::Path;

use super::context::during;

/// Open descriptors of a process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OpenFiles {
    pub all: u64,
    pub sockets: u64,
}

/// Of one process; nothing where it has ended.
pub fn of_process(pid: i32) -> io::Result<OpenFiles> {
    let folder = format!("/proc/{pid}/fd");
    let mut found = OpenFiles::default();
    let entries = match fs::read_dir(&folder) {
        Err(e) if has_ended(&e) => return Ok(found),
        other => other.map_err(during(format_args!("list `{folder}`")))?,
    };
    for entry in entries {
        let path = match entry {
            Err(e) if has_ended(&e) => break,
            other => other
                .map_err(during(format_args!("list `{folder}`")))?
                .path(),
        };
        match fs::read_link(&path) {
            Ok(target) => {
                found.all += 1;
                found.sockets += u64::from(is_socket(&target));
            }
            // Closed meanwhile.
            Err(e) if has_ended(&e) => {}
            Err(e) => return Err(during(format_args!("read `{}`", path.display()))(e)),
        }
    }
    Ok(found)
}

/// How many files a process may have open, by its soft limit; `None` where it has ended or there is no limit.
pub fn soft_limit(pid: i32) -> io::Result<Option<u64>> {
    let path = format!("/proc/{pid}/limits");
    match fs::read_to_string(&path) {
        Ok(text) => Ok(parse_limit(&text)),
        Err(e) if has_ended(&e) => Ok(None),
        Err(e) => Err(during(format_args!("read `{path}`"))(e)),
    }
}

fn is_socket(target: &Path) -> bool {
    target.to_str().is_some_and(|t| t.starts_with("socket:"))
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
        assert_eq!(soft_limit(std::process::id() as i32).unwrap(), Some(soft));
        assert_eq!(soft_limit(i32::MAX).unwrap(), None);
    }
}
