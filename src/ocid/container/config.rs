//! A container as the CRI asks for it, parsed: every value checked once, here.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::resources::Resources;
use super::security::{CapabilityChanges, IdMapping, Profile, Selinux, paths};
use super::signal::Signal;
use crate::cri::v1;
use crate::ocid::field::{FieldError, absolute, id, no_nul, plain, unknown_enum, without_parent};
use crate::ocid::sandbox::config::{NamespaceMode, NamespaceOptions, name};

/// Everything of `ContainerConfig` that Linux knows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerConfig {
    pub metadata: Metadata,
    pub image: ImageSpec,
    /// Replaces the image's entrypoint.
    pub command: Vec<String>,
    /// Replaces the image's command.
    pub args: Vec<String>,
    /// Empty: the image's.
    pub working_dir: String,
    pub envs: Vec<(String, String)>,
    pub mounts: Vec<Mount>,
    pub devices: Vec<Device>,
    pub cdi_devices: Vec<String>,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    /// Below the pod's log folder, without `..`.
    pub log_path: Option<PathBuf>,
    pub stdin: bool,
    pub stdin_once: bool,
    pub tty: bool,
    pub resources: Resources,
    pub security: ContainerSecurity,
    /// None: the image's.
    pub stop_signal: Option<Signal>,
}

/// Which of the pod's containers, and its how-manieth life.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    pub name: String,
    pub attempt: u32,
}

/// The image as the client names it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageSpec {
    pub image: String,
    pub user_specified_image: String,
    pub runtime_handler: String,
    pub annotations: BTreeMap<String, String>,
}

/// How mounts made after the start spread between machine and container.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Propagation {
    #[default]
    Private,
    HostToContainer,
    Bidirectional,
}

/// A path of the machine, or an image, inside the container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Mount {
    /// Absolute, never `/`.
    pub container_path: PathBuf,
    /// Absolute; empty where an image is mounted.
    pub host_path: PathBuf,
    pub readonly: bool,
    /// Mounts below the source are read-only too; implies `readonly` and private propagation.
    pub recursive_read_only: bool,
    pub selinux_relabel: bool,
    pub propagation: Propagation,
    pub uid_mappings: Vec<IdMapping>,
    pub gid_mappings: Vec<IdMapping>,
    pub image: Option<ImageSpec>,
    /// Within the image, relative, without `..`.
    pub image_sub_path: PathBuf,
}

/// A device node of the machine, or a folder of them, inside the container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    pub container_path: PathBuf,
    pub host_path: PathBuf,
    /// Of the letters `r`, `w` and `m` (mknod); never empty.
    pub permissions: String,
}

/// How supplemental groups of the config and of the image come together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GroupsPolicy {
    /// Those of the image's group file count too.
    #[default]
    Merge,
    /// Only those of the config.
    Strict,
}

/// What the container may do, and as whom.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerSecurity {
    pub capabilities: CapabilityChanges,
    pub privileged: bool,
    /// None: as the pod's.
    pub namespaces: Option<NamespaceOptions>,
    pub selinux: Option<Selinux>,
    pub run_as_user: Option<u32>,
    /// Only with one of the two users.
    pub run_as_group: Option<u32>,
    /// Wins over `run_as_user`. Empty: not set.
    pub run_as_username: String,
    pub readonly_rootfs: bool,
    pub supplemental_groups: Vec<u32>,
    pub supplemental_groups_policy: GroupsPolicy,
    pub no_new_privs: bool,
    pub masked_paths: Vec<PathBuf>,
    pub readonly_paths: Vec<PathBuf>,
    pub seccomp: Profile,
    pub apparmor: Profile,
}

impl TryFrom<v1::ContainerConfig> for ContainerConfig {
    type Error = FieldError;

    fn try_from(from: v1::ContainerConfig) -> Result<Self, FieldError> {
        let metadata = from
            .metadata
            .ok_or_else(|| FieldError::required("config.metadata"))?;
        name("config.metadata.name", &metadata.name)?;
        let image = from.image.unwrap_or_default();
        if image.image.is_empty() {
            return Err(FieldError::required("config.image.image"));
        }
        for (field, words) in [("command", &from.command), ("args", &from.args)] {
            for (i, word) in words.iter().enumerate() {
                no_nul(&format!("config.{field}[{i}]"), word)?;
            }
        }
        no_nul("config.working_dir", &from.working_dir)?;
        let linux = from.linux.unwrap_or_default();
        let mounts = from.mounts.into_iter().enumerate();
        let devices = from.devices.into_iter().enumerate();
        let stop_signal = Signal::from_cri(from.stop_signal)
            .map_err(|n| unknown_enum("config.stop_signal", n))?;
        Ok(Self {
            metadata: Metadata {
                name: metadata.name,
                attempt: metadata.attempt,
            },
            image: image.into(),
            command: from.command,
            args: from.args,
            working_dir: from.working_dir,
            envs: envs(from.envs)?,
            mounts: mounts
                .map(|(i, m)| Mount::parse(&format!("config.mounts[{i}]"), m))
                .collect::<Result<_, _>>()?,
            devices: devices
                .map(|(i, d)| Device::parse(&format!("config.devices[{i}]"), d))
                .collect::<Result<_, _>>()?,
            cdi_devices: from.cdi_devices.into_iter().map(|d| d.name).collect(),
            labels: from.labels.into_iter().collect(),
            annotations: from.annotations.into_iter().collect(),
            log_path: log_path(&from.log_path)?,
            stdin: from.stdin,
            stdin_once: from.stdin_once,
            tty: from.tty,
            resources: Resources::parse(
                "config.linux.resources",
                linux.resources.unwrap_or_default(),
            )?,
            security: ContainerSecurity::parse(
                "config.linux.security_context",
                linux.security_context.unwrap_or_default(),
            )?,
            stop_signal,
        })
    }
}

fn envs(list: Vec<v1::KeyValue>) -> Result<Vec<(String, String)>, FieldError> {
    let one = |(i, env): (usize, v1::KeyValue)| {
        let at = |name: &str| format!("config.envs[{i}].{name}");
        if env.key.is_empty() {
            return Err(FieldError::required(at("key")));
        }
        if env.key.contains('=') {
            let problem = format!("is `{}`, with a `=` in it", env.key);
            return Err(FieldError::new(at("key"), problem));
        }
        no_nul(&at("key"), &env.key)?;
        // A runtime specification is JSON and cannot carry other bytes.
        let value = String::from_utf8(env.value)
            .map_err(|_| FieldError::new(at("value"), "is not UTF-8"))?;
        no_nul(&at("value"), &value)?;
        Ok((env.key, value))
    };
    list.into_iter().enumerate().map(one).collect()
}

/// A log path may not leave the pod's log folder.
fn log_path(text: &str) -> Result<Option<PathBuf>, FieldError> {
    if text.is_empty() {
        return Ok(None);
    }
    plain("config.log_path", text)?;
    let path = without_parent("config.log_path", Path::new(text))?;
    if path.is_absolute() {
        let problem = format!("is `{text}`; it is relative to the pod's `log_directory`");
        return Err(FieldError::new("config.log_path", problem));
    }
    Ok(Some(path))
}

impl Mount {
    fn parse(field: &str, from: v1::Mount) -> Result<Self, FieldError> {
        let at = |name: &str| format!("{field}.{name}");
        let container_path = absolute(&at("container_path"), &from.container_path)?;
        if container_path == Path::new("/") {
            return Err(FieldError::new(
                at("container_path"),
                "is `/`, the container's own root",
            ));
        }
        let image = from
            .image
            .filter(|i| !i.image.is_empty())
            .map(ImageSpec::from);
        let host_path = match (&image, from.host_path.as_str()) {
            (None, path) => absolute(&at("host_path"), path)?,
            (Some(_), "") => PathBuf::new(),
            (Some(_), _) => {
                return Err(FieldError::new(
                    at("host_path"),
                    "stands beside `image`; only one of them can be mounted",
                ));
            }
        };
        let propagation = match v1::MountPropagation::try_from(from.propagation) {
            Ok(v1::MountPropagation::PropagationPrivate) => Propagation::Private,
            Ok(v1::MountPropagation::PropagationHostToContainer) => Propagation::HostToContainer,
            Ok(v1::MountPropagation::PropagationBidirectional) => Propagation::Bidirectional,
            Err(e) => return Err(unknown_enum(&at("propagation"), e.0)),
        };
        if from.recursive_read_only {
            if !from.readonly {
                return Err(FieldError::new(
                    at("recursive_read_only"),
                    "needs `readonly` too",
                ));
            }
            if propagation != Propagation::Private {
                return Err(FieldError::new(
                    at("recursive_read_only"),
                    "needs private propagation",
                ));
            }
        }
        let sub_path = without_parent(&at("image_sub_path"), Path::new(&from.image_sub_path))?;
        Ok(Self {
            container_path,
            host_path,
            readonly: from.readonly,
            recursive_read_only: from.recursive_read_only,
            selinux_relabel: from.selinux_relabel,
            propagation,
            uid_mappings: IdMapping::parse(&at("uidMappings"), &from.uid_mappings)?,
            gid_mappings: IdMapping::parse(&at("gidMappings"), &from.gid_mappings)?,
            image,
            image_sub_path: sub_path.strip_prefix("/").unwrap_or(&sub_path).to_owned(),
        })
    }
}

impl Device {
    /// Reads `HOST[:CONTAINER[:PERMISSIONS]]`.
    pub(crate) fn parse_line(field: &str, text: &str) -> Result<Self, FieldError> {
        let mut parts = text.splitn(3, ':').map(str::to_owned);
        let device = v1::Device {
            host_path: parts.next().unwrap_or_default(),
            container_path: parts.next().unwrap_or_default(),
            permissions: parts.next().unwrap_or_default(),
        };
        Self::parse(field, device)
            .map_err(|e| FieldError::new(field, format!("holds `{text}`: {}", e.problem)))
    }

    fn parse(field: &str, from: v1::Device) -> Result<Self, FieldError> {
        let host_path = absolute(&format!("{field}.host_path"), &from.host_path)?;
        let container_path = match from.container_path.as_str() {
            "" => host_path.clone(),
            path => absolute(&format!("{field}.container_path"), path)?,
        };
        let permissions = match from.permissions.as_str() {
            "" => "rwm".to_owned(),
            letters if letters.chars().all(|c| matches!(c, 'r' | 'w' | 'm')) => letters.to_owned(),
            other => {
                let problem = format!("is `{other}`, not of the letters `r`, `w` and `m`");
                return Err(FieldError::new(format!("{field}.permissions"), problem));
            }
        };
        Ok(Self {
            container_path,
            host_path,
            permissions,
        })
    }
}

impl ContainerSecurity {
    fn parse(at: &str, from: v1::LinuxContainerSecurityContext) -> Result<Self, FieldError> {
        let optional = |name: &str, value: Option<v1::Int64Value>| {
            value
                .map(|v| id(&format!("{at}.{name}"), v.value))
                .transpose()
        };
        let run_as_user = optional("run_as_user", from.run_as_user)?;
        let run_as_group = optional("run_as_group", from.run_as_group)?;
        let username = format!("{at}.run_as_username");
        plain(&username, &from.run_as_username)?;
        if from.run_as_username.contains(':') {
            return Err(FieldError::new(username, "holds a `:`"));
        }
        if run_as_group.is_some() && run_as_user.is_none() && from.run_as_username.is_empty() {
            return Err(FieldError::new(
                format!("{at}.run_as_group"),
                "needs `run_as_user` or `run_as_username`",
            ));
        }
        let policy = from.supplemental_groups_policy;
        let policy = match v1::SupplementalGroupsPolicy::try_from(policy) {
            Ok(v1::SupplementalGroupsPolicy::Merge) => GroupsPolicy::Merge,
            Ok(v1::SupplementalGroupsPolicy::Strict) => GroupsPolicy::Strict,
            Err(e) => {
                let field = format!("{at}.supplemental_groups_policy");
                return Err(unknown_enum(&field, e.0));
            }
        };
        let groups = from.supplemental_groups.iter().enumerate();
        let groups = groups.map(|(i, group)| id(&format!("{at}.supplemental_groups[{i}]"), *group));
        let namespaces = from
            .namespace_options
            .map(|o| NamespaceOptions::parse(&format!("{at}.namespace_options"), o))
            .transpose()?;
        Ok(Self {
            capabilities: CapabilityChanges::parse(
                &format!("{at}.capabilities"),
                from.capabilities,
            )?,
            privileged: from.privileged,
            namespaces,
            selinux: Selinux::parse(&format!("{at}.selinux_options"), from.selinux_options)?,
            run_as_user,
            run_as_group,
            run_as_username: from.run_as_username,
            readonly_rootfs: from.readonly_rootfs,
            supplemental_groups: groups.collect::<Result<_, _>>()?,
            supplemental_groups_policy: policy,
            no_new_privs: from.no_new_privs,
            masked_paths: paths(&format!("{at}.masked_paths"), &from.masked_paths)?,
            readonly_paths: paths(&format!("{at}.readonly_paths"), &from.readonly_paths)?,
            #[allow(deprecated)]
            seccomp: Profile::seccomp(at, from.seccomp, &from.seccomp_profile_path)?,
            #[allow(deprecated)]
            apparmor: Profile::apparmor(at, from.apparmor, &from.apparmor_profile)?,
        })
    }

    /// The container's namespaces: its own word, else the pod's.
    pub fn namespaces<'a>(&'a self, pod: &'a NamespaceOptions) -> &'a NamespaceOptions {
        self.namespaces.as_ref().unwrap_or(pod)
    }

    /// The container whose namespaces, of one kind or several, are to be joined.
    pub fn target(&self) -> Option<&str> {
        let options = self.namespaces.as_ref()?;
        let modes = [options.network, options.pid, options.ipc];
        let targets = modes.contains(&NamespaceMode::Target);
        targets.then_some(options.target_id.as_str())
    }
}

impl From<v1::ImageSpec> for ImageSpec {
    fn from(from: v1::ImageSpec) -> Self {
        Self {
            image: from.image,
            user_specified_image: from.user_specified_image,
            runtime_handler: from.runtime_handler,
            annotations: from.annotations.into_iter().collect(),
        }
    }
}

impl From<&ImageSpec> for v1::ImageSpec {
    fn from(i: &ImageSpec) -> Self {
        Self {
            image: i.image.clone(),
            annotations: i.annotations.clone().into_iter().collect(),
            user_specified_image: i.user_specified_image.clone(),
            runtime_handler: i.runtime_handler.clone(),
            ..Default::default()
        }
    }
}

impl From<&Metadata> for v1::ContainerMetadata {
    fn from(m: &Metadata) -> Self {
        Self {
            name: m.name.clone(),
            attempt: m.attempt,
        }
    }
}

impl From<&Mount> for v1::Mount {
    fn from(m: &Mount) -> Self {
        let text = |p: &Path| p.to_string_lossy().into_owned();
        Self {
            container_path: text(&m.container_path),
            host_path: text(&m.host_path),
            readonly: m.readonly,
            selinux_relabel: m.selinux_relabel,
            propagation: match m.propagation {
                Propagation::Private => v1::MountPropagation::PropagationPrivate,
                Propagation::HostToContainer => v1::MountPropagation::PropagationHostToContainer,
                Propagation::Bidirectional => v1::MountPropagation::PropagationBidirectional,
            }
            .into(),
            uid_mappings: m.uid_mappings.iter().copied().map(Into::into).collect(),
            gid_mappings: m.gid_mappings.iter().copied().map(Into::into).collect(),
            recursive_read_only: m.recursive_read_only,
            image: m.image.as_ref().map(Into::into),
            image_sub_path: text(&m.image_sub_path),
        }
    }
}

#[cfg(test)]
mod tests;
