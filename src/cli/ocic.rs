//! `ocic`: the tutorial's client, from argv to exit code.

pub mod args;
mod ctr;
mod image;
mod pod;
mod resolve;
mod show;
mod stream;

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use serde::Serialize;
use serde_json::json;

use crate::cli::manual;
use crate::cli::output::{Format, Output, Table, is_gone};
use crate::cri::v1::ExecSyncResponse;
use crate::ocic::client::{Client, ClientError};
use crate::ocic::config::ConfigError;
use crate::ocic::json::{self, Subject};
use crate::ocic::logs::LogError;
use crate::ocic::stream::StreamError;

use args::{Many, Ocic, Verb};
use resolve::{Kind, resolve};

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
    #[error("more than one {kind} has an id that starts with `{given}`")]
    Ambiguous { kind: Kind, given: String },
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
            Self::Unknown { kind, .. } | Self::Ambiguous { kind, .. } => {
                let noun = match kind {
                    Kind::Pod => "pod",
                    Kind::Container => "ctr",
                    Kind::Image => "image",
                };
                Some(format!("`ocic {noun} list` shows what there is"))
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
            Self::Config(_) => MISUSED,
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
    let output = Output::new(cli.output);
    let started = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let ended = started
        .map_err(Failure::Start)
        .and_then(|runtime| runtime.block_on(perform(&cli, &output)));
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

async fn perform(cli: &Ocic, output: &Output) -> Result<ExitCode, Failure> {
    let session = Session { cli, output };
    match &cli.verb {
        Verb::Pod(verb) => pod::run(&session, verb).await?,
        Verb::Ctr(verb) => return ctr::run(&session, verb).await,
        Verb::Exec(args) => return stream::exec(&session, args).await,
        Verb::Attach(args) => return stream::attach(&session, args).await,
        Verb::PortForward(args) => return stream::forward(&session, args).await,
        Verb::Image(verb) => image::run(&session, verb).await?,
        Verb::Runtimeversion => {
            let answer = session.client().await?.version().await?;
            session.show(Subject::Other, &answer, || show::version(&answer))?;
        }
        Verb::Info { verbose } => {
            let answer = session.client().await?.status(*verbose).await?;
            session.show(Subject::Other, &answer, || show::info(&answer))?;
        }
        Verb::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Ocic::command(), "ocic", &mut script);
            output.bytes(&script).map_err(Failure::Output)?;
        }
        Verb::Man => {
            let page = manual::page(Ocic::command()).map_err(Failure::Output)?;
            output.bytes(&page).map_err(Failure::Output)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// One command line being carried out.
struct Session<'a> {
    cli: &'a Ocic,
    output: &'a Output,
}

impl Session<'_> {
    /// Connects; done by each verb once what it was given has been checked.
    async fn client(&self) -> Result<Client, Failure> {
        Ok(Client::connect(&self.cli.socket, self.cli.limit).await?)
    }

    /// Pulls an image; the reference it is kept under.
    async fn pull(&self, client: &Client, image: &str) -> Result<String, Failure> {
        let pulled = client.pull_image(image, None).await;
        pulled.map_err(|source| Failure::Pull {
            image: image.to_owned(),
            source,
        })
    }

    /// A whole answer.
    fn show<T: Serialize>(
        &self,
        subject: Subject,
        answer: &T,
        table: impl FnOnce() -> Table,
    ) -> Result<(), Failure> {
        let value = json::value(subject, answer).map_err(io::Error::other);
        value
            .and_then(|value| self.output.show(&value, table))
            .map_err(Failure::Output)
    }

    /// A list, in JSON under the name that the CRI's answer has for it.
    fn answer<T: Serialize>(
        &self,
        subject: Subject,
        name: &str,
        items: &[T],
        table: impl FnOnce() -> Table,
    ) -> Result<(), Failure> {
        self.show(subject, &json!({ name: items }), table)
    }

    /// The id of what was made, alone on its line for scripts to capture.
    fn made(&self, name: &str, id: &str) -> Result<(), Failure> {
        match self.output.format {
            Format::Json => self.output.json(&json!({ name: id })),
            Format::Table => self.output.line(id),
        }
        .map_err(Failure::Output)
    }

    /// Ids, one a line.
    fn ids<'i>(&self, ids: impl Iterator<Item = &'i str>) -> Result<(), Failure> {
        match self.output.format {
            Format::Json => self.output.json(&ids.collect::<Vec<_>>()),
            Format::Table => ids.into_iter().try_for_each(|id| self.output.line(id)),
        }
        .map_err(Failure::Output)
    }

    /// Does one thing to each of several objects, whatever becomes of the others, and prints the ids
    /// that it was done to.
    async fn each<E: Into<Failure>>(
        &self,
        kind: Kind,
        given: &Many,
        act: impl AsyncFn(&Client, &str) -> Result<(), E>,
    ) -> Result<(), Failure> {
        let client = self.client().await?;
        let (mut done, mut failures) = (Vec::new(), Vec::new());
        for id in given.iter() {
            let acted = match resolve(&client, kind, id).await {
                Ok(id) => act(&client, &id).await.map(|()| id).map_err(Into::into),
                Err(failure) => Err(failure),
            };
            match acted {
                Ok(id) if self.output.format == Format::Table => {
                    self.ids([id.as_str()].into_iter())?
                }
                Ok(id) => done.push(id),
                Err(failure) => failures.push(failure),
            }
        }
        if self.output.format == Format::Json {
            self.ids(done.iter().map(String::as_str))?;
        }
        let several = failures.len();
        match failures.pop() {
            None => Ok(()),
            Some(only) if failures.is_empty() => Err(only),
            Some(last) => {
                for failure in failures.iter().chain([&last]) {
                    self.output.error(failure, failure.hint().as_deref());
                }
                Err(Failure::Several(several))
            }
        }
    }

    /// What a command wrote, to our own streams.
    fn streams(&self, answer: &ExecSyncResponse) -> Result<(), Failure> {
        match self.output.format {
            Format::Json => self.output.json(answer),
            Format::Table => self
                .output
                .bytes(&answer.stdout)
                .and_then(|()| self.output.error_bytes(&answer.stderr)),
        }
        .map_err(Failure::Output)
    }

    fn warn_unknown(&self, config: &Path, keys: &[String]) {
        for key in keys {
            let config = config.display();
            let text = format!("`{config}`: `{key}` is not a field of the CRI and does nothing");
            self.output.warning(&text);
        }
    }
}

#[cfg(test)]
mod tests;
