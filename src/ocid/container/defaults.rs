//! What the daemon's configuration says about every container.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use oci_spec::runtime::{Capability, PosixRlimit, PosixRlimitBuilder, PosixRlimitType};

use super::apparmor;
use super::cdi;
use super::config::Device;
use super::error::SpecError;
use super::facts::HostFacts;
use super::seccomp::SeccompProfile;
use crate::ocid::config::ImageVolumes;
use crate::ocid::field::absolute;

/// Settings of the runtime table; CRI-O's where nothing is said.
#[derive(Debug, Clone)]
pub struct Defaults {
    pub capabilities: Vec<Capability>,
    pub add_inheritable_capabilities: bool,
    /// 0 or less: no limit.
    pub pids_limit: i64,
    /// `NAME=value`
    pub env: Vec<String>,
    pub ulimits: Vec<Ulimit>,
    /// None: the built-in one.
    pub seccomp_profile: Option<Arc<SeccompProfile>>,
    /// A container that says nothing about seccomp gets the default profile instead of none.
    pub seccomp_when_unset: bool,
    /// Of privileged containers; None: they have none.
    pub seccomp_privileged: Option<Arc<SeccompProfile>>,
    /// The AppArmor profile of containers that name none; `unconfined` is none.
    pub apparmor_profile: String,
    /// Containers and their files have SELinux labels, where SELinux is on.
    pub selinux: bool,
    /// Also in pods with the machine's network.
    pub selinux_on_host_network: bool,
    /// Folders with descriptions of CDI devices, the later the stronger.
    pub cdi_dirs: Vec<PathBuf>,
    /// Every root is read-only.
    pub read_only: bool,
    pub devices: Vec<Device>,
    /// Devices that an annotation may ask for.
    pub allowed_devices: Vec<String>,
    /// Device nodes belong to whom the container is told to run as.
    pub device_ownership: bool,
    /// A privileged container gets only those devices that it asks for.
    pub privileged_without_host_devices: bool,
    /// Mount sources that are not made where they are missing, but refused.
    pub absent_mount_sources_to_reject: Vec<PathBuf>,
    /// The file at /etc/localtime; None: the image's own.
    pub localtime: Option<PathBuf>,
    /// What every container finds mounted.
    pub mounts: Vec<DefaultMount>,
    /// What becomes of the volumes that images declare.
    pub image_volumes: ImageVolumes,
    /// A smaller memory limit is refused, bytes.
    pub min_memory: i64,
    /// Beginnings of annotations of pods that are heeded.
    pub allowed_annotations: Vec<String>,
    /// Laid under the pod's and the container's own.
    pub annotations: BTreeMap<String, String>,
}

/// A mount that every container has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DefaultMount {
    pub source: PathBuf,
    pub target: PathBuf,
}

impl DefaultMount {
    /// Reads `/SOURCE:/TARGET`, or a path that is both.
    pub fn parse(line: &str) -> Option<Self> {
        let (source, target) = line.split_once(':').unwrap_or((line, line));
        let path = |text: &str| absolute("path", text.trim()).ok();
        Some(Self {
            source: path(source)?,
            target: path(target)?,
        })
    }
}

impl Default for Defaults {
    /// CRI-O's.
    fn default() -> Self {
        Self {
            capabilities: vec![
                Capability::Chown,
                Capability::DacOverride,
                Capability::Fsetid,
                Capability::Fowner,
                Capability::Setgid,
                Capability::Setuid,
                Capability::Setpcap,
                Capability::NetBindService,
                Capability::Kill,
            ],
            add_inheritable_capabilities: false,
            pids_limit: -1,
            env: Vec::new(),
            ulimits: Vec::new(),
            seccomp_profile: None,
            seccomp_when_unset: false,
            seccomp_privileged: None,
            apparmor_profile: apparmor::OWN.to_owned(),
            selinux: false,
            selinux_on_host_network: false,
            cdi_dirs: cdi::DEFAULT_DIRS.map(PathBuf::from).to_vec(),
            read_only: false,
            devices: Vec::new(),
            allowed_devices: Vec::new(),
            device_ownership: false,
            privileged_without_host_devices: false,
            absent_mount_sources_to_reject: Vec::new(),
            localtime: None,
            mounts: Vec::new(),
            image_volumes: ImageVolumes::Mkdir,
            min_memory: 0,
            allowed_annotations: Vec::new(),
            annotations: BTreeMap::new(),
        }
    }
}

/// A resource limit of a container's processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ulimit {
    pub kind: PosixRlimitType,
    pub soft: u64,
    pub hard: u64,
}

impl Ulimit {
    /// Reads `nofile=1024:2048` or `nofile=1024`; -1 is no limit.
    pub fn parse(text: &str) -> Option<Self> {
        let (name, values) = text.split_once('=')?;
        let kind = format!("RLIMIT_{}", name.trim().to_ascii_uppercase());
        let (soft, hard) = values.split_once(':').unwrap_or((values, values));
        let number = |text: &str| match text.trim() {
            "-1" | "unlimited" => Some(u64::MAX),
            digits => digits.parse().ok(),
        };
        let (soft, hard) = (number(soft)?, number(hard)?);
        (soft <= hard).then_some(Self {
            kind: kind.parse().ok()?,
            soft,
            hard,
        })
    }
}

impl Defaults {
    /// The limits as far as this machine can set them; None where nothing is said, so that a
    /// container inherits.
    pub(super) fn rlimits(
        &self,
        host: &HostFacts,
        warnings: &mut Vec<String>,
    ) -> Result<Option<Vec<PosixRlimit>>, SpecError> {
        let mut limits = Vec::new();
        for limit in &self.ulimits {
            let most = host
                .hard_limits
                .iter()
                .find(|(kind, _)| *kind == limit.kind);
            let most = match most {
                Some((_, most)) if !host.has(Capability::SysResource) => *most,
                _ => u64::MAX,
            };
            if limit.hard > most {
                warnings.extend(host.once(
                "rlimits",
                "this machine lacks CAP_SYS_RESOURCE; ulimits above the daemon's own are lowered to it",
            ));
            }
            let limit = PosixRlimitBuilder::default()
                .typ(limit.kind)
                .soft(limit.soft.min(most))
                .hard(limit.hard.min(most));
            limits.push(limit.build().map_err(SpecError::Assemble)?);
        }
        Ok((!limits.is_empty()).then_some(limits))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_mounts_are_read() {
        let mount = |line: &str| DefaultMount::parse(line).map(|m| (m.source, m.target));
        assert_eq!(mount("/a:/b"), Some(("/a".into(), "/b".into())));
        assert_eq!(mount("/a"), Some(("/a".into(), "/a".into())));
        for bad in ["", "a:/b", "/a:b", "/a:/b/../c"] {
            assert_eq!(mount(bad), None, "{bad}");
        }
    }

    #[test]
    fn ulimits_are_read() {
        let nofile = Ulimit::parse("nofile=1024:2048").unwrap();
        assert_eq!(nofile.kind, PosixRlimitType::RlimitNofile);
        assert_eq!((nofile.soft, nofile.hard), (1024, 2048));
        let memlock = Ulimit::parse("memlock=-1").unwrap();
        assert_eq!((memlock.soft, memlock.hard), (u64::MAX, u64::MAX));
        for bad in [
            "",
            "nofile",
            "nofile=",
            "nofile=2:1",
            "files=1",
            "nofile=-2",
        ] {
            assert_eq!(Ulimit::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn ulimits_cannot_rise_without_the_capability() {
        let defaults = Defaults {
            ulimits: Ulimit::parse("nofile=1000:9000").into_iter().collect(),
            ..Default::default()
        };
        let mut host = HostFacts::none();
        host.hard_limits = vec![(PosixRlimitType::RlimitNofile, 500)];
        let mut warnings = Vec::new();
        let mut got = |host: &HostFacts| {
            let limits = defaults.rlimits(host, &mut warnings).unwrap().unwrap();
            (limits[0].soft(), limits[0].hard())
        };
        assert_eq!(got(&host), (500, 500));
        host.bounding = [Capability::SysResource].into_iter().collect();
        assert_eq!(got(&host), (1000, 9000));
        assert_eq!(warnings.len(), 1);
        let none = Defaults::default().rlimits(&host, &mut warnings).unwrap();
        assert!(none.is_none());
    }
}
