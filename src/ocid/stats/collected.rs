//! Statistics that are collected at regular times, where the configuration asks for that (`collection_period`,
//! `stats_collection_period`), as CRI-O has it: an answer is taken from the last collection, and whatever that did
//! not find is measured for the first who asks.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::time::{MissedTickBehavior, interval};

use super::container::{self, ContainerUsage};
use super::metrics;
use super::pod::{self, PodUsage};
use crate::cri::metrics::PodMetrics;
use crate::ocid::config;
use crate::ocid::daemon::Daemon;
use crate::ocid::error::Result;
use crate::ocid::state::record::{ContainerRecord, SandboxRecord};

#[derive(Debug, Default)]
pub(super) struct Collected {
    /// Between two collections; `None`: each call measures.
    statistics: Option<Duration>,
    metrics: Option<Duration>,
    latest: Mutex<Latest>,
}

#[derive(Debug, Default)]
struct Latest {
    containers: HashMap<String, ContainerUsage>,
    pods: HashMap<String, PodUsage>,
    metrics: Option<Vec<PodMetrics>>,
}

impl Collected {
    pub(super) fn new(config: &config::Stats) -> Self {
        let period =
            |seconds| Some(Duration::from_secs(seconds)).filter(|period| !period.is_zero());
        let metrics = period(config.collection_period);
        Self {
            statistics: metrics.or(period(config.stats_collection_period)),
            metrics,
            latest: Mutex::default(),
        }
    }

    /// What was last found of a container that still runs.
    pub(super) fn container(&self, record: &Arc<ContainerRecord>) -> Option<ContainerUsage> {
        self.statistics.filter(|_| container::is_alive(record))?;
        let mut usage = self.latest().containers.get(&record.id)?.clone();
        usage.record = Arc::clone(record);
        Some(usage)
    }

    /// The same of a pod, without its containers.
    pub(super) fn pod(&self, record: &Arc<SandboxRecord>) -> Option<PodUsage> {
        self.statistics.filter(|_| pod::is_ready(record))?;
        let latest = self.latest();
        let usage = latest.pods.get(&record.id)?;
        Some(PodUsage {
            record: Arc::clone(record),
            interfaces: usage.interfaces.clone(),
            containers: Vec::new(),
            ..*usage
        })
    }

    /// Metrics of pods and containers that are still there.
    pub(super) fn metrics(&self, daemon: &Daemon) -> Option<Vec<PodMetrics>> {
        self.metrics?;
        let mut all = self.latest().metrics.clone()?;
        all.retain(|pod| daemon.sandboxes.get(&pod.id).is_some());
        for pod in &mut all {
            let containers = &mut pod.containers;
            containers.retain(|one| daemon.containers.get(&one.id).is_some());
        }
        Some(all)
    }

    pub(super) fn keep_containers(&self, found: &[ContainerUsage]) {
        if self.statistics.is_some() {
            let found = found.iter().filter(|one| container::is_alive(&one.record));
            let found = found.map(|one| (one.record.id.clone(), one.clone()));
            self.latest().containers.extend(found);
        }
    }

    pub(super) fn keep_pods(&self, found: &[PodUsage]) {
        if self.statistics.is_some() {
            let found = found.iter().filter(|one| pod::is_ready(&one.record));
            let found = found.map(|one| (one.record.id.clone(), one.clone()));
            self.latest().pods.extend(found);
        }
    }

    pub(super) fn forget(
        &self,
        is_container: impl Fn(&str) -> bool,
        is_pod: impl Fn(&str) -> bool,
    ) {
        let mut latest = self.latest();
        latest.containers.retain(|id, _| is_container(id));
        latest.pods.retain(|id, _| is_pod(id));
    }

    fn latest(&self) -> MutexGuard<'_, Latest> {
        // Whole whatever a panicking thread was at.
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Begins to collect; nothing where every call measures.
pub fn start(daemon: &Arc<Daemon>) {
    if let Some(period) = daemon.stats.collected.statistics {
        regularly(daemon, period, |daemon| statistics(daemon).boxed());
    }
    if let Some(period) = daemon.stats.collected.metrics {
        regularly(daemon, period, |daemon| values(daemon).boxed());
    }
}

async fn statistics(daemon: Arc<Daemon>) -> Result<()> {
    daemon.stats.forget_the_gone(&daemon);
    let containers = container::alive(&daemon).collect();
    let containers = container::measure(&daemon, containers).await?;
    let pods = pod::ready(&daemon).collect();
    let pods = pod::measure(&daemon, pods, containers.clone()).await?;
    daemon.stats.collected.keep_containers(&containers);
    daemon.stats.collected.keep_pods(&pods);
    Ok(())
}

async fn values(daemon: Arc<Daemon>) -> Result<()> {
    let found = metrics::measure(&daemon).await?;
    daemon.stats.collected.latest().metrics = Some(found);
    Ok(())
}

type Collect = fn(Arc<Daemon>) -> BoxFuture<'static, Result<()>>;

/// At once, and again after each period until the daemon stops.
fn regularly(daemon: &Arc<Daemon>, period: Duration, collect: Collect) {
    let daemon = Arc::clone(daemon);
    tokio::spawn(async move {
        let mut ticks = interval(period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = daemon.stopping.cancelled() => return,
            }
            if let Err(error) = collect(Arc::clone(&daemon)).await {
                tracing::warn!(%error, "statistics could not be collected");
            }
        }
    });
}
