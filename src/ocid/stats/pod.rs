//! What pods use.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::container::{self, ContainerUsage};
use super::spread::spread;
use super::{CpuUsage, Moment, known};
use crate::host::cgroup::{Memory, Pressure};
use crate::host::interfaces::Interface;
use crate::ocid::daemon::{Daemon, blocking};
use crate::ocid::error::Result;
use crate::ocid::state::record::{ContainerRecord, Phase, SandboxRecord};

/// One pod at one moment, with its containers that have processes.
#[derive(Debug, Clone)]
pub struct PodUsage {
    pub record: Arc<SandboxRecord>,
    /// Nanoseconds since the epoch.
    pub at: i64,
    pub cpu: Option<CpuUsage>,
    pub memory: Option<Memory>,
    pub pressure: Pressure,
    /// Of its own network; a pod in the machine's has none.
    pub interfaces: Option<Vec<Interface>>,
    pub processes: Option<u64>,
    pub containers: Vec<ContainerUsage>,
}

/// The pods that a list of statistics is about: those that are ready.
pub fn ready(daemon: &Daemon) -> impl Iterator<Item = Arc<SandboxRecord>> {
    let all = daemon.sandboxes.all().into_iter();
    let records = all.map(|sandbox| sandbox.now());
    records.filter(is_ready)
}

pub(super) fn is_ready(record: &Arc<SandboxRecord>) -> bool {
    record.phase == Phase::Created
}

/// What these use, in their order: as last collected where that is done at regular times.
pub async fn of(daemon: &Arc<Daemon>, records: Vec<Arc<SandboxRecord>>) -> Result<Vec<PodUsage>> {
    let containers = container::of(daemon, members(daemon, &records));
    let collected = &daemon.stats.collected;
    let known: Vec<_> = records.iter().map(|record| collected.pod(record)).collect();
    let unknown = records.into_iter().zip(&known);
    let unknown = unknown.filter(|(_, known)| known.is_none());
    let unknown: Vec<_> = unknown.map(|(record, _)| record).collect();
    let (containers, interfaces) = tokio::try_join!(containers, interfaces_of(daemon, &unknown))?;
    let mut members = by_pod(containers);
    let found = measure_with(daemon, unknown, interfaces, members.clone()).await?;
    collected.keep_pods(&found);
    let mut found = found.into_iter();
    let all = known.into_iter().map(|known| match known {
        Some(mut known) => {
            known.containers = members.remove(&known.record.id).unwrap_or_default();
            Some(known)
        }
        None => found.next(),
    });
    Ok(all.flatten().collect())
}

/// What these use now, with what was found of their containers.
pub(super) async fn measure(
    daemon: &Arc<Daemon>,
    records: Vec<Arc<SandboxRecord>>,
    containers: Vec<ContainerUsage>,
) -> Result<Vec<PodUsage>> {
    let interfaces = interfaces_of(daemon, &records).await?;
    measure_with(daemon, records, interfaces, by_pod(containers)).await
}

async fn measure_with(
    daemon: &Arc<Daemon>,
    records: Vec<Arc<SandboxRecord>>,
    mut interfaces: HashMap<String, Vec<Interface>>,
    mut containers: HashMap<String, Vec<ContainerUsage>>,
) -> Result<Vec<PodUsage>> {
    let daemon = Arc::clone(daemon);
    blocking(move || {
        let owners = Owners::of(&daemon);
        let whole = |record: Arc<SandboxRecord>| {
            let containers = containers.remove(&record.id).unwrap_or_default();
            (interfaces.remove(&record.id), containers, record)
        };
        let whole: Vec<_> = records.into_iter().map(whole).collect();
        Ok(spread(whole, |(interfaces, containers, record)| {
            read(&daemon, &owners, record, interfaces, containers)
        }))
    })
    .await
}

fn by_pod(containers: Vec<ContainerUsage>) -> HashMap<String, Vec<ContainerUsage>> {
    let mut pods: HashMap<String, Vec<ContainerUsage>> = HashMap::new();
    for usage in containers {
        let pod = usage.record.sandbox_id.clone();
        pods.entry(pod).or_default().push(usage);
    }
    pods
}

/// [`interfaces`] on a thread that may block.
async fn interfaces_of(
    daemon: &Arc<Daemon>,
    pods: &[Arc<SandboxRecord>],
) -> Result<HashMap<String, Vec<Interface>>> {
    let (daemon, pods) = (Arc::clone(daemon), pods.to_vec());
    blocking(move || Ok(interfaces(&daemon, &pods))).await
}

/// The containers of these pods that have processes.
pub(super) fn members(daemon: &Daemon, pods: &[Arc<SandboxRecord>]) -> Vec<Arc<ContainerRecord>> {
    let pods: HashMap<&str, ()> = pods.iter().map(|pod| (pod.id.as_str(), ())).collect();
    let alive = container::alive(daemon);
    alive
        .filter(|record| pods.contains_key(record.sandbox_id.as_str()))
        .collect()
}

/// The interfaces in the pods' own networks, by pod.
pub(super) fn interfaces(
    daemon: &Daemon,
    pods: &[Arc<SandboxRecord>],
) -> HashMap<String, Vec<Interface>> {
    let own =
        |pod: &&Arc<SandboxRecord>| pod.phase == Phase::Created && pod.config.has_own_network();
    let pods: Vec<_> = pods.iter().filter(own).collect();
    let namespaces: Vec<PathBuf> = pods
        .iter()
        .map(|pod| daemon.network_namespace(&pod.id))
        .collect();
    let found = daemon
        .interfaces
        .in_each(&namespaces)
        .unwrap_or_else(|error| {
            tracing::warn!(%error, "the pods' interfaces could not be read");
            Vec::new()
        });
    let mut by_pod = HashMap::new();
    for (pod, found) in pods.iter().zip(found) {
        match found {
            Ok(interfaces) => {
                by_pod.insert(pod.id.clone(), interfaces);
            }
            // It may be on its way out.
            Err(error) => {
                tracing::debug!(pod = %pod.id, %error, "the pod's interfaces could not be read");
            }
        }
    }
    by_pod
}

fn read(
    daemon: &Daemon,
    owners: &Owners,
    record: Arc<SandboxRecord>,
    interfaces: Option<Vec<Interface>>,
    containers: Vec<ContainerUsage>,
) -> PodUsage {
    let moment = Moment::now();
    let mut usage = PodUsage {
        at: moment.at,
        cpu: None,
        memory: None,
        pressure: Pressure::default(),
        interfaces,
        processes: None,
        containers,
        record,
    };
    if usage.record.phase != Phase::Created {
        return usage;
    }
    let (id, cgroups) = (&usage.record.id, &daemon.cgroups);
    let processes = |pids: io::Result<BTreeSet<i32>>| -> Option<u64> {
        let pids = known("processes", id, pids.map(Some))?;
        u64::try_from(pids.len()).ok()
    };
    let total = match owners.own(daemon, &usage.record) {
        Some(path) => {
            usage.memory = known("memory", id, cgroups.memory(&path));
            usage.pressure = known("pressure", id, cgroups.pressure(&path));
            usage.processes = processes(cgroups.pids_again(&path));
            known("processor time", id, cgroups.cpu_usage(&path))
        }
        // The cgroup counts others as well: the pod is the sum of its containers.
        None => {
            let own = &usage.containers;
            let paths = own
                .iter()
                .filter_map(|c| container::cgroup(daemon, &c.record));
            let counts = paths.filter_map(|path| processes(cgroups.pids_again(&path)));
            let count: u64 = counts.sum();
            let memory = own.iter().filter_map(|c| c.memory).reduce(Memory::plus);
            let totals = own.iter().filter_map(|c| c.cpu).map(|cpu| cpu.total);
            let total = totals.reduce(u64::saturating_add);
            usage.processes = Some(count);
            usage.memory = memory;
            total
        }
    };
    usage.cpu = total.map(|total| daemon.stats.cpu(id, moment, total));
    usage
}

/// Which pods have a cgroup that counts them and nobody else. Kubelet gives each pod one; others may put several
/// into the same, or name none, and then it is that of all such pods.
struct Owners(BTreeMap<String, usize>);

impl Owners {
    fn of(daemon: &Daemon) -> Self {
        let mut paths = BTreeMap::new();
        for sandbox in daemon.sandboxes.all() {
            let parent = &sandbox.now().config.cgroup_parent;
            if let Ok(cgroup) = daemon.pod_cgroup(parent) {
                *paths.entry(closed(cgroup.path())).or_default() += 1;
            }
        }
        Self(paths)
    }

    /// The path of the pod's own cgroup.
    fn own(&self, daemon: &Daemon, pod: &SandboxRecord) -> Option<String> {
        if pod.config.cgroup_parent.trim_matches('/').is_empty() {
            return None;
        }
        let cgroup = daemon.pod_cgroup(&pod.config.cgroup_parent).ok()?;
        self.alone(cgroup.path()).then(|| cgroup.path().to_owned())
    }

    /// Is there one pod at or below this path?
    fn alone(&self, path: &str) -> bool {
        let path = closed(path);
        let within = self.0.range(path.clone()..);
        let within = within.take_while(|(other, _)| other.starts_with(&path));
        path != "/" && within.map(|(_, pods)| *pods).sum::<usize>() == 1
    }
}

/// With a slash at its end, so that `/a` does not seem to hold `/ab`.
fn closed(path: &str) -> String {
    format!("{}/", path.trim_end_matches('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroup_is_a_pods_own_if_no_other_pod_is_in_it() {
        let paths = ["/k/a", "/k/ab", "/k/c", "/k/c", "/k/d", "/k/d/e", "/"];
        let mut owners = Owners(BTreeMap::new());
        for path in paths {
            *owners.0.entry(closed(path)).or_default() += 1;
        }
        let alone: Vec<_> = paths.into_iter().filter(|p| owners.alone(p)).collect();
        assert_eq!(alone, ["/k/a", "/k/ab", "/k/d/e"]);
    }
}
