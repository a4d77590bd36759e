//! What `crictl inspect`, `inspectp`, `inspecti` and `info` show beyond the status: JSON under the key `info`
//! (`config` for `crictl info`), with CRI-O's names where it has them, since scripts look for those
//! (`.info.pid`, `.info.runtimeSpec.linux.namespaces`). Beside them stand our own records.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::host::fs::read_capped;
use crate::ocid::container::exec::SPEC_CAP;
use crate::ocid::daemon::Daemon;
use crate::ocid::error::{Error, Result};
use crate::ocid::image::Image;
use crate::ocid::sandbox::config::NamespaceMode;
use crate::ocid::state::record::{ContainerRecord, Phase, SandboxRecord};

/// Of the specification that a pod's would have; runtimes that know only it take ours.
const OCI_VERSION: &str = "1.0.2";

/// Of a container: `pid` (0 once it has ended), `runtimeSpec` (absent once a reboot took it along), `sandboxID`,
/// `privileged`, `config`, and what else the record says. Blocks.
pub fn container(
    record: &ContainerRecord,
    bundle: &Path,
) -> std::result::Result<HashMap<String, String>, Error> {
    let path = bundle.join("config.json");
    let spec = match read_capped(&path, SPEC_CAP) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map_err(std::io::Error::from)
            .map_err(Error::io("parse", &path))?,
        Err(e) if e.kind() == ErrorKind::NotFound => Value::Null,
        Err(e) => return Err(Error::io("read", &path)(e)),
    };
    let alive = matches!(record.phase, Phase::Created | Phase::Running);
    let pid = record.init.filter(|_| alive).map_or(0, |init| init.pid);
    let own = json!({
        "sandboxID": record.sandbox_id,
        "pid": pid,
        "runtimeSpec": spec,
        "privileged": record.config.security.privileged,
        "runtimeHandler": record.runtime_handler,
        "runtimeType": "oci",
    });
    Ok(info(own, record))
}

/// Of a pod: `pid` of its pause process (0 where it has none), `runtimeSpec` with the namespaces that its
/// containers join, `cniResult`, and what else the record says.
pub fn sandbox(daemon: &Daemon, record: &SandboxRecord) -> Result<HashMap<String, String>> {
    let cgroup = daemon.pod_cgroup(&record.config.cgroup_parent)?;
    let own = json!({
        // No image: what a pod runs of its own is this program.
        "image": "",
        "pid": record.pause.map_or(0, |pause| pause.pid),
        "runtimeSpec": {
            "ociVersion": OCI_VERSION,
            "hostname": record.config.hostname,
            "annotations": record.config.annotations,
            "linux": {
                "namespaces": namespaces(daemon, record),
                "cgroupsPath": cgroup.path(),
                "sysctl": record.config.sysctls,
            },
        },
        "runtimeHandler": record.runtime_handler,
        "runtimeType": "oci",
        "cniResult": record.network.as_ref().map(|network| &network.result),
    });
    Ok(info(own, record))
}

/// Of an image: its configuration as OCI has it, and its labels.
pub fn image(image: &Image) -> HashMap<String, String> {
    let labels = image
        .config
        .config()
        .as_ref()
        .and_then(|c| c.labels().as_ref());
    let own = json!({
        "id": image.id,
        "labels": labels,
        "imageSpec": image.config,
        "layers": image.layers,
    });
    HashMap::from([("info".to_owned(), own.to_string())])
}

/// Kinds that the pod has of its own stand with the path to join them by, the machine's do not stand there, and
/// those without a path are each container's own: as in a container's specification.
fn namespaces(daemon: &Daemon, record: &SandboxRecord) -> Vec<Value> {
    let (pinned, modes) = (record.pinned(daemon), &record.config.namespaces);
    let kinds = [
        ("network", modes.network, pinned.net),
        ("uts", modes.network, pinned.uts),
        ("ipc", modes.ipc, pinned.ipc),
        ("pid", modes.pid, pinned.pid),
    ];
    let one = |(kind, mode, path): (&str, NamespaceMode, Option<std::path::PathBuf>)| match path {
        Some(path) => Some(json!({ "type": kind, "path": path })),
        None if mode == NamespaceMode::Container => Some(json!({ "type": kind })),
        None => None,
    };
    kinds.into_iter().filter_map(one).collect()
}

/// Both as one object; `own` wins.
fn info<R: serde::Serialize>(own: Value, record: &R) -> HashMap<String, String> {
    let mut whole = match serde_json::to_value(record) {
        Ok(Value::Object(fields)) => fields,
        Ok(_) => Map::new(),
        Err(error) => {
            tracing::warn!(%error, "a record is left out of the verbose information");
            Map::new()
        }
    };
    if let Value::Object(own) = own {
        whole.extend(own.into_iter().filter(|(_, value)| !value.is_null()));
    }
    HashMap::from([("info".to_owned(), Value::Object(whole).to_string())])
}
