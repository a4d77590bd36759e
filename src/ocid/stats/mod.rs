//! What pods and containers use, as the kernel accounts for it at the moment of the question.
//!
//! Cgroup files and `/proc` are read for each call: they are what is true, and cheap (where they are many, by
//! several threads at once: [`spread`]). Two things cannot be read
//! off them. A rate of processor use needs an earlier sample ([`cpu`]); the size of what a container wrote needs
//! a walk over its files, which no call waits for ([`written`]).
//!
//! Where the configuration names a period, they are collected by themselves and kept ([`collected`]).
//!
//! Where something is not known (the cgroup is gone, the machine does not account for it) it is `None`. One that
//! cannot be read is left out with a warning: the others of a list are still true.

mod collected;
pub mod container;
mod cpu;
pub mod metrics;
pub mod pod;
mod spread;
mod written;

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

pub use collected::start;
pub use container::ContainerUsage;
pub use pod::PodUsage;
pub use written::Written;

use super::config;
use super::daemon::Daemon;
use crate::host::clock::now_ns;
use collected::Collected;
use metrics::{Group, Opened};

/// Between two looks for what is no more.
const SWEEP: Duration = Duration::from_secs(10);

/// What the daemon keeps for its statistics. One per daemon.
#[derive(Debug, Default)]
pub struct Stats {
    cpu: cpu::Samples,
    written: written::Layers,
    /// Which metrics ListPodSandboxMetrics gives (`included_pod_metrics`).
    included: Vec<Group>,
    /// When what is no more was last forgotten.
    swept: Mutex<Option<Instant>>,
    collected: Collected,
    opened: Opened,
}

impl Stats {
    pub fn new(config: &config::Stats) -> Self {
        Self {
            included: Group::spelt_out(&config.included_pod_metrics),
            collected: Collected::new(config),
            ..Self::default()
        }
    }

    fn cpu(&self, id: &str, moment: Moment, total: u64) -> CpuUsage {
        CpuUsage {
            total,
            nano_cores: self.cpu.rate(id, moment.monotonic, total),
        }
    }

    fn forget_the_gone(&self, daemon: &Daemon) {
        let mut swept = self.swept.lock().unwrap_or_else(PoisonError::into_inner);
        if swept.is_some_and(|swept| swept.elapsed() < SWEEP) {
            return;
        }
        *swept = Some(Instant::now());
        let containers = |id: &str| daemon.containers.get(id).is_some();
        let pods = |id: &str| daemon.sandboxes.get(id).is_some();
        self.written.retain(containers);
        self.opened.retain(containers);
        self.cpu.retain(|id| containers(id) || pods(id));
        self.collected.forget(containers, pods);
        let pods = daemon.sandboxes.all().into_iter();
        let pods = pods.filter_map(|pod| {
            let cgroup = daemon.pod_cgroup(&pod.now().config.cgroup_parent).ok()?;
            Some(cgroup.path().to_owned())
        });
        let all = container::alive(daemon).filter_map(|record| container::cgroup(daemon, &record));
        let cgroups: HashSet<String> = all.chain(pods).collect();
        daemon
            .cgroups
            .retain_accounts(|cgroup| cgroups.contains(cgroup));
    }
}

/// The folder by which clients find the filesystem of writable layers. Where that is the images' too, it is the
/// very folder that they are known by: kubelet compares names.
pub fn filesystem(daemon: &Daemon) -> PathBuf {
    let (images, containers) = (
        daemon.root().join("layers"),
        daemon.root().join("containers"),
    );
    let device = |path: &Path| fs::metadata(path).map(|found| found.dev());
    match (device(&images), device(&containers)) {
        (Ok(a), Ok(b)) if a != b => containers,
        _ => images,
    }
}

/// One moment by both clocks.
#[derive(Debug, Clone, Copy)]
struct Moment {
    /// Nanoseconds since the epoch, as the CRI counts.
    at: i64,
    /// Of the clock that nobody sets, for rates.
    monotonic: Instant,
}

impl Moment {
    fn now() -> Self {
        Self {
            at: now_ns(),
            monotonic: Instant::now(),
        }
    }
}

/// Processor use of a pod or container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuUsage {
    /// Nanoseconds of all processors so far.
    pub total: u64,
    /// Billionths of a processor, on average since an earlier sample; `None` without one.
    pub nano_cores: Option<u64>,
}

/// The answer of an account, or a warning and nothing.
fn known<T: Default>(what: &str, id: &str, answer: io::Result<T>) -> T {
    answer.unwrap_or_else(|error| {
        tracing::warn!(%id, %error, "the {what} could not be read");
        T::default()
    })
}
