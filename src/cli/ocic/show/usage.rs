//! What is being used and what happens, as tables.

use crate::cli::output::{self, Table, visible};
use crate::cri::v1::{
    ContainerEventResponse, ContainerEventType, ContainerStats, FilesystemUsage,
    ImageFsInfoResponse, ListMetricDescriptorsResponse, ListPodSandboxMetricsResponse, Metric,
    PodSandboxStats, UInt64Value,
};

use super::{lower, moment, short};

/// What is not known.
const NONE: &str = "-";

/// `rate` is in nanoseconds of processor time a second.
pub fn stats(all: &[ContainerStats], rate: impl Fn(&ContainerStats) -> Option<u64>) -> Table {
    let heads = [
        "CONTAINER",
        "NAME",
        "CPU %",
        "MEM",
        "DISK",
        "INODES",
        "SWAP",
    ];
    let mut table = Table::new(&heads);
    for one in all {
        let attributes = one.attributes.clone().unwrap_or_default();
        let disk = one.writable_layer.as_ref();
        let memory = one.memory.as_ref();
        let swap = one.swap.as_ref();
        table.row([
            short(&attributes.id),
            attributes.metadata.unwrap_or_default().name,
            percent(rate(one)),
            bytes(memory.and_then(|m| m.working_set_bytes.as_ref())),
            bytes(disk.and_then(|d| d.used_bytes.as_ref())),
            number(disk.and_then(|d| d.inodes_used.as_ref())),
            bytes(swap.and_then(|s| s.swap_usage_bytes.as_ref())),
        ]);
    }
    table
}

pub fn pod_stats(all: &[PodSandboxStats], rate: impl Fn(&PodSandboxStats) -> Option<u64>) -> Table {
    let heads = [
        "POD",
        "NAME",
        "NAMESPACE",
        "CPU %",
        "MEM",
        "RECEIVED",
        "SENT",
        "PROCESSES",
    ];
    let mut table = Table::new(&heads);
    for one in all {
        let attributes = one.attributes.clone().unwrap_or_default();
        let metadata = attributes.metadata.unwrap_or_default();
        let linux = one.linux.as_ref();
        let memory = linux.and_then(|linux| linux.memory.as_ref());
        let network = linux.and_then(|linux| linux.network.as_ref());
        let interface = network.and_then(|network| network.default_interface.as_ref());
        let processes = linux.and_then(|linux| linux.process.as_ref());
        table.row([
            short(&attributes.id),
            metadata.name,
            metadata.namespace,
            percent(rate(one)),
            bytes(memory.and_then(|m| m.working_set_bytes.as_ref())),
            bytes(interface.and_then(|i| i.rx_bytes.as_ref())),
            bytes(interface.and_then(|i| i.tx_bytes.as_ref())),
            number(processes.and_then(|p| p.process_count.as_ref())),
        ]);
    }
    table
}

pub fn filesystems(answer: &ImageFsInfoResponse) -> Table {
    let mut table = Table::new(&["OF", "MOUNTPOINT", "USED", "INODES"]);
    let mut add = |of: &str, all: &[FilesystemUsage]| {
        for one in all {
            let id = one.fs_id.clone().unwrap_or_default();
            table.row([
                of.to_owned(),
                id.mountpoint,
                bytes(one.used_bytes.as_ref()),
                number(one.inodes_used.as_ref()),
            ]);
        }
    };
    add("images", &answer.image_filesystems);
    add("containers", &answer.container_filesystems);
    table
}

pub fn metrics(answer: &ListPodSandboxMetricsResponse) -> Table {
    let mut table = Table::new(&["POD", "CONTAINER", "METRIC", "VALUE", "LABELS"]);
    for pod in &answer.pod_metrics {
        let mut add = |container: &str, all: &[Metric]| {
            for metric in all {
                table.row([
                    short(&pod.pod_sandbox_id),
                    short(container),
                    metric.name.clone(),
                    number(metric.value.as_ref()),
                    metric.label_values.join(" "),
                ]);
            }
        };
        add("", &pod.metrics);
        for container in &pod.container_metrics {
            add(&container.container_id, &container.metrics);
        }
    }
    table
}

pub fn descriptors(answer: &ListMetricDescriptorsResponse) -> Table {
    let mut table = Table::new(&["METRIC", "LABELS", "MEANING"]);
    for one in &answer.descriptors {
        table.row([one.name.clone(), one.label_keys.join(" "), one.help.clone()]);
    }
    table
}

/// One line: when, what, which container, its name, its pod.
pub fn event(event: &ContainerEventResponse) -> String {
    let kind = lower(
        ContainerEventType::try_from(event.container_event_type).map(|kind| kind.as_str_name()),
        "CONTAINER_",
    );
    let kind = kind.strip_suffix("_event").unwrap_or(&kind).to_owned();
    let status = event
        .containers_statuses
        .iter()
        .find(|status| status.id == event.container_id);
    let name = status.and_then(|status| status.metadata.clone());
    let pod = event
        .pod_sandbox_status
        .as_ref()
        .and_then(|pod| pod.metadata.clone());
    let pod = pod.map(|pod| format!("{}/{}", pod.namespace, pod.name));
    let words = [
        moment(event.created_at),
        kind,
        event.container_id.clone(),
        name.map_or_else(|| NONE.to_owned(), |name| name.name),
        pod.unwrap_or_else(|| NONE.to_owned()),
    ];
    visible(&words.join("  "))
}

fn percent(rate: Option<u64>) -> String {
    // Exact below 2^53: some months of processor time a second.
    rate.map_or_else(
        || NONE.to_owned(),
        |rate| format!("{:.2}", rate as f64 / 1e7),
    )
}

fn bytes(value: Option<&UInt64Value>) -> String {
    value.map_or_else(|| NONE.to_owned(), |value| output::size(value.value))
}

fn number(value: Option<&UInt64Value>) -> String {
    value.map_or_else(|| NONE.to_owned(), |value| value.value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cri::v1::{
        ContainerAttributes, ContainerMetadata, ContainerStatus, MemoryUsage, PodSandboxMetadata,
        PodSandboxStatus,
    };

    #[test]
    fn what_is_not_known_is_a_dash() {
        let one = ContainerStats {
            attributes: Some(ContainerAttributes {
                id: "0123456789abcdef".to_owned(),
                metadata: Some(ContainerMetadata {
                    name: "redis".to_owned(),
                    attempt: 0,
                }),
                ..Default::default()
            }),
            memory: Some(MemoryUsage {
                working_set_bytes: Some(UInt64Value { value: 1_500_000 }),
                ..Default::default()
            }),
            ..Default::default()
        };
        let text = stats(std::slice::from_ref(&one), |_| Some(12_340_000)).to_string();
        let row: Vec<&str> = text
            .lines()
            .nth(1)
            .unwrap_or_default()
            .split_whitespace()
            .collect();
        let expected = ["0123456789abc", "redis", "1.23", "1.5", "MB", "-", "-", "-"];
        assert_eq!(row, expected);
        let pods = pod_stats(&[PodSandboxStats::default()], |_| None).to_string();
        assert_eq!(pods.matches('-').count(), 5, "{pods}");
    }

    #[test]
    fn an_event_names_container_and_pod() {
        let mut told = ContainerEventResponse {
            container_id: "c1".to_owned(),
            container_event_type: ContainerEventType::ContainerStartedEvent as i32,
            created_at: 1_700_000_000_000_000_000,
            pod_sandbox_status: Some(PodSandboxStatus {
                metadata: Some(PodSandboxMetadata {
                    name: "web".to_owned(),
                    namespace: "default".to_owned(),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            containers_statuses: vec![ContainerStatus {
                id: "c1".to_owned(),
                metadata: Some(ContainerMetadata {
                    name: "a\x1b".to_owned(),
                    attempt: 0,
                }),
                ..Default::default()
            }],
        };
        let expected = "2023-11-14T22:13:20Z  started  c1  a\\u{1b}  default/web";
        assert_eq!(event(&told), expected);
        told.containers_statuses.clear();
        told.container_event_type = 77;
        assert!(event(&told).contains("77  c1  -  "), "{}", event(&told));
    }
}
