//! Wall-clock time in the two forms the CRI uses.

use std::time::{SystemTime, UNIX_EPOCH};

/// Nanoseconds since the epoch, as the CRI counts `created_at` and its kin.
/// A clock before 1970 reads 0, one past 2262 the largest value.
pub fn now_ns() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX))
}
