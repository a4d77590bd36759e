//! The steps that make this machine a node, in order: a function of settings, facts, receipt and
//! choices that touches nothing.
//!
//! The order is that of need, and backwards that of undoing: packages first; what programs leave
//! behind is noted before the services that make it start, so that it goes after they stopped.

mod docker;

use std::path::{Path, PathBuf};

use super::choice::{Choice, From};
use super::facts::{Facts, NETWORKS};
use super::receipt::Receipt;
use super::settings::{Component, Profile, Settings, Source};
use super::step::{
    ArtifactStep, Byproduct, Content, Directory, FileStep, Kind, Links, Module, OwnBinary, Package,
    ProgramAt, ServiceStep, Step, SymlinkStep, Sysctl, UnpackStep,
};
use super::undo::Undo;
use crate::template::vars::DOCKERD_ARGS;
use crate::template::{self, Crictl, OcidConf, OcidUnit, TemplateError};

const UNITS: &str = "/etc/systemd/system";
const PLUGINS: &str = "/opt/cni/bin";
const SECCOMP: &str = include_str!("../../templates/ocid/seccomp.json");
const MODULES: [&str; 2] = ["overlay", "br_netfilter"];
const SYSCTLS: [(&str, &str); 3] = [
    ("net/ipv4/ip_forward", "1"),
    ("net/bridge/bridge-nf-call-iptables", "1"),
    ("net/bridge/bridge-nf-call-ip6tables", "1"),
];

/// What is to be done, whether or not it has been done already.
#[derive(Debug, Clone)]
pub struct Plan {
    pub choices: Vec<Choice>,
    pub steps: Vec<Step>,
    /// What the user should know besides.
    pub notes: Vec<String>,
}

impl Plan {
    /// Makes the plan. An error is a value that cannot stand in one of our files.
    pub fn make(
        settings: &Settings,
        facts: &Facts,
        receipt: &Receipt,
        choices: Vec<Choice>,
    ) -> Result<Self, TemplateError> {
        let mut planner = Planner {
            settings,
            facts,
            choices: &choices,
            steps: Vec::new(),
        };
        planner.packages(receipt);
        for &component in &settings.components {
            match component {
                Component::Host => planner.host(),
                Component::Runc => planner.runc(),
                Component::CniPlugins => planner.plugins(),
                Component::CniConfig => planner.networks(),
                Component::Ocid => planner.ocid()?,
                Component::Docker => planner.docker(),
            }
        }
        if settings.is_live() {
            planner.services();
        }
        let steps = planner.steps;
        let mut notes: Vec<String> = receipt
            .sources
            .keys()
            .filter(|c| !settings.has(**c))
            .map(|c| {
                format!("`{c}` was installed earlier and stays; `crio-setup uninstall` removes all")
            })
            .collect();
        for choice in &choices {
            if matches!(choice.from, From::Distro { .. })
                && settings.source == Source::Auto
                && choice.why != "as before"
            {
                notes.push(format!(
                    "{} comes from the distro, because {}",
                    choice.component, choice.why
                ));
            }
        }
        Ok(Self {
            choices,
            steps,
            notes,
        })
    }
}

struct Planner<'a> {
    settings: &'a Settings,
    facts: &'a Facts,
    choices: &'a [Choice],
    steps: Vec<Step>,
}

impl Planner<'_> {
    fn from(&self, component: Component) -> Option<&From> {
        self.choices
            .iter()
            .find(|c| c.component == component)
            .map(|c| &c.from)
    }

    /// `auto` keeps what is installed and fit, an earlier release of ours included.
    fn keeps(&self) -> bool {
        self.settings.source == Source::Auto
    }

    fn push(&mut self, component: Component, name: impl std::fmt::Display, kind: Kind) {
        self.steps.push(Step::new(component, name, kind));
    }

    fn folder(&mut self, component: Component, path: impl AsRef<Path>) {
        self.folder_with(component, path, 0o755, false);
    }

    fn folder_with(
        &mut self,
        component: Component,
        path: impl AsRef<Path>,
        mode: u32,
        purge: bool,
    ) {
        let path = path.as_ref().to_owned();
        let id = format!("folder:{}", path.display());
        if self.steps.iter().any(|step| step.id.ends_with(&id)) {
            return;
        }
        let kind = Kind::Directory(Directory { path, mode, purge });
        self.push(component, id, kind);
    }

    /// A file in a folder that may have to be made.
    fn file(&mut self, component: Component, path: &str, content: Content) {
        let path = PathBuf::from(path);
        if let Some(folder) = path.parent() {
            self.folder(component, folder);
        }
        let id = format!("file:{}", path.display());
        let kind = Kind::File(FileStep {
            path,
            mode: 0o644,
            content,
            keep_edits: true,
        });
        self.push(component, id, kind);
    }

    fn link(&mut self, component: Component, path: PathBuf, target: &Path, any_target: bool) {
        if let Some(folder) = path.parent() {
            self.folder(component, folder);
        }
        let id = format!("link:{}", path.display());
        let target = target.to_owned();
        let kind = Kind::Symlink(SymlinkStep {
            path,
            target,
            any_target,
        });
        self.push(component, id, kind);
    }

    /// A unit file's link into `multi-user.target`: what `systemctl enable` makes of the units'
    /// `[Install]` section, here for running systems and for image trees alike.
    fn enable(&mut self, component: Component, unit: &str) {
        let link = Path::new(UNITS).join("multi-user.target.wants").join(unit);
        self.link(component, link, &Path::new(UNITS).join(unit), true);
    }

    /// All packages at once: one run of apt, one wait for its lock.
    fn packages(&mut self, receipt: &Receipt) {
        let ours = |name: &str| {
            receipt.records.iter().any(|record| match &record.undo {
                Undo::Packages { added, .. } => added.iter().any(|a| a == name),
                _ => false,
            })
        };
        let mut names: Vec<String> = self
            .choices
            .iter()
            .filter(|choice| choice.component != Component::Docker || !self.foreign_docker())
            .filter_map(|choice| match choice.from {
                From::Distro { package } => Some(package.to_owned()),
                _ => None,
            })
            .collect();
        // The bridge plugin's ipMasq calls it.
        let wanted = self.settings.has(Component::Host) && self.facts.apt;
        if wanted && (!self.facts.iptables || ours("iptables")) {
            names.push("iptables".to_owned());
        }
        if !names.is_empty() {
            names.sort();
            if self.settings.is_live() {
                // Maintainer scripts that add a group leave their lock behind.
                let files = vec!["/run/adduser".into()];
                let bridges = Vec::new();
                let kind = Kind::Byproduct(Byproduct { files, bridges });
                self.push(Component::Host, "byproducts", kind);
            }
            let kind = Kind::Package(Package { names });
            self.push(Component::Host, "packages", kind);
        }
    }

    fn host(&mut self) {
        let host = Component::Host;
        let modules: String = MODULES.map(|name| format!("{name}\n")).concat();
        let text = format!(
            "# crio-setup: overlay file systems, and bridges that pass the packet filter.\n{modules}"
        );
        self.file(
            host,
            "/etc/modules-load.d/crio-setup.conf",
            Content::Text(text),
        );
        let settings: String = SYSCTLS
            .map(|(key, value)| format!("{} = {value}\n", key.replace('/', ".")))
            .concat();
        let text = format!(
            "# crio-setup: packets of pods are forwarded, those on a bridge filtered.\n{settings}"
        );
        self.file(
            host,
            "/etc/sysctl.d/90-crio-setup.conf",
            Content::Text(text),
        );
        if !self.settings.is_live() {
            return;
        }
        for (name, feature) in MODULES
            .into_iter()
            .zip([self.facts.overlay, self.facts.br_netfilter])
        {
            let kind = Kind::Module(Module { name, feature });
            self.push(host, format!("module:{name}"), kind);
        }
        for (key, value) in SYSCTLS {
            let kind = Kind::Sysctl(Sysctl { key, value });
            self.push(host, format!("sysctl:{key}"), kind);
        }
    }

    fn runc(&mut self) {
        if let Some(From::Upstream(artifact)) = self.from(Component::Runc).cloned() {
            self.folder(Component::Runc, self.settings.prefix.join("bin"));
            let path = self.settings.bin("runc");
            let id = format!("program:{}", path.display());
            let kind = Kind::Artifact(ArtifactStep {
                artifact: *artifact,
                path,
                keep: self.keeps(),
            });
            self.push(Component::Runc, id, kind);
        }
    }

    /// Where runc is, or will be.
    fn runc_at(&self) -> ProgramAt {
        match self.from(Component::Runc) {
            Some(From::Kept { path }) => ProgramAt::Path(path.clone()),
            Some(From::Distro { .. }) => ProgramAt::Packaged("runc"),
            Some(From::Upstream(_)) => ProgramAt::Path(self.settings.bin("runc")),
            // Not ours to install: whatever there is.
            None => ProgramAt::Path(
                self.facts
                    .runc
                    .as_ref()
                    .map_or_else(|| self.settings.bin("runc"), |program| program.path.clone()),
            ),
        }
    }

    fn plugins(&mut self) {
        let component = Component::CniPlugins;
        self.folder(component, PLUGINS);
        let links = |from: &Path| {
            Kind::Links(Links {
                from: from.to_owned(),
                into: PLUGINS.into(),
            })
        };
        match self.from(component).cloned() {
            Some(From::Upstream(artifact)) => {
                let kind = Kind::Unpack(UnpackStep {
                    artifact: *artifact,
                    folder: PLUGINS.into(),
                    keep: self.keeps(),
                });
                self.push(component, "programs", kind);
            }
            Some(From::Distro { .. }) => {
                self.push(component, "links", links(Path::new("/usr/lib/cni")));
            }
            Some(From::Kept { path }) if path != Path::new(PLUGINS) => {
                self.push(component, "links", links(&path));
            }
            _ => {}
        }
    }

    fn networks(&mut self) {
        let component = Component::CniConfig;
        let (folder, subnet) = (PathBuf::from(PLUGINS), self.settings.subnet.to_string());
        let loopback = Content::Loopback {
            folder: folder.clone(),
        };
        let bridge = Content::Bridge { folder, subnet };
        self.file(component, &format!("{NETWORKS}/10-mynet.conflist"), bridge);
        self.file(
            component,
            &format!("{NETWORKS}/99-loopback.conflist"),
            loopback,
        );
        // host-local keeps its leases there.
        self.folder(component, "/var/lib/cni/networks");
        self.folder_with(component, "/var/lib/cni/networks/mynet", 0o755, true);
        if self.settings.is_live() {
            let kind = Kind::Byproduct(Byproduct {
                files: vec!["/run/xtables.lock".into()],
                bridges: vec!["cni0".to_owned()],
            });
            self.push(component, "byproducts", kind);
        }
    }

    fn ocid(&mut self) -> Result<(), TemplateError> {
        let component = Component::Ocid;
        self.folder(component, self.settings.prefix.join("bin"));
        let own = self.settings.bin("crio-setup");
        let id = format!("program:{}", own.display());
        self.push(component, id, Kind::OwnBinary(OwnBinary { path: own }));
        for name in ["ocid", "ocic"] {
            self.link(
                component,
                self.settings.bin(name),
                Path::new("crio-setup"),
                false,
            );
        }
        self.folder(component, "/etc/ocid/ocid.conf.d");
        let mut conf = OcidConf::new(self.settings.bin("runc"));
        conf.log_to_journald = self.settings.profile == Profile::Tutorial;
        if self.facts.systemd || !self.settings.is_live() {
            conf.cgroup_manager = "systemd".to_owned();
        }
        let endpoint = format!("unix://{}", conf.listen.display());
        let conf = Content::OcidConf {
            conf: Box::new(conf),
            runc: self.runc_at(),
        };
        self.file(component, "/etc/ocid/ocid.conf", conf);
        let seccomp = Content::Text(SECCOMP.to_owned());
        self.file(component, "/etc/ocid/seccomp.json", seccomp);
        let crictl = template::render("ocid/crictl.yaml", &Crictl { endpoint })?;
        self.file(component, "/etc/crictl.yaml", Content::Text(crictl));
        let unit = OcidUnit::new(self.settings.bin("ocid"));
        let unit = template::render("systemd/ocid.service", &unit)?;
        let path = format!("{UNITS}/ocid.service");
        self.file(component, &path, Content::Text(unit));
        self.enable(component, "ocid.service");
        self.folder_with(component, "/var/lib/ocid", 0o711, true);
        if self.settings.is_live() {
            self.folder_with(component, "/run/ocid", 0o711, true);
        }
        Ok(())
    }

    fn services(&mut self) {
        let with_ocid = self.settings.has(Component::Ocid);
        let with_docker = self.settings.has(Component::Docker) && !self.foreign_docker();
        let owner = if with_ocid {
            Component::Ocid
        } else {
            Component::Docker
        };
        if !self.facts.systemd && (with_ocid || with_docker) {
            self.folder_with(owner, "/run/crio-setup", 0o755, true);
            self.folder_with(owner, "/var/log/crio-setup", 0o755, true);
        }
        let input = |path: &str| PathBuf::from(path);
        let unit = |name: &str| {
            let unit = self
                .facts
                .systemd
                .then(|| format!("{UNITS}/{name}.service"));
            unit.map(PathBuf::from)
        };
        if with_ocid {
            let mut inputs = vec![
                input("/etc/ocid/ocid.conf"),
                input("/etc/ocid/ocid.conf.d"),
                input("/etc/ocid/seccomp.json"),
            ];
            inputs.extend(unit("ocid"));
            let kind = Kind::Service(ServiceStep {
                name: "ocid",
                program: ProgramAt::Path(self.settings.bin("ocid")),
                args: Vec::new(),
                env: Vec::new(),
                environment_file: input("/etc/default/ocid"),
                inputs,
            });
            self.push(Component::Ocid, "service", kind);
        }
        if with_docker {
            let mut inputs = vec![input("/etc/docker/daemon.json")];
            inputs.extend(unit("docker"));
            let mut env = Vec::new();
            if let Some(From::Upstream(_)) = self.from(Component::Docker) {
                let folder = self.docker_folder();
                let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
                env.push(("PATH".to_owned(), format!("{}:{path}", folder.display())));
            }
            let kind = Kind::Service(ServiceStep {
                name: "docker",
                program: self.dockerd_at(),
                args: DOCKERD_ARGS.map(str::to_owned).to_vec(),
                env,
                environment_file: input("/etc/default/docker"),
                inputs,
            });
            self.push(Component::Docker, "service", kind);
        }
    }
}
