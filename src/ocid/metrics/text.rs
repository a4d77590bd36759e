//! Everything that is counted, in Prometheus' text format.

use std::fmt::{Display, Write};
use std::sync::atomic::Ordering;

use super::{cri_name, lock};
use crate::host::usage::own_usage;
use crate::ocid::config;
use crate::ocid::daemon::Daemon;
use crate::ocid::state::record::Phase;

/// What CRI-O's names stand below.
const PREFIX: &str = "container_runtime_crio_";

/// The names, without prefix, by which `metrics_collectors` chooses. Figures of ocid's own and those of the
/// process are not among them: they are served always.
pub const COLLECTORS: [&str; 8] = [
    "operations_total",
    "operations_errors_total",
    "operations_latency_seconds",
    "operations_latency_seconds_total",
    "containers_oom_total",
    "containers_oom_count_total",
    "image_pulls_success_total",
    "image_pulls_failure_total",
];

/// One family of the text format.
struct Family<'a> {
    text: &'a mut String,
    name: String,
}

impl<'a> Family<'a> {
    fn new(text: &'a mut String, name: &str, kind: &str, help: &str) -> Self {
        let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
        Self {
            text,
            name: name.to_owned(),
        }
    }

    /// `suffix` follows the name; `label` is a key and a value.
    fn line(&mut self, suffix: &str, label: Option<(&str, &str)>, value: impl Display) {
        let name = &self.name;
        let _ = match label {
            Some((key, text)) => {
                let text = escaped(text);
                writeln!(self.text, "{name}{suffix}{{{key}=\"{text}\"}} {value}")
            }
            None => writeln!(self.text, "{name}{suffix} {value}"),
        };
    }
}

/// A label's value between quotes.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

/// Everything as of now that `settings` choose.
pub fn render(daemon: &Daemon, settings: &config::Metrics) -> String {
    let metrics = &daemon.metrics;
    let mut text = String::new();
    let operations = lock(&metrics.operations).clone();
    let named: Vec<_> = operations
        .iter()
        .map(|(rpc, operation)| (cri_name(rpc), *operation))
        .collect();
    // A family of CRI-O's, where it is wanted.
    let mut family = |name: &str, kind, help, lines: &dyn Fn(&mut Family<'_>)| {
        if settings.collects(name) {
            lines(&mut Family::new(
                &mut text,
                &format!("{PREFIX}{name}"),
                kind,
                help,
            ));
        }
    };
    family(
        "operations_total",
        "counter",
        "Calls of the CRI, by RPC.",
        &|family| {
            for (rpc, operation) in &named {
                family.line("", Some(("operation", rpc)), operation.calls);
            }
        },
    );
    family(
        "operations_errors_total",
        "counter",
        "Calls of the CRI that were refused or failed, by RPC.",
        &|family| {
            for (rpc, operation) in named.iter().filter(|(_, operation)| operation.errors > 0) {
                family.line("", Some(("operation", rpc)), operation.errors);
            }
        },
    );
    family(
        "operations_latency_seconds",
        "gauge",
        "Time from the last call to its answer, by RPC.",
        &|family| {
            for (rpc, operation) in &named {
                family.line("", Some(("operation", rpc)), operation.last.as_secs_f64());
            }
        },
    );
    family(
        "operations_latency_seconds_total",
        "summary",
        "Time from a call to its answer, by RPC.",
        &|family| {
            for (rpc, operation) in &named {
                let label = Some(("operation", rpc.as_str()));
                family.line("_sum", label, operation.time.as_secs_f64());
                family.line("_count", label, operation.calls);
            }
        },
    );
    family(
        "containers_oom_total",
        "counter",
        "Containers that ended because memory was short.",
        &|family| family.line("", None, metrics.oom.load(Ordering::Relaxed)),
    );
    family(
        "containers_oom_count_total",
        "counter",
        "Containers that ended because memory was short, by name.",
        &|family| {
            for (name, count) in lock(&metrics.oom_of).iter() {
                family.line("", Some(("name", name)), count);
            }
        },
    );
    family(
        "image_pulls_success_total",
        "counter",
        "Images that were pulled.",
        &|family| family.line("", None, metrics.pulled.load(Ordering::Relaxed)),
    );
    family(
        "image_pulls_failure_total",
        "counter",
        "Images that were not pulled, by the code of the answer.",
        &|family| {
            for (code, count) in lock(&metrics.not_pulled).iter() {
                family.line("", Some(("error", code)), count);
            }
        },
    );
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_values_are_escaped() {
        let mut text = String::new();
        let mut family = Family::new(&mut text, "x", "counter", "Help.");
        family.line("", Some(("name", "a\"b\\c\nd")), 1);
        let line = text.lines().last().unwrap();
        assert_eq!(line, r#"x{name="a\"b\\c\nd"} 1"#);
    }
}
