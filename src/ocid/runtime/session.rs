//! Running a command in a container for a client that watches it (`Exec`): streams as they come, input, a terminal.

use std::io;
use std::os::fd::OwnedFd;
use std::process::Stdio;

use tokio::io::{AsyncReadExt, Interest};
use tokio::net::UnixStream;
use tokio::process::{Child, ChildStderr, ChildStdout};

use super::create::Launched;
use super::request::{ExecFolder, ExecRequest};
use super::{Runtime, RuntimeError};
use crate::host::pass::{self, Received};
use crate::ocid::monitor::protocol::{Job, Reply, SessionJob};

/// A reply larger than this is none.
const REPLY_MAX: u64 = 64 * 1024;

/// Which of a command's streams somebody is at the other end of, and whether they are a terminal.
#[derive(Debug, Clone, Copy)]
pub struct Streams {
    pub tty: bool,
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
}

/// A command that runs. Dropped before its end, it is killed with its children.
#[derive(Debug)]
pub struct Session {
    /// The writing end of its input.
    pub stdin: Option<OwnedFd>,
    pub stdout: Option<ChildStdout>,
    pub stderr: Option<ChildStderr>,
    /// The master of its terminal, in place of the three.
    pub terminal: Option<OwnedFd>,
    id: String,
    /// Of the reply, what came before a descriptor could.
    seen: Vec<u8>,
    parts: Option<(UnixStream, Child, ExecFolder)>,
}

impl Runtime {
    /// Starts the command. That it could not be started may be known only at [`Session::exit`].
    pub async fn exec_session(
        &self,
        r: &ExecRequest<'_>,
        streams: Streams,
    ) -> Result<Session, RuntimeError> {
        let io = |what| {
            move |source| RuntimeError::Io {
                what,
                id: r.id.to_owned(),
                source,
            }
        };
        let folder = ExecFolder::make(r, streams.tty)?;
        let job = Job::Session(Box::new(SessionJob {
            runtime: self.oci.clone(),
            id: r.id.to_owned(),
            folder: folder.path().to_owned(),
            tty: streams.tty,
            stdin: streams.stdin,
            open_files: self.open_files.map(|(soft, _)| soft),
            cgroup: folder.cgroup(r),
            owner: r.owner,
        }));
        let output = |wanted: bool| match wanted && !streams.tty {
            true => Stdio::piped(),
            false => Stdio::null(),
        };
        let Launched { mut child, socket } = self
            .launch(
                r.id,
                job,
                [output(streams.stdout), output(streams.stderr)],
                |_| Ok(()),
            )
            .await?;
        let mut session = Session {
            stdin: None,
            stdout: child.stdout.take(),
            stderr: child.stderr.take(),
            terminal: None,
            id: r.id.to_owned(),
            seen: Vec::new(),
            parts: None,
        };
        if streams.tty || streams.stdin {
            match receive(&socket).await {
                Ok(Received::Descriptor(fd)) if streams.tty => session.terminal = Some(fd),
                Ok(Received::Descriptor(fd)) => session.stdin = Some(fd),
                // It did not come so far; the reply tells why.
                Ok(Received::Byte(byte)) => session.seen.push(byte),
                Ok(Received::End) => {}
                Err(e) => return Err(io("receive the input of an exec")(e)),
            }
        }
        session.parts = Some((socket, child, folder));
        Ok(session)
    }
}

impl Session {
    /// Waits for the end of the command: its exit code, 128 + the signal's number where one ended it. What it wrote
    /// may still be in the pipes.
    pub async fn exit(&mut self) -> Result<i32, RuntimeError> {
        let lost = |message: &str| RuntimeError::MonitorLost {
            id: self.id.clone(),
            message: message.to_owned(),
        };
        let Some((socket, _, _)) = &mut self.parts else {
            return Err(lost("the exec has ended already"));
        };
        let read = (&mut *socket)
            .take(REPLY_MAX)
            .read_to_end(&mut self.seen)
            .await;
        match read {
            Err(e) if e.kind() != io::ErrorKind::ConnectionReset => {
                return Err(RuntimeError::Io {
                    what: "read the answer to an exec",
                    id: self.id.clone(),
                    source: e,
                });
            }
            _ => {}
        }
        match serde_json::from_slice(&self.seen) {
            Ok(Reply::Exited { exit_code }) => Ok(exit_code),
            Ok(Reply::Failed { message }) => {
                Err(RuntimeError::from_message("exec in", &self.id, message))
            }
            _ => Err(lost("the supervisor of an exec was killed")),
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some((socket, mut child, folder)) = self.parts.take() {
            // Its supervisor sees that, and works in the folder until it ends.
            drop(socket);
            tokio::spawn(async move {
                if let Err(error) = child.wait().await {
                    tracing::warn!(%error, "wait for the supervisor of an exec");
                }
                drop(folder);
            });
        }
    }
}

async fn receive(socket: &UnixStream) -> io::Result<Received> {
    loop {
        socket.readable().await?;
        match socket.try_io(Interest::READABLE, || pass::receive(socket)) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return Ok(Received::End),
            other => return other,
        }
    }
}
