//! One run of one plugin: parameters in the environment, configuration on standard input, result or
//! error on standard output (CNI specification, section 2).

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::conf::NetworkConf;
use super::{INTERFACE, NetworkError, PodNetwork};
use crate::host::command::{Command, CommandError};

/// What a plugin is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    Add,
    Del,
    Status,
}

impl Verb {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Status => "STATUS",
        }
    }
}

/// What the runs of a chain have in common.
#[derive(Debug)]
pub(super) struct Call<'a> {
    pub(super) verb: Verb,
    /// The pod, its `CNI_ARGS` and its namespace; no namespace where it is gone (DEL).
    pub(super) pod: Option<(&'a PodNetwork, &'a str, Option<&'a Path>)>,
    pub(super) search_path: &'a OsStr,
    pub(super) plugin_dirs: &'a [PathBuf],
    pub(super) limit: Duration,
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

/// Runs a plugin and returns what it printed.
pub(super) async fn run(
    call: &Call<'_>,
    conf: &NetworkConf,
    index: usize,
    program: &Path,
    input: &[u8],
) -> Result<Vec<u8>, NetworkError> {
    let failed = |cause| NetworkError::Run {
        plugin: conf.plugin_type(index).to_owned(),
        network: conf.name.clone(),
        verb: call.verb.as_str(),
        cause: Box::new(cause),
    };
    let mut command = Command::new(program)
        .env("CNI_COMMAND", call.verb.as_str())
        .env("CNI_PATH", joined(call.plugin_dirs))
        .env("PATH", call.search_path)
        .stdin(input)
        .limit(call.limit);
    if let Some((pod, args, netns)) = call.pod {
        command = command
            .env("CNI_CONTAINERID", &pod.sandbox_id)
            .env("CNI_NETNS", netns.unwrap_or(Path::new("")))
            .env("CNI_IFNAME", INTERFACE)
            .env("CNI_ARGS", args);
    }
    let output = command.output_async().await.map_err(failed)?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    match serde_json::from_slice::<PluginError>(&output.stdout) {
        Ok(said) if !said.msg.is_empty() => Err(NetworkError::Refused {
            plugin: conf.plugin_type(index).to_owned(),
            network: conf.name.clone(),
            verb: call.verb.as_str(),
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

/// The result that a plugin printed on ADD.
pub(super) fn parse_result(
    conf: &NetworkConf,
    index: usize,
    output: &[u8],
) -> Result<Value, NetworkError> {
    let problem = match serde_json::from_slice(output) {
        Ok(Value::Object(result)) => return Ok(Value::Object(result)),
        Ok(_) => "it is not a JSON object".to_owned(),
        Err(e) => e.to_string(),
    };
    Err(NetworkError::NoResult {
        plugin: conf.plugin_type(index).to_owned(),
        network: conf.name.clone(),
        verb: Verb::Add.as_str(),
        problem,
    })
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
