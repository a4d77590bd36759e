//! Every metric, by group.

use super::descriptor::{Describe, Descriptor, Kind};

type Any = &'static (dyn Describe + Sync);

const fn counter<const N: usize>(
    name: &'static str,
    help: &'static str,
    labels: [&'static str; N],
) -> Descriptor<N> {
    let kind = Kind::Counter;
    Descriptor {
        name,
        help,
        kind,
        labels,
    }
}

const fn gauge<const N: usize>(
    name: &'static str,
    help: &'static str,
    labels: [&'static str; N],
) -> Descriptor<N> {
    let kind = Kind::Gauge;
    Descriptor {
        name,
        help,
        kind,
        labels,
    }
}

pub static LAST_SEEN: Descriptor<0> = gauge(
    "container_last_seen",
    "When the daemon last saw it, in seconds since the epoch",
    [],
);

pub static ALWAYS: [Any; 1] = [&LAST_SEEN];

pub static CPU_USER: Descriptor<0> = counter(
    "container_cpu_user_seconds_total",
    "Processor time spent outside the kernel, in seconds",
    [],
);
pub static CPU_SYSTEM: Descriptor<0> = counter(
    "container_cpu_system_seconds_total",
    "Processor time spent in the kernel, in seconds",
    [],
);
pub static CPU_USAGE: Descriptor<1> = counter(
    "container_cpu_usage_seconds_total",
    "Processor time spent, in seconds",
    ["cpu"],
);
pub static CPU_PERIODS: Descriptor<0> = counter(
    "container_cpu_cfs_periods_total",
    "Enforcement periods that have elapsed",
    [],
);
pub static CPU_THROTTLED_PERIODS: Descriptor<0> = counter(
    "container_cpu_cfs_throttled_periods_total",
    "Enforcement periods in which it was throttled",
    [],
);
pub static CPU_THROTTLED: Descriptor<0> = counter(
    "container_cpu_cfs_throttled_seconds_total",
    "Time for which it was throttled, in seconds",
    [],
);

pub static CPU: [Any; 6] = [
    &CPU_USER,
    &CPU_SYSTEM,
    &CPU_USAGE,
    &CPU_PERIODS,
    &CPU_THROTTLED_PERIODS,
    &CPU_THROTTLED,
];

pub static FS_INODES_FREE: Descriptor<0> = gauge(
    "container_fs_inodes_free",
    "Inodes that are free on its filesystem",
    [],
);
pub static FS_INODES_TOTAL: Descriptor<0> = gauge(
    "container_fs_inodes_total",
    "Inodes that its filesystem has",
    [],
);
pub static FS_LIMIT: Descriptor<0> = gauge(
    "container_fs_limit_bytes",
    "Size of its filesystem, in bytes",
    [],
);
pub static FS_USAGE: Descriptor<0> = gauge(
    "container_fs_usage_bytes",
    "What it has written to its filesystem, in bytes",
    [],
);

pub static DISK: [Any; 4] = [&FS_INODES_FREE, &FS_INODES_TOTAL, &FS_LIMIT, &FS_USAGE];

pub static FS_READS_BYTES: Descriptor<1> = counter(
    "container_fs_reads_bytes_total",
    "Bytes read from the device",
    ["device"],
);
pub static FS_READS: Descriptor<1> = counter(
    "container_fs_reads_total",
    "Reads that the device completed",
    ["device"],
);
pub static FS_WRITES_BYTES: Descriptor<1> = counter(
    "container_fs_writes_bytes_total",
    "Bytes written to the device",
    ["device"],
);
pub static FS_WRITES: Descriptor<1> = counter(
    "container_fs_writes_total",
    "Writes that the device completed",
    ["device"],
);
pub static BLKIO_USAGE: Descriptor<4> = counter(
    "container_blkio_device_usage_total",
    "Bytes that went to or from the device",
    ["device", "major", "minor", "operation"],
);

pub static DISK_IO: [Any; 5] = [
    &FS_READS_BYTES,
    &FS_READS,
    &FS_WRITES_BYTES,
    &FS_WRITES,
    &BLKIO_USAGE,
];

pub static HUGETLB_USAGE: Descriptor<1> = gauge(
    "container_hugetlb_usage_bytes",
    "Huge pages in use, in bytes",
    ["pagesize"],
);
pub static HUGETLB_MAX: Descriptor<1> = gauge(
    "container_hugetlb_max_usage_bytes",
    "The most huge pages ever in use, in bytes",
    ["pagesize"],
);

pub static HUGETLB: [Any; 2] = [&HUGETLB_USAGE, &HUGETLB_MAX];

pub static MEMORY_CACHE: Descriptor<0> =
    gauge("container_memory_cache", "Page cache, in bytes", []);
pub static MEMORY_RSS: Descriptor<0> =
    gauge("container_memory_rss", "Anonymous memory, in bytes", []);
pub static MEMORY_KERNEL: Descriptor<0> = gauge(
    "container_memory_kernel_usage",
    "Memory that the kernel holds for it, in bytes",
    [],
);
pub static MEMORY_MAPPED: Descriptor<0> = gauge(
    "container_memory_mapped_file",
    "Files mapped into memory, in bytes",
    [],
);
pub static MEMORY_SWAP: Descriptor<0> = gauge("container_memory_swap", "Swap in use, in bytes", []);
pub static MEMORY_FAILCNT: Descriptor<0> = counter(
    "container_memory_failcnt",
    "How often memory use hit its limit",
    [],
);
pub static MEMORY_USAGE: Descriptor<0> = gauge(
    "container_memory_usage_bytes",
    "Memory in use, cache included, in bytes",
    [],
);
pub static MEMORY_MAX: Descriptor<0> = gauge(
    "container_memory_max_usage_bytes",
    "The most memory ever in use, in bytes",
    [],
);
pub static MEMORY_WORKING_SET: Descriptor<0> = gauge(
    "container_memory_working_set_bytes",
    "Memory in use less the inactive page cache, in bytes",
    [],
);
pub static MEMORY_ACTIVE_ANON: Descriptor<0> = gauge(
    "container_memory_active_anon_bytes",
    "Anonymous memory that was used of late, in bytes",
    [],
);
pub static MEMORY_INACTIVE_ANON: Descriptor<0> = gauge(
    "container_memory_inactive_anon_bytes",
    "Anonymous memory that was not used of late, in bytes",
    [],
);
pub static MEMORY_ANON_THP: Descriptor<0> = gauge(
    "container_memory_anon_thp_bytes",
    "Anonymous memory in transparent huge pages, in bytes",
    [],
);
pub static MEMORY_SHMEM_THP: Descriptor<0> = gauge(
    "container_memory_shmem_thp_bytes",
    "Shared memory in transparent huge pages, in bytes",
    [],
);
pub static MEMORY_FILE_THP: Descriptor<0> = gauge(
    "container_memory_file_thp_bytes",
    "File pages in transparent huge pages, in bytes",
    [],
);
pub static MEMORY_FAILURES: Descriptor<2> = counter(
    "container_memory_failures_total",
    "Page faults, by type",
    ["failure_type", "scope"],
);

pub static MEMORY: [Any; 15] = [
    &MEMORY_CACHE,
    &MEMORY_RSS,
    &MEMORY_KERNEL,
    &MEMORY_MAPPED,
    &MEMORY_SWAP,
    &MEMORY_FAILCNT,
    &MEMORY_USAGE,
    &MEMORY_MAX,
    &MEMORY_WORKING_SET,
    &MEMORY_ACTIVE_ANON,
    &MEMORY_INACTIVE_ANON,
    &MEMORY_ANON_THP,
    &MEMORY_SHMEM_THP,
    &MEMORY_FILE_THP,
    &MEMORY_FAILURES,
];

pub static RECEIVED_BYTES: Descriptor<1> = counter(
    "container_network_receive_bytes_total",
    "Bytes received",
    ["interface"],
);
pub static RECEIVED_PACKETS: Descriptor<1> = counter(
    "container_network_receive_packets_total",
    "Packets received",
    ["interface"],
);
pub static RECEIVED_DROPPED: Descriptor<1> = counter(
    "container_network_receive_packets_dropped_total",
    "Packets dropped on receipt",
    ["interface"],
);
pub static RECEIVED_ERRORS: Descriptor<1> = counter(
    "container_network_receive_errors_total",
    "Errors on receipt",
    ["interface"],
);
pub static SENT_BYTES: Descriptor<1> = counter(
    "container_network_transmit_bytes_total",
    "Bytes sent",
    ["interface"],
);
pub static SENT_PACKETS: Descriptor<1> = counter(
    "container_network_transmit_packets_total",
    "Packets sent",
    ["interface"],
);
pub static SENT_DROPPED: Descriptor<1> = counter(
    "container_network_transmit_packets_dropped_total",
    "Packets dropped on sending",
    ["interface"],
);
pub static SENT_ERRORS: Descriptor<1> = counter(
    "container_network_transmit_errors_total",
    "Errors on sending",
    ["interface"],
);

pub static NETWORK: [Any; 8] = [
    &RECEIVED_BYTES,
    &RECEIVED_PACKETS,
    &RECEIVED_DROPPED,
    &RECEIVED_ERRORS,
    &SENT_BYTES,
    &SENT_PACKETS,
    &SENT_DROPPED,
    &SENT_ERRORS,
];

pub static OOM_EVENTS: Descriptor<0> = counter(
    "container_oom_events_total",
    "Processes killed for want of memory",
    [],
);

pub static OOM: [Any; 1] = [&OOM_EVENTS];

pub static FILE_DESCRIPTORS: Descriptor<0> = gauge(
    "container_file_descriptors",
    "Files that its processes have open",
    [],
);
pub static PROCESSES: Descriptor<0> = gauge("container_processes", "Processes in it", []);
pub static SOCKETS: Descriptor<0> = gauge(
    "container_sockets",
    "Sockets that its processes have open",
    [],
);
pub static THREADS: Descriptor<0> = gauge("container_threads", "Threads in it", []);
pub static THREADS_MAX: Descriptor<0> = gauge(
    "container_threads_max",
    "How many threads it may have; 0 is without limit",
    [],
);
pub static ULIMITS_SOFT: Descriptor<1> = gauge(
    "container_ulimits_soft",
    "Soft limits of its first process",
    ["ulimit"],
);

pub static PROCESS: [Any; 6] = [
    &FILE_DESCRIPTORS,
    &PROCESSES,
    &SOCKETS,
    &THREADS,
    &THREADS_MAX,
    &ULIMITS_SOFT,
];

pub static SPEC_CPU_PERIOD: Descriptor<0> = gauge(
    "container_spec_cpu_period",
    "Its enforcement period, in microseconds",
    [],
);
pub static SPEC_CPU_SHARES: Descriptor<0> = gauge(
    "container_spec_cpu_shares",
    "Its share of the processors, relative to others",
    [],
);
pub static SPEC_CPU_QUOTA: Descriptor<0> = gauge(
    "container_spec_cpu_quota",
    "Processor time in each period, in microseconds",
    [],
);
pub static SPEC_MEMORY_LIMIT: Descriptor<0> = gauge(
    "container_spec_memory_limit_bytes",
    "Its memory limit, in bytes; 0 is without limit",
    [],
);
pub static SPEC_MEMORY_RESERVATION: Descriptor<0> = gauge(
    "container_spec_memory_reservation_limit_bytes",
    "Memory that is kept for it, in bytes",
    [],
);
pub static SPEC_SWAP_LIMIT: Descriptor<0> = gauge(
    "container_spec_memory_swap_limit_bytes",
    "Its limit of memory and swap together, in bytes; 0 is without limit",
    [],
);
pub static START_TIME: Descriptor<0> = gauge(
    "container_start_time_seconds",
    "When it was started, in seconds since the epoch",
    [],
);

pub static SPEC: [Any; 7] = [
    &SPEC_CPU_PERIOD,
    &SPEC_CPU_SHARES,
    &SPEC_CPU_QUOTA,
    &SPEC_MEMORY_LIMIT,
    &SPEC_MEMORY_RESERVATION,
    &SPEC_SWAP_LIMIT,
    &START_TIME,
];

pub static CPU_STALLED: Descriptor<0> = counter(
    "container_pressure_cpu_stalled_seconds_total",
    "Time in which all of it waited for a processor, in seconds",
    [],
);
pub static CPU_WAITING: Descriptor<0> = counter(
    "container_pressure_cpu_waiting_seconds_total",
    "Time in which some of it waited for a processor, in seconds",
    [],
);
pub static MEMORY_STALLED: Descriptor<0> = counter(
    "container_pressure_memory_stalled_seconds_total",
    "Time in which all of it waited for memory, in seconds",
    [],
);
pub static MEMORY_WAITING: Descriptor<0> = counter(
    "container_pressure_memory_waiting_seconds_total",
    "Time in which some of it waited for memory, in seconds",
    [],
);
pub static IO_STALLED: Descriptor<0> = counter(
    "container_pressure_io_stalled_seconds_total",
    "Time in which all of it waited for a device, in seconds",
    [],
);
pub static IO_WAITING: Descriptor<0> = counter(
    "container_pressure_io_waiting_seconds_total",
    "Time in which some of it waited for a device, in seconds",
    [],
);

pub static PRESSURE: [Any; 6] = [
    &CPU_STALLED,
    &CPU_WAITING,
    &MEMORY_STALLED,
    &MEMORY_WAITING,
    &IO_STALLED,
    &IO_WAITING,
];
