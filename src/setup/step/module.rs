//! A kernel module, loaded now. A built-in one counts as loaded. It stays loaded after an uninstall,
//! until the next boot: others may use it by then.

use crate::host::command::Command;
use crate::setup::facts::Feature;
use crate::setup::undo::Undo;

use super::{Action, Context, Observation, StepError};

#[derive(Debug, Clone)]
pub struct Module {
    pub name: &'static str,
    pub feature: Feature,
}

impl Action for Module {
    fn describe(&self) -> String {
        format!("load the kernel module `{}`", self.name)
    }

    fn observe(&self, _: &mut Context<'_>) -> Result<Observation, StepError> {
        let loaded = std::path::Path::new("/sys/module").join(self.name).is_dir();
        Ok(match self.feature {
            Feature::Loadable if !loaded => Observation::Pending("is not loaded".to_owned()),
            Feature::Missing => Observation::Kept("this kernel does not have it".to_owned()),
            _ => Observation::Satisfied,
        })
    }

    fn apply(&self, _: &mut Context<'_>) -> Result<Vec<Undo>, StepError> {
        Command::new("modprobe").arg("--").arg(self.name).run()?;
        Ok(Vec::new())
    }
}
