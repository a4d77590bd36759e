//! One command line being carried out: its connection, its output, and what several verbs do alike.

use std::io;
use std::path::Path;

use serde::Serialize;
use serde_json::{Value, json};

use crate::cli::output::{Format, Output, Table};
use crate::cri::v1::{ExecSyncResponse, PodSandboxConfig};
use crate::ocic::client::Client;
use crate::ocic::config;
use crate::ocic::endpoint::Endpoints;
use crate::ocic::json;

use super::Failure;
use super::args::Ocic;
use super::resolve::{Kind, resolve};

pub struct Session<'a> {
    pub cli: &'a Ocic,
    pub output: &'a Output,
    /// `CONTAINER_RUNTIME_ENDPOINT`
    pub endpoint: Option<&'a str>,
}

impl Session<'_> {
    /// Connects; done by each verb once what it was given has been checked.
    pub async fn client(&self) -> Result<Client, Failure> {
        let found = Endpoints::find(
            self.cli.socket.as_deref(),
            self.cli.image_endpoint.as_deref(),
            self.endpoint,
            self.cli.config.as_deref(),
        )?;
        let limit = self.cli.limit();
        let connect = found.timeout.unwrap_or(limit);
        let client = if found.images == found.runtime {
            Client::connect(&found.runtime, connect).await?
        } else {
            Client::connect_both(&found.runtime, &found.images, connect).await?
        };
        Ok(client.with_limit(limit))
    }

    /// A whole answer.
    pub fn show<T: Serialize>(
        &self,
        answer: &T,
        table: impl FnOnce() -> Table,
    ) -> Result<(), Failure> {
        self.document(json::value(answer), table)
    }

    /// A list, in JSON under the name that the CRI's answer has for it.
    pub fn answer<T: Serialize>(
        &self,
        name: &str,
        items: &[T],
        table: impl FnOnce() -> Table,
    ) -> Result<(), Failure> {
        self.document(json::list(name, items), table)
    }

    fn document(
        &self,
        value: Result<Value, serde_json::Error>,
        table: impl FnOnce() -> Table,
    ) -> Result<(), Failure> {
        value
            .map_err(io::Error::other)
            .and_then(|value| self.output.show(&value, table))
            .map_err(Failure::Output)
    }

    fn json(&self, value: Result<Value, serde_json::Error>) -> Result<(), Failure> {
        value
            .map_err(io::Error::other)
            .and_then(|value| self.output.json(&value))
            .map_err(Failure::Output)
    }

    /// One line of text.
    pub fn line(&self, text: &str) -> Result<(), Failure> {
        self.output.line(text).map_err(Failure::Output)
    }

    /// The id of what was made, alone on its line for scripts to capture.
    pub fn made(&self, name: &str, id: &str) -> Result<(), Failure> {
        match self.output.format {
            Format::Json => self.output.json(&json!({ name: id })),
            Format::Table => self.output.line(id),
        }
        .map_err(Failure::Output)
    }

    /// Ids, one a line.
    pub fn ids<'i>(&self, ids: impl Iterator<Item = &'i str>) -> Result<(), Failure> {
        match self.output.format {
            Format::Json => self.output.json(&ids.collect::<Vec<_>>()),
            Format::Table => ids.into_iter().try_for_each(|id| self.output.line(id)),
        }
        .map_err(Failure::Output)
    }

    /// Does one thing to each of several objects, whatever becomes of the others, and prints the ids
    /// that it was done to.
    pub async fn each<E: Into<Failure>>(
        &self,
        client: &Client,
        kind: Kind,
        given: Vec<String>,
        act: impl AsyncFn(&Client, &str) -> Result<(), E>,
    ) -> Result<(), Failure> {
        let (mut done, mut failures) = (Vec::new(), Vec::new());
        for id in &given {
            let acted = match resolve(client, kind, id).await {
                Ok(id) => act(client, &id).await.map(|()| id).map_err(Into::into),
                Err(failure) => Err(failure),
            };
            match acted {
                Ok(id) if self.output.format == Format::Table => self.line(&id)?,
                Ok(id) => done.push(id),
                Err(failure) => failures.push(failure),
            }
        }
        if self.output.format == Format::Json {
            self.ids(done.iter().map(String::as_str))?;
        }
        self.failed(failures)
    }

    /// Shows each of several in full: one JSON document, a list of them where more than one is asked for, or
    /// details one after the other.
    pub async fn inspect<T: Serialize>(
        &self,
        given: Vec<String>,
        look: impl AsyncFn(&str) -> Result<T, Failure>,
        table: impl Fn(&T) -> Table,
    ) -> Result<(), Failure> {
        let (mut found, mut failures) = (Vec::new(), Vec::new());
        for given in &given {
            match look(given).await {
                Ok(answer) => found.push(answer),
                Err(failure) => failures.push(failure),
            }
        }
        match (self.output.format, found.as_slice()) {
            (_, []) => {}
            (Format::Json, [one]) if given.len() == 1 => self.json(json::value(one))?,
            (Format::Json, several) => self.json(json::value(several))?,
            (Format::Table, several) => {
                for (i, one) in several.iter().enumerate() {
                    let gap = if i > 0 { "\n" } else { "" };
                    let text = format!("{gap}{}", table(one));
                    self.output.text(&text).map_err(Failure::Output)?;
                }
            }
        }
        self.failed(failures)
    }

    /// The end of a verb that went on after failures: the only one, or each told here.
    fn failed(&self, mut failures: Vec<Failure>) -> Result<(), Failure> {
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
    pub fn streams(&self, answer: &ExecSyncResponse) -> Result<(), Failure> {
        match self.output.format {
            Format::Json => self.json(json::value(answer)),
            Format::Table => self
                .output
                .bytes(&answer.stdout)
                .and_then(|()| self.output.error_bytes(&answer.stderr))
                .map_err(Failure::Output),
        }
    }

    /// Reads a pod's config.
    pub fn sandbox(&self, path: &Path) -> Result<PodSandboxConfig, Failure> {
        let bytes = config::read(path)?;
        let parsed = config::sandbox(&path.to_string_lossy(), &bytes)?;
        self.warn_unknown(path, &parsed.unknown);
        Ok(parsed.config)
    }

    pub fn warn_unknown(&self, config: &Path, keys: &[String]) {
        for key in keys {
            let config = config.display();
            let text = format!("`{config}`: `{key}` is not a field of the CRI and does nothing");
            self.output.warning(&text);
        }
    }
}
