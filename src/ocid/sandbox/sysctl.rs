//! Kernel parameters of a pod: only those that belong to one of its own namespaces.

use std::collections::BTreeMap;

use super::config::{NamespaceMode, NamespaceOptions, SandboxConfig};
use crate::host::namespace::Kind;
use crate::ocid::field::{FieldError, plain};

/// The name with dots between its parts. As sysctl(8) has it, the first separator decides: after a
/// slash the dots belong to the parts (`net/ipv4/conf/eth0.100/rp_filter`), and are written as
/// slashes here. None where it is no name of a parameter.
pub fn normalised(name: &str) -> Option<String> {
    let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '/' | '_' | '-');
    if !name.chars().all(valid) || name.len() > 256 {
        return None;
    }
    let slashes_first = match (name.find('/'), name.find('.')) {
        (Some(slash), Some(dot)) => slash < dot,
        (slash, _) => slash.is_some(),
    };
    let name = if slashes_first {
        let swap = |c| match c {
            '/' => '.',
            '.' => '/',
            c => c,
        };
        name.chars().map(swap).collect()
    } else {
        name.to_owned()
    };
    // `..` would show as an empty part or as a part of slashes only.
    let part_is_name = |part: &str| part.chars().any(|c| !matches!(c, '/' | '.'));
    (name.contains('.') && name.split('.').all(part_is_name)).then_some(name)
}

/// The namespace that a (normalised) parameter belongs to; None for one of the whole machine, and
/// for the host name, which has a field of its own.
fn owner(name: &str) -> Option<Kind> {
    Kind::of_sysctl(name).filter(|_| name != "kernel.hostname")
}

/// Does a pod with these namespaces have one of its own for the parameter?
fn is_own(owner: Kind, namespaces: &NamespaceOptions) -> bool {
    match owner {
        // The host's network goes with the host's name.
        Kind::Net | Kind::Uts => namespaces.network != NamespaceMode::Node,
        Kind::Ipc => namespaces.ipc != NamespaceMode::Node,
        Kind::Pid | Kind::User => false,
    }
}

/// Is the namespace each container's own, and so not there before the container?
fn is_containers(owner: Kind, namespaces: &NamespaceOptions) -> bool {
    match owner {
        Kind::Net => namespaces.network == NamespaceMode::Container,
        Kind::Ipc => namespaces.ipc == NamespaceMode::Container,
        Kind::Uts | Kind::Pid | Kind::User => false,
    }
}

/// The parameters that a container sets in namespaces of its own, by the kinds that it makes anew: those
/// of a pod that has no such namespace to share.
pub fn of_container(config: &SandboxConfig, new: &[Kind]) -> BTreeMap<String, String> {
    let set = |name: &str| {
        owner(name).is_some_and(|o| new.contains(&o) && is_containers(o, &config.namespaces))
    };
    let all = config.sysctls.iter().filter(|(name, _)| set(name));
    all.map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

/// Reads a pod's parameters and refuses those that would change the machine.
pub(super) fn parse(
    field: &str,
    asked: impl IntoIterator<Item = (String, String)>,
    namespaces: &NamespaceOptions,
) -> Result<BTreeMap<String, String>, FieldError> {
    let mut sysctls = BTreeMap::new();
    for (name, value) in asked {
        let at = format!("{field}[{name}]");
        let known = normalised(&name)
            .ok_or_else(|| FieldError::new(&at, "is not the name of a kernel parameter"))?;
        let owner = owner(&known)
            .ok_or_else(|| FieldError::new(&at, "is not a parameter of a namespace"))?;
        if !is_own(owner, namespaces) {
            let problem = "cannot be set in a pod that uses the machine's own namespace for it";
            return Err(FieldError::new(at, problem));
        }
        plain(&at, &value.replace('\t', " "))?;
        sysctls.insert(known, value);
    }
    Ok(sysctls)
}

/// The parameters to write into a pod's new namespaces: the configured defaults (`name=value`) that
/// apply to it, then its own. Names are [`normalised`].
pub fn effective(
    config: &SandboxConfig,
    defaults: &[(String, String)],
) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for (name, value) in defaults {
        if let Some(name) = normalised(name)
            && owner(&name).is_some_and(|o| is_own(o, &config.namespaces))
        {
            all.insert(name, value.clone());
        }
    }
    all.extend(config.sysctls.clone());
    all.retain(|name, _| owner(name).is_some_and(|o| !is_containers(o, &config.namespaces)));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(name: &str, value: &str, host: bool) -> Result<BTreeMap<String, String>, FieldError> {
        let mode = if host {
            NamespaceMode::Node
        } else {
            NamespaceMode::Pod
        };
        let namespaces = NamespaceOptions {
            network: mode,
            ipc: mode,
            ..Default::default()
        };
        parse("s", [(name.to_owned(), value.to_owned())], &namespaces)
    }

    #[test]
    fn namespaced_ones_are_allowed() {
        for name in [
            "net.ipv4.ip_forward",
            "net/ipv4/ip_forward",
            "kernel.shm_rmid_forced",
            "fs.mqueue.msg_max",
            "kernel.domainname",
        ] {
            assert!(one(name, "1", false).is_ok(), "{name}");
            assert!(one(name, "1", true).is_err(), "{name} on the host");
        }
        let vlan = one("net/ipv4/conf/eth0.100/rp_filter", "0 1", false).unwrap();
        let name = vlan.keys().next().unwrap();
        assert_eq!(name, "net.ipv4.conf.eth0/100.rp_filter");
    }

    #[test]
    fn the_machines_are_refused() {
        for name in [
            "kernel.panic",
            "vm.swappiness",
            "kernel.hostname",
            "kernel.shmmaxx",
            "net",
            "net.",
            "net..ipv4",
            "net/../kernel/panic",
            "net.ipv4.//.x",
            "net.ipv4/../../kernel.panic\n",
            "",
        ] {
            assert!(one(name, "1", false).is_err(), "{name}");
        }
        let e = one("kernel.panic", "1", false).unwrap_err().to_string();
        assert_eq!(e, "`s[kernel.panic]` is not a parameter of a namespace");
        assert!(one("net.ipv4.ip_forward", "1\n2", false).is_err());
    }

    #[test]
    fn those_of_containers_wait_for_them() {
        let mut config = SandboxConfig::default();
        config.namespaces.ipc = NamespaceMode::Container;
        for name in ["kernel.shmmax", "net.core.somaxconn"] {
            config.sysctls.insert(name.to_owned(), "1".to_owned());
        }
        let names = |map: BTreeMap<String, String>| map.into_keys().collect::<Vec<_>>();
        assert_eq!(names(effective(&config, &[])), ["net.core.somaxconn"]);
        let new = [Kind::Net, Kind::Ipc];
        assert_eq!(names(of_container(&config, &new)), ["kernel.shmmax"]);
        assert!(of_container(&config, &[Kind::Net]).is_empty());
    }

    #[test]
    fn defaults_apply_where_they_can() {
        let defaults = [
            ("net.ipv4.ping_group_range".to_owned(), "0 0".to_owned()),
            ("kernel.shmmax".to_owned(), "1".to_owned()),
            ("kernel.panic".to_owned(), "1".to_owned()),
        ];
        let mut config = SandboxConfig::default();
        config.namespaces.ipc = NamespaceMode::Node;
        let ping = ("net.ipv4.ping_group_range", "0 100");
        config.sysctls = [(ping.0.to_owned(), ping.1.to_owned())].into();
        let own = [(ping.0.to_owned(), ping.1.to_owned())].into();
        assert_eq!(effective(&config, &defaults), own);
    }
}
