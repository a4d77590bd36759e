//! What a step works with: settings and facts to read, the journal to write ahead.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use tokio_util::sync::CancellationToken;

use crate::artifact::{Fetch, Limits, Proxies, VerifiedFile, fetch};
use crate::host::fs::{remove_tree, under};
use crate::setup::catalog::Artifact;
use crate::setup::facts::Facts;
use crate::setup::failpoint;
use crate::setup::path::{self, Before, Current};
use crate::setup::probe::Probes;
use crate::setup::receipt::{Receipt, Record};
use crate::setup::settings::{Component, Settings};
use crate::setup::store::{Journal, Line};
use crate::setup::undo::Undo;

use super::{Foreign, Observation, StepError};

/// How far a long step is.
#[derive(Debug, Clone)]
pub enum Progress<'a> {
    Download {
        url: &'a str,
        bytes: u64,
        total: Option<u64>,
    },
    /// Something else that takes its time.
    Busy(&'a str),
}

/// The surroundings of a step.
pub struct Context<'a> {
    pub settings: &'a Settings,
    pub facts: &'a Facts,
    /// As it was when the run began.
    pub receipt: &'a Receipt,
    pub probes: Probes,
    pub proxies: &'a Proxies,
    pub cancel: CancellationToken,
    pub progress: &'a dyn Fn(Progress<'_>),
    /// What this run has written.
    pub changed: BTreeSet<PathBuf>,
    run: String,
    images: PathBuf,
    image: u64,
    journal: Option<Journal>,
    step: (String, Component),
    scratch: Option<PathBuf>,
}

impl<'a> Context<'a> {
    /// For looking only, until [`Context::open`].
    pub fn new(
        settings: &'a Settings,
        facts: &'a Facts,
        receipt: &'a Receipt,
        probes: Probes,
        proxies: &'a Proxies,
        cancel: CancellationToken,
        progress: &'a dyn Fn(Progress<'_>),
    ) -> Self {
        Self {
            settings,
            facts,
            receipt,
            probes,
            proxies,
            cancel,
            progress,
            changed: BTreeSet::new(),
            run: String::new(),
            images: PathBuf::new(),
            image: 0,
            journal: None,
            step: (String::new(), Component::Host),
            scratch: None,
        }
    }

    /// Gives it the journal of a run and the folder of its before-images.
    pub fn open(&mut self, journal: Journal, images: PathBuf, run: &str) {
        self.journal = Some(journal);
        self.images = images;
        self.run = run.to_owned();
    }

    pub fn journal(&self) -> Option<&Journal> {
        self.journal.as_ref()
    }

    /// What follows belongs to this step.
    pub fn enter(&mut self, id: &str, component: Component) {
        self.step = (id.to_owned(), component);
    }

    /// Where a path of the plan is on this machine.
    pub fn real(&self, path: &Path) -> PathBuf {
        under(&self.settings.root, path)
    }

    /// The id of this run.
    pub fn run(&self) -> &str {
        &self.run
    }

    /// Where this run's before-images are.
    pub fn images(&self) -> &Path {
        &self.images
    }

    fn records(&self, undo: &[Undo]) -> Vec<Record> {
        let record = |undo: &Undo| Record {
            step: self.step.0.clone(),
            component: self.step.1,
            undo: undo.clone(),
        };
        undo.iter().map(record).collect()
    }

    /// Writes to the journal what there is to undo, before the first change of a step.
    pub fn start(&mut self, undo: &[Undo]) -> Result<(), StepError> {
        let records = self.records(undo);
        if let Some(journal) = &mut self.journal {
            journal.write(Line::Started { records })?;
        }
        Ok(())
    }

    /// Writes to the journal what a step has changed.
    pub fn done(&mut self, undo: &[Undo]) -> Result<(), StepError> {
        let records = self.records(undo);
        let step = self.step.0.clone();
        if let Some(journal) = &mut self.journal {
            journal.write(Line::Done { step, records })?;
        }
        self.clear_scratch()
    }

    /// Saves what stands at a path, for [`Undo::Path`].
    pub fn capture(&mut self, path: &Path) -> Result<Before, StepError> {
        let name = format!("{}-{}", self.run, self.image);
        self.image += 1;
        let before = path::capture(&self.settings.root, path, &self.images, &name);
        failpoint::pass("captured");
        before.map_err(StepError::io("save", path))
    }

    /// An empty working folder inside `folder`, on its file system; it goes at the step's end.
    pub fn scratch(&mut self, folder: &Path) -> Result<PathBuf, StepError> {
        let path = folder.join(format!(".crio-setup-{}", self.run));
        if let Some(journal) = &mut self.journal {
            journal.write(Line::Scratch { path: path.clone() })?;
        }
        let real = self.real(&path);
        match DirBuilder::new().mode(0o700).create(&real) {
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
            made => made.map_err(StepError::io("make the folder", &path))?,
        }
        self.scratch = Some(real.clone());
        failpoint::pass("scratch-made");
        Ok(real)
    }

    fn clear_scratch(&mut self) -> Result<(), StepError> {
        let Some(real) = self.scratch.take() else {
            return Ok(());
        };
        match (real.parent(), real.file_name()) {
            (Some(folder), Some(name)) => remove_tree(folder, Path::new(name))
                .map_err(StepError::io("remove the working folder", &real)),
            _ => Ok(()),
        }
    }

    /// Downloads an upstream file into `folder`, verified.
    pub fn fetch(&self, artifact: &Artifact, folder: &Path) -> Result<VerifiedFile, StepError> {
        let what = Fetch {
            url: &artifact.url,
            sha256: artifact.sha256,
            size_cap: artifact.size_cap(),
            limits: Limits::default(),
            dir: folder,
            proxies: self.proxies,
            cancel: self.cancel.clone(),
        };
        let url = artifact.url.as_str();
        let told = |bytes, total| (self.progress)(Progress::Download { url, bytes, total });
        let file = fetch(&what, &told)?;
        failpoint::pass("fetched");
        Ok(file)
    }

    /// Something stands at `path` that no record is about.
    pub fn foreign(&self, path: &Path, current: &Current) -> Observation {
        let (what, replaceable) = match current {
            Current::Symlink(target) => (format!("a link to `{}`", target.display()), true),
            Current::Other => ("something that is no file".to_owned(), false),
            Current::File(_) | Current::Absent => ("a file".to_owned(), true),
        };
        if self.settings.replace_foreign && replaceable {
            return Observation::Pending(format!("replaces {what} that is not ours"));
        }
        Observation::Foreign(Foreign {
            path: path.to_owned(),
            what,
            replaceable,
        })
    }

    /// What stands at a path of the plan.
    pub fn current(&self, path: &Path) -> Result<Current, StepError> {
        Current::at(&self.real(path)).map_err(StepError::io("look at", path))
    }

    /// Is a folder of the plan there, be it through a link?
    pub fn is_folder(&self, path: &Path) -> bool {
        fs::metadata(self.real(path)).is_ok_and(|m| m.is_dir())
    }
}
