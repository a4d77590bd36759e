//! Creating a container: a monitor is started and calls the runtime, so that from its first moment the
//! container is a child of the monitor and not of the daemon.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::process::Child;

use super::{Runtime, RuntimeError};
use crate::host::process::{ProcessId, kill_family};
use crate::host::{fs as host_fs, spawn};
use crate::ocid::failpoint::{self, Point};
use crate::ocid::monitor::protocol::{
    ContainerJob, ExitRecord, Job, Journal, LINE_MAX, LOG, MonitorRecord, Order, RECORD, Reply,
    VERSION,
};
use crate::ocid::monitor::{last_line, record};
use crate::ocid::state::record::check;

/// journald's socket for native datagrams.
pub const JOURNAL_SOCKET: &str = "/run/systemd/journal/socket";
/// How much longer than the runtime a monitor may take to answer.
const GRACE: Duration = Duration::from_secs(60);
/// A reply larger than this is none.
const REPLY_MAX: u64 = 64 * 1024;

/// A container to be created from a bundle that stands ready (`config.json`, root file system mounted).
#[derive(Debug, Clone)]
pub struct CreateRequest {
    pub id: String,
    /// Also the place of the monitor's own files.
    pub bundle: PathBuf,
    /// Absolute; its folder must exist. The file exists when `create` returns.
    pub log_path: Option<PathBuf>,
    pub tty: bool,
    pub stdin: bool,
    pub stdin_once: bool,
    /// Bytes; the log starts anew rather than grow past this.
    pub log_size_max: Option<u64>,
    /// Lines also go to the journal, with these names.
    pub journal: Option<JournalTags>,
    /// Where the exit record will be written; must exist.
    pub exits_dir: PathBuf,
    /// User and group that the container's stdio is given to; else it stays ours.
    pub owner: Option<(u32, u32)>,
}

/// Whose lines they are, for the journal's fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalTags {
    pub pod_name: String,
    pub pod_namespace: String,
    pub pod_id: String,
    pub container_name: String,
    pub container_id: String,
    /// [`JOURNAL_SOCKET`] unless a test has its own.
    pub socket: PathBuf,
}

/// The two processes of a container that has been created.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Created {
    pub init: ProcessId,
    pub monitor: ProcessId,
}

impl JournalTags {
    fn fields(&self) -> Journal {
        let short: String = self.container_id.chars().take(12).collect();
        let pairs = [
            ("SYSLOG_IDENTIFIER", self.container_name.as_str()),
            ("CONTAINER_ID", &short),
            ("CONTAINER_ID_FULL", &self.container_id),
            ("CONTAINER_NAME", &self.container_name),
            ("POD_ID", &self.pod_id),
            ("POD_NAME", &self.pod_name),
            ("POD_NAMESPACE", &self.pod_namespace),
        ];
        Journal {
            socket: self.socket.clone(),
            fields: pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).to_vec(),
        }
    }
}

impl Runtime {
    /// Creates the container and answers when it stands ready to be started. On an error nothing is left of it;
    /// where the runtime refused, the error holds its own words. A caller who gives up in the middle leaves a
    /// monitor that finishes its work; [`Runtime::adopt`] finds it.
    pub async fn create(&self, r: &CreateRequest) -> Result<Created, RuntimeError> {
        let order = Job::Container(Box::new(ContainerJob {
            runtime: self.oci.clone(),
            id: r.id.clone(),
            bundle: r.bundle.clone(),
            exits_dir: r.exits_dir.clone(),
            log_path: r.log_path.clone(),
            log_size_max: r.log_size_max,
            journal: r.journal.as_ref().map(JournalTags::fields),
            tty: r.tty,
            stdin: r.stdin,
            stdin_once: r.stdin_once,
            open_files: self.open_files.map(|(soft, _)| soft),
            owner: r.owner,
            create_limit_ms: u64::try_from(self.create_limit.as_millis()).unwrap_or(u64::MAX),
            failpoint: failpoint::for_monitor(),
        }));
        let io = |what| {
            move |source| RuntimeError::Io {
                what,
                id: r.id.clone(),
                source,
            }
        };
        // An exit record of an earlier attempt with this id would be taken for this one's.
        record::remove(&ExitRecord::path(&r.exits_dir, &r.id))
            .map_err(io("remove an old exit record"))?;
        let log_path = r.bundle.join(LOG);
        let log = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&log_path)
            .map_err(io("open the monitor's log"))?;
        // Known before it can do anything: whoever finds a bundle without a record finds no container either.
        let known = |monitor| {
            let record = MonitorRecord {
                version: VERSION,
                monitor,
                init: None,
            };
            record::write(&r.bundle.join(RECORD), &record)?;
            failpoint::reach(Point::CreateMonitor)
        };
        let started = self
            .launch(&r.id, order, [Stdio::null(), Stdio::from(log)], known)
            .await?;
        let Launched { mut child, socket } = started;
        failpoint::reach(Point::CreateOrdered).map_err(io("go on with the creation"))?;
        let answered = tokio::time::timeout(self.create_limit + GRACE, answer(socket)).await;
        let outcome = match answered {
            Ok(Ok(Some(Reply::Created { init, monitor }))) => Ok(Created { init, monitor }),
            Ok(Ok(Some(Reply::Failed { message }))) => {
                // It has nothing left to do; who asks what is left should not find the monitor either.
                let _ = tokio::time::timeout(GRACE, child.wait()).await;
                Err(RuntimeError::from_message("create", &r.id, message))
            }
            Ok(Ok(_)) => Err(self.lost(r, &mut child, last_words(&log_path)).await),
            Ok(Err(e)) => Err(self.lost(r, &mut child, e.to_string()).await),
            Err(_) => {
                let message = "it did not answer in time".to_owned();
                Err(self.lost(r, &mut child, message).await)
            }
        };
        // Reaped when it ends, however long that takes.
        tokio::spawn(async move { child.wait().await });
        outcome
    }

    /// Clears up after a monitor that did not answer; answers the error to report.
    async fn lost(&self, r: &CreateRequest, child: &mut Child, message: String) -> RuntimeError {
        // The monitor leads a session. It is not reaped yet, so its pid cannot be another's. The runtime it may
        // have left behind would create the container after we have looked.
        let monitor = child.id().and_then(|pid| i32::try_from(pid).ok());
        if let Some(pid) = monitor {
            let killed = child
                .start_kill()
                .and_then(|()| kill_family(pid, Some(pid)).map(drop));
            if let Err(e) = killed {
                tracing::warn!(id = r.id, error = %e, "kill what a lost monitor left behind");
            }
        }
        if let Err(e) = self.delete(&r.id, true).await {
            tracing::warn!(id = r.id, error = %e, "delete what a lost monitor left behind");
        }
        if let Err(e) = record::remove(&r.bundle.join(RECORD)) {
            tracing::warn!(id = r.id, error = %e, "remove a lost monitor's record");
        }
        RuntimeError::MonitorLost {
            id: r.id.clone(),
            message,
        }
    }

    /// Starts `ocid monitor`, makes it known, and only then gives it its order.
    pub(super) async fn launch(
        &self,
        id: &str,
        job: Job,
        [stdout, stderr]: [Stdio; 2],
        known: impl FnOnce(ProcessId) -> io::Result<()>,
    ) -> Result<Launched, RuntimeError> {
        let failed = |source| RuntimeError::Spawn {
            id: id.to_owned(),
            exe: self.exe.clone(),
            source,
        };
        let order = Order {
            version: VERSION,
            job,
        };
        let text = serde_json::to_vec(&order).map_err(|e| failed(e.into()))?;
        let (ours, theirs) = StdUnixStream::pair().map_err(failed)?;
        ours.set_nonblocking(true).map_err(failed)?;
        let mut socket = UnixStream::from_std(ours).map_err(failed)?;
        let child = spawn::own_face(&self.exe, "monitor", OwnedFd::from(theirs), stdout, stderr)
            .map_err(failed)?;
        // On an error the socket closes, and a monitor without an order ends.
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
        let id = pid.ok_or(io::ErrorKind::NotFound.into());
        id.and_then(ProcessId::of).and_then(known).map_err(failed)?;
        // One that dies before it has read all of it says so by the missing answer.
        if socket.write_all(&text).await.is_ok() {
            let _ = socket.shutdown().await;
        }
        Ok(Launched { child, socket })
    }
}

/// A monitor with its order.
pub(super) struct Launched {
    pub child: Child,
    pub socket: UnixStream,
}

/// The reply; `None` when the monitor ended without one.
pub(super) async fn answer(socket: UnixStream) -> io::Result<Option<Reply>> {
    let mut line = Vec::new();
    match socket.take(REPLY_MAX).read_to_end(&mut line).await {
        Err(e) if e.kind() != io::ErrorKind::ConnectionReset => Err(e),
        _ if line.is_empty() => Ok(None),
        _ => Ok(Some(serde_json::from_slice(&line)?)),
    }
}

/// The last line in a monitor's log.
fn last_words(log: &Path) -> String {
    std::fs::read(log)
        .ok()
        .and_then(|text| last_line(&text))
        .unwrap_or_else(|| "it was killed".to_owned())
}

/// The record of who looks after the container in this bundle; `None` when there is none.
pub(super) fn read_record(bundle: &Path) -> io::Result<Option<MonitorRecord>> {
    match host_fs::read_capped(&bundle.join(RECORD), LINE_MAX as u64) {
        Ok(text) => {
            let record: MonitorRecord = serde_json::from_slice(&text)?;
            check(record.version, VERSION)?;
            Ok(Some(record))
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}
