//! Files of version 2.

use std::collections::BTreeMap;

use super::{CpuTime, DeviceIo, MemoryStat, pairs};

/// `cpu.stat`, in nanoseconds.
pub fn cpu_usage(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|l| l.strip_prefix("usage_usec "))?;
    nanoseconds(line.trim().parse().ok()?)
}

/// `cpu.stat`. Without the controller it says how time divides and nothing of throttling.
pub fn cpu_time(text: &str) -> Option<CpuTime> {
    let of = pairs(text);
    let get = |key| of.get(key).copied();
    Some(CpuTime {
        total: nanoseconds(get("usage_usec")?)?,
        user: nanoseconds(get("user_usec")?)?,
        system: nanoseconds(get("system_usec")?)?,
        periods: get("nr_periods").unwrap_or(0),
        throttled_periods: get("nr_throttled").unwrap_or(0),
        throttled: nanoseconds(get("throttled_usec").unwrap_or(0))?,
    })
}

fn nanoseconds(microseconds: u64) -> Option<u64> {
    microseconds.checked_mul(1000)
}

/// `memory.stat`
pub fn memory_stat(text: &str) -> Option<MemoryStat> {
    let (mut anon, mut file, mut mapped) = (None, None, None);
    let (mut inactive, mut faults, mut major) = (None, None, None);
    let (mut active_anon, mut inactive_anon) = (None, None);
    let (mut kernel, mut parts) = (None, None);
    let mut stat = MemoryStat::default();
    for line in text.lines() {
        let (key, value) = line.split_once(' ')?;
        let value = value.trim().parse().ok()?;
        match key {
            "anon" => anon = Some(value),
            "file" => file = Some(value),
            "file_mapped" => mapped = Some(value),
            "inactive_file" => inactive = Some(value),
            "inactive_anon" => inactive_anon = Some(value),
            "active_anon" => active_anon = Some(value),
            "pgfault" => faults = Some(value),
            "pgmajfault" => major = Some(value),
            // Kernels before 5.11 have them in part, those without huge pages not at all.
            "anon_thp" => stat.anon_thp = value,
            "shmem_thp" => stat.shmem_thp = value,
            "file_thp" => stat.file_thp = value,
            "kernel" => kernel = Some(value),
            // Before 5.18 nobody added them up.
            "kernel_stack" | "pagetables" | "percpu" | "sock" | "slab" => {
                parts = Some(value.saturating_add(parts.unwrap_or(0)));
            }
            _ => {}
        }
    }
    Some(MemoryStat {
        rss: anon?,
        cache: file?,
        mapped_file: mapped?,
        inactive_file: inactive?,
        active_anon: active_anon?,
        inactive_anon: inactive_anon?,
        page_faults: faults?,
        major_page_faults: major?,
        kernel: kernel.or(parts),
        // Swap is in a file of its own.
        ..stat
    })
}

/// `io.stat`: `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6`
pub fn io_stat(text: &str) -> Option<BTreeMap<(u32, u32), DeviceIo>> {
    let mut found = BTreeMap::new();
    for line in text.lines() {
        let mut words = line.split(' ');
        let device = device(words.next()?)?;
        let mut of = DeviceIo::default();
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            match key {
                "rbytes" => of.read_bytes = value.parse().ok()?,
                "wbytes" => of.write_bytes = value.parse().ok()?,
                "rios" => of.reads = value.parse().ok()?,
                "wios" => of.writes = value.parse().ok()?,
                _ => {}
            }
        }
        found.insert(device, of);
    }
    Some(found)
}

/// `8:0`
pub fn device(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}
