//! What a criu that was killed leaves behind: the pod's network locked, connections in repair mode. It lets go of the
//! processes themselves by its end.

use std::io;
use std::path::Path;

use crate::host::command::{Command, CommandError};
use crate::host::namespace::run_in;
use crate::host::tcp_repair;
use crate::ocid::daemon::Daemon;
use crate::ocid::error::Error;
use crate::ocid::handlers::find_program;
use crate::ocid::state::record::{ContainerRecord, SandboxRecord};

/// The chain that drops every packet while criu dumps (its `criu/netfilter.c`); the name is that of its tables too where
/// it speaks nftables, followed by a number.
const LOCK: &str = "CRIU";

/// Puts right what can be; what cannot is said in the log. Blocks.
pub fn clear(daemon: &Daemon, record: &ContainerRecord, pod: &SandboxRecord) {
    if let Err(error) = end_repair(daemon, record, pod) {
        tracing::warn!(container = %record.id, %error, "connections may have been left in repair mode");
    }
    // In the machine's own network criu locks nothing.
    if pod.config.has_own_network() {
        let unlocked = unlock(&daemon.network_namespace(&pod.id));
        if let Err(error) = unlocked {
            tracing::warn!(pod = %pod.id, %error, "the network may have been left locked by criu");
        }
    }
}

fn end_repair(daemon: &Daemon, record: &ContainerRecord, pod: &SandboxRecord) -> Result<(), Error> {
    let cgroup = daemon.pod_cgroup(&pod.config.cgroup_parent)?;
    let path = cgroup.container_path(&record.id);
    let pids = daemon.cgroups.pids(&path);
    for pid in pids.map_err(Error::io("list the processes of", &path))? {
        match tcp_repair::end(pid) {
            Ok(0) => {}
            Ok(ended) => tracing::info!(container = %record.id, pid, ended, "connections go on"),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(Error::io("end the repair of", format!("/proc/{pid}/fd"))(e)),
        }
    }
    Ok(())
}

fn unlock(netns: &Path) -> io::Result<()> {
    run_in(netns, || {
        for program in ["iptables", "ip6tables"] {
            if let Some(program) = find_program(program) {
                unlock_chain(&program)?;
            }
        }
        match find_program("nft") {
            Some(program) => delete_tables(&program),
            None => Ok(()),
        }
    })?
    .map_err(io::Error::other)
}

fn unlock_chain(program: &Path) -> Result<(), CommandError> {
    let call = |args: &[&str]| Command::new(program).arg("-w").args(args).run();
    if call(&["-S", LOCK]).is_err() {
        // There is none: this is how iptables says it.
        return Ok(());
    }
    for hook in ["INPUT", "OUTPUT"] {
        while call(&["-C", hook, "-j", LOCK]).is_ok() {
            call(&["-D", hook, "-j", LOCK])?;
        }
    }
    call(&["-F", LOCK])?;
    call(&["-X", LOCK]).map(drop)
}

fn delete_tables(program: &Path) -> Result<(), CommandError> {
    let listed = Command::new(program)
        .args(["list", "tables", "inet"])
        .run()?;
    for name in tables_in(&listed.text()) {
        Command::new(program)
            .args(["delete", "table", "inet", name])
            .run()?;
    }
    Ok(())
}

/// Lines are `table inet NAME`.
fn tables_in(text: &str) -> impl Iterator<Item = &str> {
    let names = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("table inet "));
    names.filter(|name| {
        let number = name
            .strip_prefix(LOCK)
            .and_then(|rest| rest.strip_prefix('-'));
        number.is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_criu_s_tables_are_deleted() {
        let text = "table inet filter\ntable inet CRIU-123\ntable inet CRIU-\ntable inet CRIU-1x\ntable inet XCRIU-1";
        assert_eq!(tables_in(text).collect::<Vec<_>>(), ["CRIU-123"]);
    }
}
