//! Docker: upstream's or the distro's, beside `ocid`, unless somebody runs one of their own.

use std::path::{Path, PathBuf};

use super::{Planner, UNITS};
use crate::setup::choice::From;
use crate::setup::facts::DOCKER_SOCKET;
use crate::setup::settings::Component;
use crate::setup::step::{Byproduct, Content, Kind, ProgramAt, UnpackStep};

impl Planner<'_> {
    /// The folder of upstream's docker: it brings a runc and a containerd of its own.
    pub(super) fn docker_folder(&self) -> PathBuf {
        self.settings.prefix.join("libexec/crio-setup/docker")
    }

    pub(super) fn dockerd_at(&self) -> ProgramAt {
        match self.from(Component::Docker) {
            Some(From::Kept { path }) => ProgramAt::Path(path.clone()),
            Some(From::Upstream(_)) => ProgramAt::Path(self.docker_folder().join("dockerd")),
            _ => ProgramAt::Packaged("dockerd"),
        }
    }

    pub(super) fn docker(&mut self) {
        let component = Component::Docker;
        // Somebody runs a docker of their own: it stays theirs.
        if self.foreign_docker() {
            return;
        }
        let mut tools = None;
        if let Some(From::Upstream(artifact)) = self.from(component).cloned() {
            let folder = self.docker_folder();
            self.folder(component, &folder);
            let kind = Kind::Unpack(UnpackStep {
                artifact: *artifact,
                folder: folder.clone(),
                keep: self.keeps(),
            });
            self.push(component, format!("programs:{}", folder.display()), kind);
            let link = self.settings.bin("docker");
            self.link(
                component,
                link,
                Path::new("../libexec/crio-setup/docker/docker"),
                false,
            );
            tools = Some(folder);
        }
        let dockerd = self.dockerd_at();
        let path = format!("{UNITS}/docker.service");
        self.file(component, &path, Content::DockerUnit { dockerd, tools });
        self.enable(component, "docker.service");
        self.folder(component, "/etc/docker");
        self.folder_with(component, "/var/lib/docker", 0o710, true);
        if self.settings.is_live() {
            // dockerd's own containerd makes them, whether or not it has plugins.
            for folder in ["/opt/containerd/bin", "/opt/containerd/lib"] {
                self.folder_with(component, folder, 0o711, false);
            }
            self.folder_with(component, "/run/docker", 0o700, true);
            let kind = Kind::Byproduct(Byproduct {
                files: [
                    // Of the shims, which a first container starts; the inner one is undone first.
                    "/run/containerd",
                    "/run/containerd/s",
                    "/run/docker.sock",
                    "/run/docker.pid",
                    "/etc/docker/key.json",
                ]
                .map(PathBuf::from)
                .to_vec(),
                bridges: vec!["docker0".to_owned()],
            });
            self.push(component, "byproducts", kind);
        }
    }

    pub(super) fn foreign_docker(&self) -> bool {
        self.facts
            .foreign_listener(DOCKER_SOCKET, "docker")
            .is_some()
    }
}
