//! A service that runs, with its newest program, unit and configuration.
//!
//! It is restarted when one of its inputs has another stamp than when we started it, unless it was
//! started again since that change, by a person or a boot; and only then. Under systemd by systemctl,
//! whose start waits for the unit's READY=1; else directly.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::host::command::CommandError;
use crate::host::systemd::Started;
use crate::host::{service, systemd};
use crate::setup::failpoint;
use crate::setup::path::Stamp;
use crate::setup::undo::{Input, ServiceSpec, Undo};

use super::{Action, Context, Observation, ProgramAt, Progress, StepError};

/// How long a service without systemd may take to be ready: a first start prepares its storage.
const READY: Duration = Duration::from_secs(120);
const STOP_LIMIT: Duration = Duration::from_secs(30);
/// Files are stamped by a clock that goes on once per tick of the kernel, at 100 Hz or more.
const TICK_NS: i64 = 10_000_000;

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
    /// What it reads when it starts, its program and the environment file aside: files, and folders with
    /// the files in them.
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

    fn inputs(&self, exe: &Path) -> Result<Vec<Input>, StepError> {
        let mut inputs = Vec::new();
        let own = [exe, self.environment_file.as_path()].into_iter();
        for path in own.chain(self.inputs.iter().map(PathBuf::as_path)) {
            // The folder's stamp tells of files that come and go, theirs of an edit.
            let within = files_in(path).map_err(StepError::io("list", path))?;
            for path in std::iter::once(path.to_owned()).chain(within) {
                let stamp = Stamp::follow(&path).map_err(StepError::io("look at", &path))?;
                inputs.push(Input { path, stamp });
            }
        }
        Ok(inputs)
    }
}

/// What is in a folder, sorted; nothing where there is none.
fn files_in(path: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(path) {
        Err(e)
            if matches!(
                e.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            return Ok(Vec::new());
        }
        entries => entries?,
    };
    let mut files = entries
        .map(|entry| Ok(entry?.path()))
        .collect::<io::Result<Vec<_>>>()?;
    files.sort();
    Ok(files)
}

/// Was this input last changed before the running service was started, so that it has what stands there now?
///
/// Judged by ctime, which nobody can set, of what is there, of a link that leads there, and of the folder:
/// a file that was moved into place may keep its own. What is gone, or cannot be looked at, has no time.
fn was_read(input: &Input, since: Started) -> bool {
    // systemd reads a unit when it boots or is told to; a start alone takes in nothing new of it.
    let is_unit = input.path.extension().is_some_and(|e| e == "service");
    let taken = if is_unit {
        since.boot_ns()
    } else {
        since.wall_ns
    };
    let before = |stamp: Option<Stamp>| {
        stamp.is_some_and(|stamp| stamp.ctime_ns.saturating_add(TICK_NS) < taken)
    };
    let at = |path: &Path| Stamp::read(path).ok().flatten();
    before(input.stamp) && before(at(&input.path)) && before(input.path.parent().and_then(at))
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
                    let had = |input: &&Input| {
                        inputs.contains(input)
                            || running.since.is_some_and(|since| was_read(input, since))
                    };
                    now.iter().find(|input| !had(input)).cloned()
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

    fn input(path: &Path) -> Input {
        Input {
            path: path.to_owned(),
            stamp: Stamp::follow(path).unwrap(),
        }
    }

    /// A service that was started so long after the last change in this folder.
    fn since(folder: &Path, ns: i64) -> Started {
        let latest = files_in(folder).unwrap().into_iter();
        let stamps = latest
            .chain([folder.to_owned()])
            .map(|path| Stamp::read(&path));
        let latest = stamps.map(|stamp| stamp.unwrap().unwrap().ctime_ns).max();
        let wall_ns = latest.unwrap() + ns;
        Started {
            wall_ns,
            up_ns: wall_ns,
        }
    }

    #[test]
    fn a_start_after_the_last_change_has_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("a.conf"), dir.path().join("b.conf"));
        std::fs::write(&file, "").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        for path in [&file, &link] {
            assert!(was_read(&input(path), since(dir.path(), TICK_NS + 1)));
            assert!(!was_read(&input(path), since(dir.path(), TICK_NS)));
        }
        let gone = input(&dir.path().join("gone.conf"));
        assert!(!was_read(&gone, since(dir.path(), i64::MAX / 2)), "when?");
        // Put back from elsewhere, with the times of then: only its folder tells.
        let after = since(dir.path(), TICK_NS + 1);
        let old = Stamp {
            ctime_ns: 0,
            ..input(&file).stamp.unwrap()
        };
        let moved = Input {
            path: file,
            stamp: Some(old),
        };
        assert!(was_read(&moved, after));
        std::thread::sleep(Duration::from_millis(30));
        std::fs::write(dir.path().join("c.conf"), "").unwrap();
        assert!(!was_read(&moved, after));
    }

    #[test]
    fn a_unit_is_read_by_a_boot_and_not_by_a_start() {
        let dir = tempfile::tempdir().unwrap();
        let unit = dir.path().join("x.service");
        std::fs::write(&unit, "").unwrap();
        let started = since(dir.path(), i64::MAX / 4);
        assert!(!was_read(&input(&unit), started));
        let booted = Started {
            up_ns: 0,
            ..started
        };
        assert!(was_read(&input(&unit), booted));
    }

    #[test]
    fn a_folder_counts_with_what_is_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir(at("conf.d")).unwrap();
        for name in ["exe", "conf.d/2.conf", "conf.d/1.conf"] {
            std::fs::write(at(name), "").unwrap();
        }
        let step = ServiceStep {
            name: "x",
            program: ProgramAt::Path(at("exe")),
            args: Vec::new(),
            env: Vec::new(),
            environment_file: at("none"),
            inputs: vec![at("conf.d"), at("no.d")],
        };
        let inputs = step.inputs(&at("exe")).unwrap();
        let paths: Vec<_> = inputs.iter().map(|input| input.path.clone()).collect();
        let expected = [
            "exe",
            "none",
            "conf.d",
            "conf.d/1.conf",
            "conf.d/2.conf",
            "no.d",
        ];
        assert_eq!(paths, expected.map(at));
    }

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
