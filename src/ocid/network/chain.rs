//! A network's plugins at work, one run after the other: parameters in the environment, configuration
//! on standard input, result or error on standard output (CNI specification, sections 2 and 3).

use std::ffi::{OsStr, OsString};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::conf::NetworkConf;
use super::lease;
use super::{INTERFACE, NetworkError, PodNetwork, result};
use crate::host::command::{Command, CommandError};

/// What a plugin is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verb {
    Add,
    Del,
    Status,
}

impl Verb {
    fn as_str(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Status => "STATUS",
        }
    }

    /// For one run. Kubelet asks for the status every few seconds.
    fn limit(self) -> Duration {
        match self {
            Self::Add | Self::Del => super::LIMIT,
            Self::Status => Duration::from_secs(5),
        }
    }
}

/// The plugins of a network, found, for one pod (for none: STATUS).
#[derive(Debug)]
pub(super) struct Chain<'a> {
    pub(super) conf: &'a NetworkConf,
    pub(super) pod: Option<Subject<'a>>,
    /// One for each plugin of `conf`.
    pub(super) programs: Vec<PathBuf>,
    pub(super) plugin_dirs: &'a [PathBuf],
    pub(super) search_path: &'a OsStr,
}

/// Whom it is about.
#[derive(Debug, Clone, Copy)]
pub(super) struct Subject<'a> {
    pub(super) pod: &'a PodNetwork,
    /// `CNI_ARGS`.
    pub(super) args: &'a str,
    /// None where it is gone (DEL).
    pub(super) netns: Option<&'a Path>,
}

/// The error that a plugin prints.
#[derive(Debug, Deserialize)]
struct PluginError {
    #[serde(default)]
    code: u64,
    #[serde(default)]
    msg: String,
    #[serde(default)]
    details: String,
}

impl Chain<'_> {
    /// ADD, first plugin first. Returns the last one's result and the pod's addresses. On failure
    /// what was added is deleted again, and the error holds the clean-up's too.
    pub(super) async fn add(&self) -> Result<(Value, Vec<IpAddr>), NetworkError> {
        let mut previous = None;
        for index in 0..self.programs.len() {
            let output = self.run(Verb::Add, index, previous.as_ref()).await;
            match output.and_then(|output| self.parse_result(index, &output)) {
                Ok(result) => previous = Some(result),
                // The one that failed may have left something, too.
                Err(e) => return Err(self.undo(e, index + 1, previous.as_ref()).await),
            }
        }
        let result = previous.unwrap_or_default();
        match result::addresses(&result, INTERFACE) {
            Ok(ips) => Ok((result, ips)),
            Err(problem) => {
                let all = self.programs.len();
                let error = self.no_result(all.saturating_sub(1), problem);
                Err(self.undo(error, all, Some(&result)).await)
            }
        }
    }

    /// DEL, last plugin first, going on after a failure.
    pub(super) async fn del(&self, result: &Value) -> Result<(), NetworkError> {
        self.del_first(self.programs.len(), Some(result)).await
    }

    /// DEL after an ADD of which nothing is known.
    pub(super) async fn del_half_made(&self) -> Result<(), NetworkError> {
        self.del_twice(self.programs.len(), None).await
    }

    /// STATUS, which came with CNI 1.1.0.
    pub(super) async fn status(&self) -> Result<(), NetworkError> {
        if !self.conf.version.has_status() {
            return Ok(());
        }
        for index in 0..self.programs.len() {
            self.run(Verb::Status, index, None).await?;
        }
        Ok(())
    }

    async fn undo(
        &self,
        error: NetworkError,
        count: usize,
        result: Option<&Value>,
    ) -> NetworkError {
        match self.del_twice(count, result).await {
            Ok(()) => error,
            Err(undo) => error.then(undo),
        }
    }

    /// Where an ADD did not come to its end, a failing DEL is worth a second one: the bridge plugin
    /// (1.1.1) removes interface and lease and then fails on a masquerade rule that was never made;
    /// asked again it finds everything gone.
    ///
    /// An address that the plugin was killed at taking would be nobody's: it goes, too.
    async fn del_twice(&self, count: usize, result: Option<&Value>) -> Result<(), NetworkError> {
        let mut done = self.del_first(count, result).await;
        if let Err(e) = &done {
            tracing::debug!(network = self.conf.name, error = %e, "delete once more");
            done = self.del_first(count, result).await;
        }
        lease::drop_unwritten(self.conf).await;
        done
    }

    /// DEL for the first `count` plugins, in reverse.
    async fn del_first(&self, count: usize, result: Option<&Value>) -> Result<(), NetworkError> {
        let result = result.filter(|_| self.conf.version.del_has_result());
        let mut failed: Option<NetworkError> = None;
        for index in (0..count).rev() {
            if let Err(e) = self.run(Verb::Del, index, result).await {
                failed = Some(match failed {
                    None => e,
                    Some(first) => first.then(e),
                });
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// Runs one plugin and returns what it printed.
    async fn run(
        &self,
        verb: Verb,
        index: usize,
        previous: Option<&Value>,
    ) -> Result<Vec<u8>, NetworkError> {
        let program = self.programs.get(index).map(PathBuf::as_path);
        let program = program.unwrap_or(Path::new(""));
        let pod = self.pod.map(|subject| subject.pod);
        let mut command = Command::new(program)
            .env("CNI_COMMAND", verb.as_str())
            .env("CNI_PATH", joined(self.plugin_dirs))
            .env("PATH", self.search_path)
            .stdin(self.conf.plugin_input(index, previous, pod))
            .limit(verb.limit());
        if let Some(subject) = self.pod {
            command = command
                .env("CNI_CONTAINERID", &subject.pod.sandbox_id)
                .env("CNI_NETNS", subject.netns.unwrap_or(Path::new("")))
                .env("CNI_IFNAME", INTERFACE)
                .env("CNI_ARGS", subject.args);
        }
        let failed = |cause| NetworkError::Run {
            plugin: self.conf.plugin_type(index).to_owned(),
            network: self.conf.name.clone(),
            verb: verb.as_str(),
            cause: Box::new(cause),
        };
        let output = command.output_async().await.map_err(failed)?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        match serde_json::from_slice::<PluginError>(&output.stdout) {
            Ok(said) if !said.msg.is_empty() => Err(NetworkError::Refused {
                plugin: self.conf.plugin_type(index).to_owned(),
                network: self.conf.name.clone(),
                verb: verb.as_str(),
                code: said.code,
                message: match said.details.as_str() {
                    "" => said.msg,
                    details => format!("{}; {details}", said.msg),
                },
            }),
            // Not even an error in CNI's form: a crash, whose traces are on standard error.
            _ => Err(failed(CommandError::Failed {
                command: program.display().to_string(),
                status: output.status,
                stderr: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            })),
        }
    }

    fn parse_result(&self, index: usize, output: &[u8]) -> Result<Value, NetworkError> {
        match serde_json::from_slice(output) {
            Ok(Value::Object(result)) => Ok(Value::Object(result)),
            Ok(_) => Err(self.no_result(index, "it is not a JSON object".to_owned())),
            Err(e) => Err(self.no_result(index, e.to_string())),
        }
    }

    fn no_result(&self, index: usize, problem: String) -> NetworkError {
        NetworkError::NoResult {
            plugin: self.conf.plugin_type(index).to_owned(),
            network: self.conf.name.clone(),
            verb: Verb::Add.as_str(),
            problem,
        }
    }
}

/// The daemon's own search path with the system's folders behind it: plugins look for iptables, and
/// a daemon started by something other than a login shell may not have the sbin ones.
pub(super) fn search_path(own: Option<&OsStr>) -> OsString {
    let mut dirs: Vec<PathBuf> = own
        .map(|p| std::env::split_paths(p).collect())
        .unwrap_or_default();
    for dir in [
        "/usr/local/sbin",
        "/usr/local/bin",
        "/usr/sbin",
        "/usr/bin",
        "/sbin",
        "/bin",
    ] {
        if !dirs.iter().any(|d| d == Path::new(dir)) {
            dirs.push(dir.into());
        }
    }
    joined(&dirs)
}

fn joined(dirs: &[PathBuf]) -> OsString {
    let dirs: Vec<&OsStr> = dirs.iter().map(|d| d.as_os_str()).collect();
    dirs.join(OsStr::new(":"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_search_path_reaches_sbin() {
        let path = search_path(Some(OsStr::new("/opt/x:/usr/sbin")));
        assert_eq!(
            path,
            "/opt/x:/usr/sbin:/usr/local/sbin:/usr/local/bin:/usr/bin:/sbin:/bin"
        );
        assert!(
            search_path(None)
                .to_str()
                .unwrap()
                .starts_with("/usr/local/sbin:")
        );
    }
}
