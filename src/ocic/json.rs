//! CRI answers as JSON for programs, in the form that protobuf defines for messages
//! (<https://protobuf.dev/programming-guides/json/>) and other CRI clients print: names in lowerCamelCase, numbers
//! of 64 bits as strings, enums by name, fields at their defaults included; and verbose `info`, which the
//! CRI carries as JSON within strings, as what it is.

mod write;

use serde::Serialize;
use serde_json::{Error, Map, Value};

use crate::cri::v1::{
    CgroupDriver, ContainerEventType, ContainerState, MetricType, MountPropagation, NamespaceMode,
    PodSandboxState, Protocol, Signal, SupplementalGroupsPolicy, security_profile::ProfileType,
};

/// The JSON of an answer, or of a list of them.
pub fn value<T: Serialize + ?Sized>(answer: &T) -> Result<Value, Error> {
    let mut value = answer.serialize(write::Writer)?;
    open_info(&mut value);
    Ok(value)
}

/// A list under the name that the CRI's answer has for it.
pub fn list<T: Serialize>(name: &str, items: &[T]) -> Result<Value, Error> {
    let mut fields = Map::new();
    fields.insert(name.to_owned(), value(items)?);
    Ok(Value::Object(fields))
}

/// The name of a known value of the enum that stands in this field of this message.
fn enumerator(message: &str, field: &str, n: i32) -> Option<&'static str> {
    match (message, field) {
        ("PodSandbox" | "PodSandboxStatus", "state") => {
            PodSandboxState::try_from(n).map(|v| v.as_str_name())
        }
        ("Container" | "ContainerStatus", "state") => {
            ContainerState::try_from(n).map(|v| v.as_str_name())
        }
        ("NamespaceOption" | "WindowsNamespaceOption", "network" | "pid" | "ipc")
        | ("UserNamespace", "mode") => NamespaceMode::try_from(n).map(|v| v.as_str_name()),
        ("Mount", "propagation") => MountPropagation::try_from(n).map(|v| v.as_str_name()),
        ("PortMapping", "protocol") => Protocol::try_from(n).map(|v| v.as_str_name()),
        ("ContainerStatus" | "ContainerConfig", "stop_signal") => {
            Signal::try_from(n).map(|v| v.as_str_name())
        }
        (_, "supplemental_groups_policy") => {
            SupplementalGroupsPolicy::try_from(n).map(|v| v.as_str_name())
        }
        ("LinuxRuntimeConfiguration", "cgroup_driver") => {
            CgroupDriver::try_from(n).map(|v| v.as_str_name())
        }
        ("ContainerEventResponse", "container_event_type") => {
            ContainerEventType::try_from(n).map(|v| v.as_str_name())
        }
        ("Metric", "metric_type") => MetricType::try_from(n).map(|v| v.as_str_name()),
        ("SecurityProfile", "profile_type") => ProfileType::try_from(n).map(|v| v.as_str_name()),
        _ => return None,
    }
    .ok()
}

/// What protobuf calls a field: `repo_tags` is `repoTags`.
fn field_name(message: &str, field: &str) -> String {
    // These are capital in the proto.
    if matches!(message, "PsiStats" | "PsiData") {
        let mut letters = field.chars();
        let first = letters.next().map(|c| c.to_ascii_uppercase());
        return first.into_iter().chain(letters).collect();
    }
    let mut name = String::with_capacity(field.len());
    let mut parts = field.split('_');
    name.push_str(parts.next().unwrap_or_default());
    for part in parts {
        let mut letters = part.chars();
        name.extend(letters.next().map(|c| c.to_ascii_uppercase()));
        name.push_str(letters.as_str());
    }
    name
}

/// In an answer that carries `info`, its entries stand beside `status`, as other clients print them; objects and
/// lists within their strings become such, every other text stays text. An image's status is called so too.
fn open_info(answer: &mut Value) {
    match answer {
        Value::Array(answers) => answers.iter_mut().for_each(open_info),
        Value::Object(fields) => {
            let Some(Value::Object(entries)) = fields.remove("info") else {
                return;
            };
            if let Some(image) = fields.remove("image") {
                fields.insert("status".to_owned(), image);
            }
            for (key, mut entry) in entries {
                open(&mut entry);
                // What the CRI itself tells is not hidden by what a daemon adds.
                fields.entry(key).or_insert(entry);
            }
        }
        _ => {}
    }
}

fn open(entry: &mut Value) {
    let inner = entry
        .as_str()
        .and_then(|text| serde_json::from_str(text).ok());
    if let Some(inner @ (Value::Object(_) | Value::Array(_))) = inner {
        *entry = inner;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cri::v1::{
        Container, ContainerConfig, ContainerStatus, CpuUsage, ExecSyncResponse, Image,
        ImageStatusResponse, KeyValue, Mount, PodSandboxStatus, PodSandboxStatusResponse, PsiData,
        PsiStats, UInt64Value,
    };
    use serde_json::json;

    #[test]
    fn states_are_named_by_whose_they_are_and_info_is_opened() {
        let answer = PodSandboxStatusResponse {
            status: Some(PodSandboxStatus {
                state: PodSandboxState::SandboxNotready as i32,
                labels: [("io.kubernetes.pod_name".to_owned(), "x".to_owned())].into(),
                ..Default::default()
            }),
            info: [
                ("pid", "12"),
                ("info", r#"{"a_state": 1}"#),
                ("x", "{"),
                ("status", "{}"),
            ]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into(),
            containers_statuses: vec![ContainerStatus {
                state: ContainerState::ContainerRunning as i32,
                stop_signal: 99,
                exit_code: 3,
                created_at: 1_700_000_000_000_000_001,
                ..Default::default()
            }],
            ..Default::default()
        };
        let value = value(&answer).unwrap();
        assert_eq!(value["status"]["state"], "SANDBOX_NOTREADY");
        let labels = json!({"io.kubernetes.pod_name": "x"});
        assert_eq!(value["status"]["labels"], labels, "a user's keys stay");
        let container = &value["containersStatuses"][0];
        assert_eq!(container["state"], "CONTAINER_RUNNING");
        assert_eq!(container["stopSignal"], 99, "an unknown value stays");
        assert_eq!(container["exitCode"], 3);
        assert_eq!(container["createdAt"], "1700000000000000001");
        assert_eq!(container["image"], Value::Null);
        assert_eq!(container["mounts"], json!([]));
        assert_eq!(value["info"], json!({"a_state": 1}));
        assert_eq!((&value["pid"], &value["x"]), (&json!("12"), &json!("{")));
    }

    #[test]
    fn numbers_and_names_are_protobuf_s() {
        let image = Image {
            size: 7,
            pinned: true,
            ..Default::default()
        };
        let images = list("images", &[image]).unwrap();
        assert_eq!(images["images"][0]["size"], "7");
        assert_eq!(images["images"][0]["pinned"], true);
        assert_eq!(images["images"][0]["repoTags"], json!([]));
        let cpu = CpuUsage {
            usage_nano_cores: Some(UInt64Value { value: u64::MAX }),
            psi: Some(PsiStats {
                some: Some(PsiData {
                    total: 5,
                    avg10: 0.25,
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        };
        let cpu = value(&cpu).unwrap();
        assert_eq!(cpu["usageNanoCores"]["value"], u64::MAX.to_string());
        assert_eq!(cpu["psi"]["Some"]["Total"], "5");
        assert_eq!(cpu["psi"]["Some"]["Avg10"], 0.25);
        assert_eq!(cpu["psi"]["Full"], Value::Null);
        let config = ContainerConfig {
            mounts: vec![Mount::default()],
            envs: vec![KeyValue {
                key: "k".into(),
                value: b"v".into(),
            }],
            ..Default::default()
        };
        let config = value(&config).unwrap();
        assert_eq!(config["CDIDevices"], json!([]));
        assert_eq!(config["mounts"][0]["uidMappings"], json!([]));
        assert_eq!(config["mounts"][0]["propagation"], "PROPAGATION_PRIVATE");
        assert_eq!(config["envs"][0], json!({"key": "k", "value": "v"}));
        let answer = ExecSyncResponse {
            stdout: b"out".into(),
            ..Default::default()
        };
        let expected = json!({"stdout": "out", "stderr": "", "exitCode": 0});
        assert_eq!(value(&answer).unwrap(), expected);
        let answer = ImageStatusResponse {
            image: Some(Image::default()),
            ..Default::default()
        };
        let answer = value(&answer).unwrap();
        assert_eq!(answer["status"]["size"], "0");
        assert_eq!(answer.get("info"), None, "nothing was told");
        let container = value(&Container::default()).unwrap();
        assert_eq!(container["podSandboxId"], "");
    }
}
