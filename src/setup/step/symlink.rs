//! One symlink.

use std::path::{Path, PathBuf};

use crate::setup::path::{Current, Wrote, put_symlink};
use crate::setup::undo::Undo;

use super::{Action, Context, Observation, StepError};

#[derive(Debug, Clone)]
pub struct SymlinkStep {
    pub path: PathBuf,
    pub target: PathBuf,
    /// A link of this name serves whatever it leads to: an enabled unit is enabled by name.
    pub any_target: bool,
}

impl Action for SymlinkStep {
    fn describe(&self) -> String {
        format!(
            "link `{}` to `{}`",
            self.path.display(),
            self.target.display()
        )
    }

    fn observe(&self, context: &mut Context<'_>) -> Result<Observation, StepError> {
        let current = context.current(&self.path)?;
        Ok(match &current {
            Current::Absent => Observation::Pending("is missing".to_owned()),
            Current::Symlink(to) if self.any_target || *to == self.target => Observation::Satisfied,
            _ => match context.receipt.wrote(&self.path) {
                Some(_) if !matches!(current, Current::Other) => {
                    Observation::Pending("leads elsewhere".to_owned())
                }
                _ => context.foreign(&self.path, &current),
            },
        })
    }

    fn apply(&self, context: &mut Context<'_>) -> Result<Vec<Undo>, StepError> {
        let undo = vec![Undo::Path {
            path: self.path.clone(),
            before: context.capture(&self.path)?,
            wrote: Wrote::Symlink {
                target: self.target.clone(),
            },
            origin: None,
        }];
        context.start(&undo)?;
        put_symlink(&context.real(&self.path), context.run(), &self.target)
            .map_err(StepError::io("link", &self.path))?;
        context.changed.insert(self.path.clone());
        Ok(undo)
    }

    fn paths(&self) -> Vec<&Path> {
        vec![&self.path]
    }
}
