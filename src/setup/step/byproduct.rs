//! What the programs that we start make by themselves and leave behind: it goes with them, unless
//! it was there before.

use std::path::{Path, PathBuf};

use crate::host::bridge;
use crate::setup::path::Current;
use crate::setup::undo::Undo;

use super::{Action, Context, Observation, StepError};

#[derive(Debug, Clone)]
pub struct Byproduct {
    pub files: Vec<PathBuf>,
    pub bridges: Vec<String>,
}

impl Byproduct {
    /// Those that are not there yet and that no record is about.
    fn news(&self, context: &Context<'_>) -> Result<Vec<Undo>, StepError> {
        let mut news = Vec::new();
        for path in &self.files {
            if matches!(context.current(path)?, Current::Absent) {
                news.push(Undo::Byproduct { path: path.clone() });
            }
        }
        for name in self.bridges.iter().filter(|name| !bridge::exists(name)) {
            news.push(Undo::Bridge { name: name.clone() });
        }
        news.retain(|undo| context.receipt.record(&undo.key()).is_none());
        Ok(news)
    }
}

impl Action for Byproduct {
    fn describe(&self) -> String {
        let files = self.files.iter().map(|p| p.display().to_string());
        let all: Vec<String> = files
            .chain(self.bridges.iter().cloned())
            .map(|name| format!("`{name}`"))
            .collect();
        format!("note that {} will be ours", all.join(", "))
    }

    fn observe(&self, context: &mut Context<'_>) -> Result<Observation, StepError> {
        Ok(match self.news(context)?.len() {
            0 => Observation::Satisfied,
            n => Observation::Pending(format!("{n} not there yet")),
        })
    }

    fn apply(&self, context: &mut Context<'_>) -> Result<Vec<Undo>, StepError> {
        let news = self.news(context)?;
        context.start(&news)?;
        Ok(news)
    }

    fn paths(&self) -> Vec<&Path> {
        Vec::new()
    }
}
