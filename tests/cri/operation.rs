//! The daemon as its operator meets it: configuration, reload, metrics, watchdog, dump.

use std::io::{Read, Write};
use std::os::unix::net::{UnixDatagram, UnixStream};

use anyhow::{Context, Result, ensure};
use crio_setup::host::process::PidFd;
use nix::sys::signal::Signal;

use crate::support::Machine;
use crate::support::http::request;
use crate::support::node::{configure, fails};
use crate::world::{LIMIT, World};

#[test]
fn the_configuration_in_effect_is_shown_and_checked() -> Result<()> {
    let machine = Machine::start()?;
    configure(&machine)?;
    let drop_in = "/etc/ocid/ocid.conf.d/10-x.conf";
    machine.write(
        drop_in,
        "[crio.runtime]\npids_limit = 99\nconmon = \"/bin/conmon\"\n",
        0o644,
    )?;
    let ocid = machine.product("ocid")?;
    let output = machine.output(&[&ocid, "--root", "/srv/root", "config"])?;
    ensure!(output.status.success(), "{output:?}");
    let (shown, said) = (
        String::from_utf8(output.stdout)?,
        String::from_utf8(output.stderr)?,
    );
    for line in [
        "pids_limit = 99  # /etc/ocid/ocid.conf.d/10-x.conf",
        "cgroup_manager = \"cgroupfs\"  # /etc/ocid/ocid.conf",
        "root = \"/srv/root\"  # --root",
        "metrics_port = 9090  # default",
    ] {
        ensure!(shown.lines().any(|l| l == line), "no `{line}` in\n{shown}");
    }
    ensure!(said.contains("crio.runtime.conmon"), "{said}");
    // It is a configuration itself.
    machine.write("/srv/again.conf", &shown, 0o644)?;
    let again = ["--config", "/srv/again.conf", "config", "--check"];
    let again: Vec<&str> = std::iter::once(ocid.as_str()).chain(again).collect();
    ensure!(machine.run(&again)?.is_empty());

    machine.write(drop_in, "[crio.runtime]\npids_limit = \"many\"\n", 0o644)?;
    let refused = machine.output(&[&ocid, "config", "--check"])?;
    fails(
        "ocid config --check",
        &refused,
        2,
        &["10-x.conf", "pids_limit"],
    )?;
    Ok(())
}

#[tokio::test]
async fn it_is_watched_and_changed_while_it_runs() -> Result<()> {
    const METRICS: &str = "[crio.metrics]\nenable_metrics = true\nmetrics_port = 9091\nmetrics_socket = \"/run/metrics.sock\"\n";
    let drop_in = "/etc/ocid/ocid.conf.d/10-metrics.conf";
    let world = World::with(&[(drop_in, METRICS)]).await?;
    let sandbox = world.pod_config("watched");
    let pod = world.run_pod(&sandbox).await?;
    let config = world.container_config("sleeper", &["sleep", "600"]);
    world.up(&pod, &sandbox, config).await?;
    let unknown = world.client.start_container(&"f".repeat(64)).await;
    ensure!(unknown.is_err());

    let address = "127.0.0.1:9091".parse()?;
    let reply = request(
        &world.machine,
        address,
        "GET",
        "/metrics",
        "text/plain",
        b"",
    )?;
    ensure!(reply.status == 200, "status {}", reply.status);
    let text = String::from_utf8(reply.body)?;
    for line in [
        "container_runtime_crio_operations_total{operation=\"RunPodSandbox\"} 2",
        "container_runtime_crio_operations_total{operation=\"StartContainer\"} 3",
        "container_runtime_crio_operations_errors_total{operation=\"StartContainer\"} 1",
        "container_runtime_crio_operations_latency_seconds_total_count{operation=\"RunPodSandbox\"} 2",
        "# TYPE container_runtime_crio_operations_latency_seconds_total summary",
        "ocid_pods{state=\"ready\"} 1",
        "ocid_containers{state=\"running\"} 1",
        "container_runtime_crio_containers_oom_total 0",
    ] {
        ensure!(text.lines().any(|l| l == line), "no `{line}` in\n{text}");
    }

    // Clients that say nothing hold up nobody.
    let silent: Vec<_> = (0..32)
        .map(|_| UnixStream::connect(world.machine.path("/run/metrics.sock")))
        .collect::<Result<_, _>>()?;
    for (method, path, status) in [
        ("POST", "/metrics", 405),
        ("GET", "/", 404),
        ("GET", "/metrics/x", 404),
        ("GET", "/metrics?x", 200),
    ] {
        let reply = request(&world.machine, address, method, path, "text/plain", b"")?;
        ensure!(reply.status == status, "{method} {path}: {}", reply.status);
    }

    let socket = world.machine.path("/run/metrics.sock");
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
    let mut reply = String::new();
    stream.read_to_string(&mut reply)?;
    ensure!(reply.contains("ocid_pods{state=\"ready\"} 1"), "{reply}");
    drop(silent);

    let daemon = PidFd::open(world.daemon().pid()?)?;
    daemon.kill(Signal::SIGUSR1)?;
    world.daemon().line_with("dump: pods: {\"Created\": 1}")?;
    world.daemon().line_with("dump: operations under way: 0")?;

    // The level of the log changes; what cannot change is named, and so is what is wrong.
    let reload = |text: &str| -> Result<()> {
        world.machine.write(drop_in, text, 0o644)?;
        Ok(daemon.kill(Signal::SIGHUP)?)
    };
    reload("[crio.metrics]\nenable_metrics = \"perhaps\"\n")?;
    world
        .daemon()
        .line_with("the configuration is not reloaded")?;
    reload(&format!(
        "[crio.runtime]\nlog_level = \"error\"\n[crio.network]\nnetwork_dir = \"/srv\"\n{METRICS}"
    ))?;
    world
        .daemon()
        .line_with("`crio.network.network_dir` has changed; it takes effect when")?;
    let lines = world.daemon().output().lines().count();
    let pod = world.run_pod(&world.pod_config("silent")).await?;
    world.client.remove_pod_sandbox(&pod).await?;
    let more: Vec<String> = world
        .daemon()
        .output()
        .lines()
        .skip(lines)
        .map(str::to_owned)
        .collect();
    ensure!(!more.iter().any(|line| line.contains("pod is")), "{more:?}");
    reload(&format!("[crio.runtime]\nlog_level = \"info\"\n{METRICS}"))?;
    world.daemon().line_with("level=info")?;
    world.assert_clean(&[]).await
}

#[test]
fn the_watchdog_is_told_that_the_daemon_lives() -> Result<()> {
    let machine = Machine::start()?;
    configure(&machine)?;
    let name = "/run/test-watchdog.sock";
    let notify = UnixDatagram::bind(machine.path(name))?;
    notify.set_read_timeout(Some(LIMIT))?;
    let ocid = machine.product("ocid")?;
    let _running = machine.spawn(
        &[&ocid],
        &[("NOTIFY_SOCKET", name), ("WATCHDOG_USEC", "200000")],
    )?;
    let mut pings = 0;
    while pings < 3 {
        let mut message = [0; 4096];
        let length = notify.recv(&mut message).context("no ping")?;
        let message = String::from_utf8_lossy(&message[..length]).into_owned();
        pings += usize::from(message.lines().any(|line| line == "WATCHDOG=1"));
    }
    Ok(())
}
