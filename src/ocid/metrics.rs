//! Counters for Prometheus, under CRI-O's names where they mean the same ([`text`]), served over HTTP or HTTPS
//! where `crio.metrics.enable_metrics` says so ([`server`]).

mod server;
mod text;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio_rustls::TlsAcceptor;

use super::config;
use super::state::record::{ContainerRecord, SandboxRecord};
use super::streaming::tls::{Identity, TlsError};

pub use self::server::{listen, serve};
pub use self::text::{COLLECTORS, render};

/// What is counted while the daemon works.
#[derive(Default)]
pub struct Metrics {
    operations: Mutex<BTreeMap<&'static str, Operation>>,
    /// By the container's name.
    oom_of: Mutex<BTreeMap<String, u64>>,
    /// Images that were pulled.
    pulled: AtomicU64,
    /// Images that were not, by the code of the answer.
    not_pulled: Mutex<BTreeMap<String, u64>>,
    /// None: they are served without TLS.
    tls: Mutex<Option<TlsAcceptor>>,
    /// Containers that the kernel killed for want of memory.
    oom: AtomicU64,
    /// Event streams that were closed because their reader was too slow.
    pub lagging: AtomicU64,
}

#[derive(Debug, Default, Clone, Copy)]
struct Operation {
    calls: u64,
    errors: u64,
    time: Duration,
    /// Of the last call.
    last: Duration,
}

impl Metrics {
    /// Counts one call of `rpc`.
    pub fn observe(&self, rpc: &'static str, took: Duration, failed: bool) {
        let mut operations = lock(&self.operations);
        let operation = operations.entry(rpc).or_default();
        operation.calls += 1;
        operation.errors += u64::from(failed);
        operation.time += took;
        operation.last = took;
    }

    /// Counts a container that was killed for want of memory, by the name that CRI-O gives it.
    pub fn observe_oom(&self, container: &ContainerRecord, pod: Option<&SandboxRecord>) {
        self.oom.fetch_add(1, Ordering::Relaxed);
        let (name, attempt) = (
            &container.config.metadata.name,
            container.config.metadata.attempt,
        );
        let name = match pod.map(|pod| &pod.config.metadata) {
            Some(pod) => format!(
                "k8s_{name}_{}_{}_{}_{attempt}",
                pod.name, pod.namespace, pod.uid
            ),
            None => name.clone(),
        };
        *lock(&self.oom_of).entry(name).or_default() += 1;
    }

    /// Counts a pull by its outcome: the code of the answer where it failed.
    pub fn observe_pull(&self, failed: Option<tonic::Code>) {
        match failed {
            None => {
                self.pulled.fetch_add(1, Ordering::Relaxed);
            }
            Some(code) => {
                *lock(&self.not_pulled)
                    .entry(format!("{code:?}"))
                    .or_default() += 1
            }
        }
    }

    /// Reads the certificate that metrics are served with. What cannot be used changes nothing.
    pub fn read_certificate(&self, settings: &config::Metrics) -> Result<(), TlsError> {
        if !settings.enable_metrics || settings.metrics_cert.as_os_str().is_empty() {
            return Ok(());
        }
        let identity = Identity {
            cert: &settings.metrics_cert,
            key: &settings.metrics_key,
            ca: "".as_ref(),
            min_version: &settings.metrics_min_tls_version,
        };
        *lock(&self.tls) = Some(identity.acceptor()?);
        Ok(())
    }
}

/// A panic elsewhere does not spoil what is only counted.
fn lock<T>(counts: &Mutex<T>) -> MutexGuard<'_, T> {
    counts.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The name of an RPC as the CRI spells it, from the one of its function.
pub fn cri_name(rpc: &str) -> String {
    rpc.split('_')
        .map(|word| {
            let (head, tail) = word.split_at(1.min(word.len()));
            head.to_ascii_uppercase() + tail
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_counted_and_timed_and_told_apart() {
        let metrics = Metrics::default();
        metrics.observe("run_pod_sandbox", Duration::from_millis(20), false);
        metrics.observe("run_pod_sandbox", Duration::from_millis(30), true);
        metrics.observe("version", Duration::from_millis(1), false);
        let operations = lock(&metrics.operations);
        let run = operations["run_pod_sandbox"];
        assert_eq!((run.calls, run.errors), (2, 1));
        assert_eq!(run.time, Duration::from_millis(50));
        assert_eq!(run.last, Duration::from_millis(30));
        assert_eq!(operations["version"].errors, 0);
    }

    #[test]
    fn rpcs_are_named_as_the_cri_names_them() {
        assert_eq!(cri_name("port_forward"), "PortForward");
        assert_eq!(cri_name("version"), "Version");
        assert_eq!(cri_name(""), "");
    }
}
