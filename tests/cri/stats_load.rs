//! How long statistics of 200 containers take: a measurement, run by name
//! (`cargo test --test cri stats_load -- --ignored --nocapture`), as it needs a machine to itself.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use crio_setup::cri::v1;

use crate::world::World;

const PODS: usize = 50;
const EACH: usize = 4;
const CALLS: usize = 30;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures; it takes a minute"]
async fn two_hundred_containers() -> Result<()> {
    let all = (
        "/etc/ocid/ocid.conf.d/10-stats.conf",
        "[crio.stats]\nincluded_pod_metrics = [\"all\"]\n",
    );
    let world = World::with(&[all]).await?;
    for number in 0..PODS {
        let mut sandbox = world.pod_config(&format!("load-{number}"));
        if let Some(linux) = sandbox.linux.as_mut() {
            linux.cgroup_parent = format!("/load/{number}");
        }
        let pod = world.run_pod(&sandbox).await?;
        for container in 0..EACH {
            let config = world.container_config(&format!("c{container}"), &["sleep", "6000"]);
            world.up(&pod, &sandbox, config).await?;
        }
    }
    let mut runtime = world.client.runtime();
    let mut images = world.client.images();
    let mut times: [Vec<Duration>; 4] = Default::default();
    // The first of each finds nothing measured.
    for _ in 0..=CALLS {
        let start = Instant::now();
        let request = v1::ListContainerStatsRequest { filter: None };
        let stats = runtime
            .list_container_stats(request)
            .await?
            .into_inner()
            .stats;
        times[0].push(start.elapsed());
        ensure!(stats.len() == PODS * EACH && stats.iter().all(|s| s.writable_layer.is_some()));
        let start = Instant::now();
        let request = v1::ListPodSandboxStatsRequest { filter: None };
        let stats = runtime
            .list_pod_sandbox_stats(request)
            .await?
            .into_inner()
            .stats;
        times[1].push(start.elapsed());
        ensure!(stats.len() == PODS);
        let start = Instant::now();
        let request = v1::ListPodSandboxMetricsRequest {};
        let found = runtime
            .list_pod_sandbox_metrics(request)
            .await?
            .into_inner();
        times[2].push(start.elapsed());
        ensure!(found.pod_metrics.len() == PODS);
        let start = Instant::now();
        images.image_fs_info(v1::ImageFsInfoRequest {}).await?;
        times[3].push(start.elapsed());
    }
    let names = [
        "ListContainerStats",
        "ListPodSandboxStats",
        "ListPodSandboxMetrics",
        "ImageFsInfo",
    ];
    for (name, times) in names.into_iter().zip(&mut times) {
        let first = times.remove(0);
        times.sort();
        println!(
            "{name}: first {first:?}, median {:?}, least {:?}",
            times[times.len() / 2],
            times[0]
        );
    }
    world.assert_clean(&[]).await
}
