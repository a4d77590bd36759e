//! What a cgroup uses, from the kernel's accounts (its documents `admin-guide/cgroup-v1` and
//! `admin-guide/cgroup-v2.rst`, and `accounting/psi.rst`).
//!
//! Everything counts the cgroups below as well. A cgroup that is gone, and a controller or a file that the
//! machine does not have, is `None`: nothing is known, which is not zero. One function per account, since each
//! costs its files.

mod account;
mod files;
mod v1;
mod v2;

use std::collections::BTreeMap;
use std::io;

use super::{Cgroups, Version, below, is_gone};
use crate::host::context::during;
pub(super) use account::value;
use account::{pairs, psi};
pub(super) use files::{Files, Folder, path_below};

/// What processors spent, in nanoseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CpuTime {
    pub total: u64,
    pub user: u64,
    pub system: u64,
    /// Enforcement periods that have elapsed, and those in which it was throttled.
    pub periods: u64,
    pub throttled_periods: u64,
    pub throttled: u64,
}

/// Memory, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    pub usage: u64,
    /// The cgroup's own, not that of one above it.
    pub limit: Option<u64>,
    pub stat: MemoryStat,
    /// Absent where the kernel does not account for swap.
    pub swap: Option<Swap>,
}

/// `memory.stat`, in bytes, and page faults in their number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemoryStat {
    pub rss: u64,
    pub cache: u64,
    pub mapped_file: u64,
    pub inactive_file: u64,
    pub active_anon: u64,
    pub inactive_anon: u64,
    /// Memory in transparent huge pages; version 1 tells of the first alone.
    pub anon_thp: u64,
    pub shmem_thp: u64,
    pub file_thp: u64,
    pub page_faults: u64,
    pub major_page_faults: u64,
    pub swap: u64,
    /// Version 2 alone has it here.
    pub kernel: Option<u64>,
}

/// Swap, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swap {
    pub usage: u64,
    pub limit: Option<u64>,
}

/// What [`Memory`] leaves out, as fewer ask for it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemoryExtremes {
    /// The most ever used, in bytes. Kernels before 6.2 do not keep it on version 2.
    pub peak: Option<u64>,
    /// How often usage hit the limit.
    pub limit_hits: u64,
    /// Version 2 has it in [`MemoryStat`].
    pub kernel: Option<u64>,
}

/// Threads and processes together, as the pids controller counts them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tasks {
    pub current: u64,
    pub limit: Option<u64>,
}

/// Pressure stall information of one resource.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Psi {
    /// Time in which all tasks at once waited.
    pub full: Stall,
    /// Time in which at least one task waited.
    pub some: Stall,
}

#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Stall {
    /// Microseconds.
    pub total: u64,
    /// Per cent of the last 10, 60 and 300 seconds.
    pub avg10: f64,
    pub avg60: f64,
    pub avg300: f64,
}

/// The three resources that the kernel keeps pressure of.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Pressure {
    pub cpu: Option<Psi>,
    pub memory: Option<Psi>,
    pub io: Option<Psi>,
}

/// What a block device did for a cgroup.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DeviceIo {
    pub read_bytes: u64,
    pub write_bytes: u64,
    pub reads: u64,
    pub writes: u64,
}

/// Huge pages of one size, in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HugePages {
    /// As the kernel writes it: `2MB`.
    pub size: String,
    pub usage: u64,
    /// The most ever used; version 2 does not tell.
    pub peak: Option<u64>,
}

impl Memory {
    /// What cannot be taken away without harm: usage less the file pages that nobody touched of late, as kubelet
    /// and cAdvisor have it.
    pub fn working_set(&self) -> u64 {
        self.usage.saturating_sub(self.stat.inactive_file)
    }

    /// What is left of the limit; `None` without one.
    pub fn available(&self) -> Option<u64> {
        self.limit
            .map(|limit| limit.saturating_sub(self.working_set()))
    }

    /// Both together; without a limit, as the two have no common one.
    pub fn plus(self, other: Self) -> Self {
        let (a, b) = (self.stat, other.stat);
        Self {
            usage: self.usage.saturating_add(other.usage),
            limit: None,
            stat: MemoryStat {
                rss: a.rss.saturating_add(b.rss),
                cache: a.cache.saturating_add(b.cache),
                mapped_file: a.mapped_file.saturating_add(b.mapped_file),
                inactive_file: a.inactive_file.saturating_add(b.inactive_file),
                active_anon: a.active_anon.saturating_add(b.active_anon),
                inactive_anon: a.inactive_anon.saturating_add(b.inactive_anon),
                anon_thp: a.anon_thp.saturating_add(b.anon_thp),
                shmem_thp: a.shmem_thp.saturating_add(b.shmem_thp),
                file_thp: a.file_thp.saturating_add(b.file_thp),
                page_faults: a.page_faults.saturating_add(b.page_faults),
                major_page_faults: a.major_page_faults.saturating_add(b.major_page_faults),
                swap: a.swap.saturating_add(b.swap),
                kernel: a.kernel.zip(b.kernel).map(|(a, b)| a.saturating_add(b)),
            },
            swap: self.swap.zip(other.swap).map(|(a, b)| Swap {
                usage: a.usage.saturating_add(b.usage),
                limit: None,
            }),
        }
    }
}

impl Swap {
    /// What is left of the limit; `None` without one.
    pub fn available(&self) -> Option<u64> {
        self.limit.map(|limit| limit.saturating_sub(self.usage))
    }
}

impl Cgroups {
    /// Processor time so far, in nanoseconds.
    pub fn cpu_usage(&self, path: &str) -> io::Result<Option<u64>> {
        match self.version() {
            Version::V1 => self.number("cpuacct", path, "cpuacct.usage"),
            Version::V2 => self.parsed("cpu", path, "cpu.stat", v2::cpu_usage),
        }
    }

    /// How processor time divides, and throttling.
    pub fn cpu_time(&self, path: &str) -> io::Result<Option<CpuTime>> {
        if self.version() == Version::V2 {
            return self.parsed("cpu", path, "cpu.stat", v2::cpu_time);
        }
        let total = self.number("cpuacct", path, "cpuacct.usage")?;
        let divided = self.parsed("cpuacct", path, "cpuacct.usage_all", v1::user_and_system)?;
        let (Some(total), Some((user, system))) = (total, divided) else {
            return Ok(None);
        };
        let throttling = self.parsed("cpu", path, "cpu.stat", v1::throttling)?;
        Ok(Some(CpuTime {
            total,
            user,
            system,
            ..throttling.unwrap_or_default()
        }))
    }

    pub fn memory(&self, path: &str) -> io::Result<Option<Memory>> {
        let Some((usage, stat)) = self.memory_used(path)? else {
            return Ok(None);
        };
        let limit = match self.version() {
            Version::V1 => "memory.limit_in_bytes",
            Version::V2 => "memory.max",
        };
        let limit = self.limit("memory", path, limit)?.flatten();
        let swap = match self.version() {
            Version::V1 => {
                let both = self.limit("memory", path, "memory.memsw.limit_in_bytes")?;
                both.map(|both| Swap {
                    usage: stat.swap,
                    limit: both
                        .zip(limit)
                        .map(|(both, limit)| both.saturating_sub(limit)),
                })
            }
            Version::V2 => match self.swap_used(path)? {
                Some(usage) => Some(Swap {
                    usage,
                    limit: self.limit("memory", path, "memory.swap.max")?.flatten(),
                }),
                None => None,
            },
        };
        Ok(Some(Memory {
            usage,
            limit,
            stat,
            swap,
        }))
    }

    /// The same without its limits, which cost as much again.
    pub fn memory_unlimited(&self, path: &str) -> io::Result<Option<Memory>> {
        let Some((usage, stat)) = self.memory_used(path)? else {
            return Ok(None);
        };
        let swap = match self.version() {
            Version::V1 => Some(stat.swap),
            Version::V2 => self.swap_used(path)?,
        };
        Ok(Some(Memory {
            usage,
            limit: None,
            stat,
            swap: swap.map(|usage| Swap { usage, limit: None }),
        }))
    }

    fn memory_used(&self, path: &str) -> io::Result<Option<(u64, MemoryStat)>> {
        let (usage, stat): (_, fn(&str) -> Option<MemoryStat>) = match self.version() {
            Version::V1 => ("memory.usage_in_bytes", v1::memory_stat),
            Version::V2 => ("memory.current", v2::memory_stat),
        };
        let usage = self.number("memory", path, usage)?;
        let stat = self.parsed("memory", path, "memory.stat", stat)?;
        Ok(usage.zip(stat))
    }

    /// Of version 2, where the kernel accounts for swap.
    fn swap_used(&self, path: &str) -> io::Result<Option<u64>> {
        self.number("memory", path, "memory.swap.current")
    }

    pub fn memory_extremes(&self, path: &str) -> io::Result<Option<MemoryExtremes>> {
        let (peak, hits, kernel) = match self.version() {
            Version::V1 => (
                self.number("memory", path, "memory.max_usage_in_bytes")?,
                self.number("memory", path, "memory.failcnt")?,
                self.number("memory", path, "memory.kmem.usage_in_bytes")?,
            ),
            Version::V2 => (
                self.number("memory", path, "memory.peak")?,
                self.parsed("memory", path, "memory.events", |text| value(text, "max"))?,
                None,
            ),
        };
        Ok(hits.map(|limit_hits| MemoryExtremes {
            peak,
            limit_hits,
            kernel,
        }))
    }

    pub fn tasks(&self, path: &str) -> io::Result<Option<Tasks>> {
        let Some(current) = self.number("pids", path, "pids.current")? else {
            return Ok(None);
        };
        let limit = self.limit("pids", path, "pids.max")?.flatten();
        Ok(Some(Tasks { current, limit }))
    }

    /// Kept in cgroup2 alone, also where that stands beside version 1; there only if the cgroup's processes are
    /// in it, which not every runtime sees to.
    pub fn pressure(&self, path: &str) -> io::Result<Pressure> {
        let Some(unified) = self.hierarchies.iter().find(|h| h.unified) else {
            return Ok(Pressure::default());
        };
        let of = |file: &'static str| {
            self.account(path, ("", file.into()), move || {
                Some(below(unified, path).join(file))
            })
        };
        let cpu = of("cpu.pressure").read(psi)?;
        // Whose processor was waited for has processes in it.
        let in_use = |psi: &Psi| psi.some.total > 0;
        if self.version() == Version::V1 && !cpu.as_ref().is_some_and(in_use) {
            let populated = of("cgroup.events").read(|text| value(text, "populated"))?;
            if populated != Some(1) {
                return Ok(Pressure::default());
            }
        }
        Ok(Pressure {
            cpu,
            memory: of("memory.pressure").read(psi)?,
            io: of("io.pressure").read(psi)?,
        })
    }

    /// By device: major and minor number.
    pub fn io(&self, path: &str) -> io::Result<BTreeMap<(u32, u32), DeviceIo>> {
        if self.version() == Version::V2 {
            let found = self.parsed("io", path, "io.stat", v2::io_stat)?;
            return Ok(found.unwrap_or_default());
        }
        let mut devices: BTreeMap<(u32, u32), DeviceIo> = BTreeMap::new();
        let bytes = "blkio.throttle.io_service_bytes_recursive";
        for line in self
            .parsed("blkio", path, bytes, v1::blkio)?
            .unwrap_or_default()
        {
            let device = devices.entry(line.device).or_default();
            match line.write {
                true => device.write_bytes = line.value,
                false => device.read_bytes = line.value,
            }
        }
        let count = "blkio.throttle.io_serviced_recursive";
        for line in self
            .parsed("blkio", path, count, v1::blkio)?
            .unwrap_or_default()
        {
            let device = devices.entry(line.device).or_default();
            match line.write {
                true => device.writes = line.value,
                false => device.reads = line.value,
            }
        }
        Ok(devices)
    }

    /// Of each size that the machine has, in the order of their names.
    pub fn huge_pages(&self, path: &str) -> io::Result<Vec<HugePages>> {
        let mut found = Vec::new();
        for size in self.huge_page_sizes(path)? {
            let name = |what| format!("hugetlb.{size}.{what}");
            let (usage, peak) = match self.version() {
                Version::V1 => ("usage_in_bytes", Some("max_usage_in_bytes")),
                Version::V2 => ("current", None),
            };
            let Some(usage) = self.number("hugetlb", path, name(usage))? else {
                continue;
            };
            let peak = match peak {
                Some(peak) => self.number("hugetlb", path, name(peak))?,
                None => None,
            };
            found.push(HugePages {
                size: size.clone(),
                usage,
                peak,
            });
        }
        Ok(found)
    }

    /// As the first cgroup shows them in which they are counted; they are fixed when the machine boots.
    fn huge_page_sizes(&self, path: &str) -> io::Result<&[String]> {
        if let Some(known) = self.huge_page_sizes.get() {
            return Ok(known);
        }
        let Some(folder) = self.folder("hugetlb", path) else {
            return Ok(&[]);
        };
        let names = match std::fs::read_dir(&folder) {
            Err(e) if is_gone(&e) => return Ok(&[]),
            other => other.map_err(during(format_args!("list `{}`", folder.display())))?,
        };
        let usage = match self.version() {
            Version::V1 => ".usage_in_bytes",
            Version::V2 => ".current",
        };
        let mut sizes = Vec::new();
        for name in names {
            let name = name?.file_name();
            let size = name
                .to_str()
                .and_then(|name| name.strip_prefix("hugetlb.")?.strip_suffix(usage))
                // `rsvd`: reserved, not used.
                .filter(|size| !size.contains('.'));
            sizes.extend(size.map(str::to_owned));
        }
        sizes.sort();
        if sizes.is_empty() {
            return Ok(&[]);
        }
        Ok(self.huge_page_sizes.get_or_init(|| sizes))
    }
}

#[cfg(test)]
mod tests;
