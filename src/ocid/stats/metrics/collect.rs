//! The values of metrics, read for one scrape.

use std::sync::Arc;
use std::time::Instant;

use super::Group;
use super::descriptor::Sink;
use super::table;
use crate::cri::metrics::{ContainerMetrics, PodMetrics};
use crate::host::cgroup::{Pressure, Psi};
use crate::host::disk_usage::{self, Capacity};
use crate::host::interfaces::Interface;
use crate::host::open_files;
use crate::ocid::container::resources::Resources;
use crate::ocid::daemon::{Daemon, blocking};
use crate::ocid::error::Result;
use crate::ocid::state::record::{ContainerRecord, SandboxRecord};
use crate::ocid::stats::spread::{beside, spread};
use crate::ocid::stats::{Moment, Written, container, filesystem, known, pod};

const NANOSECONDS: u64 = 1_000_000_000;
const MICROSECONDS: u64 = 1_000_000;

/// Of every pod that is ready, in the order of ids: as last collected where that is done at regular times.
pub async fn of_all_pods(daemon: &Arc<Daemon>) -> Result<Vec<PodMetrics>> {
    match daemon.stats.collected.metrics(daemon) {
        Some(known) => Ok(known),
        None => measure(daemon).await,
    }
}

/// What is so now.
pub(in crate::ocid::stats) async fn measure(daemon: &Arc<Daemon>) -> Result<Vec<PodMetrics>> {
    daemon.stats.forget_the_gone(daemon);
    let pods: Vec<_> = pod::ready(daemon).collect();
    let members = pod::members(daemon, &pods);
    let wants = |group| daemon.stats.included.contains(&group);
    let (disk, network) = (wants(Group::Disk), wants(Group::Network));
    let written = match disk {
        true => container::written(daemon, &members).await,
        false => Default::default(),
    };
    let daemon = Arc::clone(daemon);
    blocking(move || {
        let capacity = disk.then(|| {
            let found = disk_usage::capacity(&filesystem(&daemon));
            known("filesystem", "", found.map(Some))
        });
        let capacity = capacity.flatten();
        let read_containers = || {
            spread(members, |record| {
                let disk = capacity.zip(written.get(&record.id).copied());
                // Sorted by id, as the table is.
                let at = pods.binary_search_by(|pod| pod.id.cmp(&record.sandbox_id));
                let at = at.ok()?;
                let pod = pods.get(at)?;
                Some((at, of_container(&daemon, pod, &record, disk)))
            })
        };
        let read_pods = || -> Vec<PodMetrics> {
            let mut interfaces = match network {
                true => pod::interfaces(&daemon, &pods),
                false => Default::default(),
            };
            let one = |pod: &Arc<SandboxRecord>| {
                of_pod(pod, &interfaces.remove(&pod.id).unwrap_or_default())
            };
            pods.iter().map(one).collect()
        };
        let (mut answer, containers) = match network {
            true => beside(read_pods, read_containers),
            false => (read_pods(), read_containers()),
        };
        for (at, container) in containers.into_iter().flatten() {
            if let Some(pod) = answer.get_mut(at) {
                pod.containers.push(container);
            }
        }
        Ok(answer)
    })
    .await
}

fn of_pod(pod: &SandboxRecord, interfaces: &[Interface]) -> PodMetrics {
    let metadata = &pod.config.metadata;
    // As CRI-O and cAdvisor label what belongs to no container.
    let base = [&pod.id, "", &metadata.namespace, &metadata.name, "POD"];
    let expected = interfaces.len() * table::NETWORK.len();
    let mut sink = Sink::new(Moment::now().at, base, expected);
    // cAdvisor leaves out what stays inside: people add the interfaces up.
    for interface in interfaces.iter().filter(|i| i.name != "lo") {
        let (name, received, sent) = (
            [interface.name.as_str()],
            &interface.received,
            &interface.sent,
        );
        sink.put(&table::RECEIVED_BYTES, name, received.bytes);
        sink.put(&table::RECEIVED_PACKETS, name, received.packets);
        sink.put(&table::RECEIVED_DROPPED, name, received.dropped);
        sink.put(&table::RECEIVED_ERRORS, name, received.errors);
        sink.put(&table::SENT_BYTES, name, sent.bytes);
        sink.put(&table::SENT_PACKETS, name, sent.packets);
        sink.put(&table::SENT_DROPPED, name, sent.dropped);
        sink.put(&table::SENT_ERRORS, name, sent.errors);
    }
    PodMetrics {
        id: pod.id.clone(),
        own: sink.into_metrics(),
        containers: Vec::new(),
    }
}

fn of_container(
    daemon: &Daemon,
    pod: &SandboxRecord,
    record: &ContainerRecord,
    disk: Option<(Capacity, Written)>,
) -> ContainerMetrics {
    let metadata = &pod.config.metadata;
    let base = [
        record.id.as_str(),
        &record.image_name,
        &metadata.namespace,
        &metadata.name,
        &record.config.metadata.name,
    ];
    let at = Moment::now().at;
    let mut sink = Sink::new(at, base, daemon.stats.metrics_of_one());
    let seconds = u64::try_from(at).unwrap_or(0) / NANOSECONDS;
    sink.put(&table::LAST_SEEN, [], seconds);
    if let Some(path) = container::cgroup(daemon, record) {
        let mut of = Of {
            daemon,
            record,
            path: &path,
            sink: &mut sink,
            ran: None,
        };
        for group in &daemon.stats.included {
            match group {
                Group::Cpu => of.cpu(),
                Group::DiskIo => of.disk_io(),
                Group::Hugetlb => of.huge_pages(),
                Group::Memory => of.memory(),
                Group::Oom => of.oom(),
                Group::Process => of.processes(),
                Group::Pressure => of.pressure(),
                // Below, of the pod, and a name for the rest.
                Group::Disk | Group::Spec | Group::Network | Group::All => {}
            }
        }
    }
    if let Some((capacity, written)) = disk {
        sink.put(&table::FS_INODES_FREE, [], capacity.inodes_free);
        sink.put(&table::FS_INODES_TOTAL, [], capacity.inodes);
        sink.put(&table::FS_LIMIT, [], capacity.bytes);
        sink.put(&table::FS_USAGE, [], written.bytes);
    }
    if daemon.stats.included.contains(&Group::Spec) {
        spec(&mut sink, record);
    }
    ContainerMetrics {
        id: record.id.clone(),
        metrics: sink.into_metrics(),
    }
}

/// A container's accounts on their way into metrics.
struct Of<'a> {
    daemon: &'a Daemon,
    record: &'a ContainerRecord,
    path: &'a str,
    sink: &'a mut Sink,
    /// Its processor time, once that was read; nanoseconds.
    ran: Option<u64>,
}

impl Of<'_> {
    fn cpu(&mut self) {
        let (id, cgroups) = (&self.record.id, &self.daemon.cgroups);
        if let Some(time) = known("processor time", id, cgroups.cpu_time(self.path)) {
            self.ran = Some(time.total);
            let sink = &mut self.sink;
            sink.put(&table::CPU_USAGE, ["total"], time.total / NANOSECONDS);
            sink.put(&table::CPU_USER, [], time.user / NANOSECONDS);
            sink.put(&table::CPU_SYSTEM, [], time.system / NANOSECONDS);
            sink.put(&table::CPU_PERIODS, [], time.periods);
            sink.put(&table::CPU_THROTTLED_PERIODS, [], time.throttled_periods);
            sink.put(&table::CPU_THROTTLED, [], time.throttled / NANOSECONDS);
        }
    }

    fn memory(&mut self) {
        let (id, cgroups) = (&self.record.id, &self.daemon.cgroups);
        let memory = known("memory", id, cgroups.memory_unlimited(self.path));
        let extremes = known("memory", id, cgroups.memory_extremes(self.path));
        let sink = &mut self.sink;
        let kernel = memory.and_then(|memory| memory.stat.kernel);
        if let Some(memory) = memory {
            let stat = &memory.stat;
            let swap = memory.swap.map_or(stat.swap, |swap| swap.usage);
            sink.put(&table::MEMORY_CACHE, [], stat.cache);
            sink.put(&table::MEMORY_RSS, [], stat.rss);
            sink.put(&table::MEMORY_MAPPED, [], stat.mapped_file);
            sink.put(&table::MEMORY_SWAP, [], swap);
            sink.put(&table::MEMORY_USAGE, [], memory.usage);
            sink.put(&table::MEMORY_WORKING_SET, [], memory.working_set());
            sink.put(&table::MEMORY_ACTIVE_ANON, [], stat.active_anon);
            sink.put(&table::MEMORY_INACTIVE_ANON, [], stat.inactive_anon);
            sink.put(&table::MEMORY_ANON_THP, [], stat.anon_thp);
            sink.put(&table::MEMORY_SHMEM_THP, [], stat.shmem_thp);
            sink.put(&table::MEMORY_FILE_THP, [], stat.file_thp);
            let faults = [
                ("pgfault", stat.page_faults),
                ("pgmajfault", stat.major_page_faults),
            ];
            for (kind, count) in faults {
                for scope in ["container", "hierarchy"] {
                    sink.put(&table::MEMORY_FAILURES, [kind, scope], count);
                }
            }
        }
        if let Some(extremes) = extremes {
            sink.put_known(&table::MEMORY_KERNEL, extremes.kernel.or(kernel));
            sink.put_known(&table::MEMORY_MAX, extremes.peak);
            sink.put(&table::MEMORY_FAILCNT, [], extremes.limit_hits);
        }
    }

    fn disk_io(&mut self) {
        let found = self.daemon.cgroups.io(self.path);
        for ((major, minor), io) in known("disk use", &self.record.id, found) {
            let (major, minor) = (major.to_string(), minor.to_string());
            let device = format!("{major}:{minor}");
            let sink = &mut self.sink;
            sink.put(&table::FS_READS_BYTES, [&device], io.read_bytes);
            sink.put(&table::FS_READS, [&device], io.reads);
            sink.put(&table::FS_WRITES_BYTES, [&device], io.write_bytes);
            sink.put(&table::FS_WRITES, [&device], io.writes);
            let operations = [("read", io.read_bytes), ("write", io.write_bytes)];
            for (operation, bytes) in operations {
                let labels = [device.as_str(), &major, &minor, operation];
                sink.put(&table::BLKIO_USAGE, labels, bytes);
            }
        }
    }

    fn huge_pages(&mut self) {
        let found = self.daemon.cgroups.huge_pages(self.path);
        for pages in known("huge pages", &self.record.id, found) {
            self.sink
                .put(&table::HUGETLB_USAGE, [&pages.size], pages.usage);
            if let Some(peak) = pages.peak {
                self.sink.put(&table::HUGETLB_MAX, [&pages.size], peak);
            }
        }
    }

    fn oom(&mut self) {
        let kills = self.daemon.cgroups.oom_kills(self.path);
        let kills = known("count of processes killed", &self.record.id, kills);
        self.sink.put_known(&table::OOM_EVENTS, kills);
    }

    fn processes(&mut self) {
        let (id, cgroups) = (&self.record.id, &self.daemon.cgroups);
        // Before the rest, as what it tells of is the time until then.
        let ran = match self.ran {
            None => known("processor time", id, cgroups.cpu_usage(self.path)),
            ran => ran,
        };
        let pids = known("processes", id, cgroups.pids_again(self.path));
        let opened = &self.daemon.stats.opened;
        let open = opened.of(id, ran, &pids, Instant::now());
        let tasks = known("threads", id, cgroups.tasks(self.path));
        let first = self.record.init.map(|init| init.pid);
        let limit = first.and_then(|pid| known("limits", id, open_files::soft_limit(pid)));
        let sink = &mut self.sink;
        sink.put(&table::FILE_DESCRIPTORS, [], open.all);
        sink.put(&table::SOCKETS, [], open.sockets);
        sink.put(
            &table::PROCESSES,
            [],
            u64::try_from(pids.len()).unwrap_or(0),
        );
        if let Some(tasks) = tasks {
            sink.put(&table::THREADS, [], tasks.current);
            sink.put(&table::THREADS_MAX, [], tasks.limit.unwrap_or(0));
        }
        if let Some(limit) = limit {
            sink.put(&table::ULIMITS_SOFT, ["max_open_files"], limit);
        }
    }

    fn pressure(&mut self) {
        let found = self.daemon.cgroups.pressure(self.path);
        let Pressure { cpu, memory, io } = known("pressure", &self.record.id, found);
        let seconds = |psi: Psi| {
            let of = |total: u64| Some(total / MICROSECONDS);
            (of(psi.full.total), of(psi.some.total))
        };
        let each = [
            (cpu, &table::CPU_STALLED, &table::CPU_WAITING),
            (memory, &table::MEMORY_STALLED, &table::MEMORY_WAITING),
            (io, &table::IO_STALLED, &table::IO_WAITING),
        ];
        for (psi, stalled, waiting) in each {
            let (full, some) = psi.map(seconds).unwrap_or_default();
            self.sink.put_known(stalled, full);
            self.sink.put_known(waiting, some);
        }
    }
}

/// What the container was asked to be.
fn spec(sink: &mut Sink, record: &ContainerRecord) {
    let resources: &Resources = &record.config.resources;
    // No limit is 0 here, as cAdvisor has it.
    let limit = |bytes: i64| u64::try_from(bytes).unwrap_or(0);
    sink.put(&table::SPEC_CPU_PERIOD, [], resources.cpu_period);
    sink.put(&table::SPEC_CPU_SHARES, [], resources.cpu_shares);
    let quota = u64::try_from(resources.cpu_quota).ok();
    sink.put_known(&table::SPEC_CPU_QUOTA, quota.filter(|quota| *quota > 0));
    sink.put(&table::SPEC_MEMORY_LIMIT, [], limit(resources.memory_limit));
    sink.put(
        &table::SPEC_SWAP_LIMIT,
        [],
        limit(resources.memory_swap_limit),
    );
    let kept = resources.unified.get("memory.min");
    let kept = kept.map_or(Some(0), |kept| kept.trim().parse().ok());
    sink.put_known(&table::SPEC_MEMORY_RESERVATION, kept);
    let started = match record.started_at {
        0 => record.created_at,
        at => at,
    };
    let seconds = u64::try_from(started).unwrap_or(0) / NANOSECONDS;
    sink.put(&table::START_TIME, [], seconds);
}
