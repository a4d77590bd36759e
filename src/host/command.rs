//! The one way to run a child process: null stdin unless bytes are given, a time limit, captured
//! and capped output, and an error that names the command, how it ended and the tail of its stderr.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};

/// No child of ours prints more than this on purpose; the rest is read and dropped.
const OUTPUT_CAP: usize = 16 << 20;
/// How much of stderr an error carries.
const TAIL: usize = 2048;
/// How long output is waited for after the process itself has ended (a daemon it left behind may
/// hold the pipe open for ever).
const LINGER: Duration = Duration::from_millis(250);

/// How often, and after what time, a program that is being written is tried again.
const BUSY_TRIES: u32 = 50;
const BUSY_WAIT: Duration = Duration::from_millis(4);

/// A command line, not yet run.
#[derive(Debug, Clone)]
pub struct Command {
    program: OsString,
    args: Vec<OsString>,
    envs: Vec<(OsString, OsString)>,
    clear_env: bool,
    dir: Option<PathBuf>,
    stdin: Option<Vec<u8>>,
    limit: Duration,
}

/// What a command that ran to its end left behind.
#[derive(Debug, Clone)]
pub struct Output {
    pub status: ExitStatus,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

/// Why a command did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    #[error("run `{command}`")]
    Spawn { command: String, source: io::Error },
    #[error("`{command}` {}{}", ended(*.status), tail(.stderr))]
    Failed {
        command: String,
        status: ExitStatus,
        stderr: String,
    },
    #[error("`{command}` did not end within {limit:?} and was killed{}", tail(.stderr))]
    TimedOut {
        command: String,
        limit: Duration,
        stderr: String,
    },
}

impl Command {
    /// A command with a limit of 60 s, the caller's environment and no input.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self {
            program: program.as_ref().to_owned(),
            args: Vec::new(),
            envs: Vec::new(),
            clear_env: false,
            dir: None,
            stdin: None,
            limit: Duration::from_secs(60),
        }
    }

    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    pub fn args<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(mut self, args: I) -> Self {
        self.args
            .extend(args.into_iter().map(|a| a.as_ref().to_owned()));
        self
    }

    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.envs
            .push((key.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Starts from an empty environment instead of the caller's.
    pub fn env_clear(mut self) -> Self {
        self.clear_env = true;
        self
    }

    pub fn current_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.dir = Some(dir.into());
        self
    }

    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = Some(bytes.into());
        self
    }

    /// After this time the command's process group is killed.
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Runs it; anything but exit code 0 is an error. For code without an async runtime.
    pub fn run(&self) -> Result<Output, CommandError> {
        self.output().and_then(|o| self.check(o))
    }

    /// Runs it, whatever its exit status. For code without an async runtime.
    pub fn output(&self) -> Result<Output, CommandError> {
        let spawn = |source| CommandError::Spawn {
            command: self.to_string(),
            source,
        };
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(spawn)?
            .block_on(self.output_async())
    }

    /// As [`Command::run`], in an async runtime. Dropping the future kills the command's process group.
    pub async fn run_async(&self) -> Result<Output, CommandError> {
        self.check(self.output_async().await?)
    }

    /// As [`Command::output`], in an async runtime. Dropping the future kills the command's process group.
    pub async fn output_async(&self) -> Result<Output, CommandError> {
        tracing::debug!(command = %self, "run");
        let spawn = |source| CommandError::Spawn {
            command: self.to_string(),
            source,
        };
        let mut command = tokio::process::Command::new(&self.program);
        if self.clear_env {
            command.env_clear();
        }
        if let Some(dir) = &self.dir {
            command.current_dir(dir);
        }
        let stdin = if self.stdin.is_some() {
            Stdio::piped()
        } else {
            Stdio::null()
        };
        command
            .args(&self.args)
            .envs(self.envs.iter().map(|(k, v)| (k, v)))
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        let mut child = unless_busy(|| command.spawn()).await.map_err(spawn)?;

        let group = Group::of(&child);
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let input = child.stdin.take();
        let feed = async {
            if let (Some(mut pipe), Some(bytes)) = (input, &self.stdin) {
                // A command that does not read all of its input says so by its exit code.
                let _ = pipe.write_all(bytes).await;
            }
            std::future::pending::<()>().await
        };
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let drain = async {
            tokio::join!(collect(out, &mut stdout), collect(err, &mut stderr));
        };
        let ended = {
            tokio::pin!(drain, feed);
            let run = async {
                let mut drained = false;
                let status = loop {
                    tokio::select! {
                        status = child.wait() => break status,
                        () = &mut drain, if !drained => drained = true,
                        () = &mut feed => {}
                    }
                };
                if !drained {
                    // What a left-behind process still holds open is not waited for.
                    let _ = tokio::time::timeout(LINGER, &mut drain).await;
                }
                status
            };
            tokio::time::timeout(self.limit, run).await
        };
        match ended {
            Ok(status) => {
                group.leave();
                Ok(Output {
                    status: status.map_err(spawn)?,
                    stdout,
                    stderr,
                })
            }
            Err(_) => {
                drop(group);
                let _ = child.wait().await;
                let (command, stderr) = (self.to_string(), last(&stderr));
                Err(CommandError::TimedOut {
                    command,
                    limit: self.limit,
                    stderr,
                })
            }
        }
    }

    fn check(&self, output: Output) -> Result<Output, CommandError> {
        if output.status.success() {
            return Ok(output);
        }
        let (command, stderr) = (self.to_string(), last(&output.stderr));
        Err(CommandError::Failed {
            command,
            status: output.status,
            stderr,
        })
    }
}

/// A command with its children, killed with this value unless they are left alone.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &tokio::process::Child) -> Self {
        let id = child.id().and_then(|id| i32::try_from(id).ok());
        Self(id.map(Pid::from_raw))
    }

    /// The command has ended; what it left behind is meant to stay.
    fn leave(mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // Already gone is what we want.
            let _ = killpg(group, Signal::SIGKILL);
        }
    }
}

impl Output {
    /// Standard output as text, without the white space around it.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim().to_owned()
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.program.to_string_lossy())?;
        for arg in &self.args {
            let arg = arg.to_string_lossy();
            if arg.is_empty() || arg.contains(char::is_whitespace) {
                write!(f, " '{arg}'")?;
            } else {
                write!(f, " {arg}")?;
            }
        }
        Ok(())
    }
}

/// A program that was written a moment ago counts as being written (ETXTBSY) for as long as a child that
/// another thread has just forked holds the writer's descriptor, until that child's exec. Nothing tells
/// when that is, hence the short waits.
async fn unless_busy<T>(mut spawn: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    for _ in 0..BUSY_TRIES {
        match spawn() {
            Err(e) if e.kind() == io::ErrorKind::ExecutableFileBusy => {
                tokio::time::sleep(BUSY_WAIT).await;
            }
            other => return other,
        }
    }
    spawn()
}

async fn collect(pipe: Option<impl AsyncRead + Unpin>, into: &mut Vec<u8>) {
    let Some(mut pipe) = pipe else { return };
    let mut chunk = [0; 8192];
    // A broken pipe ends the output like its end does; the exit status tells the rest.
    while let Ok(n @ 1..) = pipe.read(&mut chunk).await {
        let room = OUTPUT_CAP.saturating_sub(into.len());
        into.extend_from_slice(&chunk[..n.min(room)]);
    }
}

fn last(stderr: &[u8]) -> String {
    let from = stderr.len().saturating_sub(TAIL);
    String::from_utf8_lossy(&stderr[from..]).trim().to_owned()
}

fn ended(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("failed with exit code {code}"),
        (None, Some(signal)) => match Signal::try_from(signal) {
            Ok(signal) => format!("was killed by {signal}"),
            Err(_) => format!("was killed by signal {signal}"),
        },
        (None, None) => "ended in an unknown way".to_owned(),
    }
}

fn tail(stderr: &str) -> String {
    if stderr.is_empty() {
        String::new()
    } else {
        format!(": {stderr}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Command {
        Command::new("sh").arg("-c").arg(script)
    }

    #[test]
    fn input_output_and_codes() {
        let out = sh("cat; echo err >&2").stdin("hello").run().unwrap();
        assert_eq!(
            (out.stdout.as_slice(), out.stderr.as_slice()),
            (&b"hello"[..], &b"err\n"[..])
        );
        assert_eq!(sh("exit 3").output().unwrap().status.code(), Some(3));
        let e = sh("echo why >&2; exit 3").run().unwrap_err().to_string();
        assert!(e.ends_with("failed with exit code 3: why"), "{e}");
        let e = sh("kill -9 $$").run().unwrap_err().to_string();
        assert!(e.contains("was killed by SIGKILL"), "{e}");
        let e = Command::new("/no/such").run().unwrap_err();
        assert!(matches!(e, CommandError::Spawn { .. }));
    }

    #[test]
    fn a_hanging_command_is_killed_with_its_children() {
        let e = sh("sleep 60 & echo $!; echo started >&2; wait").limit(Duration::from_millis(200));
        let e = e.run().unwrap_err();
        assert!(
            matches!(&e, CommandError::TimedOut { stderr, .. } if stderr == "started"),
            "{e}"
        );
    }

    #[tokio::test]
    async fn a_command_that_is_given_up_is_killed_with_its_children() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        let script = format!("sleep 60 & echo $! >{}; wait", file.display());
        let read = || std::fs::read_to_string(&file).unwrap_or_default();
        let started = async {
            while !read().ends_with('\n') {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let run = sh(&script);
        tokio::select! {
            _ = run.output_async() => panic!("it ended"),
            () = started => {}
        }
        let child: i32 = read().trim().parse().unwrap();
        let state = || std::fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
        for _ in 0..1500 {
            if state().is_empty() || state().contains(") Z ") {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("its child still runs");
    }

    #[test]
    fn a_daemon_left_behind_does_not_hold_us() {
        let out = sh("sleep 5 & echo done").run().unwrap();
        assert_eq!(out.text(), "done");
    }

    #[test]
    fn a_program_that_is_being_written_is_awaited() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("true");
        std::fs::copy("/bin/true", &path).unwrap();
        let write = || std::fs::File::options().append(true).open(&path).unwrap();
        let writer = write();
        let closer = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(20));
            drop(writer);
        });
        Command::new(&path).run().unwrap();
        closer.join().unwrap();

        let _writer = write();
        let e = Command::new(&path).run().unwrap_err();
        assert!(matches!(e, CommandError::Spawn { .. }), "{e}");
    }

    #[test]
    fn an_unread_input_is_no_hang() {
        sh("exit 0").stdin(vec![b'x'; 1 << 20]).run().unwrap();
    }
}
