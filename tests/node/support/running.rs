//! A process that stays: its output line by line, waited for instead of slept for.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A child that was entered into a machine (`nsenter` with the program as its child). Killed on drop.
pub struct Running {
    child: Child,
    lines: Receiver<String>,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Running {
    pub fn spawn(mut command: Command) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let (sender, lines) = channel();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let stdout = child.stdout.take().context("no stdout")?;
        let stderr = child.stderr.take().context("no stderr")?;
        collect(stdout, sender.clone(), seen.clone());
        collect(stderr, sender, seen.clone());
        Ok(Self { child, lines, seen })
    }

    /// Waits for a line that holds `text` (on either stream) and returns it.
    pub fn line_with(&self, text: &str, limit: Duration) -> Result<String> {
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) if line.contains(text) => return Ok(line),
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => {
                    bail!(
                        "no line with `{text}` within {limit:?}; seen:\n{}",
                        self.output()
                    )
                }
                Err(RecvTimeoutError::Disconnected) => {
                    bail!(
                        "it ended without a line with `{text}`; seen:\n{}",
                        self.output()
                    )
                }
            }
        }
    }

    /// Everything printed so far.
    pub fn output(&self) -> String {
        self.seen
            .lock()
            .map(|seen| seen.join("\n"))
            .unwrap_or_default()
    }

    /// The program's pid as the host sees it.
    pub fn pid(&self) -> Result<i32> {
        let entered = self.child.id();
        let children = fs::read_to_string(format!("/proc/{entered}/task/{entered}/children"))?;
        let child = children.split_whitespace().next();
        Ok(child.context("the program has ended")?.parse()?)
    }

    /// Sends a signal to the program.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(Pid::from_raw(self.pid()?), signal)?)
    }

    /// Waits for the program's end.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        Ok(self.child.wait()?)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            // What has just ended by itself is as good as killed.
            self.signal(Signal::SIGKILL).unwrap_or_default();
            if let Err(error) = self.child.wait() {
                eprintln!("wait for a child: {error}");
            }
        }
    }
}

fn collect(
    stream: impl Read + Send + 'static,
    sender: Sender<String>,
    seen: Arc<Mutex<Vec<String>>>,
) {
    std::thread::spawn(move || {
        for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).into_owned();
            if let Ok(mut seen) = seen.lock() {
                seen.push(line.clone());
            }
            // Nobody waits for lines any more; they are still collected.
            sender.send(line).unwrap_or_default();
        }
    });
}
