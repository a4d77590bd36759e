//! Files of version 1.

use super::{CpuTime, MemoryStat, pairs};

/// `cpu.stat`: throttling; the rest of the answer is in other files.
pub fn throttling(text: &str) -> Option<CpuTime> {
    let of = pairs(text);
    let get = |key| of.get(key).copied();
    Some(CpuTime {
        periods: get("nr_periods")?,
        throttled_periods: get("nr_throttled")?,
        throttled: get("throttled_time")?,
        ..CpuTime::default()
    })
}

/// `cpuacct.usage_all`: a head, and for each processor its number and the nanoseconds of users and of the system.
pub fn user_and_system(text: &str) -> Option<(u64, u64)> {
    let mut lines = text.lines();
    if lines.next()? != "cpu user system" {
        return None;
    }
    let (mut user, mut system) = (0_u64, 0_u64);
    for line in lines {
        let mut numbers = line.split(' ').skip(1).map(str::parse);
        user = user.saturating_add(numbers.next()?.ok()?);
        system = system.saturating_add(numbers.next()?.ok()?);
    }
    Some((user, system))
}

/// `memory.stat`: what begins with `total_` counts the cgroups below.
pub fn memory_stat(text: &str) -> Option<MemoryStat> {
    let mut stat = MemoryStat::default();
    let mut whole = false;
    for line in text.lines() {
        let Some(line) = line.strip_prefix("total_") else {
            continue;
        };
        let (key, value) = line.split_once(' ')?;
        let value = value.trim().parse().ok()?;
        match key {
            "rss" => {
                stat.rss = value;
                whole = true;
            }
            "rss_huge" => stat.anon_thp = value,
            "cache" => stat.cache = value,
            "mapped_file" => stat.mapped_file = value,
            "inactive_file" => stat.inactive_file = value,
            "active_anon" => stat.active_anon = value,
            "inactive_anon" => stat.inactive_anon = value,
            "pgfault" => stat.page_faults = value,
            "pgmajfault" => stat.major_page_faults = value,
            "swap" => stat.swap = value,
            _ => {}
        }
    }
    whole.then_some(stat)
}

/// One line of a `blkio` file.
pub struct Blkio {
    pub device: (u32, u32),
    pub write: bool,
    pub value: u64,
}

/// `8:0 Read 4096`; of the operations those that exclude each other, and no totals.
pub fn blkio(text: &str) -> Option<Vec<Blkio>> {
    let mut found = Vec::new();
    for line in text.lines() {
        let mut words = line.split(' ');
        let (Some(device), Some(operation), Some(value)) =
            (words.next(), words.next(), words.next())
        else {
            // `Total 0`
            continue;
        };
        let write = match operation {
            "Read" => false,
            "Write" => true,
            _ => continue,
        };
        found.push(Blkio {
            device: super::v2::device(device)?,
            write,
            value: value.parse().ok()?,
        });
    }
    Some(found)
}
