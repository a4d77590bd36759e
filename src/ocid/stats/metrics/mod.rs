//! Metrics of pods and containers for kubelet's `/metrics/cadvisor`: cAdvisor's names, grouped and labelled as
//! CRI-O does it. Kubelet asks for the descriptors once and for the values at every scrape.
//!
//! A descriptor's type says how many labels a value of it has, so the two cannot disagree; kubelet would drop the
//! whole answer. What is not known has no value, rather than zero.
//!
//! Alone in the daemon, these values are made in the form of the wire ([`crate::cri::metrics`]): they are many, and
//! nobody here asks what they are.

mod collect;
mod descriptor;
mod opened;
mod table;

use serde::{Deserialize, Serialize};

pub(super) use collect::measure;
pub use collect::of_all_pods;
pub use descriptor::Description;
pub(super) use opened::Opened;

use super::Stats;
use descriptor::Describe;

/// Metrics that are switched on together, by CRI-O's name (`included_pod_metrics`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Group {
    /// All of the others.
    All,
    Cpu,
    Disk,
    #[serde(rename = "diskIO")]
    DiskIo,
    Hugetlb,
    Memory,
    Network,
    Oom,
    Process,
    Spec,
    Pressure,
}

impl Group {
    const EACH: [Self; 10] = [
        Self::Cpu,
        Self::Disk,
        Self::DiskIo,
        Self::Hugetlb,
        Self::Memory,
        Self::Network,
        Self::Oom,
        Self::Process,
        Self::Spec,
        Self::Pressure,
    ];

    /// Each group once, `All` replaced by what it stands for.
    pub(super) fn spelt_out(included: &[Self]) -> Vec<Self> {
        let all = included.contains(&Self::All);
        let each = Self::EACH.into_iter();
        each.filter(|group| all || included.contains(group))
            .collect()
    }

    fn table(self) -> &'static [&'static (dyn Describe + Sync)] {
        match self {
            Self::All => &[],
            Self::Cpu => &table::CPU,
            Self::Disk => &table::DISK,
            Self::DiskIo => &table::DISK_IO,
            Self::Hugetlb => &table::HUGETLB,
            Self::Memory => &table::MEMORY,
            Self::Network => &table::NETWORK,
            Self::Oom => &table::OOM,
            Self::Process => &table::PROCESS,
            Self::Spec => &table::SPEC,
            Self::Pressure => &table::PRESSURE,
        }
    }
}

impl Stats {
    /// About how many values a container has.
    fn metrics_of_one(&self) -> usize {
        let groups = self.included.iter().map(|group| group.table().len());
        table::ALWAYS.len() + groups.sum::<usize>()
    }

    /// Of every metric that [`of_all_pods`] may give, by the configuration.
    pub fn descriptions(&self) -> Vec<Description> {
        let groups = self.included.iter().flat_map(|group| group.table());
        let all = table::ALWAYS.iter().chain(groups);
        all.map(|descriptor| descriptor.describe()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ocid::config;
    use std::collections::BTreeSet;

    fn including(groups: &[Group]) -> config::Stats {
        config::Stats {
            included_pod_metrics: groups.to_vec(),
            ..config::Stats::default()
        }
    }

    #[test]
    fn names_are_unique_and_labels_begin_alike() {
        let all = Stats::new(&including(&[Group::All])).descriptions();
        let names: BTreeSet<_> = all.iter().map(|d| d.name).collect();
        assert_eq!(names.len(), all.len());
        assert!(all.len() > 50, "{}", all.len());
        for description in &all {
            assert!(
                description.name.starts_with("container_"),
                "{description:?}"
            );
            assert!(!description.help.is_empty(), "{description:?}");
            assert_eq!(description.labels[..5], descriptor::BASE, "{description:?}");
        }
    }

    #[test]
    fn only_what_is_included_is_described() {
        let names = |included: &[Group]| -> Vec<_> {
            let all = Stats::new(&including(included)).descriptions();
            all.into_iter().map(|d| d.name).collect()
        };
        assert_eq!(names(&[]), ["container_last_seen"]);
        let some = [Group::Oom, Group::Oom];
        assert_eq!(
            names(&some),
            ["container_last_seen", "container_oom_events_total"]
        );
        assert_eq!(names(&Group::EACH), names(&[Group::All, Group::Cpu]));
    }
}
