//! Everything that speaks against going on, found before anything is touched, each finding with its
//! cause and its remedy, all of them at once.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::choice::NoSource;
use super::facts::{DOCKER_SOCKET, Facts, Feature, NETWORKS, OCID_SOCKET};
use super::receipt::Receipt;
use super::settings::{Component, Settings};
use super::step::{Kind, Observation, Step};

/// The bridge of our network.
const BRIDGE: &str = "cni0";
/// The name of our network's file: the first by name wins.
const NETWORK: &str = "10-mynet.conflist";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Stops the run.
    Error,
    Warning,
}

/// One thing that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// For `--ignore`.
    pub id: &'static str,
    pub severity: Severity,
    pub cause: String,
    pub remedy: String,
    /// May the user decide that it does not matter?
    pub ignorable: bool,
}

fn error(id: &'static str, cause: String, remedy: String) -> Finding {
    Finding {
        id,
        severity: Severity::Error,
        cause,
        remedy,
        ignorable: false,
    }
}

fn doubt(id: &'static str, cause: String, remedy: String) -> Finding {
    Finding {
        ignorable: true,
        ..error(id, cause, remedy)
    }
}

fn warning(id: &'static str, cause: String, remedy: String) -> Finding {
    Finding {
        severity: Severity::Warning,
        ..doubt(id, cause, remedy)
    }
}

/// What the checks look at.
pub struct Inspected<'a> {
    pub settings: &'a Settings,
    pub facts: &'a Facts,
    pub receipt: &'a Receipt,
    pub without_source: &'a [NoSource],
    /// Why upstream, which alone may be used, cannot be.
    pub unreachable: &'a [String],
    pub steps: &'a [(Step, Observation)],
}

/// All findings; ignored ones have become warnings.
pub fn check(seen: &Inspected<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    privileges(seen, &mut findings);
    sources(seen, &mut findings);
    kernel(seen, &mut findings);
    networks(seen, &mut findings);
    sockets(seen, &mut findings);
    files(seen, &mut findings);
    for finding in &mut findings {
        if finding.ignorable && seen.settings.ignore.contains(finding.id) {
            finding.severity = Severity::Warning;
        }
    }
    findings
}

fn privileges(seen: &Inspected<'_>, findings: &mut Vec<Finding>) {
    if seen.facts.euid != 0 && seen.settings.is_live() {
        findings.push(error(
            "not-root",
            format!("crio-setup runs as user {}, not as root", seen.facts.euid),
            "run it with `sudo`".to_owned(),
        ));
    }
}

fn sources(seen: &Inspected<'_>, findings: &mut Vec<Finding>) {
    for without in seen.without_source {
        findings.push(error(
            "no-source",
            format!("`{}` cannot be had: {}", without.component, without.reason),
            format!(
                "install it yourself, or leave it out with `--without {}`",
                without.component
            ),
        ));
    }
    for reason in seen.unreachable {
        findings.push(error(
            "upstream-unreachable",
            format!("upstream is out of reach: {reason}"),
            "check the network and `https_proxy`, or take packages with `--source distro`"
                .to_owned(),
        ));
    }
    let packages = seen.steps.iter().any(|(step, state)| {
        matches!(step.kind, Kind::Package(_)) && matches!(state, Observation::Pending(_))
    });
    if packages && !seen.facts.apt {
        findings.push(error(
            "no-apt",
            "packages are to be installed, and there is no apt".to_owned(),
            "use `--source upstream`".to_owned(),
        ));
    }
    if !seen.facts.os.is_debian() && seen.settings.is_live() {
        let os = match seen.facts.os.pretty.as_str() {
            "" => "this system",
            pretty => pretty,
        };
        findings.push(warning(
            "unknown-system",
            format!("{os} is neither Debian nor Ubuntu, on which crio-setup is tested"),
            "expect to install `iptables` yourself".to_owned(),
        ));
    }
}

fn kernel(seen: &Inspected<'_>, findings: &mut Vec<Finding>) {
    if !seen.settings.is_live() {
        return;
    }
    if seen.facts.overlay == Feature::Missing {
        findings.push(doubt(
            "no-overlay",
            "the kernel has no overlay file system, in which containers live".to_owned(),
            "boot a kernel with `overlay`".to_owned(),
        ));
    }
    if seen.facts.br_netfilter == Feature::Missing {
        findings.push(warning(
            "no-br-netfilter",
            "the kernel has no `br_netfilter`: packets between pods of this node bypass iptables"
                .to_owned(),
            "boot a kernel with `br_netfilter` if services are to work".to_owned(),
        ));
    }
    let missing: Vec<&str> = ["cpu", "memory", "pids"]
        .into_iter()
        .filter(|name| !seen.facts.controllers.iter().any(|c| c == name))
        .collect();
    if !missing.is_empty() {
        findings.push(warning(
            "no-controllers",
            format!(
                "no cgroup controller for {}: limits of pods will not hold",
                missing.join(", ")
            ),
            "mount cgroup2 (or the v1 hierarchies), or enable the controllers on the kernel's command line"
                .to_owned(),
        ));
    }
}

fn networks(seen: &Inspected<'_>, findings: &mut Vec<Finding>) {
    if !seen.settings.has(Component::CniConfig) {
        return;
    }
    let subnet = seen.settings.subnet;
    for route in &seen.facts.routes {
        let (ours, other) = (&subnet, &route.network);
        if route.device == BRIDGE {
            if ours != other {
                findings.push(doubt(
                    "bridge-address",
                    format!("the bridge `{BRIDGE}` exists with the network {other}, not {ours}"),
                    format!("use it with `--subnet {other}`, or remove it with `ip link delete {BRIDGE}`"),
                ));
            }
        } else if ours.contains(&other.network()) || other.contains(&ours.network()) {
            findings.push(doubt(
                "subnet-overlap",
                format!(
                    "the pods' network {ours} overlaps the route to {other} by `{}`",
                    route.device
                ),
                "give the pods another one, e.g. `--subnet 10.89.0.0/16`".to_owned(),
            ));
        }
    }
    for name in &seen.facts.networks {
        let path = Path::new(NETWORKS).join(name);
        let is_network = ["conf", "conflist", "json"]
            .iter()
            .any(|e| path.extension().is_some_and(|x| x == *e));
        if is_network && name.as_str() < NETWORK && seen.receipt.wrote(&path).is_none() {
            findings.push(doubt(
                "other-network",
                format!(
                    "`{}` comes before `{NETWORK}` by name: pods would get that network",
                    path.display()
                ),
                "keep it with `--without cni-config`, or move it away".to_owned(),
            ));
        }
    }
}

fn sockets(seen: &Inspected<'_>, findings: &mut Vec<Finding>) {
    if seen.settings.has(Component::Ocid)
        && let Some(pid) = seen.facts.foreign_listener(OCID_SOCKET, "ocid")
    {
        findings.push(error(
            "socket-in-use",
            format!("process {pid} serves `{OCID_SOCKET}`, and crio-setup did not start it"),
            format!("stop it: `kill {pid}`; see `ps -p {pid} -f`"),
        ));
    }
    if seen.settings.has(Component::Docker)
        && let Some(pid) = seen.facts.foreign_listener(DOCKER_SOCKET, "docker")
    {
        findings.push(warning(
            "docker-runs",
            format!("process {pid} serves `{DOCKER_SOCKET}`: that docker stays as it is"),
            "nothing is to be done; `--without docker` does not ask".to_owned(),
        ));
    }
}

fn files(seen: &Inspected<'_>, findings: &mut Vec<Finding>) {
    let mut symlinked: Vec<PathBuf> = Vec::new();
    for (step, state) in seen.steps {
        match state {
            Observation::Foreign(foreign) => {
                let path = foreign.path.display();
                let remedy = if foreign.replaceable {
                    format!(
                        "move `{path}` away, or let it be replaced until `uninstall` with `--replace-foreign`"
                    )
                } else {
                    format!("move `{path}` away")
                };
                findings.push(error(
                    "foreign-file",
                    format!("`{path}` is {} that is not ours", foreign.what),
                    remedy,
                ));
            }
            Observation::Kept(why) if matches!(step.kind, Kind::File(_)) => {
                findings.push(warning(
                    "kept-edit",
                    format!("`{}` {why}: it stays as it is", step_path(step)),
                    format!(
                        "to have ours again: `rm {0}` and `crio-setup install`",
                        step_path(step)
                    ),
                ));
            }
            _ => {}
        }
        // Inside the tree of an image an absolute link would lead out of it, into this system.
        if !seen.settings.is_live() {
            for path in step.action().paths() {
                let parents = path.ancestors().skip(1).filter(|p| *p != Path::new("/"));
                for folder in parents {
                    let real = crate::host::fs::under(&seen.settings.root, folder);
                    let link = std::fs::symlink_metadata(&real).is_ok_and(|m| m.is_symlink());
                    if link && !symlinked.contains(&real) {
                        symlinked.push(real);
                    }
                }
            }
        }
    }
    for real in symlinked {
        findings.push(error(
            "symlinked-folder",
            format!(
                "`{}` is a symlink, which may lead out of the image",
                real.display()
            ),
            "make it a folder".to_owned(),
        ));
    }
}

fn step_path(step: &Step) -> String {
    let paths = step.action().paths();
    paths
        .first()
        .map_or_else(String::new, |p| p.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::setup::facts::Route;
    use crate::setup::settings::Layer;

    fn good() -> Facts {
        Facts {
            overlay: Feature::Ready,
            br_netfilter: Feature::Ready,
            controllers: ["cpu", "memory", "pids"].map(str::to_owned).to_vec(),
            os: super::super::facts::Os {
                id: "debian".to_owned(),
                ..Default::default()
            },
            apt: true,
            ..Facts::default()
        }
    }

    fn ids(layer: Layer, facts: &Facts, steps: &[(Step, Observation)]) -> Vec<&'static str> {
        let settings = layer.settle().unwrap();
        let seen = Inspected {
            settings: &settings,
            facts,
            receipt: &Receipt::default(),
            without_source: &[],
            unreachable: &[],
            steps,
        };
        check(&seen)
            .into_iter()
            .filter(|f| f.severity == Severity::Error)
            .map(|f| f.id)
            .collect()
    }

    fn route(device: &str, network: &str) -> Route {
        Route {
            device: device.to_owned(),
            network: network.parse().unwrap(),
        }
    }

    #[test]
    fn a_good_machine_has_no_findings() {
        assert!(ids(Layer::default(), &good(), &[]).is_empty());
    }

    #[test]
    fn everything_is_found_at_once() {
        let mut facts = good();
        facts.euid = 1000;
        facts.overlay = Feature::Missing;
        facts.routes = vec![
            route("eth0", "10.0.0.0/8"),
            route("eth1", "10.88.7.0/24"),
            route("eth2", "192.168.0.0/16"),
            route("cni0", "10.88.0.0/16"),
        ];
        facts.networks = ["05-calico.conflist", "10-mynet.conflist", "06-readme.txt"]
            .map(str::to_owned)
            .to_vec();
        facts.listeners.insert(OCID_SOCKET, 42);
        let expected = [
            "not-root",
            "no-overlay",
            "subnet-overlap",
            "subnet-overlap",
            "other-network",
            "socket-in-use",
        ];
        assert_eq!(ids(Layer::default(), &facts, &[]), expected);
        let ignoring = Layer {
            ignore: Some(vec!["subnet-overlap".to_owned(), "not-root".to_owned()]),
            ..Layer::default()
        };
        let expected = ["not-root", "no-overlay", "other-network", "socket-in-use"];
        assert_eq!(ids(ignoring, &facts, &[]), expected);
    }

    #[test]
    fn a_bridge_of_another_network_is_told() {
        let mut facts = good();
        facts.routes = vec![route("cni0", "10.85.0.0/16")];
        assert_eq!(ids(Layer::default(), &facts, &[]), ["bridge-address"]);
        let layer = Layer {
            subnet: Some("10.85.0.0/16".to_owned()),
            ..Layer::default()
        };
        assert!(ids(layer, &facts, &[]).is_empty());
        let layer = Layer {
            without: Some(vec![Component::CniConfig]),
            ..Layer::default()
        };
        assert!(ids(layer, &facts, &[]).is_empty());
    }
}
