//! A pod as the CRI asks for it, parsed: every value checked once, here.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::sysctl;
use crate::cri::v1;
use crate::host::namespace::{IdMap, IdMaps};
use crate::ocid::container::resources::Resources;
use crate::ocid::container::security::{IdMapping, Profile, Selinux};
use crate::ocid::field::{FieldError, absolute, id, plain, unknown_enum};

/// Linux' HOST_NAME_MAX.
const LONGEST_HOSTNAME: usize = 64;

/// Everything of `PodSandboxConfig` that Linux knows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SandboxConfig {
    pub metadata: Metadata,
    /// Empty: see [`SandboxConfig::hostname_or`].
    pub hostname: String,
    pub log_directory: Option<PathBuf>,
    pub dns: Dns,
    /// Only those that ask for a host port.
    pub port_mappings: Vec<PortMapping>,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    /// A cgroup path or a slice, unchecked: it depends on the cgroup driver. Empty: the default.
    pub cgroup_parent: String,
    /// Of this pod's own namespaces only; see [`sysctl::effective`].
    pub sysctls: BTreeMap<String, String>,
    pub namespaces: NamespaceOptions,
    pub security: SandboxSecurity,
    pub overhead: Option<Resources>,
    pub resources: Option<Resources>,
}

/// Who the pod is. None of the texts holds a control character, a blank, `/`, `;` or `=`: they go
/// into file names and into `CNI_ARGS`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    pub name: String,
    pub uid: String,
    pub namespace: String,
    pub attempt: u32,
}

/// What goes into resolv.conf; all empty: the machine's own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Dns {
    pub servers: Vec<String>,
    pub searches: Vec<String>,
    pub options: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    /// As CNI's portmap plugin spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

/// A port of the machine that leads to the pod. Neither port is 0.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortMapping {
    pub protocol: Protocol,
    pub container_port: u16,
    pub host_port: u16,
    pub host_ip: Option<IpAddr>,
}

/// Whose namespace is used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NamespaceMode {
    /// The pod's.
    #[default]
    Pod,
    /// The container's own.
    Container,
    /// The machine's.
    Node,
    /// That of the container `target_id`.
    Target,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NamespaceOptions {
    pub network: NamespaceMode,
    pub pid: NamespaceMode,
    pub ipc: NamespaceMode,
    /// Not empty where a mode is `Target`.
    pub target_id: String,
    /// None: the machine's user namespace.
    pub userns: Option<UserNamespace>,
}

/// One range for users and one for groups, as the CRI's validation has it, each from id 0 on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserNamespace {
    pub uids: Vec<IdMapping>,
    pub gids: Vec<IdMapping>,
}

/// The security settings of the pod itself; a container states its own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SandboxSecurity {
    /// Only in a privileged pod may containers be privileged.
    pub privileged: bool,
    pub readonly_rootfs: bool,
    pub run_as_user: Option<u32>,
    pub run_as_group: Option<u32>,
    pub supplemental_groups: Vec<u32>,
    pub selinux: Option<Selinux>,
    pub seccomp: Profile,
    pub apparmor: Profile,
}

impl SandboxConfig {
    /// The pod's host name: the one it asks for; with the machine's network the machine's; else the
    /// first twelve digits of its id.
    pub fn hostname_or(&self, sandbox_id: &str, machine: &str) -> String {
        if !self.hostname.is_empty() {
            self.hostname.clone()
        } else if self.namespaces.network == NamespaceMode::Node {
            machine.to_owned()
        } else {
            sandbox_id.chars().take(12).collect()
        }
    }
}

impl TryFrom<v1::PodSandboxConfig> for SandboxConfig {
    type Error = FieldError;

    fn try_from(from: v1::PodSandboxConfig) -> Result<Self, FieldError> {
        let metadata = from
            .metadata
            .ok_or_else(|| FieldError::required("config.metadata"))?
            .try_into()?;
        hostname("config.hostname", &from.hostname)?;
        let log_directory = match from.log_directory.as_str() {
            "" => None,
            path => Some(absolute("config.log_directory", path)?),
        };
        let linux = from.linux.unwrap_or_default();
        let context = linux.security_context.unwrap_or_default();
        let at = "config.linux.security_context";
        let namespaces = NamespaceOptions::parse(
            &format!("{at}.namespace_options"),
            context.namespace_options.clone().unwrap_or_default(),
        )?;
        for (name, mode) in [
            ("network", namespaces.network),
            ("pid", namespaces.pid),
            ("ipc", namespaces.ipc),
        ] {
            if mode == NamespaceMode::Target {
                let field = format!("{at}.namespace_options.{name}");
                return Err(FieldError::new(
                    field,
                    "is TARGET, which only a container can have",
                ));
            }
        }
        plain("config.linux.cgroup_parent", &linux.cgroup_parent)?;
        let resources = |name: &str, r: Option<v1::LinuxContainerResources>| {
            r.map(|r| Resources::parse(&format!("config.linux.{name}"), r))
                .transpose()
        };
        Ok(Self {
            metadata,
            hostname: from.hostname,
            log_directory,
            dns: from.dns_config.unwrap_or_default().try_into()?,
            port_mappings: port_mappings(from.port_mappings)?,
            labels: from.labels.into_iter().collect(),
            annotations: from.annotations.into_iter().collect(),
            cgroup_parent: linux.cgroup_parent,
            sysctls: sysctl::parse("config.linux.sysctls", linux.sysctls, &namespaces)?,
            security: SandboxSecurity::parse(at, context)?,
            namespaces,
            overhead: resources("overhead", linux.overhead)?,
            resources: resources("resources", linux.resources)?,
        })
    }
}

impl TryFrom<v1::PodSandboxMetadata> for Metadata {
    type Error = FieldError;

    fn try_from(from: v1::PodSandboxMetadata) -> Result<Self, FieldError> {
        name("config.metadata.name", &from.name)?;
        name("config.metadata.uid", &from.uid)?;
        name("config.metadata.namespace", &from.namespace)?;
        Ok(Self {
            name: from.name,
            uid: from.uid,
            namespace: from.namespace,
            attempt: from.attempt,
        })
    }
}

/// A name that is safe in a file name and in `CNI_ARGS`.
pub(crate) fn name(field: &str, text: &str) -> Result<(), FieldError> {
    if text.is_empty() {
        return Err(FieldError::required(field));
    }
    let bad = |c: char| c.is_control() || c.is_whitespace() || matches!(c, '/' | ';' | '=');
    if let Some(c) = text.chars().find(|c| bad(*c)) {
        return Err(FieldError::new(field, format!("holds the character {c:?}")));
    }
    if text == "." || text == ".." || text.len() > 512 {
        return Err(FieldError::new(field, "is not a usable name"));
    }
    Ok(())
}

fn hostname(field: &str, text: &str) -> Result<(), FieldError> {
    let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    if !text.chars().all(valid) || text.len() > LONGEST_HOSTNAME {
        let problem =
            format!("is no host name of at most {LONGEST_HOSTNAME} letters, digits, `-` and `.`");
        return Err(FieldError::new(field, problem));
    }
    Ok(())
}

impl TryFrom<v1::DnsConfig> for Dns {
    type Error = FieldError;

    fn try_from(from: v1::DnsConfig) -> Result<Self, FieldError> {
        let check = |name: &str, list: &[String]| {
            for (i, word) in list.iter().enumerate() {
                if word.is_empty() || word.chars().any(|c| c.is_control() || c == ' ') {
                    let field = format!("config.dns_config.{name}[{i}]");
                    let problem = format!("is `{}`, not one word", word.escape_debug());
                    return Err(FieldError::new(field, problem));
                }
            }
            Ok(())
        };
        check("servers", &from.servers)?;
        check("searches", &from.searches)?;
        check("options", &from.options)?;
        Ok(Self {
            servers: from.servers,
            searches: from.searches,
            options: from.options,
        })
    }
}

fn port_mappings(list: Vec<v1::PortMapping>) -> Result<Vec<PortMapping>, FieldError> {
    let mut mappings = Vec::new();
    for (i, from) in list.into_iter().enumerate() {
        let at = |name: &str| format!("config.port_mappings[{i}].{name}");
        let port = |name: &str, port: i32| {
            let problem = || FieldError::new(at(name), format!("is {port}, not a port"));
            u16::try_from(port).map_err(|_| problem())
        };
        let protocol = match v1::Protocol::try_from(from.protocol) {
            Ok(v1::Protocol::Tcp) => Protocol::Tcp,
            Ok(v1::Protocol::Udp) => Protocol::Udp,
            Ok(v1::Protocol::Sctp) => Protocol::Sctp,
            Err(e) => return Err(unknown_enum(&at("protocol"), e.0)),
        };
        let host_ip = match from.host_ip.as_str() {
            "" => None,
            ip => Some(ip.parse().map_err(|_| {
                FieldError::new(at("host_ip"), format!("is `{ip}`, not an IP address"))
            })?),
        };
        let host_port = port("host_port", from.host_port)?;
        let container_port = port("container_port", from.container_port)?;
        if host_port == 0 {
            // kubelet lists every container port; this one asks for nothing of the machine.
            continue;
        }
        if container_port == 0 {
            return Err(FieldError::required(at("container_port")));
        }
        mappings.push(PortMapping {
            protocol,
            container_port,
            host_port,
            host_ip,
        });
    }
    Ok(mappings)
}

impl NamespaceOptions {
    pub(crate) fn parse(field: &str, from: v1::NamespaceOption) -> Result<Self, FieldError> {
        let mode = |name: &str, value: i32| match v1::NamespaceMode::try_from(value) {
            Ok(v1::NamespaceMode::Pod) => Ok(NamespaceMode::Pod),
            Ok(v1::NamespaceMode::Container) => Ok(NamespaceMode::Container),
            Ok(v1::NamespaceMode::Node) => Ok(NamespaceMode::Node),
            Ok(v1::NamespaceMode::Target) => Ok(NamespaceMode::Target),
            Err(e) => Err(unknown_enum(&format!("{field}.{name}"), e.0)),
        };
        let userns = match from.userns_options {
            None => None,
            Some(asked) => match mode("userns_options.mode", asked.mode)? {
                NamespaceMode::Node => None,
                NamespaceMode::Pod => Some(UserNamespace::parse(
                    &format!("{field}.userns_options"),
                    &asked,
                )?),
                NamespaceMode::Container | NamespaceMode::Target => {
                    let field = format!("{field}.userns_options.mode");
                    return Err(FieldError::new(field, "is neither POD nor NODE"));
                }
            },
        };
        let options = Self {
            network: mode("network", from.network)?,
            pid: mode("pid", from.pid)?,
            ipc: mode("ipc", from.ipc)?,
            target_id: from.target_id,
            userns,
        };
        let targets = [options.network, options.pid, options.ipc].contains(&NamespaceMode::Target);
        if targets && options.target_id.is_empty() {
            return Err(FieldError::required(format!("{field}.target_id")));
        }
        if options.userns.is_some() {
            options.refuse_machines(field)?;
        }
        Ok(options)
    }

    /// A user namespace has no power over namespaces of the machine: proc and sysfs of them could not
    /// be mounted, and Kubernetes forbids the pair.
    pub(crate) fn refuse_machines(&self, field: &str) -> Result<(), FieldError> {
        for (name, mode) in [
            ("network", self.network),
            ("pid", self.pid),
            ("ipc", self.ipc),
        ] {
            if mode == NamespaceMode::Node {
                let problem = "is NODE, which cannot be had together with a user namespace";
                return Err(FieldError::new(format!("{field}.{name}"), problem));
            }
        }
        Ok(())
    }
}

impl UserNamespace {
    fn parse(field: &str, asked: &v1::UserNamespace) -> Result<Self, FieldError> {
        let ids = |name: &str, list: &[v1::IdMapping]| {
            let field = format!("{field}.{name}");
            let mappings = IdMapping::parse(&field, list)?;
            match mappings.as_slice() {
                [mapping] if mapping.container_id == 0 => Ok(mappings),
                [_] => Err(FieldError::new(field, "does not map the container's id 0")),
                other => {
                    let problem = format!("has {} mappings; exactly one is needed", other.len());
                    Err(FieldError::new(field, problem))
                }
            }
        };
        Ok(Self {
            uids: ids("uids", &asked.uids)?,
            gids: ids("gids", &asked.gids)?,
        })
    }

    /// As the kernel takes them.
    pub fn maps(&self) -> IdMaps {
        let maps = |list: &[IdMapping]| list.iter().copied().map(IdMap::from).collect();
        IdMaps {
            uids: maps(&self.uids),
            gids: maps(&self.gids),
        }
    }
}

impl From<IdMapping> for IdMap {
    fn from(m: IdMapping) -> Self {
        Self {
            inside: m.container_id,
            outside: m.host_id,
            length: m.length,
        }
    }
}

impl SandboxSecurity {
    fn parse(at: &str, from: v1::LinuxSandboxSecurityContext) -> Result<Self, FieldError> {
        let optional = |name: &str, value: Option<v1::Int64Value>| {
            value
                .map(|v| id(&format!("{at}.{name}"), v.value))
                .transpose()
        };
        let groups = from.supplemental_groups.iter().enumerate();
        let groups = groups.map(|(i, group)| id(&format!("{at}.supplemental_groups[{i}]"), *group));
        Ok(Self {
            privileged: from.privileged,
            readonly_rootfs: from.readonly_rootfs,
            run_as_user: optional("run_as_user", from.run_as_user)?,
            run_as_group: optional("run_as_group", from.run_as_group)?,
            supplemental_groups: groups.collect::<Result<_, _>>()?,
            selinux: Selinux::parse(&format!("{at}.selinux_options"), from.selinux_options)?,
            #[allow(deprecated)]
            seccomp: Profile::seccomp(at, from.seccomp, &from.seccomp_profile_path)?,
            apparmor: Profile::apparmor(at, from.apparmor, "")?,
        })
    }
}

impl From<&Metadata> for v1::PodSandboxMetadata {
    fn from(m: &Metadata) -> Self {
        Self {
            name: m.name.clone(),
            uid: m.uid.clone(),
            namespace: m.namespace.clone(),
            attempt: m.attempt,
        }
    }
}

impl From<NamespaceMode> for v1::NamespaceMode {
    fn from(mode: NamespaceMode) -> Self {
        match mode {
            NamespaceMode::Pod => Self::Pod,
            NamespaceMode::Container => Self::Container,
            NamespaceMode::Node => Self::Node,
            NamespaceMode::Target => Self::Target,
        }
    }
}

impl From<&NamespaceOptions> for v1::NamespaceOption {
    fn from(o: &NamespaceOptions) -> Self {
        let mode = |m: NamespaceMode| v1::NamespaceMode::from(m).into();
        Self {
            network: mode(o.network),
            pid: mode(o.pid),
            ipc: mode(o.ipc),
            target_id: o.target_id.clone(),
            userns_options: o.userns.as_ref().map(|u| v1::UserNamespace {
                mode: v1::NamespaceMode::Pod.into(),
                uids: u.uids.iter().copied().map(Into::into).collect(),
                gids: u.gids.iter().copied().map(Into::into).collect(),
            }),
        }
    }
}

#[cfg(test)]
mod tests;
