//! Pods on a bridge by the real CNI plugins: reachable while they live, without a trace afterwards.
//!
//! Each test's machine is a thread with a network and a mount namespace of its own, which end with
//! it: nothing here can touch, or leave anything on, the machine that runs the test.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crio_setup::host::mount::unmount_below;
use crio_setup::host::namespace::{Wanted, pin, run_in, unpin};
use crio_setup::ocid::network::{Attachment, Network, NetworkError, PodNetwork};
use crio_setup::ocid::sandbox::config::{PortMapping, Protocol};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// A machine with a conflist as the installer writes it, on a bridge and a subnet of the test's.
struct Machine {
    dir: tempfile::TempDir,
    network: Network,
}

struct Pod {
    pins: PathBuf,
    net: PodNetwork,
}

/// The plugins from the distribution, or those that a node set-up has put in their usual place.
fn plugin_dirs() -> Vec<PathBuf> {
    let dirs = ["/usr/lib/cni", "/opt/cni/bin"].map(PathBuf::from);
    let found = dirs.iter().any(|d| d.join("bridge").exists());
    assert!(
        found,
        "these tests need the package `containernetworking-plugins`"
    );
    dirs.into()
}

/// Runs a test on a machine of its own.
fn on_a_machine<F: Future<Output = ()>>(subnet: &str, test: impl FnOnce(Machine) -> F + Send) {
    std::thread::scope(|scope| {
        scope
            .spawn(|| {
                unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
                let none: Option<&str> = None;
                let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
                mount(none, "/", none, private, none).unwrap();
                run("ip", &["link", "set", "lo", "up"]);
                // The plugins are this thread's children and so live in its namespaces.
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .unwrap();
                runtime.block_on(test(Machine::new(subnet)));
            })
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}

fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

impl Machine {
    fn new(subnet: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let conf = dir.path().join("net.d");
        fs::create_dir(&conf).unwrap();
        let list = serde_json::json!({
            "cniVersion": "1.0.0",
            "name": "mynet",
            "plugins": [
                {
                    "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
                    "ipam": {
                        "type": "host-local",
                        "dataDir": dir.path().join("leases"),
                        "routes": [{ "dst": "0.0.0.0/0" }],
                        "ranges": [[{ "subnet": subnet }]],
                    },
                },
                { "type": "portmap", "capabilities": { "portMappings": true } },
            ],
        });
        fs::write(conf.join("10-mynet.conflist"), list.to_string()).unwrap();
        let loopback = r#"{"cniVersion":"1.0.0","name":"lo","plugins":[{"type":"loopback"}]}"#;
        fs::write(conf.join("00-loopback.conflist"), loopback).unwrap();
        let network = Network::new(conf, plugin_dirs());
        Self { dir, network }
    }

    fn pod(&self, id: &str) -> Pod {
        let pins = self.dir.path().join("ns").join(id);
        let wanted = Wanted {
            net: true,
            ..Wanted::default()
        };
        let pinned = pin(&pins, &wanted).unwrap();
        let net = PodNetwork {
            sandbox_id: id.to_owned(),
            netns: pinned.net.unwrap(),
            name: format!("pod-{id}"),
            namespace: "default".to_owned(),
            uid: "b6d7".to_owned(),
            ..PodNetwork::default()
        };
        Pod { pins, net }
    }

    /// host-local's leases: one file per address.
    fn leases(&self) -> Vec<String> {
        let folder = self.dir.path().join("leases/mynet");
        let Ok(entries) = fs::read_dir(folder) else {
            return Vec::new();
        };
        let names = entries.map(|e| e.unwrap().file_name().into_string().unwrap());
        names.filter(|n| n.parse::<IpAddr>().is_ok()).collect()
    }

    /// No lease, no veth, no rule that names the pod or one of its addresses.
    fn assert_no_trace_of(&self, pod: &Pod, ips: &[IpAddr]) {
        assert_eq!(self.leases(), Vec::<String>::new());
        assert_eq!(run("ip", &["-o", "link", "show", "type", "veth"]), "");
        let rules = run("iptables-save", &[]);
        let words = ips
            .iter()
            .map(|ip| format!("{ip}/"))
            .chain([pod.net.sandbox_id.clone()]);
        for word in words {
            assert!(!rules.contains(&word), "`{word}` is left in:\n{rules}");
        }
        // Per-pod chains have hashed names: besides portmap's three standing ones there is none.
        let standing = [
            "CNI-HOSTPORT-DNAT",
            "CNI-HOSTPORT-MASQ",
            "CNI-HOSTPORT-SETMARK",
        ];
        for chain in rules.lines().filter_map(|l| l.strip_prefix(":CNI-")) {
            let name = format!("CNI-{}", chain.split(' ').next().unwrap_or_default());
            assert!(
                standing.contains(&name.as_str()),
                "`{name}` is left in:\n{rules}"
            );
        }
    }
}

impl Drop for Machine {
    /// A test that failed has left its pods: what is mounted would keep the folder from going.
    fn drop(&mut self) {
        let _ = unmount_below(self.dir.path());
    }
}

impl Pod {
    fn end(&self) {
        unpin(&self.pins).unwrap();
        assert!(!self.pins.exists());
    }

    /// A server in the pod that says hello to the next `times` clients.
    fn serve(&self, port: u16, times: usize) -> std::thread::JoinHandle<()> {
        let listen = || TcpListener::bind(("0.0.0.0", port));
        let listener = run_in(&self.net.netns, listen).unwrap().unwrap();
        std::thread::spawn(move || {
            for _ in 0..times {
                let (mut peer, _) = listener.accept().unwrap();
                peer.write_all(b"hello").unwrap();
            }
        })
    }
}

fn read_from(ip: IpAddr, port: u16) -> String {
    let to = SocketAddr::new(ip, port);
    let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(10)).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn pods_are_reached_and_leave_no_trace() {
    on_a_machine("10.97.16.0/24", |machine| async move {
        let state = machine.network.status().await;
        assert!(state.ready, "{}", state.message);
        let (mut a, b) = (machine.pod("aaaa"), machine.pod("bbbb"));
        a.net.port_mappings.push(PortMapping {
            protocol: Protocol::Tcp,
            container_port: 6379,
            host_port: 16379,
            host_ip: None,
        });
        let on_a = machine.network.add(&a.net).await.unwrap();
        let on_b = machine.network.add(&b.net).await.unwrap();
        assert_eq!(on_a.ips, [ip("10.97.16.2")]);
        assert_eq!(on_b.ips, [ip("10.97.16.3")]);
        assert_eq!(on_a.network, "mynet");

        // From the host, from another pod, and by the host's port.
        let server = a.serve(6379, 4);
        assert_eq!(read_from(ip("10.97.16.2"), 6379), "hello");
        let from_b = run_in(&b.net.netns, || read_from(ip("10.97.16.2"), 6379));
        assert_eq!(from_b.unwrap(), "hello");
        assert_eq!(read_from(ip("10.97.16.1"), 16379), "hello");
        assert_eq!(read_from(ip("127.0.0.1"), 16379), "hello");
        server.join().unwrap();
        let rules = run("iptables-save", &["-t", "nat"]);
        assert!(
            rules.contains("aaaa") && rules.contains("MASQUERADE"),
            "{rules}"
        );

        // As after a restart of the daemon: from what it has stored.
        let stored: Attachment =
            serde_json::from_str(&serde_json::to_string(&on_a).unwrap()).unwrap();
        machine.network.del(&a.net, Some(&stored)).await.unwrap();
        machine.network.del(&a.net, Some(&stored)).await.unwrap();
        assert_eq!(machine.leases(), ["10.97.16.3"]);
        machine.network.del(&b.net, Some(&on_b)).await.unwrap();
        machine.assert_no_trace_of(&a, &on_a.ips);
        machine.assert_no_trace_of(&b, &on_b.ips);
        a.end();
        b.end();
    });
}

#[test]
fn a_lease_is_returned_when_the_namespace_is_gone() {
    on_a_machine("10.97.17.0/24", |machine| async move {
        let pod = machine.pod("cccc");
        let attachment = machine.network.add(&pod.net).await.unwrap();
        pod.end();
        fs::remove_file(machine.dir.path().join("net.d/10-mynet.conflist")).unwrap();
        machine
            .network
            .del(&pod.net, Some(&attachment))
            .await
            .unwrap();
        assert_eq!(machine.leases(), Vec::<String>::new());
    });
}

#[test]
fn a_full_subnet_refuses_the_pod_and_keeps_the_others() {
    on_a_machine("10.97.18.0/30", |machine| async move {
        let (a, b) = (machine.pod("dddd"), machine.pod("eeee"));
        let on_a = machine.network.add(&a.net).await.unwrap();
        let veths = || {
            run("ip", &["-o", "link", "show", "type", "veth"])
                .lines()
                .count()
        };
        assert_eq!(veths(), 1);
        let e = machine.network.add(&b.net).await.unwrap_err();
        assert!(
            matches!(&e, NetworkError::Refused { plugin, .. } if plugin == "bridge"),
            "{e}"
        );
        assert!(e.hint().is_some(), "{e}");
        assert_eq!(veths(), 1, "the refused pod's is gone");
        assert_eq!(machine.leases(), ["10.97.18.2"]);
        machine.network.del(&a.net, Some(&on_a)).await.unwrap();
        let on_b = machine.network.add(&b.net).await.unwrap();
        machine.network.del(&b.net, Some(&on_b)).await.unwrap();
        machine.assert_no_trace_of(&b, &on_b.ips);
        a.end();
        b.end();
    });
}

#[test]
fn an_add_that_was_cut_short_is_undone_without_its_result() {
    on_a_machine("10.97.19.0/24", |machine| async move {
        for after in [2, 5, 8, 12, 16, 20, 25, 30] {
            let pod = machine.pod(&format!("cut{after}"));
            let limit = Duration::from_millis(after);
            // Dropped when the time is over, and the plugin killed with it.
            let added = tokio::time::timeout(limit, machine.network.add(&pod.net)).await;
            let ips = match &added {
                Ok(Ok(attachment)) => attachment.ips.clone(),
                Ok(Err(e)) => panic!("{e}"),
                Err(_) => Vec::new(),
            };
            machine.network.del(&pod.net, None).await.unwrap();
            machine.assert_no_trace_of(&pod, &ips);
            pod.end();
        }
    });
}

/// host-local killed between making a lease's file and writing whose it is.
#[test]
fn a_lease_that_was_never_written_is_nobodys() {
    on_a_machine("10.97.22.0/24", |machine| async move {
        let (lives, dies) = (machine.pod("lives"), machine.pod("dies"));
        let living = machine.network.add(&lives.net).await.unwrap();
        assert_eq!(living.ips, [ip("10.97.22.2")]);
        let unwritten = machine.dir.path().join("leases/mynet/10.97.22.3");
        fs::write(&unwritten, "").unwrap();
        machine.network.del(&dies.net, None).await.unwrap();
        assert_eq!(machine.leases(), ["10.97.22.2"]);

        // A power cut: the namespace is gone, too.
        fs::write(&unwritten, "").unwrap();
        lives.end();
        machine
            .network
            .del(&lives.net, Some(&living))
            .await
            .unwrap();
        dies.end();
        assert_eq!(machine.leases(), Vec::<String>::new());
    });
}

#[test]
fn pods_come_and_go_side_by_side() {
    on_a_machine("10.97.20.0/24", |machine| async move {
        let pods: Vec<Pod> = (0..6).map(|n| machine.pod(&format!("side{n}"))).collect();
        let adds = pods.iter().map(|pod| machine.network.add(&pod.net));
        let added = futures_util::future::try_join_all(adds).await.unwrap();
        let mut ips: Vec<IpAddr> = added.iter().flat_map(|a| a.ips.clone()).collect();
        ips.sort();
        ips.dedup();
        assert_eq!(ips.len(), pods.len());
        let dels = pods
            .iter()
            .zip(&added)
            .map(|(pod, a)| machine.network.del(&pod.net, Some(a)));
        futures_util::future::try_join_all(dels).await.unwrap();
        for pod in &pods {
            machine.assert_no_trace_of(pod, &ips);
            pod.end();
        }
    });
}

#[test]
fn the_state_follows_the_files() {
    on_a_machine("10.97.21.0/24", |machine| async move {
        let file = machine.dir.path().join("net.d/10-mynet.conflist");
        let good = fs::read(&file).unwrap();
        fs::write(&file, &good[..good.len() / 2]).unwrap();
        let state = machine.network.status().await;
        assert!(
            !state.ready && state.message.contains("10-mynet.conflist"),
            "{}",
            state.message
        );
        let pod = machine.pod("ffff");
        assert!(
            machine
                .network
                .add(&pod.net)
                .await
                .unwrap_err()
                .is_not_ready()
        );
        fs::write(&file, &good).unwrap();
        assert!(machine.network.status().await.ready);
        let elsewhere = Network::new(
            file.parent().unwrap(),
            vec![Path::new("/no/plugins").into()],
        );
        let state = elsewhere.status().await;
        assert!(
            !state.ready && state.message.contains("`bridge`"),
            "{}",
            state.message
        );
        pod.end();
    });
}
