//! Records into the messages that several RPCs answer with.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use crate::cri::v1;
use crate::ocid::daemon::Daemon;
use crate::ocid::error::{Error, Result};
use crate::ocid::field::{FieldError, unknown_enum};
use crate::ocid::image::reference::{Reference, is_id};
use crate::ocid::image::{Image, ImageUser};
use crate::ocid::state::record::{ContainerRecord, Phase, SandboxRecord};

/// Does a thing with these labels fit the selector: every pair of it, exactly?
pub fn selects(selector: &HashMap<String, String>, labels: &BTreeMap<String, String>) -> bool {
    selector
        .iter()
        .all(|(key, value)| labels.get(key) == Some(value))
}

/// The name or id in an image field that must be set.
pub fn named(field: &str, spec: Option<v1::ImageSpec>) -> Result<String> {
    let required = |field: String| Arc::new(Error::from(FieldError::required(field)));
    let name = spec.ok_or_else(|| required(field.to_owned()))?.image;
    if name.is_empty() {
        return Err(required(format!("{field}.image")));
    }
    let id = name.strip_prefix("sha256:").unwrap_or(&name);
    if !is_id(id)
        && let Err(error) = Reference::parse(&name)
    {
        let problem = format!("is no image: {error}");
        return Err(Arc::new(
            FieldError::new(format!("{field}.image"), problem).into(),
        ));
    }
    Ok(name)
}

/// A number that stands for one of an enum's values; `field` names it where it does not.
pub fn enumerated<E: TryFrom<i32>>(field: &str, number: Option<i32>) -> Result<()> {
    match number {
        Some(number) if E::try_from(number).is_err() => {
            Err(Arc::new(Error::from(unknown_enum(field, number))))
        }
        _ => Ok(()),
    }
}

/// The order of lists. `key` is when it was made, and the id, which decides between equals.
pub fn newest_first<T>(items: &mut [T], key: impl Fn(&T) -> (i64, &str)) {
    items.sort_by(|a, b| key(b).cmp(&key(a)));
}

fn map(map: &BTreeMap<String, String>) -> HashMap<String, String> {
    map.clone().into_iter().collect()
}

fn sandbox_state(record: &SandboxRecord) -> i32 {
    match record.phase {
        Phase::Created | Phase::Running => v1::PodSandboxState::SandboxReady,
        Phase::Creating | Phase::Stopped | Phase::Removing => v1::PodSandboxState::SandboxNotready,
    }
    .into()
}

pub fn sandbox_item(record: &SandboxRecord) -> v1::PodSandbox {
    v1::PodSandbox {
        id: record.id.clone(),
        metadata: Some((&record.config.metadata).into()),
        state: sandbox_state(record),
        created_at: record.created_at,
        labels: map(&record.config.labels),
        annotations: map(&record.config.annotations),
        runtime_handler: record.runtime_handler.clone(),
    }
}

pub fn sandbox_status(record: &SandboxRecord) -> v1::PodSandboxStatus {
    let ips: Vec<String> = record.ips().iter().map(IpAddr::to_string).collect();
    let mut ips = ips.into_iter();
    let network = v1::PodSandboxNetworkStatus {
        ip: ips.next().unwrap_or_default(),
        additional_ips: ips.map(|ip| v1::PodIp { ip }).collect(),
    };
    v1::PodSandboxStatus {
        id: record.id.clone(),
        metadata: Some((&record.config.metadata).into()),
        state: sandbox_state(record),
        created_at: record.created_at,
        network: Some(network),
        linux: Some(v1::LinuxPodSandboxStatus {
            namespaces: Some(v1::Namespace {
                options: Some((&record.config.namespaces).into()),
            }),
        }),
        labels: map(&record.config.labels),
        annotations: map(&record.config.annotations),
        runtime_handler: record.runtime_handler.clone(),
    }
}

fn container_state(record: &ContainerRecord) -> i32 {
    match record.phase {
        Phase::Creating | Phase::Created => v1::ContainerState::ContainerCreated,
        Phase::Running => v1::ContainerState::ContainerRunning,
        Phase::Stopped | Phase::Removing => v1::ContainerState::ContainerExited,
    }
    .into()
}

fn image_spec(record: &ContainerRecord) -> v1::ImageSpec {
    (&record.config.image).into()
}

pub fn container_item(record: &ContainerRecord) -> v1::Container {
    v1::Container {
        id: record.id.clone(),
        pod_sandbox_id: record.sandbox_id.clone(),
        metadata: Some((&record.config.metadata).into()),
        image: Some(image_spec(record)),
        image_ref: record.image_ref.clone(),
        state: container_state(record),
        created_at: record.created_at,
        labels: map(&record.config.labels),
        annotations: map(&record.config.annotations),
        image_id: record.image_id.clone(),
    }
}

pub fn container_status(daemon: &Daemon, record: &ContainerRecord) -> v1::ContainerStatus {
    let user = record.user.as_ref().map(|user| v1::ContainerUser {
        linux: Some(v1::LinuxContainerUser {
            uid: user.uid.into(),
            gid: user.gid.into(),
            supplemental_groups: user
                .supplemental
                .iter()
                .map(|group| (*group).into())
                .collect(),
        }),
    });
    let log_path = daemon
        .sandboxes
        .get(&record.sandbox_id)
        .and_then(|sandbox| sandbox.now().config.log_directory.clone())
        .zip(record.config.log_path.as_ref())
        .map(|(folder, file)| folder.join(file).display().to_string())
        .unwrap_or_default();
    v1::ContainerStatus {
        id: record.id.clone(),
        metadata: Some((&record.config.metadata).into()),
        state: container_state(record),
        created_at: record.created_at,
        started_at: record.started_at,
        finished_at: record.finished_at,
        exit_code: record.exit_code,
        image: Some(image_spec(record)),
        image_ref: record.image_ref.clone(),
        reason: record.reason().to_owned(),
        message: record.message.clone(),
        labels: map(&record.config.labels),
        annotations: map(&record.config.annotations),
        mounts: mounts(record),
        log_path,
        resources: Some(v1::ContainerResources {
            linux: Some((&record.config.resources).into()),
            windows: None,
        }),
        image_id: record.image_id.clone(),
        user,
        stop_signal: record
            .config
            .stop_signal
            .map_or(0, |signal| signal.to_cri().into()),
    }
}

/// As they were asked for, with the ids of those that are images.
fn mounts(record: &ContainerRecord) -> Vec<v1::Mount> {
    let mut mounts: Vec<v1::Mount> = record.config.mounts.iter().map(Into::into).collect();
    for (place, id) in &record.volume_images {
        if let Some(image) = mounts.get_mut(*place).and_then(|m| m.image.as_mut()) {
            image.image_ref.clone_from(id);
        }
    }
    mounts
}

pub fn image(image: &Image) -> v1::Image {
    let (uid, username) = match image.user() {
        ImageUser::None => (None, String::new()),
        ImageUser::Uid(uid) => (Some(uid.into()), String::new()),
        ImageUser::Name(name) => (None, name),
    };
    v1::Image {
        id: image.id.clone(),
        repo_tags: image.repo_tags.clone(),
        repo_digests: image.repo_digests.clone(),
        size: image.size,
        uid: uid.map(|value| v1::Int64Value { value }),
        username,
        spec: Some(v1::ImageSpec {
            image: image.id.clone(),
            ..Default::default()
        }),
        pinned: image.pinned,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_comes_first_and_equals_keep_an_order() {
        let mut items = vec![(1, "a"), (3, "a"), (3, "b"), (2, "c")];
        newest_first(&mut items, |item| (item.0, item.1));
        assert_eq!(items, [(3, "b"), (3, "a"), (2, "c"), (1, "a")]);
    }

    #[test]
    fn an_enum_has_its_own_numbers_only() {
        let check = |number| enumerated::<v1::ContainerState>("filter.state.state", number);
        assert!(check(None).is_ok() && check(Some(3)).is_ok());
        let error = check(Some(9)).unwrap_err().to_string();
        assert_eq!(error, "`filter.state.state` has the unknown value 9");
    }

    #[test]
    fn a_selector_needs_every_pair() {
        let labels = BTreeMap::from([
            ("a".to_owned(), "1".to_owned()),
            ("b".to_owned(), "2".to_owned()),
        ]);
        let selector = |pairs: &[(&str, &str)]| {
            pairs
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect()
        };
        assert!(selects(&selector(&[]), &labels));
        assert!(selects(&selector(&[("a", "1"), ("b", "2")]), &labels));
        assert!(!selects(&selector(&[("a", "2")]), &labels));
        assert!(!selects(&selector(&[("c", "")]), &labels));
    }
}
