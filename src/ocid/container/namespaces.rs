//! Which namespaces a container joins, makes, or leaves alone.

use std::path::PathBuf;

use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceBuilder, LinuxNamespaceType};

use super::error::SpecError;
use super::spec::SpecInputs;
use crate::ocid::field::FieldError;
use crate::ocid::sandbox::config::NamespaceMode;

/// Where a container's namespace comes from.
enum From {
    Machine,
    New,
    Path(PathBuf),
}

/// The list for the specification. What is not in it is the machine's.
pub(super) fn of(inputs: &SpecInputs<'_>) -> Result<Vec<LinuxNamespace>, SpecError> {
    let sandbox = inputs.sandbox;
    let pod = &sandbox.config.namespaces;
    let options = inputs.config.security.namespaces(pod);
    let pods = |path: &Option<PathBuf>| path.clone().map_or(From::Machine, From::Path);
    let target = |kind: &str| match sandbox.target_pid {
        Some(pid) => Ok(From::Path(format!("/proc/{pid}/ns/{kind}").into())),
        None => {
            let field = "config.linux.security_context.namespace_options.target_id";
            let problem = format!("is `{}`, not a running container", options.target_id);
            Err(FieldError::new(field, problem))
        }
    };
    let network = match options.network {
        NamespaceMode::Pod => pods(&sandbox.net),
        NamespaceMode::Container => From::New,
        NamespaceMode::Node => From::Machine,
        NamespaceMode::Target => target("net")?,
    };
    // The machine's network goes with its host name.
    let uts = match options.network {
        NamespaceMode::Node => From::Machine,
        _ => pods(&sandbox.uts),
    };
    let ipc = match options.ipc {
        NamespaceMode::Pod => pods(&sandbox.ipc),
        NamespaceMode::Container => From::New,
        NamespaceMode::Node => From::Machine,
        NamespaceMode::Target => target("ipc")?,
    };
    let pid = match (options.pid, &sandbox.pid, pod.pid) {
        (NamespaceMode::Pod, Some(path), _) => From::Path(path.clone()),
        (NamespaceMode::Pod, None, NamespaceMode::Node) => From::Machine,
        (NamespaceMode::Pod | NamespaceMode::Container, _, _) => From::New,
        (NamespaceMode::Node, _, _) => From::Machine,
        (NamespaceMode::Target, _, _) => target("pid")?,
    };
    // On cgroup v1 the runtime shows the container its own groups by bind mounts; on v2 it takes a
    // namespace. Privileged containers see the machine's tree.
    let cgroup = if inputs.host.cgroup_v2 && !inputs.config.security.privileged {
        From::New
    } else {
        From::Machine
    };
    let mut list = Vec::new();
    for (kind, from) in [
        (LinuxNamespaceType::User, pods(&sandbox.user)),
        (LinuxNamespaceType::Mount, From::New),
        (LinuxNamespaceType::Network, network),
        (LinuxNamespaceType::Ipc, ipc),
        (LinuxNamespaceType::Uts, uts),
        (LinuxNamespaceType::Pid, pid),
        (LinuxNamespaceType::Cgroup, cgroup),
    ] {
        let namespace = LinuxNamespaceBuilder::default().typ(kind);
        let namespace = match from {
            From::Machine => continue,
            From::New => namespace,
            From::Path(path) => namespace.path(path),
        };
        list.push(namespace.build().map_err(SpecError::Assemble)?);
    }
    Ok(list)
}
