//! The files of a checkpoint that say what was checkpointed, with the names and keys that checkpointctl, CRI-O and
//! containerd read (checkpointctl's `lib/metadata.go`).

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::error::CheckpointError;
use crate::host::fs::read_capped;
use crate::ocid::container::exec::SPEC_CAP;
use crate::ocid::state::record::{ContainerRecord, SandboxRecord};

/// What it is.
pub const CONFIG: &str = "config.dump";
/// How it is run.
pub const SPEC: &str = "spec.dump";
/// Its status in the CRI's words.
pub const STATUS: &str = "status.dump";
/// What of the machine is mounted in it.
pub const BIND_MOUNTS: &str = "bind.mounts";

/// Mounts that every container has, made anew by whoever restores it.
const USUAL: [&str; 7] = [
    "/dev",
    "/dev/shm",
    "/proc",
    "/run",
    "/run/.containerenv",
    "/run/secrets",
    "/sys",
];

/// What a checkpoint is taken of.
pub struct Subject<'a> {
    pub record: &'a ContainerRecord,
    pub pod: &'a SandboxRecord,
    pub handler: &'a str,
    pub log: Option<&'a Path>,
    /// Nanoseconds since the epoch.
    pub at: i64,
}

/// The container's specification, with what tells other programs whose it is.
pub struct Spec(Map<String, Value>);

impl Spec {
    pub fn read(bundle: &Path) -> Result<Self, CheckpointError> {
        let path = bundle.join("config.json");
        let bytes = read_capped(&path, SPEC_CAP).map_err(CheckpointError::io("read", &path))?;
        let spec = serde_json::from_slice(&bytes).map_err(CheckpointError::io("parse", path))?;
        Ok(Self(spec))
    }

    /// Where something is mounted, without the leading slash.
    pub fn mount_points(&self) -> BTreeSet<PathBuf> {
        let places = self.mounts().filter_map(|mount| {
            let place = Path::new(mount.get("destination")?.as_str()?);
            Some(place.strip_prefix("/").unwrap_or(place).to_owned())
        });
        places.collect()
    }

    fn mounts(&self) -> impl Iterator<Item = &Value> {
        let mounts = self.0.get("mounts").and_then(Value::as_array);
        mounts.into_iter().flatten()
    }

    /// `bind.mounts`: of which kind the sources are, since a restore elsewhere has to make what is missing.
    pub fn bind_mounts(&self) -> Value {
        let binds = self.mounts().filter_map(|mount| {
            let text = |key: &str| mount.get(key)?.as_str();
            let (source, destination) = (text("source")?, text("destination")?);
            if text("type") != Some("bind") || USUAL.contains(&destination) {
                return None;
            }
            let found = match fs::metadata(source) {
                Ok(found) => found,
                Err(error) => {
                    // Mounted it is still.
                    tracing::warn!(%source, %error, "the source of a mount is not described");
                    return None;
                }
            };
            Some(json!({
                "source": source,
                "destination": destination,
                "file_type": if found.is_dir() { "directory" } else { "file" },
                "permissions": found.permissions().mode() & 0o777,
            }))
        });
        Value::Array(binds.collect())
    }

    /// `spec.dump`. Annotations of CRI-O and containerd are what their restore and checkpointctl's tables look for.
    pub fn dump(mut self, subject: &Subject<'_>) -> Value {
        let (record, pod) = (subject.record, subject.pod);
        let (container, sandbox) = (&record.config.metadata, &pod.config.metadata);
        let mut more = vec![
            ("io.container.manager", "ocid".to_owned()),
            ("io.kubernetes.container.name", container.name.clone()),
            ("io.kubernetes.pod.name", sandbox.name.clone()),
            ("io.kubernetes.pod.namespace", sandbox.namespace.clone()),
            ("io.kubernetes.pod.uid", sandbox.uid.clone()),
            ("io.kubernetes.cri.container-name", container.name.clone()),
            ("io.kubernetes.cri.container-type", "container".to_owned()),
            ("io.kubernetes.cri.sandbox-id", pod.id.clone()),
            ("io.kubernetes.cri.sandbox-name", sandbox.name.clone()),
            (
                "io.kubernetes.cri.sandbox-namespace",
                sandbox.namespace.clone(),
            ),
            (
                "io.kubernetes.cri-o.Annotations",
                json!(record.config.annotations).to_string(),
            ),
            (
                "io.kubernetes.cri-o.Labels",
                json!(record.config.labels).to_string(),
            ),
            (
                "io.kubernetes.cri-o.Metadata",
                json!({ "name": container.name, "attempt": container.attempt }).to_string(),
            ),
            ("io.kubernetes.cri-o.Created", rfc3339(record.created_at)),
        ];
        if let Some(log) = subject.log {
            more.push(("io.kubernetes.cri-o.LogPath", log.display().to_string()));
        }
        if let Some(ip) = pod.ips().first() {
            more.push(("io.kubernetes.cri-o.IP.0", ip.to_string()));
        }
        let annotations = self.0.entry("annotations").or_insert_with(|| json!({}));
        if let Some(annotations) = annotations.as_object_mut() {
            let more = more
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value.into()));
            annotations.extend(more);
        }
        Value::Object(self.0)
    }
}

/// `config.dump`.
pub fn config(subject: &Subject<'_>) -> Value {
    let record = subject.record;
    json!({
        "id": record.id,
        "name": record.config.metadata.name,
        "rootfsImage": record.image_name,
        "rootfsImageRef": record.image_id,
        "rootfsImageName": record.image_ref,
        "runtime": subject.handler,
        "createdTime": rfc3339(record.created_at),
        "checkpointedTime": rfc3339(subject.at),
        "restoredTime": NEVER,
        "restored": false,
    })
}

/// `status.dump`: a ContainerStatus as Go's JSON has it, numbers for enums.
pub fn status(subject: &Subject<'_>) -> Value {
    let record = subject.record;
    json!({
        "id": record.id,
        "metadata": {
            "name": record.config.metadata.name,
            "attempt": record.config.metadata.attempt,
        },
        "state": crate::cri::v1::ContainerState::ContainerRunning as i32,
        "created_at": record.created_at,
        "started_at": record.started_at,
        "image": {
            "image": record.config.image.image,
            "user_specified_image": record.config.image.user_specified_image,
        },
        "image_ref": record.image_ref,
        "image_id": record.image_id,
        "labels": record.config.labels,
        "annotations": record.config.annotations,
        "log_path": subject.log.map(|log| log.display().to_string()).unwrap_or_default(),
    })
}

/// Go's zero time.
const NEVER: &str = "0001-01-01T00:00:00Z";

fn rfc3339(ns: i64) -> String {
    let time = OffsetDateTime::from_unix_timestamp_nanos(ns.into()).ok();
    let text = time.and_then(|time| time.format(&Rfc3339).ok());
    text.unwrap_or_else(|| NEVER.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_what_go_reads() {
        assert_eq!(rfc3339(1_500_000_000), "1970-01-01T00:00:01.5Z");
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
    }

    #[test]
    fn binds_are_described_and_the_usual_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f");
        fs::write(&file, "").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        let bind = |source: &Path, destination: &str| json!({ "type": "bind", "source": source, "destination": destination });
        let spec = json!({ "mounts": [
            { "type": "proc", "source": "proc", "destination": "/proc" },
            bind(dir.path(), "/data"), bind(&file, "/etc/hosts"),
            bind(dir.path(), "/dev/shm"), bind(Path::new("/no/such"), "/gone"),
        ]});
        fs::write(dir.path().join("config.json"), spec.to_string()).unwrap();
        let spec = Spec::read(dir.path()).unwrap();
        let points = spec.mount_points();
        assert!(points.len() == 5 && points.contains(Path::new("etc/hosts")));
        let binds = spec.bind_mounts();
        let binds = binds.as_array().unwrap();
        assert_eq!(binds.len(), 2);
        assert_eq!(binds[0]["file_type"], "directory");
        assert_eq!(binds[1]["file_type"], "file");
        assert_eq!(binds[1]["permissions"], 0o640);
    }

    #[test]
    fn a_damaged_specification_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        for bad in ["", "[]", "{"] {
            fs::write(dir.path().join("config.json"), bad).unwrap();
            assert!(Spec::read(dir.path()).is_err(), "{bad}");
        }
    }
}
