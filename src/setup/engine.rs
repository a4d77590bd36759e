//! A run: look, refuse or go on, do the steps with a journal, verify, commit; or undo.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::artifact::{Reach, Sha256Sum, reachable};

use super::catalog::Catalog;
use super::choice::choose;
use super::facts::Facts;
use super::plan::Plan;
use super::preflight::{self, Finding, Inspected, Severity};
use super::probe::Probes;
use super::receipt::{Receipt, Record, SCHEMA};
use super::report::{InstallReport, PlanReport, StepReport, StepState};
use super::rollback::{Rollback, Way};
use super::step::{Context, Kind, Observation, Step, StepError};
use super::store::{Peek, Store};
use super::undo::{Origin, Undo};
use super::{Event, Failure, Setup, SetupError, failpoint};

/// How long the judgement about upstream may take.
const REACH_LIMIT: Duration = Duration::from_secs(5);

/// What a look at the machine gave.
struct Survey {
    facts: Facts,
    plan: Plan,
    states: Vec<Observation>,
    findings: Vec<Finding>,
    probes: Probes,
}

impl Survey {
    fn refused(&self) -> bool {
        self.findings.iter().any(|f| f.severity == Severity::Error)
    }

    fn pending(&self) -> usize {
        let pending = |state: &&Observation| matches!(state, Observation::Pending(_));
        self.states.iter().filter(pending).count()
    }

    fn steps(&self) -> Vec<StepReport> {
        self.plan
            .steps
            .iter()
            .zip(&self.states)
            .map(|(step, state)| StepReport::new(step, state))
            .collect()
    }
}

impl Setup<'_> {
    fn context<'a>(
        &'a self,
        facts: &'a Facts,
        receipt: &'a Receipt,
        probes: Probes,
        progress: &'a dyn Fn(super::step::Progress<'_>),
    ) -> Context<'a> {
        let cancel = self.cancel.clone();
        Context::new(
            self.settings,
            facts,
            receipt,
            probes,
            &self.proxies,
            cancel,
            progress,
        )
    }

    fn survey(&self, receipt: &Receipt) -> Result<Survey, SetupError> {
        let settings = self.settings;
        let catalog = Catalog::load(settings.catalog.as_deref())?;
        let mut probes = Probes {
            answers: receipt.probes.clone(),
        };
        let facts = Facts::gather(settings, receipt, &mut probes, &self.exe)?;
        let reach = |urls: &[&str]| {
            (self.tell)(&Event::Judging { urls });
            reachable(urls, &self.proxies, REACH_LIMIT)
        };
        let (choices, without_source) = choose(settings, &facts, receipt, &catalog, reach);
        let plan = Plan::make(settings, &facts, receipt, choices)?;
        let quiet = |_: super::step::Progress<'_>| {};
        let mut context = self.context(&facts, receipt, probes, &quiet);
        let mut observed = Vec::new();
        for step in &plan.steps {
            let state =
                step.action()
                    .observe(&mut context)
                    .map_err(|source| SetupError::Observe {
                        step: step.action().describe(),
                        source: Box::new(source),
                    })?;
            observed.push((step.clone(), state));
        }
        let probes = context.probes;
        let unreachable = match settings.source {
            super::Source::Upstream => unreachable(&observed, reach),
            _ => Vec::new(),
        };
        let findings = preflight::check(&Inspected {
            settings,
            facts: &facts,
            receipt,
            without_source: &without_source,
            unreachable: &unreachable,
            steps: &observed,
        });
        let states = observed.into_iter().map(|(_, state)| state).collect();
        Ok(Survey {
            facts,
            plan,
            states,
            findings,
            probes,
        })
    }

    /// What `install` would do. Changes nothing.
    pub fn plan(&self) -> Result<PlanReport, SetupError> {
        let peek = if self.may_read() {
            Peek::at(&self.settings.root)?
        } else {
            Peek::default()
        };
        let receipt = peek.receipt.unwrap_or_default();
        let survey = self.survey(&receipt)?;
        Ok(PlanReport {
            pending: survey.pending(),
            refused: survey.refused(),
            unfinished: peek.unfinished,
            steps: survey.steps(),
            choices: survey.plan.choices,
            findings: survey.findings,
            notes: survey.plan.notes,
        })
    }

    /// Only root may look into the state folder of the running system.
    fn may_read(&self) -> bool {
        nix::unistd::geteuid().is_root() || !self.settings.is_live()
    }

    /// Makes the machine a node, or leaves it as it was.
    pub fn install(&self) -> Result<InstallReport, SetupError> {
        let begun = Instant::now();
        let mut store = if self.may_read() {
            Store::open(&self.settings.root)?
        } else {
            None
        };
        loop {
            if let Some(there) = store.take() {
                store = self.recover(there)?;
            }
            let receipt = match &store {
                Some(store) => store.receipt()?.unwrap_or_default(),
                None => Receipt::default(),
            };
            let survey = self.survey(&receipt)?;
            if survey.refused() {
                self.forget_if_empty(store, &receipt)?;
                return Err(SetupError::Refused(survey.findings));
            }
            let fresh = store.is_none();
            let mut report = InstallReport {
                changed: 0,
                steps: survey.steps(),
                choices: survey.plan.choices.clone(),
                findings: survey.findings.clone(),
                notes: survey.plan.notes.clone(),
                health: None,
                selftest: None,
                duration_ms: 0,
            };
            (self.tell)(&Event::Planned {
                pending: survey.pending(),
                notes: &report.notes,
                findings: &report.findings,
            });
            if survey.pending() == 0 {
                self.forget_if_empty(store, &receipt)?;
                report.health = self
                    .verify()
                    .map_err(|failure| SetupError::Unhealthy(Box::new(failure)))?;
                report.duration_ms = milliseconds(begun);
                return Ok(report);
            }
            let locked = match store.take() {
                Some(store) => store,
                None => Store::create(&self.settings.root)?,
            };
            // Somebody else has been at work since we looked.
            if fresh && (locked.receipt()?.is_some() || locked.journal()?.is_some()) {
                store = Some(locked);
                continue;
            }
            self.execute(locked, &receipt, survey, &mut report)?;
            report.duration_ms = milliseconds(begun);
            return Ok(report);
        }
    }

    /// Puts right what a killed run has left. `None`: nothing of ours is left at all.
    pub(super) fn recover(&self, store: Store) -> Result<Option<Store>, SetupError> {
        let receipt = store.receipt()?;
        if let Some(run) = store.journal()? {
            let committed = receipt.as_ref().is_some_and(|r| r.run == run.id);
            if !committed {
                (self.tell)(&Event::Recovering { run: &run.id });
                let way = Way {
                    setup: self,
                    store: &store,
                    run: &run.id,
                    discard_edits: false,
                    restart: true,
                };
                let rollback = way.undo_run(&run);
                if !rollback.errors.is_empty() {
                    return Err(SetupError::Recovery(rollback.errors));
                }
            }
            store.finish(receipt.as_ref())?;
            if receipt.is_none() {
                store.remove(&run.made)?;
                return Ok(None);
            }
        }
        if receipt.is_some_and(|r| r.removing) {
            (self.tell)(&Event::Recovering { run: "uninstall" });
            self.finish_uninstall(store, false)?;
            return Ok(None);
        }
        Ok(Some(store))
    }

    /// A state folder without a receipt is a killed run's and of no use.
    fn forget_if_empty(&self, store: Option<Store>, receipt: &Receipt) -> Result<(), SetupError> {
        match store {
            Some(store) if receipt.schema == 0 => Ok(store.remove(&[])?),
            _ => Ok(()),
        }
    }

    fn execute(
        &self,
        store: Store,
        receipt: &Receipt,
        survey: Survey,
        report: &mut InstallReport,
    ) -> Result<(), SetupError> {
        let Survey {
            facts,
            plan,
            probes,
            ..
        } = survey;
        let run = if self.settings.is_live() {
            run_id()
        } else {
            image_run_id(receipt)
        };
        let journal = match store.begin(&run) {
            Ok(journal) => journal,
            Err(e) => {
                if receipt.schema == 0 {
                    let made = store.made.clone();
                    store.remove(&made)?;
                }
                return Err(e.into());
            }
        };
        let progress = |progress: super::step::Progress<'_>| {
            (self.tell)(&Event::Progress(progress));
        };
        let mut context = self.context(&facts, receipt, probes, &progress);
        context.open(journal, store.images(), &run);
        let outcome = self
            .steps(&plan.steps, &mut context, report)
            .and_then(|()| self.prove(&mut context, report))
            .and_then(|()| self.commit(&store, receipt, &plan, &context));
        let failure = match outcome {
            Ok(receipt) => {
                // The run is committed: what is left to clear away, the next run would clear too.
                store.finish(Some(&receipt))?;
                return Ok(());
            }
            Err(failure) => failure,
        };
        (self.tell)(&Event::Undoing {
            because: &failure.to_string(),
        });
        let made = store.made.clone();
        let done = context.journal().map(|j| j.run().clone());
        let rollback = match &done {
            Some(run) => Way {
                setup: self,
                store: &store,
                run: &run.id,
                discard_edits: false,
                restart: true,
            }
            .undo_run(run),
            None => Rollback::default(),
        };
        let mut clean = Vec::new();
        if rollback.errors.is_empty() {
            let known = (receipt.schema != 0).then_some(receipt);
            let cleared = store.finish(known).and_then(|()| match known {
                Some(_) => Ok(()),
                None => store.remove(&made),
            });
            clean.extend(cleared.err());
        }
        Err(SetupError::Failed {
            first: Box::new(failure),
            undo: rollback.errors,
            clean,
        })
    }

    fn steps(
        &self,
        steps: &[Step],
        context: &mut Context<'_>,
        report: &mut InstallReport,
    ) -> Result<(), Failure> {
        report.steps.clear();
        for step in steps {
            if self.cancel.is_cancelled() {
                return Err(Failure::Interrupted);
            }
            context.enter(&step.id, step.component);
            let state = self.step(step, context).map_err(|source| {
                if self.cancel.is_cancelled() {
                    return Failure::Interrupted;
                }
                Failure::Step {
                    step: step.action().describe(),
                    source: Box::new(source),
                }
            })?;
            if state.state == StepState::Changed {
                report.changed += 1;
                (self.tell)(&Event::Changed { step: &state });
            }
            report.steps.push(state);
        }
        Ok(())
    }

    fn step(&self, step: &Step, context: &mut Context<'_>) -> Result<StepReport, StepError> {
        let state = step.action().observe(context)?;
        let mut report = StepReport::new(step, &state);
        match state {
            Observation::Pending(_) => {}
            Observation::Foreign(foreign) => {
                let (path, what) = (foreign.path, foreign.what);
                return Err(StepError::Foreign { path, what });
            }
            Observation::Satisfied | Observation::Kept(_) => return Ok(report),
        }
        (self.tell)(&Event::Step { step: &report });
        if failpoint::fails(&step.id) {
            return Err(StepError::NoProgram(step.id.clone()));
        }
        let undo = step.action().apply(context)?;
        failpoint::pass("applied");
        context.done(&undo)?;
        report.state = StepState::Changed;
        Ok(report)
    }

    /// Retires what the plan does not want any more, and writes the receipt.
    fn commit(
        &self,
        store: &Store,
        old: &Receipt,
        plan: &Plan,
        context: &Context<'_>,
    ) -> Result<Receipt, Failure> {
        let mut receipt = old.clone();
        if let Some(journal) = context.journal() {
            receipt.made.extend(journal.run().made.clone());
            for record in &journal.run().records {
                receipt.add(record.clone());
            }
            receipt.run.clone_from(&journal.run().id);
        }
        let fresh: Vec<(&str, &Origin)> = context
            .journal()
            .iter()
            .flat_map(|journal| &journal.run().records)
            .filter_map(|record| Some((record.step.as_str(), archive(record)?)))
            .collect();
        let wanted = |record: &Record| {
            if !matches!(record.undo, Undo::Path { .. }) || !self.settings.has(record.component) {
                return true;
            }
            // A member that the newer archive does not have any more.
            let dropped = archive(record).is_some_and(|old| {
                fresh
                    .iter()
                    .any(|(step, new)| *step == record.step && *new != old)
            });
            !dropped && plan.steps.iter().any(|step| step.id == record.step)
        };
        let (kept, retired): (Vec<_>, Vec<_>) = receipt.records.into_iter().partition(wanted);
        receipt.records = kept;
        failpoint::pass("before-commit");
        if !retired.is_empty() {
            let way = Way {
                setup: self,
                store,
                run: context.run(),
                discard_edits: false,
                restart: false,
            };
            receipt.records.extend(way.back(&retired).failed);
        }
        receipt.schema = SCHEMA;
        env!("CARGO_PKG_VERSION").clone_into(&mut receipt.version);
        receipt.probes.clone_from(&context.probes.answers);
        for choice in &plan.choices {
            receipt.sources.insert(choice.component, choice.record());
        }
        if !self.settings.is_live() {
            receipt.leave_this_disk();
        }
        store.save(&receipt)?;
        failpoint::pass("committed");
        Ok(receipt)
    }
}

/// The archive of which a record's file is a member.
fn archive(record: &Record) -> Option<&Origin> {
    match &record.undo {
        Undo::Path {
            origin: Some(origin @ Origin::Archive { .. }),
            ..
        } => Some(origin),
        _ => None,
    }
}

/// Why the pending downloads cannot be had.
fn unreachable(
    observed: &[(Step, Observation)],
    reach: impl FnOnce(&[&str]) -> Vec<Reach>,
) -> Vec<String> {
    let urls: Vec<&str> = observed
        .iter()
        .filter(|(_, state)| matches!(state, Observation::Pending(_)))
        .filter_map(|(step, _)| match &step.kind {
            Kind::Artifact(step) => Some(step.artifact.url.as_str()),
            Kind::Unpack(step) => Some(step.artifact.url.as_str()),
            _ => None,
        })
        .collect();
    if urls.is_empty() {
        return Vec::new();
    }
    reach(&urls)
        .into_iter()
        .filter_map(|reach| match reach {
            Reach::Yes => None,
            Reach::No { reason } => Some(reason),
        })
        .collect()
}

/// Names a run: no two runs of a machine have the same.
fn run_id() -> String {
    let mut bytes = [0; 4];
    // Without random numbers the clock must do.
    if getrandom::fill(&mut bytes).is_err() {
        bytes = (crate::host::clock::now_ns() as u32).to_ne_bytes();
    }
    hex::encode(bytes)
}

/// The same for the tree of an image, where the runs of two equal trees are called alike.
fn image_run_id(receipt: &Receipt) -> String {
    let mut name = Sha256Sum::of(format!("image {}", receipt.run).as_bytes()).to_string();
    name.truncate(8);
    name
}

fn milliseconds(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// This program, whatever has become of its file.
pub fn own_exe() -> PathBuf {
    PathBuf::from("/proc/self/exe")
}
