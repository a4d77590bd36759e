//! A pod's cgroup: where it is, what it may use, and that it goes.

use anyhow::{Result, ensure};
use crio_setup::cri::v1;
use nix::sys::signal::Signal;
use tonic::Code;

use crate::pods::linux;
use crate::support::Machine;
use crate::world::{World, code};

/// Memory limit in bytes, and CPU quota in microseconds per 100 ms, of a cgroup, in whatever version.
fn limits(world: &World, path: &str) -> Result<(String, String)> {
    let read = |text: String| world.machine.read(&text).map(|t| t.trim().to_owned());
    if world.machine.exists("/sys/fs/cgroup/cgroup.controllers") {
        let quota = read(format!("/sys/fs/cgroup{path}/cpu.max"))?;
        let quota = quota.split(' ').next().unwrap_or_default().to_owned();
        return Ok((read(format!("/sys/fs/cgroup{path}/memory.max"))?, quota));
    }
    let memory = read(format!("/sys/fs/cgroup/memory{path}/memory.limit_in_bytes"))?;
    Ok((
        memory,
        read(format!("/sys/fs/cgroup/cpu{path}/cpu.cfs_quota_us"))?,
    ))
}

fn cpu_and_memory(quota: i64, mib: i64) -> v1::LinuxContainerResources {
    v1::LinuxContainerResources {
        cpu_period: 100_000,
        cpu_quota: quota,
        memory_limit_in_bytes: mib << 20,
        ..Default::default()
    }
}

/// What `limits` shows.
fn shown(mib: i64, quota: i64) -> (String, String) {
    ((mib << 20).to_string(), quota.to_string())
}

/// The container's cgroup below the pod's, as its own process sees it from the machine.
async fn cgroup_of(world: &World, container: &str) -> Result<String> {
    let record = world
        .machine
        .read(&format!("/var/lib/ocid/containers/{container}/state.json"))?;
    let record: serde_json::Value = serde_json::from_str(&record)?;
    let pid = record
        .pointer("/init/pid")
        .and_then(|p| p.as_i64())
        .unwrap_or(0);
    world.machine.run(&["cat", &format!("/proc/{pid}/cgroup")])
}

#[tokio::test]
async fn a_pods_limits_are_its_cgroups() -> Result<()> {
    let mut world = World::start().await?;
    let parent = "/kubepods/burstable/pod-limited";
    let mut sandbox = world.pod_config("limited");
    let asked = linux(&mut sandbox);
    asked.cgroup_parent = parent.to_owned();
    asked.resources = Some(cpu_and_memory(50_000, 64));
    asked.overhead = Some(cpu_and_memory(10_000, 16));
    let pod = world.run_pod(&sandbox).await?;
    ensure!(
        limits(&world, parent)? == shown(80, 60_000),
        "{:?}",
        limits(&world, parent)?
    );
    let config = world.container_config("sleeper", &["sleep", "600"]);
    let container = world.up(&pod, &sandbox, config).await?;
    let cgroup = cgroup_of(&world, &container).await?;
    ensure!(
        cgroup.contains(&format!("{parent}/ocid-{container}")),
        "{cgroup}"
    );

    // Live, one part and then the other; what is not said stays.
    let client = &world.client;
    client
        .update_pod_sandbox_resources(&pod, None, Some(cpu_and_memory(100_000, 128)))
        .await?;
    ensure!(
        limits(&world, parent)? == shown(144, 110_000),
        "{:?}",
        limits(&world, parent)?
    );
    client
        .update_pod_sandbox_resources(&pod, Some(cpu_and_memory(20_000, 32)), None)
        .await?;
    ensure!(
        limits(&world, parent)? == shown(160, 120_000),
        "{:?}",
        limits(&world, parent)?
    );
    ensure!(world.shell(&container, "echo alive").await? == "alive");
    let info = client.pod_sandbox_status(&pod, true).await?.info;
    ensure!(
        info.values().any(|text| text.contains("134217728")),
        "{info:?}"
    );
    // The new ones outlive the daemon.
    world.restart(Signal::SIGKILL).await?;
    let client = &world.client;
    client
        .update_pod_sandbox_resources(&pod, None, Some(cpu_and_memory(0, 96)))
        .await?;
    ensure!(
        limits(&world, parent)?.0 == shown(128, 0).0,
        "{:?}",
        limits(&world, parent)?
    );

    let bad = cpu_and_memory(-5, 64);
    let answer = client
        .update_pod_sandbox_resources(&pod, None, Some(bad))
        .await;
    let (refused, message) = code(answer)?;
    ensure!(
        refused == Code::InvalidArgument && message.contains("resources.cpu_quota"),
        "{message}"
    );
    let answer = client
        .update_pod_sandbox_resources("unknown", None, None)
        .await;
    ensure!(code(answer)?.0 == Code::NotFound);
    client.stop_pod_sandbox(&pod).await?;
    let answer = client.update_pod_sandbox_resources(&pod, None, None).await;
    ensure!(code(answer)?.0 == Code::FailedPrecondition);
    ensure!(
        limits(&world, parent).is_err(),
        "the pod's cgroup is still there"
    );
    world.assert_clean(&[]).await
}

/// A cgroup that is kubelet's is neither limited nor removed; a slice is refused by name.
#[tokio::test]
async fn kubelets_cgroup_is_left_to_kubelet() -> Result<()> {
    let world = World::start().await?;
    let parent = "/kubepods/pod-kubelets";
    let folders = world
        .machine
        .run(&["sh", "-c", "ls -d /sys/fs/cgroup/*/ /sys/fs/cgroup/"])?;
    let v2 = world.machine.exists("/sys/fs/cgroup/cgroup.controllers");
    let hierarchies: Vec<&str> = match v2 {
        true => vec!["/sys/fs/cgroup"],
        false => folders
            .lines()
            .filter(|f| *f != "/sys/fs/cgroup/")
            .collect(),
    };
    for folder in &hierarchies {
        world
            .machine
            .run(&["mkdir", "-p", &format!("{folder}{parent}")])?;
    }
    let before = limits(&world, parent).ok();
    let mut sandbox = world.pod_config("kubelets");
    let asked = linux(&mut sandbox);
    asked.cgroup_parent = parent.to_owned();
    asked.resources = Some(cpu_and_memory(50_000, 64));
    let pod = world.run_pod(&sandbox).await?;
    let update = cpu_and_memory(60_000, 72);
    world
        .client
        .update_pod_sandbox_resources(&pod, None, Some(update))
        .await?;
    ensure!(limits(&world, parent).ok() == before, "{before:?}");
    world.client.remove_pod_sandbox(&pod).await?;
    for folder in &hierarchies {
        world.machine.run(&[
            "rmdir",
            &format!("{folder}{parent}"),
            &format!("{folder}/kubepods"),
        ])?;
    }
    for (parent, word) in [
        ("/a/b.slice", "cgroupfs"),
        ("/a/../b", "not the name of a cgroup"),
    ] {
        let mut sandbox = world.pod_config("refused");
        linux(&mut sandbox).cgroup_parent = parent.to_owned();
        let (code, message) = code(world.run_pod(&sandbox).await)?;
        ensure!(
            code == Code::InvalidArgument && message.contains(word),
            "{message}"
        );
    }
    world.assert_clean(&[]).await
}

/// Under systemd the pod is a slice, its containers are scopes in it, and it goes with the last of them.
#[tokio::test]
async fn a_slice_holds_the_pods_scopes() -> Result<()> {
    let driver = "[crio.runtime]\ncgroup_manager = \"systemd\"\n";
    let files = [("/etc/ocid/ocid.conf.d/10-systemd.conf", driver)];
    let world = World::on(Machine::boot()?, &files).await?;
    let slice = "kubepods-burstable-pod_1.slice";
    let mut sandbox = world.pod_config("slice");
    linux(&mut sandbox).cgroup_parent = format!("/kubepods.slice/kubepods-burstable.slice/{slice}");
    let pod = world.run_pod(&sandbox).await?;
    let config = world.container_config("sleeper", &["sleep", "600"]);
    let container = world.up(&pod, &sandbox, config).await?;
    let scope = format!("ocid-{container}.scope");
    let cgroup = cgroup_of(&world, &container).await?;
    let path = format!("/kubepods.slice/kubepods-burstable.slice/{slice}/{scope}");
    ensure!(cgroup.contains(&path), "{cgroup}");
    ensure!(
        world
            .machine
            .run(&["systemctl", "is-active", &scope, slice])?
            == "active\nactive"
    );
    let mut refused = world.pod_config("refused");
    linux(&mut refused).cgroup_parent = "/kubepods/pod-1".to_owned();
    let (code, message) = code(world.run_pod(&refused).await)?;
    ensure!(
        code == Code::InvalidArgument && message.contains("is not a slice"),
        "{message}"
    );
    world.client.stop_pod_sandbox(&pod).await?;
    let active = world
        .machine
        .output(&["systemctl", "is-active", &scope, slice])?;
    let text = String::from_utf8_lossy(&active.stdout).into_owned();
    ensure!(!text.lines().any(|line| line == "active"), "{text}");
    world.client.remove_pod_sandbox(&pod).await?;
    Ok(())
}

/// Stopping a pod kills all of its containers, however they came to be in it.
#[tokio::test]
async fn stopping_a_pod_ends_every_container_of_it() -> Result<()> {
    let world = World::start().await?;
    let sandbox = world.pod_config("many");
    let pod = world.run_pod(&sandbox).await?;
    let mut ids = Vec::new();
    let deaf = "trap '' TERM INT; echo up; while true; do sleep 600 & wait; done";
    for name in ["deaf", "forking", "third"] {
        let config = world.container_config(name, &["sh", "-c", deaf]);
        ids.push(world.up(&pod, &sandbox, config).await?);
    }
    let config = world.container_config("created", &["sleep", "600"]);
    let created = world.create(&pod, &sandbox, config).await?;
    world.client.stop_pod_sandbox(&pod).await?;
    for id in &ids {
        let status = world.status(id).await?;
        ensure!(
            status.state() == v1::ContainerState::ContainerExited,
            "{status:?}"
        );
        ensure!(
            status.exit_code == 137 && status.finished_at > 0,
            "{status:?}"
        );
    }
    let status = world.status(&created).await?;
    ensure!(
        status.state() == v1::ContainerState::ContainerExited,
        "{status:?}"
    );
    world.client.stop_pod_sandbox(&pod).await?;
    let config = world.container_config("late", &["true"]);
    let (refused, _) = code(world.create(&pod, &sandbox, config).await)?;
    ensure!(refused == Code::FailedPrecondition, "{refused:?}");
    let processes = world.machine.run(&["sh", "-c", "ps -e -o args"])?;
    ensure!(!processes.contains("sleep 600"), "{processes}");
    world.assert_clean(&[]).await
}
