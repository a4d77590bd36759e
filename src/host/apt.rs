//! apt and dpkg, told to ask nothing, to start nothing and to wait for their lock only so long.

mod lock;
mod parse;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::command::{Command, CommandError, Output};
use super::fs::under;

/// What invoke-rc.d and deb-systemd-invoke ask before they start a service (policy-rc.d(8) in the
/// Debian policy's terms): 101 forbids it. They ask before they stop one, too, which a package that goes must.
pub const POLICY: &str = "/usr/sbin/policy-rc.d";
pub const POLICY_FORBIDS: &str = "\
#!/bin/sh
# crio-setup: a package that is being installed starts no service; one that goes stops its own.
[ -z \"$CRIO_SETUP_REMOVES\" ] || exit 0
exit 101
";
/// Tells the policy that packages go.
const REMOVES: (&str, &str) = ("CRIO_SETUP_REMOVES", "1");

const LOCKS: [&str; 3] = [
    "/var/lib/dpkg/lock-frontend",
    "/var/lib/dpkg/lock",
    "/var/lib/apt/lists/lock",
];
/// Downloading and unpacking on a slow machine.
const INSTALL_LIMIT: Duration = Duration::from_secs(1800);
const UPDATE_LIMIT: Duration = Duration::from_secs(600);

/// Why packages could not be installed or removed.
#[derive(Debug, thiserror::Error)]
pub enum AptError {
    #[error("wait for the lock `{path}`: held by {holder} for more than {limit:?}")]
    Locked {
        path: PathBuf,
        holder: String,
        limit: Duration,
    },
    #[error("find the package{} `{packages}`: no source offers {}", plural(.packages, "", "s"), plural(.packages, "it", "them"))]
    NoCandidate { packages: String },
    #[error("remove `{packages}`: that would also remove `{others}`, which crio-setup did not add")]
    WouldRemove { packages: String, others: String },
    #[error("open `{path}`")]
    Read { path: PathBuf, source: io::Error },
    #[error("remove `{path}`")]
    Remove { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Command(#[from] CommandError),
}

fn plural<'a>(packages: &str, one: &'a str, many: &'a str) -> &'a str {
    if packages.contains(' ') { many } else { one }
}

impl AptError {
    /// The command that helps.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Locked { .. } => Some(
                "let it finish, or wait longer with `--lock-timeout SECONDS`; see `ps -ef | grep -E 'apt|dpkg'`"
                    .to_owned(),
            ),
            Self::NoCandidate { packages } => Some(format!(
                "see `apt-cache policy {packages}`: is the distribution's main (and universe) section in the sources?"
            )),
            Self::WouldRemove { others, .. } => Some(format!("see `apt-cache rdepends {others}`")),
            Self::Read { .. } | Self::Remove { .. } => None,
            Self::Command(_) => Some("see `tail /var/log/apt/term.log`".to_owned()),
        }
    }
}

/// The package manager of the system at `root`.
#[derive(Debug, Clone)]
pub struct Apt {
    root: PathBuf,
    lock_limit: Duration,
}

/// What an installation would do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Simulation {
    /// Packages that are not installed now.
    pub added: BTreeSet<String>,
    /// Packages that would only change their version.
    pub upgraded: BTreeSet<String>,
    pub removed: BTreeSet<String>,
    /// Words of what apt says is recommended and not installed.
    pub recommended: BTreeSet<String>,
}

impl Apt {
    pub fn new(root: &Path, lock_limit: Duration) -> Self {
        Self {
            root: root.to_owned(),
            lock_limit,
        }
    }

    /// Is there an apt at all?
    pub fn is_there(&self) -> bool {
        under(&self.root, Path::new("/usr/bin/apt-get")).exists()
    }

    /// The versions of those of `names` that are installed, from dpkg's status file. No child
    /// process: this is asked on every run.
    pub fn installed(&self, names: &[&str]) -> Result<BTreeMap<String, String>, AptError> {
        self.of_status(|file| parse::status(file, names))
    }

    /// Does an installed package recommend another? Asked of dpkg's status file, too.
    pub fn recommends(&self, package: &str, other: &str) -> Result<bool, AptError> {
        self.of_status(|file| parse::recommends(file, package, other))
    }

    /// What `read` finds in dpkg's status file, or nothing where there is none.
    fn of_status<T: Default>(
        &self,
        read: impl FnOnce(BufReader<File>) -> io::Result<T>,
    ) -> Result<T, AptError> {
        let path = under(&self.root, Path::new("/var/lib/dpkg/status"));
        let found = match File::open(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(T::default()),
            opened => opened.and_then(|file| read(BufReader::with_capacity(64 << 10, file))),
        };
        found.map_err(|source| AptError::Read { path, source })
    }

    /// What installing `names` would do. Missing or outdated package lists are refreshed first.
    pub fn plan(&self, names: &[&str]) -> Result<Simulation, AptError> {
        self.wait_for_locks()?;
        if !self.has_lists() {
            self.update()?;
            return self.simulate(names);
        }
        match self.simulate(names) {
            Err(AptError::NoCandidate { .. }) => {
                self.update()?;
                self.simulate(names)
            }
            other => other,
        }
    }

    /// Installs `names`, without recommended packages, removing nothing, keeping changed
    /// configuration. Stale lists are refreshed once when a download fails.
    pub fn install(&self, names: &[&str]) -> Result<(), AptError> {
        self.wait_for_locks()?;
        let install = || {
            self.apt_get(&["install", "--yes", "--no-remove", "--no-install-recommends"])
                .args(["-o", "APT::Install-Suggests=false", "--"])
                .args(names)
                .limit(INSTALL_LIMIT)
                .run()
        };
        match install() {
            Err(CommandError::Failed { stderr, .. })
                if stderr.contains("Failed to fetch") || stderr.contains("Unable to fetch") =>
            {
                self.update()?;
                install()?;
            }
            other => drop(other?),
        }
        Ok(())
    }

    /// Purges those of `names` that are there; refuses when others would go with them. True when
    /// there was one.
    pub fn purge(&self, names: &[String]) -> Result<bool, AptError> {
        self.wait_for_locks()?;
        if !self.is_cut_off() && self.known(names, |_| true)?.is_empty() {
            return Ok(false);
        }
        // A killed run may have left dpkg in the middle of its work.
        self.dpkg(&["--configure", "--pending"])
            .limit(INSTALL_LIMIT)
            .output()?;
        self.mend(names)?;
        let there = self.known(names, |_| true)?;
        if there.is_empty() {
            return Ok(false);
        }
        let purge = |simulate: bool| {
            let mut command = self.apt_get(&["purge", "--yes"]);
            if simulate {
                command = command.arg("--simulate");
            }
            command
                .args(["-o", "APT::Get::AutomaticRemove=false", "--"])
                .args(&there)
                .env(REMOVES.0, REMOVES.1)
                .limit(INSTALL_LIMIT)
                .run()
        };
        let simulated = parse::simulation(&String::from_utf8_lossy(&purge(true)?.stdout));
        let others: Vec<_> = simulated.removed.difference(&there).cloned().collect();
        if !others.is_empty() {
            return Err(AptError::WouldRemove {
                packages: there.into_iter().collect::<Vec<_>>().join(" "),
                others: others.join(" "),
            });
        }
        self.save_docker_data(&there)?;
        purge(false)?;
        Ok(true)
    }

    /// Was dpkg killed at its work? What it had done so far stands in a journal of its own and not yet in its
    /// status file, and until it has worked again apt refuses to.
    fn is_cut_off(&self) -> bool {
        let journal = under(&self.root, Path::new("/var/lib/dpkg/updates"));
        fs::read_dir(journal).is_ok_and(|mut entries| entries.next().is_some())
    }

    /// Has those packages unpacked anew over which dpkg was killed: it does not remove such a one, and does not
    /// know what of it lies there already. Without an archive to be had it is removed as far as it is known.
    fn mend(&self, names: &[String]) -> Result<(), AptError> {
        let torn = || self.known(names, |status| status.contains(" reinstreq "));
        let found = torn()?;
        if found.is_empty() {
            return Ok(());
        }
        self.apt_get(&["install", "--yes", "--reinstall", "--fix-broken"])
            .args(["--no-remove", "--no-install-recommends", "--"])
            .args(&found)
            .limit(INSTALL_LIMIT)
            .output()?;
        let found = torn()?;
        if !found.is_empty() {
            self.dpkg(&["--force-remove-reinstreq", "--force-depends", "--purge"])
                .arg("--")
                .args(&found)
                .env(REMOVES.0, REMOVES.1)
                .limit(INSTALL_LIMIT)
                .run()?;
        }
        Ok(())
    }

    /// Debian's docker.io deletes all of docker's data when it is purged, by a script that its
    /// removal leaves there. Data that was here before the package is not its to delete: whoever
    /// made the folder removes it.
    fn save_docker_data(&self, packages: &BTreeSet<String>) -> Result<(), AptError> {
        let data = under(&self.root, Path::new("/var/lib/docker"));
        if !packages.contains("docker.io") || !data.is_dir() {
            return Ok(());
        }
        self.apt_get(&["remove", "--yes"])
            .args(["-o", "APT::Get::AutomaticRemove=false", "--", "docker.io"])
            .env(REMOVES.0, REMOVES.1)
            .limit(INSTALL_LIMIT)
            .run()?;
        let path = data.join("nuke-graph-directory.sh");
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(AptError::Remove { path, source })
            }
            _ => Ok(()),
        }
    }

    /// Waits until nobody holds a lock of dpkg or apt, `lock_limit` at most.
    fn wait_for_locks(&self) -> Result<(), AptError> {
        let deadline = Instant::now() + self.lock_limit;
        for lock in LOCKS {
            let path = under(&self.root, Path::new(lock));
            let left = deadline.saturating_duration_since(Instant::now());
            lock::wait(&path, left, self.lock_limit)?;
        }
        Ok(())
    }

    fn update(&self) -> Result<(), AptError> {
        self.wait_for_locks()?;
        // A source that is out of reach is a warning, and what counts is whether the package is
        // found afterwards: a third party's broken source must not stop us.
        self.apt_get(&["update"])
            .args([
                "-o",
                "Acquire::http::Timeout=15",
                "-o",
                "Acquire::https::Timeout=15",
            ])
            .limit(UPDATE_LIMIT)
            .output()?;
        Ok(())
    }

    fn simulate(&self, names: &[&str]) -> Result<Simulation, AptError> {
        let output = self
            .apt_get(&[
                "install",
                "--simulate",
                "--no-remove",
                "--no-install-recommends",
                "--",
            ])
            .args(names)
            .limit(UPDATE_LIMIT)
            .run();
        match output {
            Ok(Output { stdout, .. }) => Ok(parse::simulation(&String::from_utf8_lossy(&stdout))),
            Err(CommandError::Failed { stderr, .. })
                if [
                    "Unable to locate",
                    "no installation candidate",
                    "is not available",
                ]
                .iter()
                .any(|sign| stderr.contains(sign)) =>
            {
                Err(AptError::NoCandidate {
                    packages: names.join(" "),
                })
            }
            Err(e) => Err(e.into()),
        }
    }

    fn has_lists(&self) -> bool {
        let lists = under(&self.root, Path::new("/var/lib/apt/lists"));
        let Ok(entries) = fs::read_dir(lists) else {
            return false;
        };
        entries
            .filter_map(Result::ok)
            .any(|e| e.file_name().to_string_lossy().contains("_Packages"))
    }

    /// Those of `names` of which dpkg knows anything, be it only left configuration, with a status (three words)
    /// that `wanted` takes.
    fn known(
        &self,
        names: &[String],
        wanted: impl Fn(&str) -> bool,
    ) -> Result<BTreeSet<String>, AptError> {
        let path = under(&self.root, Path::new("/var/lib/dpkg/status"));
        let text = fs::read_to_string(&path).map_err(|source| AptError::Read { path, source })?;
        Ok(parse::statuses(&text)
            .filter(|(name, status)| wanted(status) && names.iter().any(|n| n == name))
            .map(|(name, _)| name.to_owned())
            .collect())
    }

    fn apt_get(&self, args: &[&str]) -> Command {
        self.quiet("apt-get")
            .args([
                "-q",
                "-o",
                "DPkg::Lock::Timeout=30",
                "-o",
                "Acquire::Retries=2",
            ])
            .args([
                "-o",
                "Dpkg::Options::=--force-confdef",
                "-o",
                "Dpkg::Options::=--force-confold",
            ])
            .args(["-o", "Dpkg::Use-Pty=0"])
            .args(args)
    }

    fn dpkg(&self, args: &[&str]) -> Command {
        self.quiet("dpkg")
            .args(["--force-confdef", "--force-confold"])
            .args(args)
    }

    /// No question, no pager, no restart of services by needrestart, messages in English for us.
    fn quiet(&self, program: &str) -> Command {
        let command = if self.root == Path::new("/") {
            Command::new(program)
        } else {
            Command::new("chroot").arg(&self.root).arg(program)
        };
        command
            .env("LC_ALL", "C.UTF-8")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .env("DEBIAN_PRIORITY", "critical")
            .env("APT_LISTCHANGES_FRONTEND", "none")
            .env("NEEDRESTART_MODE", "l")
            .env("NEEDRESTART_SUSPEND", "1")
            .env("UCF_FORCE_CONFFOLD", "1")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_lock_file_is_no_lock() {
        let dir = tempfile::tempdir().unwrap();
        let apt = Apt::new(dir.path(), Duration::ZERO);
        apt.wait_for_locks().unwrap();
        assert!(!apt.is_there() && !apt.has_lists());
        assert!(apt.installed(&["runc"]).unwrap().is_empty());
    }
}
