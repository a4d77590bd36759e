//! What there is on this machine, read and never changed. Everything the plan depends on is here,
//! so that planning itself touches nothing.
//!
//! On a run with nothing to do this is most of the work: files are looked at rather than read, and
//! a program is asked for its version once, until its file changes.

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use ipnet::Ipv4Net;
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};

use crate::host::apt::{Apt, AptError};
use crate::host::command::CommandError;
use crate::host::fs::under;
use crate::host::systemd::Started;
use crate::host::{clock, service, systemd};

use super::catalog::Arch;
use super::path::Stamp;
use super::probe::{Plugins, Probes, Program};
use super::receipt::{Receipt, SourceRecord};
use super::settings::{Component, Settings, Source};
use super::undo::{ServiceSpec, Undo};

/// Where the CRI socket, docker's socket and the networks are.
pub const OCID_SOCKET: &str = "/run/ocid/ocid.sock";
pub const DOCKER_SOCKET: &str = "/run/docker.sock";
pub const NETWORKS: &str = "/etc/cni/net.d";
/// The services that we run.
pub const SERVICES: [&str; 2] = ["ocid", "docker"];
/// The packages that can matter.
const PACKAGES: [&str; 4] = [
    "iptables",
    "runc",
    "containernetworking-plugins",
    "docker.io",
];

/// A machine.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    pub arch: Option<Arch>,
    /// `uname -m`
    pub machine: String,
    pub os: Os,
    pub euid: u32,
    pub systemd: bool,
    pub apt: bool,
    /// Installed ones of those that matter, with their versions.
    pub packages: BTreeMap<String, String>,
    /// As `plugins` and `dockerd` looked for only where the source is not settled yet.
    pub runc: Option<Program>,
    pub plugins: Option<Plugins>,
    pub dockerd: Option<Program>,
    pub iptables: bool,
    pub routes: Vec<Route>,
    /// File names in [`NETWORKS`].
    pub networks: Vec<String>,
    pub overlay: Feature,
    pub br_netfilter: Feature,
    /// Controllers of cgroup v1 and v2 together.
    pub controllers: Vec<String>,
    /// Our services that run.
    pub running: BTreeMap<String, Running>,
    /// Processes that serve the sockets that we want.
    pub listeners: BTreeMap<&'static str, i32>,
    /// This very program.
    pub exe: PathBuf,
}

/// From os-release(5).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Os {
    pub id: String,
    pub version_id: String,
    pub like: Vec<String>,
    pub pretty: String,
}

/// Does the kernel offer something?
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Feature {
    /// Built in or loaded.
    Ready,
    /// As a module that is not loaded.
    Loadable,
    #[default]
    Missing,
}

/// An IPv4 route; default routes are not among them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    pub device: String,
    pub network: Ipv4Net,
}

/// A service that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    pub pid: i32,
    /// systemd has not read its newest unit file.
    pub needs_reload: bool,
    /// Since when; unknown without systemd, and where the clock was set meanwhile.
    pub since: Option<Started>,
}

/// Why the facts could not be read.
#[derive(Debug, thiserror::Error)]
pub enum FactsError {
    #[error(transparent)]
    Apt(#[from] AptError),
    #[error("ask systemd about our services")]
    Systemd(#[source] CommandError),
    #[error("read `{path}`")]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
}

impl Facts {
    /// Looks at the machine. `exe` is this program's own path.
    pub fn gather(
        settings: &Settings,
        receipt: &Receipt,
        probes: &mut Probes,
        exe: &Path,
    ) -> Result<Self, FactsError> {
        let root = settings.root.as_path();
        let apt = Apt::new(root, settings.lock_timeout);
        let uname = nix::sys::utsname::uname().ok();
        let text = |s: Option<&std::ffi::OsStr>| {
            s.map(|s| s.to_string_lossy().into_owned())
                .unwrap_or_default()
        };
        let machine = text(uname.as_ref().map(|u| u.machine()));
        let release = text(uname.as_ref().map(|u| u.release()));
        let systemd = settings.is_live() && systemd::is_running(root);
        // What is installed matters where the choice is still open.
        let open = |component| {
            let settled = matches!(
                receipt.sources.get(&component),
                Some(SourceRecord::Upstream | SourceRecord::Distro)
            );
            settings.has(component) && settings.source == Source::Auto && !settled
        };
        let any_runc = open(Component::Runc) || !settings.has(Component::Runc);
        let mut facts = Self {
            arch: Arch::from_machine(&machine),
            machine,
            os: Os::read(root),
            euid: nix::unistd::geteuid().as_raw(),
            systemd,
            apt: apt.is_there(),
            packages: apt.installed(&PACKAGES)?,
            runc: any_runc
                .then(|| probes.program(root, &settings.prefix, "runc", &["--version"]))
                .flatten(),
            plugins: open(Component::CniPlugins)
                .then(|| Plugins::find(root, probes))
                .flatten(),
            dockerd: open(Component::Docker)
                .then(|| probes.program(root, &settings.prefix, "dockerd", &["--version"]))
                .flatten(),
            iptables: super::probe::find(root, &settings.prefix, "iptables").is_some(),
            networks: names(&under(root, Path::new(NETWORKS)))?,
            exe: exe.to_owned(),
            ..Self::default()
        };
        if settings.is_live() {
            facts.routes = parse_routes(&fs::read_to_string("/proc/net/route").unwrap_or_default());
            facts.overlay = overlay(&release);
            facts.br_netfilter = br_netfilter(&release);
            facts.controllers = controllers();
            facts.running = running(systemd, receipt)?;
            for socket in [OCID_SOCKET, DOCKER_SOCKET] {
                if let Some(pid) = listener(Path::new(socket)) {
                    facts.listeners.insert(socket, pid);
                }
            }
        }
        Ok(facts)
    }

    /// Who serves `socket` although it is not our service of this name.
    pub fn foreign_listener(&self, socket: &str, service: &str) -> Option<i32> {
        let pid = *self.listeners.get(socket)?;
        let ours = self.running.get(service).map(|r| r.pid);
        (ours != Some(pid)).then_some(pid)
    }
}

impl Os {
    fn read(root: &Path) -> Self {
        ["/etc/os-release", "/usr/lib/os-release"]
            .iter()
            .find_map(|path| fs::read_to_string(under(root, Path::new(path))).ok())
            .map(|text| Self::parse(&text))
            .unwrap_or_default()
    }

    fn parse(text: &str) -> Self {
        let mut os = Self::default();
        for (key, value) in text.lines().filter_map(|line| line.split_once('=')) {
            let value = value.trim().trim_matches(['"', '\'']);
            match key.trim() {
                "ID" => os.id = value.to_owned(),
                "VERSION_ID" => os.version_id = value.to_owned(),
                "ID_LIKE" => os.like = value.split_whitespace().map(str::to_owned).collect(),
                "PRETTY_NAME" => os.pretty = value.to_owned(),
                _ => {}
            }
        }
        os
    }

    /// Debian, Ubuntu, or one of their children.
    pub fn is_debian(&self) -> bool {
        let known = |id: &str| matches!(id, "debian" | "ubuntu");
        known(&self.id) || self.like.iter().any(|id| known(id))
    }
}

/// The names in a folder, sorted; none when there is no folder.
fn names(folder: &Path) -> Result<Vec<String>, FactsError> {
    let read = |source| FactsError::Read {
        path: folder.to_owned(),
        source,
    };
    let mut names = Vec::new();
    match fs::read_dir(folder) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        entries => {
            for entry in entries.map_err(read)? {
                names.push(
                    entry
                        .map_err(read)?
                        .file_name()
                        .to_string_lossy()
                        .into_owned(),
                );
            }
        }
    }
    names.sort();
    Ok(names)
}

/// The table of /proc/net/route: addresses are hexadecimal in network byte order, printed by a
/// little- or big-endian machine as it is.
fn parse_routes(table: &str) -> Vec<Route> {
    let address = |hex: &str| {
        let number = u32::from_str_radix(hex, 16).ok()?;
        Some(Ipv4Addr::from(number.to_ne_bytes()))
    };
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let (device, to, mask) = (fields.first()?, fields.get(1)?, fields.get(7)?);
            let network = Ipv4Net::with_netmask(address(to)?, address(mask)?).ok()?;
            (network.prefix_len() > 0).then(|| Route {
                device: (*device).to_owned(),
                network,
            })
        })
        .collect()
}

fn overlay(release: &str) -> Feature {
    let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if known.split_whitespace().any(|word| word == "overlay") {
        return Feature::Ready;
    }
    module(release, "overlay")
}

fn br_netfilter(release: &str) -> Feature {
    // Built in, it has no folder in /sys/module; its settings tell in both cases.
    if Path::new("/proc/sys/net/bridge").is_dir() {
        return Feature::Ready;
    }
    module(release, "br_netfilter")
}

fn module(release: &str, name: &str) -> Feature {
    if Path::new("/sys/module").join(name).is_dir() {
        return Feature::Ready;
    }
    let folder = Path::new("/lib/modules").join(release);
    let has = |file: &str| {
        let list = fs::read_to_string(folder.join(file)).unwrap_or_default();
        let sought = format!("/{name}.ko");
        list.lines().any(|line| {
            let path = line.split(':').next().unwrap_or_default();
            path.contains(&sought)
        })
    };
    if has("modules.builtin") {
        Feature::Ready
    } else if has("modules.dep") {
        Feature::Loadable
    } else {
        Feature::Missing
    }
}

/// Enabled controllers of v1 (/proc/cgroups) that are mounted, and those of v2.
fn controllers() -> Vec<String> {
    let mut all: Vec<String> = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers")
        .unwrap_or_default()
        .split_whitespace()
        .map(str::to_owned)
        .collect();
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    for line in own.lines() {
        let names = line.split(':').nth(1).unwrap_or_default();
        all.extend(
            names
                .split(',')
                .filter(|name| !name.is_empty() && !name.starts_with("name="))
                .map(str::to_owned),
        );
    }
    all.sort();
    all.dedup();
    all
}

fn running(by_systemd: bool, receipt: &Receipt) -> Result<BTreeMap<String, Running>, FactsError> {
    let mut running = BTreeMap::new();
    if by_systemd {
        let units = SERVICES.map(|name| format!("{name}.service"));
        let units: Vec<&str> = units.iter().map(String::as_str).collect();
        let boot = clock::boot_ns().ok();
        for (unit, state) in systemd::show(&units).map_err(FactsError::Systemd)? {
            let name = unit.strip_suffix(".service").unwrap_or(&unit);
            // A docker.service of somebody else's is not ours for its name. An ocid.service is, where no receipt tells
            // of it any more; its unit is compared like every file.
            let recorded = receipt.record(&format!("service:{name}")).is_some();
            let by_name = name == "ocid" && state.fragment == "/etc/systemd/system/ocid.service";
            if (recorded || by_name) && state.is_active() {
                let found = Running {
                    pid: state.main_pid,
                    needs_reload: state.needs_reload,
                    since: state
                        .started
                        .filter(|s| boot.is_some_and(|boot| s.holds(boot))),
                };
                running.insert(name.to_owned(), found);
            }
        }
        return Ok(running);
    }
    for record in &receipt.records {
        if let Undo::Service { service, .. } = &record.undo
            && let Some(id) =
                service::find(&ServiceSpec::direct(service, std::time::Duration::ZERO))
        {
            let found = Running {
                pid: id.pid,
                needs_reload: false,
                since: None,
            };
            running.insert(service.name.clone(), found);
        }
    }
    Ok(running)
}

/// The process that serves a unix socket: the kernel tells who listens when one connects.
fn listener(socket: &Path) -> Option<i32> {
    // No socket, or nobody behind it.
    let stream = UnixStream::connect(socket).ok()?;
    let peer = getsockopt(&stream, PeerCredentials).ok()?;
    Some(peer.pid())
}

/// The stamp of this program, to tell whether an installed copy is of it.
pub fn exe_stamp(exe: &Path) -> Option<Stamp> {
    Stamp::follow(exe).ok().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_are_read_as_the_kernel_prints_them() {
        let table = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\n\
            eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
            cni0\t0000580A\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n\
            bad\tzz\n\n";
        let routes = parse_routes(table);
        assert_eq!(
            routes,
            [Route {
                device: "cni0".to_owned(),
                network: "10.88.0.0/16".parse().unwrap()
            }]
        );
        assert!(parse_routes("").is_empty());
    }

    #[test]
    fn distributions_are_told_apart() {
        let ubuntu = "NAME=\"Ubuntu\"\nID=ubuntu\nID_LIKE=debian\nVERSION_ID=\"24.04\"\n";
        assert!(Os::parse(ubuntu).is_debian());
        assert_eq!(Os::parse(ubuntu).version_id, "24.04");
        assert!(Os::parse("ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n").is_debian());
        assert!(!Os::parse("ID=fedora\n").is_debian());
        assert!(!Os::parse("").is_debian());
    }

    #[test]
    fn a_listener_is_known_by_its_pid() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        assert_eq!(listener(&path), None);
        let socket = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert_eq!(listener(&path), i32::try_from(std::process::id()).ok());
        drop(socket);
        assert_eq!(listener(&path), None, "a dead socket serves nobody");

        let mut facts = Facts::default();
        facts.listeners.insert(OCID_SOCKET, 7);
        assert_eq!(facts.foreign_listener(OCID_SOCKET, "ocid"), Some(7));
        let ours = Running {
            pid: 7,
            needs_reload: false,
            since: None,
        };
        facts.running.insert("ocid".to_owned(), ours);
        assert_eq!(facts.foreign_listener(OCID_SOCKET, "ocid"), None);
    }
}
