//! What the daemon is doing, for its log: counts, operations under way, what is being changed.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::daemon::Daemon;
use crate::host::usage::own_usage;

/// Lines, each with one kind of thing.
pub fn lines(daemon: &Daemon) -> Vec<String> {
    let mut pods = BTreeMap::<String, usize>::new();
    let mut containers = BTreeMap::<String, usize>::new();
    let mut busy = Vec::new();
    for pod in daemon.sandboxes.all() {
        let record = pod.now();
        *pods.entry(format!("{:?}", record.phase)).or_default() += 1;
        if pod.is_busy() {
            busy.push(format!("pod {} ({:?})", record.id, record.phase));
        }
    }
    for container in daemon.containers.all() {
        let record = container.now();
        *containers.entry(format!("{:?}", record.phase)).or_default() += 1;
        if container.is_busy() {
            busy.push(format!("container {} ({:?})", record.id, record.phase));
        }
    }
    let metrics = tokio::runtime::Handle::try_current().map(|handle| handle.metrics());
    let mut lines = vec![
        format!("pods: {pods:?}"),
        format!("containers: {containers:?}"),
        format!("operations under way: {}", daemon.tasks.len()),
        format!("names being made: {:?}", daemon.joined.names()),
        format!("being changed: {busy:?}"),
        format!("listeners to events: {}", daemon.events.listeners()),
    ];
    if let Ok(metrics) = metrics {
        lines.push(format!(
            "tasks: {} alive, {} waiting for a worker, of {} workers",
            metrics.num_alive_tasks(),
            metrics.global_queue_depth(),
            metrics.num_workers()
        ));
    }
    match own_usage() {
        Ok(usage) => lines.push(format!(
            "this process: {} bytes resident, {} files open, {:?} of processor time",
            usage.resident, usage.open_files, usage.cpu
        )),
        Err(error) => lines.push(format!("this process: {error}")),
    }
    lines
}

/// Writes them to the log.
pub fn write(daemon: &Arc<Daemon>) {
    for line in lines(daemon) {
        tracing::info!("dump: {line}");
    }
}
