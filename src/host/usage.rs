//! What this process itself uses.

use std::fs;
use std::io;
use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};
use nix::unistd::{SysconfVar, sysconf};

/// As of one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Resident memory, in bytes; file pages count.
    pub resident: u64,
    pub open_files: usize,
    /// User and system time.
    pub cpu: Duration,
}

/// Reads /proc/self (proc(5)) and asks getrusage(2).
pub fn own_usage() -> io::Result<Usage> {
    let invalid = |what| io::Error::new(io::ErrorKind::InvalidData, what);
    let statm = fs::read_to_string("/proc/self/statm")?;
    let pages: u64 = statm
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse().ok())
        .ok_or_else(|| invalid("`/proc/self/statm` has no resident pages"))?;
    let page = sysconf(SysconfVar::PAGE_SIZE)?.unwrap_or(4096);
    let page = u64::try_from(page).map_err(|_| invalid("no page size"))?;
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let time = |time: nix::sys::time::TimeVal| {
        let seconds = u64::try_from(time.tv_sec()).unwrap_or(0);
        let micros = u64::try_from(time.tv_usec()).unwrap_or(0);
        Duration::from_secs(seconds) + Duration::from_micros(micros)
    };
    Ok(Usage {
        resident: pages * page,
        // One of them is the folder that is being read.
        open_files: fs::read_dir("/proc/self/fd")?.count().saturating_sub(1),
        cpu: time(usage.user_time()) + time(usage.system_time()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_grows_with_what_is_held() {
        let before = own_usage().unwrap();
        let files: Vec<_> = (0..100)
            .map(|_| fs::File::open("/proc/self/stat").unwrap())
            .collect();
        let memory = vec![1_u8; 64 << 20];
        let after = own_usage().unwrap();
        // Other tests of this process open and close files meanwhile.
        assert!(
            after.open_files > before.open_files + 50,
            "{before:?} {after:?}"
        );
        assert!(after.resident > 64 << 20 && after.cpu >= before.cpu);
        drop((files, memory));
    }
}
