//! One process run inside a container, from start to end.
//!
//! The runtime is called with `--detach`: it hands our own descriptors 1 and 2, which are the daemon's pipes, to
//! the process and ends, so no byte is copied on the way and nothing waits for a pipe that a background child
//! keeps open. The process then becomes a child of this one (a subreaper), which learns its true exit code.
//!
//! A child of that process may leave its parent and its session, and the container's first process adopts it; so
//! what is to be killed with the process is told by a cgroup of its own, below the container's. Where the runtime
//! cannot start it there, it is moved as soon as it is known, with what it has started by then; who got away before
//! that, or has no such cgroup at all, is told by descent and session, which both can be left.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::unistd::Pid;

use super::call::{self, Children, Ended};
use super::protocol::{ExecJob, Reply};
use super::{Daemon, MonitorError};
use crate::host::cgroup::SubCgroup;
use crate::host::fd::{give_pipe, take_output};
use crate::host::process;

/// How long a killed process is waited for before it is left to whoever adopts it.
const REAP_LIMIT: Duration = Duration::from_secs(5);

pub fn run(job: &ExecJob, daemon: &mut Daemon) -> Result<(), MonitorError> {
    let prepare = MonitorError::prepare;
    let deadline = job
        .limit_ms
        .map(|ms| Instant::now() + Duration::from_millis(ms));
    let children = Children::new().map_err(prepare("watch for ended children"))?;
    let outputs = take_output().map_err(prepare("take the output pipes"))?;
    for pipe in &outputs {
        give_pipe(pipe, job.owner).map_err(prepare("give away the output pipes"))?;
    }
    // A cgroup that cannot be made is the container's end, which the runtime will tell of, or a limit on cgroups.
    let cgroup = job.cgroup.as_ref().and_then(|c| {
        let made = SubCgroup::make(&c.folder).ok()?;
        Some((made, c.argument.as_deref()))
    });
    let mut exec = Exec {
        job,
        children: &children,
        deadline,
        cgroup,
    };
    let outcome = exec.run(outputs, daemon.watched());
    exec.leave_cgroup();
    match outcome? {
        Some(exit_code) => daemon.reply(&Reply::Exited { exit_code }),
        None => daemon.reply(&Reply::TimedOut),
    }
    Ok(())
}

struct Exec<'a> {
    job: &'a ExecJob,
    children: &'a Children,
    deadline: Option<Instant>,
    /// With what the runtime is told of it, where it can be.
    cgroup: Option<(SubCgroup, Option<&'a str>)>,
}

impl Exec<'_> {
    /// The exit code; `None` when the time was over or the daemon gone, and everything has been killed.
    fn run(
        &mut self,
        outputs: [OwnedFd; 2],
        daemon: Option<BorrowedFd<'_>>,
    ) -> Result<Option<i32>, MonitorError> {
        let prepare = MonitorError::prepare;
        let wait = prepare("wait for the process");
        let mut others = Vec::new();
        let [out, err] = outputs.each_ref().map(AsFd::as_fd);
        let pid = loop {
            let runtime = self.call_runtime(out, err)?;
            let (deadline, children) = (self.deadline, self.children);
            match children.wait_for(runtime, deadline, daemon, &mut others) {
                Ok(Some(Ended { exit_code: 0, .. })) => {
                    match call::read_pid(&self.in_folder("pid")) {
                        Ok(pid) => break pid,
                        // The folder went with the daemon's interest.
                        Err(e) => {
                            self.kill_all(None)?;
                            return Err(prepare("find the process")(e));
                        }
                    }
                }
                Ok(Some(ended)) => {
                    let message = call::complaint(&self.in_folder("log"), b"", Some(ended));
                    // Where the container has arranged its cgroups by itself, ours may not be what the runtime
                    // takes for its own. Nothing has run yet.
                    let told = matches!(self.cgroup, Some((_, Some(_))));
                    if told && message.contains("cgroup") {
                        self.leave_cgroup();
                        continue;
                    }
                    return Err(MonitorError::Runtime { message });
                }
                Ok(None) => {
                    self.kill_all(None)?;
                    return Ok(None);
                }
                Err(e) => return Err(wait(e)),
            }
        };
        self.move_in(pid);
        // From here on only the process and its children hold the pipes.
        drop(outputs);
        if let Some(ended) = others.iter().find(|e| e.pid == pid) {
            return Ok(Some(ended.exit_code));
        }
        let process = Pid::from_raw(pid);
        let children = self.children;
        match children.wait_for(process, self.deadline, daemon, &mut others) {
            Ok(Some(ended)) => Ok(Some(ended.exit_code)),
            Ok(None) => {
                self.kill_all(Some(pid))?;
                let limit = Some(Instant::now() + REAP_LIMIT);
                children
                    .wait_for(process, limit, None, &mut others)
                    .map_err(wait)?;
                Ok(None)
            }
            Err(e) => Err(wait(e)),
        }
    }

    fn in_folder(&self, name: &str) -> PathBuf {
        self.job.folder.join(name)
    }

    fn call_runtime(&self, out: BorrowedFd<'_>, err: BorrowedFd<'_>) -> Result<Pid, MonitorError> {
        let prepare = MonitorError::prepare;
        let text = |name| self.in_folder(name).to_string_lossy().into_owned();
        let mut command = ["exec", "--detach", "--process"]
            .map(str::to_owned)
            .to_vec();
        command.extend([text("process.json"), "--pid-file".to_owned(), text("pid")]);
        if let Some((_, Some(argument))) = &self.cgroup {
            command.extend(["--cgroup", argument].map(str::to_owned));
        }
        command.push(self.job.id.clone());
        let null = File::open("/dev/null").map_err(prepare("open `/dev/null`"))?;
        let log = self.in_folder("log");
        call::start(&self.job.runtime, &log, &command, [null.as_fd(), out, err])
            .map_err(prepare("start the OCI runtime"))
    }

    /// Kills what was exec'd, with its children: everyone below us, those of its session, whom the container's
    /// first process may have adopted, and whoever is in the cgroup.
    fn kill_all(&self, session: Option<i32>) -> Result<(), MonitorError> {
        let failed = MonitorError::prepare;
        let ours = std::process::id().cast_signed();
        process::kill_family(ours, session).map_err(failed("kill what was exec'd"))?;
        if let Some((cgroup, _)) = &self.cgroup {
            cgroup
                .kill(REAP_LIMIT)
                .map_err(failed("kill what was exec'd"))?;
        }
        Ok(())
    }

    /// Into the cgroup with the process and all that it has started, where the runtime has not started it there.
    /// What cannot be moved is killed all the same, as long as it does not hide.
    fn move_in(&self, session: i32) {
        if let Some((cgroup, None)) = &self.cgroup {
            let ours = std::process::id().cast_signed();
            let _ = cgroup.take_in(|| process::family_of(ours, Some(session)));
        }
    }

    /// Those that were left to run go on as others of the container's processes do.
    fn leave_cgroup(&mut self) {
        if let Some((cgroup, _)) = self.cgroup.take() {
            // One that cannot be removed goes with the container's.
            let _ = cgroup.give_back();
        }
    }
}
