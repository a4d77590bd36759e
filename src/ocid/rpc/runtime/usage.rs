//! Statistics into the messages that several RPCs answer with.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::path::Path;

use crate::cri::v1;
use crate::host::cgroup::{Memory, Psi, Stall};
use crate::host::interfaces::Interface;
use crate::ocid::network::INTERFACE;
use crate::ocid::stats::{ContainerUsage, CpuUsage, PodUsage, Written};

fn value(value: u64) -> Option<v1::UInt64Value> {
    Some(v1::UInt64Value { value })
}

fn known(value: Option<u64>) -> Option<v1::UInt64Value> {
    value.map(|value| v1::UInt64Value { value })
}

fn map(map: &BTreeMap<String, String>) -> HashMap<String, String> {
    map.clone().into_iter().collect()
}

/// `filesystem` is the folder that writable layers are known by.
pub fn container(usage: &ContainerUsage, filesystem: &Path) -> v1::ContainerStats {
    let record = &usage.record;
    let swap = usage.memory.and_then(|memory| memory.swap);
    v1::ContainerStats {
        attributes: Some(v1::ContainerAttributes {
            id: record.id.clone(),
            metadata: Some((&record.config.metadata).into()),
            labels: map(&record.config.labels),
            annotations: map(&record.config.annotations),
        }),
        cpu: usage
            .cpu
            .map(|used| cpu(used, usage.pressure.cpu, usage.at)),
        memory: usage
            .memory
            .map(|used| memory(used, usage.pressure.memory, usage.at)),
        writable_layer: usage.written.map(|used| writable(used, filesystem)),
        swap: swap.map(|swap| v1::SwapUsage {
            timestamp: usage.at,
            swap_available_bytes: known(swap.available()),
            swap_usage_bytes: value(swap.usage),
        }),
        io: io(usage.pressure.io, usage.at),
    }
}

pub fn pod(usage: &PodUsage, filesystem: &Path) -> v1::PodSandboxStats {
    let record = &usage.record;
    let containers = usage.containers.iter();
    let linux = v1::LinuxPodSandboxStats {
        cpu: usage
            .cpu
            .map(|used| cpu(used, usage.pressure.cpu, usage.at)),
        memory: usage
            .memory
            .map(|used| memory(used, usage.pressure.memory, usage.at)),
        network: usage
            .interfaces
            .as_ref()
            .map(|found| network(found, usage.at)),
        process: usage.processes.map(|count| v1::ProcessUsage {
            timestamp: usage.at,
            process_count: value(count),
        }),
        containers: containers.map(|one| container(one, filesystem)).collect(),
        io: io(usage.pressure.io, usage.at),
    };
    v1::PodSandboxStats {
        attributes: Some(v1::PodSandboxAttributes {
            id: record.id.clone(),
            metadata: Some((&record.config.metadata).into()),
            labels: map(&record.config.labels),
            annotations: map(&record.config.annotations),
        }),
        linux: Some(linux),
        windows: None,
    }
}

fn cpu(used: CpuUsage, pressure: Option<Psi>, timestamp: i64) -> v1::CpuUsage {
    v1::CpuUsage {
        timestamp,
        usage_core_nano_seconds: value(used.total),
        usage_nano_cores: known(used.nano_cores),
        psi: pressure.map(psi),
    }
}

fn memory(used: Memory, pressure: Option<Psi>, timestamp: i64) -> v1::MemoryUsage {
    v1::MemoryUsage {
        timestamp,
        working_set_bytes: value(used.working_set()),
        available_bytes: known(used.available()),
        usage_bytes: value(used.usage),
        rss_bytes: value(used.stat.rss),
        page_faults: value(used.stat.page_faults),
        major_page_faults: value(used.stat.major_page_faults),
        psi: pressure.map(psi),
    }
}

fn writable(used: Written, filesystem: &Path) -> v1::FilesystemUsage {
    v1::FilesystemUsage {
        timestamp: used.at,
        fs_id: Some(v1::FilesystemIdentifier {
            mountpoint: filesystem.display().to_string(),
        }),
        used_bytes: value(used.bytes),
        inodes_used: value(used.inodes),
    }
}

fn io(pressure: Option<Psi>, timestamp: i64) -> Option<v1::IoUsage> {
    pressure.map(|pressure| v1::IoUsage {
        timestamp,
        psi: Some(psi(pressure)),
    })
}

/// The CRI counts nanoseconds, the kernel microseconds.
fn psi(from: Psi) -> v1::PsiStats {
    let data = |stall: Stall| v1::PsiData {
        total: stall.total.saturating_mul(1000),
        avg10: stall.avg10,
        avg60: stall.avg60,
        avg300: stall.avg300,
    };
    v1::PsiStats {
        full: Some(data(from.full)),
        some: Some(data(from.some)),
    }
}

/// The default interface is not among the others (the CRI's own words).
fn network(found: &[Interface], timestamp: i64) -> v1::NetworkUsage {
    let interface = |of: &Interface| v1::NetworkInterfaceUsage {
        name: of.name.clone(),
        rx_bytes: value(of.received.bytes),
        rx_errors: value(of.received.errors),
        tx_bytes: value(of.sent.bytes),
        tx_errors: value(of.sent.errors),
    };
    let (default, others): (Vec<_>, Vec<_>) = found.iter().partition(|i| i.name == INTERFACE);
    v1::NetworkUsage {
        timestamp,
        default_interface: default.first().map(|i| interface(i)),
        interfaces: others.into_iter().map(interface).collect(),
    }
}
