//! Every program of one folder made available in another: the distribution's CNI plugins in
//! `/opt/cni/bin`, where the world looks for them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::setup::path::{Current, Wrote, put_symlink};
use crate::setup::undo::Undo;

use super::{Action, Context, Observation, StepError};

#[derive(Debug, Clone)]
pub struct Links {
    pub from: PathBuf,
    pub into: PathBuf,
}

impl Links {
    /// The links that are to be made or put right, with their targets. What others have put there
    /// under the same name is as good as ours.
    fn missing(&self, context: &Context<'_>) -> Result<Option<Vec<(PathBuf, PathBuf)>>, StepError> {
        let entries = match fs::read_dir(context.real(&self.from)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            entries => entries.map_err(StepError::io("list", &self.from))?,
        };
        let mut missing = Vec::new();
        for entry in entries {
            let name = entry
                .map_err(StepError::io("list", &self.from))?
                .file_name();
            let (link, target) = (self.into.join(&name), self.from.join(&name));
            let wanted = match context.current(&link)? {
                Current::Absent => true,
                Current::Symlink(to) if to == target => false,
                _ => context.receipt.wrote(&link).is_some(),
            };
            if wanted && fs::metadata(context.real(&target)).is_ok_and(|m| m.is_file()) {
                missing.push((link, target));
            }
        }
        missing.sort();
        Ok(Some(missing))
    }
}

impl Action for Links {
    fn describe(&self) -> String {
        format!(
            "link the programs of `{}` into `{}`",
            self.from.display(),
            self.into.display()
        )
    }

    fn observe(&self, context: &mut Context<'_>) -> Result<Observation, StepError> {
        Ok(match self.missing(context)? {
            None => Observation::Pending("waits for its package".to_owned()),
            Some(missing) if missing.is_empty() => Observation::Satisfied,
            Some(missing) => Observation::Pending(format!("{} are missing", missing.len())),
        })
    }

    fn apply(&self, context: &mut Context<'_>) -> Result<Vec<Undo>, StepError> {
        let missing = self.missing(context)?.unwrap_or_default();
        let mut undo = Vec::new();
        for (path, target) in &missing {
            undo.push(Undo::Path {
                path: path.clone(),
                before: context.capture(path)?,
                wrote: Wrote::Symlink {
                    target: target.clone(),
                },
                origin: None,
            });
        }
        context.start(&undo)?;
        for (path, target) in missing {
            put_symlink(&context.real(&path), context.run(), &target)
                .map_err(StepError::io("link", &path))?;
            context.changed.insert(path);
        }
        Ok(undo)
    }

    fn paths(&self) -> Vec<&Path> {
        vec![&self.into]
    }
}
