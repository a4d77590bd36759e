//! The installer: settings, facts, preflight, plan, steps with a journal, receipt, verify.
//! One file per kind of step.
//!
//! [`settings`] say what is wanted, [`facts`] what there is, [`choice`] where things come from; the
//! [`plan`] follows from the three. [`preflight`] tells what speaks against it. The engine does the
//! [`step`]s, each written ahead into the journal of the [`store`], and commits them by writing the
//! [`receipt`]; whatever comes in between, [`undo`] knows what was there before.
//!
//! Nothing here prints: what happens is told as [`Event`]s, what came of it is returned.

pub mod catalog;
pub mod choice;
mod engine;
pub mod facts;
mod failpoint;
pub mod path;
pub mod plan;
pub mod preflight;
pub mod probe;
mod prove;
pub mod receipt;
pub mod report;
mod rollback;
pub mod selftest;
pub mod settings;
mod status;
pub mod step;
pub mod store;
pub mod undo;
mod uninstall;
pub mod verify;

use std::path::PathBuf;

use tokio_util::sync::CancellationToken;

use crate::artifact::Proxies;
use crate::template::TemplateError;

pub use engine::own_exe;
pub use rollback::RollbackError;
pub use settings::{Component, Layer, Profile, Settings, SettingsError, Source};
pub use uninstall::PodsError;

use catalog::CatalogError;
use facts::FactsError;
use preflight::Finding;
use report::StepReport;
use selftest::SelfTestError;
use step::{Progress, StepError};
use store::StoreError;
use verify::VerifyError;

/// The installer with everything it depends on: no ambient state.
pub struct Setup<'a> {
    pub settings: &'a Settings,
    /// This program's file.
    pub exe: PathBuf,
    pub proxies: Proxies,
    /// Cancelled by Ctrl-C: the run stops at the next step and is undone.
    pub cancel: CancellationToken,
    pub tell: &'a dyn Fn(&Event<'_>),
}

/// What happens during a run.
#[derive(Debug)]
pub enum Event<'a> {
    /// A killed run is put right first.
    Recovering {
        run: &'a str,
    },
    /// Upstream is judged: can these be reached?
    Judging {
        urls: &'a [&'a str],
    },
    /// The plan is made; so many steps change something.
    Planned {
        pending: usize,
        notes: &'a [String],
        findings: &'a [Finding],
    },
    /// A step begins that changes something.
    Step {
        step: &'a StepReport,
    },
    Progress(Progress<'a>),
    /// A step has changed something.
    Changed {
        step: &'a StepReport,
    },
    /// The self-test begins.
    Proving,
    /// The run failed; its steps are undone.
    Undoing {
        because: &'a str,
    },
    /// Something was put back.
    Undone {
        what: &'a str,
    },
}

/// What made a run fail.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("{step}")]
    Step {
        step: String,
        source: Box<StepError>,
    },
    #[error("verify the daemon")]
    Verify(#[from] VerifyError),
    #[error("run a pod on the node")]
    SelfTest(#[from] SelfTestError),
    #[error("write the receipt")]
    Commit(#[from] StoreError),
    #[error("interrupted")]
    Interrupted,
}

impl Failure {
    /// The command that helps.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Step { source, .. } => source.hint(),
            Self::Verify(e) => e.hint(),
            Self::SelfTest(e) => e.hint(),
            Self::Commit(e) => e.hint(),
            Self::Interrupted => None,
        }
    }
}

/// Why a verb did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    #[error("look at this machine")]
    Facts(#[from] FactsError),
    #[error("look whether there is anything to do: {step}")]
    Observe {
        step: String,
        source: Box<StepError>,
    },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("make the plan")]
    Plan(#[from] TemplateError),
    #[error("refused before anything was touched")]
    Refused(Vec<Finding>),
    #[error("crio-setup does not run as root")]
    NotRoot,
    /// Nothing was to be done, and yet the node is not well.
    #[error("the node is not healthy")]
    Unhealthy(#[source] Box<Failure>),
    /// The first error, what went wrong while undoing, and what could not be cleared away.
    #[error("{first}")]
    Failed {
        first: Box<Failure>,
        undo: Vec<RollbackError>,
        clean: Vec<StoreError>,
    },
    #[error("undo the run that was cut off")]
    Recovery(Vec<RollbackError>),
    #[error("undo everything")]
    Uninstall(Vec<RollbackError>),
    #[error("pods run on this node: {}", .pods.join(", "))]
    PodsExist { pods: Vec<String> },
    #[error("start ocid to remove its pods")]
    StartForPods(#[source] Box<StepError>),
    #[error("remove the pods")]
    Pods(#[from] PodsError),
}

/// In which state a failed verb left the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aftermath {
    /// Nothing was touched.
    Refused,
    /// As before.
    Undone,
    /// Something is left to be undone.
    Incomplete,
}

impl SetupError {
    pub fn aftermath(&self) -> Aftermath {
        match self {
            Self::Catalog(_)
            | Self::Plan(_)
            | Self::Refused(_)
            | Self::NotRoot
            | Self::PodsExist { .. } => Aftermath::Refused,
            Self::Store(e) if e.is_refusal() => Aftermath::Refused,
            Self::Failed { undo, clean, .. } if undo.is_empty() && clean.is_empty() => {
                Aftermath::Undone
            }
            Self::Failed { .. } | Self::Recovery(_) | Self::Uninstall(_) => Aftermath::Incomplete,
            _ => Aftermath::Undone,
        }
    }

    /// The command that helps.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Facts(FactsError::Apt(e)) => e.hint(),
            Self::Observe { source, .. } | Self::StartForPods(source) => source.hint(),
            Self::Store(e) => e.hint(),
            Self::Plan(e) => e.hint(),
            Self::NotRoot => Some("run it with `sudo`".to_owned()),
            Self::Unhealthy(failure) => failure.hint(),
            Self::Failed { first, .. } => first.hint(),
            Self::Recovery(errors) | Self::Uninstall(errors) => {
                errors.iter().find_map(RollbackError::hint)
            }
            Self::PodsExist { .. } => Some(
                "remove them with `ocic pod remove`, or have them stopped and removed with `crio-setup uninstall --force`"
                    .to_owned(),
            ),
            Self::Catalog(_) | Self::Facts(_) | Self::Refused(_) | Self::Pods(_) => None,
        }
    }
}

/// An error with all its causes in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}
