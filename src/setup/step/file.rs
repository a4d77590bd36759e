//! A file with rendered content.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::artifact::Sha256Sum;
use crate::setup::path::{Current, Stamp, Wrote, put_file};
use crate::setup::undo::Undo;

use super::{Action, Content, Context, Observation, StepError};

#[derive(Debug, Clone)]
pub struct FileStep {
    pub path: PathBuf,
    pub mode: u32,
    pub content: Content,
    /// Configuration: what the user has changed since we wrote it stays as the user wants it.
    pub keep_edits: bool,
}

impl Action for FileStep {
    fn describe(&self) -> String {
        format!("write `{}`", self.path.display())
    }

    fn observe(&self, context: &mut Context<'_>) -> Result<Observation, StepError> {
        let wanted = self.content.render(context)?;
        let current = context.current(&self.path)?;
        let known = context
            .receipt
            .wrote(&self.path)
            .map(|(wrote, _)| wrote.clone());
        if let Current::Absent = current {
            return Ok(Observation::Pending("is missing".to_owned()));
        }
        if let (Current::File(meta), Some(wanted)) = (&current, &wanted) {
            let stamp = Stamp::of(meta);
            let untouched = matches!(
                &known,
                Some(Wrote::File { sha256, stamp: Some(s), .. })
                    if *s == stamp && *sha256 == Sha256Sum::of(wanted)
            );
            let same = untouched
                || stamp.size == wanted.len() as u64
                    && fs::read(context.real(&self.path))
                        .map_err(StepError::io("read", &self.path))?
                        == *wanted;
            if same && meta.permissions().mode() & 0o7777 == self.mode {
                return Ok(Observation::Satisfied);
            }
        }
        let Some(known) = known else {
            return Ok(context.foreign(&self.path, &current));
        };
        let ours = current
            .is(&context.real(&self.path), &known)
            .map_err(StepError::io("read", &self.path))?;
        if ours {
            return Ok(match wanted {
                Some(_) => Observation::Pending("has new content".to_owned()),
                None => Observation::Pending("waits for an earlier step".to_owned()),
            });
        }
        if let Current::Other = current {
            return Ok(context.foreign(&self.path, &current));
        }
        Ok(if self.keep_edits {
            Observation::Kept("was changed since crio-setup wrote it".to_owned())
        } else {
            Observation::Pending("was changed and is put right".to_owned())
        })
    }

    fn apply(&self, context: &mut Context<'_>) -> Result<Vec<Undo>, StepError> {
        let bytes = self.content.require(context)?;
        let before = context.capture(&self.path)?;
        let sha256 = Sha256Sum::of(&bytes);
        let undo = |stamp| Undo::Path {
            path: self.path.clone(),
            before: before.clone(),
            wrote: Wrote::File {
                sha256,
                mode: self.mode,
                stamp,
            },
            origin: None,
        };
        context.start(&[undo(None)])?;
        let real = context.real(&self.path);
        let stamp = put_file(&real, context.run(), &bytes, self.mode)
            .map_err(StepError::io("write", &self.path))?;
        context.changed.insert(self.path.clone());
        Ok(vec![undo(Some(stamp))])
    }

    fn paths(&self) -> Vec<&Path> {
        vec![&self.path]
    }
}
