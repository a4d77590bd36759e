//! A real pod, from pull to exit code, without anything beyond the machine: an image made of this very
//! program, served by a registry on loopback and pulled by ocid like any other, on a network of its
//! own. Removed without a trace, also after a failure; what a killed run left goes first.

mod image;
mod log;
mod network;
pub mod peer;
mod pod;
mod registry;
mod run;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Serialize, Serializer};
use tokio_util::sync::CancellationToken;

use crate::ocic::client::ClientError;
use crate::ocic::logs::LogError;

/// What to test.
#[derive(Debug, Clone)]
pub struct SelfTest {
    /// The daemon's CRI socket.
    pub socket: PathBuf,
    /// The daemon's `runroot`: the self-test works in `selftest` below it.
    pub runroot: PathBuf,
    /// A static program with the hidden face `selftest-peer`: this one.
    pub exe: PathBuf,
    /// At most what the installed plugins answer to VERSION.
    pub cni_version: String,
    /// For each answer of the daemon.
    pub limit: Duration,
    /// Ends the test from another thread, at its next stage.
    pub cancel: CancellationToken,
}

impl SelfTest {
    /// With an image of this very program, and half a minute for each answer.
    pub fn new(socket: impl Into<PathBuf>, runroot: impl Into<PathBuf>) -> Self {
        Self {
            socket: socket.into(),
            runroot: runroot.into(),
            exe: "/proc/self/exe".into(),
            cni_version: "0.4.0".to_owned(),
            limit: Duration::from_secs(30),
            cancel: CancellationToken::new(),
        }
    }
}

/// What the self-test does, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// The daemon answers `Version` and `Status`, and its runtime is ready.
    Connect,
    /// Image, registry and network are made.
    Prepare,
    /// The image is pulled, every digest checked.
    Pull,
    /// The pod stands and has an address of the test's network.
    Pod,
    /// The container runs, and its first line is in its log.
    Container,
    /// TCP from the machine to the pod's address.
    Network,
    /// A command in the container: both outputs and the exit code.
    Exec,
    /// SIGTERM: the container's own exit code and its last words in the log.
    Stop,
    /// Nothing is left.
    CleanUp,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connect => "connect",
            Self::Prepare => "prepare",
            Self::Pull => "pull",
            Self::Pod => "pod",
            Self::Container => "container",
            Self::Network => "network",
            Self::Exec => "exec",
            Self::Stop => "stop",
            Self::CleanUp => "clean-up",
        })
    }
}

/// A self-test that passed.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    pub steps: Vec<StepReport>,
    /// The address that answered.
    pub pod_ip: String,
}

/// One stage and how long it took.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct StepReport {
    pub stage: Stage,
    /// In JSON: milliseconds, as `duration_ms`.
    #[serde(rename = "duration_ms", serialize_with = "milliseconds")]
    pub duration: Duration,
}

fn milliseconds<S: Serializer>(duration: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_f64((duration.as_secs_f64() * 1e6).round() / 1e3)
}

/// A self-test that failed, and what it could not remove again.
#[derive(Debug, thiserror::Error)]
#[error("self-test, {stage}{}", left(.leftovers))]
pub struct SelfTestError {
    pub stage: Stage,
    pub source: Cause,
    /// What failed while cleaning up, each with its reason.
    pub leftovers: Vec<String>,
}

fn left(leftovers: &[String]) -> String {
    if leftovers.is_empty() {
        String::new()
    } else {
        format!(" (and not cleaned up: {})", leftovers.join("; "))
    }
}

impl SelfTestError {
    /// What helps.
    pub fn hint(&self) -> Option<String> {
        match &self.source {
            Cause::Verify(e) => e.hint(),
            Cause::Client(e) => e
                .hint()
                .or_else(|| Some("`journalctl -u ocid` tells what the daemon did".to_owned())),
            Cause::Busy { .. } => Some("wait for it to end".to_owned()),
            Cause::Cancelled => None,
            _ if self.stage == Stage::Network => Some(
                "see `ip -br address` and `iptables -S`: a firewall may stand between the machine \
                 and its pods"
                    .to_owned(),
            ),
            _ => Some("`journalctl -u ocid` tells what the daemon did".to_owned()),
        }
    }
}

/// Why a stage failed.
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    #[error(transparent)]
    Verify(#[from] super::verify::VerifyError),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Network(#[from] network::NetworkError),
    #[error("{act}")]
    Io { act: String, source: io::Error },
    #[error("read the container's log `{path}`")]
    Log { path: PathBuf, source: LogError },
    #[error("{what}: expected {expected}, got {got}")]
    Unexpected {
        what: String,
        expected: String,
        got: String,
    },
    #[error("{what} within {limit:?}")]
    TooSlow { what: String, limit: Duration },
    #[error("another self-test uses `{folder}`")]
    Busy { folder: PathBuf },
    #[error("cancelled")]
    Cancelled,
}

/// Runs the self-test. For code without an async runtime.
pub fn run(test: &SelfTest) -> Result<Report, SelfTestError> {
    match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime.block_on(run::run(test)),
        Err(source) => Err(SelfTestError {
            stage: Stage::Connect,
            source: Cause::Io {
                act: "start the async runtime".to_owned(),
                source,
            },
            leftovers: Vec::new(),
        }),
    }
}

#[cfg(test)]
mod tests;
