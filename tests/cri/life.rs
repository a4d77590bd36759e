//! The daemon's own life and death: its end while calls are under way, what happens while it is away, another
//! one on the same folders, records and monitors of other builds.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use crio_setup::cri::v1::{ContainerState, PodSandboxState};
use crio_setup::host::clock::now_ns;
use crio_setup::ocid::failpoint::{Point, VARIABLE};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::support::node::fails;
use crate::world::{LIMIT, World, code, connect, eventually};

/// The daemon is another process after each restart; addresses of links settle late.
pub const RESTARTED: [&str; 2] = ["--debug", "route local fe80"];
/// Waits in a builtin for a line, and ends with 3.
pub const AWAITING: &str = "mkfifo /tmp/f; echo here; read x </tmp/f; exit 3";
pub const POLITE: &str =
    "trap 'exit 7' TERM; mkfifo /tmp/f; echo here; while :; do read x </tmp/f; done";

/// Waits until the container's own program runs.
pub async fn said_here(world: &World, id: &str) -> Result<()> {
    let path = world.machine.path(&world.status(id).await?.log_path);
    eventually("it says that it runs", async || {
        Ok(std::fs::read_to_string(&path)?.contains("here"))
    })
    .await
}

/// The record of a pod (`sandboxes`) or container (`containers`).
pub fn record(world: &World, kind: &str, id: &str) -> Result<Value> {
    let text = world
        .machine
        .read(&format!("/var/lib/ocid/{kind}/{id}/state.json"))?;
    Ok(serde_json::from_str(&text)?)
}

pub fn write_record(world: &World, kind: &str, id: &str, record: &Value) -> Result<()> {
    let path = format!("/var/lib/ocid/{kind}/{id}/state.json");
    world.machine.write(&path, record.to_string(), 0o600)
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_waits_for_calls_and_refuses_new_ones() -> Result<()> {
    let mut world = World::start().await?;
    world.end_daemon(Signal::SIGKILL)?;
    let order = format!("{}=pause", Point::PodAttached.name());
    world.start_daemon_with(&[(VARIABLE, &order)]).await?;
    let other = connect(&world.machine).await?;
    other.version().await?;
    let sandbox = world.pod_config("held");
    let call = {
        let (client, sandbox) = (world.client.clone(), sandbox.clone());
        tokio::spawn(async move { client.run_pod_sandbox(sandbox, "").await })
    };
    world.daemon().line_with("paused")?;
    world.daemon().signal(Signal::SIGTERM)?;
    world.daemon().line_with("draining")?;
    eventually("a new client is not served", async || {
        let Ok(client) = connect(&world.machine).await else {
            return Ok(true);
        };
        let answer = client.with_limit(Duration::from_secs(5)).version().await;
        Ok(answer.is_err())
    })
    .await?;
    eventually("an open connection takes no new call", async || {
        Ok(other
            .with_limit(Duration::from_secs(5))
            .version()
            .await
            .is_err())
    })
    .await?;
    ensure!(!call.is_finished(), "the call did not wait");
    world.daemon().signal(Signal::SIGUSR1)?;
    let pod = call.await??;
    world.await_daemon()?;
    ensure!(
        !world.machine.exists("/run/ocid/ocid.sock"),
        "the socket stays"
    );
    world.start_daemon().await?;
    let status = world.pod_status(&pod).await?;
    ensure!(
        status.state() == PodSandboxState::SandboxReady,
        "{status:?}"
    );
    world.assert_clean(&RESTARTED).await
}

#[tokio::test]
async fn a_second_daemon_on_the_same_folders_is_refused() -> Result<()> {
    let world = World::start().await?;
    let sandbox = world.pod_config("first-ones");
    let pod = world.run_pod(&sandbox).await?;
    let ocid = world.machine.product("ocid")?;
    let other = ["--listen", "/run/other/ocid.sock"];
    let root = ["--root", "/var/lib/other"];
    for (arguments, words) in [
        (
            &[][..],
            "another daemon has the state folder `/var/lib/ocid`",
        ),
        (
            &other[..],
            "another daemon has the state folder `/var/lib/ocid`",
        ),
        (
            &[other, root].concat()[..],
            "another daemon has the state folder `/run/ocid`",
        ),
        (
            &[&root[..], &["--runroot", "/run/other"][..]].concat()[..],
            "another process listens on `/run/ocid/ocid.sock`",
        ),
    ] {
        let argv = [&[ocid.as_str()], arguments].concat();
        let output = world.machine.output(&argv)?;
        fails(&argv.join(" "), &output, 1, &[words])?;
    }
    let status = world.pod_status(&pod).await?;
    ensure!(
        status.state() == PodSandboxState::SandboxReady,
        "{status:?}"
    );
    world
        .machine
        .run(&["rm", "-rf", "/var/lib/other", "/run/other"])?;
    world.assert_clean(&RESTARTED).await
}

#[tokio::test]
async fn ends_while_the_daemon_was_away_are_told_with_code_and_time() -> Result<()> {
    let mut world = World::start().await?;
    let sandbox = world.pod_config("away");
    let pod = world.run_pod(&sandbox).await?;
    let mut ids = Vec::new();
    for name in ["exits", "killed", "orphaned", "stays"] {
        let config = world.container_config(name, &["sh", "-c", AWAITING]);
        let id = world.up(&pod, &sandbox, config).await?;
        said_here(&world, &id).await?;
        ids.push(id);
    }
    world.end_daemon(Signal::SIGKILL)?;
    let process = |id: &str, which: &str| -> Result<String> {
        let record = record(&world, "containers", id)?;
        let pid = record[which]["pid"].as_i64();
        Ok(pid.context("no process in the record")?.to_string())
    };
    let from = now_ns();
    let [exits, killed, orphaned, stays] = [&ids[0], &ids[1], &ids[2], &ids[3]];
    let init = process(exits, "init")?;
    let tell = format!("echo >/proc/{init}/root/tmp/f");
    world.machine.run(&["sh", "-c", &tell])?;
    world
        .machine
        .run(&["kill", "-9", &process(killed, "init")?])?;
    for id in [exits, killed] {
        let path = format!("/run/ocid/exits/{id}.json");
        eventually("the end is recorded", async || {
            Ok(world.machine.exists(&path))
        })
        .await?;
    }
    let until = now_ns();
    // Whose monitor is gone has nobody to tell its end.
    world
        .machine
        .run(&["kill", "-9", &process(orphaned, "monitor")?])?;
    world.start_daemon().await?;
    for (id, exit_code, reason) in [(exits, 3, "Error"), (killed, 137, "Error")] {
        let status = world.ended(id).await?;
        ensure!(
            status.exit_code == exit_code && status.reason == reason,
            "{status:?}"
        );
        ensure!(
            (from..=until).contains(&status.finished_at),
            "{from} {until} {status:?}"
        );
        ensure!(
            status.started_at > 0 && status.started_at < from,
            "{status:?}"
        );
    }
    let status = world.ended(orphaned).await?;
    ensure!(
        status.exit_code == 137 && status.message.contains("monitor"),
        "{status:?}"
    );
    let status = world.status(stays).await?;
    ensure!(
        status.state() == ContainerState::ContainerRunning,
        "{status:?}"
    );
    world.assert_clean(&RESTARTED).await
}

#[tokio::test]
async fn an_exit_record_of_a_newer_build_is_said_to_be_one() -> Result<()> {
    let mut world = World::start().await?;
    let sandbox = world.pod_config("newer");
    let pod = world.run_pod(&sandbox).await?;
    let config = world.container_config("newer", &["sh", "-c", AWAITING]);
    let id = world.up(&pod, &sandbox, config).await?;
    said_here(&world, &id).await?;
    world.end_daemon(Signal::SIGKILL)?;
    let init = record(&world, "containers", &id)?["init"]["pid"].to_string();
    world.machine.run(&["kill", "-9", &init])?;
    let path = format!("/run/ocid/exits/{id}.json");
    eventually("the end is recorded", async || {
        Ok(world.machine.exists(&path))
    })
    .await?;
    let mut exit: Value = serde_json::from_str(&world.machine.read(&path)?)?;
    exit["version"] = json!(2);
    // The monitor writes no more once its record is there.
    world.machine.write(&path, exit.to_string(), 0o600)?;
    world.start_daemon().await?;
    let status = world.ended(&id).await?;
    ensure!(status.exit_code == 255, "{status:?}");
    ensure!(
        status.message.contains("written by a newer ocid"),
        "{status:?}"
    );
    world.client.remove_container(&id).await?;

    // A pod of a newer build is left alone, and its containers with it.
    let config = world.container_config("kept", &["sh", "-c", AWAITING]);
    let id = world.up(&pod, &sandbox, config).await?;
    world.end_daemon(Signal::SIGKILL)?;
    let mut newer = record(&world, "sandboxes", &pod)?;
    newer["version"] = json!(2);
    write_record(&world, "sandboxes", &pod, &newer)?;
    world.start_daemon().await?;
    let output = world.daemon().output();
    ensure!(output.contains("written by a newer ocid"), "{output}");
    let status = world.status(&id).await?;
    ensure!(
        status.state() == ContainerState::ContainerRunning,
        "{status:?}"
    );
    world.end_daemon(Signal::SIGKILL)?;
    newer["version"] = json!(1);
    write_record(&world, "sandboxes", &pod, &newer)?;
    world.start_daemon().await?;
    let status = world.pod_status(&pod).await?;
    ensure!(
        status.state() == PodSandboxState::SandboxReady,
        "{status:?}"
    );
    world.assert_clean(&RESTARTED).await
}

/// The order as version 1 has it.
fn order(runtime_root: &str, id: &str, log: &str) -> String {
    let head = r#"{"version":1,"job":{"container":{"runtime":{"path":"runc","root":""#;
    let rest = r#"","systemd_cgroup":false},"id":"ID","bundle":"/run/ocid/containers/ID","exits_dir":"/run/ocid/exits","log_path":"LOG","log_size_max":null,"journal":null,"tty":false,"stdin":false,"stdin_once":false,"open_files":1024,"create_limit_ms":60000}}}"#;
    format!("{head}{runtime_root}{rest}")
        .replace("ID", id)
        .replace("LOG", log)
}

#[tokio::test]
async fn a_monitor_of_an_older_build_keeps_working() -> Result<()> {
    let mut world = World::start().await?;
    let source = include_bytes!("../fixtures/monitor_v1.py");
    world.machine.write("/srv/monitor_v1.py", source, 0o644)?;
    let sandbox = world.pod_config("old");
    let pod = world.run_pod(&sandbox).await?;
    let handler = world.machine.run(&["ls", "/run/ocid/oci"])?;
    let runtime_root = format!("/run/ocid/oci/{handler}");
    for speaks in [1, 2] {
        let name = format!("speaks-{speaks}");
        let config = world.container_config(&name, &["sh", "-c", POLITE]);
        let id = world.create(&pod, &sandbox, config).await?;
        // In the place of our monitor comes one of the older build.
        world.end_daemon(Signal::SIGKILL)?;
        let mut ours = record(&world, "containers", &id)?;
        let undo = format!(
            "kill -9 {monitor}; tail --pid={monitor} -f /dev/null
             runc --root {runtime_root} delete --force {id} && rm /run/ocid/containers/{id}/monitor.*",
            monitor = ours["monitor"]["pid"],
        );
        world.machine.run(&["sh", "-c", &undo])?;
        let log = format!("/var/log/pods/old/{name}.log");
        world
            .machine
            .write("/srv/order.json", order(&runtime_root, &id, &log), 0o600)?;
        let start = format!("python3 /srv/monitor_v1.py {speaks} </srv/order.json");
        let monitor = world.machine.spawn(&["sh", "-c", &start], &[])?;
        let reply: Value = serde_json::from_str(&monitor.line_with("created", LIMIT)?)?;
        for process in ["init", "monitor"] {
            ours[process] = reply["created"][process].clone();
        }
        write_record(&world, "containers", &id, &ours)?;

        world.start_daemon().await?;
        let status = world.status(&id).await?;
        ensure!(
            status.state() == ContainerState::ContainerCreated,
            "{status:?}"
        );
        world.client.start_container(&id).await?;
        said_here(&world, &id).await?;
        ensure!(world.shell(&id, "echo $((40+2))").await? == "42");
        world.machine.run(&["mv", &log, &format!("{log}.1")])?;
        let reopened = world.client.reopen_container_log(&id).await;
        if speaks == 1 {
            reopened?;
            ensure!(world.machine.exists(&log), "the log is not begun anew");
        } else {
            let (code, message) = code(reopened)?;
            ensure!(code == tonic::Code::Unavailable, "{code:?} {message}");
            ensure!(message.contains("speaks version 2"), "{message}");
        }
        world.client.stop_container(&id, LIMIT).await?;
        let status = world.status(&id).await?;
        ensure!(
            status.exit_code == 7 && status.finished_at > 0,
            "{status:?}"
        );
        world.client.remove_container(&id).await?;
    }
    world
        .machine
        .run(&["rm", "/srv/order.json", "/srv/monitor_v1.py"])?;
    world.assert_clean(&RESTARTED).await
}
