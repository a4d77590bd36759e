//! The way back from a node: pods first, then every record of the receipt, the last first.
//!
//! The receipt is marked before the first step back, so that a cut-off uninstall is finished, never
//! built upon; it goes last.

use std::path::Path;
use std::time::Duration;

use crate::cri::v1::PodSandboxState;
use crate::host::{service, systemd};
use crate::ocic::client::{Client, ClientError};

use super::facts::OCID_SOCKET;
use super::receipt::Receipt;
use super::report::UninstallReport;
use super::rollback::{ANSWER, Way};
use super::store::Store;
use super::undo::{ServiceSpec, Undo};
use super::{Event, Setup, SetupError};

/// Names the temporary files of every uninstall: the next one finds what a killed one left.
const RUN: &str = "uninstall";
const SANDBOXES: &str = "/var/lib/ocid/sandboxes";
/// Stopping a pod waits for its containers' grace periods.
const STOP_POD: Duration = Duration::from_secs(120);

/// Why pods could not be removed.
#[derive(Debug, thiserror::Error)]
pub enum PodsError {
    #[error("start the async runtime")]
    Runtime(#[source] std::io::Error),
    #[error("ask ocid for its pods")]
    List(#[source] ClientError),
    #[error("remove the pod `{pod}`")]
    Remove { pod: String, source: ClientError },
}

impl Setup<'_> {
    /// Puts everything back. With `force` pods that run are stopped and removed first; with `purge`
    /// files that were changed since we wrote them go as well.
    pub fn uninstall(&self, force: bool, purge: bool) -> Result<UninstallReport, SetupError> {
        if self.settings.is_live() && !nix::unistd::geteuid().is_root() {
            return Err(SetupError::NotRoot);
        }
        let Some(store) = Store::open(&self.settings.root)? else {
            return Ok(UninstallReport::default());
        };
        let removing = store.receipt()?.is_some_and(|r| r.removing);
        if removing {
            return self.finish_uninstall(store, purge);
        }
        let Some(store) = self.recover(store)? else {
            return Ok(UninstallReport::default());
        };
        let Some(mut receipt) = store.receipt()? else {
            store.remove(&[])?;
            return Ok(UninstallReport::default());
        };
        let pods_removed = if self.settings.is_live() {
            self.pods(&receipt, force)?
        } else {
            0
        };
        receipt.removing = true;
        store.save(&receipt)?;
        let mut report = self.finish_uninstall(store, purge)?;
        report.pods_removed = pods_removed;
        Ok(report)
    }

    /// Undoes a receipt that is marked as being removed.
    pub(super) fn finish_uninstall(
        &self,
        store: Store,
        purge: bool,
    ) -> Result<UninstallReport, SetupError> {
        let mut receipt = store.receipt()?.unwrap_or_default();
        let way = Way {
            setup: self,
            store: &store,
            run: RUN,
            discard_edits: purge,
            restart: false,
        };
        let rollback = way.back(&receipt.records);
        if !rollback.errors.is_empty() {
            // What could be undone is not to be tried again.
            receipt.records = rollback.failed;
            store.save(&receipt)?;
            return Err(SetupError::Uninstall(rollback.errors));
        }
        // Without the before-images no record could be judged any more.
        receipt.records.clear();
        store.save(&receipt)?;
        super::failpoint::pass("undone-all");
        store.remove(&receipt.made)?;
        Ok(UninstallReport {
            changed: rollback.changed,
            pods_removed: 0,
            kept: rollback.kept,
        })
    }

    /// Removes the pods of our ocid; refuses when some run and `force` is not given.
    fn pods(&self, receipt: &Receipt, force: bool) -> Result<usize, SetupError> {
        let service = receipt.records.iter().find_map(|r| match &r.undo {
            Undo::Service {
                service, systemd, ..
            } if service.name == "ocid" => Some((service, *systemd)),
            _ => None,
        });
        let Some((service, by_systemd)) = service else {
            return Ok(0);
        };
        if !is_running(service, by_systemd) {
            let left = std::fs::read_dir(SANDBOXES).map_or(0, Iterator::count);
            if left == 0 {
                return Ok(0);
            }
            if !force {
                return Err(SetupError::PodsExist {
                    pods: vec![format!("{left} in `{SANDBOXES}`, and ocid does not run")],
                });
            }
            // Only the daemon knows how to take its pods down.
            super::step::start_service(service, by_systemd, false)
                .map_err(|e| SetupError::StartForPods(Box::new(e)))?;
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| SetupError::Pods(PodsError::Runtime(e)))?;
        runtime.block_on(self.remove_pods(force))
    }

    async fn remove_pods(&self, force: bool) -> Result<usize, SetupError> {
        let listed = async {
            let client = Client::connect(Path::new(OCID_SOCKET), ANSWER).await?;
            let pods = client.list_pod_sandboxes(None).await?;
            Ok((client, pods))
        };
        let (client, pods) = listed.await.map_err(PodsError::List)?;
        let name = |pod: &crate::cri::v1::PodSandbox| match &pod.metadata {
            Some(meta) => format!("{}/{}", meta.namespace, meta.name),
            None => pod.id.clone(),
        };
        let running: Vec<String> = pods
            .iter()
            .filter(|pod| pod.state == PodSandboxState::SandboxReady as i32)
            .map(name)
            .collect();
        if !running.is_empty() && !force {
            return Err(SetupError::PodsExist { pods: running });
        }
        let client = client.with_limit(STOP_POD);
        for pod in &pods {
            let named = name(pod);
            (self.tell)(&Event::Undone {
                what: &format!("remove the pod `{named}`"),
            });
            let failed = |source| PodsError::Remove {
                pod: named.clone(),
                source,
            };
            client.stop_pod_sandbox(&pod.id).await.map_err(failed)?;
            client.remove_pod_sandbox(&pod.id).await.map_err(failed)?;
        }
        Ok(pods.len())
    }
}

fn is_running(spec: &ServiceSpec, by_systemd: bool) -> bool {
    if !by_systemd {
        return service::find(&spec.direct(Duration::ZERO)).is_some();
    }
    let unit = spec.unit();
    systemd::show(&[&unit]).is_ok_and(|units| units.get(&unit).is_some_and(|u| u.is_active()))
}
