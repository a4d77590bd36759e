//! How long statistics of 200 containers take: a measurement, run by name, as it needs a machine to itself:
//! `CRIO_SETUP_TEST_BINARY=RELEASE cargo test --test cri stats_load -- --ignored --nocapture`.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use crio_setup::cri::v1;

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

/// Makes a call again and again; what it answers must fit.
async fn measure<T>(
    name: &'static str,
    mut call: impl AsyncFnMut() -> Result<T>,
    fits: impl Fn(&T) -> bool,
) -> Result<Row> {
    let mut times = Vec::new();
    for _ in 0..=CALLS {
        let start = Instant::now();
        let answer = call().await?;
        times.push(start.elapsed());
        ensure!(fits(&answer), "{name} answers something else");
    }
    Row::of(name, times)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures; it takes a minute"]
async fn two_hundred_containers() -> Result<()> {
    let all = (
        "/etc/ocid/ocid.conf.d/10-stats.conf",
        "[crio.stats]\nincluded_pod_metrics = [\"all\"]\n",
    );
    let world = World::with(&[all]).await?;
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
    let runtime = || world.client.runtime();
    let list = async || {
        let request = v1::ListContainerStatsRequest { filter: None };
        let answer = runtime().list_container_stats(request).await?;
        Ok(answer.into_inner().stats)
    };
    let one = async || {
        let container_id = container.clone();
        let request = v1::ContainerStatsRequest { container_id };
        let answer = runtime().container_stats(request).await?;
        Ok(answer.into_inner().stats)
    };
    let list_pods = async || {
        let request = v1::ListPodSandboxStatsRequest { filter: None };
        let answer = runtime().list_pod_sandbox_stats(request).await?;
        Ok(answer.into_inner().stats)
    };
    let one_pod = async || {
        let pod_sandbox_id = pod.clone();
        let request = v1::PodSandboxStatsRequest { pod_sandbox_id };
        let answer = runtime().pod_sandbox_stats(request).await?;
        Ok(answer.into_inner().stats)
    };
    let metrics = async || {
        let request = v1::ListPodSandboxMetricsRequest {};
        let answer = runtime().list_pod_sandbox_metrics(request).await?;
        Ok(answer.into_inner().pod_metrics)
    };
    let filesystems = async || {
        let mut images = world.client.images();
        let answer = images.image_fs_info(v1::ImageFsInfoRequest {}).await?;
        Ok(answer.into_inner().container_filesystems)
    };
    let whole = |stats: &v1::ContainerStats| {
        stats.cpu.is_some() && stats.memory.is_some() && stats.writable_layer.is_some()
    };
    let rows = [
        measure("ListContainerStats", list, |found| {
            found.len() == PODS * EACH && found.iter().all(whole)
        })
        .await?,
        measure("ContainerStats", one, |found| {
            found.as_ref().is_some_and(whole)
        })
        .await?,
        measure("ListPodSandboxStats", list_pods, |found| {
            let own = |pod: &v1::PodSandboxStats| pod.linux.as_ref()?.network.clone();
            found.len() == PODS && found.iter().all(|pod| own(pod).is_some())
        })
        .await?,
        measure("PodSandboxStats", one_pod, |found| {
            let linux = found.as_ref().and_then(|found| found.linux.as_ref());
            linux.is_some_and(|linux| linux.containers.len() == EACH)
        })
        .await?,
        measure("ListPodSandboxMetrics", metrics, |found| {
            let containers = |pod: &v1::PodSandboxMetrics| pod.container_metrics.len() == EACH;
            found.len() == PODS && found.iter().all(containers)
        })
        .await?,
        measure("ImageFsInfo", filesystems, |found| found.len() == 1).await?,
    ];
    println!("{} containers in {PODS} pods, ms of {CALLS}", PODS * EACH);
    println!("{:<24}   median    least      p90    first", "");
    for row in rows {
        println!("{row}");
    }
    world.assert_clean(&[]).await
}
