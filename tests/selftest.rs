//! The self-test with the real daemon, runtime and plugins, in a network namespace of its own: it
//! passes, tells how long each stage took, and leaves nothing.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use crio_setup::cri::v1::{PodSandboxConfig, PodSandboxMetadata};
use crio_setup::host::command::Command;
use crio_setup::host::mount;
use crio_setup::host::service::{self, Service};
use crio_setup::ocic::client::{Client, ClientError};
use crio_setup::setup::selftest::{self, SelfTest, SelfTestError, Stage};
use crio_setup::template::{BridgeNetwork, OcidConf, render};
use nix::mount::MsFlags;
use nix::sched::{CloneFlags, unshare};

/// Where the machine has its plugins and its runtime.
const PLUGINS: [&str; 2] = ["/opt/cni/bin", "/usr/lib/cni"];
const RUNTIMES: [&str; 2] = ["/usr/local/bin/runc", "/usr/sbin/runc"];

/// A daemon with folders of its own; stopped when dropped.
struct Daemon {
    dir: tempfile::TempDir,
    service: Service,
}

impl Daemon {
    fn start(change: impl FnOnce(&mut OcidConf)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let runtime = RUNTIMES.iter().find(|p| Path::new(p).exists());
        let mut conf = OcidConf::new(runtime.expect("the machine has runc"));
        conf.root = at("root");
        conf.runroot = at("run");
        conf.listen = at("run/ocid.sock");
        conf.log_to_journald = false;
        conf.network_dir = at("net.d");
        conf.plugin_dirs = PLUGINS.iter().map(PathBuf::from).collect();
        change(&mut conf);
        for folder in ["root", "run", "net.d"] {
            fs::create_dir(at(folder)).unwrap();
        }
        fs::write(at("ocid.conf"), render("ocid/ocid.conf", &conf).unwrap()).unwrap();
        let args: Vec<OsString> = vec!["ocid".into(), "--config".into(), at("ocid.conf").into()];
        let service = Service {
            name: "ocid".to_owned(),
            exe: env!("CARGO_BIN_EXE_crio-setup").into(),
            args,
            env: Vec::new(),
            pidfile: at("ocid.pid"),
            logfile: at("ocid.log"),
            // It reports its readiness like it does to systemd.
            ready: Some(Duration::from_secs(60)),
        };
        let daemon = Self { dir, service };
        service::start_background(&daemon.service).unwrap();
        daemon
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn test(&self) -> SelfTest {
        SelfTest {
            exe: env!("CARGO_BIN_EXE_crio-setup").into(),
            ..SelfTest::new(self.at("run/ocid.sock"), self.at("run"))
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.service.logfile).unwrap_or_default()
    }

    /// What an error says, with the daemon's log.
    fn explain(&self, error: &SelfTestError) -> String {
        let mut text = error.to_string();
        let mut next = std::error::Error::source(error);
        while let Some(cause) = next {
            text = format!("{text}: {cause}");
            next = cause.source();
        }
        format!("{text}\n{}", self.log())
    }

    /// Runs a pod, with the self-test's mark or without; returns its id and address.
    fn run_pod(&self, name: &str, marked: bool) -> (String, String) {
        let mark = |marked| match marked {
            true => [("io.ocid.selftest".to_owned(), "true".to_owned())].into(),
            false => Default::default(),
        };
        let config = PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: name.to_owned(),
                uid: name.to_owned(),
                namespace: "default".to_owned(),
                attempt: 0,
            }),
            labels: mark(marked),
            annotations: mark(marked),
            ..Default::default()
        };
        self.ask(async |client| {
            let id = client.run_pod_sandbox(config, "").await?;
            let status = client.pod_sandbox_status(&id, false).await?.status;
            Ok((id, status.unwrap().network.unwrap().ip))
        })
    }

    fn remove_pod(&self, id: &str) {
        self.ask(async |client| {
            client.stop_pod_sandbox(id).await?;
            client.remove_pod_sandbox(id).await
        });
    }

    fn ask<T>(&self, call: impl AsyncFnOnce(Client) -> Result<T, ClientError>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let answer = runtime.unwrap().block_on(async {
            let limit = Duration::from_secs(30);
            call(Client::connect(&self.at("run/ocid.sock"), limit).await?).await
        });
        answer.unwrap_or_else(|e| panic!("{e}\n{}", self.log()))
    }

    fn passes(&self) -> selftest::Report {
        selftest::run(&self.test()).unwrap_or_else(|e| panic!("{}", self.explain(&e)))
    }

    /// No file, mount or interface of a self-test.
    fn assert_clean(&self) {
        assert!(!self.at("run/selftest").exists());
        assert_eq!(interfaces(), ["lo"]);
        let mounts = mount::at_or_below(self.dir.path()).unwrap();
        assert!(mounts.is_empty(), "{mounts:?}");
        for folder in [
            "root/sandboxes",
            "root/containers",
            "root/layers",
            "run/containers",
        ] {
            let left: Vec<_> = match fs::read_dir(self.at(folder)) {
                Ok(entries) => entries.map(|e| e.unwrap().file_name()).collect(),
                Err(_) => continue,
            };
            assert!(left.is_empty(), "{folder}: {left:?}");
        }
        let rules = Command::new("iptables-save").run().unwrap().text();
        assert!(
            !rules.contains("ocid-selftest") && !rules.contains("CNI-"),
            "{rules}"
        );
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Err(e) = service::stop(&self.service, Duration::from_secs(20)) {
            eprintln!("stop the daemon: {e}");
        }
    }
}

fn interfaces() -> Vec<String> {
    let all = nix::net::if_::if_nameindex().unwrap();
    let mut names: Vec<String> = all
        .iter()
        .map(|i| i.name().to_string_lossy().into_owned())
        // Tunnels that the kernel makes in every namespace.
        .filter(|n| {
            !["sit0", "tunl0", "ip6tnl0", "gre0", "gretap0", "erspan0"].contains(&n.as_str())
        })
        .collect();
    names.sort();
    names
}

/// Runs `f` on a thread whose network and mounts are its own, as are those of the daemons it starts.
fn apart(f: impl FnOnce() + Send) {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
            let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
            nix::mount::mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
            Command::new("ip")
                .args(["link", "set", "lo", "up"])
                .run()
                .unwrap();
            f();
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

#[test]
fn it_passes_and_leaves_nothing() {
    apart(|| {
        let daemon = Daemon::start(|_| {});
        for _ in 0..2 {
            let report = daemon.passes();
            assert!(report.pod_ip.starts_with("198.1"), "{}", report.pod_ip);
            let stages: Vec<Stage> = report.steps.iter().map(|s| s.stage).collect();
            let all = [
                Stage::Connect,
                Stage::Prepare,
                Stage::Pull,
                Stage::Pod,
                Stage::Container,
                Stage::Network,
                Stage::Exec,
                Stage::Stop,
                Stage::CleanUp,
            ];
            assert_eq!(stages, all);
            println!("{}", serde_json::to_string(&report).unwrap());
            daemon.assert_clean();
        }
    });
}

#[test]
fn the_first_pod_still_gets_the_first_address() {
    apart(|| {
        let daemon = Daemon::start(|_| {});
        let mut network = BridgeNetwork::tutorial("0.4.0");
        network.data_dir = Some(daemon.at("leases"));
        let text = render("cni/10-mynet.conflist", &network).unwrap();
        fs::write(daemon.at("net.d/10-mynet.conflist"), text).unwrap();
        daemon.passes();
        assert_eq!(interfaces(), ["lo"]);
        let (id, ip) = daemon.run_pod("first", false);
        assert_eq!(ip, "10.88.0.2");
        // A pod that runs is none of the self-test's business.
        daemon.passes();
        assert_eq!(
            daemon.ask(async |c| c.list_pod_sandboxes(None).await).len(),
            1
        );
        daemon.remove_pod(&id);
    });
}

#[test]
fn two_at_once_on_two_daemons() {
    apart(|| {
        let daemons = [Daemon::start(|_| {}), Daemon::start(|_| {})];
        // Scoped threads are born in the namespaces of this one.
        thread::scope(|scope| {
            let runs = daemons
                .each_ref()
                .map(|daemon| scope.spawn(|| daemon.passes()));
            let addresses = runs.map(|run| run.join().unwrap().pod_ip);
            assert_ne!(addresses[0], addresses[1]);
        });
        daemons.iter().for_each(Daemon::assert_clean);
    });
}

#[test]
fn a_missing_plugin_is_told_and_nothing_is_left() {
    apart(|| {
        let daemon = Daemon::start(|conf| conf.plugin_dirs = vec!["/no/plugins".into()]);
        let error = selftest::run(&daemon.test()).unwrap_err();
        assert_eq!(error.stage, Stage::Pod, "{}", daemon.explain(&error));
        assert!(error.leftovers.is_empty(), "{}", daemon.explain(&error));
        assert!(
            daemon.explain(&error).contains("bridge"),
            "{}",
            daemon.explain(&error)
        );
        daemon.assert_clean();
    });
}

#[test]
fn what_a_killed_run_left_is_removed_by_the_next() {
    apart(|| {
        let daemon = Daemon::start(|_| {});
        // A self-test that was killed has made its network and its pod.
        let folder = daemon.at("run/selftest");
        fs::create_dir_all(folder.join("net.d")).unwrap();
        let network = BridgeNetwork {
            name: "ocid-selftest".to_owned(),
            bridge: "ocst-old".to_owned(),
            subnet: "198.18.0.0/28".to_owned(),
            data_dir: Some(folder.join("leases")),
            cni_version: "0.4.0".to_owned(),
        };
        let text = render("cni/10-mynet.conflist", &network).unwrap();
        fs::write(folder.join("net.d/10-selftest.conflist"), text).unwrap();
        let (_, ip) = daemon.run_pod("killed", true);
        assert_eq!(ip, "198.18.0.2");
        assert!(interfaces().contains(&"ocst-old".to_owned()));
        daemon.passes();
        daemon.assert_clean();
        assert!(
            daemon
                .ask(async |c| c.list_pod_sandboxes(None).await)
                .is_empty()
        );
        assert!(daemon.ask(async |c| c.list_images(None).await).is_empty());
    });
}
