//! Statistics, beside what the kernel's own files say.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use crio_setup::cri::v1;
use crio_setup::host::cgroup::{Cgroups, Version};

use crate::world::{LIMIT, World};

/// Keeps a processor busy.
const BUSY: [&str; 3] = ["sh", "-c", "while true; do :; done"];

fn number(value: &Option<v1::UInt64Value>) -> Result<u64> {
    value.map(|v| v.value).context("not said")
}

async fn of(world: &World, id: &str) -> Result<v1::ContainerStats> {
    let request = v1::ContainerStatsRequest {
        container_id: id.to_owned(),
    };
    let answer = world.client.runtime().container_stats(request).await?;
    answer.into_inner().stats.context("no stats")
}

async fn of_pod(world: &World, id: &str) -> Result<v1::LinuxPodSandboxStats> {
    let request = v1::PodSandboxStatsRequest {
        pod_sandbox_id: id.to_owned(),
    };
    let answer = world.client.runtime().pod_sandbox_stats(request).await?;
    let stats = answer.into_inner().stats.context("no stats")?;
    ensure!(stats.attributes.as_ref().context("no attributes")?.id == id);
    stats.linux.context("nothing of Linux")
}

/// A pod with a cgroup of its own, as kubelet gives it one.
fn own_cgroup(world: &World, name: &str) -> v1::PodSandboxConfig {
    let mut config = world.pod_config(name);
    if let Some(linux) = config.linux.as_mut() {
        linux.cgroup_parent = format!("/stats/{name}");
    }
    config
}

/// The machine's cgroup files: where the test finds them, told from the mounts.
struct Files {
    cgroups: Cgroups,
    root: PathBuf,
}

impl Files {
    fn of(world: &World) -> Result<Self> {
        let root = world.machine.path("/");
        let cgroups = world.machine.inside(|| Ok(Cgroups::detect()?))?;
        Ok(Self { cgroups, root })
    }

    /// The number in a file; of version 1 or 2, whichever the machine has.
    fn number(&self, path: &str, v1: (&str, &str), v2: &str) -> Result<u64> {
        let text = match self.cgroups.version() {
            Version::V1 => self.text(v1.0, path, v1.1)?,
            Version::V2 => self.text("", path, v2)?,
        };
        Ok(text.trim().parse()?)
    }

    /// The value of a key in `memory.stat`.
    fn memory_stat(&self, path: &str, v1: &str, v2: &str) -> Result<u64> {
        let text = self.text("memory", path, "memory.stat")?;
        let key = match self.cgroups.version() {
            Version::V1 => v1,
            Version::V2 => v2,
        };
        let line = text
            .lines()
            .find_map(|l| l.strip_prefix(&format!("{key} ")));
        Ok(line.context("no such key")?.trim().parse()?)
    }

    fn cpu_nanoseconds(&self, path: &str) -> Result<u64> {
        match self.cgroups.version() {
            Version::V1 => self.number(path, ("cpuacct", "cpuacct.usage"), ""),
            Version::V2 => {
                let text = self.text("cpu", path, "cpu.stat")?;
                let line = text.lines().find_map(|l| l.strip_prefix("usage_usec "));
                Ok(line.context("no usage")?.trim().parse::<u64>()? * 1000)
            }
        }
    }

    fn text(&self, controller: &str, path: &str, file: &str) -> Result<String> {
        let folder = self
            .cgroups
            .folder(controller, path)
            .context(file.to_owned())?;
        let file = self.root.join(folder.strip_prefix("/")?).join(file);
        std::fs::read_to_string(&file).with_context(|| file.display().to_string())
    }
}

/// `value` was read between two readings of something that only grows.
fn within(what: &str, before: u64, value: u64, after: u64) -> Result<()> {
    ensure!(
        (before..=after).contains(&value),
        "{what}: {value} is not within {before} and {after}"
    );
    Ok(())
}

/// What changes by a few pages at any moment: within a tenth and a megabyte.
fn near(what: &str, value: u64, expected: u64) -> Result<()> {
    let slack = expected / 10 + (1 << 20);
    within(
        what,
        expected.saturating_sub(slack),
        value,
        expected + slack,
    )
}

#[tokio::test]
async fn a_container_uses_what_its_cgroup_says() -> Result<()> {
    let world = World::start().await?;
    let files = Files::of(&world)?;
    let sandbox = own_cgroup(&world, "truth");
    let pod = world.run_pod(&sandbox).await?;
    let mut config = world.container_config("busy", &BUSY);
    config.labels.insert("app".to_owned(), "busy".to_owned());
    config.annotations.insert("note".to_owned(), "1".to_owned());
    if let Some(linux) = config.linux.as_mut() {
        linux.resources = Some(v1::LinuxContainerResources {
            memory_limit_in_bytes: 256 << 20,
            ..Default::default()
        });
    }
    let id = world.up(&pod, &sandbox, config).await?;
    let path = format!("/stats/truth/ocid-{id}");
    // The throwaway machine's disk is memory, too: a file counts as used until it is deleted.
    world
        .shell(&id, "dd if=/dev/zero of=/tmp/file bs=1000000 count=30")
        .await?;
    world.shell(&id, "cat /tmp/file >/dev/null").await?;

    let cpu_before = files.cpu_nanoseconds(&path)?;
    let faults = |files: &Files| files.memory_stat(&path, "total_pgfault", "pgfault");
    let faults_before = faults(&files)?;
    let stats = of(&world, &id).await?;
    let (faults_after, cpu_after) = (faults(&files)?, files.cpu_nanoseconds(&path)?);

    let attributes = stats.attributes.context("no attributes")?;
    ensure!(attributes.id == id, "{attributes:?}");
    ensure!(attributes.metadata.context("no metadata")?.name == "busy");
    ensure!(attributes.labels.get("app").is_some_and(|v| v == "busy"));
    ensure!(attributes.annotations.contains_key("note"));
    let cpu = stats.cpu.context("no cpu")?;
    let total = number(&cpu.usage_core_nano_seconds)?;
    within("processor time", cpu_before, total, cpu_after)?;
    ensure!(
        cpu.usage_nano_cores.is_none(),
        "a rate of one sample: {cpu:?}"
    );
    let memory = stats.memory.context("no memory")?;
    let usage = files.number(&path, ("memory", "memory.usage_in_bytes"), "memory.current")?;
    near("usage", number(&memory.usage_bytes)?, usage)?;
    let inactive = files.memory_stat(&path, "total_inactive_file", "inactive_file")?;
    ensure!(usage > 20 << 20, "the file is in no account: {usage}");
    let working_set = number(&memory.working_set_bytes)?;
    near("working set", working_set, usage - inactive)?;
    let available = number(&memory.available_bytes)?;
    ensure!(available == (256 << 20) - working_set, "{memory:?}");
    let rss = files.memory_stat(&path, "total_rss", "anon")?;
    near("rss", number(&memory.rss_bytes)?, rss)?;
    let page_faults = number(&memory.page_faults)?;
    within("page faults", faults_before, page_faults, faults_after)?;
    ensure!(memory.major_page_faults.is_some(), "{memory:?}");
    let swap = files.text("memory", &path, "memory.memsw.usage_in_bytes");
    let swap = swap.or_else(|_| files.text("memory", &path, "memory.swap.current"));
    ensure!(
        stats.swap.is_some() == swap.is_ok(),
        "{:?} {swap:?}",
        stats.swap
    );
    pressure(&world, &path, &cpu)?;

    // A second sample makes a rate: a shell that spins has at most one processor.
    let asked = Instant::now();
    let rate = loop {
        ensure!(asked.elapsed() < LIMIT, "no rate");
        tokio::time::sleep(Duration::from_millis(100)).await;
        let cpu = of(&world, &id).await?.cpu.context("no cpu")?;
        if let Some(rate) = cpu.usage_nano_cores {
            break rate.value;
        }
    };
    let used = files.cpu_nanoseconds(&path)? - cpu_before;
    let elapsed = asked.elapsed().as_nanos().max(1);
    ensure!(rate > 0 && rate < 1_200_000_000, "{rate}");
    // Ours is over a part of the time in which the test counted.
    let seen = u128::from(used) * 1_000_000_000 / elapsed;
    ensure!(
        u128::from(rate) < 4 * seen + 100_000_000,
        "{rate} beside {seen}"
    );

    world.client.stop_container(&id, Duration::ZERO).await?;
    world.ended(&id).await?;
    let ended = of(&world, &id).await?;
    ensure!(ended.cpu.is_none() && ended.memory.is_none(), "{ended:?}");
    ensure!(
        ended.writable_layer.is_some(),
        "what it wrote is still there"
    );
    let list = list(&world, v1::ContainerStatsFilter::default()).await?;
    ensure!(list.is_empty(), "the list is of those that run: {list:?}");
    let gone = v1::ContainerStatsRequest {
        container_id: "f".repeat(64),
    };
    let refused = world.client.runtime().container_stats(gone).await;
    ensure!(refused.is_err_and(|s| s.code() == tonic::Code::NotFound));
    world.assert_clean(&[]).await
}

/// Where the kernel keeps pressure of this cgroup, it is told, in nanoseconds.
fn pressure(world: &World, path: &str, cpu: &v1::CpuUsage) -> Result<()> {
    let places = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
    let files = places.map(|place| world.machine.path(format!("{place}{path}/cpu.pressure")));
    let Some(text) = files.iter().find_map(|f| std::fs::read_to_string(f).ok()) else {
        ensure!(cpu.psi.is_none(), "of no file: {cpu:?}");
        return Ok(());
    };
    let after: u64 = text
        .lines()
        .find_map(|line| line.strip_prefix("some ")?.split_once("total="))
        .context("no total")?
        .1
        .parse()?;
    let some = cpu.psi.and_then(|psi| psi.some).context("no pressure")?;
    ensure!(
        some.total % 1000 == 0 && some.total <= after * 1000,
        "{some:?} {text}"
    );
    Ok(())
}

pub async fn list(
    world: &World,
    filter: v1::ContainerStatsFilter,
) -> Result<Vec<v1::ContainerStats>> {
    let filter = Some(filter);
    let request = v1::ListContainerStatsRequest { filter };
    let answer = world.client.runtime().list_container_stats(request).await?;
    Ok(answer.into_inner().stats)
}

/// What du(1) would say.
fn du(folder: &Path) -> Result<(u64, u64)> {
    let own = std::fs::symlink_metadata(folder)?;
    let (mut bytes, mut inodes) = (own.blocks() * 512, 1);
    if own.is_dir() {
        for entry in std::fs::read_dir(folder)? {
            let (more, others) = du(&entry?.path())?;
            (bytes, inodes) = (bytes + more, inodes + others);
        }
    }
    Ok((bytes, inodes))
}

#[tokio::test]
async fn what_a_container_wrote_is_what_lies_on_disk() -> Result<()> {
    let world = World::start().await?;
    let sandbox = world.pod_config("writer");
    let pod = world.run_pod(&sandbox).await?;
    let config = world.container_config("writer", &["sleep", "600"]);
    let id = world.up(&pod, &sandbox, config).await?;
    let first = of(&world, &id).await?.writable_layer.context("no layer")?;
    let script = "mkdir /data; for i in $(seq 50); do echo $i >/data/$i; done; \
                  dd if=/dev/zero of=/data/large bs=1000000 count=5; rm /bin/nc";
    world.shell(&id, script).await?;
    let upper = world
        .machine
        .path(format!("/var/lib/ocid/containers/{id}/upper"));
    let (bytes, inodes) = du(&upper)?;
    ensure!(bytes > 5_000_000 && inodes > 50, "{bytes} {inodes}");
    // Known sizes are measured anew behind a later call.
    let asked = Instant::now();
    let found = loop {
        let found = of(&world, &id).await?.writable_layer.context("no layer")?;
        if found.timestamp > first.timestamp {
            break found;
        }
        ensure!(asked.elapsed() < LIMIT, "never measured again");
        tokio::time::sleep(Duration::from_millis(500)).await;
    };
    ensure!(number(&found.used_bytes)? == bytes, "{found:?} {bytes}");
    ensure!(number(&found.inodes_used)? == inodes, "{found:?} {inodes}");
    let request = v1::ImageFsInfoRequest {};
    let info = world
        .client
        .images()
        .image_fs_info(request)
        .await?
        .into_inner();
    let containers = info.container_filesystems.first().context("none")?;
    ensure!(number(&containers.used_bytes)? == bytes, "{containers:?}");
    ensure!(number(&containers.inodes_used)? == inodes, "{containers:?}");
    let images = info.image_filesystems.first().context("none")?;
    ensure!(containers.fs_id == images.fs_id, "one filesystem: {info:?}");
    ensure!(found.fs_id == images.fs_id, "{found:?}");
    let mountpoint = &images.fs_id.as_ref().context("no name")?.mountpoint;
    ensure!(world.machine.exists(mountpoint), "{mountpoint}");
    world.assert_clean(&[]).await
}

#[tokio::test]
async fn a_pod_is_its_network_and_the_sum_of_its_containers() -> Result<()> {
    let world = World::start().await?;
    let files = Files::of(&world)?;
    let sandbox = own_cgroup(&world, "whole");
    let pod = world.run_pod(&sandbox).await?;
    for name in ["one", "two"] {
        let config = world.container_config(name, &["sh", "-c", "sleep 600 & sleep 600"]);
        let id = world.up(&pod, &sandbox, config).await?;
        // Loopback traffic, and a packet or more to the gateway.
        let script = "echo x | nc -w 1 10.88.0.1 9 || true; grep -c sleep /proc/[0-9]*/cmdline";
        world.shell(&id, script).await?;
    }
    // A pod that names no parent shares a cgroup with its like.
    let shared = world.pod_config("shared");
    let other = world.run_pod(&shared).await?;
    let third = world.run_pod(&world.pod_config("shared-too")).await?;
    let config = world.container_config("three", &["sleep", "600"]);
    let lone = world.up(&other, &shared, config).await?;

    let before = files.cpu_nanoseconds("/stats/whole")?;
    let stats = of_pod(&world, &pod).await?;
    let after = files.cpu_nanoseconds("/stats/whole")?;
    let cpu = stats.cpu.context("no cpu")?;
    let total = number(&cpu.usage_core_nano_seconds)?;
    within("processor time", before, total, after)?;
    let usage = ("memory", "memory.usage_in_bytes");
    let usage = files.number("/stats/whole", usage, "memory.current")?;
    let memory = stats.memory.context("no memory")?;
    near("memory", number(&memory.usage_bytes)?, usage)?;
    let mut processes = 0;
    for container in &stats.containers {
        let id = &container.attributes.as_ref().context("no attributes")?.id;
        let text = files.text("pids", &format!("/stats/whole/ocid-{id}"), "cgroup.procs")?;
        processes += text.lines().count() as u64;
    }
    let counted = number(&stats.process.context("no processes")?.process_count)?;
    ensure!(
        counted == processes && counted >= 4,
        "{counted} {processes}"
    );
    let mut names: Vec<_> = stats
        .containers
        .iter()
        .filter_map(|c| c.attributes.as_ref())
        .collect();
    names.sort_by_key(|a| a.metadata.as_ref().map(|m| m.name.clone()));
    ensure!(names.len() == 2, "{names:?}");

    let network = stats.network.context("no network")?;
    let eth0 = network.default_interface.context("no interface")?;
    ensure!(eth0.name == "eth0", "{eth0:?}");
    let inside = |file: &str| -> Result<u64> {
        let id = &stats.containers.first().context("none")?;
        let id = id.attributes.as_ref().context("no attributes")?.id.clone();
        let pid = files.text("pids", &format!("/stats/whole/ocid-{id}"), "cgroup.procs")?;
        let pid = pid.lines().next().context("no process")?;
        let text = std::fs::read_to_string(format!("/proc/{pid}/net/dev"))
            .or_else(|_| world.machine.read(&format!("/proc/{pid}/net/dev")))?;
        let line = text.lines().find(|l| l.trim().starts_with("eth0:"));
        let numbers = line
            .context("no eth0")?
            .split_once(':')
            .context("no numbers")?
            .1;
        let at = if file == "rx" { 0 } else { 8 };
        let words: Vec<&str> = numbers.split_ascii_whitespace().collect();
        Ok(words.get(at).context("no number")?.parse()?)
    };
    let (received, sent) = (number(&eth0.rx_bytes)?, number(&eth0.tx_bytes)?);
    ensure!(sent > 0, "nothing was sent: {eth0:?}");
    within("received", 1, received, inside("rx")?)?;
    within("sent", 1, sent, inside("tx")?)?;
    ensure!(eth0.rx_errors.is_some() && eth0.tx_errors.is_some());
    let others: Vec<_> = network.interfaces.iter().map(|i| i.name.as_str()).collect();
    ensure!(others == ["lo"], "{others:?}");

    let alone = of_pod(&world, &other).await?;
    let path = format!("/ocid/ocid-{lone}");
    let now = files.cpu_nanoseconds(&path)?;
    let total = number(&alone.cpu.context("no cpu")?.usage_core_nano_seconds)?;
    within("processor time of the one container", 1, total, now)?;
    ensure!(number(&alone.process.context("none")?.process_count)? == 1);
    let idle = of_pod(&world, &third).await?;
    ensure!(idle.cpu.is_none() && idle.containers.is_empty(), "{idle:?}");
    ensure!(idle.network.is_some(), "it has a network all the same");

    world.client.stop_pod_sandbox(&pod).await?;
    let stopped = of_pod(&world, &pod).await?;
    ensure!(
        stopped.cpu.is_none() && stopped.network.is_none(),
        "{stopped:?}"
    );
    world.assert_clean(&[]).await
}
