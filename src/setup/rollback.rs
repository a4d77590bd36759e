//! The way back: undoes records from the last to the first, goes on after a failure, and starts
//! again the services that ran before.

use std::path::Path;
use std::time::Duration;

use crate::host::command::CommandError;
use crate::host::{fs::under, systemd};

use super::receipt::Record;
use super::step::StepError;
use super::store::{Run, Store, scratch_records};
use super::undo::{Undo, UndoContext, UndoError, Undone};
use super::{Event, Setup};

/// A step back that failed.
#[derive(Debug, thiserror::Error)]
pub enum RollbackError {
    #[error(transparent)]
    Undo(#[from] UndoError),
    #[error(transparent)]
    Start(#[from] StepError),
    #[error("reload systemd")]
    Reload(#[source] CommandError),
}

impl RollbackError {
    /// The command that helps.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Undo(e) => e.hint(),
            Self::Start(e) => e.hint(),
            Self::Reload(_) => Some("try `systemctl daemon-reload`".to_owned()),
        }
    }
}

/// What became of the records.
#[derive(Debug, Default)]
pub struct Rollback {
    pub errors: Vec<RollbackError>,
    /// Reasons why something stays.
    pub kept: Vec<String>,
    /// How many resources were put back.
    pub changed: usize,
    /// The records whose undo failed, in their order.
    pub failed: Vec<Record>,
}

/// How to go back.
pub(super) struct Way<'a> {
    pub setup: &'a Setup<'a>,
    pub store: &'a Store,
    /// Names temporary files.
    pub run: &'a str,
    pub discard_edits: bool,
    /// Start again what ran before the records were made.
    pub restart: bool,
}

impl Way<'_> {
    /// Undoes the records, the last first.
    pub fn back(&self, records: &[Record]) -> Rollback {
        let root = self.setup.settings.root.as_path();
        let images = self.store.images();
        let context = UndoContext {
            root,
            images: &images,
            run: self.run,
            discard_edits: self.discard_edits,
            lock_limit: self.setup.settings.lock_timeout,
        };
        let mut result = Rollback::default();
        for record in records.iter().rev() {
            let outcome = record.undo.undo(&context);
            super::failpoint::pass("undone");
            match outcome {
                Ok(Undone::Kept(reason)) => {
                    result.kept.push(reason + &self.save_image(record));
                }
                Ok(Undone::Changed) => {
                    result.changed += 1;
                    let what = record.undo.describe();
                    (self.setup.tell)(&Event::Undone { what: &what });
                }
                Ok(Undone::Unchanged) => {}
                Err(e) => {
                    result.errors.push(e.into());
                    result.failed.insert(0, record.clone());
                }
            }
        }
        self.services(records, &mut result);
        result
    }

    /// As [`Way::back`], for a run that was cut off or failed: with its working folders.
    pub fn undo_run(&self, run: &Run) -> Rollback {
        let mut records = run.records.clone();
        records.extend(scratch_records(run).map(|undo| Record {
            step: String::new(),
            component: super::Component::Host,
            undo,
        }));
        self.back(&records)
    }

    /// A file that we had replaced, and that cannot go back to its place since ours was edited, is
    /// put beside it.
    fn save_image(&self, record: &Record) -> String {
        let (Undo::Path { path, .. }, Some(image)) = (&record.undo, record.undo.image()) else {
            return String::new();
        };
        let mut name = path.as_os_str().to_owned();
        name.push(".before-crio-setup");
        let to = under(&self.setup.settings.root, Path::new(&name));
        let from = self.store.images().join(image);
        let saved =
            std::fs::hard_link(&from, &to).or_else(|_| std::fs::copy(&from, &to).map(|_| ()));
        match saved {
            Ok(()) => format!(
                "; what was there before is `{}`",
                Path::new(&name).display()
            ),
            Err(e) => format!("; what was there before is `{}` ({e})", from.display()),
        }
    }

    fn services(&self, records: &[Record], result: &mut Rollback) {
        if !self.setup.settings.is_live() {
            return;
        }
        let units = |undo: &Undo| match undo {
            Undo::Path { path, .. } => path.starts_with("/etc/systemd/system"),
            Undo::Service { systemd, .. } => *systemd,
            _ => false,
        };
        let by_systemd = systemd::is_running(Path::new("/"));
        if by_systemd
            && records.iter().any(|r| units(&r.undo))
            && let Err(e) = systemd::daemon_reload()
        {
            result.errors.push(RollbackError::Reload(e));
        }
        if !self.restart {
            return;
        }
        for record in records {
            if let Undo::Service {
                service,
                systemd,
                was_running: true,
                ..
            } = &record.undo
                && let Err(e) = super::step::start_service(service, *systemd, false)
            {
                result.errors.push(e.into());
            }
        }
    }
}

/// How long the daemon may take to answer a question about pods.
pub(super) const ANSWER: Duration = Duration::from_secs(30);
