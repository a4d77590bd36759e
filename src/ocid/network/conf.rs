//! Network configurations: a list of plugins, or a single one taken as a list of one
//! (CNI specification, section 1).

use std::fmt;

use serde_json::{Map, Value, json};

use super::pod::PodNetwork;

/// A version of the specification that we speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct CniVersion(u8, u8, u8);

/// Oldest first.
const KNOWN: [CniVersion; 7] = [
    CniVersion(0, 1, 0),
    CniVersion(0, 2, 0),
    CniVersion(0, 3, 0),
    CniVersion(0, 3, 1),
    CniVersion(0, 4, 0),
    CniVersion(1, 0, 0),
    CniVersion(1, 1, 0),
];

impl CniVersion {
    fn parse(text: &str) -> Option<Self> {
        KNOWN.into_iter().find(|v| v.to_string() == text)
    }

    /// STATUS asks a plugin whether it is ready.
    pub(super) fn has_status(self) -> bool {
        self >= Self(1, 1, 0)
    }

    /// DEL is given the result of ADD.
    pub(super) fn del_has_result(self) -> bool {
        self >= Self(0, 4, 0)
    }
}

impl fmt::Display for CniVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// A network's configuration, checked: there are plugins, each with a type that names a file.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct NetworkConf {
    pub(super) name: String,
    pub(super) version: CniVersion,
    plugins: Vec<Plugin>,
}

#[derive(Debug, Clone, PartialEq)]
struct Plugin {
    kind: String,
    /// The plugin's object as it stands in the file.
    object: Map<String, Value>,
}

impl Plugin {
    fn ipam_type(&self) -> Option<&str> {
        let kind = self.object.get("ipam")?.get("type")?.as_str()?;
        (!kind.is_empty()).then_some(kind)
    }
}

/// What a file is about.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Loaded {
    Network(NetworkConf),
    /// Nothing but `lo`, which needs no name even: old node set-ups have such files.
    Loopback,
}

/// Parses a file. The error says what is wrong with it, without its name.
pub(super) fn parse(bytes: &[u8]) -> Result<Loaded, String> {
    let value = serde_json::from_slice(bytes).map_err(|e| format!("is not JSON: {e}"))?;
    from_json(value)
}

/// As [`parse`], from JSON that was parsed before. Whether it is a list is told by its content: the
/// file's extension is often wrong.
pub(super) fn from_json(value: Value) -> Result<Loaded, String> {
    let Value::Object(mut list) = value else {
        return Err("is not a JSON object".to_owned());
    };
    let objects = match list.remove("plugins") {
        Some(Value::Array(plugins)) => plugins,
        Some(_) => return Err("has `plugins` that are not a list".to_owned()),
        None if list.contains_key("type") => vec![Value::Object(list.clone())],
        None => return Err("has neither `plugins` nor `type`".to_owned()),
    };
    let plugins: Vec<Plugin> = objects.into_iter().map(plugin).collect::<Result<_, _>>()?;
    if plugins.is_empty() {
        return Err("has an empty list of plugins".to_owned());
    }
    if plugins.iter().all(|p| p.kind == "loopback") {
        return Ok(Loaded::Loopback);
    }
    let name = match list.get("name") {
        Some(Value::String(name)) if is_name(name) => name.clone(),
        Some(Value::String(name)) => return Err(format!("has the name `{name}`, {NAME_RULE}")),
        Some(_) => return Err("has a name that is not a string".to_owned()),
        None => return Err("has no name".to_owned()),
    };
    Ok(Loaded::Network(NetworkConf {
        name,
        version: version(&list)?,
        plugins,
    }))
}

const NAME_RULE: &str =
    "but a name begins with a letter or digit and goes on with letters, digits, `.`, `_`, `-`";

/// The rule for network names and container ids (specification, sections 1 and 2).
pub(super) fn is_name(name: &str) -> bool {
    let tail = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.chars().all(tail)
}

fn plugin(value: Value) -> Result<Plugin, String> {
    let Value::Object(object) = value else {
        return Err("has a plugin that is not a JSON object".to_owned());
    };
    let kind = match object.get("type") {
        Some(Value::String(kind)) => kind.clone(),
        _ => return Err("has a plugin without a `type`".to_owned()),
    };
    if !is_file_name(&kind) {
        return Err(format!("has a plugin type `{kind}` that is no file name"));
    }
    Ok(Plugin { kind, object })
}

fn is_file_name(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && !name.contains(['/', '\0'])
}

/// The highest of `cniVersion` and `cniVersions` that we speak; 0.1.0 where nothing is said, as the
/// plugins take it.
fn version(list: &Map<String, Value>) -> Result<CniVersion, String> {
    let mut named = Vec::new();
    match list.get("cniVersion") {
        None => {}
        Some(Value::String(text)) if text.is_empty() => {}
        Some(Value::String(text)) => named.push(text.as_str()),
        Some(_) => return Err("has a `cniVersion` that is not a string".to_owned()),
    }
    match list.get("cniVersions") {
        None => {}
        Some(Value::Array(more)) => named.extend(more.iter().filter_map(Value::as_str)),
        Some(_) => return Err("has `cniVersions` that are not a list".to_owned()),
    }
    if named.is_empty() {
        return Ok(CniVersion(0, 1, 0));
    }
    let known = named.iter().filter_map(|text| CniVersion::parse(text));
    known.max().ok_or_else(|| {
        format!(
            "is of CNI version `{}`, which is unknown",
            named.join("`, `")
        )
    })
}

impl NetworkConf {
    /// The plugins' types, in the order of ADD.
    pub(super) fn plugin_types(&self) -> impl Iterator<Item = &str> {
        self.plugins.iter().map(|p| p.kind.as_str())
    }

    /// Empty for an index that is none.
    pub(super) fn plugin_type(&self, index: usize) -> &str {
        self.plugins.get(index).map_or("", |p| p.kind.as_str())
    }

    /// The plugins that others of the list call: address management.
    pub(super) fn delegate_types(&self) -> impl Iterator<Item = &str> {
        self.plugins.iter().filter_map(Plugin::ipam_type)
    }

    /// For each plugin whose addresses are host-local's: the folder of the leases, if it is named.
    pub(super) fn host_local(&self) -> impl Iterator<Item = Option<&str>> {
        let of_it = self
            .plugins
            .iter()
            .filter(|p| p.ipam_type() == Some("host-local"));
        of_it.map(|p| {
            let dir = p.object.get("ipam")?.get("dataDir")?.as_str()?;
            (!dir.is_empty()).then_some(dir)
        })
    }

    /// The list as JSON, from which [`from_json`] makes the same again.
    pub(super) fn to_json(&self) -> Value {
        let plugins: Vec<&Map<String, Value>> = self.plugins.iter().map(|p| &p.object).collect();
        json!({ "name": self.name, "cniVersion": self.version.to_string(), "plugins": plugins })
    }

    /// What one plugin reads on its standard input (specification, section 4, "Deriving execution
    /// configuration"): its object with the list's name and version, the result so far, and the
    /// capabilities that it asks for and the pod has.
    pub(super) fn plugin_input(
        &self,
        index: usize,
        previous: Option<&Value>,
        pod: Option<&PodNetwork>,
    ) -> Vec<u8> {
        let Some(plugin) = self.plugins.get(index) else {
            return Vec::new();
        };
        let mut object = plugin.object.clone();
        object.insert("name".to_owned(), json!(self.name));
        object.insert("cniVersion".to_owned(), json!(self.version.to_string()));
        if let Some(previous) = previous {
            object.insert("prevResult".to_owned(), previous.clone());
        }
        if let Some(Value::Object(asked)) = object.remove("capabilities") {
            let mut given = pod.map(PodNetwork::capabilities).unwrap_or_default();
            given.retain(|name, _| asked.get(name) == Some(&Value::Bool(true)));
            if !given.is_empty() {
                object.insert("runtimeConfig".to_owned(), Value::Object(given));
            }
        }
        Value::Object(object).to_string().into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ocid::sandbox::config::{PortMapping, Protocol};

    fn network(text: &str) -> NetworkConf {
        match parse(text.as_bytes()).unwrap() {
            Loaded::Network(conf) => conf,
            Loaded::Loopback => panic!("a loopback: {text}"),
        }
    }

    #[test]
    fn lists_and_single_configurations_are_networks() {
        let list =
            network(r#"{"name":"a","cniVersion":"1.0.0","plugins":[{"type":"b"},{"type":"c"}]}"#);
        assert_eq!(list.plugin_types().collect::<Vec<_>>(), ["b", "c"]);
        let single = network(r#"{"name":"a","type":"b","ipam":{"type":"host-local"}}"#);
        assert_eq!(single.version, CniVersion(0, 1, 0));
        assert_eq!(single.plugin_types().collect::<Vec<_>>(), ["b"]);
        assert_eq!(single.delegate_types().collect::<Vec<_>>(), ["host-local"]);
        let again = from_json(single.to_json()).unwrap();
        assert_eq!(again, Loaded::Network(single));
    }

    #[test]
    fn a_loopback_needs_no_name() {
        for text in [
            r#"{"type":"loopback"}"#,
            r#"{"cniVersion":"0.3.1","name":"lo","plugins":[{"type":"loopback"}]}"#,
        ] {
            assert_eq!(parse(text.as_bytes()), Ok(Loaded::Loopback));
        }
    }

    #[test]
    fn the_highest_common_version_is_used() {
        let of = |fields: &str| {
            let text = format!(r#"{{"name":"a","type":"b"{fields}}}"#);
            match parse(text.as_bytes())? {
                Loaded::Network(conf) => Ok(conf.version.to_string()),
                Loaded::Loopback => Err("loopback".to_owned()),
            }
        };
        assert_eq!(of(r#","cniVersion":"0.3.1""#).unwrap(), "0.3.1");
        let many = r#","cniVersion":"0.4.0","cniVersions":["1.0.0","1.1.0","9.0.0"]"#;
        assert_eq!(of(many).unwrap(), "1.1.0");
        let e = of(r#","cniVersion":"2.0.0""#).unwrap_err();
        assert!(e.contains("`2.0.0`"), "{e}");
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, word) in [
            ("", "JSON"),
            ("[]", "object"),
            ("{}", "neither"),
            (r#"{"name":"a","plugins":{}}"#, "not a list"),
            (r#"{"name":"a","plugins":[]}"#, "empty"),
            (r#"{"name":"a","plugins":[1]}"#, "plugin"),
            (r#"{"name":"a","plugins":[{"type":7}]}"#, "without a `type`"),
            (r#"{"name":"a","plugins":[{"type":"../sh"}]}"#, "../sh"),
            (r#"{"plugins":[{"type":"bridge"}]}"#, "no name"),
            (r#"{"name":"a b","type":"bridge"}"#, "a b"),
            (r#"{"name":7,"type":"bridge"}"#, "not a string"),
            (r#"{"name":"a","type":"b","cniVersion":1}"#, "cniVersion"),
        ] {
            let e = parse(text.as_bytes()).unwrap_err();
            assert!(e.contains(word), "{text}: {e}");
        }
    }

    #[test]
    fn a_plugin_is_given_what_it_asks_for_and_no_more() {
        let conf = network(
            r#"{"name":"n","cniVersion":"1.0.0","plugins":[
                {"type":"bridge","mtu":1400},
                {"type":"portmap","capabilities":{"portMappings":true,"dns":false,"odd":true}}]}"#,
        );
        let mut pod = PodNetwork::default();
        let input = |index, previous: Option<&Value>, pod: &PodNetwork| -> Value {
            serde_json::from_slice(&conf.plugin_input(index, previous, Some(pod))).unwrap()
        };
        assert_eq!(
            input(0, None, &pod),
            json!({"type":"bridge","mtu":1400,"name":"n","cniVersion":"1.0.0"})
        );
        let previous = json!({"ips":[]});
        assert_eq!(
            input(1, Some(&previous), &pod),
            json!({"type":"portmap","name":"n","cniVersion":"1.0.0","prevResult":{"ips":[]}})
        );
        pod.port_mappings.push(PortMapping {
            protocol: Protocol::Udp,
            container_port: 53,
            host_port: 5353,
            host_ip: None,
        });
        pod.dns = Some(Default::default());
        assert_eq!(
            input(1, None, &pod)["runtimeConfig"],
            json!({"portMappings":[{"hostPort":5353,"containerPort":53,"protocol":"udp"}]})
        );
    }
}
