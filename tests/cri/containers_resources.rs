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

/// A limit as its own cgroup file holds it, in either version.
enum Limit {
    /// By weight, in the shares of version 1.
    Shares(u32),
    /// Microseconds in how many; -1: no limit.
    Quota(i64, i64),
    Cpus(&'static str),
    Memory(i64),
    HugePages(i64),
}

impl Limit {
    /// Per file of the container's cgroup, what it may hold.
    fn files(&self, unified: bool) -> Vec<(&'static str, Vec<String>)> {
        let one = |file, value: String| vec![(file, vec![value])];
        match (self, unified) {
            (Self::Shares(shares), false) => one("cpu/cpu.shares", shares.to_string()),
            (Self::Shares(shares), true) => vec![("cpu.weight", weights(*shares))],
            (Self::Quota(quota, period), false) => vec![
                ("cpu/cpu.cfs_quota_us", vec![quota.to_string()]),
                ("cpu/cpu.cfs_period_us", vec![period.to_string()]),
            ],
            (Self::Quota(-1, period), true) => one("cpu.max", format!("max {period}")),
            (Self::Quota(quota, period), true) => one("cpu.max", format!("{quota} {period}")),
            (Self::Cpus(cpus), false) => one("cpuset/cpuset.cpus", (*cpus).to_owned()),
            (Self::Cpus(cpus), true) => one("cpuset.cpus", (*cpus).to_owned()),
            (Self::Memory(bytes), false) => one("memory/memory.limit_in_bytes", bytes.to_string()),
            (Self::Memory(bytes), true) => one("memory.max", bytes.to_string()),
            (Self::HugePages(bytes), false) => {
                one("hugetlb/hugetlb.2MB.limit_in_bytes", bytes.to_string())
            }
            (Self::HugePages(bytes), true) => one("hugetlb.2MB.max", bytes.to_string()),
        }
    }
}

/// What runtimes make of shares: a line through both ends of the scales, or, since 2025, a curve that
/// leads the default to the default.
fn weights(shares: u32) -> Vec<String> {
    let line = 1 + (u64::from(shares) - 2) * 9999 / 262_142;
    let log = f64::from(shares).log2();
    let curve = 10f64.powf((log * log + 125.0 * log) / 612.0 - 7.0 / 34.0);
    vec![line.to_string(), curve.ceil().to_string()]
}

/// Fails unless the container's cgroup has these limits.
async fn limited_to(world: &World, id: &str, limits: &[Limit]) -> Result<()> {
    let unified = world.machine.exists("/sys/fs/cgroup/cgroup.controllers");
    for (file, values) in limits.iter().flat_map(|limit| limit.files(unified)) {
        let now = world
            .exec(id, &["cat", &format!("/sys/fs/cgroup/{file}")])
            .await?;
        ensure!(
            values.contains(&now),
            "{file}: {now} and none of {values:?}"
        );
    }
    Ok(())
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
    let limits = [
        Limit::Shares(512),
        Limit::Quota(20_000, 50_000),
        Limit::Cpus("0"),
        Limit::Memory(64 * MIB),
    ];
    limited_to(&world, &id, &limits).await?;
    ensure!(world.exec(&id, &["cat", "/proc/1/oom_score_adj"]).await? == "321");
    let hugetlb = [
        "/sys/fs/cgroup/hugetlb",
        "/sys/fs/cgroup/init/hugetlb.2MB.max",
    ];
    if hugetlb.iter().any(|path| world.machine.exists(path)) {
        limited_to(&world, &id, &[Limit::HugePages(4 << 20)]).await?;
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
    let limits = [
        Limit::Shares(1024),
        Limit::Quota(20_000, 50_000),
        Limit::Memory(96 * MIB),
    ];
    limited_to(&world, &id, &limits).await?;

    world.restart(Signal::SIGKILL).await?;
    ensure!(reported(&world, &id).await? == expected);
    let update = v1::LinuxContainerResources {
        cpu_quota: -1,
        cpuset_cpus: "0-1".to_owned(),
        memory_limit_in_bytes: 32 * MIB,
        ..Default::default()
    };
    world.client.update_container_resources(&id, update).await?;
    let limits = [
        Limit::Quota(-1, 50_000),
        Limit::Cpus("0-1"),
        Limit::Memory(32 * MIB),
    ];
    limited_to(&world, &id, &limits).await?;

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
    limited_to(&world, &created, &[Limit::Shares(300)]).await?;
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
            // The daemon's own profile lets nobody mount.
            apparmor: Some(v1::SecurityProfile {
                profile_type: v1::security_profile::ProfileType::Unconfined.into(),
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
