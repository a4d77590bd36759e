//! Device nodes of a container, and the rules that allow them.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::sys::stat::{major, minor};
use oci_spec::runtime::{
    LinuxDevice, LinuxDeviceBuilder, LinuxDeviceCgroup, LinuxDeviceCgroupBuilder, LinuxDeviceType,
};

use super::config::Device;
use super::error::SpecError;
use crate::ocid::field::FieldError;

/// Folders and files of /dev that are not devices of the machine, or are the container's own.
const NOT_THE_MACHINES: [&str; 7] = ["pts", "shm", "fd", "mqueue", ".lxc", ".udev", "console"];
/// Deeper trees are not folders of devices.
const DEEPEST: u32 = 8;

/// Nodes to make, and cgroup rules in the order in which they count.
#[derive(Debug, Default)]
pub(super) struct Devices {
    pub nodes: Vec<LinuxDevice>,
    pub rules: Vec<LinuxDeviceCgroup>,
}

impl Devices {
    /// Nothing but what is asked for; the runtime adds `/dev/null` and the like. A privileged
    /// container gets every device of the machine.
    pub(super) fn new(asked: &[Device], privileged: bool) -> Result<Self, SpecError> {
        let mut devices = Self::default();
        let all = rule(privileged, None, "rwm")?;
        devices.rules.push(all);
        if privileged {
            let dev = Path::new("/dev");
            devices.walk(dev, dev, "rwm", false, 0)?;
        }
        for (i, device) in asked.iter().enumerate() {
            devices.ask(
                &format!("config.devices[{i}].host_path"),
                device,
                !privileged,
            )?;
        }
        Ok(devices)
    }

    /// Gives the nodes to others than on the machine; root is whom they belong to anyway.
    pub(super) fn belong_to(&mut self, user: Option<u32>, group: Option<u32>) {
        for node in &mut self.nodes {
            if let Some(uid) = user.filter(|uid| *uid != 0) {
                node.set_uid(Some(uid));
            }
            if let Some(gid) = group.filter(|gid| *gid != 0) {
                node.set_gid(Some(gid));
            }
        }
    }

    fn ask(&mut self, field: &str, device: &Device, rules: bool) -> Result<(), SpecError> {
        let missing = || SpecError::Missing {
            field: field.to_owned(),
            path: device.host_path.clone(),
        };
        let source = match fs::canonicalize(&device.host_path) {
            Ok(path) => path,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(missing()),
            Err(e) => return Err(SpecError::io("look up the device", &device.host_path, e)),
        };
        let meta = fs::metadata(&source).map_err(|e| SpecError::io("look up", &source, e))?;
        if meta.is_dir() {
            return self.walk(
                &source,
                &device.container_path,
                &device.permissions,
                rules,
                0,
            );
        }
        let Some(kind) = kind(&meta) else {
            let problem = format!(
                "is `{}`, neither a device nor a folder of devices",
                device.host_path.display()
            );
            return Err(FieldError::new(field, problem).into());
        };
        self.add(
            device.container_path.clone(),
            kind,
            &meta,
            &device.permissions,
            rules,
        )
    }

    /// Every device below a folder, links not followed.
    fn walk(
        &mut self,
        folder: &Path,
        container: &Path,
        access: &str,
        rules: bool,
        depth: u32,
    ) -> Result<(), SpecError> {
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            // Devices come and go.
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(SpecError::io("list", folder, e)),
        };
        let mut names: Vec<_> = entries.flatten().map(|e| e.file_name()).collect();
        names.sort();
        for name in names {
            let in_dev = folder == Path::new("/dev");
            if in_dev && NOT_THE_MACHINES.iter().any(|n| name == *n) {
                continue;
            }
            let Ok(meta) = fs::symlink_metadata(folder.join(&name)) else {
                continue;
            };
            if meta.is_dir() && depth < DEEPEST {
                self.walk(
                    &folder.join(&name),
                    &container.join(&name),
                    access,
                    rules,
                    depth + 1,
                )?;
            } else if let Some(kind) = kind(&meta) {
                self.add(container.join(&name), kind, &meta, access, rules)?;
            }
        }
        Ok(())
    }

    fn add(
        &mut self,
        path: PathBuf,
        kind: LinuxDeviceType,
        meta: &fs::Metadata,
        access: &str,
        rules: bool,
    ) -> Result<(), SpecError> {
        let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        let (major, minor) = (number(major(meta.rdev())), number(minor(meta.rdev())));
        // A later one for the same path replaces the earlier.
        self.nodes.retain(|known| *known.path() != path);
        let node = LinuxDeviceBuilder::default()
            .path(path)
            .typ(kind)
            .major(major)
            .minor(minor)
            .file_mode(meta.mode() & 0o7777)
            .uid(meta.uid())
            .gid(meta.gid());
        self.nodes.push(node.build().map_err(SpecError::Assemble)?);
        if rules {
            self.rules
                .push(rule(true, Some((kind, major, minor)), access)?);
        }
        Ok(())
    }
}

pub(super) fn rule(
    allow: bool,
    device: Option<(LinuxDeviceType, i64, i64)>,
    access: &str,
) -> Result<LinuxDeviceCgroup, SpecError> {
    let mut rule = LinuxDeviceCgroupBuilder::default()
        .allow(allow)
        .access(access);
    if let Some((kind, major, minor)) = device {
        rule = rule.typ(kind).major(major).minor(minor);
    }
    rule.build().map_err(SpecError::Assemble)
}

fn kind(meta: &fs::Metadata) -> Option<LinuxDeviceType> {
    let file_type = meta.file_type();
    if file_type.is_char_device() {
        Some(LinuxDeviceType::C)
    } else if file_type.is_block_device() {
        Some(LinuxDeviceType::B)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn asked(host: &Path, container: &str, permissions: &str) -> Device {
        Device {
            host_path: host.to_owned(),
            container_path: container.into(),
            permissions: permissions.into(),
        }
    }

    #[test]
    fn a_device_by_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link");
        symlink("/dev/null", &link).unwrap();
        let devices = Devices::new(&[asked(&link, "/dev/nothing", "rw")], false).unwrap();
        assert_eq!(devices.nodes.len(), 1);
        let node = &devices.nodes[0];
        assert_eq!(node.path(), Path::new("/dev/nothing"));
        assert_eq!((node.major(), node.minor()), (1, 3));
        assert!(!devices.rules[0].allow(), "first everything is forbidden");
        let rule = &devices.rules[1];
        assert!(rule.allow());
        assert_eq!(rule.access().as_deref(), Some("rw"));
        assert_eq!((rule.major(), rule.minor()), (Some(1), Some(3)));
    }

    #[test]
    fn nodes_can_be_given_to_others() {
        let null = [asked(Path::new("/dev/null"), "/dev/null", "rw")];
        let mut devices = Devices::new(&null, false).unwrap();
        devices.belong_to(None, Some(0));
        assert_eq!(
            (devices.nodes[0].uid(), devices.nodes[0].gid()),
            (Some(0), Some(0))
        );
        devices.belong_to(Some(1000), Some(2000));
        let node = &devices.nodes[0];
        assert_eq!((node.uid(), node.gid()), (Some(1000), Some(2000)));
    }

    #[test]
    fn what_is_no_device() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        let missing = Devices::new(&[asked(&file, "/x", "r")], false).unwrap_err();
        assert!(matches!(missing, SpecError::Missing { .. }), "{missing}");
        fs::write(&file, "").unwrap();
        let e = Devices::new(&[asked(&file, "/x", "r")], false).unwrap_err();
        assert!(
            e.to_string().starts_with("`config.devices[0].host_path`"),
            "{e}"
        );
        let none = Devices::new(&[asked(dir.path(), "/x", "r")], false).unwrap();
        assert!(none.nodes.is_empty());
    }

    #[test]
    fn a_privileged_container_gets_the_machines() {
        let devices = Devices::new(&[], true).unwrap();
        assert!(devices.rules.len() == 1 && devices.rules[0].allow());
        let paths: Vec<_> = devices.nodes.iter().map(|n| n.path()).collect();
        assert!(paths.contains(&&PathBuf::from("/dev/null")), "{paths:?}");
        assert!(!paths.iter().any(|p| p.starts_with("/dev/pts")));
        let again = Devices::new(&[asked(Path::new("/dev/null"), "/dev/null", "r")], true).unwrap();
        assert_eq!(again.nodes.len(), paths.len(), "no path twice");
    }
}
