//! From a parsed config to the OCI runtime specification (config.json).
//!
//! What a container gets is what CRI-O gives: users move between the two. Where the machine lacks a
//! privilege the container gets what there is, and the caller a warning to log; where it lacks a
//! thing that was asked for by name, the container is refused.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use oci_spec::image::ImageConfiguration;
use oci_spec::runtime::{Capability, Linux, Process, Root, Spec, User};

use super::accounts;
use super::allowed::Allowed;
use super::capabilities::{self, Granted, name as capability_name};
use super::cdi;
use super::config::ContainerConfig;
use super::confinement::{apparmor_of, hidden_paths, no_apparmor, readonly_paths, seccomp_of};
use super::devices::Devices;
use super::error::SpecError;
use super::facts::HostFacts;
use super::given;
use super::mounts::{Mounts, id_mappings};
use super::namespaces;
use super::process;
use super::security::Profile;
use super::selinux::{self, Labels};
use super::signal::Signal;
use super::user::{self, ResolvedUser};
use crate::host::fs::read_capped;
use crate::host::namespace::{IdMaps, Kind};
use crate::host::rooted::Rooted;
use crate::ocid::config::ImageVolumes;
use crate::ocid::field::FieldError;
use crate::ocid::sandbox::config::{NamespaceMode, SandboxConfig};
use crate::ocid::sandbox::sysctl;

/// The version of the specification that every runtime in use reads.
const OCI_VERSION: &str = "1.0.2";

/// Prefixes of annotations that change what the runtime does to the machine (systemd properties of
/// runc, hooks and handlers of crun); no config of a container may carry them.
const RUNTIMES_OWN: [&str; 2] = ["org.systemd.property.", "run.oci."];

pub use super::defaults::{DefaultMount, Defaults, Ulimit};

/// Everything that a specification is made from.
#[derive(Debug)]
pub struct SpecInputs<'a> {
    pub container_id: &'a str,
    pub config: &'a ContainerConfig,
    pub sandbox: &'a SandboxView<'a>,
    pub image: &'a ImageConfiguration,
    /// Mounted and writable.
    pub rootfs: &'a Path,
    /// A folder of the container's own for files that it is given.
    pub bundle: &'a Path,
    /// Another, on disk, which goes when the container is removed.
    pub folder: &'a Path,
    /// Where the images that are its volumes are mounted, by their place among the mounts.
    pub volumes: &'a BTreeMap<usize, PathBuf>,
    /// None: without SELinux.
    pub labels: Option<&'a Labels>,
    pub defaults: &'a Defaults,
    pub host: &'a HostFacts,
}

/// The pod as its containers see it.
#[derive(Debug)]
pub struct SandboxView<'a> {
    pub id: &'a str,
    pub config: &'a SandboxConfig,
    /// Pinned namespaces; None: the machine's.
    pub net: Option<PathBuf>,
    pub ipc: Option<PathBuf>,
    pub uts: Option<PathBuf>,
    pub user: Option<PathBuf>,
    /// None: the pod shares none; the machine's where its mode is `Node`, else one per container.
    pub pid: Option<PathBuf>,
    /// Init of the container that a `Target` mode names.
    pub target_pid: Option<i32>,
    /// Files to be mounted; an empty path is left out.
    pub resolv_conf: PathBuf,
    pub hosts: PathBuf,
    pub hostname: PathBuf,
    /// Of the pod; for a container that joins another's IPC namespace, that one's.
    pub shm: PathBuf,
    /// Of the container, in the form of the runtime's cgroup driver.
    pub cgroups_path: String,
}

/// The specification and what else came out of it.
#[derive(Debug)]
pub struct BuiltSpec {
    pub spec: Spec,
    pub user: ResolvedUser,
    pub stop_signal: Signal,
    /// To be logged; a shortcoming of the machine is in the first container's only.
    pub warnings: Vec<String>,
}

/// Refuses a pod that asks for what no container of it could get.
pub fn check_sandbox(config: &SandboxConfig, host: &HostFacts) -> Result<(), SpecError> {
    let at = "config.linux.security_context";
    if config.namespaces.userns.is_some() && !host.user_namespaces {
        return Err(SpecError::Unavailable {
            field: format!("{at}.namespace_options.userns_options"),
            need: "user namespaces whose ids the file system of the images can be mapped to"
                .to_owned(),
        });
    }
    if let (Profile::Localhost(name), false) = (&config.security.apparmor, host.apparmor) {
        return Err(no_apparmor(at, name));
    }
    Ok(())
}

/// Makes the specification. Folders that the container needs in its root (working folder, volumes)
/// and missing mount sources on the machine are made on the way.
pub fn build(inputs: &SpecInputs<'_>) -> Result<BuiltSpec, SpecError> {
    let SpecInputs {
        config,
        sandbox,
        defaults,
        host,
        ..
    } = *inputs;
    let security = &config.security;
    let image = inputs.image.config().as_ref();
    check(inputs)?;
    let cdi = cdi::resolve(config, &defaults.cdi_dirs)?;

    let mut warnings = Vec::new();
    let rootfs = Rooted::open(inputs.rootfs)
        .map_err(|e| SpecError::io("open the root file system", inputs.rootfs, e))?;
    let args = process::args(config, image)?;
    let cwd = process::cwd(config, image);
    let image_user = image.and_then(|i| i.user().as_deref()).unwrap_or("");
    let user = user::resolve(&rootfs, image_user, security)?;
    let maps = sandbox.maps();
    let owner = owner(maps.as_ref(), &user)?;
    let granted = capabilities::grant(
        &defaults.capabilities,
        &security.capabilities,
        security.privileged,
        &host.bounding,
    );
    warn_of_capabilities(inputs, &granted, &mut warnings);
    let readonly = security.readonly_rootfs || defaults.read_only;
    let env = process::env(config, image, &defaults.env, &hostname(sandbox));
    let given = given::mounts(inputs, owner.user, &mut warnings)?;
    let mut mounts = Mounts::new(inputs, readonly, given)?;
    let home = process::home(&env).unwrap_or(&cwd);
    let covered = |path: &Path| mounts.cover(path);
    let copies = accounts::copies(&rootfs, inputs.bundle, &user, home, covered)?;
    mounts.add_files(copies, readonly);
    let allowed = Allowed::new(defaults, sandbox.config);
    let devices = devices(inputs, &allowed)?;
    let seccomp = seccomp_of(inputs, &granted)?;
    let apparmor = apparmor_of(inputs, &mut warnings)?;
    let labels = inputs.labels;
    if let Some(labels) = labels {
        selinux::label_files(mounts.files(), labels)?;
    }

    let mut limits = config.resources.clone();
    limits
        .unified
        .extend(allowed.unified(&config.metadata.name)?);
    let mut resources = limits.oci(defaults.pids_limit, host, &mut warnings)?;
    resources.set_devices(Some(devices.rules));

    prepare_root(inputs, &rootfs, &cwd, owner)?;

    let mut oci_user = User::default();
    oci_user
        .set_uid(user.uid)
        .set_gid(user.gid)
        .set_additional_gids(Some(user.supplemental.clone()))
        .set_umask(allowed.umask()?);
    let mut process = Process::default();
    process
        .set_terminal(Some(config.tty))
        .set_user(oci_user)
        .set_args(Some(args))
        .set_env(Some(env))
        .set_cwd(cwd.into())
        .set_capabilities(Some(granted.oci(defaults.add_inheritable_capabilities)?))
        .set_rlimits(defaults.rlimits(host, &mut warnings)?)
        .set_no_new_privileges(Some(security.no_new_privs))
        .set_apparmor_profile(apparmor)
        .set_selinux_label(labels.map(|l| l.process.clone()))
        .set_oom_score_adj(Some(oom_score_adj(inputs, &mut warnings)));

    let mut linux = Linux::default();
    linux
        .set_sysctl(sysctls(inputs))
        .set_resources(Some(resources))
        .set_cgroups_path(Some(sandbox.cgroups_path.clone().into()))
        .set_namespaces(Some(namespaces::of(inputs)?))
        .set_devices((!devices.nodes.is_empty()).then_some(devices.nodes))
        .set_seccomp(seccomp)
        .set_rootfs_propagation(mounts.root_propagation.map(str::to_owned))
        .set_mount_label(labels.map(|l| l.mount.clone()))
        .set_masked_paths(Some(hidden_paths(inputs)))
        .set_readonly_paths(Some(readonly_paths(inputs)));
    if let Some(userns) = &sandbox.config.namespaces.userns {
        linux
            .set_uid_mappings(Some(id_mappings(&userns.uids)?))
            .set_gid_mappings(Some(id_mappings(&userns.gids)?));
    }

    let mut root = Root::default();
    root.set_path(inputs.rootfs.to_owned())
        .set_readonly(Some(readonly));
    let stop_signal = stop_signal(inputs, &mut warnings);
    let mut spec = Spec::default();
    spec.set_version(OCI_VERSION.to_owned())
        .set_root(Some(root))
        .set_mounts(Some(mounts.list))
        .set_process(Some(process))
        // The pinned UTS namespace has its name already; the runtime would set it once more.
        .set_hostname(None)
        .set_annotations(Some(annotations(inputs)))
        .set_linux(Some(linux));
    cdi::apply(&cdi, &mut spec, security.privileged)?;
    Ok(BuiltSpec {
        spec,
        user,
        stop_signal,
        warnings,
    })
}

/// What can be said before anything is touched.
fn check(inputs: &SpecInputs<'_>) -> Result<(), SpecError> {
    let at = "config.linux.security_context";
    let pod = inputs.sandbox.config;
    if inputs.config.security.privileged && !pod.security.privileged {
        let problem = "is true, but the pod is not privileged";
        return Err(FieldError::new(format!("{at}.privileged"), problem).into());
    }
    let options = inputs.config.security.namespaces(&pod.namespaces);
    let at_options = format!("{at}.namespace_options");
    if options.userns.is_some() && options.userns != pod.namespaces.userns {
        let field = format!("{at_options}.userns_options");
        return Err(FieldError::new(field, "is not that of the pod").into());
    }
    if pod.namespaces.userns.is_some() {
        options.refuse_machines(&at_options)?;
    }
    let (limit, least) = (
        inputs.config.resources.memory_limit,
        inputs.defaults.min_memory,
    );
    if limit > 0 && limit < least {
        let field = "config.linux.resources.memory_limit_in_bytes";
        let problem = format!("is {limit}, less than the {least} that the runtime handler needs");
        return Err(FieldError::new(field, problem).into());
    }
    Ok(())
}

/// Those of the configuration, of the pod's annotations, and of the container's config.
fn devices(inputs: &SpecInputs<'_>, allowed: &Allowed<'_>) -> Result<Devices, SpecError> {
    let (config, defaults) = (inputs.config, inputs.defaults);
    let mut asked = defaults.devices.clone();
    asked.extend(allowed.devices()?);
    asked.extend(config.devices.iter().cloned());
    let all = config.security.privileged && !defaults.privileged_without_host_devices;
    let mut devices = Devices::new(&asked, all)?;
    if defaults.device_ownership && !all {
        devices.belong_to(config.security.run_as_user, config.security.run_as_group);
    }
    Ok(devices)
}

impl SandboxView<'_> {
    /// The maps of the pod's user namespace.
    pub(super) fn maps(&self) -> Option<IdMaps> {
        self.config.namespaces.userns.as_ref().map(|u| u.maps())
    }
}

/// To whom the machine's kernel says that files of the container's root and of its user belong.
struct Owner {
    root: Option<(u32, u32)>,
    user: (u32, u32),
}

fn owner(maps: Option<&IdMaps>, user: &ResolvedUser) -> Result<Owner, SpecError> {
    let Some(maps) = maps else {
        return Ok(Owner {
            root: None,
            user: (user.uid, user.gid),
        });
    };
    let known = maps.owner(user.uid, user.gid).ok_or_else(|| {
        let problem = format!(
            "gives user {} and group {}, whom the pod's user namespace does not have",
            user.uid, user.gid
        );
        FieldError::new("config.linux.security_context.run_as_user", problem)
    })?;
    Ok(Owner {
        root: maps.owner(0, 0),
        user: known,
    })
}

/// Of the pod's parameters those of namespaces that only the container has.
fn sysctls(inputs: &SpecInputs<'_>) -> Option<HashMap<String, String>> {
    let pod = inputs.sandbox.config;
    let options = inputs.config.security.namespaces(&pod.namespaces);
    let kinds = [(Kind::Net, options.network), (Kind::Ipc, options.ipc)];
    let new = kinds
        .iter()
        .filter(|(_, mode)| *mode == NamespaceMode::Container);
    let new: Vec<Kind> = new.map(|(kind, _)| *kind).collect();
    let sysctls = sysctl::of_container(pod, &new);
    (!sysctls.is_empty()).then(|| sysctls.into_iter().collect())
}

/// Folders in the container's root; volumes belong to whom the container runs as.
fn prepare_root(
    inputs: &SpecInputs<'_>,
    rootfs: &Rooted,
    cwd: &str,
    owner: Owner,
) -> Result<(), SpecError> {
    let make = |path: &Path, owner| {
        rootfs
            .create_dir_all(path, 0o755, owner)
            .map_err(|e| SpecError::io("make the container's folder", path, e))
    };
    let image = inputs.image.config().as_ref();
    for volume in image
        .and_then(|i| i.volumes().as_deref())
        .unwrap_or_default()
    {
        let path = Path::new(volume);
        let mut asked = inputs.config.mounts.iter();
        let own = inputs.defaults.image_volumes != ImageVolumes::Ignore;
        if own && !asked.any(|m| m.container_path == path) {
            make(path, Some(owner.user))?;
        }
    }
    make(Path::new(cwd), owner.root)?;
    make(Path::new("/etc"), owner.root)?;
    // Programs that read /etc/mtab find what they look for, as in any docker container.
    rootfs
        .symlink(
            Path::new("/proc/mounts"),
            Path::new("/etc/mtab"),
            owner.root,
        )
        .map_err(|e| SpecError::io("link", "/etc/mtab", e))
}

fn warn_of_capabilities(inputs: &SpecInputs<'_>, granted: &Granted, warnings: &mut Vec<String>) {
    if !granted.refused.is_empty() {
        let names: Vec<String> = granted
            .refused
            .iter()
            .copied()
            .map(capability_name)
            .collect();
        warnings.push(format!(
            "this machine does not have {}, so container {} does not either",
            names.join(", "),
            inputs.container_id
        ));
    }
    if inputs.config.security.privileged && !inputs.host.has(Capability::SysResource) {
        warnings.extend(inputs.host.once(
            "privileged",
            "this machine lacks CAP_SYS_RESOURCE; privileged containers get the capabilities it has",
        ));
    }
}

/// Without CAP_SYS_RESOURCE a process cannot go below its parent's score. Said or not, a score is
/// always set: a container must not inherit the daemon's protection.
fn oom_score_adj(inputs: &SpecInputs<'_>, warnings: &mut Vec<String>) -> i32 {
    let wanted = inputs.config.resources.oom_score_adj;
    let least = inputs.host.oom_score_adj;
    if wanted >= least || inputs.host.has(Capability::SysResource) {
        return wanted;
    }
    warnings.extend(inputs.host.once(
        "oom_score_adj",
        "this machine lacks CAP_SYS_RESOURCE; oom scores below the daemon's own are raised to it",
    ));
    least
}

/// The name in the pod's hostname file, else the one the pod asks for.
fn hostname(sandbox: &SandboxView<'_>) -> String {
    let file = read_capped(&sandbox.hostname, 4096).unwrap_or_default();
    let file = String::from_utf8_lossy(&file);
    let name = file.lines().next().map(str::trim).unwrap_or_default();
    if !name.is_empty() {
        return name.to_owned();
    }
    let machine = nix::unistd::gethostname().unwrap_or_default();
    sandbox
        .config
        .hostname_or(sandbox.id, &machine.to_string_lossy())
}

fn stop_signal(inputs: &SpecInputs<'_>, warnings: &mut Vec<String>) -> Signal {
    let image = inputs.image.config().as_ref();
    let of_image = image.and_then(|i| i.stop_signal().as_deref()).unwrap_or("");
    match (inputs.config.stop_signal, of_image) {
        (Some(signal), _) => signal,
        (None, "") => Signal::TERM,
        (None, name) => Signal::parse(name).unwrap_or_else(|| {
            warnings.push(format!(
                "the image's stop signal `{}` does not exist; container {} is stopped by SIGTERM",
                name.escape_debug(),
                inputs.container_id
            ));
            Signal::TERM
        }),
    }
}

/// The handler's defaults, whoever they are for, the container's own, and those by which hooks made for CRI-O tell containers from pods.
fn annotations(inputs: &SpecInputs<'_>) -> HashMap<String, String> {
    let defaults = inputs.defaults.annotations.iter();
    let pod = &inputs.sandbox.config.annotations;
    let defaults = defaults.filter(|(name, _)| !pod.contains_key(*name));
    let defaults = defaults.map(|(name, value)| (name.clone(), value.clone()));
    let of_runtime = |name: &str| RUNTIMES_OWN.iter().any(|p| name.starts_with(p));
    let own = inputs.config.annotations.iter();
    let own = own
        .filter(|(name, _)| !of_runtime(name))
        .map(|(name, value)| (name.clone(), value.clone()));
    let mut all: HashMap<String, String> = defaults.chain(own).collect();
    for (name, value) in [
        ("ContainerType", "container"),
        ("ContainerID", inputs.container_id),
        ("SandboxID", inputs.sandbox.id),
    ] {
        all.insert(format!("io.kubernetes.cri-o.{name}"), value.to_owned());
    }
    all
}

#[cfg(test)]
mod tests;
