//! One process run inside a container for its output (`ExecSync`): descriptors 1 and 2 are the daemon's pipes.

use std::fs::File;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::inside::Inside;
use super::protocol::{ExecJob, Reply};
use super::{Daemon, MonitorError};
use crate::host::fd::{give_pipe, take_output};

pub fn run(job: &ExecJob, daemon: &mut Daemon) -> Result<(), MonitorError> {
    let limit = job.limit_ms.map(Duration::from_millis);
    let deadline = limit.map(|limit| Instant::now() + limit);
    let reply = match exec(job, deadline, daemon)? {
        Some(exit_code) => Reply::Exited { exit_code },
        None => Reply::TimedOut,
    };
    daemon.reply(&reply);
    Ok(())
}

/// The exit code; `None` when the time was over or the daemon gone, and everything has been killed.
fn exec(
    job: &ExecJob,
    deadline: Option<Instant>,
    daemon: &Daemon,
) -> Result<Option<i32>, MonitorError> {
    let prepare = MonitorError::prepare;
    let outputs = take_output().map_err(prepare("take the output pipes"))?;
    for pipe in &outputs {
        give_pipe(pipe, job.owner).map_err(prepare("give away the output pipes"))?;
    }
    let (cgroup, caller) = (job.cgroup.as_ref(), daemon.watched());
    let mut inside = Inside::new(&job.runtime, &job.id, &job.folder, cgroup, deadline, caller)?;
    let null = File::open("/dev/null").map_err(prepare("open `/dev/null`"))?;
    let [out, err] = outputs.each_ref().map(AsFd::as_fd);
    let Some(pid) = inside.start(&[], [null.as_fd(), out, err])? else {
        return Ok(None);
    };
    // From here on only the process and its children hold the pipes.
    drop(outputs);
    inside.end(pid)
}
