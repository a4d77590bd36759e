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
    let of = pairs(text);
    let get = |key| of.get(key).copied();
    let or_zero = |key| get(key).unwrap_or(0);
    Some(MemoryStat {
        rss: get("anon")?,
        cache: get("file")?,
        mapped_file: get("file_mapped")?,
        inactive_file: get("inactive_file")?,
        active_anon: get("active_anon")?,
        inactive_anon: get("inactive_anon")?,
        // Kernels before 5.11 have them in part, those without huge pages not at all.
        anon_thp: or_zero("anon_thp"),
        shmem_thp: or_zero("shmem_thp"),
        file_thp: or_zero("file_thp"),
        page_faults: get("pgfault")?,
        major_page_faults: get("pgmajfault")?,
        // In a file of its own.
        swap: 0,
        kernel: get("kernel").or_else(|| {
            // Before 5.18 nobody added them up.
            let parts = ["kernel_stack", "pagetables", "percpu", "sock", "slab"];
            get("kernel_stack").map(|_| parts.into_iter().map(or_zero).sum())
        }),
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
