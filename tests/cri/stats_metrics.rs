//! Metrics for kubelet's `/metrics/cadvisor`.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use crio_setup::cri::v1;

use crate::world::World;

const ALL: (&str, &str) = (
    "/etc/ocid/ocid.conf.d/10-stats.conf",
    "[crio.stats]\nincluded_pod_metrics = [\"all\"]\n",
);

/// Label keys by name.
async fn descriptors(world: &World) -> Result<BTreeMap<String, Vec<String>>> {
    let request = v1::ListMetricDescriptorsRequest {};
    let answer = world
        .client
        .runtime()
        .list_metric_descriptors(request)
        .await?;
    let found = answer.into_inner().descriptors.into_iter();
    Ok(found.map(|d| (d.name, d.label_keys)).collect())
}

async fn metrics(world: &World) -> Result<Vec<v1::PodSandboxMetrics>> {
    let request = v1::ListPodSandboxMetricsRequest {};
    let answer = world
        .client
        .runtime()
        .list_pod_sandbox_metrics(request)
        .await?;
    Ok(answer.into_inner().pod_metrics)
}

fn one<'a>(metrics: &'a [v1::Metric], name: &str) -> Result<&'a v1::Metric> {
    metrics
        .iter()
        .find(|m| m.name == name)
        .context(name.to_owned())
}

fn value(metrics: &[v1::Metric], name: &str) -> Result<u64> {
    Ok(one(metrics, name)?.value.context("no value")?.value)
}

#[tokio::test]
async fn every_value_fits_its_descriptor() -> Result<()> {
    let world = World::with(&[ALL]).await?;
    let sandbox = world.pod_config("measured");
    let pod = world.run_pod(&sandbox).await?;
    let mut config = world.container_config("main", &["sh", "-c", "sleep 600 & sleep 600"]);
    if let Some(linux) = config.linux.as_mut() {
        linux.resources = Some(v1::LinuxContainerResources {
            memory_limit_in_bytes: 128 << 20,
            cpu_period: 100_000,
            cpu_quota: 50_000,
            cpu_shares: 512,
            ..Default::default()
        });
    }
    let id = world.up(&pod, &sandbox, config).await?;
    // Something through the interface, and both processes have begun.
    world
        .shell(&id, "echo x | nc -w 1 10.88.0.1 9 || true")
        .await?;
    let keys = descriptors(&world).await?;
    let pods = metrics(&world).await?;
    ensure!(pods.len() == 1, "{pods:?}");
    let found = pods.first().context("no pod")?;
    ensure!(found.pod_sandbox_id == pod);
    let container = found.container_metrics.first().context("no container")?;
    ensure!(container.container_id == id && found.container_metrics.len() == 1);
    let mut series = BTreeSet::new();
    for metric in found.metrics.iter().chain(&container.metrics) {
        let keys = keys.get(&metric.name).context(metric.name.clone())?;
        ensure!(
            keys.len() == metric.label_values.len(),
            "{metric:?} {keys:?}"
        );
        ensure!(metric.value.is_some() && metric.timestamp > 0, "{metric:?}");
        ensure!(
            series.insert((&metric.name, &metric.label_values)),
            "twice: {metric:?}"
        );
        let label = |key: &str| -> Result<&str> {
            let at = keys.iter().position(|k| k == key).context(key.to_owned())?;
            Ok(metric.label_values.get(at).context("no value")?)
        };
        ensure!(
            (label("namespace")?, label("pod")?) == ("tests", "measured"),
            "{metric:?}"
        );
        let (own_id, name) = match label("container")? {
            "POD" => (&pod, "POD"),
            name => (&id, name),
        };
        ensure!(
            label("id")? == own_id && ["POD", "main"].contains(&name),
            "{metric:?}"
        );
    }
    let own = &container.metrics;
    ensure!(one(own, "container_last_seen")?.label_values.get(1) == Some(&world.image));
    ensure!(value(own, "container_spec_memory_limit_bytes")? == 128 << 20);
    ensure!(value(own, "container_spec_cpu_quota")? == 50_000);
    ensure!(value(own, "container_spec_cpu_shares")? == 512);
    ensure!(value(own, "container_processes")? == 2);
    ensure!(value(own, "container_threads")? == 2);
    ensure!(value(own, "container_file_descriptors")? >= 6);
    ensure!(value(own, "container_oom_events_total")? == 0);
    ensure!(value(own, "container_memory_working_set_bytes")? > 0);
    ensure!(value(own, "container_fs_limit_bytes")? > value(own, "container_fs_usage_bytes")?);
    let status = world.status(&id).await?;
    let started = u64::try_from(status.started_at)? / 1_000_000_000;
    ensure!(value(own, "container_start_time_seconds")? == started);
    let sent = one(&found.metrics, "container_network_transmit_bytes_total")?;
    ensure!(
        sent.label_values.last().is_some_and(|name| name == "eth0"),
        "{sent:?}"
    );
    ensure!(sent.value.is_some_and(|v| v.value > 0), "{sent:?}");
    for name in [
        "container_cpu_usage_seconds_total",
        "container_cpu_cfs_throttled_periods_total",
        "container_memory_failures_total",
        "container_sockets",
        "container_ulimits_soft",
    ] {
        one(own, name)?;
    }
    let request = v1::StreamPodSandboxMetricsRequest {};
    let answer = world
        .client
        .runtime()
        .stream_pod_sandbox_metrics(request)
        .await?;
    let mut pages = answer.into_inner();
    let mut streamed = Vec::new();
    while let Some(page) = pages.message().await? {
        streamed.extend(page.pod_sandbox_metrics);
    }
    let names = |pods: &[v1::PodSandboxMetrics]| -> Vec<_> {
        let containers = pods.iter().flat_map(|pod| &pod.container_metrics);
        let all = containers.flat_map(|c| c.metrics.iter().map(|m| m.name.clone()));
        all.collect()
    };
    ensure!(names(&streamed) == names(&pods));
    world.assert_clean(&[]).await
}

#[tokio::test]
async fn only_what_is_included_is_reported() -> Result<()> {
    let some = (
        ALL.0,
        "[crio.stats]\nincluded_pod_metrics = [\"cpu\", \"oom\"]\n",
    );
    for (files, expected) in [
        (vec![], vec!["container_last_seen"]),
        (
            vec![some],
            vec![
                "container_cpu_cfs_periods_total",
                "container_cpu_cfs_throttled_periods_total",
                "container_cpu_cfs_throttled_seconds_total",
                "container_cpu_system_seconds_total",
                "container_cpu_usage_seconds_total",
                "container_cpu_user_seconds_total",
                "container_last_seen",
                "container_oom_events_total",
            ],
        ),
    ] {
        let world = World::with(&files).await?;
        let sandbox = world.pod_config("some");
        let pod = world.run_pod(&sandbox).await?;
        let config = world.container_config("main", &["sleep", "600"]);
        world.up(&pod, &sandbox, config).await?;
        let described: Vec<_> = descriptors(&world).await?.into_keys().collect();
        ensure!(described == expected, "{described:?}");
        let pods = metrics(&world).await?;
        let found = pods.first().context("no pod")?;
        ensure!(found.metrics.is_empty(), "{:?}", found.metrics);
        let container = found.container_metrics.first().context("no container")?;
        let names: BTreeSet<_> = container.metrics.iter().map(|m| m.name.as_str()).collect();
        ensure!(
            names.into_iter().eq(expected.iter().copied()),
            "{container:?}"
        );
        world.assert_clean(&[]).await?;
    }
    Ok(())
}
