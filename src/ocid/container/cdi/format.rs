//! The files of the Container Device Interface: JSON or YAML of one form, checked as a whole.
//!
//! A key that we do not know is an error: a part of a device that is left out in silence is a device
//! that does not work.

use std::collections::BTreeMap;
use std::path::PathBuf;

use saphyr::{LoadableYamlNode, ScalarOwned, YamlOwned};
use serde::Deserialize;
use serde_json::{Map, Number, Value};

/// The newest version of the format whose parts we know; newer minor versions may have more.
const NEWEST: (u32, u32) = (1, 1);

/// A vendor's file.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Document {
    cdi_version: String,
    /// `vendor.com/class`
    pub kind: String,
    #[serde(default, rename = "annotations")]
    _annotations: BTreeMap<String, String>,
    pub devices: Vec<Device>,
    /// For every container that has one of the devices.
    #[serde(default)]
    pub container_edits: ContainerEdits,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Device {
    pub name: String,
    #[serde(default, rename = "annotations")]
    _annotations: BTreeMap<String, String>,
    pub container_edits: ContainerEdits,
}

/// Changes of a container's OCI specification.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct ContainerEdits {
    /// `NAME=value`
    pub env: Vec<String>,
    pub device_nodes: Vec<DeviceNode>,
    pub mounts: Vec<Mount>,
    pub hooks: Vec<Hook>,
    #[serde(rename = "additionalGids")]
    pub additional_gids: Vec<u32>,
    /// Known so that they are refused by name.
    net_devices: Vec<Value>,
    intel_rdt: Option<Value>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct DeviceNode {
    /// In the container.
    pub path: PathBuf,
    /// On the machine; empty: the same.
    pub host_path: PathBuf,
    /// `b`, `c`, `u` or `p`; empty: as on the machine.
    #[serde(rename = "type")]
    pub kind: String,
    pub major: i64,
    pub minor: i64,
    pub file_mode: Option<u32>,
    /// Of `r`, `w` and `m`; empty: all.
    pub permissions: String,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Mount {
    pub host_path: PathBuf,
    pub container_path: PathBuf,
    #[serde(rename = "type")]
    pub kind: String,
    pub options: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Hook {
    pub hook_name: HookName,
    pub path: PathBuf,
    pub args: Vec<String>,
    pub env: Vec<String>,
    /// Seconds.
    pub timeout: Option<i64>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum HookName {
    #[default]
    Prestart,
    CreateRuntime,
    CreateContainer,
    StartContainer,
    Poststart,
    Poststop,
}

impl Document {
    pub(super) fn from_json(bytes: &[u8]) -> Result<Self, String> {
        let document: Self = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
        document.checked()
    }

    pub(super) fn from_yaml(bytes: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(bytes).map_err(|e| e.to_string())?;
        let documents = YamlOwned::load_from_str(text).map_err(|e| e.to_string())?;
        let [document] = documents.as_slice() else {
            return Err(format!("holds {} documents, not one", documents.len()));
        };
        let document: Self = serde_json::from_value(json(document)?).map_err(|e| e.to_string())?;
        document.checked()
    }

    fn checked(self) -> Result<Self, String> {
        let version: Option<Vec<u32>> = self
            .cdi_version
            .trim_start_matches('v')
            .split('.')
            .map(|n| n.parse().ok())
            .collect();
        match version.as_deref() {
            Some([major, minor, _]) if (*major, *minor) <= NEWEST => {}
            _ => {
                return Err(format!(
                    "is of the unknown cdiVersion `{}`",
                    self.cdi_version
                ));
            }
        }
        check_kind(&self.kind)?;
        self.container_edits.check()?;
        for (i, device) in self.devices.iter().enumerate() {
            check_name("device name", &device.name, true)?;
            if self.devices.iter().take(i).any(|d| d.name == device.name) {
                return Err(format!("describes `{}` twice", device.name));
            }
            device
                .container_edits
                .check()
                .map_err(|e| format!("device `{}`: {e}", device.name))?;
        }
        Ok(self)
    }
}

impl ContainerEdits {
    fn check(&self) -> Result<(), String> {
        if let Some(bad) = self
            .env
            .iter()
            .find(|e| e.starts_with('=') || !e.contains('='))
        {
            return Err(format!("the variable `{bad}` is not `NAME=value`"));
        }
        for node in &self.device_nodes {
            absolute("a device node", &node.path)?;
            if !matches!(node.kind.as_str(), "" | "b" | "c" | "u" | "p") {
                return Err(format!("a device node of the unknown type `{}`", node.kind));
            }
            if !node
                .permissions
                .chars()
                .all(|c| matches!(c, 'r' | 'w' | 'm'))
            {
                return Err(format!("unknown permissions `{}`", node.permissions));
            }
        }
        for mount in &self.mounts {
            absolute("a mount", &mount.container_path)?;
            if mount.host_path.as_os_str().is_empty() {
                return Err("a mount without a hostPath".to_owned());
            }
        }
        for hook in &self.hooks {
            absolute("a hook", &hook.path)?;
        }
        if !self.net_devices.is_empty() {
            return Err("asks for netDevices, which ocid cannot give".to_owned());
        }
        if self.intel_rdt.is_some() {
            return Err("asks for intelRdt, which ocid cannot give".to_owned());
        }
        Ok(())
    }
}

fn absolute(what: &str, path: &std::path::Path) -> Result<(), String> {
    if path.is_absolute() {
        return Ok(());
    }
    Err(format!(
        "{what} at `{}`, not an absolute path",
        path.display()
    ))
}

/// `vendor.com/class=name`
pub(super) fn check_device_name(name: &str) -> Result<(), String> {
    let (kind, device) = name
        .split_once('=')
        .ok_or("is not of the form `vendor.com/class=name`")?;
    check_kind(kind)?;
    check_name("device name", device, true)
}

fn check_kind(kind: &str) -> Result<(), String> {
    let (vendor, class) = kind
        .split_once('/')
        .ok_or_else(|| format!("has the kind `{kind}`, not `vendor.com/class`"))?;
    check_name("vendor", vendor, false)?;
    check_name("class", class, false)
}

/// Letters, digits, `_`, `-`, `.` (and `:` in a device's name), beginning and ending with a letter or
/// digit, and not with a digit except in a device's name.
fn check_name(what: &str, name: &str, is_device: bool) -> Result<(), String> {
    let inner = |b: u8| {
        b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.') || (is_device && b == b':')
    };
    let bytes = name.as_bytes();
    let good = match (bytes.first(), bytes.last()) {
        (Some(first), Some(last)) => {
            (first.is_ascii_alphabetic() || (is_device && first.is_ascii_digit()))
                && last.is_ascii_alphanumeric()
                && bytes.iter().all(|b| inner(*b))
        }
        _ => false,
    };
    if good {
        return Ok(());
    }
    Err(format!("has the invalid {what} `{}`", name.escape_debug()))
}

/// YAML as JSON, for one way to read both.
fn json(node: &YamlOwned) -> Result<Value, String> {
    Ok(match node {
        YamlOwned::Value(scalar) => match scalar {
            ScalarOwned::Null => Value::Null,
            ScalarOwned::Boolean(b) => Value::Bool(*b),
            ScalarOwned::Integer(n) => Value::Number((*n).into()),
            ScalarOwned::FloatingPoint(f) => Number::from_f64(f.into_inner())
                .map(Value::Number)
                .ok_or("holds a number that is none")?,
            ScalarOwned::String(text) => Value::String(text.clone()),
        },
        YamlOwned::Sequence(list) => Value::Array(list.iter().map(json).collect::<Result<_, _>>()?),
        YamlOwned::Mapping(map) => {
            let mut object = Map::new();
            for (key, value) in map {
                let key = key.as_str().ok_or("holds a key that is no text")?;
                object.insert(key.to_owned(), json(value)?);
            }
            Value::Object(object)
        }
        YamlOwned::Tagged(_, value) => json(value)?,
        YamlOwned::Representation(..) | YamlOwned::Alias(_) | YamlOwned::BadValue => {
            return Err("holds YAML that cannot be read".to_owned());
        }
    })
}
