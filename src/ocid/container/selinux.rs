//! SELinux: the label of a container's processes and that of its files.
//!
//! What a config does not say of a label is as the machine's policy has it for containers (the file
//! `lxc_contexts`); only the level's two categories, which keep pods apart, come from the pod's id. Thus
//! all containers of a pod share them, before and after a restart of the daemon, and nothing has to
//! remember them.

use std::path::{Path, PathBuf};

use super::config::ContainerConfig;
use super::defaults::Defaults;
use super::error::SpecError;
use super::facts::HostFacts;
use super::security::Selinux;
use crate::host::fs::read_capped;
use crate::host::label::{label, label_tree};
use crate::ocid::field::FieldError;
use crate::ocid::sandbox::config::{NamespaceMode, SandboxConfig};

/// Categories of a policy, of which a pod has two.
const CATEGORIES: u64 = 1024;
const CAP: u64 = 1 << 20;

/// What the machine itself lives on; with another label it would not.
const NEVER: [&str; 22] = [
    "/", "/bin", "/boot", "/dev", "/etc", "/home", "/lib", "/lib32", "/lib64", "/media", "/mnt",
    "/opt", "/proc", "/root", "/run", "/sbin", "/srv", "/sys", "/tmp", "/usr", "/var", "/var/lib",
];

/// Labels that the policy has for containers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contexts {
    process: String,
    file: String,
}

/// Labels of one container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Labels {
    pub process: String,
    /// Of its root, its mounts of the kernel's, and what is relabelled for it.
    pub mount: String,
}

impl Contexts {
    /// Of the policy in use; `root` is `/etc/selinux`. None where it has none for containers.
    pub fn read(root: &Path) -> Option<Self> {
        let text = |path: PathBuf| {
            let bytes = read_capped(&path, CAP).ok()?;
            Some(String::from_utf8_lossy(&bytes).into_owned())
        };
        let config = text(root.join("config"))?;
        let policy = value(&config, "SELINUXTYPE")?;
        Self::parse(&text(root.join(policy).join("contexts/lxc_contexts"))?)
    }

    fn parse(text: &str) -> Option<Self> {
        let context = |name| value(text, name).filter(|c| c.split(':').count() >= 4);
        Some(Self {
            process: context("process")?.to_owned(),
            file: context("file")?.to_owned(),
        })
    }
}

/// `NAME = "value"`, with or without quotes and blanks.
fn value<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once('=')?;
        (key.trim() == name).then(|| value.trim().trim_matches('"'))
    })
}

/// A container's labels; None where SELinux is off, and for one that is not confined.
pub fn labels(
    config: &ContainerConfig,
    pod: &SandboxConfig,
    pod_id: &str,
    defaults: &Defaults,
    host: &HostFacts,
    warnings: &mut Vec<String>,
) -> Result<Option<Labels>, SpecError> {
    let wanted = config
        .security
        .selinux
        .as_ref()
        .or(pod.security.selinux.as_ref());
    if !host.selinux || !defaults.selinux {
        // CRI-O's own examples carry SELinux options, and it passes them over where SELinux is off.
        if wanted.is_some() {
            warnings.extend(host.once(
                "selinux",
                "SELinux is off on this machine or in the configuration, so the options for it are left out",
            ));
        }
        return Ok(None);
    }
    let namespaces = config.security.namespaces(&pod.namespaces);
    let is_node = |mode| mode == NamespaceMode::Node;
    let of_host = is_node(pod.namespaces.network) && !defaults.selinux_on_host_network;
    let of_host = of_host || is_node(namespaces.pid) || is_node(namespaces.ipc);
    if config.security.privileged || of_host {
        return Ok(None);
    }
    let Some(contexts) = &host.selinux_contexts else {
        return Err(SpecError::Unavailable {
            field: "config.linux.security_context.selinux_options".to_owned(),
            need: "its SELinux policy has no contexts for containers (`lxc_contexts`)".to_owned(),
        });
    };
    let none = Selinux::default();
    let wanted = wanted.unwrap_or(&none);
    let level = match wanted.level.as_str() {
        "" => level(pod_id),
        level => level.to_owned(),
    };
    let part = |base: &str, n: usize, own: &str| match own {
        "" => base.splitn(4, ':').nth(n).unwrap_or_default().to_owned(),
        own => own.to_owned(),
    };
    let whole = |base: &str, user: &str, role: &str, kind: &str| {
        let parts = [
            part(base, 0, user),
            part(base, 1, role),
            part(base, 2, kind),
        ];
        format!("{}:{level}", parts.join(":"))
    };
    Ok(Some(Labels {
        process: whole(&contexts.process, &wanted.user, &wanted.role, &wanted.kind),
        mount: whole(&contexts.file, "", "", ""),
    }))
}

/// `s0` with two different categories, the same for the same pod.
fn level(pod_id: &str) -> String {
    // FNV-1a; ids are random already, so it only has to spread them.
    let hash = pod_id
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
    let first = hash % CATEGORIES;
    let second = (first + 1 + (hash >> 32) % (CATEGORIES - 1)) % CATEGORIES;
    format!("s0:c{},c{}", first.min(second), first.max(second))
}

/// Gives a volume of the machine the label of the container's files.
pub(super) fn relabel(field: &str, source: &Path, labels: &Labels) -> Result<(), SpecError> {
    if NEVER.iter().any(|path| source == Path::new(path)) {
        let problem = format!(
            "is for `{}`, whose labels the machine itself needs",
            source.display()
        );
        return Err(FieldError::new(format!("{field}.selinux_relabel"), problem).into());
    }
    label_tree(source, &labels.mount).map_err(|e| SpecError::io("relabel", source, e))
}

/// Gives single files, such as those that a pod's containers share, that label.
pub(super) fn label_files<'a>(
    files: impl IntoIterator<Item = &'a Path>,
    labels: &Labels,
) -> Result<(), SpecError> {
    for file in files {
        label(file, &labels.mount).map_err(|e| SpecError::io("label", file, e))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn machine() -> HostFacts {
        let mut host = HostFacts::none();
        host.selinux = true;
        host.selinux_contexts = Contexts::parse(
            "process = \"system_u:system_r:container_t:s0\"\nfile = \"system_u:object_r:container_file_t:s0\"\n",
        );
        host
    }

    fn of(
        selinux: Option<Selinux>,
        host: &HostFacts,
        on: bool,
    ) -> Result<Option<Labels>, SpecError> {
        let mut config = ContainerConfig::default();
        config.security.selinux = selinux;
        let defaults = Defaults {
            selinux: on,
            ..Default::default()
        };
        labels(
            &config,
            &SandboxConfig::default(),
            "pod",
            &defaults,
            host,
            &mut Vec::new(),
        )
    }

    #[test]
    fn the_policys_with_categories_of_the_pod() {
        let plain = of(None, &machine(), true).unwrap().unwrap();
        let level = level("pod");
        assert_eq!(
            plain.process,
            format!("system_u:system_r:container_t:{level}")
        );
        assert_eq!(
            plain.mount,
            format!("system_u:object_r:container_file_t:{level}")
        );
        let wanted = Selinux {
            kind: "spc_t".into(),
            level: "s0:c1,c2".into(),
            ..Default::default()
        };
        let own = of(Some(wanted), &machine(), true).unwrap().unwrap();
        assert_eq!(own.process, "system_u:system_r:spc_t:s0:c1,c2");
        assert_eq!(own.mount, "system_u:object_r:container_file_t:s0:c1,c2");
    }

    #[test]
    fn two_categories_that_differ() {
        let mut seen = std::collections::BTreeSet::new();
        for n in 0..500 {
            let level = level(&n.to_string());
            let pair = level
                .strip_prefix("s0:c")
                .unwrap()
                .split_once(",c")
                .unwrap();
            let (a, b): (u64, u64) = (pair.0.parse().unwrap(), pair.1.parse().unwrap());
            assert!(a < b && b < CATEGORIES, "{level}");
            seen.insert(level);
        }
        assert!(seen.len() > 490, "{}", seen.len());
    }

    #[test]
    fn where_there_is_none() {
        assert_eq!(of(None, &machine(), false).unwrap(), None);
        assert_eq!(of(None, &HostFacts::none(), true).unwrap(), None);
        let mut host = machine();
        host.selinux_contexts = None;
        assert!(matches!(
            of(None, &host, true),
            Err(SpecError::Unavailable { .. })
        ));
        let mut config = ContainerConfig::default();
        config.security.privileged = true;
        let defaults = Defaults {
            selinux: true,
            ..Default::default()
        };
        let pod = SandboxConfig::default();
        let none = labels(&config, &pod, "p", &defaults, &machine(), &mut Vec::new());
        assert_eq!(none.unwrap(), None);
    }

    #[test]
    fn the_policy_in_use_is_read() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Contexts::read(dir.path()), None);
        fs::write(
            dir.path().join("config"),
            "# x\nSELINUX=enforcing\nSELINUXTYPE=mine\n",
        )
        .unwrap();
        assert_eq!(Contexts::read(dir.path()), None);
        let folder = dir.path().join("mine/contexts");
        fs::create_dir_all(&folder).unwrap();
        fs::write(
            folder.join("lxc_contexts"),
            "process = \"a:b:c:s0\"\nfile=d:e:f:s0\n",
        )
        .unwrap();
        let contexts = Contexts::read(dir.path()).unwrap();
        assert_eq!(
            (contexts.process.as_str(), contexts.file.as_str()),
            ("a:b:c:s0", "d:e:f:s0")
        );
        assert_eq!(Contexts::parse("process = \"a\"\nfile = \"b\"\n"), None);
    }

    #[test]
    fn pods_with_the_machines_network_have_none_unless_told() {
        let config = ContainerConfig::default();
        let mut pod = SandboxConfig::default();
        pod.namespaces.network = NamespaceMode::Node;
        let mut defaults = Defaults {
            selinux: true,
            ..Default::default()
        };
        let of = |defaults: &Defaults| {
            labels(&config, &pod, "p", defaults, &machine(), &mut Vec::new()).unwrap()
        };
        assert_eq!(of(&defaults), None);
        defaults.selinux_on_host_network = true;
        assert!(of(&defaults).is_some());
    }

    #[test]
    fn what_the_machine_lives_on_keeps_its_labels() {
        let labels = Labels {
            process: "p".into(),
            mount: "m".into(),
        };
        let e = relabel("config.mounts[0]", Path::new("/etc"), &labels).unwrap_err();
        assert!(
            e.to_string()
                .starts_with("`config.mounts[0].selinux_relabel`"),
            "{e}"
        );
    }
}
