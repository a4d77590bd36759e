//! Answers as tables.

mod usage;

use std::collections::HashMap;
use std::time::Duration;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::cli::output::{self, Table};
use crate::cri::v1::{
    CgroupDriver, Container, ContainerState, ContainerStatusResponse, Image, ImageSpec,
    ImageStatusResponse, NamespaceMode, PodSandbox, PodSandboxState, PodSandboxStatusResponse,
    RuntimeConfigResponse, StatusResponse, VersionResponse,
};
use crate::host::clock::now_ns;

pub use usage::{descriptors, event, filesystems, metrics, pod_stats, stats};

/// So much of an id is shown in a list; it is enough to name the object again.
const SHORT: usize = 13;

pub fn pods(pods: &[PodSandbox]) -> Table {
    let mut table = Table::new(&["POD", "NAME", "NAMESPACE", "ATTEMPT", "STATE", "AGE"]);
    let now = now_ns();
    for pod in pods {
        let metadata = pod.metadata.clone().unwrap_or_default();
        table.row([
            short(&pod.id),
            metadata.name,
            metadata.namespace,
            metadata.attempt.to_string(),
            pod_state(pod.state),
            age(now, pod.created_at),
        ]);
    }
    table
}

pub fn containers(containers: &[Container]) -> Table {
    let heads = [
        "CONTAINER",
        "NAME",
        "ATTEMPT",
        "STATE",
        "AGE",
        "POD",
        "IMAGE",
    ];
    let mut table = Table::new(&heads);
    let now = now_ns();
    for container in containers {
        let metadata = container.metadata.clone().unwrap_or_default();
        table.row([
            short(&container.id),
            metadata.name,
            metadata.attempt.to_string(),
            container_state(container.state),
            age(now, container.created_at),
            short(&container.pod_sandbox_id),
            asked_for(container.image.as_ref()),
        ]);
    }
    table
}

/// A line for each of an image's names.
pub fn images(images: &[Image], digests: bool) -> Table {
    let heads = ["IMAGE", "DIGEST", "ID", "SIZE"];
    let mut table = Table::new(&heads).without(if digests { None } else { Some(1) });
    for image in images {
        let id = short(image.id.strip_prefix("sha256:").unwrap_or(&image.id));
        // With its digest a name is shown without; the digests of other repositories have no tag here.
        let names = match image.repo_tags.as_slice() {
            [] => &image.repo_digests,
            tags => tags,
        };
        let none = ["<none>".to_owned()];
        let names: &[String] = if names.is_empty() { &none } else { names };
        for name in names {
            let repository = repository(name);
            let digest = image.repo_digests.iter().find_map(|digest| {
                let (of, digest) = digest.split_once('@')?;
                (of == repository).then(|| digest.to_owned())
            });
            table.row([
                name.clone(),
                digest.unwrap_or_else(|| "<none>".to_owned()),
                id.clone(),
                output::size(image.size),
            ]);
        }
    }
    table
}

/// A reference without tag and digest; a port is no tag.
fn repository(reference: &str) -> &str {
    let bare = reference.split('@').next().unwrap_or(reference);
    match bare.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => repository,
        _ => bare,
    }
}

pub fn pod(answer: &PodSandboxStatusResponse) -> Table {
    let status = answer.status.clone().unwrap_or_default();
    let metadata = status.metadata.unwrap_or_default();
    let network = status.network.unwrap_or_default();
    let mut ips = vec![network.ip];
    ips.extend(network.additional_ips.into_iter().map(|ip| ip.ip));
    let modes = status
        .linux
        .and_then(|linux| linux.namespaces)
        .and_then(|namespaces| namespaces.options)
        .unwrap_or_default();

    let mut table = Details::new();
    table.add("Id", status.id);
    table.add("Name", metadata.name);
    table.add("Namespace", metadata.namespace);
    table.add("Uid", metadata.uid);
    table.add("Attempt", metadata.attempt.to_string());
    table.add("State", pod_state(status.state));
    table.add("Created", moment(status.created_at));
    table.add("Ip", ips.join(" "));
    let modes = [
        ("network", modes.network),
        ("pid", modes.pid),
        ("ipc", modes.ipc),
    ]
    .map(|(name, mode)| format!("{name}={}", namespace_mode(mode)));
    table.add("Namespaces", modes.join(" "));
    table.add("Runtime", status.runtime_handler);
    table.map("Label", &status.labels);
    table.map("Annotation", &status.annotations);
    table.map("Info", &answer.info);
    table.0
}

pub fn container(answer: &ContainerStatusResponse) -> Table {
    let status = answer.status.clone().unwrap_or_default();
    let metadata = status.metadata.unwrap_or_default();
    let mut table = Details::new();
    table.add("Id", status.id);
    table.add("Name", metadata.name);
    table.add("Attempt", metadata.attempt.to_string());
    table.add("State", container_state(status.state));
    table.add("Created", moment(status.created_at));
    table.add("Started", moment(status.started_at));
    table.add("Finished", moment(status.finished_at));
    if status.state == ContainerState::ContainerExited as i32 {
        table.add("Exit code", status.exit_code.to_string());
    }
    table.add("Reason", status.reason);
    table.add("Message", status.message);
    table.add("Image", asked_for(status.image.as_ref()));
    table.add("Image ref", status.image_ref);
    table.add("Log", status.log_path);
    for mount in status.mounts {
        let access = if mount.readonly { "ro" } else { "rw" };
        let (from, to) = (mount.host_path, mount.container_path);
        table.add("Mount", format!("{from} -> {to} ({access})"));
    }
    table.map("Label", &status.labels);
    table.map("Annotation", &status.annotations);
    table.map("Info", &answer.info);
    table.0
}

pub fn image(answer: &ImageStatusResponse) -> Table {
    let mut table = Details::new();
    let image = answer.image.clone().unwrap_or_default();
    table.add("Id", image.id.clone());
    for tag in &image.repo_tags {
        table.add("Tag", tag.clone());
    }
    for digest in &image.repo_digests {
        table.add("Digest", digest.clone());
    }
    table.add("Size", output::size(image.size));
    let uid = image.uid.map_or(String::new(), |uid| uid.value.to_string());
    table.add("Uid", uid);
    table.add("User", image.username.clone());
    table.map("Info", &answer.info);
    table.0
}

pub fn version(answer: &VersionResponse) -> Table {
    let mut table = Details::new();
    table.add("Runtime", answer.runtime_name.clone());
    table.add("Version", answer.runtime_version.clone());
    table.add("Api version", answer.runtime_api_version.clone());
    table.0
}

pub fn info(answer: &StatusResponse) -> Table {
    let mut table = Details::new();
    for condition in answer.status.iter().flat_map(|status| &status.conditions) {
        let state = if condition.status { "yes" } else { "no" };
        let said = [&condition.reason, &condition.message];
        let why: Vec<&str> = said
            .into_iter()
            .map(String::as_str)
            .filter(|s| !s.is_empty())
            .collect();
        let gap = if why.is_empty() { "" } else { ": " };
        table.add(&condition.r#type, format!("{state}{gap}{}", why.join(": ")));
    }
    for handler in &answer.runtime_handlers {
        let name = if handler.name.is_empty() {
            "(default)"
        } else {
            &handler.name
        };
        table.add("Handler", name.to_owned());
    }
    table.map("Info", &answer.info);
    table.0
}

pub fn runtime_config(answer: &RuntimeConfigResponse) -> Table {
    let mut table = Details::new();
    if let Some(linux) = &answer.linux {
        let driver = CgroupDriver::try_from(linux.cgroup_driver).map(|d| d.as_str_name());
        table.add("Cgroup driver", lower(driver, ""));
    }
    table.0
}

/// Lines of name and value; a value that is not set takes no line.
struct Details(Table);

impl Details {
    fn new() -> Self {
        Self(Table::details())
    }

    fn add(&mut self, name: &str, value: String) {
        if !value.is_empty() {
            self.0.row([name.to_owned(), value]);
        }
    }

    fn map(&mut self, name: &str, map: &HashMap<String, String>) {
        let mut entries: Vec<_> = map.iter().collect();
        entries.sort();
        for (key, value) in entries {
            self.add(name, format!("{key}={value}"));
        }
    }
}

/// What the user called the image: the daemon may have put an id in the other field.
fn asked_for(image: Option<&ImageSpec>) -> String {
    let Some(spec) = image else {
        return String::new();
    };
    if spec.user_specified_image.is_empty() {
        spec.image.clone()
    } else {
        spec.user_specified_image.clone()
    }
}

pub fn short(id: &str) -> String {
    id.chars().take(SHORT).collect()
}

/// The CRI's 0 is "not yet".
fn moment(ns: i64) -> String {
    if ns <= 0 {
        return String::new();
    }
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(ns))
        .ok()
        .and_then(|time| time.format(&Rfc3339).ok())
        .unwrap_or_else(|| format!("{ns} ns"))
}

fn age(now: i64, then: i64) -> String {
    let since = now.saturating_sub(then);
    output::age(Duration::from_nanos(u64::try_from(since).unwrap_or(0)))
}

pub fn pod_state(state: i32) -> String {
    lower(
        PodSandboxState::try_from(state).map(|s| s.as_str_name()),
        "SANDBOX_",
    )
}

pub fn container_state(state: i32) -> String {
    lower(
        ContainerState::try_from(state).map(|s| s.as_str_name()),
        "CONTAINER_",
    )
}

fn namespace_mode(mode: i32) -> String {
    lower(NamespaceMode::try_from(mode).map(|m| m.as_str_name()), "")
}

/// `SANDBOX_READY` is `ready`; a value that this build does not know keeps its number.
fn lower<E: std::fmt::Display>(name: Result<&'static str, E>, prefix: &str) -> String {
    match name {
        Ok(name) => name
            .strip_prefix(prefix)
            .unwrap_or(name)
            .to_ascii_lowercase(),
        Err(unknown) => unknown.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cri::v1::{ContainerMetadata, RuntimeCondition, RuntimeStatus};

    #[test]
    fn an_image_has_a_line_for_each_name() {
        let image = |tags: &[&str], digests: &[&str]| Image {
            id: format!("sha256:{}", "0123456789abcdef".repeat(4)),
            repo_tags: tags.iter().map(|&t| t.to_owned()).collect(),
            repo_digests: digests.iter().map(|&d| d.to_owned()).collect(),
            size: 1_500_000,
            ..Default::default()
        };
        let all = [
            image(&["a:1", "a:2"], &["a@sha256:0"]),
            image(&[], &["b@sha256:0"]),
            image(&[], &[]),
        ];
        let lines = |digests| -> Vec<String> {
            images(&all, digests)
                .to_string()
                .lines()
                .map(|l| l.split_whitespace().collect::<Vec<_>>().join(" "))
                .collect()
        };
        assert_eq!(
            lines(true)[1..4],
            [
                "a:1 sha256:0 0123456789abc 1.5 MB",
                "a:2 sha256:0 0123456789abc 1.5 MB",
                "b@sha256:0 sha256:0 0123456789abc 1.5 MB",
            ]
        );
        assert_eq!(repository("r:5000/a"), "r:5000/a");
        assert_eq!(repository("r:5000/a:1@sha256:0"), "r:5000/a");
        assert_eq!(
            lines(false),
            [
                "IMAGE ID SIZE",
                "a:1 0123456789abc 1.5 MB",
                "a:2 0123456789abc 1.5 MB",
                "b@sha256:0 0123456789abc 1.5 MB",
                "<none> 0123456789abc 1.5 MB",
            ]
        );
    }

    #[test]
    fn a_container_s_exit_code_shows_only_after_its_exit() {
        let mut answer = ContainerStatusResponse {
            status: Some(crate::cri::v1::ContainerStatus {
                metadata: Some(ContainerMetadata {
                    name: "redis".into(),
                    attempt: 1,
                }),
                state: ContainerState::ContainerRunning as i32,
                created_at: 1_700_000_000_000_000_001,
                ..Default::default()
            }),
            info: HashMap::new(),
        };
        let text = container(&answer).to_string();
        assert!(text.contains("2023-11-14T22:13:20.000000001Z"), "{text}");
        assert!(
            !text.contains("Exit code") && !text.contains("Started"),
            "{text}"
        );
        if let Some(status) = &mut answer.status {
            status.state = ContainerState::ContainerExited as i32;
        }
        let text = container(&answer).to_string();
        assert!(text.contains("Exit code  0\n"), "{text}");
    }

    #[test]
    fn a_condition_says_why_it_is_not_met() {
        let condition = |name: &str, status, reason: &str, message: &str| RuntimeCondition {
            r#type: name.into(),
            status,
            reason: reason.into(),
            message: message.into(),
        };
        let answer = StatusResponse {
            status: Some(RuntimeStatus {
                conditions: vec![
                    condition("RuntimeReady", true, "", ""),
                    condition("NetworkReady", false, "NoNetwork", "no file"),
                ],
            }),
            ..Default::default()
        };
        let expected = "RuntimeReady  yes\nNetworkReady  no: NoNetwork: no file\n";
        assert_eq!(info(&answer).to_string(), expected);
    }

    #[test]
    fn values_of_a_newer_daemon_are_shown() {
        assert_eq!(pod_state(0), "ready");
        assert_eq!(container_state(2), "exited");
        assert_eq!(namespace_mode(1), "container");
        assert!(pod_state(77).contains("77"));
    }
}
