//! A kernel setting, now; the file in `/etc/sysctl.d` makes it last.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::setup::undo::Undo;

use super::{Action, Context, Observation, StepError};

#[derive(Debug, Clone)]
pub struct Sysctl {
    /// As a path below /proc/sys: `net/ipv4/ip_forward`.
    pub key: &'static str,
    pub value: &'static str,
}

impl Sysctl {
    /// As sysctl(8) spells it.
    pub fn dotted(&self) -> String {
        self.key.replace('/', ".")
    }

    fn path(&self) -> PathBuf {
        Path::new("/proc/sys").join(self.key)
    }

    fn read(&self) -> Result<Option<String>, StepError> {
        match fs::read_to_string(self.path()) {
            Ok(text) => Ok(Some(text.trim().to_owned())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(StepError::io("read", self.path())(e)),
        }
    }
}

impl Action for Sysctl {
    fn describe(&self) -> String {
        format!("set `{} = {}`", self.dotted(), self.value)
    }

    fn observe(&self, context: &mut Context<'_>) -> Result<Observation, StepError> {
        Ok(match self.read()? {
            Some(value) if value == self.value => Observation::Satisfied,
            Some(value) => Observation::Pending(format!("is {value}")),
            None if context.facts.br_netfilter == crate::setup::facts::Feature::Loadable => {
                Observation::Pending("waits for its module".to_owned())
            }
            None => Observation::Kept("this kernel does not have it".to_owned()),
        })
    }

    fn apply(&self, context: &mut Context<'_>) -> Result<Vec<Undo>, StepError> {
        let Some(before) = self.read()? else {
            return Ok(Vec::new());
        };
        let undo = vec![Undo::Sysctl {
            key: self.key.to_owned(),
            before,
            wrote: self.value.to_owned(),
        }];
        context.start(&undo)?;
        fs::write(self.path(), self.value).map_err(StepError::io("write", self.path()))?;
        Ok(undo)
    }
}
