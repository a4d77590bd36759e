//! CPU, memory, huge page and other limits: from the CRI, back to it, and into the OCI form.

use std::collections::BTreeMap;

use oci_spec::runtime::{
    LinuxCpu, LinuxCpuBuilder, LinuxHugepageLimit, LinuxHugepageLimitBuilder, LinuxMemory,
    LinuxMemoryBuilder, LinuxPidsBuilder, LinuxResources, LinuxResourcesBuilder,
};
use serde::{Deserialize, Serialize};

use super::error::SpecError;
use super::facts::HostFacts;
use crate::cri::v1;
use crate::ocid::field::{FieldError, plain};

/// The runtime's own first process does not fit into less.
const SMALLEST_MEMORY: i64 = 6 << 20;

/// Limits as the CRI counts them; 0 and empty mean "not said".
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// Microseconds.
    pub cpu_period: u64,
    /// Microseconds in each period; -1 for no limit.
    pub cpu_quota: i64,
    pub cpu_shares: u64,
    /// Bytes.
    pub memory_limit: i64,
    /// Bytes of memory and swap together; -1 for no limit.
    pub memory_swap_limit: i64,
    pub oom_score_adj: i32,
    /// Lists as cpuset(7) writes them, e.g. `0-2,7`.
    pub cpuset_cpus: String,
    pub cpuset_mems: String,
    /// Bytes by page size, e.g. `2MB`.
    pub hugepage_limits: Vec<(String, u64)>,
    /// Files of cgroup v2 by name, e.g. `memory.high`.
    pub unified: BTreeMap<String, String>,
}

impl Resources {
    pub(crate) fn parse(
        field: &str,
        from: v1::LinuxContainerResources,
    ) -> Result<Self, FieldError> {
        let at = |name: &str| format!("{field}.{name}");
        let unsigned = |name: &str, value: i64| {
            let problem = || FieldError::new(at(name), format!("is {value}, less than nothing"));
            u64::try_from(value).map_err(|_| problem())
        };
        let at_least = |name: &str, value: i64, least: i64| {
            if value < least {
                let problem = format!("is {value}; {least} is the least");
                return Err(FieldError::new(at(name), problem));
            }
            Ok(value)
        };
        let memory_limit = at_least("memory_limit_in_bytes", from.memory_limit_in_bytes, -1)?;
        if (1..SMALLEST_MEMORY).contains(&memory_limit) {
            let problem =
                format!("is {memory_limit}; a container needs {SMALLEST_MEMORY} bytes to start");
            return Err(FieldError::new(at("memory_limit_in_bytes"), problem));
        }
        let memory_swap_limit = at_least(
            "memory_swap_limit_in_bytes",
            from.memory_swap_limit_in_bytes,
            -1,
        )?;
        if memory_limit > 0 && (1..memory_limit).contains(&memory_swap_limit) {
            let problem =
                format!("is {memory_swap_limit}, below the memory limit of {memory_limit}");
            return Err(FieldError::new(at("memory_swap_limit_in_bytes"), problem));
        }
        let oom = from.oom_score_adj;
        let oom_score_adj = i32::try_from(oom)
            .ok()
            .filter(|score| (-1000..=1000).contains(score))
            .ok_or_else(|| {
                FieldError::new(
                    at("oom_score_adj"),
                    format!("is {oom}, not within -1000 and 1000"),
                )
            })?;
        for (name, list) in [
            ("cpuset_cpus", &from.cpuset_cpus),
            ("cpuset_mems", &from.cpuset_mems),
        ] {
            if !list
                .chars()
                .all(|c| c.is_ascii_digit() || matches!(c, ',' | '-'))
            {
                let problem = format!("is `{list}`, not a list like `0-2,7`");
                return Err(FieldError::new(at(name), problem));
            }
        }
        let mut hugepage_limits = Vec::new();
        for (i, limit) in from.hugepage_limits.into_iter().enumerate() {
            let at = format!("{field}.hugepage_limits[{i}]");
            if !is_page_size(&limit.page_size) {
                let problem = format!("is `{}`, not a size like `2MB`", limit.page_size);
                return Err(FieldError::new(format!("{at}.page_size"), problem));
            }
            if i64::try_from(limit.limit).is_err() {
                return Err(FieldError::new(format!("{at}.limit"), "is too large"));
            }
            hugepage_limits.push((limit.page_size, limit.limit));
        }
        for (name, value) in &from.unified {
            let at = format!("{field}.unified[{name}]");
            let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
            if !name.contains('.') || name.starts_with('.') || !name.chars().all(valid) {
                return Err(FieldError::new(at, "is not the name of a cgroup v2 file"));
            }
            plain(&at, &value.replace('\n', " "))?;
        }
        Ok(Self {
            cpu_period: unsigned("cpu_period", from.cpu_period)?,
            cpu_quota: at_least("cpu_quota", from.cpu_quota, -1)?,
            cpu_shares: unsigned("cpu_shares", from.cpu_shares)?,
            memory_limit,
            memory_swap_limit,
            oom_score_adj,
            cpuset_cpus: from.cpuset_cpus,
            cpuset_mems: from.cpuset_mems,
            hugepage_limits,
            unified: from.unified.into_iter().collect(),
        })
    }

    /// The limits after an update (UpdateContainerResources), whose fields are below `field`: what it
    /// does not say stays. A memory limit without a word about swap is also the new limit of both, as
    /// at a container's creation. The score for the OOM killer is of processes, not of the cgroup,
    /// and those that run keep theirs.
    pub fn updated(&self, field: &str, update: &Self) -> Result<Self, FieldError> {
        fn pick<T: PartialEq + Default + Clone>(old: &T, new: &T) -> T {
            if *new == T::default() { old } else { new }.clone()
        }
        let mut unified = self.unified.clone();
        unified.extend(update.unified.clone());
        let memory_limit = pick(&self.memory_limit, &update.memory_limit);
        let memory_swap_limit = match (update.memory_limit, update.memory_swap_limit) {
            (0, 0) => self.memory_swap_limit,
            (_, swap) => swap,
        };
        if memory_limit > 0 && (1..memory_limit).contains(&memory_swap_limit) {
            let problem =
                format!("is {memory_swap_limit}, below the memory limit of {memory_limit}");
            let field = format!("{field}.memory_swap_limit_in_bytes");
            return Err(FieldError::new(field, problem));
        }
        Ok(Self {
            cpu_period: pick(&self.cpu_period, &update.cpu_period),
            cpu_quota: pick(&self.cpu_quota, &update.cpu_quota),
            cpu_shares: pick(&self.cpu_shares, &update.cpu_shares),
            memory_limit,
            memory_swap_limit,
            oom_score_adj: self.oom_score_adj,
            cpuset_cpus: pick(&self.cpuset_cpus, &update.cpuset_cpus),
            cpuset_mems: pick(&self.cpuset_mems, &update.cpuset_mems),
            hugepage_limits: pick(&self.hugepage_limits, &update.hugepage_limits),
            unified,
        })
    }

    /// The OCI form, as far as this machine's cgroups can hold it; device rules are not in it.
    pub fn oci(
        &self,
        pids_limit: i64,
        host: &HostFacts,
        warnings: &mut Vec<String>,
    ) -> Result<LinuxResources, SpecError> {
        let mut resources = LinuxResourcesBuilder::default();
        if let Some(cpu) = self.cpu()? {
            resources = resources.cpu(cpu);
        }
        if let Some(memory) = self.memory(host)? {
            resources = resources.memory(memory);
        }
        if pids_limit > 0 && host.pids {
            let pids = LinuxPidsBuilder::default().limit(pids_limit);
            resources = resources.pids(pids.build().map_err(SpecError::Assemble)?);
        }
        let hugepages = self.hugepages(host, warnings)?;
        if !hugepages.is_empty() {
            resources = resources.hugepage_limits(hugepages);
        }
        if !self.unified.is_empty() {
            if host.cgroup_v2 {
                let unified = self.unified.clone().into_iter();
                resources = resources.unified(unified.collect::<std::collections::HashMap<_, _>>());
            } else {
                warnings.extend(host.once(
                    "unified",
                    "this machine has cgroup v1, so `unified` resources are left out",
                ));
            }
        }
        resources.build().map_err(SpecError::Assemble)
    }

    fn cpu(&self) -> Result<Option<LinuxCpu>, SpecError> {
        let mut cpu = LinuxCpuBuilder::default();
        let mut any = false;
        if self.cpu_shares > 0 {
            (cpu, any) = (cpu.shares(self.cpu_shares), true);
        }
        if self.cpu_quota != 0 {
            (cpu, any) = (cpu.quota(self.cpu_quota), true);
        }
        if self.cpu_period > 0 {
            (cpu, any) = (cpu.period(self.cpu_period), true);
        }
        if !self.cpuset_cpus.is_empty() {
            (cpu, any) = (cpu.cpus(self.cpuset_cpus.clone()), true);
        }
        if !self.cpuset_mems.is_empty() {
            (cpu, any) = (cpu.mems(self.cpuset_mems.clone()), true);
        }
        if !any {
            return Ok(None);
        }
        cpu.build().map(Some).map_err(SpecError::Assemble)
    }

    /// A memory limit without a word about swap allows none, where the kernel counts swap at all.
    fn memory(&self, host: &HostFacts) -> Result<Option<LinuxMemory>, SpecError> {
        if self.memory_limit == 0 {
            return Ok(None);
        }
        let mut memory = LinuxMemoryBuilder::default().limit(self.memory_limit);
        if host.memory_swap {
            memory = memory.swap(match self.memory_swap_limit {
                0 => self.memory_limit,
                limit => limit,
            });
        }
        memory.build().map(Some).map_err(SpecError::Assemble)
    }

    /// kubelet names every page size it knows with a limit of 0; one that this kernel does not have
    /// is worth a word only where more was asked for.
    fn hugepages(
        &self,
        host: &HostFacts,
        warnings: &mut Vec<String>,
    ) -> Result<Vec<LinuxHugepageLimit>, SpecError> {
        let mut limits = Vec::new();
        for (size, limit) in &self.hugepage_limits {
            if host.hugepage_sizes.contains(size) {
                let limit = LinuxHugepageLimitBuilder::default()
                    .page_size(size.clone())
                    .limit(i64::try_from(*limit).unwrap_or(i64::MAX));
                limits.push(limit.build().map_err(SpecError::Assemble)?);
            } else if *limit > 0 {
                warnings.extend(host.once(
                    "hugepages",
                    "this machine does not limit huge pages of every size that a container asks for",
                ));
            }
        }
        Ok(limits)
    }
}

fn is_page_size(text: &str) -> bool {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    !digits.is_empty()
        && digits.chars().all(|c| c.is_ascii_digit())
        && matches!(text.strip_prefix(digits), Some("KB" | "MB" | "GB"))
}

impl From<&Resources> for v1::LinuxContainerResources {
    fn from(r: &Resources) -> Self {
        let signed = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        Self {
            cpu_period: signed(r.cpu_period),
            cpu_quota: r.cpu_quota,
            cpu_shares: signed(r.cpu_shares),
            memory_limit_in_bytes: r.memory_limit,
            oom_score_adj: r.oom_score_adj.into(),
            cpuset_cpus: r.cpuset_cpus.clone(),
            cpuset_mems: r.cpuset_mems.clone(),
            hugepage_limits: r
                .hugepage_limits
                .iter()
                .map(|(page_size, limit)| v1::HugepageLimit {
                    page_size: page_size.clone(),
                    limit: *limit,
                })
                .collect(),
            unified: r.unified.clone().into_iter().collect(),
            memory_swap_limit_in_bytes: r.memory_swap_limit,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked() -> v1::LinuxContainerResources {
        v1::LinuxContainerResources {
            cpu_period: 100_000,
            cpu_quota: 20_000,
            cpu_shares: 512,
            memory_limit_in_bytes: 64 << 20,
            oom_score_adj: 30,
            cpuset_cpus: "0-1".into(),
            hugepage_limits: vec![v1::HugepageLimit {
                page_size: "2MB".into(),
                limit: 0,
            }],
            unified: [("memory.high".to_owned(), "1000000".to_owned())].into(),
            ..Default::default()
        }
    }

    #[test]
    fn there_and_back() {
        let resources = Resources::parse("r", asked()).unwrap();
        assert_eq!(v1::LinuxContainerResources::from(&resources), asked());
        let json = serde_json::to_string(&resources).unwrap();
        assert_eq!(serde_json::from_str::<Resources>(&json).unwrap(), resources);
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        type Change = fn(&mut v1::LinuxContainerResources);
        let cases: [(&str, Change); 9] = [
            ("r.cpu_period", |r| r.cpu_period = -5),
            ("r.cpu_quota", |r| r.cpu_quota = -2),
            ("r.cpu_shares", |r| r.cpu_shares = -1),
            ("r.memory_limit_in_bytes", |r| {
                r.memory_limit_in_bytes = 4096
            }),
            ("r.memory_swap_limit_in_bytes", |r| {
                r.memory_swap_limit_in_bytes = 7
            }),
            ("r.oom_score_adj", |r| r.oom_score_adj = 1001),
            ("r.cpuset_mems", |r| r.cpuset_mems = "0; rm".into()),
            ("r.hugepage_limits[0].page_size", |r| {
                r.hugepage_limits[0].page_size = "../2MB".into();
            }),
            ("r.unified[../x]", |r| {
                r.unified = [("../x".to_owned(), String::new())].into();
            }),
        ];
        for (field, change) in cases {
            let mut bad = asked();
            change(&mut bad);
            assert_eq!(Resources::parse("r", bad).unwrap_err().field, field);
        }
    }

    #[test]
    fn swap_follows_memory_where_it_is_counted() {
        let mut host = HostFacts::none();
        let resources = Resources::parse("r", asked()).unwrap();
        let oci = |host: &HostFacts| resources.oci(-1, host, &mut Vec::new()).unwrap();
        assert_eq!(oci(&host).memory().unwrap().swap(), None);
        host.memory_swap = true;
        assert_eq!(oci(&host).memory().unwrap().swap(), Some(64 << 20));
    }

    #[test]
    fn what_the_cgroups_lack_is_left_out() {
        let mut warnings = Vec::new();
        let mut host = HostFacts::none();
        let resources = Resources::parse("r", asked()).unwrap();
        let oci = resources.oci(100, &host, &mut warnings).unwrap();
        assert!(oci.pids().is_none() && oci.unified().is_none());
        assert!(oci.hugepage_limits().is_none());
        assert_eq!(warnings.len(), 1, "unified, once: {warnings:?}");
        resources.oci(100, &host, &mut warnings).unwrap();
        assert_eq!(warnings.len(), 1);

        host.pids = true;
        host.cgroup_v2 = true;
        host.hugepage_sizes = vec!["2MB".into()];
        let oci = resources.oci(100, &host, &mut warnings).unwrap();
        assert_eq!(oci.pids().unwrap().limit(), 100);
        assert_eq!(oci.unified().as_ref().unwrap()["memory.high"], "1000000");
        assert_eq!(oci.hugepage_limits().as_ref().unwrap().len(), 1);
        assert_eq!(oci.cpu().as_ref().unwrap().shares(), Some(512));
        assert!(
            resources
                .oci(-1, &host, &mut warnings)
                .unwrap()
                .pids()
                .is_none()
        );
    }

    #[test]
    fn an_update_keeps_what_it_does_not_say() {
        let old = Resources::parse("r", asked()).unwrap();
        let update = Resources {
            cpu_shares: 2,
            ..Default::default()
        };
        let new = old.updated("linux", &update).unwrap();
        assert_eq!((new.cpu_shares, new.cpu_quota), (2, 20_000));
        assert_eq!(new.unified, old.unified);
    }

    #[test]
    fn an_update_of_memory_takes_swap_along() {
        let old = Resources {
            memory_limit: 64 << 20,
            memory_swap_limit: 96 << 20,
            oom_score_adj: 7,
            ..Default::default()
        };
        let both = |memory_limit, memory_swap_limit| {
            let update = Resources {
                memory_limit,
                memory_swap_limit,
                oom_score_adj: 500,
                ..Default::default()
            };
            old.updated("linux", &update).map(|r| {
                (
                    r.memory_limit >> 20,
                    r.memory_swap_limit >> 20,
                    r.oom_score_adj,
                )
            })
        };
        assert_eq!(both(0, 0), Ok((64, 96, 7)));
        assert_eq!(both(128 << 20, 0), Ok((128, 0, 7)));
        assert_eq!(both(128 << 20, 256 << 20), Ok((128, 256, 7)));
        assert_eq!(both(0, 128 << 20), Ok((64, 128, 7)));
        let e = both(0, 32 << 20).unwrap_err();
        assert_eq!(e.field, "linux.memory_swap_limit_in_bytes");
    }
}
