//! This very program, copied to where the node keeps it.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::artifact::Sha256Sum;
use crate::setup::failpoint;
use crate::setup::path::{Current, Stamp, Wrote, put_ready, remove_if_there, temporary};
use crate::setup::undo::{Origin, Undo};

use super::{Action, Context, Observation, StepError};

const MODE: u32 = 0o755;

#[derive(Debug, Clone)]
pub struct OwnBinary {
    pub path: PathBuf,
}

impl Action for OwnBinary {
    fn describe(&self) -> String {
        format!("copy this program to `{}`", self.path.display())
    }

    fn observe(&self, context: &mut Context<'_>) -> Result<Observation, StepError> {
        let current = context.current(&self.path)?;
        let Current::File(meta) = &current else {
            return Ok(match current {
                Current::Absent => Observation::Pending("is missing".to_owned()),
                _ => context.foreign(&self.path, &current),
            });
        };
        let exe = &context.facts.exe;
        let source = fs::metadata(exe).map_err(StepError::io("look at", exe))?;
        if (source.dev(), source.ino()) == (meta.dev(), meta.ino()) {
            return Ok(Observation::Satisfied);
        }
        let known = context.receipt.wrote(&self.path);
        if let Some((Wrote::File { stamp, .. }, Some(Origin::Copy { stamp: of }))) = known
            && *stamp == Some(Stamp::of(meta))
            && *of == Stamp::of(&source)
        {
            return Ok(Observation::Satisfied);
        }
        let real = context.real(&self.path);
        let same = source.size() == meta.size()
            && Sha256Sum::of_file(exe).map_err(StepError::io("read", exe))?
                == Sha256Sum::of_file(&real).map_err(StepError::io("read", &self.path))?;
        Ok(if same {
            Observation::Satisfied
        } else if known.is_some() {
            Observation::Pending("is of another build".to_owned())
        } else {
            context.foreign(&self.path, &current)
        })
    }

    fn apply(&self, context: &mut Context<'_>) -> Result<Vec<Undo>, StepError> {
        let exe = context.facts.exe.clone();
        let source = fs::metadata(&exe).map_err(StepError::io("look at", &exe))?;
        let sha256 = Sha256Sum::of_file(&exe).map_err(StepError::io("read", &exe))?;
        let before = context.capture(&self.path)?;
        let undo = |stamp| Undo::Path {
            path: self.path.clone(),
            before: before.clone(),
            wrote: Wrote::File {
                sha256,
                mode: MODE,
                stamp,
            },
            origin: Some(Origin::Copy {
                stamp: Stamp::of(&source),
            }),
        };
        context.start(&[undo(None)])?;
        let real = context.real(&self.path);
        let temp = temporary(&real, context.run());
        let copy = || {
            remove_if_there(&temp)?;
            let mut to = File::options()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&temp)?;
            failpoint::pass("temporary-made");
            io::copy(&mut File::open(&exe)?, &mut to)?;
            put_ready(&temp, &real, MODE)
        };
        let stamp = copy().map_err(StepError::io("write", &self.path))?;
        context.changed.insert(self.path.clone());
        Ok(vec![undo(Some(stamp))])
    }

    fn paths(&self) -> Vec<&Path> {
        vec![&self.path]
    }
}
