//! `crio-setup`: the installer, from argv to exit code.

pub mod args;
mod show;

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::artifact::Proxies;
use crate::cli::manual;
use crate::cli::output::{Output, is_gone};
use crate::setup::{Aftermath, Layer, Settings, SettingsError, Setup, SetupError, own_exe};

use args::{CrioSetup, Place, Verb, Wanted};
use show::Teller;

/// Failed, and undone; also: not healthy.
const FAILED: u8 = 1;
/// Refused before anything was touched (clap ends with this code too).
const REFUSED: u8 = 2;
/// Failed, and something is left to be undone.
const INCOMPLETE: u8 = 3;
/// Ended by a second signal, in the middle of things (as shells count SIGINT).
const KILLED: i32 = 130;
/// Changes are pending.
const PENDING: u8 = 4;

/// Why a command line did not do what was asked.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error(transparent)]
    Setup(#[from] SetupError),
    #[error("find the folder `{0}`")]
    Root(PathBuf, #[source] io::Error),
    #[error("write to stdout")]
    Output(#[from] io::Error),
}

/// Runs one command line, whose first word is the program's name, and tells how the process shall
/// end.
pub fn run(args: impl Iterator<Item = OsString>) -> ExitCode {
    let cli = match CrioSetup::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            // Help goes to stdout, a complaint to stderr; neither has anywhere else to fail to.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(REFUSED));
        }
    };
    if cli.verbose {
        // A second subscriber in one process (a test) is as good as the first.
        let _ = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::DEBUG)
            .with_writer(io::stderr)
            .try_init();
    }
    let output = Output::new(cli.output);
    match perform(cli.verb, &output) {
        Ok(code) => code,
        Err(Failure::Output(error)) if is_gone(&error) => ExitCode::SUCCESS,
        Err(Failure::Setup(error)) => {
            // A reader that has gone does not change how it ended.
            let _ = show::error(&output, &error);
            ExitCode::from(match error.aftermath() {
                Aftermath::Refused => REFUSED,
                Aftermath::Undone => FAILED,
                Aftermath::Incomplete => INCOMPLETE,
            })
        }
        Err(Failure::Settings(error)) => {
            output.error(&error, error.hint().as_deref());
            ExitCode::from(REFUSED)
        }
        Err(error) => {
            output.error(&error, None);
            ExitCode::from(REFUSED)
        }
    }
}

fn perform(verb: Verb, output: &Output) -> Result<ExitCode, Failure> {
    match verb {
        Verb::Install {
            wanted,
            dry_run: false,
        } => {
            let settings = settings(wanted)?;
            let report = with_setup(&settings, output, |setup| setup.install())?;
            show::install(output, &report)?;
        }
        Verb::Install {
            wanted,
            dry_run: true,
        } => return plan(wanted, false, output),
        Verb::Plan {
            wanted,
            detailed_exitcode,
        } => return plan(wanted, detailed_exitcode, output),
        Verb::Status { deep, place } => {
            let settings = at(place)?.settle()?;
            let report = with_setup(&settings, output, |setup| setup.status(deep))?;
            show::status(output, &report)?;
            if !report.healthy {
                return Ok(ExitCode::from(FAILED));
            }
        }
        Verb::Selftest => {
            let settings = Layer::default().settle()?;
            let report = with_setup(&settings, output, |setup| setup.selftest())?;
            show::selftest(output, &report)?;
        }
        Verb::Uninstall {
            force,
            purge,
            lock_timeout,
            place,
        } => {
            let mut layer = at(place)?;
            layer.lock_timeout = lock_timeout;
            let settings = layer.settle()?;
            let report = with_setup(&settings, output, |setup| setup.uninstall(force, purge))?;
            show::uninstall(output, &report)?;
        }
        Verb::Completions { shell } => {
            let mut script = Vec::new();
            let mut command = CrioSetup::command();
            clap_complete::generate(shell, &mut command, "crio-setup", &mut script);
            output.bytes(&script)?;
        }
        Verb::Man => output.bytes(&manual::page(CrioSetup::command())?)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn plan(wanted: Wanted, detailed: bool, output: &Output) -> Result<ExitCode, Failure> {
    let settings = settings(wanted)?;
    let report = with_setup(&settings, output, |setup| setup.plan())?;
    show::plan(output, &report)?;
    Ok(if report.refused {
        ExitCode::from(REFUSED)
    } else if detailed && report.pending > 0 {
        ExitCode::from(PENDING)
    } else {
        ExitCode::SUCCESS
    })
}

fn settings(wanted: Wanted) -> Result<Settings, Failure> {
    let (mut layer, file, named) = wanted.layers();
    layer.root = root(layer.root.take())?;
    Ok(layer.over(Layer::read(&file, named)?).settle()?)
}

fn at(place: Place) -> Result<Layer, Failure> {
    Ok(Layer {
        root: root(place.root)?,
        ..Layer::default()
    })
}

/// The tree must be there: a mistyped one is not to be made.
fn root(root: Option<PathBuf>) -> Result<Option<PathBuf>, Failure> {
    match root {
        None => Ok(None),
        Some(root) => match root.canonicalize() {
            Ok(found) => Ok(Some(found)),
            Err(e) => Err(Failure::Root(root, e)),
        },
    }
}

fn with_setup<T>(
    settings: &Settings,
    output: &Output,
    act: impl FnOnce(&Setup<'_>) -> Result<T, SetupError>,
) -> Result<T, SetupError> {
    let cancel = CancellationToken::new();
    watch_signals(cancel.clone());
    let teller = Teller::new(output);
    act(&Setup {
        settings,
        exe: own_exe(),
        proxies: Proxies::from_env(std::env::vars_os()),
        cancel,
        tell: &|event| teller.tell(event),
    })
}

/// The first signal stops the run, which is then undone; the second ends the process, and the next
/// run does the undoing.
///
/// Handlers rather than a blocked mask: what is started from here would inherit the mask.
fn watch_signals(cancel: CancellationToken) {
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build();
        // Without a watch a signal ends the process at once, and the next run does the undoing.
        let Ok(runtime) = runtime else { return };
        runtime.block_on(async {
            let watch = |kind| signal(kind).ok();
            let (Some(mut interrupt), Some(mut terminate), Some(mut hangup)) = (
                watch(SignalKind::interrupt()),
                watch(SignalKind::terminate()),
                watch(SignalKind::hangup()),
            ) else {
                return;
            };
            for seen in 0.. {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                    _ = hangup.recv() => {}
                }
                if seen > 0 {
                    std::process::exit(KILLED);
                }
                cancel.cancel();
            }
        });
    });
}
