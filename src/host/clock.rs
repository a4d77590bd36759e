//! Wall-clock time as the CRI counts it, and when this machine was booted.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};

/// Nanoseconds since the epoch, as the CRI counts `created_at` and its kin.
/// A clock before 1970 reads 0, one past 2262 the largest value.
pub fn now_ns() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX))
}

/// When the machine was booted, in nanoseconds since the epoch, as the wall clock stands now: another
/// answer than before means that the clock was set, or that the machine slept.
pub fn boot_ns() -> nix::Result<i64> {
    let up = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC)?);
    Ok(now_ns().saturating_sub(i64::try_from(up.as_nanos()).unwrap_or(i64::MAX)))
}
