//! Limits of containers: set at their creation, changed while they run, read back from the status,
//! kept over a restart of the daemon; and what happens to those who go beyond.

use anyhow::{Result, ensure};
use crio_setup::cri::v1;
use nix::sys::signal::Signal;
use tonic::Code;

use crate::world::{World, code};

const MIB: i64 = 1 << 20;

fn limited(
    mut config: v1::ContainerConfig,
    linux: v1::LinuxContainerResources,
) -> v1::ContainerConfig {
    config.linux.get_or_insert_default().resources = Some(linux);
    config
}

/// The container's own cgroup files, by controller and name.
async fn limit(world: &World, id: &str, file: &str) -> Result<String> {
    world
        .exec(id, &["cat", &format!("/sys/fs/cgroup/{file}")])
        .await
}

async fn reported(world: &World, id: &str) -> Result<v1::LinuxContainerResources> {
    let resources = world.status(id).await?.resources.unwrap_or_default();
    Ok(resources.linux.unwrap_or_default())
}

#[tokio::test]
async fn limits_are_set_and_changed_and_kept_over_a_restart() -> Result<()> {
    let mut world = World::start().await?;
    let sandbox = world.pod_config("limits");
    let pod = world.run_pod(&sandbox).await?;
    let asked = v1::LinuxContainerResources {
        cpu_period: 50_000,
        cpu_quota: 20_000,
        cpu_shares: 512,
        memory_limit_in_bytes: 64 * MIB,
        cpuset_cpus: "0".to_owned(),
        cpuset_mems: "0".to_owned(),
        oom_score_adj: 321,
        hugepage_limits: vec![v1::HugepageLimit {
            page_size: "2MB".to_owned(),
            limit: 4 << 20,
        }],
        ..Default::default()
    };
    let config = world.container_config("limited", &["sleep", "600"]);
    let id = world
        .up(&pod, &sandbox, limited(config, asked.clone()))
        .await?;
    for (file, value) in [
        ("cpu/cpu.shares", "512"),
        ("cpu/cpu.cfs_period_us", "50000"),
        ("cpu/cpu.cfs_quota_us", "20000"),
        ("cpuset/cpuset.cpus", "0"),
        ("memory/memory.limit_in_bytes", "67108864"),
    ] {
        let now = limit(&world, &id, file).await?;
        ensure!(now == value, "{file}: {now}");
    }
    ensure!(world.exec(&id, &["cat", "/proc/1/oom_score_adj"]).await? == "321");
    if world.machine.exists("/sys/fs/cgroup/hugetlb") {
        let now = limit(&world, &id, "hugetlb/hugetlb.2MB.limit_in_bytes").await?;
        ensure!(now == "4194304", "{now}");
    }
    ensure!(reported(&world, &id).await? == asked);

    // What an update does not say stays.
    let update = v1::LinuxContainerResources {
        cpu_shares: 1024,
        memory_limit_in_bytes: 96 * MIB,
        oom_score_adj: 500,
        ..Default::default()
    };
    world.client.update_container_resources(&id, update).await?;
    let expected = v1::LinuxContainerResources {
        cpu_shares: 1024,
        memory_limit_in_bytes: 96 * MIB,
        ..asked.clone()
    };
    ensure!(reported(&world, &id).await? == expected);
    ensure!(limit(&world, &id, "cpu/cpu.shares").await? == "1024");
    ensure!(limit(&world, &id, "cpu/cpu.cfs_quota_us").await? == "20000");
    ensure!(limit(&world, &id, "memory/memory.limit_in_bytes").await? == "100663296");

    world.restart(Signal::SIGKILL).await?;
    ensure!(reported(&world, &id).await? == expected);
    let update = v1::LinuxContainerResources {
        cpu_quota: -1,
        cpuset_cpus: "0-1".to_owned(),
        memory_limit_in_bytes: 32 * MIB,
        ..Default::default()
    };
    world.client.update_container_resources(&id, update).await?;
    ensure!(limit(&world, &id, "cpu/cpu.cfs_quota_us").await? == "-1");
    ensure!(limit(&world, &id, "cpuset/cpuset.cpus").await? == "0-1");
    ensure!(limit(&world, &id, "memory/memory.limit_in_bytes").await? == "33554432");

    // One that is created and not started has its cgroup already.
    let config = world.container_config("created", &["sleep", "600"]);
    let created = world.create(&pod, &sandbox, config).await?;
    let shares = |cpu_shares| v1::LinuxContainerResources {
        cpu_shares,
        ..Default::default()
    };
    world
        .client
        .update_container_resources(&created, shares(300))
        .await?;
    world.client.start_container(&created).await?;
    ensure!(limit(&world, &created, "cpu/cpu.shares").await? == "300");
    world.assert_clean(&["ocid --debug"]).await
}

#[tokio::test]
async fn updates_that_cannot_be() -> Result<()> {
    let world = World::start().await?;
    let sandbox = world.pod_config("refused");
    let pod = world.run_pod(&sandbox).await?;
    let memory = |limit| v1::LinuxContainerResources {
        memory_limit_in_bytes: limit,
        ..Default::default()
    };
    let update = |id: &str, linux| {
        let (client, id) = (&world.client, id.to_owned());
        async move { code(client.update_container_resources(&id, linux).await) }
    };
    let config = world.container_config("limited", &["sleep", "600"]);
    let id = world
        .up(&pod, &sandbox, limited(config, memory(64 * MIB)))
        .await?;

    let (refused, message) = update("f00", memory(0)).await?;
    ensure!(refused == Code::NotFound, "{message}");
    for (linux, field) in [
        (memory(MIB), "linux.memory_limit_in_bytes"),
        (
            v1::LinuxContainerResources {
                memory_swap_limit_in_bytes: 32 * MIB,
                ..Default::default()
            },
            "linux.memory_swap_limit_in_bytes",
        ),
        (
            v1::LinuxContainerResources {
                cpuset_cpus: "x".to_owned(),
                ..Default::default()
            },
            "linux.cpuset_cpus",
        ),
    ] {
        let (refused, message) = update(&id, linux).await?;
        ensure!(
            refused == Code::InvalidArgument && message.contains(field),
            "{message}"
        );
    }
    // The kernel's own refusal: a CPU that this machine does not have.
    let far = v1::LinuxContainerResources {
        cpuset_cpus: "4000".to_owned(),
        ..Default::default()
    };
    let (refused, message) = update(&id, far).await?;
    ensure!(
        refused == Code::Internal && message.contains(&id),
        "{message}"
    );
    ensure!(
        reported(&world, &id).await? == memory(64 * MIB),
        "a refused update changes nothing"
    );

    world
        .client
        .stop_container(&id, std::time::Duration::ZERO)
        .await?;
    let (refused, message) = update(&id, memory(32 * MIB)).await?;
    ensure!(
        refused == Code::FailedPrecondition && message.contains("exited"),
        "{message}"
    );
    world.assert_clean(&[]).await
}

#[tokio::test]
async fn one_that_takes_too_much_is_said_to_be_killed_for_it() -> Result<()> {
    let world = World::with(&[(
        "/etc/ocid/ocid.conf.d/10-test.conf",
        "[crio.runtime]\npids_limit = 40\n",
    )])
    .await?;
    let sandbox = world.pod_config("greedy");
    let pod = world.run_pod(&sandbox).await?;
    let memory = v1::LinuxContainerResources {
        memory_limit_in_bytes: 24 * MIB,
        ..Default::default()
    };
    // A tmpfs counts against whoever fills it.
    let mut config = world.container_config(
        "greedy",
        &[
            "sh",
            "-c",
            "mount -t tmpfs t /tmp; dd if=/dev/zero of=/tmp/x bs=1M count=64; echo survived",
        ],
    );
    config = limited(config, memory);
    config.linux.get_or_insert_default().security_context =
        Some(v1::LinuxContainerSecurityContext {
            capabilities: Some(v1::Capability {
                add_capabilities: vec!["SYS_ADMIN".to_owned()],
                ..Default::default()
            }),
            ..Default::default()
        });
    let (printed, status) = world.run(&pod, &sandbox, config).await?;
    ensure!(status.reason == "OOMKilled", "{printed} {status:?}");

    // The daemon's limit of processes; half of them cannot start.
    let script = "i=0; while [ $i -lt 80 ]; do sleep 60 & i=$((i+1)); done; echo all";
    let config = world.container_config("forking", &["sh", "-c", script]);
    let (printed, status) = world.run(&pod, &sandbox, config).await?;
    ensure!(
        !printed.contains("all") && status.exit_code != 0,
        "{printed} {status:?}"
    );
    ensure!(status.reason == "Error", "{status:?}");
    world.assert_clean(&[]).await
}
