//! A container's processes written to files: the runtime has criu(8) do it, which it finds by `PATH`.

use std::ffi::OsString;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use super::{LIMIT, Runtime, RuntimeError};
use crate::host::command::{Command, CommandError};

/// The oldest criu that upstream's CRI daemons take for single containers.
pub const OLDEST_CRIU: (u32, u32) = (3, 16);
/// How much of criu's log is searched, from its end.
const LOG_TAIL: u64 = 64 << 10;
/// How many of its errors are told.
const MOST_ERRORS: usize = 3;
/// criu's log, in the folder that it works in.
pub const LOG: &str = "dump.log";

/// Where a dump goes and who makes it.
#[derive(Debug, Clone, Copy)]
pub struct Dump<'a> {
    pub criu: &'a Path,
    /// criu's images: memory, open files, sockets.
    pub images: &'a Path,
    /// Its log and statistics.
    pub work: &'a Path,
    /// After this time runtime and criu are killed. What they had done by then to the processes stays.
    pub limit: Duration,
}

impl Runtime {
    /// Freezes every process of a running container.
    pub async fn pause(&self, id: &str) -> Result<(), RuntimeError> {
        self.run("pause", id, &["pause", id]).await.map(drop)
    }

    /// Thaws a container; one that is not frozen is left as it is.
    pub async fn resume(&self, id: &str) -> Result<(), RuntimeError> {
        match self.run("resume", id, &["resume", id]).await {
            // runc's and crun's words.
            Err(RuntimeError::Failed { message, .. }) if message.contains("not paused") => Ok(()),
            other => other.map(drop),
        }
    }

    /// Does the runtime have checkpoints? crun may have been built without.
    pub async fn has_checkpoints(&self) -> Result<bool, RuntimeError> {
        let command = Command::new(&self.oci.path).args(["checkpoint", "--help"]);
        let output = command.limit(LIMIT).output_async().await?;
        Ok(output.status.success())
    }

    /// Dumps a container, frozen or not, and leaves it as it was. Its established TCP connections and file locks
    /// are dumped too.
    pub async fn checkpoint(&self, id: &str, dump: &Dump<'_>) -> Result<(), RuntimeError> {
        let command = self
            .command(&["checkpoint", "--leave-running"])
            .args(["--file-locks", "--tcp-established"])
            .arg("--image-path")
            .arg(dump.images)
            .arg("--work-path")
            .arg(dump.work)
            .arg(id)
            .env("PATH", path_with(dump.criu))
            .limit(dump.limit);
        self.finish("checkpoint", id, command).await.map(drop)
    }
}

/// The search path by which that very criu is found.
fn path_with(criu: &Path) -> OsString {
    let mut path = criu
        .parent()
        .unwrap_or(Path::new("/usr/sbin"))
        .as_os_str()
        .to_owned();
    if let Some(rest) = std::env::var_os("PATH") {
        path.push(":");
        path.push(rest);
    }
    path
}

/// The version of a criu, e.g. `(3, 17)`; None if it says something else.
pub async fn criu_version(criu: &Path) -> Result<Option<(u32, u32)>, CommandError> {
    let output = Command::new(criu)
        .arg("--version")
        .limit(LIMIT)
        .run_async()
        .await?;
    Ok(parse_version(&output.text()))
}

/// `Version: 3.17.1`, and a line with the commit where it is no release.
fn parse_version(text: &str) -> Option<(u32, u32)> {
    let version = text
        .lines()
        .find_map(|line| line.trim().strip_prefix("Version:"))?;
    let mut numbers = version.trim().split('.');
    let major = numbers.next()?.parse().ok()?;
    // Absent in `Version: 4`; `16-rc1` is close enough to 16.
    let minor = numbers.next().unwrap_or("0");
    let digits = minor
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(minor.len());
    Some((major, minor.get(..digits)?.parse().ok()?))
}

/// The last errors in criu's log, in its own words; empty where there is no log. What the runtime itself says names
/// only the log.
pub fn errors_in(work: &Path) -> String {
    let path = work.join(LOG);
    let read = || -> std::io::Result<Vec<u8>> {
        use std::io::{Seek, SeekFrom};
        let mut file = std::fs::File::open(&path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL)))?;
        let mut tail = Vec::new();
        file.take(LOG_TAIL).read_to_end(&mut tail)?;
        Ok(tail)
    };
    match read() {
        Ok(tail) => errors_of(&String::from_utf8_lossy(&tail)),
        Err(error) => {
            tracing::debug!(path = %path.display(), %error, "no log of criu's");
            String::new()
        }
    }
}

/// Lines such as `(00.168776) Error (criu/files-reg.c:1790): Can't lookup mount`; the first tell the cause, so those of
/// a privilege that criu only would have liked are left out.
fn errors_of(log: &str) -> String {
    let errors = log.lines().filter_map(|line| {
        let (_, error) = line.split_once("Error (")?;
        let (_, words) = error.split_once("): ")?;
        (!words.contains("Can't setup RLIMIT_NOFILE")).then_some(words.trim())
    });
    let errors: Vec<&str> = errors.take(MOST_ERRORS).collect();
    errors.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_criu_are_read() {
        assert_eq!(parse_version("Version: 3.17.1"), Some((3, 17)));
        assert_eq!(parse_version("Version: 4.2\nGitID: v4.2-1"), Some((4, 2)));
        assert_eq!(parse_version("Version: 4.0-rc1"), Some((4, 0)));
        assert_eq!(parse_version("Version: 4"), Some((4, 0)));
        for bad in ["", "criu 4.2", "Version: x", "Version: 4.x"] {
            assert_eq!(parse_version(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_first_errors_of_a_log_are_told() {
        let log = "(00.01) Error (criu/util.c:1534): rlimit: Can't setup RLIMIT_NOFILE for self: no\n\
            (00.02) Warn  (criu/x.c:1): nothing\n\
            (00.16) Error (criu/files-reg.c:1790): Can't lookup mount=27\n\
            (00.17) Error (criu/cr-dump.c:1545): Dump files (pid: 3660) failed with -1\n";
        let told = "Can't lookup mount=27; Dump files (pid: 3660) failed with -1";
        assert_eq!(errors_of(log), told);
        let many = log.repeat(9);
        assert_eq!(errors_of(&many).split("; ").count(), MOST_ERRORS);
        assert_eq!(errors_of("Error (cut off"), "");
        assert_eq!(errors_in(Path::new("/no/such/folder")), "");
    }

    #[test]
    fn the_criu_that_was_found_is_the_one_that_is_run() {
        let path = path_with(Path::new("/opt/criu/bin/criu"));
        assert!(path.to_string_lossy().starts_with("/opt/criu/bin"));
    }
}
