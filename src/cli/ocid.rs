//! The command line of the daemon.

use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, PoisonError, RwLock};

use clap::{Parser, Subcommand};
use regex::Regex;
use tracing::Level;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;

use super::output;
use crate::ocid::config;
use crate::ocid::server::{self, Options, ServerError};

/// The CRI daemon: serves Kubernetes CRI v1 on a unix socket, through runc and CNI plugins.
#[derive(Debug, Parser)]
#[command(name = "ocid", version, max_term_width = 100)]
struct Ocid {
    /// The configuration file, in the format of crio.conf; its drop-ins stand in FILE.d.
    /// [default: /etc/ocid/ocid.conf, if it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Log everything that helps to find a fault.
    #[arg(long)]
    debug: bool,
    /// The socket to serve on, instead of `crio.api.listen`.
    #[arg(long, value_name = "SOCKET")]
    listen: Option<PathBuf>,
    /// The folder for state that outlives a reboot, instead of `crio.root`.
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// The folder for state that does not, instead of `crio.runroot`.
    #[arg(long, value_name = "DIR")]
    runroot: Option<PathBuf>,
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Print the configuration in effect, with the file, flag or default that each value comes from.
    ///
    /// What is printed is a configuration file itself. Keys that have no effect are named on standard
    /// error.
    Config {
        /// Print nothing but what is wrong: exit code 0 where the daemon could start with it, else 2.
        #[arg(long)]
        check: bool,
    },
}

/// Runs the daemon in the foreground until SIGTERM. Exit codes: 0, 1 it failed, 2 it was called wrongly.
pub fn run(args: impl Iterator<Item = OsString>) -> ExitCode {
    let Ocid {
        config,
        debug,
        listen,
        root,
        runroot,
        verb,
    } = match Ocid::try_parse_from(args) {
        Ok(ocid) => ocid,
        Err(error) => return super::usage(&error),
    };
    let options = Options {
        config,
        listen,
        root,
        runroot,
    };
    let done = match verb {
        None => serve(options, debug),
        Some(Verb::Config { check }) => show(&options, check),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let hint = error.hint();
            eprintln!(
                "{}",
                output::describe(output::Style::stderr(), &error, hint.as_deref())
            );
            ExitCode::from(if matches!(error, ServerError::Config(_)) {
                2
            } else {
                1
            })
        }
    }
}

/// `ocid config`: the settings as the daemon would take them.
fn show(options: &Options, check: bool) -> Result<(), ServerError> {
    let loaded = server::settings(options)?;
    for ignored in &loaded.ignored {
        eprintln!("warning: {ignored}");
    }
    if check {
        return Ok(());
    }
    let report = loaded.report().map_err(ServerError::Report)?;
    match std::io::stdout().write_all(report.as_bytes()) {
        // A reader that has seen enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        written => written.map_err(ServerError::Print),
    }
}

fn serve(options: Options, debug: bool) -> Result<(), ServerError> {
    let loaded = server::settings(&options)?;
    let set_log = log_to_stderr(&loaded.config.crio.runtime, debug);
    for ignored in &loaded.ignored {
        tracing::warn!("{ignored}");
    }
    server::run(options, loaded.config, set_log)
}

/// What is logged. Libraries speak from `info` upwards: at `debug` every frame of HTTP/2 would drown ours.
/// With `debug` ours says at least what helps to find a fault.
fn targets(runtime: &config::Runtime, debug: bool) -> Targets {
    let (level, modules) = runtime.log_targets().unwrap_or((Level::INFO, Vec::new()));
    let at_least = |level: Level| match debug {
        true => level.max(Level::DEBUG),
        false => level,
    };
    let targets = Targets::new()
        .with_default(level.min(Level::INFO))
        .with_target("crio_setup", at_least(level));
    modules
        .into_iter()
        .fold(targets, |targets, (module, level)| {
            targets.with_target(format!("crio_setup::ocid::{module}"), at_least(level))
        })
}

/// Standard error, but only those lines that an expression is found in.
#[derive(Clone, Default)]
struct Sieve(Arc<RwLock<Option<Regex>>>);

impl Sieve {
    /// An empty expression lets everything through, and so does one that is none: it was checked before.
    fn set(&self, expression: &str) {
        let expression = Some(expression).filter(|text| !text.is_empty());
        let expression = expression.and_then(|text| Regex::new(text).ok());
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = expression;
    }
}

impl Write for Sieve {
    /// Takes whole lines: they come as they were formatted.
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        let expression = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let wanted = |expression: &Regex| expression.is_match(&String::from_utf8_lossy(line));
        if expression.as_ref().is_none_or(wanted) {
            std::io::stderr().write_all(line)?;
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stderr().flush()
    }
}

/// One line per event; under systemd the journal adds the time. The answer changes later what is logged, to
/// just what the configuration says.
fn log_to_stderr(
    runtime: &config::Runtime,
    debug: bool,
) -> impl Fn(&config::Runtime) + Send + Sync + use<> {
    let (filter, handle) = reload::Layer::new(targets(runtime, debug));
    let sieve = Sieve::default();
    sieve.set(&runtime.log_filter);
    let writer = sieve.clone();
    let verbose = debug
        || runtime
            .log_targets()
            .is_some_and(|(l, _)| l >= Level::DEBUG);
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(move || writer.clone())
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(verbose);
    let lines = if std::env::var_os("JOURNAL_STREAM").is_some() {
        lines.without_time().with_filter(filter).boxed()
    } else {
        lines.with_filter(filter).boxed()
    };
    tracing_subscriber::registry().with(lines).init();
    move |runtime| {
        sieve.set(&runtime.log_filter);
        if let Err(error) = handle.reload(targets(runtime, false)) {
            tracing::error!(%error, "the level of the log stays as it was");
        }
    }
}
