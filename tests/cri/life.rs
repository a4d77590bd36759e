//! The daemon's own life and death: its end while calls are under way, what happens while it is away, another
//! one on the same folders, a reboot, a full disk, clients that give up.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use crio_setup::cri::v1::{ContainerState, PodSandboxState};
use crio_setup::host::clock::now_ns;
use crio_setup::ocic::client::ClientError;
use crio_setup::ocid::failpoint::{Point, VARIABLE};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::support::image::{Compression, Layer, assemble};
use crate::support::node::fails;
use crate::world::{LIMIT, World, code, connect, eventually};

/// The daemon is another process after each restart; addresses of links settle late.
pub const RESTARTED: [&str; 2] = ["--debug", "route local fe80"];
/// Waits in a builtin for a line, and ends with 3.
const AWAITING: &str = "mkfifo /tmp/f; echo here; read x </tmp/f; exit 3";
const POLITE: &str =
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
fn record(world: &World, kind: &str, id: &str) -> Result<Value> {
    let text = world
        .machine
        .read(&format!("/var/lib/ocid/{kind}/{id}/state.json"))?;
    Ok(serde_json::from_str(&text)?)
}

fn write_record(world: &World, kind: &str, id: &str, record: &Value) -> Result<()> {
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

/// Nothing of what ran is left, the run folder is on a disk that kept it: files where mounts were, records of
/// processes whose numbers are others' now.
#[tokio::test]
async fn what_a_reboot_leaves_is_cleaned() -> Result<()> {
    let mut world = World::start().await?;
    let mut shared = world.pod_config("rebooted");
    shared.linux.get_or_insert_default().security_context = None;
    let pod = world.run_pod(&shared).await?;
    let config = world.container_config("rebooted", &["sh", "-c", AWAITING]);
    let id = world.up(&pod, &shared, config).await?;
    said_here(&world, &id).await?;
    let created = world
        .create(&pod, &shared, world.container_config("created", &["true"]))
        .await?;
    world.end_daemon(Signal::SIGKILL)?;
    let pause = record(&world, "sandboxes", &pod)?["pause"]["pid"].to_string();
    let mut pids = vec![pause];
    for id in [&id, &created] {
        let record = record(&world, "containers", id)?;
        pids.extend([
            record["monitor"]["pid"].to_string(),
            record["init"]["pid"].to_string(),
        ]);
    }
    let script = format!(
        "kill -9 {pids}; for pid in {pids}; do tail --pid=$pid -f /dev/null; done
         grep -o ' /run/ocid/[^ ]*' /proc/mounts | sort -r | xargs umount
         rm -rf /run/ocid/oci /run/ocid/exits/*; ip netns list >/dev/null
         for link in $(ip -o link show type veth | cut -d: -f2 | cut -d@ -f1); do ip link del $link; done
         iptables-save | grep -v 'CNI-[0-9a-f]\\{{24\\}}' | iptables-restore
         find /sys/fs/cgroup -depth -type d \\( -name '*{id}*' -o -name '*{created}*' \\) -exec rmdir {{}} +",
        pids = pids.join(" "),
    );
    world.machine.run(&["sh", "-c", &script])?;
    // A process that lives and has, by chance, the number and the start of one of before.
    let script = "echo innocent $$; exec sleep 600";
    let innocent = world.machine.spawn(&["sh", "-c", script], &[])?;
    let line = innocent.line_with("innocent", LIMIT)?;
    let pid = line.split_whitespace().last().context("no pid")?;
    let stat = world.machine.read(&format!("/proc/{pid}/stat"))?;
    let start = stat
        .rsplit(')')
        .next()
        .and_then(|rest| rest.split_whitespace().nth(19));
    let start: u64 = start.context("no start time")?.parse()?;
    let taken = json!({ "pid": pid.parse::<i32>()?, "start_time": start });
    for (kind, id) in [
        ("sandboxes", &pod),
        ("containers", &id),
        ("containers", &created),
    ] {
        let mut old = record(&world, kind, id)?;
        old["boot_id"] = json!("another-boot");
        for process in ["pause", "init", "monitor"] {
            if old.get(process).is_some_and(|p| !p.is_null()) {
                old[process] = taken.clone();
            }
        }
        write_record(&world, kind, id, &old)?;
    }
    for id in [&id, &created] {
        let path = format!("/run/ocid/containers/{id}/monitor.json");
        let old = json!({ "version": 1, "monitor": taken, "init": taken });
        world.machine.write(&path, old.to_string(), 0o600)?;
    }
    // What no record speaks of.
    for folder in ["containers", "sandboxes", "ns"] {
        world.machine.write(
            &format!("/run/ocid/{folder}/{}/x", "ab".repeat(32)),
            "x",
            0o600,
        )?;
    }
    world.machine.write(
        &format!("/run/ocid/exits/{}.json", "ab".repeat(32)),
        "{",
        0o600,
    )?;

    world.start_daemon().await?;
    let status = world.pod_status(&pod).await?;
    ensure!(
        status.state() == PodSandboxState::SandboxNotready,
        "{status:?}"
    );
    for id in [&id, &created] {
        let status = world.status(id).await?;
        ensure!(
            status.state() == ContainerState::ContainerExited,
            "{status:?}"
        );
        ensure!(
            status.exit_code == 255 && status.finished_at > 0,
            "{status:?}"
        );
        ensure!(status.message.contains("restarted"), "{status:?}");
    }
    ensure!(
        world.machine.exists(&format!("/proc/{pid}")),
        "a process of somebody else was killed"
    );
    drop(innocent);
    // The next attempt gets everything again.
    let mut next = shared.clone();
    next.metadata.get_or_insert_default().attempt = 1;
    let again = world.run_pod(&next).await?;
    let config = world.container_config("again", &["echo", "up"]);
    ensure!(world.run(&again, &next, config).await?.0 == "up");
    world.assert_clean(&RESTARTED).await
}

/// The id that a repeat is answered with. Where the first answer was on its way already when the client left, it
/// counts as taken, and the refusal names the id.
fn found(answer: Result<String, ClientError>) -> Result<String> {
    match answer {
        Err(ClientError::Refused { status, .. }) if status.code() == tonic::Code::AlreadyExists => {
            let words = status.message().split_whitespace();
            Ok(words.last().context("no id")?.to_owned())
        }
        other => Ok(other?),
    }
}

#[tokio::test]
async fn a_client_that_gives_up_leaves_nothing_and_finds_its_result() -> Result<()> {
    let world = World::start().await?;
    let mut layer = Layer::default();
    layer.file("/some", 0o644, &[7; 300_000])?;
    let image = assemble(vec![layer.finish(Compression::Gzip)?], json!({}))?;
    let wanted = world
        .registry
        .push(&world.machine, "library/abandoned", "1", &image)?;
    // From at once to well past the end.
    for (round, wait) in [0, 3, 7, 15, 30, 45, 60, 90, 150, 400]
        .into_iter()
        .enumerate()
    {
        let wait = Duration::from_millis(wait);
        let name = format!("gives-up-{round}");
        let sandbox = world.pod_config(&name);
        let first = tokio::time::timeout(wait, world.run_pod(&sandbox)).await;
        let pod = match first {
            Ok(pod) => pod?,
            Err(_) => found(world.run_pod(&sandbox).await)?,
        };
        let config = world.container_config(&name, &["sh", "-c", POLITE]);
        let first = tokio::time::timeout(wait, world.create(&pod, &sandbox, config.clone())).await;
        let id = match first {
            Ok(id) => id?,
            Err(_) => found(world.create(&pod, &sandbox, config).await)?,
        };
        match tokio::time::timeout(wait, world.client.start_container(&id)).await {
            Ok(started) => started?,
            Err(_) => match world.client.start_container(&id).await {
                Err(error) if error.code() == Some(tonic::Code::FailedPrecondition) => {
                    let status = world.status(&id).await?;
                    ensure!(
                        status.state() == ContainerState::ContainerRunning,
                        "{status:?}"
                    );
                }
                other => other?,
            },
        }
        said_here(&world, &id).await?;
        let client = &world.client;
        let _ = tokio::time::timeout(wait, client.pull_image(&wanted, None)).await;
        let pulled = client.pull_image(&wanted, None).await?;
        ensure!(
            client
                .image_status(&wanted, false)
                .await?
                .image
                .context("no image")?
                .id
                == pulled
        );
        client.remove_image(&wanted).await?;
        let stop = client.stop_container(&id, Duration::from_secs(30));
        let _ = tokio::time::timeout(wait, stop).await;
        client.stop_container(&id, Duration::from_secs(30)).await?;
        let status = world.status(&id).await?;
        ensure!(status.exit_code == 7, "{status:?}");
        let pods = client.list_pod_sandboxes(None).await?;
        let containers = client.list_containers(None).await?;
        ensure!(
            (pods.len(), containers.len()) == (1, 1),
            "{pods:?} {containers:?}"
        );
        let _ = tokio::time::timeout(wait, client.remove_pod_sandbox(&pod)).await;
        client.remove_pod_sandbox(&pod).await?;
    }
    world.assert_clean(&RESTARTED).await
}

#[tokio::test]
async fn a_full_disk_loses_nothing() -> Result<()> {
    let mut world = World::start().await?;
    let root = "/var/lib/ocid";
    world.end_daemon(Signal::SIGKILL)?;
    let mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", root];
    world.machine.run(&mount)?;
    world.start_daemon().await?;
    world.client.pull_image(&world.image, None).await?;
    let sandbox = world.pod_config("full");
    let pod = world.run_pod(&sandbox).await?;
    let up = async |name: &str, script: &str| -> Result<String> {
        let config = world.container_config(name, &["sh", "-c", script]);
        let id = world.up(&pod, &sandbox, config).await?;
        said_here(&world, &id).await?;
        Ok(id)
    };
    let ends = up("ends", AWAITING).await?;
    let stopped = up("stopped", POLITE).await?;
    let removed = up("removed", POLITE).await?;
    let fill = format!("dd if=/dev/zero of={root}/filler bs=4k 2>/dev/null; test -s {root}/filler");
    world.machine.run(&["sh", "-c", &fill])?;
    // Refused, and said why; nothing of it is left.
    let config = world.container_config("no-room", &["true"]);
    let refused = world.create(&pod, &sandbox, config.clone()).await;
    let (code_, message) = code(refused)?;
    ensure!(
        code_ == tonic::Code::ResourceExhausted,
        "{code_:?} {message}"
    );
    let (code_, message) = code(world.run_pod(&world.pod_config("no-room")).await)?;
    ensure!(
        code_ == tonic::Code::ResourceExhausted,
        "{code_:?} {message}"
    );
    ensure!(world.client.list_containers(None).await?.len() == 3);
    ensure!(world.client.list_pod_sandboxes(None).await?.len() == 1);
    let init = record(&world, "containers", &ends)?["init"]["pid"].to_string();
    let tell = format!("echo >/proc/{init}/root/tmp/f");
    world.machine.run(&["sh", "-c", &tell])?;
    let status = world.ended(&ends).await?;
    ensure!(status.exit_code == 3, "{status:?}");
    world.client.stop_container(&stopped, LIMIT).await?;
    ensure!(world.status(&stopped).await?.exit_code == 7);
    world.client.remove_container(&removed).await?;
    // Also for a daemon that starts while there is no room.
    world.machine.run(&["sh", "-c", &fill])?;
    world.restart(Signal::SIGKILL).await?;
    for (id, exit_code) in [(&ends, 3), (&stopped, 7)] {
        let status = world.status(id).await?;
        ensure!(
            status.state() == ContainerState::ContainerExited,
            "{status:?}"
        );
        ensure!(status.exit_code == exit_code, "{status:?}");
    }
    world.machine.run(&["rm", &format!("{root}/filler")])?;
    let id = world.create(&pod, &sandbox, config).await?;
    world.client.start_container(&id).await?;
    ensure!(world.ended(&id).await?.exit_code == 0);
    world.machine.run(&["sh", "-c", &fill])?;
    world.client.stop_pod_sandbox(&pod).await?;
    world.client.remove_pod_sandbox(&pod).await?;
    world.end_daemon(Signal::SIGKILL)?;
    world.machine.run(&["umount", root])?;
    world.start_daemon().await?;
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
