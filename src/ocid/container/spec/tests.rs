use super::*;
use crate::ocid::container::config::Mount;
use crate::ocid::container::error::SpecErrorKind;
use crate::ocid::container::security::CapabilityChanges;
use crate::ocid::sandbox::config::{NamespaceMode, NamespaceOptions, UserNamespace};
use oci_spec::image::{ConfigBuilder, ImageConfigurationBuilder};
use oci_spec::runtime::LinuxNamespaceType as Kind;

mod mounts;
mod running;

/// A root, a pod and an image to make specifications from.
pub(super) struct Fixture {
    pub dir: tempfile::TempDir,
    pub config: ContainerConfig,
    pub pod: SandboxConfig,
    pub image: ImageConfiguration,
    pub defaults: Defaults,
    pub host: HostFacts,
    pub target_pid: Option<i32>,
    pub namespaces: [Option<PathBuf>; 3],
    pub cgroups_path: String,
    pub volumes: BTreeMap<usize, PathBuf>,
    pub labels: Option<Labels>,
}

impl Fixture {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let etc = dir.path().join("root/etc");
        std::fs::create_dir_all(&etc).unwrap();
        std::fs::write(
            etc.join("passwd"),
            "root:x:0:0::/:\nredis:x:999:1000::/data:\n",
        )
        .unwrap();
        std::fs::write(etc.join("group"), "root:x:0:\nlogs:x:77:redis\n").unwrap();
        for file in ["resolv.conf", "hosts"] {
            std::fs::write(dir.path().join(file), file).unwrap();
        }
        std::fs::write(dir.path().join("hostname"), "pod-1\n").unwrap();
        std::fs::create_dir(dir.path().join("shm")).unwrap();
        let image = ConfigBuilder::default()
            .user("redis")
            .env(vec!["PATH=/bin".to_owned(), "V=1".to_owned()])
            .entrypoint(vec!["entry".to_owned()])
            .cmd(vec!["cmd".to_owned()])
            .working_dir("/work/dir")
            .volumes(vec!["/data".to_owned()])
            .stop_signal("SIGQUIT")
            .build()
            .unwrap();
        let image = ImageConfigurationBuilder::default().config(image);
        Self {
            dir,
            config: ContainerConfig::default(),
            pod: SandboxConfig::default(),
            image: image.build().unwrap(),
            defaults: Defaults::default(),
            host: HostFacts::probe(),
            target_pid: None,
            namespaces: ["net", "ipc", "uts"].map(|n| Some(format!("/ns/{n}").into())),
            cgroups_path: "/pod/ctr".to_owned(),
            volumes: BTreeMap::new(),
            labels: None,
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn build(&self) -> Result<BuiltSpec, SpecError> {
        let [net, ipc, uts] = self.namespaces.clone();
        let sandbox = SandboxView {
            id: "5a",
            config: &self.pod,
            net,
            ipc,
            uts,
            user: None,
            pid: None,
            target_pid: self.target_pid,
            resolv_conf: self.path("resolv.conf"),
            hosts: self.path("hosts"),
            hostname: self.path("hostname"),
            shm: self.path("shm"),
            cgroups_path: self.cgroups_path.clone(),
        };
        build(&SpecInputs {
            container_id: "c0",
            config: &self.config,
            sandbox: &sandbox,
            image: &self.image,
            rootfs: &self.path("root"),
            bundle: self.dir.path(),
            folder: self.dir.path(),
            volumes: &self.volumes,
            labels: self.labels.as_ref(),
            defaults: &self.defaults,
            host: &self.host,
        })
    }

    fn spec(&self) -> Spec {
        self.build().unwrap().spec
    }
}

fn options(spec: &Spec, target: &str) -> Option<Vec<String>> {
    let mounts = spec.mounts().as_ref().unwrap();
    let mount = mounts.iter().find(|m| m.destination() == Path::new(target));
    mount.map(|m| m.options().clone().unwrap())
}

fn namespaces(spec: &Spec) -> Vec<(Kind, Option<PathBuf>)> {
    let list = spec
        .linux()
        .as_ref()
        .unwrap()
        .namespaces()
        .as_ref()
        .unwrap();
    list.iter().map(|n| (n.typ(), n.path().clone())).collect()
}

#[test]
fn the_image_alone() {
    let fixture = Fixture::new();
    let built = fixture.build().unwrap();
    let spec = &built.spec;
    assert_eq!(spec.version(), "1.0.2");
    assert_eq!(spec.hostname(), &None);
    let process = spec.process().as_ref().unwrap();
    assert_eq!(process.args().as_ref().unwrap(), &["entry", "cmd"]);
    assert_eq!(
        process.env().as_ref().unwrap(),
        &["PATH=/bin", "TERM=xterm", "HOSTNAME=pod-1", "V=1"]
    );
    assert_eq!(process.cwd(), Path::new("/work/dir"));
    assert_eq!((process.user().uid(), process.user().gid()), (999, 1000));
    assert_eq!(
        process.user().additional_gids().as_ref().unwrap(),
        &[1000, 77]
    );
    assert_eq!(
        process.oom_score_adj(),
        Some(fixture.host.oom_score_adj.max(0))
    );
    assert_eq!(process.rlimits(), &None);
    assert_eq!(process.no_new_privileges(), Some(false));
    let capabilities = process.capabilities().as_ref().unwrap();
    assert_eq!(capabilities.bounding().as_ref().unwrap().len(), 9);
    assert_eq!(built.stop_signal.number(), libc::SIGQUIT);
    assert_eq!(built.warnings, Vec::<String>::new());

    let linux = spec.linux().as_ref().unwrap();
    assert_eq!(linux.seccomp(), &None, "nothing said is unconfined");
    assert_eq!(linux.masked_paths().as_ref().unwrap().len(), 10);
    assert!(
        linux
            .readonly_paths()
            .as_ref()
            .unwrap()
            .contains(&"/proc/sys".to_owned())
    );
    assert_eq!(linux.cgroups_path(), &Some("/pod/ctr".into()));
    assert!(linux.resources().as_ref().unwrap().pids().is_none());

    for made in ["root/work/dir", "root/data"] {
        assert!(fixture.path(made).is_dir(), "{made}");
    }
    let mtab = std::fs::read_link(fixture.path("root/etc/mtab")).unwrap();
    assert_eq!(mtab, Path::new("/proc/mounts"));
    let json = serde_json::to_value(spec).unwrap();
    assert_eq!(json["linux"]["resources"]["devices"][0]["allow"], false);
    assert_eq!(
        json["annotations"]["io.kubernetes.cri-o.ContainerType"],
        "container"
    );
}

#[test]
fn namespaces_by_mode() {
    let mut fixture = Fixture::new();
    fixture.host.cgroup_v2 = false;
    let own = |kind| (kind, None);
    let joined = |kind, path: &str| (kind, Some(PathBuf::from(path)));
    let pod = vec![
        own(Kind::Mount),
        joined(Kind::Network, "/ns/net"),
        joined(Kind::Ipc, "/ns/ipc"),
        joined(Kind::Uts, "/ns/uts"),
        own(Kind::Pid),
    ];
    assert_eq!(
        namespaces(&fixture.spec()),
        pod,
        "no shared pid namespace: a new one"
    );

    fixture.host.cgroup_v2 = true;
    assert_eq!(namespaces(&fixture.spec()).last(), Some(&own(Kind::Cgroup)));
    fixture.host.cgroup_v2 = false;

    fixture.pod.namespaces.pid = NamespaceMode::Node;
    assert_eq!(
        namespaces(&fixture.spec()).len(),
        4,
        "the machine's pid namespace"
    );

    let container = |fixture: &mut Fixture, options: NamespaceOptions| {
        fixture.config.security.namespaces = Some(options);
        namespaces(&fixture.spec())
    };
    let host = NamespaceOptions {
        network: NamespaceMode::Node,
        ipc: NamespaceMode::Node,
        pid: NamespaceMode::Node,
        ..Default::default()
    };
    assert_eq!(container(&mut fixture, host), [own(Kind::Mount)]);
    assert_eq!(options(&fixture.spec(), "/dev/shm").unwrap()[0], "rbind");
    let alone = NamespaceOptions {
        ipc: NamespaceMode::Container,
        ..Default::default()
    };
    assert!(container(&mut fixture, alone).contains(&own(Kind::Ipc)));
    assert!(
        options(&fixture.spec(), "/dev/shm")
            .unwrap()
            .contains(&"mode=1777".to_owned())
    );

    let target = NamespaceOptions {
        pid: NamespaceMode::Target,
        target_id: "abc".into(),
        ..Default::default()
    };
    fixture.target_pid = Some(42);
    let list = container(&mut fixture, target);
    assert!(list.contains(&joined(Kind::Pid, "/proc/42/ns/pid")));
    fixture.target_pid = None;
    let e = fixture.build().unwrap_err();
    assert_eq!(e.kind(), SpecErrorKind::Invalid);
    assert!(e.to_string().contains("target_id` is `abc`"), "{e}");
}

#[test]
fn privileged_containers() {
    let mut fixture = Fixture::new();
    fixture.config.security.privileged = true;
    fixture.config.security.seccomp = Profile::RuntimeDefault;
    let e = fixture.build().unwrap_err();
    assert_eq!(
        e.to_string(),
        "`config.linux.security_context.privileged` is true, but the pod is not privileged"
    );
    fixture.pod.security.privileged = true;
    let spec = fixture.spec();
    let linux = spec.linux().as_ref().unwrap();
    assert_eq!(linux.seccomp(), &None);
    assert!(linux.masked_paths().as_ref().unwrap().is_empty());
    assert!(!linux.devices().as_ref().unwrap().is_empty());
    assert!(options(&spec, "/sys").unwrap().contains(&"rw".to_owned()));
    let process = spec.process().as_ref().unwrap();
    let bounding = process.capabilities().as_ref().unwrap().bounding().clone();
    assert_eq!(
        bounding.unwrap().len(),
        fixture.host.bounding.iter().count()
    );
}

#[test]
fn clamped_to_what_the_machine_has() {
    let mut fixture = Fixture::new();
    fixture.host.bounding = [Capability::Chown].into_iter().collect();
    fixture.host.oom_score_adj = 100;
    fixture.config.resources.oom_score_adj = -500;
    fixture.config.security.capabilities = CapabilityChanges {
        add: vec![Capability::SysTime],
        ..Default::default()
    };
    let built = fixture.build().unwrap();
    let process = built.spec.process().as_ref().unwrap();
    assert_eq!(process.oom_score_adj(), Some(100));
    let bounding = process.capabilities().as_ref().unwrap().bounding().clone();
    assert_eq!(bounding.unwrap().len(), 1);
    assert_eq!(built.warnings.len(), 2, "{:?}", built.warnings);
    assert!(built.warnings[0].contains("CAP_SYS_TIME"));
    let again = fixture.build().unwrap();
    assert_eq!(again.warnings.len(), 1, "the oom score only once");
    fixture.host.bounding = [Capability::SysResource].into_iter().collect();
    let spec = fixture.spec();
    assert_eq!(spec.process().as_ref().unwrap().oom_score_adj(), Some(-500));
}

#[test]
fn hidden_paths() {
    let mut fixture = Fixture::new();
    fixture.config.security.masked_paths = vec!["/proc/kcore".into()];
    let spec = fixture.spec();
    let linux = spec.linux().as_ref().unwrap();
    assert_eq!(linux.masked_paths().as_ref().unwrap(), &["/proc/kcore"]);
    assert_eq!(linux.readonly_paths().as_ref().unwrap().len(), 6);
}

#[test]
fn seccomp_profiles() {
    let mut fixture = Fixture::new();
    fixture.host.seccomp = true;
    let seccomp = |fixture: &Fixture| {
        let spec = fixture.spec();
        spec.linux().as_ref().unwrap().seccomp().clone()
    };
    fixture.defaults.seccomp_when_unset = true;
    let default = seccomp(&fixture).unwrap();
    fixture.config.security.seccomp = Profile::RuntimeDefault;
    assert_eq!(seccomp(&fixture), Some(default));
    fixture.config.security.seccomp = Profile::Unconfined;
    assert_eq!(seccomp(&fixture), None);

    let file = fixture.path("profile.json");
    fixture.config.security.seccomp = Profile::Localhost(file.to_str().unwrap().into());
    assert_eq!(fixture.build().unwrap_err().kind(), SpecErrorKind::NotFound);
    std::fs::write(&file, "{}").unwrap();
    let e = fixture.build().unwrap_err();
    assert!(e.to_string().contains("defaultAction"), "{e}");
    std::fs::write(&file, r#"{"defaultAction": "SCMP_ACT_LOG"}"#).unwrap();
    let own = seccomp(&fixture).unwrap();
    assert_eq!(own.default_action().to_string(), "SCMP_ACT_LOG");

    fixture.host.seccomp = false;
    assert_eq!(
        fixture.build().unwrap_err().kind(),
        SpecErrorKind::Precondition
    );
    fixture.config.security.seccomp = Profile::RuntimeDefault;
    assert_eq!(seccomp(&fixture), None, "pods run without it");
}

#[test]
fn what_the_machine_lacks_is_refused_or_passed_over() {
    let mut fixture = Fixture::new();
    fixture.host.apparmor = false;
    let spec = fixture.spec();
    let process = spec.process().as_ref().unwrap();
    assert_eq!(process.selinux_label(), &None);
    assert_eq!(spec.linux().as_ref().unwrap().mount_label(), &None);

    fixture.config.security.apparmor = Profile::Localhost("mine".into());
    assert_eq!(
        fixture.build().unwrap_err().kind(),
        SpecErrorKind::Precondition
    );
    fixture.config.security.apparmor = Profile::RuntimeDefault;
    fixture.defaults.cdi_dirs = vec![fixture.path("cdi")];
    fixture.config.cdi_devices = vec!["vendor.com/gpu=0".into()];
    let e = fixture.build().unwrap_err();
    assert!(e.to_string().contains("config.CDI_devices"), "{e}");
    fixture.config.cdi_devices.clear();
    let options = NamespaceOptions {
        userns: Some(UserNamespace::default()),
        ..Default::default()
    };
    fixture.config.security.namespaces = Some(options);
    let e = fixture.build().unwrap_err().to_string();
    assert!(e.contains("userns_options` is not that of the pod"), "{e}");
    fixture.config.security.namespaces = None;
    fixture.host.user_namespaces = false;
    fixture.pod.namespaces.userns = Some(UserNamespace::default());
    let e = check_sandbox(&fixture.pod, &fixture.host).unwrap_err();
    assert_eq!(e.kind(), SpecErrorKind::Precondition);
    fixture.pod.namespaces.userns = None;
    check_sandbox(&fixture.pod, &fixture.host).unwrap();
}

#[test]
fn selinux_labels_of_processes_and_files() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root may set labels");
        return;
    }
    let mut fixture = Fixture::new();
    fixture.labels = Some(Labels {
        process: "u:r:t:s0:c1,c2".to_owned(),
        mount: "u:o:f:s0:c1,c2".to_owned(),
    });
    std::fs::create_dir_all(fixture.path("data/sub")).unwrap();
    std::fs::create_dir(fixture.path("plain")).unwrap();
    let mount = |name: &str, selinux_relabel| Mount {
        container_path: format!("/{name}").into(),
        host_path: fixture.path(name),
        selinux_relabel,
        ..Default::default()
    };
    fixture.config.mounts = vec![mount("data", true), mount("plain", false)];
    let spec = fixture.spec();
    let process = spec.process().as_ref().unwrap();
    assert_eq!(process.selinux_label().as_deref(), Some("u:r:t:s0:c1,c2"));
    let linux = spec.linux().as_ref().unwrap();
    assert_eq!(linux.mount_label().as_deref(), Some("u:o:f:s0:c1,c2"));
    let label = |name: &str| xattr::get(fixture.path(name), "security.selinux").unwrap();
    for name in [
        "data",
        "data/sub",
        "hosts",
        "resolv.conf",
        "hostname",
        "shm",
    ] {
        assert_eq!(
            label(name).as_deref(),
            Some(&b"u:o:f:s0:c1,c2\0"[..]),
            "{name}"
        );
    }
    assert_eq!(label("plain"), None);
    fixture.config.mounts[0].host_path = "/etc".into();
    let e = fixture.build().unwrap_err();
    assert!(
        e.to_string().contains("config.mounts[0].selinux_relabel"),
        "{e}"
    );
}

#[test]
fn annotations_for_the_runtime_are_not_the_users() {
    let mut fixture = Fixture::new();
    let own = [
        ("a", "b"),
        ("org.systemd.property.ExecStart", "x"),
        ("run.oci.hooks.stdout", "/x"),
    ];
    fixture.config.annotations = own.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    let spec = fixture.spec();
    let all = spec.annotations().as_ref().unwrap();
    assert_eq!(all.len(), 4);
    assert_eq!(all["a"], "b");
    assert_eq!(all["io.kubernetes.cri-o.SandboxID"], "5a");
}

#[test]
fn stop_signals() {
    let mut fixture = Fixture::new();
    fixture.config.stop_signal = Some(Signal::KILL);
    assert_eq!(fixture.build().unwrap().stop_signal, Signal::KILL);
    fixture.config.stop_signal = None;
    let config = ConfigBuilder::default()
        .cmd(vec!["x".to_owned()])
        .stop_signal("SIGNONSENSE")
        .build()
        .unwrap();
    fixture.image.set_config(Some(config));
    let built = fixture.build().unwrap();
    assert_eq!(built.stop_signal, Signal::TERM);
    assert!(built.warnings[0].contains("SIGNONSENSE"));
}

#[test]
fn an_image_without_anything() {
    let mut fixture = Fixture::new();
    fixture.image.set_config(None);
    let e = fixture.build().unwrap_err();
    assert!(matches!(e, SpecError::NoCommand) && e.hint().is_some());
    fixture.config.command = vec!["/x".into()];
    let built = fixture.build().unwrap();
    assert_eq!((built.user.uid, built.user.gid), (0, 0));
    assert_eq!(built.stop_signal, Signal::TERM);
}
