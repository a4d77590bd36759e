//! What goes wrong around the daemon: the machine starts anew, its disk is full, clients give up.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use crio_setup::cri::v1::{ContainerState, PodSandboxState};
use nix::sys::signal::Signal;
use serde_json::json;

use crate::life::{AWAITING, POLITE, RESTARTED, record, said_here, write_record};
use crate::support::image::{Compression, Layer, assemble};
use crate::world::{LIMIT, World, code};

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
            Err(_) => world.run_pod(&sandbox).await?,
        };
        let config = world.container_config(&name, &["sh", "-c", POLITE]);
        let first = tokio::time::timeout(wait, world.create(&pod, &sandbox, config.clone())).await;
        let id = match first {
            Ok(id) => id?,
            Err(_) => world.create(&pod, &sandbox, config).await?,
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
