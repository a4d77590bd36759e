//! `ocic`: the tutorial's client, from argv to exit code.

pub mod args;
mod complete;
mod ctr;
mod events;
mod image;
mod logs;
mod pod;
mod resolve;
mod run;
mod session;
mod show;
mod stats;
mod stream;

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use crate::cli::manual;
use crate::cli::output::{Output, is_gone};
use crate::ocic::client::ClientError;
use crate::ocic::config::ConfigError;
use crate::ocic::credentials::CredentialsError;
use crate::ocic::endpoint::EndpointError;
use crate::ocic::logs::LogError;
use crate::ocic::stream::StreamError;

use args::{Ocic, Verb};
use resolve::Kind;
use session::Session;

/// The daemon said no, or could not be asked.
const FAILED: u8 = 1;
/// The command line or a config is wrong (clap ends with this code too).
const MISUSED: u8 = 2;

/// Why a verb did not do what was asked.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("no {kind} `{given}`")]
    Unknown { kind: Kind, given: String },
    #[error("`{given}` means more than one {kind}:\n{}", .candidates.join("\n"))]
    Ambiguous {
        kind: Kind,
        given: String,
        candidates: Vec<String>,
    },
    #[error("{}", match .kind {
        Kind::Pod => format!("pod `{id}` is ready"),
        kind => format!("{kind} `{id}` runs"),
    })]
    Alive { kind: Kind, id: String },
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    #[error("read the password")]
    Password(#[source] io::Error),
    #[error("{0}")]
    Usage(&'static str),
    #[error("the daemon has ended the stream of events")]
    EventsEnded,
    #[error("container `{id}` keeps no log: neither its config nor its pod's names a place")]
    NoLog { id: String },
    #[error("pull `{image}`")]
    Pull { image: String, source: ClientError },
    #[error("show the log `{}`", .path.display())]
    Log { path: PathBuf, source: LogError },
    #[error(transparent)]
    Stream(#[from] StreamError),
    #[error("take over the terminal")]
    Terminal(#[source] io::Error),
    #[error("listen for connections to forward")]
    Listen(#[source] io::Error),
    #[error("write to stdout")]
    Output(#[source] io::Error),
    #[error("start the client")]
    Start(#[source] io::Error),
    /// Already told, one by one.
    #[error("{0} of the ids failed")]
    Several(usize),
}

impl Failure {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Client(error) => error.hint(),
            Self::Config(error) => error.hint(),
            Self::Pull { source, .. } => source.hint(),
            Self::Stream(error) => error.hint(),
            Self::Unknown { kind, .. } => {
                let verb = match kind {
                    Kind::Pod => "pods",
                    Kind::Container => "ps -a",
                    Kind::Image => "images",
                };
                Some(format!("`ocic {verb}` shows what there is"))
            }
            Self::Ambiguous { .. } => Some("an id, or enough of its start, means one".to_owned()),
            Self::Alive { kind, .. } => {
                let verb = if *kind == Kind::Pod { "stopp" } else { "stop" };
                Some(format!(
                    "`ocic {verb}` ends it; `--force` removes it all the same"
                ))
            }
            Self::EventsEnded => {
                Some("`journalctl -u ocid` tells why; it does so at its own end".to_owned())
            }
            Self::NoLog { .. } => Some(
                "`log_directory` in the pod's config and `log_path` in the container's make one"
                    .to_owned(),
            ),
            _ => None,
        }
    }

    fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) | Self::Endpoint(_) | Self::Credentials(_) | Self::Usage(_) => MISUSED,
            _ => FAILED,
        }
    }
}

/// Runs one command line, whose first word is the program's name, and tells how the process shall
/// end.
pub fn run(args: impl Iterator<Item = OsString>) -> ExitCode {
    let cli = match Ocic::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            // Help goes to stdout, a complaint to stderr; neither has anywhere else to fail to.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(MISUSED));
        }
    };
    let output = Output::new(cli.format()).fitting_terminal();
    let endpoint = std::env::var("CONTAINER_RUNTIME_ENDPOINT").ok();
    let started = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let ended = started
        .map_err(Failure::Start)
        .and_then(|runtime| runtime.block_on(perform(&cli, endpoint.as_deref(), &output)));
    finish(&output, ended)
}

fn finish(output: &Output, ended: Result<ExitCode, Failure>) -> ExitCode {
    match ended {
        Ok(code) => code,
        Err(Failure::Output(error)) if is_gone(&error) => ExitCode::SUCCESS,
        Err(Failure::Several(_)) => ExitCode::from(FAILED),
        Err(error) => {
            output.error(&error, error.hint().as_deref());
            ExitCode::from(error.exit_code())
        }
    }
}

/// `endpoint` is the environment's `CONTAINER_RUNTIME_ENDPOINT`.
async fn perform(cli: &Ocic, endpoint: Option<&str>, output: &Output) -> Result<ExitCode, Failure> {
    let session = &Session {
        cli,
        output,
        endpoint,
    };
    match &cli.verb {
        Verb::Ctr(verb) => return ctr::run(session, verb).await,
        Verb::Exec(args) => return stream::exec(session, args).await,
        Verb::Attach(args) => return stream::attach(session, args).await,
        Verb::PortForward(args) => return stream::forward(session, args).await,

        Verb::Pod(verb) => pod::run(session, verb).await?,
        Verb::Pods(args) => pod::list(session, args).await?,
        Verb::Runp(args) => pod::runp(session, args).await?,
        Verb::Inspectp(pods) => pod::inspect(session, pods).await?,
        Verb::Stopp(pods) => pod::stop(session, pods).await?,
        Verb::Rmp(args) => pod::remove(session, args).await?,

        Verb::Run(args) => run::run(session, args).await?,
        Verb::Create(args) => ctr::create(session, args).await?,
        Verb::Start(containers) => ctr::start(session, containers).await?,
        Verb::Ps(args) => ctr::ps(session, args).await?,
        Verb::Inspect(containers) => ctr::inspect(session, containers).await?,
        Verb::Logs(args) => logs::run(session, args).await?,
        Verb::Stop(args) => ctr::stop(session, args).await?,
        Verb::Update(args) => ctr::update(session, args).await?,
        Verb::Rm(args) => ctr::remove(session, args).await?,
        Verb::Checkpoint(args) => stats::checkpoint(session, args).await?,

        Verb::Image(verb) => image::run(session, verb).await?,
        Verb::Images(args) => image::list(session, args).await?,
        Verb::Inspecti(images) => image::inspect(session, images).await?,
        Verb::Pull(args) => image::pull(session, args).await?,
        Verb::Rmi(args) => image::remove(session, args).await?,

        Verb::Stats(args) => stats::stats(session, args).await?,
        Verb::Statsp(args) => stats::statsp(session, args).await?,
        Verb::Metricsp => stats::metrics(session).await?,
        Verb::Metricdescs => stats::descriptors(session).await?,
        Verb::Events => events::run(session).await?,
        Verb::Runtimeversion => {
            let answer = session.client().await?.version().await?;
            session.show(&answer, || show::version(&answer))?;
        }
        Verb::Info { verbose } => {
            let answer = session.client().await?.status(*verbose).await?;
            session.show(&answer, || show::info(&answer))?;
        }
        Verb::RuntimeConfig => {
            let answer = session.client().await?.runtime_config().await?;
            session.show(&answer, || show::runtime_config(&answer))?;
        }
        Verb::UpdateRuntimeConfig { pod_cidr } => {
            let client = session.client().await?;
            client.update_runtime_config(pod_cidr).await?;
        }
        Verb::Imagefsinfo => {
            let answer = session.client().await?.image_fs_info().await?;
            session.show(&answer, || show::filesystems(&answer))?;
        }

        Verb::Completions { shell } => {
            let script = complete::script(*shell);
            output.text(script).map_err(Failure::Output)?;
        }
        Verb::Complete { words } => complete::run(session, words).await?,
        Verb::Man => {
            let page = manual::page(Ocic::command()).map_err(Failure::Output)?;
            output.bytes(&page).map_err(Failure::Output)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests;
