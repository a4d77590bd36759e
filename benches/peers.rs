//! `cargo bench --bench peers [ROUNDS]`: ocid beside the distribution's containerd on one throwaway
//! machine, with the same runc, network, image and client. Prints medians and ratios; judges nothing.
//!
//! The two take turns within each round, so that a slow minute of the machine meets both.

#[path = "../tests/node/support/mod.rs"]
mod support;

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use crio_setup::cri::v1::{
    ContainerConfig, ContainerMetadata, ImageSpec, LinuxPodSandboxConfig,
    LinuxSandboxSecurityContext, NamespaceMode, NamespaceOption, PodSandboxConfig,
    PodSandboxMetadata,
};
use crio_setup::host::command::Command;
use crio_setup::ocic::client::Client;
use nix::sys::signal::Signal;
use serde_json::json;
use support::Machine;
use support::image::{Compression, Layer, assemble};
use support::mirror::Mirror;
use support::registry::Registry;
use support::running::Running;

const LIMIT: Duration = Duration::from_secs(30);

/// What a Kubernetes pause image holds: a static program that waits.
const PAUSE: &str = "#include <unistd.h>\n#include <signal.h>\n#include <stdlib.h>\nstatic void end(int s) { (void)s; _exit(0); }\nint main(void) { signal(SIGTERM, end); signal(SIGINT, end); for (;;) pause(); }\n";

const CONTAINERD: &str = r#"version = 2
root = "/var/lib/containerd-bench"
state = "/run/containerd-bench"
[grpc]
  address = "/run/containerd-bench/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "127.0.0.1:5000/pause:1"
  disable_apparmor = true
  restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "/usr/lib/cni"
  conf_dir = "/etc/cni/net.d"
[plugins."io.containerd.grpc.v1.cri".registry.mirrors."127.0.0.1:5000"]
  endpoint = ["http://127.0.0.1:5000"]
"#;

/// A CRI daemon and what was measured of it.
struct Peer {
    name: &'static str,
    argv: Vec<String>,
    socket: PathBuf,
    /// Command names of the daemon's helpers, one or more per pod.
    helper: &'static str,
    start: Vec<f64>,
    up: Vec<f64>,
    exec: Vec<f64>,
    down: Vec<f64>,
    pss: f64,
    pss_loaded: f64,
    helpers: f64,
}

impl Peer {
    fn new(name: &'static str, argv: Vec<String>, socket: PathBuf, helper: &'static str) -> Self {
        let (start, up, exec, down) = (vec![], vec![], vec![], vec![]);
        Self {
            name,
            argv,
            socket,
            helper,
            start,
            up,
            exec,
            down,
            pss: 0.0,
            pss_loaded: 0.0,
            helpers: 0.0,
        }
    }

    /// Starts the daemon; the time until it answered `Version` is kept.
    async fn launch(&mut self, machine: &Machine) -> Result<(Running, Client)> {
        let argv: Vec<&str> = self.argv.iter().map(String::as_str).collect();
        let started = Instant::now();
        let running = machine.spawn(&argv, &[])?;
        loop {
            // Neither daemon tells a stranger when the first call will be answered, so the client
            // knocks until it is; the pause is well below what is measured.
            if let Ok(client) = Client::connect(&self.socket, LIMIT).await
                && client.version().await.is_ok()
            {
                self.start.push(milliseconds(started));
                return Ok((running, client));
            }
            ensure!(
                started.elapsed() < LIMIT,
                "{} does not answer:\n{}",
                self.name,
                running.output()
            );
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
    }
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1000.0
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Proportional set size in MiB.
fn pss(pid: i32) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let line = text
        .lines()
        .find(|l| l.starts_with("Pss:"))
        .context("no Pss")?;
    let kib: f64 = line
        .split_whitespace()
        .nth(1)
        .context("no figure")?
        .parse()?;
    Ok(kib / 1024.0)
}

/// The summed PSS of processes whose command line begins with a program of this name.
fn helpers(machine: &Machine, pattern: &str) -> Result<f64> {
    let mut sum = 0.0;
    for entry in fs::read_dir("/proc")? {
        let Ok(pid) = entry?.file_name().to_string_lossy().parse::<i32>() else {
            continue;
        };
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        let own = fs::read_link(format!("/proc/{}/ns/pid", machine.pid()))?;
        let there = fs::read_link(format!("/proc/{pid}/ns/pid")).unwrap_or_default();
        if there == own && line.contains(pattern) {
            sum += pss(pid)?;
        }
    }
    Ok(sum)
}

fn sandbox(number: usize) -> PodSandboxConfig {
    PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: format!("bench-{number}"),
            uid: format!("uid-{number}"),
            namespace: "bench".to_owned(),
            attempt: 0,
        }),
        log_directory: format!("/var/log/pods/bench-{number}"),
        linux: Some(LinuxPodSandboxConfig {
            security_context: Some(LinuxSandboxSecurityContext {
                namespace_options: Some(NamespaceOption {
                    pid: NamespaceMode::Container.into(),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn container(image: &str) -> ContainerConfig {
    ContainerConfig {
        metadata: Some(ContainerMetadata {
            name: "redis".to_owned(),
            attempt: 0,
        }),
        image: Some(ImageSpec {
            image: image.to_owned(),
            ..Default::default()
        }),
        log_path: "redis.log".to_owned(),
        ..Default::default()
    }
}

/// A pod with one running container: pod id, container id.
async fn up(client: &Client, number: usize, image: &str) -> Result<(String, String)> {
    let config = sandbox(number);
    let pod = client.run_pod_sandbox(config.clone(), "").await?;
    let id = client
        .create_container(&pod, container(image), config)
        .await?;
    client.start_container(&id).await?;
    Ok((pod, id))
}

async fn down(client: &Client, pod: &str) -> Result<()> {
    client.stop_pod_sandbox(pod).await?;
    Ok(client.remove_pod_sandbox(pod).await?)
}

/// One pod's life on a peer.
async fn round(peer: &mut Peer, client: &Client, number: usize, image: &str) -> Result<()> {
    let started = Instant::now();
    let (pod, id) = up(client, number, image).await.context(peer.name)?;
    peer.up.push(milliseconds(started));
    let started = Instant::now();
    let output = client
        .exec_sync(&id, vec!["/bin/true".to_owned()], Some(LIMIT))
        .await?;
    ensure!(output.exit_code == 0, "{}: exec failed", peer.name);
    peer.exec.push(milliseconds(started));
    let started = Instant::now();
    down(client, &pod).await.context(peer.name)?;
    peer.down.push(milliseconds(started));
    Ok(())
}

fn prepare(machine: &Machine) -> Result<(Mirror, Registry, String)> {
    let mirror = Mirror::open(machine)?;
    machine.run(&["apt-get", "-qq", "update"])?;
    machine.run(&[
        "apt-get",
        "-qq",
        "-y",
        "--no-install-recommends",
        "install",
        "containerd",
    ])?;
    machine.write("/etc/containerd-bench.toml", CONTAINERD, 0o644)?;
    support::node::configure(machine)?;
    let registry = Registry::start(machine, 5000)?;
    let folder = tempfile::tempdir()?;
    let (source, program) = (folder.path().join("pause.c"), folder.path().join("pause"));
    fs::write(&source, PAUSE)?;
    Command::new("cc")
        .args(["-O2", "-static", "-s", "-o"])
        .arg(&program)
        .arg(&source)
        .run()?;
    let mut layer = Layer::default();
    layer.file("/pause", 0o755, &fs::read(&program)?)?;
    let layers = vec![layer.finish(Compression::Gzip)?];
    let pause = assemble(layers, json!({ "Entrypoint": ["/pause"] }))?;
    registry.push(machine, "pause", "1", &pause)?;
    let image = registry.push(
        machine,
        "library/redis",
        "7-alpine",
        &support::redis::image()?,
    )?;
    Ok((mirror, registry, image))
}

async fn compare(machine: &Machine, rounds: usize, image: &str) -> Result<[Peer; 2]> {
    let ocid = vec![machine.product("ocid")?];
    let containerd = ["containerd", "--config", "/etc/containerd-bench.toml"];
    let containerd: Vec<String> = containerd.map(str::to_owned).to_vec();
    let socket = |path: &str| machine.path(path);
    let mut peers = [
        Peer::new("ocid", ocid, socket("/run/ocid/ocid.sock"), "ocid monitor"),
        Peer::new(
            "containerd",
            containerd,
            socket("/run/containerd-bench/containerd.sock"),
            "containerd-shim",
        ),
    ];
    for _ in 0..rounds.min(10) {
        for peer in &mut peers {
            let (mut running, _) = peer.launch(machine).await?;
            running.signal(Signal::SIGTERM)?;
            running.wait()?;
        }
    }
    let mut live = Vec::new();
    for peer in &mut peers {
        let (running, client) = peer.launch(machine).await?;
        peer.start.pop();
        // Its own first seconds and its image are behind it before anything is measured.
        client.pull_image(image, None).await.context(peer.name)?;
        let (pod, _) = up(&client, 0, image).await.context(peer.name)?;
        down(&client, &pod).await?;
        live.push((running, client));
    }
    for (peer, (running, _)) in peers.iter_mut().zip(&live) {
        peer.pss = pss(running.pid()?)?;
    }
    for number in 1..=rounds {
        for (peer, (_, client)) in peers.iter_mut().zip(&live) {
            round(peer, client, number, image).await?;
        }
    }
    for (peer, (running, client)) in peers.iter_mut().zip(&live) {
        let mut pods = Vec::new();
        for number in 0..10 {
            pods.push(up(client, 1000 + number, image).await?.0);
        }
        peer.pss_loaded = pss(running.pid()?)?;
        peer.helpers = helpers(machine, peer.helper)?;
        for pod in pods {
            down(client, &pod).await?;
        }
    }
    Ok(peers)
}

/// The installer when there is nothing to do: milliseconds (the way into the machine taken off) and MiB
/// at most.
fn rerun(rounds: usize) -> Result<(f64, f64)> {
    let machine = Machine::start()?;
    let _way = Mirror::open(&machine)?;
    machine.run(&["apt-get", "-qq", "update"])?;
    machine.run(&["apt-get", "-qq", "-y", "install", "time"])?;
    let program = machine.product("crio-setup")?;
    machine.run(&[&program, "install", "--without", "docker"])?;
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    let installed = ["crio-setup", "install", "--without", "docker"];
    for _ in 0..rounds {
        let started = Instant::now();
        let said = machine.run(&installed)?;
        ours.push(milliseconds(started));
        ensure!(said.contains("changed: 0"), "{said}");
        let started = Instant::now();
        machine.run(&["true"])?;
        bare.push(milliseconds(started));
    }
    let argv = [&["/usr/bin/time", "-f", "%M"], &installed[..]].concat();
    let output = machine.output(&argv)?;
    let said = String::from_utf8(output.stderr)?;
    let kib: f64 = said.lines().last().context("no figure")?.trim().parse()?;
    Ok((median(&ours) - median(&bare), kib / 1024.0))
}

fn main() -> Result<()> {
    let rounds = std::env::args()
        .skip(1)
        .find_map(|argument| argument.parse().ok())
        .unwrap_or(20);
    let machine = Machine::start()?;
    let (_mirror, _registry, image) = prepare(&machine)?;
    let [ocid, containerd] = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(compare(&machine, rounds, &image))?;
    let (time, memory) = rerun(rounds)?;
    println!("medians of {rounds} rounds | ocid | containerd | ratio");
    println!("---|---|---|---");
    let row = |what: &str, ours: f64, theirs: f64| {
        println!("{what} | {ours:.1} | {theirs:.1} | {:.2}", ours / theirs);
    };
    row(
        "start to first Version, ms",
        median(&ocid.start),
        median(&containerd.start),
    );
    row(
        "pod + container up, ms",
        median(&ocid.up),
        median(&containerd.up),
    );
    row(
        "ExecSync true, ms",
        median(&ocid.exec),
        median(&containerd.exec),
    );
    row(
        "StopPodSandbox + RemovePodSandbox, ms",
        median(&ocid.down),
        median(&containerd.down),
    );
    row("daemon PSS idle, MiB", ocid.pss, containerd.pss);
    row(
        "daemon PSS with 10 pods, MiB",
        ocid.pss_loaded,
        containerd.pss_loaded,
    );
    row(
        "helpers of 10 pods, PSS, MiB",
        ocid.helpers,
        containerd.helpers,
    );
    println!("no-op re-run of install: {time:.0} ms, {memory:.1} MiB");
    Ok(())
}
