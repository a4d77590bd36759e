//! What of the configuration can be replaced while the daemon works.
//!
//! Whoever needs several values for one piece of work takes one [`Settings`] for all of it. New ones are made
//! whole before they are put in place, so that a configuration that cannot be used changes nothing.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::config::{self, Config, ImageVolumes};
use super::container::capabilities;
use super::container::config::Device;
use super::container::seccomp::SeccompProfile;
use super::container::spec::{DefaultMount, Defaults, Ulimit};
use super::error::{Error, Result};
use super::field::FieldError;
use super::handlers::{Handler, Workshop};
use super::image::ImageOptions;
use crate::host::fs::read_capped;

/// Values in effect.
pub struct Settings {
    pub config: Config,
    /// Never without the default one.
    pub handlers: BTreeMap<String, Arc<Handler>>,
    pub default_sysctls: Vec<(String, String)>,
}

impl Settings {
    /// Settings by this configuration. `old` are those that they replace.
    pub fn make(config: Config, workshop: &Workshop, old: Option<&Self>) -> Result<Self> {
        let runtime = &config.crio.runtime;
        let common = defaults(runtime, config.crio.image.image_volumes)?;
        let mut handlers = BTreeMap::new();
        for (name, table) in runtime.handlers() {
            let defaults = Arc::new(of_handler(&common, &table)?);
            let known = old.and_then(|old| old.handlers.get(&name));
            let known = known.map(Arc::as_ref);
            let handler = workshop.make(&name, &table, runtime, defaults, known);
            handlers.insert(name, Arc::new(handler));
        }
        let pairs = runtime.default_sysctls.iter();
        let pairs = pairs.filter_map(|entry| entry.split_once('='));
        Ok(Self {
            default_sysctls: pairs
                .map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned()))
                .collect(),
            handlers,
            config,
        })
    }

    /// The handler of this name; empty means the default.
    pub fn handler(&self, name: &str) -> Result<&Arc<Handler>> {
        let name = match name {
            "" => &self.config.crio.runtime.default_runtime,
            name => name,
        };
        self.handlers.get(name).ok_or_else(|| {
            let known: Vec<&str> = self.handlers.keys().map(String::as_str).collect();
            let problem = format!(
                "is `{name}`, none of the configured handlers: {}",
                known.join(", ")
            );
            Arc::new(FieldError::new("runtime_handler", problem).into())
        })
    }
}

/// How images are fetched and kept.
pub fn image_options(image: &config::Image) -> ImageOptions {
    let named = |path: &Path| (!path.as_os_str().is_empty()).then(|| path.to_owned());
    let mut options = ImageOptions {
        insecure_registries: image.insecure_registries.clone(),
        pinned_images: image.pinned_images.clone(),
        short_names: image.short_name_mode,
        progress_timeout: Some(image.pull_progress_timeout).filter(|limit| !limit.is_zero()),
        namespaced_auth: named(&image.namespaced_auth_dir),
        namespaced_policies: named(&image.signature_policy_dir),
        ..ImageOptions::default()
    };
    if let Some(file) = named(&image.global_auth_file) {
        options.auth_files = vec![file];
    }
    if let Some(policy) = named(&image.signature_policy) {
        options.policy = policy;
        options.policy_required = true;
    }
    options
}

/// What the runtime table says about every container.
fn defaults(runtime: &config::Runtime, image_volumes: ImageVolumes) -> Result<Defaults> {
    let mut capabilities = Vec::new();
    for name in &runtime.default_capabilities {
        let capability = capabilities::parse(name).ok_or_else(|| {
            let problem = format!("`{name}` is not a capability");
            Error::from(FieldError::new(
                "crio.runtime.default_capabilities",
                problem,
            ))
        })?;
        capabilities.push(capability);
    }
    let seccomp_profile = match runtime.seccomp_profile.exists() {
        true => profile(&runtime.seccomp_profile)?,
        false => None,
    };
    let mut ulimits = Vec::new();
    for text in &runtime.default_ulimits {
        let wrong = || {
            let problem = format!("`{text}` is not `NAME=SOFT:HARD`");
            Error::from(FieldError::new("crio.runtime.default_ulimits", problem))
        };
        ulimits.push(Ulimit::parse(text).ok_or_else(wrong)?);
    }
    let devices = runtime.additional_devices.iter();
    let devices = devices
        .map(|text| Device::parse_line("crio.runtime.additional_devices", text))
        .collect::<std::result::Result<_, _>>()
        .map_err(Error::from)?;
    let localtime = runtime.localtime().map_err(|e| {
        let problem = e.to_string();
        Error::from(FieldError::new("crio.runtime.timezone", problem))
    })?;
    Ok(Defaults {
        capabilities,
        add_inheritable_capabilities: runtime.add_inheritable_capabilities,
        pids_limit: runtime.pids_limit,
        env: runtime.default_env.clone(),
        ulimits,
        seccomp_profile,
        seccomp_when_unset: runtime.seccomp_use_default_when_empty,
        seccomp_privileged: profile(&runtime.privileged_seccomp_profile)?,
        apparmor_profile: runtime.apparmor_profile.clone(),
        selinux: runtime.selinux,
        selinux_on_host_network: !runtime.hostnetwork_disable_selinux,
        cdi_dirs: runtime.cdi_spec_dirs.clone(),
        read_only: runtime.read_only,
        devices,
        device_ownership: runtime.device_ownership_from_security_context,
        absent_mount_sources_to_reject: runtime.absent_mount_sources_to_reject.clone(),
        localtime,
        mounts: default_mounts(&runtime.default_mounts_file)?,
        allowed_devices: runtime.allowed_devices.clone(),
        image_volumes,
        ..Defaults::default()
    })
}

/// The same with what a handler's table says about its containers.
fn of_handler(common: &Defaults, table: &config::Handler) -> Result<Defaults> {
    let mut defaults = common.clone();
    if let Some(profile) = profile(&table.seccomp_profile)? {
        defaults.seccomp_profile = Some(profile);
    }
    defaults.privileged_without_host_devices = table.privileged_without_host_devices;
    defaults.min_memory = table.min_memory().unwrap_or(0);
    defaults
        .allowed_annotations
        .clone_from(&table.allowed_annotations);
    let annotations = table.default_annotations.clone();
    defaults.annotations = annotations;
    Ok(defaults)
}

/// A seccomp profile; None for an empty path.
fn profile(path: &Path) -> Result<Option<Arc<SeccompProfile>>> {
    if path.as_os_str().is_empty() {
        return Ok(None);
    }
    let profile = SeccompProfile::load(path).map_err(Error::from)?;
    Ok(Some(Arc::new(profile)))
}

/// Lines `SOURCE:TARGET`, or a path that is both; empty lines and those with `#` are none.
fn default_mounts(path: &Path) -> Result<Vec<DefaultMount>> {
    const CAP: u64 = 1 << 20;
    if path.as_os_str().is_empty() {
        return Ok(Vec::new());
    }
    let bytes = read_capped(path, CAP).map_err(Error::io("read", path))?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let mut mounts = Vec::new();
    for line in text.lines().map(str::trim) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        mounts.push(DefaultMount::parse(line).ok_or_else(|| {
            let problem = format!("`{}`: `{line}` is not `/SOURCE:/TARGET`", path.display());
            Error::from(FieldError::new("crio.runtime.default_mounts_file", problem))
        })?);
    }
    Ok(mounts)
}
