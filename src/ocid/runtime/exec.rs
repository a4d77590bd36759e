//! Running a command in a container and taking its output (`ExecSync`).

use std::io;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};

use super::create::{Launched, answer};
use super::request::{ExecFolder, ExecRequest};
use super::{Runtime, RuntimeError};
use crate::ocid::monitor::protocol::{ExecJob, Job, Reply};

/// Output past this is read and dropped (what the CRI's callers expect of one message).
pub const OUTPUT_CAP: usize = 16 << 20;
/// How much longer than the command's limit its supervisor may take to kill it.
const GRACE: Duration = Duration::from_secs(30);

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
    pub async fn exec_sync(
        &self,
        r: &ExecRequest<'_>,
        limit: Option<Duration>,
    ) -> Result<ExecOutput, RuntimeError> {
        let io = |what| {
            move |source| RuntimeError::Io {
                what,
                id: r.id.to_owned(),
                source,
            }
        };
        let folder = ExecFolder::make(r, false)?;
        let job = Job::Exec(Box::new(ExecJob {
            runtime: self.oci.clone(),
            id: r.id.to_owned(),
            folder: folder.path().to_owned(),
            limit_ms: limit.map(|l| u64::try_from(l.as_millis()).unwrap_or(u64::MAX)),
            open_files: self.open_files.map(|(soft, _)| soft),
            cgroup: folder.cgroup(r),
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
                match limit {
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
                limit: limit.unwrap_or_default(),
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
