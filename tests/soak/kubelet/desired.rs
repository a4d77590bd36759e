//! What is desired of one container, and how it may end.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Result, ensure};
use crio_setup::cri::v1;

use crate::model::Numbers;

/// What a container does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Runs until it is told to stop.
    Long,
    /// Ends by itself after some seconds, with this code.
    Brief(i32),
    /// Runs, and fails its probe after some seconds.
    Sick,
}

impl Kind {
    pub fn any(numbers: &mut Numbers) -> Self {
        match numbers.below(5) {
            0 => Self::Brief(i32::try_from(numbers.below(6)).unwrap_or(0)),
            1 => Self::Sick,
            _ => Self::Long,
        }
    }

    pub fn script(self) -> String {
        let serve = "trap 'exit 0' TERM; while true; do echo tick; sleep 3 & wait $!; done";
        match self {
            Self::Long => format!("echo up; {serve}"),
            Self::Brief(code) => format!("echo up; sleep 3; exit {code}"),
            Self::Sick => format!("echo up; (sleep 3; touch /tmp/sick) & {serve}"),
        }
    }
}

/// A container of the pod, through all its attempts.
pub struct Desired {
    pub name: String,
    pub kind: Kind,
    pub current: Option<Current>,
    /// A call was cut off: the newest that is there counts.
    pub unsure: bool,
    pub restarts: u32,
    pub restart: Instant,
}

pub struct Current {
    pub id: String,
    pub log: PathBuf,
    pub running: bool,
    /// By us.
    pub stopped: bool,
    pub failures: u32,
    pub rotated: bool,
}

impl Desired {
    pub fn runs(&self) -> bool {
        self.current.as_ref().is_some_and(|current| current.running)
    }

    pub fn up(&self) -> Option<&Current> {
        self.current
            .as_ref()
            .filter(|current| current.is_up() && !self.unsure)
    }
}

impl Current {
    /// Has its program said so? Before that a signal could meet the runtime's own first process.
    pub fn is_up(&self) -> bool {
        let said = || std::fs::metadata(&self.log).is_ok_and(|log| log.len() > 0);
        self.running && !self.stopped && (self.rotated || said())
    }
}

pub fn log_name(name: &str, attempt: u32) -> String {
    format!("{name}_{attempt}.log")
}

pub fn check_end(kind: Kind, stopped: bool, status: &v1::ContainerStatus) -> Result<()> {
    // Of a stop: by its handler, or killed when the grace period was over.
    let by_us = [0, 137, 143].contains(&status.exit_code) && stopped;
    let by_itself = match kind {
        Kind::Brief(code) => status.exit_code == code,
        Kind::Long | Kind::Sick => false,
    };
    let times = status.finished_at >= status.started_at && status.started_at >= status.created_at;
    ensure!(
        times && (by_us || by_itself),
        "{kind:?}, stopped: {stopped}: {status:?}"
    );
    Ok(())
}
