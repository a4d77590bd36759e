//! Packages of the distribution, which may neither start nor enable a service.
//!
//! A `policy-rc.d` of ours forbids the starts while apt works, and goes again. Enabling cannot be
//! forbidden: the links that appear in /etc/systemd/system are taken away again, which dpkg's own
//! helper understands as the administrator's will.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::artifact::Sha256Sum;
use crate::host::apt::{Apt, POLICY, POLICY_FORBIDS, Simulation};
use crate::host::systemd;
use crate::setup::failpoint;
use crate::setup::path::{Wrote, put_file, restore};
use crate::setup::undo::Undo;

use super::{Action, Context, Observation, Progress, StepError};

const UNITS: &str = "/etc/systemd/system";
/// A package, and what comes with it where it recommends that: from Debian 13 on, docker's client is a package of its
/// own, and without it nobody can use docker.
const COMPANIONS: [(&str, &str); 1] = [("docker.io", "docker-cli")];

#[derive(Debug, Clone)]
pub struct Package {
    pub names: Vec<String>,
}

impl Package {
    fn apt(&self, context: &Context<'_>) -> Apt {
        Apt::new(&context.settings.root, context.settings.lock_timeout)
    }

    fn missing(&self, context: &Context<'_>) -> Result<Vec<&str>, StepError> {
        let apt = self.apt(context);
        let names: Vec<&str> = self.names.iter().map(String::as_str).collect();
        let companions = || COMPANIONS.iter().filter(|(of, _)| names.contains(of));
        let asked: Vec<&str> = names
            .iter()
            .copied()
            .chain(companions().map(|(_, companion)| *companion))
            .collect();
        let there = apt.installed(&asked)?;
        let is_missing = |name: &str| !there.contains_key(name);
        let mut missing: Vec<&str> = names.iter().copied().filter(|n| is_missing(n)).collect();
        for (of, companion) in companions() {
            if is_missing(companion) && !is_missing(of) && apt.recommends(of, companion)? {
                missing.push(companion);
            }
        }
        Ok(missing)
    }

    /// What to install, with the companions of what is missing, and what that would do.
    fn plan<'a>(
        &'a self,
        apt: &Apt,
        context: &Context<'_>,
    ) -> Result<(Vec<&'a str>, Simulation), StepError> {
        let mut missing = self.missing(context)?;
        let simulation = apt.plan(&missing)?;
        let before = missing.len();
        for (of, companion) in COMPANIONS {
            if missing.contains(&of) && simulation.recommended.contains(companion) {
                missing.push(companion);
            }
        }
        match missing.len() == before {
            true => Ok((missing, simulation)),
            false => {
                let simulation = apt.plan(&missing)?;
                Ok((missing, simulation))
            }
        }
    }
}

impl Action for Package {
    fn describe(&self) -> String {
        format!("install the packages `{}`", self.names.join(" "))
    }

    fn observe(&self, context: &mut Context<'_>) -> Result<Observation, StepError> {
        let missing = self.missing(context)?;
        Ok(if missing.is_empty() {
            Observation::Satisfied
        } else {
            Observation::Pending(format!("`{}` not installed", missing.join(" ")))
        })
    }

    fn apply(&self, context: &mut Context<'_>) -> Result<Vec<Undo>, StepError> {
        let apt = self.apt(context);
        let busy = format!("apt installs {}", self.missing(context)?.join(" "));
        (context.progress)(Progress::Busy(&busy));
        let (missing, simulation) = self.plan(&apt, context)?;
        let packages = Undo::Packages {
            requested: self.names.clone(),
            added: simulation.added.into_iter().collect(),
        };
        let policy = Path::new(POLICY);
        let before = context.capture(policy)?;
        let wrote = Wrote::File {
            sha256: Sha256Sum::of(POLICY_FORBIDS.as_bytes()),
            mode: 0o755,
            stamp: None,
        };
        let policy_undo = Undo::Path {
            path: policy.to_owned(),
            before: before.clone(),
            wrote: wrote.clone(),
            origin: None,
        };
        // In reverse: the packages go while the policy still stands.
        context.start(&[policy_undo, packages.clone()])?;
        let real = context.real(policy);
        put_file(&real, context.run(), POLICY_FORBIDS.as_bytes(), 0o755)
            .map_err(StepError::io("write", policy))?;
        failpoint::pass("policy-put");
        let links = enablements(&context.real(Path::new(UNITS)))?;
        let installed = apt.install(&missing);
        failpoint::pass("packages-installed");
        let restored = restore(
            &context.settings.root,
            policy,
            &before,
            &wrote,
            context.images(),
            context.run(),
            false,
        );
        installed?;
        restored.map_err(StepError::io("put back", policy))?;
        disable(&context.real(Path::new(UNITS)), &links)?;
        if context.facts.systemd {
            systemd::daemon_reload()?;
        }
        Ok(vec![packages])
    }
}

/// The symlinks below the folder of unit files.
fn enablements(units: &Path) -> Result<BTreeSet<PathBuf>, StepError> {
    let mut links = BTreeSet::new();
    let mut folders = vec![units.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = match fs::read_dir(&folder) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            entries => entries.map_err(StepError::io("list", &folder))?,
        };
        for entry in entries {
            let entry = entry.map_err(StepError::io("list", &folder))?;
            let kind = entry
                .file_type()
                .map_err(StepError::io("look at", entry.path()))?;
            if kind.is_symlink() {
                links.insert(entry.path());
            } else if kind.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    Ok(links)
}

/// Removes the links to packaged units that were not there before, and `.wants` folders that are
/// empty without them.
fn disable(units: &Path, before: &BTreeSet<PathBuf>) -> Result<(), StepError> {
    for link in enablements(units)?.difference(before) {
        let target = fs::read_link(link).map_err(StepError::io("read", link))?;
        let packaged = ["/lib/systemd/system", "/usr/lib/systemd/system"];
        if !packaged.iter().any(|folder| target.starts_with(folder)) {
            continue;
        }
        fs::remove_file(link).map_err(StepError::io("remove", link))?;
        if let Some(wants) = link.parent().filter(|wants| *wants != units) {
            match fs::remove_dir(wants) {
                Err(e) if e.kind() != io::ErrorKind::DirectoryNotEmpty => {
                    return Err(StepError::io("remove", wants)(e));
                }
                _ => {}
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn only_new_links_to_packaged_units_go() {
        let dir = tempfile::tempdir().unwrap();
        let wants = dir.path().join("multi-user.target.wants");
        fs::create_dir(&wants).unwrap();
        symlink("/lib/systemd/system/ssh.service", wants.join("ssh.service")).unwrap();
        let before = enablements(dir.path()).unwrap();
        assert_eq!(before.len(), 1);

        let docker = "/lib/systemd/system/docker.service";
        symlink(docker, wants.join("docker.service")).unwrap();
        symlink("/srv/own.service", wants.join("own.service")).unwrap();
        let sockets = dir.path().join("sockets.target.wants");
        fs::create_dir(&sockets).unwrap();
        symlink(
            "/usr/lib/systemd/system/docker.socket",
            sockets.join("docker.socket"),
        )
        .unwrap();
        disable(dir.path(), &before).unwrap();
        let left = enablements(dir.path()).unwrap();
        let expected = [wants.join("own.service"), wants.join("ssh.service")];
        assert_eq!(left, BTreeSet::from(expected));
        assert!(!sockets.exists());
        assert!(enablements(&dir.path().join("none")).unwrap().is_empty());
    }
}
