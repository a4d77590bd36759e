//! What is installed, whether it is as we left it, and how it is.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use crate::host::fs::under;
use crate::host::{service, systemd};

use super::facts::OCID_SOCKET;
use super::path::{Current, Stamp, Wrote};
use super::receipt::Receipt;
use super::report::{ComponentStatus, ServiceStatus, StatusReport};
use super::settings::Component;
use super::store::Peek;
use super::undo::Undo;
use super::verify;
use super::{Setup, SetupError};

/// A healthy daemon answers at once.
const LIMIT: Duration = Duration::from_secs(5);

impl Setup<'_> {
    /// Looks at stamps, or with `deep` at the content of every file. Changes nothing.
    pub fn status(&self, deep: bool) -> Result<StatusReport, SetupError> {
        let peek = Peek::at(&self.settings.root)?;
        let mut report = StatusReport {
            unfinished: peek.unfinished,
            ..StatusReport::default()
        };
        let Some(receipt) = peek.receipt else {
            return Ok(report);
        };
        report.installed = true;
        report.version = Some(receipt.version.clone());
        report.components = components(&receipt);
        report.drift = drift(&self.settings.root, &receipt, deep);
        if self.settings.is_live() {
            report.services = services(&receipt);
            if receipt
                .records
                .iter()
                .any(|r| r.component == Component::Ocid)
            {
                match verify::verify(Path::new(OCID_SOCKET), LIMIT) {
                    Ok(health) => report.health = Some(health),
                    Err(e) => report.problem = Some(super::chain(&e)),
                }
            }
        }
        let network = receipt
            .records
            .iter()
            .any(|r| r.component == Component::CniConfig);
        report.healthy = report.drift.is_empty()
            && !report.unfinished
            && report.problem.is_none()
            && report.services.iter().all(|s| s.running)
            && report
                .health
                .as_ref()
                .is_none_or(|health| health.require(network).is_ok());
        Ok(report)
    }
}

fn components(receipt: &Receipt) -> Vec<ComponentStatus> {
    let mut counts: BTreeMap<Component, usize> = BTreeMap::new();
    for record in &receipt.records {
        *counts.entry(record.component).or_default() += 1;
    }
    for component in receipt.sources.keys() {
        counts.entry(*component).or_default();
    }
    counts
        .into_iter()
        .map(|(component, resources)| ComponentStatus {
            component,
            source: receipt.sources.get(&component).cloned(),
            resources,
        })
        .collect()
}

/// What is not as we left it.
fn drift(root: &Path, receipt: &Receipt, deep: bool) -> Vec<String> {
    let mut drift = Vec::new();
    for record in &receipt.records {
        match &record.undo {
            Undo::Path { path, wrote, .. } => {
                let real = under(root, path);
                let path = path.display();
                match Current::at(&real) {
                    Ok(Current::Absent) => drift.push(format!("`{path}` is missing")),
                    Ok(current) => match same(&current, &real, wrote, deep) {
                        Ok(true) => {}
                        Ok(false) => drift.push(format!("`{path}` was changed")),
                        Err(e) => drift.push(format!("`{path}` cannot be read: {e}")),
                    },
                    Err(e) => drift.push(format!("`{path}` cannot be read: {e}")),
                }
            }
            // What is in /run goes with a reboot, and whoever needs it makes it again.
            Undo::Folder { path, .. }
                if !path.starts_with("/run") && !under(root, path).is_dir() =>
            {
                drift.push(format!("`{}` is missing", path.display()));
            }
            Undo::Sysctl { key, wrote, .. } => {
                let now = std::fs::read_to_string(Path::new("/proc/sys").join(key));
                if now.is_ok_and(|now| now.trim() != wrote) {
                    drift.push(format!("`{}` is not {wrote}", key.replace('/', ".")));
                }
            }
            _ => {}
        }
    }
    drift
}

fn same(current: &Current, real: &Path, wrote: &Wrote, deep: bool) -> std::io::Result<bool> {
    if deep && let (Current::File(_), Wrote::File { sha256, .. }) = (current, wrote) {
        return Ok(crate::artifact::Sha256Sum::of_file(real)? == *sha256);
    }
    if let (
        Current::File(meta),
        Wrote::File {
            stamp: Some(stamp), ..
        },
    ) = (current, wrote)
        && Stamp::of(meta) == *stamp
    {
        return Ok(true);
    }
    current.is(real, wrote)
}

fn services(receipt: &Receipt) -> Vec<ServiceStatus> {
    let mut all = Vec::new();
    for record in &receipt.records {
        let Undo::Service {
            service, systemd, ..
        } = &record.undo
        else {
            continue;
        };
        let pid = if *systemd {
            let unit = service.unit();
            systemd::show(&[&unit]).ok().and_then(|states| {
                let state = states.get(&unit)?;
                (state.is_active() && state.main_pid > 0).then_some(state.main_pid)
            })
        } else {
            service::find(&service.direct(Duration::ZERO)).map(|id| id.pid)
        };
        all.push(ServiceStatus {
            name: service.name.clone(),
            running: pid.is_some(),
            pid,
        });
    }
    all
}
