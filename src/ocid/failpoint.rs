//! Points at which a test ends, stops or fails this process, one at every stage of every call that
//! changes something. They are in the release binary, since that is what is tested; without
//! `OCID_FAILPOINT` in its environment a daemon reads one word of memory per point.
//!
//! `OCID_FAILPOINT=NAME=ACTION`, NAME one of [`Point::ALL`], at the daemon's start, as root:
//!
//! - `abort`: the process that reaches the point is killed with SIGKILL, as a crash would end it;
//! - `pause`: whoever reaches it waits there until the daemon gets SIGUSR1;
//! - `error`: the operation fails there.
//!
//! Points called `monitor.*` are the monitor's: the daemon hands the order on.

use std::io;
use std::sync::{Condvar, Mutex, OnceLock, PoisonError};

use super::error::Error;

macro_rules! points {
    ($($(#[$doc:meta])* $point:ident = $name:literal;)*) => {
        /// A stage that is over when its point is reached.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Point {
            $($(#[$doc])* $point,)*
        }

        impl Point {
            pub const ALL: &[Self] = &[$(Self::$point,)*];

            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$point => $name,)*
                }
            }
        }
    };
}

points! {
    /// RunPodSandbox: the name is taken.
    PodReserved = "run-pod.reserved";
    /// The record says that it is being made.
    PodRecorded = "run-pod.recorded";
    PodPinned = "run-pod.pinned";
    /// ADD has answered and no record says so.
    PodAttached = "run-pod.attached";
    PodCgroup = "run-pod.cgroup";
    /// The pause process runs and no record says so.
    PodPaused = "run-pod.paused";
    PodFiles = "run-pod.files";
    /// The record says so; not yet durably.
    PodCreated = "run-pod.created";
    PodCommitted = "run-pod.committed";

    StopPodBegun = "stop-pod.begun";
    /// Every container has ended.
    StopPodKilled = "stop-pod.killed";
    /// DEL has answered.
    StopPodDetached = "stop-pod.detached";
    /// Nothing of it is held any more and the record calls it ready.
    StopPodReleased = "stop-pod.released";
    StopPodStopped = "stop-pod.stopped";

    RemovePodMarked = "remove-pod.marked";
    /// Its containers are removed.
    RemovePodEmptied = "remove-pod.emptied";
    RemovePodReleased = "remove-pod.released";
    RemovePodFiles = "remove-pod.files";
    /// The record is gone, too.
    RemovePodGone = "remove-pod.gone";

    /// CreateContainer: the name is taken.
    CreateReserved = "create.reserved";
    CreateRecorded = "create.recorded";
    CreateMounted = "create.mounted";
    /// `config.json` is written.
    CreateSpecified = "create.specified";
    /// The monitor runs, known by its record, and waits for its order.
    CreateMonitor = "create.monitor";
    CreateOrdered = "create.ordered";
    /// The monitor has answered.
    CreateMade = "create.made";
    CreateNoted = "create.noted";
    CreateCommitted = "create.committed";

    /// StartContainer: the record says that it runs; the runtime has not been called.
    StartNoted = "start.noted";
    StartStarted = "start.started";

    /// StopContainer: the stop signal is sent.
    StopSignalled = "stop.signalled";
    /// The grace period is over.
    StopOverdue = "stop.overdue";
    /// SIGKILL is sent.
    StopKilled = "stop.killed";

    /// The end of a container: its exit record is read.
    EndRead = "end.read";
    EndNoted = "end.noted";
    /// The runtime's state and the cgroup are given back.
    EndDeleted = "end.deleted";
    EndReleased = "end.released";

    /// UpdateContainerResources: the kernel has the new limits, the record the old ones.
    UpdateApplied = "update.applied";
    UpdateNoted = "update.noted";

    /// CheckpointContainer: the record says that it is frozen.
    CheckpointNoted = "checkpoint.noted";
    CheckpointFrozen = "checkpoint.frozen";
    /// criu has written its images.
    CheckpointDumped = "checkpoint.dumped";
    /// Everything is collected; the container is frozen still.
    CheckpointCollected = "checkpoint.collected";
    /// It runs again, and the record says so.
    CheckpointThawed = "checkpoint.thawed";
    /// The archive is whole and has no name.
    CheckpointArchived = "checkpoint.archived";
    CheckpointPlaced = "checkpoint.placed";

    /// ReopenContainerLog: the monitor has answered.
    LogReopened = "reopen-log.reopened";

    /// UpdatePodSandboxResources: the kernel has the new limits, the record the old ones.
    UpdatePodApplied = "update-pod.applied";
    UpdatePodNoted = "update-pod.noted";

    /// UpdateRuntimeConfig: the file is written.
    ConfigWritten = "runtime-config.written";

    RemoveMarked = "remove.marked";
    RemoveReleased = "remove.released";
    RemoveBundle = "remove.bundle";
    RemoveExit = "remove.exit";
    /// Its files and its lease are gone, the record is there.
    RemoveFiles = "remove.files";
    RemoveGone = "remove.gone";

    /// PullImage: manifest and configuration are here.
    PullResolved = "pull.resolved";
    /// A layer is unpacked and not in its place.
    PullUnpacked = "pull.unpacked";
    PullPlaced = "pull.placed";
    /// Every layer stands, durably.
    PullDurable = "pull.durable";
    /// The record is written; another image may have the same tag.
    PullRecorded = "pull.recorded";
    PullCommitted = "pull.committed";

    /// RemoveImage: the record has lost a name.
    RemoveImageRenamed = "remove-image.renamed";
    RemoveImageForgotten = "remove-image.forgotten";
    /// Its layers are out of the store, their files still there.
    RemoveImageWithdrawn = "remove-image.withdrawn";
    RemoveImageGone = "remove-image.gone";

    /// The monitor has its order.
    MonitorOrdered = "monitor.ordered";
    /// The runtime has created the container and no record says so.
    MonitorCreated = "monitor.created";
    MonitorRecorded = "monitor.recorded";
    MonitorAnswered = "monitor.answered";
    /// The container has ended, its log is complete.
    MonitorEnded = "monitor.ended";
    /// The exit record is written.
    MonitorWritten = "monitor.written";
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Abort,
    Pause,
    Error,
}

/// The environment variable.
pub const VARIABLE: &str = "OCID_FAILPOINT";

static ARMED: OnceLock<(Point, Action)> = OnceLock::new();
static OPEN: Mutex<bool> = Mutex::new(false);
static OPENED: Condvar = Condvar::new();

/// An order that is none.
#[derive(Debug, thiserror::Error)]
#[error("`{VARIABLE}` is `{0}`, not `POINT=abort|pause|error`")]
pub struct BadOrder(String);

/// Arms one point of this process.
pub fn arm(order: &str) -> Result<(), BadOrder> {
    let bad = || BadOrder(order.to_owned());
    let (name, action) = order.split_once('=').ok_or_else(bad)?;
    let mut all = Point::ALL.iter();
    let point = all.find(|p| p.name() == name).ok_or_else(bad)?;
    let action = match action {
        "abort" => Action::Abort,
        "pause" => Action::Pause,
        "error" => Action::Error,
        _ => return Err(bad()),
    };
    // A second order, which nobody gives, changes nothing.
    let _ = ARMED.set((*point, action));
    Ok(())
}

/// Arms what the environment asks for, if we are root; true if it asks for anything.
pub fn arm_from_environment() -> Result<bool, BadOrder> {
    let Some(order) = std::env::var_os(VARIABLE) else {
        return Ok(false);
    };
    if !nix::unistd::geteuid().is_root() {
        return Ok(false);
    }
    let order = order.to_string_lossy();
    arm(&order)?;
    tracing::warn!(%order, "a failpoint is armed: this daemon is under test");
    Ok(true)
}

/// The order for a monitor, where a point of its is armed.
pub fn for_monitor() -> Option<String> {
    let (point, action) = ARMED.get()?;
    let action = match action {
        Action::Abort => "abort",
        Action::Pause => "pause",
        Action::Error => "error",
    };
    let name = point.name();
    name.starts_with("monitor.")
        .then(|| format!("{name}={action}"))
}

/// Lets go whoever is paused, and lets through whoever comes later.
pub fn open() {
    *OPEN.lock().unwrap_or_else(PoisonError::into_inner) = true;
    OPENED.notify_all();
}

/// Reaches a point in code that may block.
pub fn reach(point: Point) -> io::Result<()> {
    match ARMED.get() {
        Some((armed, action)) if *armed == point => act(point, *action),
        _ => Ok(()),
    }
}

/// Reaches a point in async code.
pub async fn pass(point: Point) -> Result<(), Error> {
    let failed = || Error::io("go on at the failpoint", point.name());
    match ARMED.get() {
        Some((armed, Action::Pause)) if *armed == point => {
            let paused = tokio::task::spawn_blocking(move || reach(point));
            let paused = paused.await.unwrap_or_else(|e| Err(io::Error::other(e)));
            paused.map_err(failed())
        }
        Some(_) => reach(point).map_err(failed()),
        None => Ok(()),
    }
}

#[cold]
fn act(point: Point, action: Action) -> io::Result<()> {
    match action {
        Action::Abort => loop {
            // Not an exit: nothing that runs at an exit may run.
            let _ = nix::sys::signal::kill(nix::unistd::getpid(), nix::sys::signal::SIGKILL);
        },
        Action::Pause => {
            let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
            if !*open {
                tracing::info!(point = point.name(), "paused");
            }
            while !*open {
                open = OPENED.wait(open).unwrap_or_else(PoisonError::into_inner);
            }
            Ok(())
        }
        Action::Error => Err(io::Error::other("it is armed")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_told_apart_and_orders_checked() {
        let names: BTreeSet<&str> = Point::ALL.iter().map(|p| p.name()).collect();
        assert_eq!(names.len(), Point::ALL.len());
        for bad in [
            "",
            "create.made",
            "create.made=",
            "create.made=run",
            "x=abort",
        ] {
            let error = arm(bad).unwrap_err().to_string();
            assert!(error.contains(&format!("is `{bad}`")), "{error}");
        }
        // Nothing is armed in the tests' own process.
        assert!(Point::ALL.iter().all(|p| reach(*p).is_ok()));
        assert_eq!(for_monitor(), None);
    }
}
