//! Running a command in a container and taking its output (`ExecSync`).

use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use oci_spec::runtime::Process;
use tokio::io::{AsyncRead, AsyncReadExt};

use super::create::{Launched, answer};
use super::{Runtime, RuntimeError};
use crate::ocid::monitor::protocol::{ExecCgroup, ExecJob, Job, Reply};

/// Output past this is read and dropped (what the CRI's callers expect of one message).
pub const OUTPUT_CAP: usize = 16 << 20;
/// How much longer than the command's limit its supervisor may take to kill it.
const GRACE: Duration = Duration::from_secs(30);

/// A command for a running container.
#[derive(Debug, Clone)]
pub struct ExecRequest<'a> {
    pub id: &'a str,
    /// The container's bundle; a folder for this exec is made in it for the time being.
    pub bundle: &'a Path,
    pub args: &'a [String],
    /// The container's own process: its user, environment, folder, capabilities and limits hold for the command.
    pub process: &'a Process,
    pub limit: Option<Duration>,
    /// The container's cgroup, where a command can be kept together in one below it.
    pub cgroup: Option<ContainerCgroup>,
    /// User and group to whom the command's pipes are given; else they stay ours.
    pub owner: Option<(u32, u32)>,
}

/// A container's cgroup as `exec --cgroup` speaks of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerCgroup {
    /// In cgroup2, or in the hierarchy of `controller`.
    pub folder: PathBuf,
    /// On cgroup v1: the controller whose cgroup is meant; the command stays in the container's own of all others.
    pub controller: Option<&'static str>,
    /// The runtime starts a command there if it is told to; else it has to be moved.
    pub told: bool,
}

impl ContainerCgroup {
    fn below(&self, name: &str) -> ExecCgroup {
        ExecCgroup {
            folder: self.folder.join(name),
            argument: self.told.then(|| match self.controller {
                Some(controller) => format!("{controller}:{name}"),
                None => name.to_owned(),
            }),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecOutput {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    /// 128 + the signal's number where one ended it.
    pub exit_code: i32,
}

impl Runtime {
    /// Runs the command to its end. What it wrote is complete; what processes that it left behind may write later
    /// is not waited for. When the limit is over, or the returned future is dropped, the command is killed with its
    /// children, and nothing else.
    pub async fn exec_sync(&self, r: &ExecRequest<'_>) -> Result<ExecOutput, RuntimeError> {
        let io = |what| {
            move |source| RuntimeError::Io {
                what,
                id: r.id.to_owned(),
                source,
            }
        };
        let folder = tempfile::Builder::new()
            .prefix("exec-")
            .tempdir_in(r.bundle)
            .map_err(io("make a folder for an exec"))?;
        let process = self.process(r);
        let text = serde_json::to_vec(&process).map_err(|e| io("write the process")(e.into()))?;
        std::fs::write(folder.path().join("process.json"), text)
            .map_err(io("write the process"))?;
        let job = Job::Exec(Box::new(ExecJob {
            runtime: self.oci.clone(),
            id: r.id.to_owned(),
            folder: folder.path().to_owned(),
            limit_ms: r
                .limit
                .map(|l| u64::try_from(l.as_millis()).unwrap_or(u64::MAX)),
            open_files: self.open_files.map(|(soft, _)| soft),
            cgroup: r.cgroup.as_ref().and_then(|cgroup| {
                let name = folder.path().file_name()?.to_str()?;
                Some(cgroup.below(name))
            }),
            owner: r.owner,
        }));
        let started = self
            .launch(r.id, job, [Stdio::piped(), Stdio::piped()], |_| Ok(()))
            .await?;
        let Launched { mut child, socket } = started;
        let (mut stdout, mut stderr) = (
            Collector::new(child.stdout.take()),
            Collector::new(child.stderr.take()),
        );

        let reply = {
            let ended = answer(socket);
            let guard = async {
                match r.limit {
                    Some(limit) => tokio::time::sleep(limit + GRACE).await,
                    None => std::future::pending().await,
                }
            };
            tokio::pin!(ended, guard);
            loop {
                tokio::select! {
                    // The answer last: what is in the pipes by then is taken first.
                    biased;
                    () = stdout.read(), if stdout.open() => {}
                    () = stderr.read(), if stderr.open() => {}
                    reply = &mut ended => break reply.map_err(io("read the answer to an exec"))?,
                    () = &mut guard => break Some(Reply::TimedOut),
                }
            }
        };
        let outcome = match reply {
            Some(Reply::Exited { exit_code }) => {
                stdout.rest().await;
                stderr.rest().await;
                Ok(ExecOutput {
                    stdout: stdout.bytes,
                    stderr: stderr.bytes,
                    exit_code,
                })
            }
            Some(Reply::TimedOut) => Err(RuntimeError::TimedOut {
                limit: r.limit.unwrap_or_default(),
            }),
            Some(Reply::Failed { message }) => {
                Err(RuntimeError::from_message("exec in", r.id, message))
            }
            Some(Reply::Created { .. }) | None => Err(RuntimeError::MonitorLost {
                id: r.id.to_owned(),
                message: "the supervisor of an exec was killed".to_owned(),
            }),
        };
        tokio::spawn(async move { child.wait().await });
        outcome
    }

    /// The container's process with another command line and no terminal.
    fn process(&self, r: &ExecRequest<'_>) -> Process {
        let mut process = r.process.clone();
        process.set_args(Some(r.args.to_vec()));
        process.set_terminal(Some(false));
        process.set_console_size(None);
        process
    }
}

/// One pipe's output, up to the cap.
struct Collector<R> {
    pipe: Option<R>,
    chunk: Vec<u8>,
    bytes: Vec<u8>,
}

impl<R: AsyncRead + Unpin> Collector<R> {
    fn new(pipe: Option<R>) -> Self {
        Self {
            pipe,
            chunk: vec![0; 8192],
            bytes: Vec::new(),
        }
    }

    fn open(&self) -> bool {
        self.pipe.is_some()
    }

    /// Reads once. Nothing is lost when the future is dropped.
    async fn read(&mut self) {
        let Some(pipe) = &mut self.pipe else { return };
        match pipe.read(&mut self.chunk).await {
            Ok(n @ 1..) => {
                let room = OUTPUT_CAP.saturating_sub(self.bytes.len());
                let new = self.chunk.get(..n.min(room)).unwrap_or_default();
                self.bytes.extend_from_slice(new);
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            // A broken pipe ends the output as its end does.
            Ok(_) | Err(_) => self.pipe = None,
        }
    }

    /// Reads what is in the pipe now and does not wait for more.
    async fn rest(&mut self) {
        while self.open() {
            tokio::select! {
                biased;
                () = self.read() => {}
                () = std::future::ready(()) => break,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    #[tokio::test]
    async fn what_is_there_is_taken_and_the_rest_not_awaited() {
        let (mut writer, reader) = tokio::io::duplex(1 << 20);
        let mut out = Collector::new(Some(reader));
        writer.write_all(&vec![b'x'; 100_000]).await.unwrap();
        out.rest().await;
        assert!(out.bytes.len() == 100_000 && out.open());
        drop(writer);
        out.rest().await;
        assert!(!out.open());
    }

    #[tokio::test]
    async fn output_past_the_cap_is_dropped() {
        let mut out = Collector::new(Some(tokio::io::repeat(b'x').take(OUTPUT_CAP as u64 + 9)));
        while out.open() {
            out.read().await;
        }
        assert_eq!(out.bytes.len(), OUTPUT_CAP);
    }
}
