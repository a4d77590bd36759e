//! A service that runs, with its newest program, unit and configuration.
//!
//! It is restarted when one of its inputs has another stamp than when it was started, and only
//! then. Under systemd by systemctl, whose start waits for the unit's READY=1; else directly.

use std::path::PathBuf;
use std::time::Duration;

use crate::host::command::CommandError;
use crate::host::{service, systemd};
use crate::setup::failpoint;
use crate::setup::path::Stamp;
use crate::setup::undo::{Input, ServiceSpec, Undo};

use super::{Action, Context, Observation, ProgramAt, Progress, StepError};

/// How long a service without systemd may take to be ready: a first start prepares its storage.
const READY: Duration = Duration::from_secs(120);
const STOP_LIMIT: Duration = Duration::from_secs(30);

#[derive(Debug, Clone)]
pub struct ServiceStep {
    /// Without `.service`.
    pub name: &'static str,
    pub program: ProgramAt,
    pub args: Vec<String>,
    /// Beyond the defaults, where there is no systemd.
    pub env: Vec<(String, String)>,
    /// As `EnvironmentFile=-` of its unit.
    pub environment_file: PathBuf,
    /// Files that it reads when it starts, its program and the environment file aside.
    pub inputs: Vec<PathBuf>,
}

impl ServiceStep {
    fn spec(&self, exe: PathBuf) -> ServiceSpec {
        ServiceSpec {
            exe,
            args: self.args.clone(),
            env: self.env.clone(),
            ..ServiceSpec::named(self.name)
        }
    }

    fn inputs(&self, exe: &std::path::Path) -> Result<Vec<Input>, StepError> {
        std::iter::once(exe)
            .chain([self.environment_file.as_path()])
            .chain(self.inputs.iter().map(PathBuf::as_path))
            .map(|path| {
                let stamp = Stamp::follow(path).map_err(StepError::io("look at", path))?;
                Ok(Input {
                    path: path.to_owned(),
                    stamp,
                })
            })
            .collect()
    }
}

impl Action for ServiceStep {
    fn describe(&self) -> String {
        format!("start `{}`", self.name)
    }

    fn observe(&self, context: &mut Context<'_>) -> Result<Observation, StepError> {
        let Some(exe) = self.program.resolve(&context.settings.root) else {
            return Ok(Observation::Pending("waits for its program".to_owned()));
        };
        let Some(running) = context.facts.running.get(self.name) else {
            return Ok(Observation::Pending("does not run".to_owned()));
        };
        let now = self.inputs(&exe)?;
        let changed = match context.receipt.record(&format!("service:{}", self.name)) {
            Some(record) => match &record.undo {
                // A boot of the image started it: with what it stands on from here on, nobody knows.
                Undo::Service { inputs, .. } if inputs.is_empty() => {
                    return Ok(Observation::Pending(
                        "was started by the boot of an image".to_owned(),
                    ));
                }
                Undo::Service { inputs, .. } => {
                    now.iter().find(|input| !inputs.contains(input)).cloned()
                }
                _ => None,
            },
            // It runs, though not by us: what matters is what we change under it.
            None => now
                .iter()
                .find(|input| context.changed.contains(&input.path))
                .cloned(),
        };
        Ok(match changed {
            Some(input) => Observation::Pending(format!(
                "was started with another `{}`",
                input.path.display()
            )),
            None if running.needs_reload => {
                Observation::Pending("systemd has not read its unit".to_owned())
            }
            None => Observation::Satisfied,
        })
    }

    fn apply(&self, context: &mut Context<'_>) -> Result<Vec<Undo>, StepError> {
        let exe = self.program.require(&context.settings.root)?;
        let mut spec = self.spec(exe.clone());
        if !context.facts.systemd {
            let file = &self.environment_file;
            match std::fs::read_to_string(file) {
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                text => {
                    let text = text.map_err(StepError::io("read", file))?;
                    spec.env.extend(assignments(&text));
                }
            }
        }
        let was_running = context.facts.running.contains_key(self.name);
        let undo = vec![Undo::Service {
            service: spec.clone(),
            systemd: context.facts.systemd,
            was_running,
            inputs: self.inputs(&exe)?,
        }];
        context.start(&undo)?;
        (context.progress)(Progress::Busy(&format!("start {}", self.name)));
        start(&spec, context.facts.systemd, was_running)?;
        failpoint::pass("service-started");
        Ok(undo)
    }
}

/// The assignments of an environment file (systemd.exec(5), `EnvironmentFile=`), as far as files of
/// this kind go: one a line, a value perhaps in quotes, comments with `#` or `;`.
fn assignments(text: &str) -> Vec<(String, String)> {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.starts_with(['#', ';']))
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| {
            let value = value.trim();
            let quoted = ['"', '\'']
                .iter()
                .find_map(|q| value.strip_prefix(*q)?.strip_suffix(*q));
            (key.trim().to_owned(), quoted.unwrap_or(value).to_owned())
        })
        .filter(|(key, _)| !key.is_empty())
        .collect()
}

/// Starts a service, or restarts one that runs, and waits until it is ready.
pub(in crate::setup) fn start(
    spec: &ServiceSpec,
    by_systemd: bool,
    running: bool,
) -> Result<(), StepError> {
    if by_systemd {
        let unit = spec.unit();
        let failed = |act| {
            let unit = unit.clone();
            move |source: CommandError| StepError::Unit { act, unit, source }
        };
        systemd::daemon_reload().map_err(failed("reload systemd for"))?;
        systemd::reset_failed(&unit);
        return if running {
            systemd::restart(&unit).map_err(failed("restart"))
        } else {
            systemd::start(&unit).map_err(failed("start"))
        };
    }
    let direct = spec.direct(READY);
    if running {
        service::stop(&direct, STOP_LIMIT)?;
    }
    service::start_background(&direct)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_environment_file_is_read_as_systemd_does() {
        let text = "# proxies\nHTTPS_PROXY=http://proxy:3128\n\n; off=1\n NO_PROXY = \"a, b\" \n\
                    QUOTED='x=y'\nno assignment\n=empty\nOPEN=\"half\n";
        let read = assignments(text);
        let expected = [
            ("HTTPS_PROXY", "http://proxy:3128"),
            ("NO_PROXY", "a, b"),
            ("QUOTED", "x=y"),
            ("OPEN", "\"half"),
        ];
        let expected = expected.map(|(k, v)| (k.to_owned(), v.to_owned()));
        assert_eq!(read, expected);
    }
}
