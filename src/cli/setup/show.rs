//! What `crio-setup` prints: what happens on stderr, what came of it on stdout.

use std::cell::RefCell;
use std::io::{self, IsTerminal};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

use crate::cli::output::{Format, Output, Table, Tone, labelled};
use crate::setup::preflight::{Finding, Severity};
use crate::setup::report::{
    InstallReport, PlanReport, StatusReport, StepReport, StepState, UninstallReport,
};
use crate::setup::step::Progress;
use crate::setup::{Event, SetupError, selftest};

/// Tells what happens.
pub struct Teller<'a> {
    output: &'a Output,
    /// A bar, where there is a terminal to draw it on.
    bar: RefCell<Option<ProgressBar>>,
    terminal: bool,
}

impl<'a> Teller<'a> {
    pub fn new(output: &'a Output) -> Self {
        Self {
            output,
            bar: RefCell::new(None),
            terminal: io::stderr().is_terminal(),
        }
    }

    pub fn tell(&self, event: &Event<'_>) {
        if !matches!(event, Event::Progress(_)) {
            self.bar.borrow_mut().take();
        }
        match event {
            Event::Recovering { run } => self.output.warning(&format!(
                "the run `{run}` was cut off and is put right first"
            )),
            Event::Judging { .. } => self.output.note("is upstream within reach?"),
            Event::Planned {
                pending,
                notes,
                findings,
            } => {
                for finding in *findings {
                    finding_text(self.output, finding);
                }
                for note in *notes {
                    self.output.note(note);
                }
                if *pending > 0 {
                    self.output.note(&format!("{pending} steps to do"));
                }
            }
            Event::Step { step } => {
                self.output
                    .note(&format!("{:11} {}", step.component, step.action));
            }
            Event::Progress(progress) => self.progress(progress),
            Event::Changed { .. } => {}
            Event::Proving => self.output.note("run a pod on the node"),
            Event::Undoing { because } => self
                .output
                .warning(&format!("{because}: what was done is undone")),
            Event::Undone { what } => self.output.note(&format!("undo: {what}")),
        }
    }

    fn progress(&self, progress: &Progress<'_>) {
        if !self.terminal {
            return;
        }
        let mut bar = self.bar.borrow_mut();
        match progress {
            Progress::Download { url, bytes, total } => {
                let bar = bar.get_or_insert_with(|| download_bar(url));
                if let Some(total) = total {
                    bar.set_length(*total);
                }
                bar.set_position(*bytes);
            }
            Progress::Busy(what) => {
                let spinner = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
                spinner.set_message((*what).to_owned());
                spinner.tick();
                *bar = Some(spinner);
            }
        }
    }
}

fn download_bar(url: &str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
    let template = "{wide_msg} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec}";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.set_message(url.to_owned());
    bar
}

fn finding_text(output: &Output, finding: &Finding) {
    let text = format!("{} ({})", finding.cause, finding.id);
    match finding.severity {
        Severity::Error => {
            let text = labelled(output.style(), Tone::Error, "error", &text);
            // There is no third stream to complain on.
            let _ = output.error_bytes(text.as_bytes());
        }
        Severity::Warning => output.warning(&text),
    }
    output.hint(&finding.remedy);
}

pub fn plan(output: &Output, report: &PlanReport) -> io::Result<()> {
    if output.format == Format::Json {
        return output.json(report);
    }
    if report.unfinished {
        output.warning("a run was cut off: `install` undoes it first");
    }
    for finding in &report.findings {
        finding_text(output, finding);
    }
    let mut sources = Table::new(&["COMPONENT", "SOURCE", "WHY"]);
    for choice in &report.choices {
        sources.row([
            choice.component.to_string(),
            choice.word().to_owned(),
            choice.why.clone(),
        ]);
    }
    if !sources.is_empty() {
        output.text(&format!("{sources}\n"))?;
    }
    let mut steps = Table::new(&["STATE", "STEP", "WHY"]);
    for step in report
        .steps
        .iter()
        .filter(|s| s.state != StepState::Satisfied)
    {
        steps.row([
            state(step).to_owned(),
            step.action.clone(),
            step.detail.clone(),
        ]);
    }
    if !steps.is_empty() {
        output.text(&format!("{steps}\n"))?;
    }
    for note in &report.notes {
        output.note(note);
    }
    output.line(&format!("to change: {}", report.pending))
}

fn state(step: &StepReport) -> &'static str {
    match step.state {
        StepState::Satisfied => "ok",
        StepState::Pending => "to do",
        StepState::Changed => "changed",
        StepState::Kept => "kept",
        StepState::Foreign => "in the way",
    }
}

pub fn install(output: &Output, report: &InstallReport) -> io::Result<()> {
    if output.format == Format::Json {
        return output.json(report);
    }
    output.line(&format!("changed: {}", report.changed))?;
    if let Some(health) = &report.health {
        let network = if health.network.ready {
            "pods get a network"
        } else {
            "pods get no network yet"
        };
        output.line(&format!(
            "healthy: {} {} answers, {network}",
            health.runtime_name, health.runtime_version
        ))?;
    }
    if let Some(test) = &report.selftest {
        output.line(&format!("self-test: a pod answered on {}", test.pod_ip))?;
    }
    output.note(&format!(
        "done in {:.1} s",
        std::time::Duration::from_millis(report.duration_ms).as_secs_f64()
    ));
    Ok(())
}

pub fn selftest(output: &Output, report: &selftest::Report) -> io::Result<()> {
    if output.format == Format::Json {
        return output.json(report);
    }
    let mut table = Table::new(&["STAGE", "TIME"]);
    for step in &report.steps {
        let stage = serde_json::to_value(step.stage).unwrap_or_default();
        let stage = stage.as_str().unwrap_or_default().to_owned();
        table.row([stage, format!("{} ms", step.duration.as_millis())]);
    }
    output.text(&table.to_string())?;
    output.line(&format!("passed: a pod answered on {}", report.pod_ip))
}

pub fn uninstall(output: &Output, report: &UninstallReport) -> io::Result<()> {
    if output.format == Format::Json {
        return output.json(report);
    }
    for kept in &report.kept {
        output.warning(&format!("{kept}: it stays"));
    }
    output.line(&format!("changed: {}", report.changed))
}

pub fn status(output: &Output, report: &StatusReport) -> io::Result<()> {
    if output.format == Format::Json {
        return output.json(report);
    }
    if report.unfinished {
        output.warning("a run was cut off: `crio-setup install` or `uninstall` puts it right");
    }
    if !report.installed {
        output.line("not installed")?;
        output.hint("`crio-setup install` makes this machine a node");
        return Ok(());
    }
    let mut components = Table::new(&["COMPONENT", "SOURCE", "OURS"]);
    for c in &report.components {
        let source = c.source.as_ref().map(serde_json::to_value);
        let source = source.and_then(Result::ok);
        let source = source.as_ref().and_then(|s| s.as_str()).unwrap_or("-");
        components.row([
            c.component.to_string(),
            source.to_owned(),
            c.resources.to_string(),
        ]);
    }
    output.text(&format!("{components}\n"))?;
    for service in &report.services {
        output.line(&match service.pid {
            Some(pid) => format!("{} runs (pid {pid})", service.name),
            None => format!("{} does not run", service.name),
        })?;
    }
    for drift in &report.drift {
        output.warning(drift);
    }
    if let Some(problem) = &report.problem {
        output.warning(problem);
    }
    if !report.healthy {
        output.hint("`crio-setup install` puts things right; `ocic status` tells more");
    }
    output.line(if report.healthy {
        "healthy"
    } else {
        "not healthy"
    })
}

/// An error on stderr, and for programs on stdout.
pub fn error(output: &Output, error: &SetupError) -> io::Result<()> {
    let mut findings: &[Finding] = &[];
    let mut also: Vec<String> = Vec::new();
    match error {
        SetupError::Refused(all) => {
            findings = all;
            for finding in all {
                finding_text(output, finding);
            }
        }
        SetupError::Failed { undo, clean, .. } => {
            also.extend(undo.iter().map(|e| chain(e)));
            also.extend(clean.iter().map(|e| chain(e)));
        }
        SetupError::Recovery(errors) | SetupError::Uninstall(errors) => {
            also.extend(errors.iter().map(|e| chain(e)));
        }
        _ => {}
    }
    match error {
        // Its own words are those of its first cause.
        SetupError::Failed { first, .. } => output.error(&**first, error.hint().as_deref()),
        _ => output.error(error, error.hint().as_deref()),
    }
    for text in &also {
        output.warning(&format!("not undone: {text}"));
    }
    if output.format == Format::Json {
        output.json(&json!({
            "error": chain(error),
            "hint": error.hint(),
            "findings": findings,
            "not_undone": also,
        }))?;
    }
    Ok(())
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let said = inner.to_string();
        if !text.ends_with(&said) {
            text = format!("{text}: {said}");
        }
        cause = inner.source();
    }
    text
}
