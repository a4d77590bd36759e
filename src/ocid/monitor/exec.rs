//! One process run inside a container, from start to end.
//!
//! The runtime is called with `--detach`: it hands our own descriptors 1 and 2, which are the daemon's pipes, to
//! the process and ends, so no byte is copied on the way and nothing waits for a pipe that a background child
//! keeps open. The process then becomes a child of this one (a subreaper), which learns its true exit code.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use super::call::{self, Children, Ended};
use super::protocol::{ExecJob, Reply};
use super::{Daemon, MonitorError};
use crate::host::process;

/// How long a killed process is waited for before it is left to whoever adopts it.
const REAP_LIMIT: Duration = Duration::from_secs(5);

pub fn run(job: &ExecJob, daemon: &mut Daemon) -> Result<(), MonitorError> {
    let prepare = MonitorError::prepare;
    let deadline = job
        .limit_ms
        .map(|ms| Instant::now() + Duration::from_millis(ms));
    let children = Children::new().map_err(prepare("watch for ended children"))?;
    let outputs = crate::host::fd::take_output().map_err(prepare("take the output pipes"))?;
    let outcome = exec(job, &children, outputs, deadline, daemon.watched());
    match outcome? {
        Some(exit_code) => daemon.reply(&Reply::Exited { exit_code }),
        None => daemon.reply(&Reply::TimedOut),
    }
    Ok(())
}

/// The exit code; `None` when the time was over or the daemon gone, and everything has been killed.
fn exec(
    job: &ExecJob,
    children: &Children,
    outputs: [OwnedFd; 2],
    deadline: Option<Instant>,
    daemon: Option<BorrowedFd<'_>>,
) -> Result<Option<i32>, MonitorError> {
    let prepare = MonitorError::prepare;
    let in_folder = |name: &str| job.folder.join(name);
    let (pidfile, log) = (in_folder("pid"), in_folder("log"));
    let process = in_folder("process.json");
    let text = |path: &std::path::Path| path.to_string_lossy().into_owned();
    let command = [
        "exec".to_owned(),
        "--detach".to_owned(),
        "--process".to_owned(),
        text(&process),
        "--pid-file".to_owned(),
        text(&pidfile),
        job.id.clone(),
    ];
    let null = File::open("/dev/null").map_err(prepare("open `/dev/null`"))?;
    let [out, err] = outputs.each_ref().map(AsFd::as_fd);
    let runtime = call::start(&job.runtime, &log, &command, [null.as_fd(), out, err])
        .map_err(prepare("start the OCI runtime"))?;
    // From here on only the process and its children hold the pipes.
    drop(outputs);

    let wait = prepare("wait for the process");
    let mut others = Vec::new();
    let ended = children.wait_for(runtime, deadline, daemon, &mut others);
    let pid = match ended {
        Ok(Some(Ended { exit_code: 0, .. })) => {
            call::read_pid(&pidfile).map_err(prepare("find the process"))?
        }
        Ok(Some(ended)) => {
            let message = call::complaint(&log, b"", Some(ended));
            return Err(MonitorError::Runtime { message });
        }
        Ok(None) => {
            kill_all(None)?;
            return Ok(None);
        }
        Err(e) => return Err(wait(e)),
    };
    if let Some(ended) = others.iter().find(|e| e.pid == pid) {
        return Ok(Some(ended.exit_code));
    }
    match children.wait_for(
        nix::unistd::Pid::from_raw(pid),
        deadline,
        daemon,
        &mut others,
    ) {
        Ok(Some(ended)) => Ok(Some(ended.exit_code)),
        Ok(None) => {
            kill_all(Some(pid))?;
            let limit = Some(Instant::now() + REAP_LIMIT);
            let process = nix::unistd::Pid::from_raw(pid);
            children
                .wait_for(process, limit, None, &mut others)
                .map_err(wait)?;
            Ok(None)
        }
        Err(e) => Err(wait(e)),
    }
}

/// Kills what was exec'd, with its children: everyone below us, and those of its session, whom the container's
/// first process may have adopted.
fn kill_all(session: Option<i32>) -> Result<(), MonitorError> {
    let ours = std::process::id().cast_signed();
    process::kill_family(ours, session).map_err(MonitorError::prepare("kill what was exec'd"))?;
    Ok(())
}
