//! What the daemon and its monitors say to each other, and the records that a monitor leaves.
//!
//! A daemon meets monitors of older builds: those started before an upgrade. So every document carries a
//! version, fields are only ever added (with a default), and a meaning is never changed without a new number.
//!
//! - An [`Order`] goes to the new process on descriptor 0, a socket whose writing half is then shut down; one
//!   [`Reply`] line comes back on it.
//! - [`MonitorRecord`] stands in the bundle from before the monitor has its order: the daemon writes it, so that
//!   after a crash no monitor can be at work that nobody knows of. [`ExitRecord`] stands in the exits folder
//!   once the container is gone and its log complete.
//! - [`Request`] and [`Answer`] are one JSON line each over `monitor.sock` in the bundle; the first exchange
//!   is `hello`.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::host::process::ProcessId;

/// The version of the documents that this build writes.
pub const VERSION: u32 = 1;
/// Files in the bundle.
pub const RECORD: &str = "monitor.json";
pub const SOCKET: &str = "monitor.sock";
pub const LOG: &str = "monitor.log";
pub const CONSOLE: &str = "console.sock";
pub const PIDFILE: &str = "pidfile";
pub const RUNTIME_LOG: &str = "runc.log";
/// The longest request or answer line, bytes.
pub const LINE_MAX: usize = 4096;

/// Bytes before each piece of output that goes to an attached client.
pub const ATTACHED_HEAD: usize = 3;
/// The channel of the last piece, which is empty: without it the client was let go.
pub const ATTACHED_END: u8 = 0;

/// How the OCI runtime is called.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OciRuntime {
    pub path: PathBuf,
    /// Its state folder (`--root`).
    pub root: PathBuf,
    pub systemd_cgroup: bool,
    /// Containers are entered without pivot_root(2).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub no_pivot: bool,
}

impl OciRuntime {
    /// The options that stand before the command.
    pub fn global_args(&self) -> Vec<String> {
        let mut args = vec![
            "--root".to_owned(),
            self.root.to_string_lossy().into_owned(),
            "--log-format".to_owned(),
            "json".to_owned(),
        ];
        if self.systemd_cgroup {
            args.push("--systemd-cgroup".to_owned());
        }
        args
    }
}

/// What a new monitor is to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    pub version: u32,
    pub job: Job,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Job {
    /// Create a container and look after it to its end.
    Container(Box<ContainerJob>),
    /// Run one process in a container and report its end.
    Exec(Box<ExecJob>),
    /// Run one process in a container for a client that watches it.
    Session(Box<SessionJob>),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerJob {
    pub runtime: OciRuntime,
    pub id: String,
    pub bundle: PathBuf,
    pub exits_dir: PathBuf,
    pub log_path: Option<PathBuf>,
    /// The log starts anew rather than grow past this many bytes.
    pub log_size_max: Option<u64>,
    pub journal: Option<Journal>,
    pub tty: bool,
    /// Keep the container's input open for whoever attaches; else it reads the end of the file at once.
    pub stdin: bool,
    /// The input ends with the first who attached.
    pub stdin_once: bool,
    /// The soft limit of open files to go back to before anything is started.
    pub open_files: Option<u64>,
    /// The runtime is killed when `create` takes longer, milliseconds.
    pub create_limit_ms: u64,
    /// See [`crate::ocid::failpoint`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failpoint: Option<String>,
    /// User and group that the container's ends of its pipes are given to; else they stay ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<(u32, u32)>,
}

/// Where and with which fields lines go to the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Journal {
    pub socket: PathBuf,
    pub fields: Vec<(String, String)>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecJob {
    pub runtime: OciRuntime,
    pub id: String,
    /// An own folder of this exec with `process.json`; its pidfile and the runtime's log go there.
    pub folder: PathBuf,
    pub limit_ms: Option<u64>,
    pub open_files: Option<u64>,
    /// A cgroup of its own; absent where there can be none.
    #[serde(default)]
    pub cgroup: Option<ExecCgroup>,
    /// As in [`ContainerJob`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<(u32, u32)>,
}

/// Where what is exec'd is kept together: a cgroup below the container's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecCgroup {
    /// To be made for this exec.
    pub folder: PathBuf,
    /// What the runtime is told (`exec --cgroup`). Absent where it cannot be told: then the process is moved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub argument: Option<String>,
}

/// The writing end of the process' input, or the master of its terminal, comes before the reply, on a byte of
/// its own. A hang-up of the start-up socket ends the process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionJob {
    pub runtime: OciRuntime,
    pub id: String,
    /// As in [`ExecJob`].
    pub folder: PathBuf,
    pub tty: bool,
    /// Without a terminal: is there input? Else the process reads the end of the file at once.
    pub stdin: bool,
    pub open_files: Option<u64>,
    /// As in [`ExecJob`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<ExecCgroup>,
    /// As in [`ContainerJob`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<(u32, u32)>,
}

/// The one line that a monitor answers on its start-up socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    Created {
        init: ProcessId,
        monitor: ProcessId,
    },
    /// Nothing is left of it. The message is the OCI runtime's own where it gave one.
    Failed {
        message: String,
    },
    /// An exec'd process ended; 128 + the signal's number where one ended it.
    Exited {
        exit_code: i32,
    },
    /// An exec'd process was killed, with its children, when its time was over.
    TimedOut,
}

/// `monitor.json` in the bundle: who looks after the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MonitorRecord {
    pub version: u32,
    pub monitor: ProcessId,
    /// The container's first process; absent until the runtime has created it.
    pub init: Option<ProcessId>,
}

/// `EXITS/ID.json`: how a container ended. It is there only after its log is complete.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    pub version: u32,
    pub id: String,
    /// 128 + the signal's number where one ended it.
    pub exit_code: i32,
    pub signal: Option<i32>,
    /// Nanoseconds since the epoch.
    pub finished_at: i64,
    /// The kernel killed a process of this container for want of memory.
    pub oom_killed: bool,
    /// The monitor died before the container did: the code is not the container's own.
    #[serde(default)]
    pub monitor_lost: bool,
}

impl ExitRecord {
    pub fn path(exits_dir: &Path, id: &str) -> PathBuf {
        exits_dir.join(format!("{id}.json"))
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// The version that the client would like to speak.
    Hello {
        version: u32,
    },
    /// Answered only once the container has been created.
    Status,
    /// Go on in a new file at the log's path.
    ReopenLog,
    Resize {
        columns: u16,
        rows: u16,
    },
    /// After the answer this connection carries the container's streams: inward, bytes for its input, until the
    /// client shuts that half down; outward, pieces of output, each behind a head of [`ATTACHED_HEAD`] bytes: the
    /// channel (1 stdout, 2 stderr, [`ATTACHED_END`] the container has ended) and the length, high byte first.
    Attach {
        stdin: bool,
        stdout: bool,
        stderr: bool,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// The version that the monitor speaks.
    Hello {
        version: u32,
    },
    Status {
        record: MonitorRecord,
        exit: Option<ExitRecord>,
    },
    Done,
    Attached,
    Refused {
        message: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What version 1 wrote stays readable for ever; these texts are never edited.
    #[test]
    fn version_1_is_readable() {
        let order = r#"{"version":1,"job":{"container":{"runtime":{"path":"/usr/bin/runc","root":"/run/ocid/runc","systemd_cgroup":false},"id":"a","bundle":"/b","exits_dir":"/e","log_path":null,"log_size_max":null,"journal":{"socket":"/s","fields":[["A","b"]]},"tty":false,"stdin":false,"stdin_once":false,"open_files":1024,"create_limit_ms":1000}}}"#;
        let parsed: Order = serde_json::from_str(order).unwrap();
        assert_eq!(serde_json::to_string(&parsed).unwrap(), order);
        let exit = r#"{"version":1,"id":"a","exit_code":137,"signal":9,"finished_at":5,"oom_killed":true}"#;
        let parsed: ExitRecord = serde_json::from_str(exit).unwrap();
        assert!(parsed.oom_killed && !parsed.monitor_lost && parsed.signal == Some(9));
        let record = r#"{"version":1,"monitor":{"pid":2,"start_time":3},"init":null}"#;
        assert!(
            serde_json::from_str::<MonitorRecord>(record)
                .unwrap()
                .init
                .is_none()
        );
        let lines = [
            r#"{"hello":{"version":1}}"#,
            r#""status""#,
            r#""reopen_log""#,
        ];
        for line in lines {
            let request: Request = serde_json::from_str(line).unwrap();
            assert_eq!(serde_json::to_string(&request).unwrap(), line);
        }
        let lines = [
            r#"{"created":{"init":{"pid":4,"start_time":5},"monitor":{"pid":2,"start_time":3}}}"#,
            r#"{"failed":{"message":"no"}}"#,
            r#"{"exited":{"exit_code":3}}"#,
            r#""timed_out""#,
        ];
        for line in lines {
            let reply: Reply = serde_json::from_str(line).unwrap();
            assert_eq!(serde_json::to_string(&reply).unwrap(), line);
        }
    }

    #[test]
    fn a_field_of_a_later_version_is_no_error() {
        let exit = r#"{"version":2,"id":"a","exit_code":0,"signal":null,"finished_at":5,"oom_killed":false,"pages":1}"#;
        serde_json::from_str::<ExitRecord>(exit).unwrap();
    }
}
