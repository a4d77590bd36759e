//! A folder, with those above it that are missing.

use std::fs::{self, DirBuilder, Permissions};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::host::fs::sync_dir;
use crate::setup::failpoint;
use crate::setup::undo::Undo;

use super::{Action, Context, Foreign, Observation, StepError};

#[derive(Debug, Clone)]
pub struct Directory {
    pub path: PathBuf,
    /// Of a folder that we make; one that is there keeps its own.
    pub mode: u32,
    /// Whatever is put into a folder that we made is ours and goes with it.
    pub purge: bool,
}

impl Action for Directory {
    fn describe(&self) -> String {
        format!("make the folder `{}`", self.path.display())
    }

    fn observe(&self, context: &mut Context<'_>) -> Result<Observation, StepError> {
        if context.is_folder(&self.path) {
            return Ok(Observation::Satisfied);
        }
        for path in self.path.ancestors() {
            let real = context.real(path);
            let there = crate::setup::path::look(&real).map_err(StepError::io("look at", path))?;
            if there.is_some() && !context.is_folder(path) {
                return Ok(Observation::Foreign(Foreign {
                    path: path.to_owned(),
                    what: "something that is no folder".to_owned(),
                    replaceable: false,
                }));
            }
        }
        Ok(Observation::Pending("is missing".to_owned()))
    }

    fn apply(&self, context: &mut Context<'_>) -> Result<Vec<Undo>, StepError> {
        let mut missing: Vec<&Path> = self
            .path
            .ancestors()
            .take_while(|path| !context.is_folder(path))
            .collect();
        missing.reverse();
        let undo: Vec<Undo> = missing
            .iter()
            .map(|path| Undo::Folder {
                path: path.to_path_buf(),
                purge: self.purge && *path == self.path,
            })
            .collect();
        context.start(&undo)?;
        for path in missing {
            let real = context.real(path);
            let mode = if path == self.path { self.mode } else { 0o755 };
            let make = || {
                DirBuilder::new().mode(0o700).create(&real)?;
                failpoint::pass("folder-made");
                // Whatever the umask is.
                fs::set_permissions(&real, Permissions::from_mode(mode))?;
                real.parent().map_or(Ok(()), sync_dir)
            };
            make().map_err(StepError::io("make the folder", path))?;
        }
        Ok(undo)
    }

    fn paths(&self) -> Vec<&Path> {
        vec![&self.path]
    }
}
