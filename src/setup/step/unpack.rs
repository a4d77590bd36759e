//! The programs of an upstream archive, in a folder that others may use as well.
//!
//! The archive is fetched, verified and unpacked in a working folder on the same file system; only
//! then do its files move to their places, one rename each.

use std::fs;
use std::path::{Path, PathBuf};

use crate::artifact::Sha256Sum;
use crate::artifact::archive::{self, Caps, Unpack};
use crate::setup::catalog::Artifact;
use crate::setup::path::{Current, Wrote, put_ready};
use crate::setup::undo::{Origin, Undo};

use super::{Action, Context, Observation, StepError};

#[derive(Debug, Clone)]
pub struct UnpackStep {
    pub artifact: Artifact,
    pub folder: PathBuf,
    /// Another version that we installed earlier is good enough.
    pub keep: bool,
}

impl UnpackStep {
    fn origin(&self) -> Origin {
        Origin::Archive {
            sha256: self.artifact.sha256,
        }
    }

    /// The archive whose files are to be there.
    fn expected(&self, context: &Context<'_>) -> Origin {
        let member = self.artifact.members.first();
        let recorded = member.and_then(|m| context.receipt.wrote(&self.folder.join(m)));
        match recorded {
            Some((_, Some(origin @ Origin::Archive { .. }))) if self.keep => origin.clone(),
            _ => self.origin(),
        }
    }

    /// Are all files that we have of the archive as we left them, and those that we need among
    /// them?
    fn is_whole(&self, context: &Context<'_>) -> Result<bool, StepError> {
        let origin = self.expected(context);
        let mut files = Vec::new();
        for record in &context.receipt.records {
            let Undo::Path {
                path,
                wrote: wrote @ Wrote::File { .. },
                origin: Some(from),
                ..
            } = &record.undo
            else {
                continue;
            };
            if *from == origin && path.starts_with(&self.folder) {
                // One whose stamp is another is read: the tree of an image was unpacked elsewhere.
                let as_left = context
                    .current(path)?
                    .is(&context.real(path), wrote)
                    .map_err(StepError::io("read", path))?;
                if !as_left {
                    return Ok(false);
                }
                files.push(path);
            }
        }
        let mut needed = self.artifact.members.iter().map(|m| self.folder.join(m));
        Ok(needed.all(|path| files.contains(&&path)))
    }
}

impl Action for UnpackStep {
    fn describe(&self) -> String {
        let Artifact {
            component, version, ..
        } = &self.artifact;
        format!(
            "fetch {component} {version} into `{}`",
            self.folder.display()
        )
    }

    fn observe(&self, context: &mut Context<'_>) -> Result<Observation, StepError> {
        if self.is_whole(context)? {
            return Ok(Observation::Satisfied);
        }
        for member in &self.artifact.members {
            let path = self.folder.join(member);
            let current = context.current(&path)?;
            if matches!(current, Current::Absent) || context.receipt.wrote(&path).is_some() {
                continue;
            }
            if let foreign @ Observation::Foreign(_) = context.foreign(&path, &current) {
                return Ok(foreign);
            }
        }
        Ok(Observation::Pending(format!(
            "version {} is not all there",
            self.artifact.version
        )))
    }

    fn apply(&self, context: &mut Context<'_>) -> Result<Vec<Undo>, StepError> {
        let scratch = context.scratch(&self.folder)?;
        let file = context.fetch(&self.artifact, &scratch)?;
        let unpacked = scratch.join("unpacked");
        fs::create_dir(&unpacked).map_err(StepError::io("make the folder", &unpacked))?;
        let files = archive::unpack(&Unpack {
            archive: file.path(),
            dest: &unpacked,
            strip: self.artifact.strip,
            wanted: None,
            caps: Caps::default(),
        })?;
        for member in &self.artifact.members {
            if !files.iter().any(|f| f.path == Path::new(member)) {
                return Err(archive::ArchiveError::Missing {
                    archive: PathBuf::from(&self.artifact.url),
                    member: member.clone(),
                }
                .into());
            }
        }
        let mut undo = Vec::new();
        let mut moves = Vec::new();
        for file in files.iter().filter(|f| is_program(&f.path)) {
            let path = self.folder.join(&file.path);
            let current = context.current(&path)?;
            let ours = matches!(current, Current::Absent) || context.receipt.wrote(&path).is_some();
            if !ours && let Observation::Foreign(foreign) = context.foreign(&path, &current) {
                let same = match &current {
                    Current::File(_) => {
                        Sha256Sum::of_file(&context.real(&path))
                            .map_err(StepError::io("read", &path))?
                            == file.sha256
                    }
                    _ => false,
                };
                if same {
                    continue;
                }
                let (path, what) = (foreign.path, foreign.what);
                return Err(StepError::Foreign { path, what });
            }
            let before = context.capture(&path)?;
            undo.push(Undo::Path {
                path: path.clone(),
                before,
                wrote: Wrote::File {
                    sha256: file.sha256,
                    mode: file.mode,
                    stamp: None,
                },
                origin: Some(self.origin()),
            });
            moves.push((unpacked.join(&file.path), path, file.mode));
        }
        context.start(&undo)?;
        for (record, (from, path, mode)) in undo.iter_mut().zip(moves) {
            let now = put_ready(&from, &context.real(&path), mode)
                .map_err(StepError::io("write", &path))?;
            if let Undo::Path {
                wrote: Wrote::File { stamp, .. },
                ..
            } = record
            {
                *stamp = Some(now);
            }
            context.changed.insert(path);
        }
        Ok(undo)
    }

    fn paths(&self) -> Vec<&Path> {
        vec![&self.folder]
    }
}

/// Upstream's archives are flat; their licence and readme do not belong beside programs.
fn is_program(path: &Path) -> bool {
    let name = path.to_string_lossy();
    path.components().count() == 1 && !name.starts_with("LICENSE") && !name.starts_with("README")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_programs_are_taken() {
        for (path, taken) in [
            ("bridge", true),
            ("host-local", true),
            ("LICENSE", false),
            ("README.md", false),
            ("docs/bridge", false),
        ] {
            assert_eq!(is_program(Path::new(path)), taken, "{path}");
        }
    }
}
