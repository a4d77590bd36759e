//! As in [`crate::failpoints`], for images, for monitors and for what only changes something that is there; and what
//! fails, instead of being killed, is undone.

use anyhow::{Context, Result, ensure};
use crio_setup::cri::v1::LinuxContainerResources;
use crio_setup::ocid::failpoint::Point;
use nix::sys::signal::Signal;
use serde_json::json;

use crate::failpoints::{Act, POLITE, Stage, act, cut_off, pod_config};
use crate::life::record;
use crate::support::image::{Compression, Layer, assemble};
use crate::world::{World, eventually, printed};

const TAG: &str = "library/victim";

#[tokio::test]
async fn a_daemon_killed_in_the_life_of_an_image() -> Result<()> {
    let mut stage = Stage::new().await?;
    for &point in Point::ALL {
        let act = act(point);
        if !matches!(act, Act::Pull | Act::RemoveImage | Act::RemoveTag) {
            continue;
        }
        let run = async {
            let machine = &stage.world.machine;
            // The one that has the tag already must lose it to the one that comes.
            let mut old = Layer::default();
            old.file("/old", 0o644, b"old")?;
            let old = old.finish(Compression::Gzip)?;
            let old = assemble(vec![old], json!({}))?;
            let tag = stage.world.registry.push(machine, TAG, "1", &old)?;
            stage.world.client.pull_image(&tag, None).await?;
            let mut new = Layer::default();
            new.file("/new", 0o644, point.name().as_bytes())?;
            let new = new.finish(Compression::Gzip)?;
            let new = assemble(vec![new], json!({}))?;
            let pushed = stage.world.registry.push(machine, TAG, "1", &new)?;
            ensure!(pushed == tag, "{pushed}");
            let second = stage.world.registry.push(machine, TAG, "2", &new)?;
            if act != Act::Pull {
                for name in [&tag, &second] {
                    stage.world.client.pull_image(name, None).await?;
                }
                if act == Act::RemoveImage {
                    stage.world.client.remove_image(&tag).await?;
                }
            }
            stage.arm(point, "abort").await?;
            let client = stage.world.client.clone();
            match act {
                Act::Pull => cut_off(client.pull_image(&tag, None).await)?,
                Act::RemoveImage => cut_off(client.remove_image(&second).await)?,
                _ => cut_off(client.remove_image(&tag).await)?,
            }
            stage.next().await?;
            let client = stage.world.client.clone();
            match act {
                Act::Pull => {
                    let id = client.pull_image(&tag, None).await?;
                    let named = client.list_images(None).await?;
                    let named: Vec<_> = named
                        .iter()
                        .filter(|i| i.repo_tags.contains(&tag))
                        .map(|i| i.id.clone())
                        .collect();
                    ensure!(named == [id], "{named:?}");
                }
                Act::RemoveImage => client.remove_image(&second).await?,
                _ => client.remove_image(&tag).await?,
            }
            // The images of this round; the world's own is used.
            for image in client.list_images(None).await? {
                if !image.repo_tags.contains(&stage.world.image) {
                    client.remove_image(&image.id).await?;
                }
            }
            // The registry's files are the registry's.
            stage.clean().await
        };
        run.await
            .with_context(|| format!("killed at `{}`", point.name()))?;
    }
    stage.end().await
}

#[tokio::test]
async fn a_monitor_killed_at_any_point() -> Result<()> {
    let mut stage = Stage::new().await?;
    for &point in Point::ALL {
        let act = act(point);
        if !matches!(act, Act::MonitorOfCreate | Act::Monitor) {
            continue;
        }
        let run = async {
            stage.arm(point, "abort").await?;
            let world = &stage.world;
            let name = point.name().replace('.', "-");
            let sandbox = world.pod_config(&name);
            let pod = world.run_pod(&sandbox).await?;
            let config = world.container_config(&name, &["sh", "-c", "echo here; exit 3"]);
            let created = world.create(&pod, &sandbox, config.clone()).await;
            if act == Act::MonitorOfCreate {
                let error = created.err().context("created without a monitor")?;
                ensure!(error.to_string().contains("monitor"), "{error}");
                let left = world.client.list_containers(None).await?;
                ensure!(left.len() == 1, "{left:?}");
            } else {
                let id = created?;
                // A container whose monitor is gone already is not started any more.
                if point != Point::MonitorAnswered {
                    world.client.start_container(&id).await?;
                }
                let status = world.ended(&id).await?;
                let code = if point == Point::MonitorWritten {
                    3
                } else {
                    137
                };
                ensure!(status.exit_code == code, "{status:?}");
                ensure!(
                    code == 3 || status.message.contains("monitor"),
                    "{status:?}"
                );
                ensure!(status.finished_at > 0, "{status:?}");
                world.client.remove_container(&id).await?;
            }
            // The daemon lives and its monitors are whole again.
            stage.world.restart(Signal::SIGKILL).await?;
            let world = &stage.world;
            let (_, status) = world.run(&pod, &sandbox, config).await?;
            ensure!(status.exit_code == 3, "{status:?}");
            world.client.remove_pod_sandbox(&pod).await?;
            stage.clean().await
        };
        run.await
            .with_context(|| format!("killed at `{}`", point.name()))?;
    }
    stage.end().await
}

#[tokio::test]
async fn what_fails_at_any_point_of_its_making_is_undone() -> Result<()> {
    let mut stage = Stage::new().await?;
    for &point in Point::ALL {
        let act = act(point);
        if !matches!(act, Act::RunPod | Act::Create) {
            continue;
        }
        let run = async {
            stage.arm(point, "error").await?;
            let world = &stage.world;
            let name = point.name().replace('.', "-");
            let sandbox = pod_config(world, &name);
            let error = if act == Act::RunPod {
                world.run_pod(&sandbox).await.map(drop)
            } else {
                let pod = world.run_pod(&sandbox).await?;
                let config = world.container_config(&name, &["sh", "-c", POLITE]);
                let failed = world.create(&pod, &sandbox, config).await.map(drop);
                world.client.remove_pod_sandbox(&pod).await?;
                failed
            };
            let error = error.err().context("it did not fail")?.to_string();
            ensure!(error.contains("it is armed"), "{error}");
            stage.clean().await
        };
        run.await
            .with_context(|| format!("failed at `{}`", point.name()))?;
    }
    stage.world.restart(Signal::SIGKILL).await?;
    stage.end().await
}

/// Waits for a line at the end of the container's log.
async fn said(world: &World, id: &str, line: &str) -> Result<()> {
    let path = world.machine.path(&world.status(id).await?.log_path);
    eventually(line, async || {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        Ok(text.trim_end().ends_with(line))
    })
    .await
}

/// Writes to the pipe that the container's shell reads; the daemon need not be there.
fn tell(world: &World, id: &str, line: &str) -> Result<()> {
    let init = record(world, "containers", id)?["init"]["pid"].to_string();
    let tell = format!("echo {line} >/proc/{init}/root/tmp/f");
    world.machine.run(&["sh", "-c", &tell])?;
    Ok(())
}

/// The pod's share, in either version of cgroups.
fn shares(world: &World, cgroup: &str) -> Result<String> {
    let (one, other) = (
        format!("/sys/fs/cgroup/cpu{cgroup}/cpu.shares"),
        format!("/sys/fs/cgroup{cgroup}/cpu.weight"),
    );
    let path = if world.machine.exists(&one) {
        one
    } else {
        other
    };
    Ok(world.machine.read(&path)?.trim().to_owned())
}

#[tokio::test]
async fn a_daemon_killed_while_a_pods_limits_change() -> Result<()> {
    let mut stage = Stage::new().await?;
    let limits = |cpu_shares| LinuxContainerResources {
        cpu_shares,
        ..Default::default()
    };
    for point in [Point::UpdatePodApplied, Point::UpdatePodNoted] {
        let name = point.name().replace('.', "-");
        let cgroup = format!("/{name}");
        let mut sandbox = pod_config(&stage.world, &name);
        let linux = sandbox.linux.get_or_insert_default();
        linux.cgroup_parent = cgroup.clone();
        linux.resources = Some(limits(200));
        let pod = stage.world.run_pod(&sandbox).await?;
        let before = shares(&stage.world, &cgroup)?;
        stage.arm(point, "abort").await?;
        let client = stage.world.client.clone();
        let update = client.update_pod_sandbox_resources(&pod, None, Some(limits(3000)));
        cut_off(update.await)?;
        stage.next().await?;
        let client = stage.world.client.clone();
        client
            .update_pod_sandbox_resources(&pod, None, Some(limits(3000)))
            .await?;
        let now = shares(&stage.world, &cgroup)?;
        ensure!(now != before, "{}: {now}", point.name());
        let told = client.pod_sandbox_status(&pod, true).await?.info;
        ensure!(told.values().any(|text| text.contains("3000")), "{told:?}");
        client.stop_pod_sandbox(&pod).await?;
        client.remove_pod_sandbox(&pod).await?;
        stage.clean().await?;
    }
    stage.end().await
}

/// After the rotation that was cut off, the log is at its place again and has every line once.
#[tokio::test]
async fn a_daemon_killed_while_a_log_is_rotated() -> Result<()> {
    let mut stage = Stage::new().await?;
    let sandbox = pod_config(&stage.world, "rotated");
    let pod = stage.world.run_pod(&sandbox).await?;
    let script =
        "mkfifo /tmp/f; exec 3<>/tmp/f; echo here; while read line <&3; do echo $line; done";
    let config = stage
        .world
        .container_config("rotated", &["sh", "-c", script]);
    let id = stage.world.up(&pod, &sandbox, config).await?;
    said(&stage.world, &id, "here").await?;
    let log = stage.world.status(&id).await?.log_path;
    let rotate = |n: u8| format!("{log}.{n}");
    stage.arm(Point::LogReopened, "abort").await?;
    stage.world.machine.run(&["mv", &log, &rotate(1)])?;
    cut_off(stage.world.client.reopen_container_log(&id).await)?;
    // Nobody is there to hear of it, and the line counts all the same.
    tell(&stage.world, &id, "alone")?;
    stage.next().await?;
    said(&stage.world, &id, "alone").await?;
    stage.world.machine.run(&["mv", &log, &rotate(2)])?;
    stage.world.client.reopen_container_log(&id).await?;
    ensure!(stage.world.machine.exists(&log), "the log is not begun");
    tell(&stage.world, &id, "again")?;
    said(&stage.world, &id, "again").await?;
    let mut lines = Vec::new();
    for path in [rotate(1), rotate(2), log.clone()] {
        lines.push(printed(&stage.world.machine.read(&path)?));
    }
    ensure!(lines == ["here", "alone", "again"], "{lines:?}");
    let client = stage.world.client.clone();
    client.stop_pod_sandbox(&pod).await?;
    client.remove_pod_sandbox(&pod).await?;
    stage.clean().await?;
    stage.end().await
}

#[tokio::test]
async fn a_daemon_killed_while_it_is_configured() -> Result<()> {
    let mut stage = Stage::new().await?;
    let file = "/var/lib/ocid/runtime-config.json";
    stage.arm(Point::ConfigWritten, "abort").await?;
    let told = stage.world.client.update_runtime_config("10.99.0.0/24");
    cut_off(told.await)?;
    stage.next().await?;
    // What was written counts, told or not; the repeat changes nothing about it.
    for _ in 0..2 {
        let text = stage.world.machine.read(file)?;
        ensure!(text.contains("10.99.0.0/24"), "{text}");
        let told = stage.world.client.update_runtime_config("10.99.0.0/24");
        told.await?;
    }
    stage.world.end_daemon(Signal::SIGKILL)?;
    stage.world.machine.run(&["rm", file])?;
    stage.world.start_daemon().await?;
    stage.end().await
}
