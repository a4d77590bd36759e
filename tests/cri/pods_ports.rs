//! Ports of the machine that lead to a pod.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use crio_setup::cri::v1;
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::Signal;

use crate::world::{LIMIT, World};

/// With addresses of both families.
const DUAL: &str = r#"{
  "cniVersion": "1.0.0",
  "name": "mynet",
  "plugins": [
    {
      "type": "bridge",
      "bridge": "cni0",
      "isGateway": true,
      "ipMasq": true,
      "hairpinMode": true,
      "ipam": {
        "type": "host-local",
        "ranges": [[{ "subnet": "10.88.0.0/16" }], [{ "subnet": "fd00:88::/64" }]],
        "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }]
      }
    },
    { "type": "portmap", "capabilities": { "portMappings": true } }
  ]
}
"#;
/// The machine's address on a wire to the outside, and the other end's.
const WIRE: [&str; 2] = ["192.0.2.1", "192.0.2.2"];
const WIRE_V6: [&str; 2] = ["2001:db8::1", "2001:db8::2"];

/// What portmap makes once and keeps; those of a pod have names and rules of their own.
const PORTMAPS: [&str; 4] = [
    "CNI-HOSTPORT-MASQ",
    "CNI-HOSTPORT-SETMARK",
    "-j CNI-HOSTPORT-DNAT",
    "nat CNI-HOSTPORT-DNAT",
];

/// Servers in a pod's network: they say which of the pod's ports they are.
struct Servers {
    tcp: TcpListener,
    udp: UdpSocket,
}

impl Servers {
    fn start(world: &World, pod: &str) -> Result<Self> {
        let path = world.machine.path(format!("/run/ocid/ns/{pod}/net"));
        let namespace = File::open(&path).with_context(|| path.display().to_string())?;
        let bound = std::thread::scope(|scope| {
            let inside = || -> Result<Self> {
                setns(namespace, CloneFlags::CLONE_NEWNET)?;
                let servers = Self {
                    tcp: TcpListener::bind("[::]:80")?,
                    udp: UdpSocket::bind("[::]:53")?,
                };
                servers
                    .udp
                    .set_read_timeout(Some(Duration::from_secs(60)))?;
                Ok(servers)
            };
            scope.spawn(inside).join()
        });
        bound.map_err(|_| anyhow::anyhow!("the thread in the pod panicked"))?
    }

    /// Is the pod reached at these addresses from where `network` is, by both protocols?
    fn assert_reached(&self, network: &File, to: &[(SocketAddr, SocketAddr)]) -> Result<()> {
        for (tcp, udp) in to {
            std::thread::scope(|scope| -> Result<()> {
                let client = scope.spawn(|| -> Result<[String; 2]> {
                    setns(network, CloneFlags::CLONE_NEWNET)?;
                    Ok([ask_tcp(*tcp)?, ask_udp(*udp)?])
                });
                let (mut stream, _) = self.tcp.accept()?;
                stream.write_all(b"tcp of the pod")?;
                drop(stream);
                let mut question = [0; 16];
                let (_, client_address) = self.udp.recv_from(&mut question)?;
                self.udp.send_to(b"udp of the pod", client_address)?;
                let said = client.join().map_err(|_| anyhow::anyhow!("panicked"))??;
                ensure!(said == ["tcp of the pod", "udp of the pod"], "{said:?}");
                Ok(())
            })
            .with_context(|| format!("to {tcp}"))?;
        }
        Ok(())
    }
}

fn ask_tcp(to: SocketAddr) -> Result<String> {
    let mut stream = TcpStream::connect_timeout(&to, LIMIT).context(to)?;
    stream.set_read_timeout(Some(LIMIT))?;
    let mut said = String::new();
    stream.read_to_string(&mut said)?;
    Ok(said)
}

fn ask_udp(to: SocketAddr) -> Result<String> {
    let any: SocketAddr = match to {
        SocketAddr::V4(_) => "0.0.0.0:0".parse()?,
        SocketAddr::V6(_) => "[::]:0".parse()?,
    };
    let socket = UdpSocket::bind(any)?;
    socket.set_read_timeout(Some(LIMIT))?;
    socket.connect(to)?;
    socket.send(b"?").with_context(|| format!("udp {to}"))?;
    let mut said = [0; 64];
    let length = socket
        .recv(&mut said)
        .with_context(|| format!("udp {to}"))?;
    Ok(String::from_utf8_lossy(&said[..length]).into_owned())
}

fn with_ports(world: &World, name: &str) -> v1::PodSandboxConfig {
    let mut config = world.pod_config(name);
    let ports = [
        (v1::Protocol::Tcp, 80, 8080),
        (v1::Protocol::Udp, 53, 5353),
        // Listed and not asked for.
        (v1::Protocol::Tcp, 9999, 0),
    ];
    let mapping =
        |(protocol, container_port, host_port): (v1::Protocol, i32, i32)| v1::PortMapping {
            protocol: protocol.into(),
            container_port,
            host_port,
            host_ip: String::new(),
        };
    config.port_mappings = ports.map(mapping).to_vec();
    config
}

/// The wire's other end: a network namespace of its own, with a file that holds it.
fn outside(world: &World) -> Result<File> {
    let ip = |words: &str| {
        let argv: Vec<&str> = std::iter::once("ip").chain(words.split(' ')).collect();
        world.machine.run(&argv)
    };
    ip("netns add outside")?;
    ip("link add wire type veth peer name wire-out")?;
    ip("link set wire-out netns outside")?;
    ip(&format!("addr add {}/24 dev wire", WIRE[0]))?;
    ip(&format!("-6 addr add {}/64 dev wire nodad", WIRE_V6[0]))?;
    ip("link set wire up")?;
    ip(&format!("-n outside addr add {}/24 dev wire-out", WIRE[1]))?;
    ip(&format!(
        "-n outside -6 addr add {}/64 dev wire-out nodad",
        WIRE_V6[1]
    ))?;
    ip("-n outside link set wire-out up")?;
    let path = world.machine.path("/run/netns/outside");
    File::open(&path).with_context(|| path.display().to_string())
}

fn both(ip: &str) -> Result<(SocketAddr, SocketAddr)> {
    let ip: IpAddr = ip.parse()?;
    Ok((SocketAddr::new(ip, 8080), SocketAddr::new(ip, 5353)))
}

/// From the machine by any of its addresses, from outside, by both protocols and families; again after
/// the daemon was killed; by another pod once the first is gone.
#[tokio::test]
async fn host_ports_lead_to_the_pod_and_are_freed() -> Result<()> {
    let mut world = World::start().await?;
    world
        .machine
        .write("/etc/cni/net.d/10-mynet.conflist", DUAL, 0o644)?;
    let outside = outside(&world)?;
    let machine = File::open(format!("/proc/{}/ns/net", world.machine.pid()))?;
    for round in ["first", "second"] {
        let sandbox = with_ports(&world, round);
        let pod = world.run_pod(&sandbox).await?;
        let network = world.pod_status(&pod).await?.network.unwrap_or_default();
        let v6 = network.additional_ips.first().map(|ip| ip.ip.clone());
        ensure!(network.ip.starts_with("10.88."), "{network:?}");
        ensure!(
            v6.is_some_and(|ip| ip.starts_with("fd00:88:")),
            "{network:?}"
        );
        let servers = Servers::start(&world, &pod)?;
        let own = [
            both("127.0.0.1")?,
            both("10.88.0.1")?,
            both(WIRE[0])?,
            both(WIRE_V6[0])?,
        ];
        servers.assert_reached(&machine, &own)?;
        servers.assert_reached(&outside, &[both(WIRE[0])?, both(WIRE_V6[0])?])?;
        world.restart(Signal::SIGKILL).await?;
        servers.assert_reached(&machine, &[both("127.0.0.1")?])?;
        servers.assert_reached(&outside, &[both(WIRE[0])?])?;
        drop(servers);
        world.client.stop_pod_sandbox(&pod).await?;
        let rules = world.machine.run(&["iptables-save"])?;
        ensure!(!rules.contains("8080"), "{rules}");
        world.client.remove_pod_sandbox(&pod).await?;
    }
    drop((outside, machine));
    world.machine.run(&["ip", "link", "del", "wire"])?;
    world.machine.run(&["ip", "netns", "del", "outside"])?;
    // The plugins keep chains of their own and the addresses they gave last, whoever comes and goes.
    let mut kept = PORTMAPS.to_vec();
    kept.extend([
        "ip6tables-save",
        "last_reserved_ip",
        "/run/netns",
        "fe80",
        "fd00:88",
    ]);
    world.assert_clean(&kept).await
}

/// Killed while it makes a pod with host ports: none of them stays taken.
#[tokio::test]
async fn a_crash_in_the_middle_frees_the_ports() -> Result<()> {
    let mut world = World::start().await?;
    let sandbox = with_ports(&world, "crashed");
    let call = {
        let (client, sandbox) = (world.client.clone(), sandbox.clone());
        tokio::spawn(async move { client.run_pod_sandbox(sandbox, "").await })
    };
    // As soon as anything of it is there.
    let deadline = Instant::now() + LIMIT;
    let pins = world.machine.path("/run/ocid/ns");
    while std::fs::read_dir(&pins)?.next().is_none() {
        ensure!(Instant::now() < deadline, "no pod is made");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    world.restart(Signal::SIGKILL).await?;
    // What the call came to is told by the new daemon alone.
    let _ = call.await?;
    for pod in world.client.list_pod_sandboxes(None).await? {
        world.client.remove_pod_sandbox(&pod.id).await?;
    }
    let rules = world.machine.run(&["iptables-save"])?;
    ensure!(!rules.contains("8080"), "{rules}");
    let pod = world.run_pod(&sandbox).await?;
    let servers = Servers::start(&world, &pod)?;
    let machine = File::open(format!("/proc/{}/ns/net", world.machine.pid()))?;
    servers.assert_reached(&machine, &[both("127.0.0.1")?])?;
    drop(servers);
    let mut kept = PORTMAPS.to_vec();
    kept.push("last_reserved_ip");
    world.assert_clean(&kept).await
}
