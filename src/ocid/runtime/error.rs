//! Why the OCI runtime, or a monitor in front of it, did not do what it was asked.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::host::command::CommandError;
use crate::ocid::monitor::client::ClientError;

#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The command does not exist in the container or cannot be executed; the runtime's words name it.
    #[error("{message}")]
    CommandNotFound { message: String },
    /// The runtime's own words.
    #[error("{action} container `{id}`: {message}")]
    Failed {
        action: &'static str,
        id: String,
        message: String,
    },
    #[error("container `{id}` is not known to the OCI runtime")]
    NoSuchContainer { id: String },
    #[error("container `{id}` is not running")]
    NotRunning { id: String },
    #[error("the command did not end within {limit:?} and was killed with its children")]
    TimedOut { limit: Duration },
    #[error("{what} of container `{id}`")]
    Io {
        what: &'static str,
        id: String,
        source: io::Error,
    },
    #[error("start the monitor of container `{id}` from `{exe}`")]
    Spawn {
        id: String,
        exe: PathBuf,
        source: io::Error,
    },
    /// Killed, or an error that it could not report.
    #[error("the monitor of container `{id}` ended without an answer: {message}")]
    MonitorLost { id: String, message: String },
    #[error(transparent)]
    Command(#[from] CommandError),
    #[error(transparent)]
    Monitor(#[from] ClientError),
}

impl RuntimeError {
    /// What a person can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::CommandNotFound { .. } => {
                Some("check `command` and `args` against what the image holds".to_owned())
            }
            Self::Command(CommandError::Spawn { .. }) | Self::Spawn { .. } => {
                Some("`crio-setup status` shows what is missing".to_owned())
            }
            _ => None,
        }
    }

    /// Sorts the runtime's words into what callers tell apart.
    pub(super) fn from_message(action: &'static str, id: &str, message: String) -> Self {
        let id = id.to_owned();
        let has = |text: &str| message.contains(text);
        if is_command_not_found(&message) {
            Self::CommandNotFound { message }
        } else if action == "create" {
            Self::Failed {
                action,
                id,
                message,
            }
        } else if has("container does not exist")
            || has("/status`") && has("No such file or directory")
        {
            Self::NoSuchContainer { id }
        } else if has("container not running")
            || has("process already finished")
            || has("container is not running")
            || has("cannot exec in a stopped container")
            || has("cannot exec a container that has stopped")
            || has("not in running state")
        {
            Self::NotRunning { id }
        } else {
            Self::Failed {
                action,
                id,
                message,
            }
        }
    }
}

/// runc quotes what it could not execute as `exec: "NAME": reason`, crun as ``executable file `NAME` not found``.
fn is_command_not_found(message: &str) -> bool {
    let reasons = [
        "executable file not found in $PATH",
        "no such file or directory",
        "permission denied",
        "is a directory",
    ];
    (message.contains("exec: \"") && reasons.iter().any(|r| message.contains(r)))
        || message.contains("executable file `")
        || message.contains("executable path is empty")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sorted(action: &'static str, message: &str) -> RuntimeError {
        RuntimeError::from_message(action, "a", message.to_owned())
    }

    #[test]
    fn the_runtimes_words_are_sorted() {
        let create = |message: &str| sorted("create", message);
        let start = "runc create failed: unable to start container process: ";
        let missing = format!("{start}exec: \"nope\": executable file not found in $PATH");
        assert!(matches!(
            create(&missing),
            RuntimeError::CommandNotFound { .. }
        ));
        assert_eq!(create(&missing).to_string(), missing);
        let folder = format!("{start}exec: \"/etc\": permission denied");
        assert!(matches!(
            create(&folder),
            RuntimeError::CommandNotFound { .. }
        ));
        for other in [
            "error mounting \"/x\": no such file or directory",
            "container does not exist",
        ] {
            let message = format!("{start}{other}");
            assert!(
                matches!(create(&message), RuntimeError::Failed { .. }),
                "{message}"
            );
        }
        let kill = |message: &str| sorted("kill", message);
        assert!(matches!(
            kill("container does not exist"),
            RuntimeError::NoSuchContainer { .. }
        ));
        let crun = "error opening file `/run/crun/a/status`: No such file or directory";
        assert!(matches!(kill(crun), RuntimeError::NoSuchContainer { .. }));
        assert!(matches!(
            kill("container not running"),
            RuntimeError::NotRunning { .. }
        ));
        assert_eq!(kill("odd").to_string(), "kill container `a`: odd");
    }
}
