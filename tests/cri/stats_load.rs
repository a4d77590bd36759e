//! How long statistics of 200 containers take: a measurement, run by name, as it needs a machine to itself:
//! `CRIO_SETUP_TEST_BINARY=RELEASE cargo test --test cri stats_load -- --ignored --nocapture`. With every metric there
//! is, unless `CRIO_SETUP_TEST_STATS` has other lines for `[crio.stats]`.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use crio_setup::cri::v1;
use prost::Message;

use crate::wire::Wire;
use crate::world::World;

const PODS: usize = 100;
const EACH: usize = 2;
/// Of each call, one after the other; the first of all finds nothing measured and is told apart.
const CALLS: usize = 50;

/// What one kind of call took.
struct Row {
    name: &'static str,
    first: Duration,
    /// Sorted.
    others: Vec<Duration>,
}

impl Row {
    fn of(name: &'static str, mut times: Vec<Duration>) -> Result<Self> {
        ensure!(times.len() > 1, "{name} was not called");
        let first = times.remove(0);
        times.sort();
        Ok(Self {
            name,
            first,
            others: times,
        })
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |time: Option<&Duration>| time.map_or(f64::NAN, |t| t.as_secs_f64() * 1000.0);
        let last = self.others.len() - 1;
        write!(
            f,
            "{:<24}{:>9.2}{:>9.2}{:>9.2}{:>9.2}",
            self.name,
            ms(self.others.get(last / 2)),
            ms(self.others.first()),
            ms(self.others.get(last * 9 / 10)),
            ms(Some(&self.first)),
        )
    }
}

/// Makes a call again and again; what it answers must fit. Timed until the last byte of the answer is here: what
/// the client then makes of it is its own.
async fn measure<A: Message + Default>(
    wire: &Wire,
    name: &'static str,
    request: impl Message + Clone + 'static,
    fits: impl Fn(&A) -> bool,
) -> Result<Row> {
    let mut times = Vec::new();
    for _ in 0..=CALLS {
        let start = Instant::now();
        let answer = wire.call(name, request.clone()).await?;
        times.push(start.elapsed());
        ensure!(fits(&A::decode(answer)?), "{name} answers something else");
    }
    Row::of(name, times)
}

#[tokio::test]
#[ignore = "measures; it takes a minute"]
async fn two_hundred_containers() -> Result<()> {
    let lines = std::env::var("CRIO_SETUP_TEST_STATS");
    let lines = lines.unwrap_or_else(|_| "included_pod_metrics = [\"all\"]".to_owned());
    let config = format!("[crio.stats]\n{lines}\n");
    let world = World::with(&[("/etc/ocid/ocid.conf.d/10-stats.conf", &config)]).await?;
    let mut last = None;
    for number in 0..PODS {
        let mut sandbox = world.pod_config(&format!("load-{number}"));
        if let Some(linux) = sandbox.linux.as_mut() {
            linux.cgroup_parent = format!("/load/{number}");
        }
        let pod = world.run_pod(&sandbox).await?;
        for container in 0..EACH {
            let config = world.container_config(&format!("c{container}"), &["sleep", "6000"]);
            let id = world.up(&pod, &sandbox, config).await?;
            last = Some((pod.clone(), id));
        }
    }
    let (pod, container) = last.context("nothing runs")?;
    let wire = Wire::to(world.socket()).await?;
    let whole = |stats: &v1::ContainerStats| {
        stats.cpu.is_some() && stats.memory.is_some() && stats.writable_layer.is_some()
    };
    let pod_sandbox_id = pod;
    let rows = [
        measure::<v1::ListContainerStatsResponse>(
            &wire,
            "ListContainerStats",
            v1::ListContainerStatsRequest { filter: None },
            |found| found.stats.len() == PODS * EACH && found.stats.iter().all(whole),
        )
        .await?,
        measure::<v1::ContainerStatsResponse>(
            &wire,
            "ContainerStats",
            v1::ContainerStatsRequest {
                container_id: container,
            },
            |found| found.stats.as_ref().is_some_and(whole),
        )
        .await?,
        measure::<v1::ListPodSandboxStatsResponse>(
            &wire,
            "ListPodSandboxStats",
            v1::ListPodSandboxStatsRequest { filter: None },
            |found| {
                let own = |pod: &v1::PodSandboxStats| pod.linux.as_ref()?.network.clone();
                found.stats.len() == PODS && found.stats.iter().all(|pod| own(pod).is_some())
            },
        )
        .await?,
        measure::<v1::PodSandboxStatsResponse>(
            &wire,
            "PodSandboxStats",
            v1::PodSandboxStatsRequest { pod_sandbox_id },
            |found| {
                let pod = found.stats.as_ref();
                let linux = pod.and_then(|pod| pod.linux.as_ref());
                linux.is_some_and(|linux| linux.containers.len() == EACH)
            },
        )
        .await?,
        measure::<v1::ListPodSandboxMetricsResponse>(
            &wire,
            "ListPodSandboxMetrics",
            v1::ListPodSandboxMetricsRequest {},
            |found| {
                let has_all = |pod: &v1::PodSandboxMetrics| pod.container_metrics.len() == EACH;
                found.pod_metrics.len() == PODS && found.pod_metrics.iter().all(has_all)
            },
        )
        .await?,
        measure::<v1::ImageFsInfoResponse>(
            &wire,
            "ImageFsInfo",
            v1::ImageFsInfoRequest {},
            |found| !found.container_filesystems.is_empty(),
        )
        .await?,
    ];
    println!("{} containers in {PODS} pods, ms of {CALLS}", PODS * EACH);
    println!("{:<24}   median    least      p90    first", "");
    for row in rows {
        println!("{row}");
    }
    world.assert_clean(&[]).await
}
