//! One process that the runtime starts inside a container, from start to end.
//!
//! The runtime is called with `--detach`: it hands the descriptors that it is given to the process and ends, so no
//! byte is copied on the way and nothing waits for a pipe that a background child keeps open. The process then
//! becomes a child of this one (a subreaper), which learns its true exit code.
//!
//! A child of that process may leave its parent and its session, and the container's first process adopts it; so
//! what is to be killed with the process is told by a cgroup of its own, below the container's. Where the runtime
//! cannot start it there, it is moved as soon as it is known, with what it has started by then; who got away before
//! that, or has no such cgroup at all, is told by descent and session, which both can be left.
//!
//! The working folder is the exec's own, which holds `process.json`: the path of a socket may be 107 bytes long.

use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::unistd::Pid;

use super::MonitorError;
use super::call::{self, Children, Ended};
use super::protocol::{ExecCgroup, OciRuntime};
use crate::host::cgroup::SubCgroup;
use crate::host::process;

/// How long a killed process is waited for before it is left to whoever adopts it.
const REAP_LIMIT: Duration = Duration::from_secs(5);
/// Files in the folder.
const PIDFILE: &str = "pid";
const LOG: &str = "log";
const PROCESS: &str = "process.json";

pub struct Inside<'a> {
    runtime: &'a OciRuntime,
    /// The container's.
    id: &'a str,
    children: Children,
    deadline: Option<Instant>,
    /// Whoever waits for the process; when that hangs up, the process is killed.
    caller: Option<BorrowedFd<'a>>,
    /// With what the runtime is told of it, where it can be.
    cgroup: Option<(SubCgroup, Option<&'a str>)>,
    /// Who else has ended.
    others: Vec<Ended>,
}

impl<'a> Inside<'a> {
    /// Enters the folder and makes the cgroup.
    pub fn new(
        runtime: &'a OciRuntime,
        id: &'a str,
        folder: &Path,
        cgroup: Option<&'a ExecCgroup>,
        deadline: Option<Instant>,
        caller: Option<BorrowedFd<'a>>,
    ) -> Result<Self, MonitorError> {
        let prepare = MonitorError::prepare;
        std::env::set_current_dir(folder).map_err(prepare("enter the folder of the exec"))?;
        let children = Children::new().map_err(prepare("watch for ended children"))?;
        // One that cannot be made is the container's end, which the runtime will tell of, or a limit on cgroups.
        let cgroup = cgroup.and_then(|c| {
            let made = SubCgroup::make(&c.folder).ok()?;
            Some((made, c.argument.as_deref()))
        });
        Ok(Self {
            runtime,
            id,
            children,
            deadline,
            caller,
            cgroup,
            others: Vec::new(),
        })
    }

    /// Has the runtime start the process, with more options for `exec`; its pid. `None` when the time was over or
    /// the caller gone first, and everything has been killed.
    pub fn start(
        &mut self,
        options: &[&str],
        stdio: [BorrowedFd<'_>; 3],
    ) -> Result<Option<i32>, MonitorError> {
        let prepare = MonitorError::prepare;
        let log = Path::new(LOG);
        loop {
            let mut command = vec!["exec", "--detach", "--process", PROCESS];
            command.extend(["--pid-file", PIDFILE]);
            if let Some((_, Some(argument))) = &self.cgroup {
                command.extend(["--cgroup", argument]);
            }
            command.extend(options);
            command.push(self.id);
            let runtime = call::start(self.runtime, log, &command, stdio)
                .map_err(prepare("start the OCI runtime"))?;
            match self.wait(runtime, self.deadline, self.caller)? {
                Some(Ended { exit_code: 0, .. }) => {
                    return match call::read_pid(Path::new(PIDFILE)) {
                        Ok(pid) => {
                            self.move_in(pid);
                            Ok(Some(pid))
                        }
                        // The folder went with the caller's interest.
                        Err(e) => {
                            self.kill_untold()?;
                            Err(prepare("find the process")(e))
                        }
                    };
                }
                Some(ended) => {
                    let message = call::complaint(log, b"", Some(ended));
                    // Where the container has arranged its cgroups by itself, ours may not be what the runtime
                    // takes for its own. Nothing has run yet.
                    let told = matches!(self.cgroup, Some((_, Some(_))));
                    if told && message.contains("cgroup") {
                        self.leave_cgroup();
                        continue;
                    }
                    return Err(MonitorError::Runtime { message });
                }
                None => {
                    self.kill_untold()?;
                    return Ok(None);
                }
            }
        }
    }

    /// The exit code of what was started; `None` as above.
    pub fn end(&mut self, pid: i32) -> Result<Option<i32>, MonitorError> {
        if let Some(exit_code) = self.ended(pid) {
            return Ok(Some(exit_code));
        }
        let process = Pid::from_raw(pid);
        if let Some(ended) = self.wait(process, self.deadline, self.caller)? {
            return Ok(Some(ended.exit_code));
        }
        self.kill_all(Some(pid))?;
        if self.ended(pid).is_none() {
            self.wait(process, Some(Instant::now() + REAP_LIMIT), None)?;
        }
        Ok(None)
    }

    /// The exit code of one that has ended beside what was waited for.
    fn ended(&self, pid: i32) -> Option<i32> {
        let ended = self.others.iter().find(|e| e.pid == pid)?;
        Some(ended.exit_code)
    }

    fn wait(
        &mut self,
        child: Pid,
        deadline: Option<Instant>,
        caller: Option<BorrowedFd<'_>>,
    ) -> Result<Option<Ended>, MonitorError> {
        let ended = self
            .children
            .wait_for(child, deadline, caller, &mut self.others);
        ended.map_err(|e: io::Error| MonitorError::prepare("wait for the process")(e))
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

    /// The same before the runtime has told of the process. It may have ended already, of streams that the caller
    /// closed: its session is then that of one of those that were reaped.
    fn kill_untold(&mut self) -> Result<(), MonitorError> {
        self.kill_all(None)?;
        self.others.extend(self.children.reap());
        // While a session has members nobody gets its leader's pid; whoever has it now leads one of his own.
        let free = |pid: &i32| !Path::new(&format!("/proc/{pid}")).exists();
        for leader in self.others.iter().map(|ended| ended.pid).filter(free) {
            self.kill_all(Some(leader))?;
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

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.leave_cgroup();
    }
}
