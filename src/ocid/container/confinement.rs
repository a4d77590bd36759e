//! What keeps a container in: hidden and read-only paths, seccomp, AppArmor, SELinux.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use oci_spec::runtime::LinuxSeccomp;

use super::capabilities::Granted;
use super::error::SpecError;
use super::seccomp::{self, Circumstances, SeccompProfile};
use super::security::{Profile, Selinux};
use super::spec::SpecInputs;
use crate::host::fs::read_capped;
use crate::ocid::sandbox::config::NamespaceMode;

/// What a container may not see, and not write, unless its config says otherwise.
const MASKED: [&str; 10] = [
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];
const READONLY: [&str; 6] = [
    "/proc/asound",
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// What the container shall not see.
pub(super) fn hidden_paths(inputs: &SpecInputs<'_>) -> Vec<String> {
    paths(inputs, &inputs.config.security.masked_paths, &MASKED)
}

/// What the container shall not write.
pub(super) fn readonly_paths(inputs: &SpecInputs<'_>) -> Vec<String> {
    paths(inputs, &inputs.config.security.readonly_paths, &READONLY)
}

/// A privileged container sees everything. So does one in a user namespace that asks for no hidden
/// paths (the kubelet's `procMount: Unmasked`); without one, no list means the default list.
fn paths(inputs: &SpecInputs<'_>, asked: &[PathBuf], default: &[&str]) -> Vec<String> {
    let security = &inputs.config.security;
    if security.privileged {
        return Vec::new();
    }
    let none = security.masked_paths.is_empty() && security.readonly_paths.is_empty();
    let pod = &inputs.sandbox.config.namespaces;
    if !asked.is_empty() {
        let text = |p: &PathBuf| p.to_string_lossy().into_owned();
        asked.iter().map(text).collect()
    } else if none && security.namespaces(pod).userns.is_some() {
        Vec::new()
    } else {
        default.iter().map(|p| (*p).to_owned()).collect()
    }
}

pub(super) fn seccomp_of(
    inputs: &SpecInputs<'_>,
    granted: &Granted,
) -> Result<Option<LinuxSeccomp>, SpecError> {
    let security = &inputs.config.security;
    if security.privileged {
        return Ok(None);
    }
    let default = || -> Result<Option<Arc<SeccompProfile>>, SpecError> {
        if !inputs.host.seccomp {
            // Kubernetes asks for it by default; a kernel without seccomp runs pods all the same.
            return Ok(None);
        }
        match &inputs.defaults.seccomp_profile {
            Some(profile) => Ok(Some(profile.clone())),
            None => SeccompProfile::builtin().map(|p| Some(Arc::new(p))),
        }
    };
    let profile = match &security.seccomp {
        Profile::Unset if inputs.defaults.seccomp_when_unset => default()?,
        Profile::Unset | Profile::Unconfined => None,
        Profile::RuntimeDefault => default()?,
        Profile::Localhost(path) => {
            let field = "config.linux.security_context.seccomp";
            if !inputs.host.seccomp {
                return Err(SpecError::Unavailable {
                    field: field.to_owned(),
                    need: "its kernel has no seccomp".to_owned(),
                });
            }
            let path = Path::new(path);
            if !path.exists() {
                return Err(SpecError::Missing {
                    field: format!("{field}.localhost_ref"),
                    path: path.to_owned(),
                });
            }
            Some(Arc::new(SeccompProfile::load(path)?))
        }
    };
    let circumstances = Circumstances {
        arch: seccomp::native(),
        kernel: inputs.host.kernel,
        capabilities: &granted.bounding,
    };
    profile.map(|p| p.resolve(&circumstances)).transpose()
}

pub(super) fn apparmor_of(
    inputs: &SpecInputs<'_>,
    warnings: &mut Vec<String>,
) -> Result<Option<String>, SpecError> {
    let security = &inputs.config.security;
    let at = "config.linux.security_context";
    match &security.apparmor {
        Profile::Localhost(name) if !inputs.host.apparmor => Err(no_apparmor(at, name)),
        _ if !inputs.host.apparmor || security.privileged => Ok(None),
        Profile::Unconfined => Ok(Some("unconfined".to_owned())),
        Profile::Localhost(name) => {
            if !is_loaded(name) {
                return Err(SpecError::Unavailable {
                    field: format!("{at}.apparmor.localhost_ref"),
                    need: format!("the AppArmor profile `{name}` is not loaded"),
                });
            }
            Ok(Some(name.clone()))
        }
        Profile::Unset | Profile::RuntimeDefault => {
            let name = &inputs.defaults.apparmor_profile;
            if is_loaded(name) {
                return Ok(Some(name.clone()));
            }
            warnings.extend(inputs.host.once(
                "apparmor",
                "the default AppArmor profile is not loaded, so containers run without one",
            ));
            Ok(None)
        }
    }
}

/// Lines are `NAME (MODE)`; a name may hold blanks.
fn is_loaded(profile: &str) -> bool {
    let path = Path::new("/sys/kernel/security/apparmor/profiles");
    let list = read_capped(path, 16 << 20).unwrap_or_default();
    String::from_utf8_lossy(&list).lines().any(|line| {
        line.rsplit_once(" (")
            .is_some_and(|(name, _)| name == profile)
    })
}

/// CRI-O's own examples carry SELinux options, and it passes them over where SELinux is off.
pub(super) fn selinux_of(inputs: &SpecInputs<'_>, warnings: &mut Vec<String>) -> Option<String> {
    let own = inputs.config.security.selinux.as_ref();
    let wanted = own.or(inputs.sandbox.config.security.selinux.as_ref())?;
    if !inputs.host.selinux {
        warnings.extend(inputs.host.once(
            "selinux",
            "SELinux is off on this machine, so the options for it are left out",
        ));
        return None;
    }
    let pod = &inputs.sandbox.config.namespaces;
    let namespaces = inputs.config.security.namespaces(pod);
    let node = |mode| mode == NamespaceMode::Node;
    if inputs.config.security.privileged || node(namespaces.pid) || node(namespaces.ipc) {
        return None;
    }
    Selinux::label(wanted)
}

/// The container asks for an AppArmor profile where there is no AppArmor.
pub(super) fn no_apparmor(at: &str, name: &str) -> SpecError {
    SpecError::Unavailable {
        field: format!("{at}.apparmor"),
        need: format!("AppArmor is off in its kernel, so there is no profile `{name}`"),
    }
}
