//! What a pod takes from a machine while it lives, as a picture to compare before and after: mounts,
//! namespaces, interfaces, packet filter rules, cgroups, processes, folders.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result, bail};

use super::Machine;

/// Folders whose content comes and goes with pods.
const FOLDERS: [&str; 7] = [
    "/run",
    "/var/run/netns",
    "/var/lib/ocid",
    "/var/lib/cni",
    "/var/log/pods",
    "/var/log/containers",
    "/tmp",
];

/// Each entry is one line, led by its kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot(BTreeSet<String>);

impl Snapshot {
    pub fn take(machine: &Machine) -> Result<Self> {
        let mut lines = BTreeSet::new();
        mounts(machine, &mut lines)?;
        processes(machine, &mut lines)?;
        links(machine, &mut lines)?;
        rules(machine, &mut lines)?;
        for cgroup in machine.cgroups() {
            folders(cgroup, cgroup, "cgroup", &mut lines)?;
        }
        for folder in FOLDERS {
            let path = machine.path(folder);
            if path.is_dir() {
                folders(&path, &machine.path("/"), "file", &mut lines)?;
            }
        }
        Ok(Self(lines))
    }

    /// Lines there now that were not there in `before`, but those that `expected` explains.
    pub fn since(&self, before: &Self, expected: &[&str]) -> Vec<String> {
        self.0
            .difference(&before.0)
            .filter(|line| !expected.iter().any(|text| line.contains(text)))
            .cloned()
            .collect()
    }

    /// Fails with the list of what is there now and was not in `before`, or the other way round.
    pub fn assert_as(&self, before: &Self, expected: &[&str]) -> Result<()> {
        let more = self.since(before, expected);
        let less = before.since(self, expected);
        if more.is_empty() && less.is_empty() {
            return Ok(());
        }
        bail!(
            "left behind:\n  {}\ngone:\n  {}",
            more.join("\n  "),
            less.join("\n  ")
        )
    }

    pub fn count(&self, kind: &str) -> usize {
        self.0.iter().filter(|line| line.starts_with(kind)).count()
    }
}

fn mounts(machine: &Machine, lines: &mut BTreeSet<String>) -> Result<()> {
    let text = fs::read_to_string(format!("/proc/{}/mountinfo", machine.pid()))?;
    for (number, line) in text.lines().enumerate() {
        let fields: Vec<&str> = line.split(' ').collect();
        let point = fields.get(4).copied().unwrap_or_default();
        let kind = line.split(" - ").nth(1).unwrap_or_default();
        // A point mounted over twice counts twice.
        let depth = text
            .lines()
            .take(number)
            .filter(|l| l.split(' ').nth(4) == Some(point))
            .count();
        lines.insert(format!("mount {point} {kind} #{depth}"));
    }
    Ok(())
}

/// Processes by command line and the namespaces they hold, zombies left out (their parent reaps them).
fn processes(machine: &Machine, lines: &mut BTreeSet<String>) -> Result<()> {
    let own = fs::read_link(format!("/proc/{}/ns/pid", machine.pid()))?;
    for entry in fs::read_dir(machine.path("/proc"))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.parse::<u32>().is_err() {
            continue;
        }
        let folder = entry.path();
        let text = |file: &str| fs::read(folder.join(file)).unwrap_or_default();
        let arguments = String::from_utf8_lossy(&text("cmdline")).replace('\0', " ");
        if arguments.is_empty() {
            continue;
        }
        lines.insert(format!("process {name} {}", arguments.trim()));
        for space in ["net", "ipc", "uts", "mnt", "user"] {
            if let Ok(link) = fs::read_link(folder.join("ns").join(space)) {
                lines.insert(format!("namespace {}", link.display()));
            }
        }
        // A pid namespace of a pod shows as one that is not the machine's.
        match fs::read_link(folder.join("ns/pid")) {
            Ok(link) if link != own => lines.insert(format!("namespace {}", link.display())),
            _ => false,
        };
    }
    Ok(())
}

fn links(machine: &Machine, lines: &mut BTreeSet<String>) -> Result<()> {
    for line in machine.run(&["ip", "-o", "link"])?.lines() {
        // `7: veth1a2b@if2: <...> ... master cni0 ...`
        let name = line.split(": ").nth(1).unwrap_or_default();
        let name = name.split('@').next().unwrap_or_default();
        lines.insert(format!("link {name}"));
    }
    for line in machine
        .run(&["ip", "-o", "route", "show", "table", "all"])?
        .lines()
    {
        // A link-local address gets its own only once it has shown to be nobody else's.
        if line.contains("local fe80::") {
            continue;
        }
        // Whether a bridge has a port that is up follows some time after the port.
        lines.insert(format!(
            "route {}",
            line.trim_end().replace(" linkdown", "")
        ));
    }
    Ok(())
}

/// Rules and chains of our and others' making; built-in chains appear with the first rule ever and
/// mean nothing.
fn rules(machine: &Machine, lines: &mut BTreeSet<String>) -> Result<()> {
    for program in ["iptables-save", "ip6tables-save"] {
        let found = machine.output(&["sh", "-c", &format!("command -v {program}")])?;
        if !found.status.success() {
            continue;
        }
        let text = machine.run(&[program])?;
        let mut table = "";
        for line in text.lines() {
            if let Some(name) = line.strip_prefix('*') {
                table = name;
            } else if let Some(chain) = line.strip_prefix(':') {
                let mut words = chain.split(' ');
                if let (Some(name), Some("-")) = (words.next(), words.next()) {
                    lines.insert(format!("chain {program} {table} {name}"));
                }
            } else if line.starts_with("-A") {
                lines.insert(format!("rule {program} {table} {line}"));
            }
        }
    }
    Ok(())
}

/// Every path below `folder`, symlinks not followed and mounts not entered. A folder may go while we look.
fn folders(folder: &Path, root: &Path, kind: &str, lines: &mut BTreeSet<String>) -> Result<()> {
    let listed = || -> io::Result<_> {
        let device = fs::symlink_metadata(folder)?.dev();
        let entries = fs::read_dir(folder)?.collect::<io::Result<Vec<_>>>()?;
        Ok((device, entries))
    };
    let (device, entries) = match listed() {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.with_context(|| format!("list {}", folder.display()))?,
    };
    for entry in entries {
        let path = entry.path();
        let shown = path
            .strip_prefix(root)
            .unwrap_or(&path)
            .display()
            .to_string();
        // It may go while we look.
        let Ok(metadata) = fs::symlink_metadata(&path) else {
            continue;
        };
        if kind == "cgroup" && !metadata.is_dir() {
            continue;
        }
        lines.insert(match kind {
            "cgroup" => format!("cgroup {} {shown}", root.parent().unwrap_or(root).display()),
            _ => format!("{kind} /{shown}"),
        });
        if metadata.is_dir() && metadata.dev() == device {
            folders(&path, root, kind, lines)?;
        }
    }
    Ok(())
}
