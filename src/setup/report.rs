//! What the verbs report, for people and, as JSON, for programs.

use serde::Serialize;

use super::choice::Choice;
use super::preflight::Finding;
use super::selftest;
use super::settings::Component;
use super::step::{Observation, Step};
use super::verify::Health;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum StepState {
    Satisfied,
    Pending,
    Changed,
    Kept,
    Foreign,
}

/// One step.
#[derive(Debug, Clone, Serialize)]
pub struct StepReport {
    pub id: String,
    pub component: Component,
    /// What it does.
    pub action: String,
    pub state: StepState,
    /// Why; empty when satisfied.
    pub detail: String,
}

impl StepReport {
    pub fn new(step: &Step, state: &Observation) -> Self {
        let (word, detail) = match state {
            Observation::Satisfied => (StepState::Satisfied, String::new()),
            Observation::Pending(why) => (StepState::Pending, why.clone()),
            Observation::Kept(why) => (StepState::Kept, why.clone()),
            Observation::Foreign(foreign) => (
                StepState::Foreign,
                format!(
                    "`{}` is {} that is not ours",
                    foreign.path.display(),
                    foreign.what
                ),
            ),
        };
        Self {
            id: step.id.clone(),
            component: step.component,
            action: step.action().describe(),
            state: word,
            detail,
        }
    }
}

/// Of `plan`.
#[derive(Debug, Clone, Serialize)]
pub struct PlanReport {
    /// Steps that would change something.
    pub pending: usize,
    /// `install` would refuse.
    pub refused: bool,
    /// A run was cut off; `install` would undo it first.
    pub unfinished: bool,
    pub choices: Vec<Choice>,
    pub steps: Vec<StepReport>,
    pub findings: Vec<Finding>,
    pub notes: Vec<String>,
}

/// Of `install`.
#[derive(Debug, Clone, Serialize)]
pub struct InstallReport {
    /// Steps that changed something.
    pub changed: usize,
    pub choices: Vec<Choice>,
    pub steps: Vec<StepReport>,
    pub findings: Vec<Finding>,
    pub notes: Vec<String>,
    /// Of the daemon; none for an image tree or a node without ocid.
    pub health: Option<Health>,
    pub selftest: Option<selftest::Report>,
    pub duration_ms: u64,
}

/// Of `uninstall`.
#[derive(Debug, Clone, Default, Serialize)]
pub struct UninstallReport {
    /// Resources that were put back.
    pub changed: usize,
    pub pods_removed: usize,
    /// What stays, and why.
    pub kept: Vec<String>,
}

/// Of `status`.
#[derive(Debug, Clone, Default, Serialize)]
pub struct StatusReport {
    pub installed: bool,
    /// Everything of ours is as we left it and the daemon is ready.
    pub healthy: bool,
    /// A run was cut off; the next `install` or `uninstall` puts it right.
    pub unfinished: bool,
    /// The build that installed.
    pub version: Option<String>,
    pub components: Vec<ComponentStatus>,
    pub services: Vec<ServiceStatus>,
    /// What was changed or removed since we wrote it.
    pub drift: Vec<String>,
    pub health: Option<Health>,
    /// Why there is no health.
    pub problem: Option<String>,
}

#[derive(Debug, Clone, Serialize)]
pub struct ComponentStatus {
    pub component: Component,
    /// `upstream`, `distro`, `kept`, or none where there is nothing to choose.
    pub source: Option<super::receipt::SourceRecord>,
    /// Resources of it that are ours.
    pub resources: usize,
}

#[derive(Debug, Clone, Serialize)]
pub struct ServiceStatus {
    pub name: String,
    pub running: bool,
    pub pid: Option<i32>,
}
