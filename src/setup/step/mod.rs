//! The kinds of step. Each says what it is, looks whether there is anything to do, does it, and
//! tells what was there before; undoing works from that record alone ([`Undo`]).

mod artifact;
mod binary;
mod byproduct;
mod content;
mod context;
mod directory;
mod error;
mod file;
mod links;
mod module;
mod package;
mod service;
mod symlink;
mod sysctl;
mod unpack;

use std::path::{Path, PathBuf};

use serde::Serialize;

pub use artifact::ArtifactStep;
pub use binary::OwnBinary;
pub use byproduct::Byproduct;
pub use content::{Content, ProgramAt};
pub use context::{Context, Progress};
pub use directory::Directory;
pub use error::StepError;
pub use file::FileStep;
pub use links::Links;
pub use module::Module;
pub use package::Package;
pub use service::ServiceStep;
pub(super) use service::start as start_service;
pub use symlink::SymlinkStep;
pub use sysctl::Sysctl;
pub use unpack::UnpackStep;

use super::settings::Component;
use super::undo::Undo;

/// One unit of change and of reversion.
#[derive(Debug, Clone)]
pub struct Step {
    /// Stable from run to run: `COMPONENT:KIND:OBJECT`.
    pub id: String,
    pub component: Component,
    pub kind: Kind,
}

#[derive(Debug, Clone)]
pub enum Kind {
    Package(Package),
    Directory(Directory),
    File(FileStep),
    OwnBinary(OwnBinary),
    Artifact(ArtifactStep),
    Unpack(UnpackStep),
    Links(Links),
    Symlink(SymlinkStep),
    Module(Module),
    Sysctl(Sysctl),
    Byproduct(Byproduct),
    Service(ServiceStep),
}

/// What looking at the machine says about a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", content = "detail", rename_all = "kebab-case")]
pub enum Observation {
    Satisfied,
    /// There is something to do, for this reason.
    Pending(String),
    /// It differs on purpose and stays so.
    Kept(String),
    /// Something that is not ours stands in the way.
    Foreign(Foreign),
}

/// What stands where we want to write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Foreign {
    pub path: PathBuf,
    /// `a file`, `a link to X`, `a folder`.
    pub what: String,
    /// May it be replaced when the user says so? A folder may not.
    pub replaceable: bool,
}

/// A kind of step.
pub trait Action {
    /// What it does, for people: `write `/etc/x``.
    fn describe(&self) -> String;

    /// Looks whether there is something to do.
    fn observe(&self, context: &mut Context<'_>) -> Result<Observation, StepError>;

    /// Does it. [`Context::start`] comes before the first change; what is returned describes the
    /// finished change.
    fn apply(&self, context: &mut Context<'_>) -> Result<Vec<Undo>, StepError>;

    /// The paths that it writes.
    fn paths(&self) -> Vec<&Path> {
        Vec::new()
    }
}

impl Step {
    pub fn new(component: Component, name: impl std::fmt::Display, kind: Kind) -> Self {
        Self {
            id: format!("{component}:{name}"),
            component,
            kind,
        }
    }

    /// Its kind's behaviour.
    pub fn action(&self) -> &dyn Action {
        match &self.kind {
            Kind::Package(step) => step,
            Kind::Directory(step) => step,
            Kind::File(step) => step,
            Kind::OwnBinary(step) => step,
            Kind::Artifact(step) => step,
            Kind::Unpack(step) => step,
            Kind::Links(step) => step,
            Kind::Symlink(step) => step,
            Kind::Module(step) => step,
            Kind::Sysctl(step) => step,
            Kind::Byproduct(step) => step,
            Kind::Service(step) => step,
        }
    }
}
