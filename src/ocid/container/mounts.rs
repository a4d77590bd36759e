//! The mounts of a container: the kernel's own, the pod's files, and what the CRI asks for.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxIdMapping, LinuxIdMappingBuilder, Mount};

use super::allowed::Allowed;
use super::config::{Mount as Asked, Propagation};
use super::error::SpecError;
use super::mapped;
use super::propagation::Mounts as MachineMounts;
use super::security::IdMapping;
use super::selinux;
use super::spec::SpecInputs;
use crate::ocid::field::FieldError;
use crate::ocid::sandbox::config::NamespaceMode;

/// The size of a /dev/shm that a container has to itself: docker's and the kubelet's 64 MiB.
const SHM: &str = "size=65536k";

/// Mounts in their order, and how mounts spread from and to the container's root.
#[derive(Debug, Default)]
pub(super) struct Mounts {
    pub list: Vec<Mount>,
    pub root_propagation: Option<&'static str>,
    /// How many come before those that the config asks for.
    fixed: usize,
}

impl Mounts {
    /// Makes missing sources as folders on the way, as CRI-O and kubelet expect. `given` comes beside what
    /// the config asks for.
    pub(super) fn new(
        inputs: &SpecInputs<'_>,
        readonly_root: bool,
        given: Vec<Mount>,
    ) -> Result<Self, SpecError> {
        let asked = &inputs.config.mounts;
        let taken = |target: &Path| {
            let covers = |m: &Asked| {
                m.container_path == target
                    // A /dev or /sys of the user's own must not be mounted over.
                    || [Path::new("/dev"), Path::new("/sys")]
                        .iter()
                        .any(|top| m.container_path == *top && target.starts_with(top))
            };
            asked.iter().any(covers)
        };
        let mut mounts = Self {
            list: kernel(inputs),
            root_propagation: None,
            fixed: 0,
        };
        mounts.list.extend(pod_files(inputs, readonly_root));
        if inputs.defaults.read_only {
            mounts.list.extend(scratch());
        }
        mounts.list.retain(|m| !taken(m.destination()));

        mounts.fixed = mounts.list.len();
        let mut machine = None;
        let mut own = given;
        for (i, mount) in asked.iter().enumerate() {
            let field = format!("config.mounts[{i}]");
            own.push(match (&mount.image, inputs.volumes.get(&i)) {
                (None, _) => mounts.bind(&field, mount, inputs, &mut machine)?,
                (Some(_), Some(source)) => volume(mount, source),
                (Some(_), None) => {
                    return Err(SpecError::Unavailable {
                        field: format!("{field}.image"),
                        need: "a mounted image".to_owned(),
                    });
                }
            });
        }
        // A mount must not hide one that lies deeper.
        own.sort_by_key(|m| m.destination().components().count());
        mounts.list.extend(own);
        Ok(mounts)
    }

    /// Does a mount lie on this file of the root, or on a folder above it?
    pub(super) fn cover(&self, file: &Path) -> bool {
        self.list.iter().any(|m| file.starts_with(m.destination()))
    }

    /// What of the machine is not the user's: files and /dev/shm of the pod and of the container.
    pub(super) fn files(&self) -> impl Iterator<Item = &Path> {
        let own = self.list.iter().take(self.fixed);
        own.filter(|m| m.typ().as_deref() == Some("bind"))
            .filter_map(|m| m.source().as_deref())
            .filter(|source| *source != Path::new("/dev/shm"))
    }

    /// Files of the container's own over those of its image.
    pub(super) fn add_files(&mut self, files: Vec<(PathBuf, &'static str)>, readonly: bool) {
        let access = if readonly { "ro" } else { "rw" };
        let options = ["bind", "rprivate", access, "nosuid", "nodev", "noexec"];
        let mount = |(source, target): (PathBuf, &str)| {
            new_mount(Path::new(target), "bind", &source, &options)
        };
        let count = files.len();
        self.list
            .splice(self.fixed..self.fixed, files.into_iter().map(mount));
        self.fixed += count;
    }

    fn bind(
        &mut self,
        field: &str,
        mount: &Asked,
        inputs: &SpecInputs<'_>,
        machine: &mut Option<MachineMounts>,
    ) -> Result<Mount, SpecError> {
        let unavailable = |name: &str, need: &str| SpecError::Unavailable {
            field: format!("{field}.{name}"),
            need: need.to_owned(),
        };
        if mount.recursive_read_only && !inputs.host.recursive_read_only {
            return Err(unavailable(
                "recursive_read_only",
                "recursive read-only mounts",
            ));
        }
        let source = source(
            field,
            mount,
            &inputs.defaults.absent_mount_sources_to_reject,
        )?;
        if mount.selinux_relabel
            && let Some(labels) = inputs.labels
        {
            selinux::relabel(field, &source, labels)?;
        }
        let wanted = propagation(mount, &source, inputs)?;
        let machine = match (wanted, machine) {
            (Propagation::Private, _) => None,
            (_, Some(known)) => Some(&*known),
            (_, none) => Some(&*none.insert(MachineMounts::read()?)),
        };
        let spreads = |ok: bool, how: &str| {
            if ok {
                return Ok(());
            }
            let need = format!("`{}` lies on no mount that is {how}", source.display());
            Err(unavailable("propagation", &need))
        };
        let spread = match (wanted, machine) {
            (Propagation::HostToContainer, Some(machine)) => {
                spreads(machine.is_shared_or_slave(&source), "shared or a slave")?;
                self.root_propagation.get_or_insert("rslave");
                "rslave"
            }
            (Propagation::Bidirectional, Some(machine)) => {
                spreads(machine.is_shared(&source), "shared")?;
                self.root_propagation = Some("rshared");
                "rshared"
            }
            _ => "rprivate",
        };
        let access = match (mount.recursive_read_only, mount.readonly) {
            (true, _) => "rro",
            (false, true) => "ro",
            (false, false) => "rw",
        };
        let mapped = !mount.uid_mappings.is_empty() || !mount.gid_mappings.is_empty();
        let source = match mapped {
            true => mapped::copy(field, mount, inputs, &source)?,
            false => source,
        };
        let mut options = vec!["rbind", spread, access];
        if inputs.sandbox.user.is_some() {
            options.extend(mapped::locked(&source));
        }
        Ok(new_mount(&mount.container_path, "bind", &source, &options))
    }
}

/// As asked, but for a folder that holds the containers' own roots: a private copy of their mounts would
/// keep them alive for as long as this container is, so what becomes of them is passed on, as CRI-O does.
fn propagation(
    mount: &Asked,
    source: &Path,
    inputs: &SpecInputs<'_>,
) -> Result<Propagation, SpecError> {
    let holds_roots = inputs.bundle.starts_with(source);
    let private = mount.propagation == Propagation::Private && !mount.recursive_read_only;
    if holds_roots && private && MachineMounts::read()?.is_shared_or_slave(source) {
        return Ok(Propagation::HostToContainer);
    }
    Ok(mount.propagation)
}

/// An image volume is read-only whatever was asked, as Kubernetes has it. Programs in it run, but not as
/// somebody else. Its ids are the pod's already.
fn volume(mount: &Asked, source: &Path) -> Mount {
    let options = ["rbind", "rprivate", "ro", "nosuid", "nodev"];
    new_mount(&mount.container_path, "bind", source, &options)
}

/// The source with its links resolved; made as a folder where nothing is.
fn source(field: &str, mount: &Asked, reject: &[PathBuf]) -> Result<PathBuf, SpecError> {
    let path = &mount.host_path;
    match fs::canonicalize(path) {
        Ok(resolved) => return Ok(resolved),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(SpecError::io("resolve the mount source", path, e)),
    }
    if reject.contains(path) {
        return Err(SpecError::Missing {
            field: format!("{field}.host_path"),
            path: path.clone(),
        });
    }
    match fs::create_dir_all(path) {
        Ok(()) => Ok(path.clone()),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            let problem = format!("is `{}`, a link to nothing", path.display());
            Err(FieldError::new(format!("{field}.host_path"), problem).into())
        }
        Err(e) => Err(SpecError::io("make the mount source", path, e)),
    }
}

/// proc, sysfs, cgroups, /dev.
fn kernel(inputs: &SpecInputs<'_>) -> Vec<Mount> {
    let access = if inputs.config.security.privileged {
        "rw"
    } else {
        "ro"
    };
    let allowed = Allowed::new(inputs.defaults, inputs.sandbox.config);
    let cgroup = match allowed.writable_cgroup() && inputs.host.cgroup_v2 {
        true => "rw",
        false => access,
    };
    let at = |target: &str, kind: &str, options: &[&str]| {
        new_mount(Path::new(target), kind, Path::new(kind), options)
    };
    vec![
        at("/proc", "proc", &["nosuid", "noexec", "nodev"]),
        at(
            "/dev",
            "tmpfs",
            &["nosuid", "strictatime", "mode=755", "size=65536k"],
        ),
        at(
            "/dev/pts",
            "devpts",
            &[
                "nosuid",
                "noexec",
                "newinstance",
                "ptmxmode=0666",
                "mode=0620",
                "gid=5",
            ],
        ),
        at("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        at("/sys", "sysfs", &["nosuid", "noexec", "nodev", access]),
        at(
            "/sys/fs/cgroup",
            "cgroup",
            &["nosuid", "noexec", "nodev", "relatime", cgroup],
        ),
        shm(inputs),
    ]
}

/// /dev/shm goes with the IPC namespace.
fn shm(inputs: &SpecInputs<'_>) -> Mount {
    let target = Path::new("/dev/shm");
    let bind = |source: &Path| new_mount(target, "bind", source, &["rbind", "rprivate", "rw"]);
    let pod = &inputs.sandbox.config.namespaces;
    match inputs.config.security.namespaces(pod).ipc {
        NamespaceMode::Node => bind(Path::new("/dev/shm")),
        NamespaceMode::Container => new_mount(
            target,
            "tmpfs",
            Path::new("shm"),
            &["nosuid", "noexec", "nodev", "mode=1777", SHM],
        ),
        NamespaceMode::Pod | NamespaceMode::Target => bind(&inputs.sandbox.shm),
    }
}

/// resolv.conf, hosts and hostname of the pod.
fn pod_files(inputs: &SpecInputs<'_>, readonly: bool) -> Vec<Mount> {
    let access = if readonly { "ro" } else { "rw" };
    let sandbox = &inputs.sandbox;
    [
        ("/etc/resolv.conf", &sandbox.resolv_conf),
        ("/etc/hosts", &sandbox.hosts),
        ("/etc/hostname", &sandbox.hostname),
    ]
    .into_iter()
    .filter(|(_, source)| !source.as_os_str().is_empty())
    .map(|(target, source)| {
        let options = ["bind", "rprivate", access, "nosuid", "nodev", "noexec"];
        new_mount(Path::new(target), "bind", source, &options)
    })
    .collect()
}

/// Where programs write although the daemon makes every root read-only.
fn scratch() -> Vec<Mount> {
    [
        ("/run", "mode=0755"),
        ("/tmp", "mode=1777"),
        ("/var/tmp", "mode=1777"),
    ]
    .into_iter()
    .map(|(target, mode)| {
        let options = ["rw", "nosuid", "nodev", "noexec", "tmpcopyup", mode];
        new_mount(Path::new(target), "tmpfs", Path::new("tmpfs"), &options)
    })
    .collect()
}

pub(super) fn new_mount(target: &Path, kind: &str, source: &Path, options: &[&str]) -> Mount {
    let mut mount = Mount::default();
    mount
        .set_destination(target.to_owned())
        .set_typ(Some(kind.to_owned()))
        .set_source(Some(source.to_owned()))
        .set_options(Some(options.iter().map(|o| (*o).to_owned()).collect()));
    mount
}

pub(super) fn id_mappings(list: &[IdMapping]) -> Result<Vec<LinuxIdMapping>, SpecError> {
    let one = |m: &IdMapping| {
        LinuxIdMappingBuilder::default()
            .container_id(m.container_id)
            .host_id(m.host_id)
            .size(m.length)
            .build()
            .map_err(SpecError::Assemble)
    };
    list.iter().map(one).collect()
}
