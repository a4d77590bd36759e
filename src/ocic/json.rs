//! CRI answers as JSON for programs: the proto's names for the values of enums, as `crictl` prints
//! them, where the generated types have numbers; and verbose `info`, which the CRI carries as
//! JSON within strings, as what it is.

use serde::Serialize;
use serde_json::{Error, Value};

use crate::cri::v1::{
    CgroupDriver, ContainerState, MountPropagation, NamespaceMode, PodSandboxState, Protocol,
    Signal, SupplementalGroupsPolicy,
};

/// Whose `state` the numbers of that name are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    Pod,
    Container,
    Other,
}

/// The JSON of an answer (or a list of them) about `subject`.
pub fn value<T: Serialize>(subject: Subject, answer: &T) -> Result<Value, Error> {
    let mut value = serde_json::to_value(answer)?;
    name(subject, &mut value);
    Ok(value)
}

fn name(subject: Subject, value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| name(subject, item)),
        Value::Object(fields) => {
            for (key, field) in fields.iter_mut() {
                if let Some(called) = number(field).and_then(|n| enumerator(subject, key, n)) {
                    *field = Value::from(called);
                    continue;
                }
                match key.as_str() {
                    "containers_statuses" => name(Subject::Container, field),
                    "info" => unwrap_info(field),
                    _ => name(subject, field),
                }
            }
        }
        _ => {}
    }
}

fn number(value: &Value) -> Option<i32> {
    value.as_i64().and_then(|n| i32::try_from(n).ok())
}

/// The name of a known value of the enum that stands at `key`. Maps that users fill (labels,
/// annotations) hold only strings, so a number is always a field of the proto.
fn enumerator(subject: Subject, key: &str, n: i32) -> Option<&'static str> {
    match (key, subject) {
        ("state", Subject::Pod) => PodSandboxState::try_from(n).map(|v| v.as_str_name()),
        ("state", Subject::Container) => ContainerState::try_from(n).map(|v| v.as_str_name()),
        ("network" | "pid" | "ipc" | "mode", Subject::Pod | Subject::Container) => {
            NamespaceMode::try_from(n).map(|v| v.as_str_name())
        }
        ("propagation", _) => MountPropagation::try_from(n).map(|v| v.as_str_name()),
        ("protocol", _) => Protocol::try_from(n).map(|v| v.as_str_name()),
        ("stop_signal", _) => Signal::try_from(n).map(|v| v.as_str_name()),
        ("supplemental_groups_policy", _) => {
            SupplementalGroupsPolicy::try_from(n).map(|v| v.as_str_name())
        }
        ("cgroup_driver", _) => CgroupDriver::try_from(n).map(|v| v.as_str_name()),
        _ => return None,
    }
    .ok()
}

/// Objects and lists within strings become such; every other text stays text.
fn unwrap_info(info: &mut Value) {
    let Value::Object(entries) = info else { return };
    for entry in entries.values_mut() {
        let inner = entry
            .as_str()
            .and_then(|text| serde_json::from_str(text).ok());
        if let Some(inner @ (Value::Object(_) | Value::Array(_))) = inner {
            *entry = inner;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cri::v1::{ContainerStatus, PodSandboxStatus, PodSandboxStatusResponse};
    use serde_json::json;

    #[test]
    fn states_are_named_by_whose_they_are_and_info_is_opened() {
        let answer = PodSandboxStatusResponse {
            status: Some(PodSandboxStatus {
                state: PodSandboxState::SandboxNotready as i32,
                ..Default::default()
            }),
            info: [("pid", "12"), ("config", r#"{"state": 1}"#), ("x", "{")]
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .into(),
            containers_statuses: vec![ContainerStatus {
                state: ContainerState::ContainerRunning as i32,
                stop_signal: 99,
                ..Default::default()
            }],
            ..Default::default()
        };
        let value = value(Subject::Pod, &answer).unwrap();
        assert_eq!(value["status"]["state"], "SANDBOX_NOTREADY");
        let container = &value["containers_statuses"][0];
        assert_eq!(container["state"], "CONTAINER_RUNNING");
        assert_eq!(container["stop_signal"], 99, "an unknown value stays");
        let info = json!({"pid": "12", "config": {"state": 1}, "x": "{"});
        assert_eq!(value["info"], info);
    }
}
