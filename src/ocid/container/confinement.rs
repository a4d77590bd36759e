//! What keeps a container in: hidden and read-only paths, seccomp, AppArmor, SELinux.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use oci_spec::runtime::LinuxSeccomp;

use super::apparmor::{self, AppArmorError};
use super::capabilities::Granted;
use super::error::SpecError;
use super::seccomp::{self, Circumstances, SeccompProfile};
use super::security::Profile;
use super::spec::SpecInputs;

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
    let circumstances = Circumstances {
        arch: seccomp::native(),
        kernel: inputs.host.kernel,
        capabilities: &granted.bounding,
    };
    if security.privileged {
        let profile = inputs.defaults.seccomp_privileged.as_ref();
        let profile = profile.filter(|_| inputs.host.seccomp);
        return profile.map(|p| p.resolve(&circumstances)).transpose();
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
        Profile::Unconfined => Ok(Some(apparmor::UNCONFINED.to_owned())),
        Profile::Localhost(name) => {
            if !inputs.host.apparmor_profiles.is_loaded(name) {
                return Err(SpecError::Unavailable {
                    field: format!("{at}.apparmor.localhost_ref"),
                    need: format!("the AppArmor profile `{name}` is not loaded"),
                });
            }
            Ok(Some(name.clone()))
        }
        Profile::RuntimeDefault => match default_profile(inputs) {
            Ok(profile) => Ok(Some(profile)),
            Err(Some(source)) => Err(SpecError::AppArmor {
                field: format!("{at}.apparmor"),
                source,
            }),
            Err(None) => Err(SpecError::Unavailable {
                field: format!("{at}.apparmor"),
                need: format!(
                    "the configured AppArmor profile `{}` is not loaded",
                    inputs.defaults.apparmor_profile
                ),
            }),
        },
        Profile::Unset => match default_profile(inputs) {
            Ok(profile) => Ok(Some(profile)),
            Err(why) => {
                let why = why.map_or_else(|| "it is not loaded".to_owned(), |e| e.to_string());
                warnings.extend(inputs.host.once(
                    "apparmor",
                    &format!("containers run without the default AppArmor profile: {why}"),
                ));
                Ok(None)
            }
        },
    }
}

/// The profile of containers that name none, loaded if it is ours; else why it is not to be had.
fn default_profile(inputs: &SpecInputs<'_>) -> Result<String, Option<AppArmorError>> {
    let name = inputs.defaults.apparmor_profile.as_str();
    let profiles = &inputs.host.apparmor_profiles;
    if name == apparmor::OWN {
        profiles.ensure_own().map_err(Some)?;
    } else if name != apparmor::UNCONFINED && !profiles.is_loaded(name) {
        return Err(None);
    }
    Ok(name.to_owned())
}

/// The container asks for an AppArmor profile where there is no AppArmor.
pub(super) fn no_apparmor(at: &str, name: &str) -> SpecError {
    SpecError::Unavailable {
        field: format!("{at}.apparmor"),
        need: format!("AppArmor is off in its kernel, so there is no profile `{name}`"),
    }
}
