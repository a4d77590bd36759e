//! The daemon is killed outright while its containers serve; they do not notice, and the next daemon
//! knows them.

use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::support::node::{Daemon, configure, ocic_json, ocic_ok};
use crate::support::registry::Registry;
use crate::support::snapshot::Snapshot;
use crate::support::wait::file_with;
use crate::support::{Machine, redis};

/// Ends with a code of its own when it is told to stop; the shell waits in a builtin.
const STUBBORN: &str =
    "trap 'exit 7' TERM; mkfifo /tmp/f; echo here; while :; do read x </tmp/f; done";

fn pod_config(name: &str) -> String {
    json!({
        "metadata": { "name": name, "uid": format!("{name}-uid"), "namespace": "tests", "attempt": 1 },
        "log_directory": format!("/var/log/pods/{name}"),
        "linux": { "security_context": { "namespace_options": { "pid": 1 } } },
    })
    .to_string()
}

fn container_config(name: &str, image: &str, command: &[&str]) -> String {
    json!({
        "metadata": { "name": name, "attempt": 1 },
        "image": { "image": image },
        "command": command,
        "log_path": format!("{name}.log"),
        "linux": {},
    })
    .to_string()
}

/// Creates and starts a container; its id.
fn run(machine: &Machine, pod: &str, name: &str, image: &str, command: &[&str]) -> Result<String> {
    let path = format!("/srv/{name}.json");
    machine.write(&path, container_config(name, image, command), 0o644)?;
    let id = ocic_ok(machine, &["ctr", "create", "--pod", pod, "--config", &path])?;
    ocic_ok(machine, &["ctr", "start", "--id", &id])?;
    Ok(id)
}

fn status(machine: &Machine, id: &str) -> Result<Value> {
    let status = ocic_json(machine, &["ctr", "status", "--id", id])?;
    status
        .get("status")
        .cloned()
        .with_context(|| format!("no status in {status}"))
}

/// Enum values are printed as numbers or by name.
fn is_state(status: &Value, name: &str, number: u64) -> bool {
    let state = &status["state"];
    state.as_str() == Some(name) || state.as_u64() == Some(number)
}

fn ping(connection: &mut BufReader<TcpStream>) -> Result<()> {
    connection.get_mut().write_all(b"PING\r\n")?;
    let mut line = String::new();
    connection.read_line(&mut line)?;
    ensure!(line.trim_end() == "+PONG", "redis says `{line}`");
    Ok(())
}

#[test]
fn containers_outlive_a_killed_daemon() -> Result<()> {
    let machine = Machine::start()?;
    configure(&machine)?;
    let registry = Registry::start(&machine, 5000)?;
    let image = registry.push(&machine, "library/redis", "7-alpine", &redis::image()?)?;
    let daemon = Daemon::start(&machine)?;
    ocic_ok(&machine, &["image", "pull", &image])?;
    let before = Snapshot::take(&machine)?;

    machine.write("/srv/pod.json", pod_config("survivor"), 0o644)?;
    let pod = ocic_ok(&machine, &["pod", "create", "--config", "/srv/pod.json"])?;
    let redis = run(&machine, &pod, "redis", &image, &[])?;
    let stubborn = run(&machine, &pod, "stubborn", &image, &["sh", "-c", STUBBORN])?;
    // Ends while nobody is there to see it.
    let brief = run(
        &machine,
        &pod,
        "brief",
        &image,
        &[
            "sh",
            "-c",
            "mkfifo /tmp/f; echo here; read x </tmp/f; exit 3",
        ],
    )?;
    let log = |name: &str| machine.path(format!("/var/log/pods/survivor/{name}.log"));
    let limit = Duration::from_secs(60);
    file_with(&log("redis"), "Ready to accept connections", limit)?;
    file_with(&log("stubborn"), "here", limit)?;
    file_with(&log("brief"), "here", limit)?;
    let sandbox = ocic_json(&machine, &["pod", "status", "--id", &pod])?;
    let ip: IpAddr = sandbox
        .pointer("/status/network/ip")
        .and_then(Value::as_str)
        .with_context(|| format!("no address in {sandbox}"))?
        .parse()?;
    let address = SocketAddr::new(ip, 6379);
    let mut connection = BufReader::new(machine.connect(address)?);
    ping(&mut connection)?;

    daemon.end(Signal::SIGKILL)?;
    ping(&mut connection).context("on the connection from before")?;
    ping(&mut BufReader::new(machine.connect(address)?)).context("on a new connection")?;
    // The brief one's end, by way of its own pipe, seen through its process' root.
    let reader = machine.run(&["pgrep", "-f", "read x </tmp/f; exit 3"])?;
    let reader = reader
        .lines()
        .last()
        .context("the brief container is gone")?;
    machine.run(&[
        "sh",
        "-c",
        &format!("echo >/proc/{reader}/root/tmp/f && tail --pid={reader} -f /dev/null"),
    ])?;

    let daemon = Daemon::start(&machine)?;
    let running = status(&machine, &redis)?;
    ensure!(is_state(&running, "CONTAINER_RUNNING", 1), "{running}");
    let listed = ocic_ok(&machine, &["ctr", "list"])?;
    ensure!(
        listed.contains(redis.get(..12).unwrap_or(&redis)),
        "{listed}"
    );
    let gone = status(&machine, &brief)?;
    ensure!(is_state(&gone, "CONTAINER_EXITED", 2), "{gone}");
    ensure!(gone["exitCode"].as_i64() == Some(3), "{gone}");
    ping(&mut connection).context("under the next daemon")?;
    let said = ocic_ok(
        &machine,
        &["ctr", "execsync", "--id", &redis, "redis-cli", "ping"],
    )?;
    ensure!(said.contains("PONG"), "{said}");
    ocic_ok(&machine, &["ctr", "stop", "--id", &stubborn])?;
    let ended = status(&machine, &stubborn)?;
    ensure!(ended["exitCode"].as_i64() == Some(7), "{ended}");
    ocic_ok(&machine, &["ctr", "stop", "--id", &redis])?;
    let ended = status(&machine, &redis)?;
    ensure!(is_state(&ended, "CONTAINER_EXITED", 2), "{ended}");
    ensure!(ended["exitCode"].as_i64() == Some(0), "{ended}");
    for id in [&redis, &stubborn, &brief] {
        ocic_ok(&machine, &["ctr", "remove", "--id", id])?;
    }
    ocic_ok(&machine, &["pod", "stop", "--id", &pod])?;
    ocic_ok(&machine, &["pod", "remove", "--id", &pod])?;
    // The daemon is another process than before; the bridge and host-local's note stay.
    let stays = [
        "cni0",
        "/var/lib/cni",
        "/run/ocid/oci",
        "--debug",
        "namespace mnt",
        "/srv/",
        "pod.json",
        "/var/log/pods",
    ];
    Snapshot::take(&machine)?.assert_as(&before, &stays)?;
    drop(daemon);
    Ok(())
}

#[test]
fn a_daemon_that_is_told_to_end_leaves_its_containers() -> Result<()> {
    let machine = Machine::start()?;
    configure(&machine)?;
    let registry = Registry::start(&machine, 5000)?;
    let image = registry.push(&machine, "library/redis", "7-alpine", &redis::image()?)?;
    let daemon = Daemon::start(&machine)?;
    ocic_ok(&machine, &["image", "pull", &image])?;
    machine.write("/srv/pod.json", pod_config("polite"), 0o644)?;
    let pod = ocic_ok(&machine, &["pod", "create", "--config", "/srv/pod.json"])?;
    let redis = run(&machine, &pod, "redis", &image, &[])?;
    let log = machine.path("/var/log/pods/polite/redis.log");
    file_with(&log, "Ready to accept connections", Duration::from_secs(60))?;
    daemon.end(Signal::SIGTERM)?;
    machine.run(&["pgrep", "-x", "redis-server"])?;
    let _daemon = Daemon::start(&machine)?;
    let running = status(&machine, &redis)?;
    ensure!(is_state(&running, "CONTAINER_RUNNING", 1), "{running}");
    ocic_ok(&machine, &["pod", "stop", "--id", &pod])?;
    let ended = status(&machine, &redis)?;
    ensure!(is_state(&ended, "CONTAINER_EXITED", 2), "{ended}");
    ocic_ok(&machine, &["pod", "remove", "--id", &pod])?;
    Ok(())
}
