//! Counters for Prometheus, under CRI-O's names where they mean the same, served over HTTP where
//! `crio.metrics.enable_metrics` says so.

use std::collections::BTreeMap;
use std::fmt::{Display, Write};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use tokio::net::{TcpListener, UnixListener};

use super::config;
use super::daemon::Daemon;
use super::state::record::Phase;
use crate::host::usage::own_usage;

/// The text format's type, as Prometheus' documentation gives it.
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What is counted while the daemon works.
#[derive(Debug, Default)]
pub struct Metrics {
    operations: Mutex<BTreeMap<&'static str, Operation>>,
    /// Containers that the kernel killed for want of memory.
    pub oom: AtomicU64,
    /// Event streams that were closed because their reader was too slow.
    pub lagging: AtomicU64,
}

#[derive(Debug, Default, Clone, Copy)]
struct Operation {
    calls: u64,
    errors: u64,
    time: Duration,
}

impl Metrics {
    /// Counts one call of `rpc`.
    pub fn observe(&self, rpc: &'static str, took: Duration, failed: bool) {
        let mut operations = self
            .operations
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let operation = operations.entry(rpc).or_default();
        operation.calls += 1;
        operation.errors += u64::from(failed);
        operation.time += took;
    }

    fn operations(&self) -> BTreeMap<&'static str, Operation> {
        self.operations
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
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

/// One family of the text format.
struct Family<'a> {
    text: &'a mut String,
    name: &'a str,
}

impl<'a> Family<'a> {
    fn new(text: &'a mut String, name: &'a str, kind: &str, help: &str) -> Self {
        let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
        Self { text, name }
    }

    /// `suffix` follows the name; `label` is a key and a value that needs no escaping.
    fn line(&mut self, suffix: &str, label: Option<(&str, &str)>, value: impl Display) {
        let name = self.name;
        let _ = match label {
            Some((key, text)) => {
                writeln!(self.text, "{name}{suffix}{{{key}=\"{text}\"}} {value}")
            }
            None => writeln!(self.text, "{name}{suffix} {value}"),
        };
    }
}

/// Everything as of now, in Prometheus' text format.
pub fn render(daemon: &Daemon) -> String {
    let metrics = &daemon.metrics;
    let mut text = String::new();
    let operations = metrics.operations();
    let named: Vec<(String, Operation)> = operations
        .iter()
        .map(|(rpc, operation)| (cri_name(rpc), *operation))
        .collect();

    let mut family = Family::new(
        &mut text,
        "crio_operations_total",
        "counter",
        "Calls of the CRI, by RPC.",
    );
    for (rpc, operation) in &named {
        family.line("", Some(("operation", rpc)), operation.calls);
    }
    let mut family = Family::new(
        &mut text,
        "crio_operations_errors_total",
        "counter",
        "Calls of the CRI that were refused or failed, by RPC.",
    );
    for (rpc, operation) in named.iter().filter(|(_, operation)| operation.errors > 0) {
        family.line("", Some(("operation", rpc)), operation.errors);
    }
    let mut family = Family::new(
        &mut text,
        "crio_operations_latency_seconds_total",
        "summary",
        "Time from a call to its answer, by RPC.",
    );
    for (rpc, operation) in &named {
        let label = Some(("operation", rpc.as_str()));
        family.line("_sum", label, operation.time.as_secs_f64());
        family.line("_count", label, operation.calls);
    }
    Family::new(
        &mut text,
        "crio_containers_oom_total",
        "counter",
        "Containers that ended because memory was short.",
    )
    .line("", None, metrics.oom.load(Ordering::Relaxed));
    Family::new(
        &mut text,
        "ocid_lagging_event_streams_total",
        "counter",
        "Event streams closed because their reader was too slow.",
    )
    .line("", None, metrics.lagging.load(Ordering::Relaxed));
    population(daemon, &mut text);
    process(&mut text);
    text
}

fn population(daemon: &Daemon, text: &mut String) {
    let pods = daemon
        .sandboxes
        .all()
        .into_iter()
        .map(|pod| pod.now().phase);
    let (ready, rest): (Vec<_>, Vec<_>) = pods.partition(|phase| *phase == Phase::Created);
    let mut family = Family::new(text, "ocid_pods", "gauge", "Pods by state.");
    family.line("", Some(("state", "ready")), ready.len());
    family.line("", Some(("state", "notready")), rest.len());
    let containers = daemon.containers.all();
    let count = |fits: fn(Phase) -> bool| {
        let fitting = containers.iter().filter(|c| fits(c.now().phase));
        fitting.count()
    };
    let mut family = Family::new(text, "ocid_containers", "gauge", "Containers by state.");
    let created = count(|p| matches!(p, Phase::Creating | Phase::Created));
    family.line("", Some(("state", "created")), created);
    let running = count(|p| p == Phase::Running);
    family.line("", Some(("state", "running")), running);
    let exited = count(|p| matches!(p, Phase::Stopped | Phase::Removing));
    family.line("", Some(("state", "exited")), exited);
}

/// What Prometheus' client libraries tell of every process.
fn process(text: &mut String) {
    let usage = match own_usage() {
        Ok(usage) => usage,
        Err(error) => {
            tracing::warn!(%error, "what this process uses cannot be read");
            return;
        }
    };
    Family::new(
        text,
        "process_resident_memory_bytes",
        "gauge",
        "Resident memory of the daemon.",
    )
    .line("", None, usage.resident);
    Family::new(
        text,
        "process_open_fds",
        "gauge",
        "Files that the daemon has open.",
    )
    .line("", None, usage.open_files);
    Family::new(
        text,
        "process_cpu_seconds_total",
        "counter",
        "Processor time of the daemon.",
    )
    .line("", None, usage.cpu.as_secs_f64());
}

/// A listener of the metrics: TCP, and a unix socket where one is configured.
pub struct Listeners {
    tcp: TcpListener,
    unix: Option<UnixListener>,
}

/// Binds the address that the configuration names; None where metrics are off. `unix` listens already.
pub async fn listen(
    settings: &config::Metrics,
    unix: Option<UnixListener>,
) -> Result<Option<Listeners>, (PathBuf, io::Error)> {
    let Some(address) = settings.address() else {
        return Ok(None);
    };
    let named = |e| (PathBuf::from(address.to_string()), e);
    let tcp = TcpListener::bind(address).await.map_err(named)?;
    Ok(Some(Listeners { tcp, unix }))
}

/// Answers `GET /metrics` until the daemon stops.
pub fn serve(daemon: &Arc<Daemon>, listeners: Listeners) {
    let scraped = Arc::clone(daemon);
    let scrape = move || {
        let daemon = Arc::clone(&scraped);
        async move { ([(CONTENT_TYPE, TEXT)], render(&daemon)) }
    };
    let router = Router::new().route("/metrics", get(scrape));
    let stopping = || daemon.stopping.clone().cancelled_owned();
    let tcp = axum::serve(listeners.tcp, router.clone()).with_graceful_shutdown(stopping());
    tokio::spawn(async move {
        if let Err(error) = tcp.await {
            tracing::error!(%error, "metrics are no longer served");
        }
    });
    if let Some(unix) = listeners.unix {
        let unix = axum::serve(unix, router).with_graceful_shutdown(stopping());
        tokio::spawn(async move {
            if let Err(error) = unix.await {
                tracing::error!(%error, "metrics are no longer served on their socket");
            }
        });
    }
}

impl config::Metrics {
    /// Where to listen; None where metrics are off.
    fn address(&self) -> Option<SocketAddr> {
        let host = self.metrics_host.parse().ok()?;
        self.enable_metrics
            .then(|| SocketAddr::new(host, self.metrics_port))
    }
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
        let operations = metrics.operations();
        let run = operations["run_pod_sandbox"];
        assert_eq!((run.calls, run.errors), (2, 1));
        assert_eq!(run.time, Duration::from_millis(50));
        assert_eq!(operations["version"].errors, 0);
    }

    #[test]
    fn rpcs_are_named_as_the_cri_names_them() {
        assert_eq!(cri_name("port_forward"), "PortForward");
        assert_eq!(cri_name("version"), "Version");
        assert_eq!(cri_name(""), "");
    }
}
