//! What CDI devices do to a specification that is otherwise complete.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use nix::sys::stat::{major, minor};
use oci_spec::runtime::{
    Hook as OciHook, HookBuilder, Hooks, Linux, LinuxDevice, LinuxDeviceBuilder, LinuxDeviceType,
    Mount as OciMount, MountBuilder, Process, Spec,
};

use super::Edits;
use super::format::{ContainerEdits, DeviceNode, Hook, HookName, Mount};
use crate::ocid::container::devices::rule;
use crate::ocid::container::error::SpecError;

/// Applies all edits. A variable, node or mount of the same name or path is replaced. Rules of the
/// device cgroup are left out where everything is allowed already (`privileged`).
pub(in crate::ocid::container) fn apply(
    edits: &Edits,
    spec: &mut Spec,
    privileged: bool,
) -> Result<(), SpecError> {
    for edit in &edits.0 {
        if let Some(process) = spec.process_mut() {
            environment(edit, process);
        }
        let owner = spec
            .process()
            .as_ref()
            .map(|p| (p.user().uid(), p.user().gid()));
        if let Some(linux) = spec.linux_mut() {
            for node in &edit.device_nodes {
                device(node, linux, owner, privileged)?;
            }
        }
        for mount in &edit.mounts {
            let mount = oci_mount(mount)?;
            let mounts = spec.mounts_mut().get_or_insert_default();
            mounts.retain(|m| m.destination() != mount.destination());
            mounts.push(mount);
        }
        for hook in &edit.hooks {
            let oci = oci_hook(hook)?;
            let hooks = spec.hooks_mut().get_or_insert_default();
            hooks_of(hooks, hook.hook_name)
                .get_or_insert_default()
                .push(oci);
        }
    }
    // A mount must not hide one that lies deeper.
    if edits.0.iter().any(|e| !e.mounts.is_empty())
        && let Some(mounts) = spec.mounts_mut()
    {
        mounts.sort_by_key(|m| m.destination().components().count());
    }
    Ok(())
}

fn environment(edit: &ContainerEdits, process: &mut Process) {
    let env = process.env_mut().get_or_insert_default();
    for line in &edit.env {
        let name = line.split_once('=').map_or(line.as_str(), |(name, _)| name);
        env.retain(|known| known.split_once('=').is_none_or(|(n, _)| n != name));
        env.push(line.clone());
    }
    if edit.additional_gids.is_empty() {
        return;
    }
    let mut groups = process.user().additional_gids().clone().unwrap_or_default();
    for gid in &edit.additional_gids {
        // 0 is no group that a file could be thought to mean.
        if *gid != 0 && !groups.contains(gid) {
            groups.push(*gid);
        }
    }
    process.user_mut().set_additional_gids(Some(groups));
}

fn device(
    node: &DeviceNode,
    linux: &mut Linux,
    owner: Option<(u32, u32)>,
    privileged: bool,
) -> Result<(), SpecError> {
    let device = oci_device(node, owner)?;
    if !privileged
        && matches!(
            device.typ(),
            LinuxDeviceType::B | LinuxDeviceType::C | LinuxDeviceType::U
        )
    {
        let access = match node.permissions.as_str() {
            "" => "rwm",
            letters => letters,
        };
        let which = (device.typ(), device.major(), device.minor());
        let resources = linux.resources_mut().get_or_insert_default();
        let rules = resources.devices_mut().get_or_insert_default();
        rules.push(rule(true, Some(which), access)?);
    }
    let nodes = linux.devices_mut().get_or_insert_default();
    nodes.retain(|known| known.path() != device.path());
    nodes.push(device);
    Ok(())
}

/// What the file does not say of a node is as the machine has it; only the owner is, unless it is
/// named, whom the container runs as.
fn oci_device(node: &DeviceNode, owner: Option<(u32, u32)>) -> Result<LinuxDevice, SpecError> {
    let source = match node.host_path.as_os_str().is_empty() {
        true => &node.path,
        false => &node.host_path,
    };
    let kind = match node.kind.as_str() {
        "b" => Some(LinuxDeviceType::B),
        "c" => Some(LinuxDeviceType::C),
        "u" => Some(LinuxDeviceType::U),
        "p" => Some(LinuxDeviceType::P),
        _ => None,
    };
    let said = kind.filter(|k| *k == LinuxDeviceType::P || node.major != 0);
    let (kind, major, minor, mode) = match said {
        Some(kind) => (kind, node.major, node.minor, None),
        None => {
            let (found, major, minor, mode) = on_machine(source)?;
            (kind.unwrap_or(found), major, minor, Some(mode))
        }
    };
    let mut device = LinuxDeviceBuilder::default()
        .path(node.path.clone())
        .typ(kind)
        .major(major)
        .minor(minor);
    if let Some(mode) = node.file_mode.or(mode) {
        device = device.file_mode(mode);
    }
    let not_root = |id: u32| (id > 0).then_some(id);
    if let Some(uid) = node.uid.or(owner.and_then(|(uid, _)| not_root(uid))) {
        device = device.uid(uid);
    }
    if let Some(gid) = node.gid.or(owner.and_then(|(_, gid)| not_root(gid))) {
        device = device.gid(gid);
    }
    device.build().map_err(SpecError::Assemble)
}

/// Type, numbers and mode of a device of the machine.
fn on_machine(path: &Path) -> Result<(LinuxDeviceType, i64, i64, u32), SpecError> {
    let missing = || SpecError::Missing {
        field: "deviceNodes of a CDI device".to_owned(),
        path: path.to_owned(),
    };
    let meta = fs::metadata(path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => missing(),
        _ => SpecError::io("look up the CDI device's node", path, e),
    })?;
    let kind = match meta.file_type() {
        t if t.is_char_device() => LinuxDeviceType::C,
        t if t.is_block_device() => LinuxDeviceType::B,
        t if t.is_fifo() => LinuxDeviceType::P,
        _ => return Err(missing()),
    };
    let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let mode = meta.mode() & 0o7777;
    Ok((
        kind,
        number(major(meta.rdev())),
        number(minor(meta.rdev())),
        mode,
    ))
}

fn oci_mount(mount: &Mount) -> Result<OciMount, SpecError> {
    let kind = match mount.kind.as_str() {
        "" => "bind",
        kind => kind,
    };
    MountBuilder::default()
        .destination(mount.container_path.clone())
        .source(mount.host_path.clone())
        .typ(kind)
        .options(mount.options.clone())
        .build()
        .map_err(SpecError::Assemble)
}

fn oci_hook(hook: &Hook) -> Result<OciHook, SpecError> {
    let mut oci = HookBuilder::default().path(hook.path.clone());
    if !hook.args.is_empty() {
        oci = oci.args(hook.args.clone());
    }
    if !hook.env.is_empty() {
        oci = oci.env(hook.env.clone());
    }
    if let Some(timeout) = hook.timeout {
        oci = oci.timeout(timeout);
    }
    oci.build().map_err(SpecError::Assemble)
}

fn hooks_of(hooks: &mut Hooks, name: HookName) -> &mut Option<Vec<OciHook>> {
    match name {
        #[allow(deprecated)]
        HookName::Prestart => hooks.prestart_mut(),
        HookName::CreateRuntime => hooks.create_runtime_mut(),
        HookName::CreateContainer => hooks.create_container_mut(),
        HookName::StartContainer => hooks.start_container_mut(),
        HookName::Poststart => hooks.poststart_mut(),
        HookName::Poststop => hooks.poststop_mut(),
    }
}
