//! One upstream executable.

use std::path::{Path, PathBuf};

use crate::artifact::Sha256Sum;
use crate::setup::catalog::Artifact;
use crate::setup::path::{Current, Wrote, put_ready};
use crate::setup::undo::Undo;

use super::{Action, Context, Observation, StepError};

const MODE: u32 = 0o755;

#[derive(Debug, Clone)]
pub struct ArtifactStep {
    pub artifact: Artifact,
    pub path: PathBuf,
    /// Another version that we installed earlier is good enough.
    pub keep: bool,
}

impl Action for ArtifactStep {
    fn describe(&self) -> String {
        let Artifact {
            component, version, ..
        } = &self.artifact;
        format!("fetch {component} {version} into `{}`", self.path.display())
    }

    fn observe(&self, context: &mut Context<'_>) -> Result<Observation, StepError> {
        let current = context.current(&self.path)?;
        let Current::File(_) = &current else {
            return Ok(match current {
                Current::Absent => Observation::Pending("is missing".to_owned()),
                _ => context.foreign(&self.path, &current),
            });
        };
        let known = context.receipt.wrote(&self.path);
        let untouched = match known {
            Some((wrote @ Wrote::File { sha256, .. }, _))
                if self.keep || *sha256 == self.artifact.sha256 =>
            {
                current
                    .is(&context.real(&self.path), wrote)
                    .map_err(StepError::io("read", &self.path))?
            }
            _ => false,
        };
        let same = untouched
            || Sha256Sum::of_file(&context.real(&self.path))
                .map_err(StepError::io("read", &self.path))?
                == self.artifact.sha256;
        Ok(if same {
            Observation::Satisfied
        } else if known.is_some() {
            Observation::Pending(format!("is not version {}", self.artifact.version))
        } else {
            context.foreign(&self.path, &current)
        })
    }

    fn apply(&self, context: &mut Context<'_>) -> Result<Vec<Undo>, StepError> {
        let folder = self.path.parent().unwrap_or(Path::new("/"));
        let scratch = context.scratch(folder)?;
        let file = context.fetch(&self.artifact, &scratch)?;
        let before = context.capture(&self.path)?;
        let undo = |stamp| Undo::Path {
            path: self.path.clone(),
            before: before.clone(),
            wrote: Wrote::File {
                sha256: self.artifact.sha256,
                mode: MODE,
                stamp,
            },
            origin: None,
        };
        context.start(&[undo(None)])?;
        let stamp = put_ready(file.path(), &context.real(&self.path), MODE)
            .map_err(StepError::io("write", &self.path))?;
        context.changed.insert(self.path.clone());
        Ok(vec![undo(Some(stamp))])
    }

    fn paths(&self) -> Vec<&Path> {
        vec![&self.path]
    }
}
