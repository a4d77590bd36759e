//! Pod and container configs as people write them: CRI JSON, snake_case, numbers for enums.
//!
//! What is wrong is named by its place (`linux.security_context.privileged`); keys that the CRI does
//! not know (older tutorials have some) are named too, and otherwise ignored.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_json::error::Category;
use serde_path_to_error::Track;

use crate::cri::v1::{ContainerConfig, PodSandboxConfig};
use crate::host::fs::read_capped;

/// No config of a person's is larger; a disk image named by mistake is.
const LARGEST: u64 = 4 << 20;

/// Why a config cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("read the config `{}`", .path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("`{origin}` is not JSON: line {line}, column {column}: {problem}")]
    Syntax {
        origin: String,
        line: usize,
        column: usize,
        problem: String,
    },
    #[error("`{origin}`: `{field}`: {problem}")]
    Field {
        origin: String,
        field: String,
        problem: String,
    },
    #[error("`{origin}`: `{field}` is missing")]
    Missing { origin: String, field: &'static str },
}

impl ConfigError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Read { .. } => None,
            Self::Syntax { .. } | Self::Field { .. } => Some(
                "configs are CRI JSON with the proto's field names; `examples/` has a pod and a \
                 container that work"
                    .to_owned(),
            ),
            Self::Missing { field, .. } if field.starts_with("metadata") => Some(
                "a pod is `\"metadata\": {\"name\": .., \"uid\": .., \"namespace\": ..}`, a container \
                 `\"metadata\": {\"name\": ..}`"
                    .to_owned(),
            ),
            Self::Missing { .. } => {
                Some("name it in the config, or by `--image REFERENCE`".to_owned())
            }
        }
    }
}

/// A config, and the keys in it that mean nothing to the CRI.
#[derive(Debug)]
pub struct Parsed<T> {
    pub config: T,
    /// Paths such as `linux.resources.cpu`.
    pub unknown: Vec<String>,
}

/// Reads a config file of at most 4 MiB; `-` is stdin.
pub fn read(path: &Path) -> Result<Vec<u8>, ConfigError> {
    let bytes = if path == Path::new("-") {
        let mut bytes = Vec::new();
        let stdin = io::stdin().lock().take(LARGEST).read_to_end(&mut bytes);
        stdin.map(|_| bytes)
    } else {
        read_capped(path, LARGEST)
    };
    bytes.map_err(|source| ConfigError::Read {
        path: path.to_owned(),
        source,
    })
}

/// Parses a pod's config; `origin` names it in errors.
pub fn sandbox(origin: &str, bytes: &[u8]) -> Result<Parsed<PodSandboxConfig>, ConfigError> {
    let parsed: Parsed<PodSandboxConfig> = parse(origin, bytes)?;
    let needs = |field, present| required(origin, field, present);
    let metadata = parsed.config.metadata.as_ref();
    needs("metadata", metadata.is_some())?;
    if let Some(metadata) = metadata {
        needs("metadata.name", !metadata.name.is_empty())?;
        needs("metadata.uid", !metadata.uid.is_empty())?;
        needs("metadata.namespace", !metadata.namespace.is_empty())?;
    }
    Ok(parsed)
}

/// Parses a container's config; `image`, when given, takes the place of the config's own.
pub fn container(
    origin: &str,
    bytes: &[u8],
    image: Option<&str>,
) -> Result<Parsed<ContainerConfig>, ConfigError> {
    let mut parsed: Parsed<ContainerConfig> = parse(origin, bytes)?;
    let needs = |field, present| required(origin, field, present);
    let metadata = parsed.config.metadata.as_ref();
    needs("metadata", metadata.is_some())?;
    needs(
        "metadata.name",
        metadata.is_some_and(|m| !m.name.is_empty()),
    )?;
    let spec = parsed.config.image.get_or_insert_default();
    if let Some(image) = image {
        image.clone_into(&mut spec.image);
        spec.user_specified_image.clear();
    }
    needs("image.image", !spec.image.is_empty())?;
    Ok(parsed)
}

fn required(origin: &str, field: &'static str, present: bool) -> Result<(), ConfigError> {
    if present {
        return Ok(());
    }
    let origin = origin.to_owned();
    Err(ConfigError::Missing { origin, field })
}

fn parse<T: DeserializeOwned + Serialize>(
    origin: &str,
    bytes: &[u8],
) -> Result<Parsed<T>, ConfigError> {
    let mut unknown = Vec::new();
    let mut track = Track::new();
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let tracked = serde_path_to_error::Deserializer::new(&mut json, &mut track);
    let config = serde_ignored::deserialize(tracked, |path| unknown.push(dotted(&path)))
        .map_err(|error| refusal(origin, &error, &track.path().to_string()))?;
    json.end().map_err(|error| refusal(origin, &error, "."))?;
    let written = serde_json::from_slice(bytes).map_err(|error| refusal(origin, &error, "."))?;
    let read = serde_json::to_value(&config).map_err(|error| refusal(origin, &error, "."))?;
    if let Some(field) = list_for_object(&written, &read, "") {
        return Err(ConfigError::Field {
            origin: origin.to_owned(),
            field: named(&field),
            problem: "invalid type: sequence, expected an object".to_owned(),
        });
    }
    Ok(Parsed { config, unknown })
}

/// Where `written` has a list and `read` an object: serde's derived code takes a list for a message,
/// its items for the fields in order, which nobody means.
fn list_for_object(written: &Value, read: &Value, at: &str) -> Option<String> {
    match (written, read) {
        (Value::Array(_), Value::Object(_)) => Some(at.to_owned()),
        (Value::Array(written), Value::Array(read)) => {
            let mut pairs = written.iter().zip(read).enumerate();
            pairs.find_map(|(i, (w, r))| list_for_object(w, r, &format!("{at}[{i}]")))
        }
        (Value::Object(written), Value::Object(read)) => written
            .iter()
            .find_map(|(key, w)| list_for_object(w, read.get(key)?, &joined(at, key))),
        _ => None,
    }
}

fn joined(above: &str, key: &str) -> String {
    if above.is_empty() {
        key.to_owned()
    } else {
        format!("{above}.{key}")
    }
}

/// A place in the config, the whole of it included.
fn named(field: &str) -> String {
    match field {
        "" | "." => "the document".to_owned(),
        inner => inner.to_owned(),
    }
}

fn refusal(origin: &str, error: &serde_json::Error, field: &str) -> ConfigError {
    let origin = origin.to_owned();
    // serde_json appends the place, which we give in our own words.
    let said = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    let problem = said.strip_suffix(&place).unwrap_or(&said).to_owned();
    match error.classify() {
        Category::Data => ConfigError::Field {
            origin,
            field: named(field),
            problem: format!("{problem} (line {})", error.line()),
        },
        Category::Io | Category::Syntax | Category::Eof => ConfigError::Syntax {
            origin,
            line: error.line(),
            column: error.column(),
            problem,
        },
    }
}

/// `linux.mounts[0].x`; serde's own form has a `?` for every optional message.
fn dotted(path: &serde_ignored::Path<'_>) -> String {
    use serde_ignored::Path;
    match path {
        Path::Root => String::new(),
        Path::Seq { parent, index } => format!("{}[{index}]", dotted(parent)),
        Path::Map { parent, key } => joined(&dotted(parent), key),
        Path::Some { parent }
        | Path::NewtypeStruct { parent }
        | Path::NewtypeVariant { parent } => dotted(parent),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use indoc::indoc;

    const METADATA: &str = r#""metadata": {"name": "n", "uid": "u", "namespace": "s"}"#;

    fn sandbox_error(json: &str) -> String {
        sandbox("f", json.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn a_pod_of_cri_o_s_users_is_read_and_the_unknown_keys_named() {
        let json = indoc! {r#"
            {
              "metadata": {"name": "n", "uid": "u", "namespace": "s", "attempt": 1},
              "dns_config": {"searches": ["8.8.8.8"]},
              "resources": {"cpu": {"limits": 3}},
              "port_mappings": [{"protocol": 1, "container_port": 53, "ports": []}],
              "labels": {"group": "test"},
              "linux": {
                "security_context": {"namespace_options": {"pid": 1, "host_network": false}},
                "sysctls": {"net.ipv4.ip_forward": "1"}
              }
            }
        "#};
        let parsed = sandbox("f", json.as_bytes()).unwrap();
        assert_eq!(parsed.config.metadata.unwrap().attempt, 1);
        let linux = parsed.config.linux.unwrap();
        let options = linux.security_context.unwrap().namespace_options.unwrap();
        assert_eq!(options.pid, 1);
        assert_eq!(
            parsed.unknown,
            [
                "resources",
                "port_mappings[0].ports",
                "linux.security_context.namespace_options.host_network"
            ]
        );
    }

    #[test]
    fn a_wrong_type_is_named_by_its_place() {
        let json = format!(
            "{{{METADATA},\n \"linux\": {{\"security_context\": {{\"privileged\": \"yes\"}}}}}}"
        );
        assert_eq!(
            sandbox_error(&json),
            "`f`: `linux.security_context.privileged`: invalid type: string \"yes\", expected a \
             boolean (line 2)"
        );
        let json = r#"{"metadata": {"name": "n"}, "envs": [{"key": "A"}, {"key": 7}]}"#;
        let error = container("f", json.as_bytes(), None).unwrap_err();
        assert!(matches!(error, ConfigError::Field { ref field, .. } if field == "envs[1].key"));
        for (json, field) in [
            ("[]", "the document"),
            ("7", "the document"),
            (r#"{"metadata": ["n", "u", "s"]}"#, "metadata"),
            (r#"{"port_mappings": [{}, []]}"#, "port_mappings[1]"),
            (r#"{"labels": []}"#, "labels"),
        ] {
            let error = sandbox_error(json);
            let start = format!("`f`: `{field}`: invalid type: ");
            assert!(error.starts_with(&start), "{json}: {error}");
        }
    }

    #[test]
    fn what_is_not_json_is_named_by_line_and_column() {
        for (json, line, column) in [
            ("metadata: x", 1, 1),
            ("{\n \"metadata\": }", 2, 14),
            ("", 1, 0),
            ("{} x", 1, 4),
            ("{\"labels\": {\"a\": \"b\"", 1, 20),
        ] {
            match sandbox("f", json.as_bytes()) {
                Err(ConfigError::Syntax {
                    line: l, column: c, ..
                }) => assert_eq!((l, c), (line, column), "{json:?}"),
                other => panic!("{json:?}: {other:?}"),
            }
        }
    }

    #[test]
    fn missing_metadata_is_refused_by_its_field() {
        for (json, field) in [
            (r#"{}"#, "metadata"),
            (r#"{"metadata": null}"#, "metadata"),
            (r#"{"metadata": {"uid": "u"}}"#, "metadata.name"),
            (r#"{"metadata": {"name": "n"}}"#, "metadata.uid"),
            (
                r#"{"metadata": {"name": "n", "uid": "u"}}"#,
                "metadata.namespace",
            ),
        ] {
            assert_eq!(sandbox_error(json), format!("`f`: `{field}` is missing"));
        }
    }

    #[test]
    fn the_image_comes_from_the_config_or_the_flag() {
        let with = br#"{"metadata": {"name": "n"}, "image": {"image": "redis"}}"#;
        let without = br#"{"metadata": {"name": "n"}}"#;
        let image = |bytes, flag| -> Result<String, ConfigError> {
            Ok(container("f", bytes, flag)?.config.image.unwrap().image)
        };
        assert_eq!(image(with, None).unwrap(), "redis");
        assert_eq!(image(with, Some("other")).unwrap(), "other");
        assert_eq!(image(without, Some("other")).unwrap(), "other");
        let error = image(without, None).unwrap_err();
        assert_eq!(error.to_string(), "`f`: `image.image` is missing");
        assert!(error.hint().unwrap().contains("--image"));
    }

    #[test]
    fn environment_values_are_text() {
        let json = br#"{"metadata": {"name": "n"}, "image": {"image": "i"},
                        "envs": [{"key": "A", "value": "b=c"}]}"#;
        let parsed = container("f", json, None).unwrap();
        assert_eq!(parsed.config.envs[0].value, b"b=c");
    }
}
