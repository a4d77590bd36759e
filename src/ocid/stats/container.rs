//! What containers use.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::spread::spread;
use super::{CpuUsage, Moment, Written, known};
use crate::host::cgroup::{Memory, Pressure};
use crate::ocid::daemon::{Daemon, blocking};
use crate::ocid::error::Result;
use crate::ocid::state::record::{ContainerRecord, Phase};

/// One container at one moment. Of one that has ended, only what it wrote is left.
#[derive(Debug, Clone)]
pub struct ContainerUsage {
    pub record: Arc<ContainerRecord>,
    /// Nanoseconds since the epoch.
    pub at: i64,
    pub cpu: Option<CpuUsage>,
    pub memory: Option<Memory>,
    pub pressure: Pressure,
    pub written: Option<Written>,
}

/// The containers that a list of statistics is about: those that have processes.
pub fn alive(daemon: &Daemon) -> impl Iterator<Item = Arc<ContainerRecord>> {
    let all = daemon.containers.all().into_iter();
    let records = all.map(|container| container.now());
    records.filter(is_alive)
}

/// Has it processes?
pub(super) fn is_alive(record: &Arc<ContainerRecord>) -> bool {
    matches!(record.phase, Phase::Created | Phase::Running)
}

/// What these use, in their order: as last collected where that is done at regular times.
pub async fn of(
    daemon: &Arc<Daemon>,
    records: Vec<Arc<ContainerRecord>>,
) -> Result<Vec<ContainerUsage>> {
    daemon.stats.forget_the_gone(daemon);
    let collected = &daemon.stats.collected;
    let known: Vec<_> = records
        .iter()
        .map(|record| collected.container(record))
        .collect();
    let unknown = records.into_iter().zip(&known);
    let unknown = unknown.filter(|(_, known)| known.is_none());
    let found = measure(daemon, unknown.map(|(record, _)| record).collect()).await?;
    collected.keep_containers(&found);
    let mut found = found.into_iter();
    let all = known
        .into_iter()
        .map(|known| known.or_else(|| found.next()));
    Ok(all.flatten().collect())
}

/// What these use now, in their order.
pub(super) async fn measure(
    daemon: &Arc<Daemon>,
    records: Vec<Arc<ContainerRecord>>,
) -> Result<Vec<ContainerUsage>> {
    let written = written(daemon, &records).await;
    let daemon = Arc::clone(daemon);
    blocking(move || Ok(read(&daemon, records, &written))).await
}

/// How much these have written, by id.
pub async fn written(
    daemon: &Daemon,
    records: &[Arc<ContainerRecord>],
) -> HashMap<String, Written> {
    let folder = |id: &str| -> PathBuf { daemon.container_folder(id).join("upper") };
    let folders = records.iter().map(|r| (r.id.clone(), folder(&r.id)));
    daemon.stats.written.sizes(folders.collect()).await
}

/// The part of [`measure`] that blocks.
fn read(
    daemon: &Daemon,
    records: Vec<Arc<ContainerRecord>>,
    written: &HashMap<String, Written>,
) -> Vec<ContainerUsage> {
    let one = |record: Arc<ContainerRecord>| {
        let moment = Moment::now();
        let mut usage = ContainerUsage {
            at: moment.at,
            cpu: None,
            memory: None,
            pressure: Pressure::default(),
            written: written.get(&record.id).copied(),
            record,
        };
        let id = &usage.record.id;
        if let Some(path) = cgroup(daemon, &usage.record) {
            let cgroups = &daemon.cgroups;
            usage.cpu = known("processor time", id, cgroups.cpu_usage(&path))
                .map(|total| daemon.stats.cpu(id, moment, total));
            usage.memory = known("memory", id, cgroups.memory(&path));
            usage.pressure = known("pressure", id, cgroups.pressure(&path));
        }
        usage
    };
    spread(records, one)
}

/// Its place in the cgroup tree; `None` without its pod, or once it has ended.
pub(super) fn cgroup(daemon: &Daemon, record: &ContainerRecord) -> Option<String> {
    if matches!(record.phase, Phase::Stopped | Phase::Removing) {
        return None;
    }
    let pod = daemon.sandboxes.get(&record.sandbox_id)?.now();
    let cgroup = daemon.pod_cgroup(&pod.config.cgroup_parent).ok()?;
    Some(cgroup.container_path(&record.id))
}
