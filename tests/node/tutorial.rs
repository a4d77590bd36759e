//! The tutorial's steps 18 to 24 with what `install` put on a bare machine: a pod, redis in it, a
//! client on 10.88.0.2:6379 that says MONITOR, the log, and nothing left behind.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::install::install;
use crate::support::machine::BROUGHT;
use crate::support::mirror::Mirror;
use crate::support::registry::Registry;
use crate::support::snapshot::Snapshot;
use crate::support::wait::file_with;
use crate::support::{Machine, redis, repository};

/// What stays on a node after its last pod, and why.
const STAYS: [&str; 6] = [
    // The bridge plugin keeps its bridge, the kernel the bridge's routes.
    "link cni0",
    "dev cni0",
    // host-local goes on from the last address it gave, and keeps its lock file.
    "/var/lib/cni/networks",
    "/var/lib/cni",
    // The log folder is the client's (kubelet's, a person's): its logs outlive the pod.
    "/var/log/pods",
    // The OCI runtime's folder of containers, now empty.
    "/run/ocid/oci",
];

/// What redis logs when it listens.
const READY: &str = "Ready to accept connections";

fn inspect(machine: &Machine, container: &str) -> Result<Value> {
    let text = machine.run(&[
        "ocic", "ctr", "status", "--id", container, "--output", "json",
    ])?;
    serde_json::from_str(&text).with_context(|| format!("not JSON: {text}"))
}

/// Sends a line.
fn say(client: &mut BufReader<TcpStream>, line: &str) -> Result<()> {
    Ok(client
        .get_mut()
        .write_all(format!("{line}\r\n").as_bytes())?)
}

/// Reads a line.
fn hear(client: &mut BufReader<TcpStream>) -> Result<String> {
    let mut line = String::new();
    client.read_line(&mut line)?;
    Ok(line.trim_end().to_owned())
}

#[test]
fn redis_answers_on_its_pod_address() -> Result<()> {
    tutorial(&Machine::bare()?)
}

#[test]
fn redis_answers_on_its_pod_address_under_systemd() -> Result<()> {
    tutorial(&Machine::boot()?.without(&BROUGHT)?)
}

fn tutorial(machine: &Machine) -> Result<()> {
    let _mirror = Mirror::open(machine)?;
    install(machine, &[])?;
    let registry = Registry::start(machine, 5000)?;
    let image = registry.push(machine, "library/redis", "7-alpine", &redis::image()?)?;
    let examples = repository().join("examples");
    let sandbox = examples.join("sandbox_config.json").display().to_string();
    let container = examples.join("container_redis.json").display().to_string();
    let before = Snapshot::take(machine)?;

    let version = machine.run(&["ocic", "runtimeversion"])?;
    ensure!(version.contains("ocid"), "{version}");
    machine.run(&["ocic", "image", "pull", &image])?;
    let pod = machine.run(&["ocic", "pod", "create", "--config", &sandbox])?;
    ensure!(is_id(&pod), "`{pod}` is not an id alone");
    let create = [
        "ocic", "ctr", "create", "--pod", &pod, "--config", &container, "--image", &image,
    ];
    let redis = machine.run(&create)?;
    ensure!(is_id(&redis), "`{redis}` is not an id alone");
    machine.run(&["ocic", "ctr", "start", "--id", &redis])?;
    let status = inspect(machine, &redis)?;
    let log = status.pointer("/status/logPath").and_then(Value::as_str);
    let log = log.with_context(|| format!("no log path in {status}"))?;
    file_with(&machine.path(log), READY, Duration::from_secs(20))?;

    let address = SocketAddr::from((Ipv4Addr::new(10, 88, 0, 2), 6379));
    let mut monitor = BufReader::new(machine.connect(address)?);
    say(&mut monitor, "MONITOR")?;
    ensure!(hear(&mut monitor)? == "+OK");
    let mut second = BufReader::new(machine.connect(address)?);
    say(&mut second, "SET tutorial done")?;
    ensure!(hear(&mut second)? == "+OK");
    let seen = hear(&mut monitor)?;
    ensure!(seen.contains(r#""SET" "tutorial" "done""#), "{seen}");
    drop((monitor, second));

    let pong = machine.run(&[
        "ocic",
        "ctr",
        "execsync",
        "--id",
        &redis,
        "redis-cli",
        "ping",
    ])?;
    ensure!(pong.contains("PONG"), "{pong}");
    let logs = machine.run(&["ocic", "ctr", "logs", "--id", &redis])?;
    ensure!(logs.contains(READY), "{logs}");
    // With systemd there is a journal, and the tutorial reads redis' lines there.
    if machine.exists("/run/systemd/system") {
        let journal = machine.run(&["journalctl", "-u", "ocid", "--no-pager"])?;
        ensure!(journal.contains(READY), "{journal}");
    } else {
        // Nothing to look at; the sibling of this test looks.
    }

    // While it runs it must show in the picture, or the comparison below proves nothing.
    let during = Snapshot::take(machine)?;
    for kind in [
        "mount",
        "namespace",
        "link",
        "rule",
        "cgroup",
        "process",
        "file",
    ] {
        ensure!(
            during
                .since(&before, &STAYS)
                .iter()
                .any(|line| line.starts_with(kind)),
            "a running pod shows no `{kind}`"
        );
    }

    machine.run(&["ocic", "ctr", "stop", "--id", &redis])?;
    let status = inspect(machine, &redis)?;
    let exit = status.pointer("/status/exitCode").and_then(Value::as_i64);
    ensure!(exit == Some(0), "redis ended by SIGTERM: {status}");
    let logs = machine.run(&["ocic", "ctr", "logs", "--id", &redis])?;
    ensure!(
        logs.contains("ready to exit"),
        "redis' last words are missing: {logs}"
    );
    machine.run(&["ocic", "ctr", "remove", "--id", &redis])?;
    machine.run(&["ocic", "pod", "stop", "--id", &pod])?;
    machine.run(&["ocic", "pod", "remove", "--id", &pod])?;
    machine.run(&["ocic", "image", "remove", &image])?;
    Snapshot::take(machine)?.assert_as(&before, &STAYS)
}

#[test]
fn the_examples_run_as_they_are_where_a_mirror_serves_docker_hub() -> Result<()> {
    use crate::support::node::{Daemon, configure, ocic, ocic_ok};
    let machine = Machine::start()?;
    configure(&machine)?;
    // Nobody reaches docker.io from here, so the reference is answered by the registry on loopback.
    machine.write(
        "/etc/containers/registries.conf",
        "[[registry]]\nlocation = \"docker.io\"\n[[registry.mirror]]\nlocation = \"127.0.0.1:5000\"\ninsecure = true\n",
        0o644,
    )?;
    let registry = Registry::start(&machine, 5000)?;
    registry.push(&machine, "library/redis", "7-alpine", &redis::image()?)?;
    let _daemon = Daemon::start(&machine)?;
    let examples = repository().join("examples");
    let sandbox = examples.join("sandbox_config.json").display().to_string();
    let container = examples.join("container_redis.json").display().to_string();
    let pod = ocic_ok(&machine, &["pod", "create", "--config", &sandbox])?;
    let created = ocic(
        &machine,
        &["ctr", "create", "--pod", &pod, "--config", &container],
    )?;
    let said = String::from_utf8_lossy(&created.stderr).into_owned();
    ensure!(created.status.success(), "{said}");
    ensure!(
        said.contains("docker.io/library/redis:7-alpine"),
        "a pull that took place is not told: {said}"
    );
    let redis = String::from_utf8_lossy(&created.stdout).trim().to_owned();
    ocic_ok(&machine, &["ctr", "start", "--id", &redis])?;
    ocic_ok(&machine, &["pod", "stop", "--id", &pod])?;
    ocic_ok(&machine, &["pod", "remove", "--id", &pod])?;
    Ok(())
}

fn is_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit())
}
