//! Containers found again by a daemon that was restarted, or whose call was cut short, and those whose monitor
//! has died.

use std::io;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::create::{Created, read_record};
use super::{ExitRecord, Runtime, RuntimeError, exits};
use crate::host::clock;
use crate::host::inotify::FolderWatch;
use crate::host::process::{ProcessId, kill_family};
use crate::ocid::monitor::client;
use crate::ocid::monitor::protocol::{MonitorRecord, VERSION};

/// How long a monitor that has seen its container's end may take to record it before it is asked.
const RECORD_LIMIT: Duration = Duration::from_secs(3);
/// How long it may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// How long a killed process may take to be gone.
const KILL_LIMIT: Duration = Duration::from_secs(10);

/// What is left of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Adopted {
    /// Nobody looks after it and it never came to be. `delete` it with force and remove its folders.
    Absent,
    /// Created, not started.
    Created(Created),
    Running(Created),
    Exited(ExitRecord),
    /// Its monitor died, so nobody reads its output or will know its exit code. The first process may still run.
    /// See [`Runtime::bury`].
    Abandoned(Created),
}

impl Runtime {
    /// Finds out what is left of a container, from its bundle and the exits folder alone. Waits for a monitor that
    /// is in the middle of creating or recording.
    pub async fn adopt(
        &self,
        id: &str,
        bundle: &Path,
        exits_dir: &Path,
    ) -> Result<Adopted, RuntimeError> {
        let io = |what| {
            move |source| RuntimeError::Io {
                what,
                id: id.to_owned(),
                source,
            }
        };
        let exit = || exits::read_record(exits_dir, id).map_err(io("read the exit record"));
        if let Some(record) = exit()? {
            return Ok(Adopted::Exited(record));
        }
        let read = || read_record(bundle).map_err(io("read the monitor's record"));
        let Some(mut record) = read()? else {
            return Ok(Adopted::Absent);
        };
        if record.init.is_none() {
            match self.created(id, bundle, &record).await? {
                Some(new) => record = new,
                None => return Ok(Adopted::Absent),
            }
        }
        let Some(init) = record.init else {
            return Ok(Adopted::Absent);
        };
        let created = Created {
            init,
            monitor: record.monitor,
        };
        if init.is_running() && record.monitor.is_running() {
            return Ok(if self.is_started(id).await? {
                Adopted::Running(created)
            } else {
                Adopted::Created(created)
            });
        }
        // One of the two is over. If it is the container, the monitor is about to say how.
        if !init.is_running() && !wait(&record.monitor, RECORD_LIMIT).await? {
            // It has trouble writing the record, but it knows what would stand in it.
            if let Ok(mut client) = client::connect(bundle).await
                && let (_, Some(exit)) = client.status(ANSWER_LIMIT).await?
            {
                return Ok(Adopted::Exited(exit));
            }
        }
        Ok(match exit()? {
            Some(record) => Adopted::Exited(record),
            None => Adopted::Abandoned(created),
        })
    }

    /// Waits for a monitor that is creating its container, and answers its new record; `None` when it failed or is
    /// gone, and then nothing that it started runs any more.
    async fn created(
        &self,
        id: &str,
        bundle: &Path,
        record: &MonitorRecord,
    ) -> Result<Option<MonitorRecord>, RuntimeError> {
        let io = |what| {
            move |source| RuntimeError::Io {
                what,
                id: id.to_owned(),
                source,
            }
        };
        let mut watch = FolderWatch::new(bundle).map_err(io("watch the bundle"))?;
        let read = || read_record(bundle).map_err(io("read the monitor's record"));
        let deadline = tokio::time::Instant::now() + self.create_limit + ANSWER_LIMIT;
        let monitor = match record.monitor.open() {
            Ok(monitor) => Some(monitor),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(io("look for the monitor")(e)),
        };
        while let Some(monitor) = &monitor {
            match read()? {
                Some(new) if new.init.is_some() => return Ok(Some(new)),
                _ => {}
            }
            tokio::select! {
                change = watch.next() => drop(change.map_err(io("watch the bundle"))?),
                ended = monitor.exited() => {
                    ended.map_err(io("wait for the monitor"))?;
                    break;
                }
                () = tokio::time::sleep_until(deadline) => {
                    return Err(RuntimeError::Failed {
                        action: "adopt",
                        id: id.to_owned(),
                        message: "its monitor is still creating it".to_owned(),
                    });
                }
            }
        }
        if let Some(new) = read()?.filter(|new| new.init.is_some()) {
            return Ok(Some(new));
        }
        // Killed, it may have left the runtime at work: in its session, whose number is free for others only when
        // the session is empty.
        let pid = record.monitor.pid;
        let ours = match ProcessId::of(pid) {
            Ok(now) => now == record.monitor,
            Err(e) => e.kind() == io::ErrorKind::NotFound,
        };
        if ours {
            kill_family(pid, Some(pid)).map_err(io("kill what a lost monitor left behind"))?;
        }
        Ok(None)
    }

    /// Waits until the monitor has ended: after a normal end there is an exit record, else see
    /// [`Runtime::bury`].
    pub async fn monitor_ended(&self, monitor: &ProcessId) -> io::Result<()> {
        match monitor.open() {
            Ok(fd) => fd.exited().await,
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// Ends a container whose monitor has died and writes its exit record: nobody takes its output any more (it
    /// would stop at a full pipe or die by SIGPIPE at a random moment) and its true exit code is lost. The
    /// record says 137 with `monitor_lost`, or repeats what the monitor managed to write.
    pub async fn bury(
        &self,
        id: &str,
        created: &Created,
        exits_dir: &Path,
    ) -> Result<ExitRecord, RuntimeError> {
        let io = |what| {
            move |source| RuntimeError::Io {
                what,
                id: id.to_owned(),
                source,
            }
        };
        if let Some(record) =
            exits::read_record(exits_dir, id).map_err(io("read the exit record"))?
        {
            return Ok(record);
        }
        self.signal(&created.init, Signal::SIGKILL as i32)
            .map_err(io("kill the first process"))?;
        if !wait(&created.init, KILL_LIMIT).await? {
            return Err(RuntimeError::Failed {
                action: "kill",
                id: id.to_owned(),
                message: format!("its first process did not end within {KILL_LIMIT:?}"),
            });
        }
        let record = ExitRecord {
            version: VERSION,
            id: id.to_owned(),
            exit_code: 128 + Signal::SIGKILL as i32,
            signal: Some(Signal::SIGKILL as i32),
            finished_at: clock::now_ns(),
            oom_killed: false,
            monitor_lost: true,
        };
        exits::write_record(exits_dir, &record).map_err(io("write the exit record"))?;
        Ok(record)
    }

    /// Has the container's own process been started? runc and crun keep a fifo in their state that `start`
    /// removes; another runtime is asked.
    pub async fn is_started(&self, id: &str) -> Result<bool, RuntimeError> {
        let state = self.oci.root.join(id);
        if state.join("state.json").exists() {
            return Ok(!state.join("exec.fifo").exists());
        }
        let output = self.run("look at", id, &["state", id]).await?;
        #[derive(serde::Deserialize)]
        struct State {
            status: String,
        }
        let state: State =
            serde_json::from_slice(&output.stdout).map_err(|e| RuntimeError::Io {
                what: "read the state",
                id: id.to_owned(),
                source: e.into(),
            })?;
        Ok(state.status != "created")
    }
}

/// Waits for a process to end; false when the time is over first.
async fn wait(process: &ProcessId, limit: Duration) -> Result<bool, RuntimeError> {
    let io = |source| RuntimeError::Io {
        what: "wait for a process",
        id: process.pid.to_string(),
        source,
    };
    let fd = match process.open() {
        Ok(fd) => fd,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(true),
        Err(e) => return Err(io(e)),
    };
    match tokio::time::timeout(limit, fd.exited()).await {
        Ok(ended) => ended.map(|()| true).map_err(io),
        Err(_) => Ok(false),
    }
}
