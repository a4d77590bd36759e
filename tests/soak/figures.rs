//! What the daemon and the machine hold, in numbers.

use std::fmt;
use std::fs;

use anyhow::{Context, Result, ensure};

use crate::support::snapshot::Snapshot;
use crate::world::World;

/// Kinds of a snapshot's lines.
const KINDS: [&str; 8] = [
    "mount",
    "namespace",
    "link",
    "rule",
    "chain",
    "cgroup",
    "file",
    "process",
];

#[derive(Debug, Clone)]
pub struct Figures {
    pub descriptors: usize,
    pub threads: usize,
    /// KiB.
    pub resident: u64,
    counts: [usize; KINDS.len()],
}

impl Figures {
    pub fn take(world: &World) -> Result<Self> {
        let proc = format!("/proc/{}", world.daemon().pid()?);
        let entries = |folder: &str| -> Result<usize> {
            Ok(fs::read_dir(format!("{proc}/{folder}"))?.count())
        };
        let status = fs::read_to_string(format!("{proc}/status"))?;
        let resident = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
        let resident = resident.context("no VmRSS")?.trim().trim_end_matches(" kB");
        let snapshot = Snapshot::take(&world.machine)?;
        Ok(Self {
            descriptors: entries("fd")?,
            threads: entries("task")?,
            resident: resident.parse()?,
            counts: KINDS.map(|kind| snapshot.count(&format!("{kind} "))),
        })
    }

    /// What the daemon has open.
    pub fn open(world: &World) -> Result<Vec<String>> {
        let mut open = Vec::new();
        for entry in fs::read_dir(format!("/proc/{}/fd", world.daemon().pid()?))? {
            // It may be closed by now.
            let target = fs::read_link(entry?.path());
            open.extend(target.map(|target| target.display().to_string()));
        }
        open.sort();
        Ok(open)
    }

    /// As before, but for memory that an allocator may keep (KiB), and threads, which come and go with the work.
    pub fn assert_back(&self, before: &Self, slack: u64) -> Result<()> {
        let same = self.counts == before.counts && self.descriptors <= before.descriptors;
        ensure!(same, "before:\n{before}\nafter:\n{self}");
        let most = before.resident + slack;
        ensure!(
            self.resident <= most,
            "{} KiB, more than {most}",
            self.resident
        );
        Ok(())
    }

    /// No more than half as much again as before, and some: what lives is not the same at any two times.
    pub fn is_within(&self, before: &Self, slack: u64) -> bool {
        let grown = |now: usize, before: usize| now > before + before / 2 + 20;
        let mut counts = self.counts.iter().zip(before.counts);
        !grown(self.descriptors, before.descriptors)
            && self.resident <= before.resident + before.resident / 2 + slack
            && !counts.any(|(now, before)| grown(*now, before))
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "descriptors {}, threads {}, resident {} KiB",
            self.descriptors, self.threads, self.resident
        )?;
        KINDS
            .iter()
            .zip(self.counts)
            .try_for_each(|(kind, count)| write!(f, ", {kind} {count}"))
    }
}
