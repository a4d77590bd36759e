//! What was there before each change, in a form that outlives us, and the way back to it.
//!
//! One record is one resource: a path, a folder, a kernel setting, a set of packages, a service.
//! The journal holds the records of the run in progress, the receipt those of all finished runs.
//! Every undo is safe to repeat and right from any state that a killed run leaves: it looks first.

mod act;

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::artifact::Sha256Sum;
use crate::host::apt::{Apt, AptError};
use crate::host::bridge;
use crate::host::command::CommandError;
use crate::host::fs::under;
use crate::host::service::{Service, ServiceError};

use super::path::{self, Before, Restored, Stamp, Wrote};

/// Where the content of a path came from, when its bytes alone do not tell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "from", rename_all = "kebab-case")]
pub enum Origin {
    /// A member of the archive with this sum.
    Archive { sha256: Sha256Sum },
    /// A copy of the file that had this stamp then.
    Copy { stamp: Stamp },
}

/// One change and what was there before it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "undo", rename_all = "kebab-case")]
pub enum Undo {
    /// A file or link.
    Path {
        path: PathBuf,
        before: Before,
        wrote: Wrote,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        origin: Option<Origin>,
    },
    /// A folder that we made. It goes when it is empty; with `purge` its content is ours as well.
    Folder { path: PathBuf, purge: bool },
    /// A file that programs we start make by themselves and leave behind; of a folder, only an empty one is removed.
    Byproduct { path: PathBuf },
    /// A bridge that programs we start make by themselves and leave behind.
    Bridge { name: String },
    /// A kernel setting, as `net/ipv4/ip_forward`.
    Sysctl {
        key: String,
        before: String,
        wrote: String,
    },
    /// Packages that were not installed before.
    Packages {
        requested: Vec<String>,
        added: Vec<String>,
    },
    /// A service that we started.
    Service {
        service: ServiceSpec,
        systemd: bool,
        /// Did it run before this run?
        was_running: bool,
        /// What it was started with: a change of one of these wants a restart.
        inputs: Vec<Input>,
    },
    /// A working folder of the run in progress; never in a receipt.
    Scratch { path: PathBuf },
}

/// A service in a form that outlives us; see [`Service`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceSpec {
    /// Without `.service`.
    pub name: String,
    pub exe: PathBuf,
    pub args: Vec<String>,
    #[serde(default)]
    pub env: Vec<(String, String)>,
    pub pidfile: PathBuf,
    pub logfile: PathBuf,
}

impl ServiceSpec {
    /// One of which only the name is known: enough for systemd.
    pub fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            exe: PathBuf::new(),
            args: Vec::new(),
            env: Vec::new(),
            pidfile: format!("/run/crio-setup/{name}.pid").into(),
            logfile: format!("/var/log/crio-setup/{name}.log").into(),
        }
    }

    pub fn unit(&self) -> String {
        format!("{}.service", self.name)
    }

    /// For a machine without systemd; waits `ready` for its READY=1.
    pub fn direct(&self, ready: Duration) -> Service {
        Service {
            name: self.name.clone(),
            exe: self.exe.clone(),
            args: self.args.iter().map(OsString::from).collect(),
            env: self
                .env
                .iter()
                .map(|(k, v)| (OsString::from(k), OsString::from(v)))
                .collect(),
            pidfile: self.pidfile.clone(),
            logfile: self.logfile.clone(),
            ready: Some(ready),
        }
    }
}

/// A file that a service reads when it starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Input {
    pub path: PathBuf,
    /// `None`: it was not there.
    pub stamp: Option<Stamp>,
}

/// What an undo needs to know besides its record.
#[derive(Debug)]
pub struct UndoContext<'a> {
    pub root: &'a Path,
    /// Where the before-images are.
    pub images: &'a Path,
    /// Names the temporary files of this undo.
    pub run: &'a str,
    /// Also remove files that were changed since we wrote them.
    pub discard_edits: bool,
    pub lock_limit: Duration,
}

/// What an undo did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Undone {
    Changed,
    /// It was already as before.
    Unchanged,
    /// Left as it is, for this reason.
    Kept(String),
}

/// Why a change could not be undone.
#[derive(Debug, thiserror::Error)]
pub enum UndoError {
    #[error("put back `{path}`")]
    Path { path: PathBuf, source: io::Error },
    #[error("remove the folder `{path}`")]
    Folder { path: PathBuf, source: io::Error },
    #[error("set `{key}` back to `{value}`")]
    Sysctl {
        key: String,
        value: String,
        source: io::Error,
    },
    #[error("remove the bridge `{name}`")]
    Bridge { name: String, source: io::Error },
    #[error("remove the packages `{packages}`")]
    Packages { packages: String, source: AptError },
    #[error("stop {unit}")]
    Unit { unit: String, source: CommandError },
    #[error(transparent)]
    Service(#[from] ServiceError),
}

impl UndoError {
    /// The command that helps.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Path { path, .. } | Self::Folder { path, .. } => Some(format!(
                "see `ls -la {0}; df -h {0}`",
                path.parent().unwrap_or(path).display()
            )),
            Self::Packages { source, .. } => source.hint(),
            Self::Service(e) => e.hint(),
            Self::Unit { unit, .. } => Some(format!("see `systemctl status {unit}`")),
            Self::Sysctl { .. } | Self::Bridge { .. } => None,
        }
    }
}

impl Undo {
    /// Names the resource: two records with one key are about the same thing.
    pub fn key(&self) -> String {
        match self {
            Self::Path { path, .. } => path_key(path),
            Self::Folder { path, .. } => format!("folder:{}", path.display()),
            Self::Byproduct { path } => format!("byproduct:{}", path.display()),
            Self::Bridge { name } => format!("bridge:{name}"),
            Self::Sysctl { key, .. } => format!("sysctl:{key}"),
            Self::Packages { requested, .. } => packages_key(requested),
            Self::Service { service, .. } => format!("service:{}", service.name),
            Self::Scratch { path } => format!("scratch:{}", path.display()),
        }
    }

    /// What undoing it means, for people.
    pub fn describe(&self) -> String {
        match self {
            Self::Path {
                path,
                before: Before::Absent,
                ..
            } => format!("remove `{}`", path.display()),
            Self::Path { path, .. } => format!("put back `{}`", path.display()),
            Self::Folder { path, .. } | Self::Byproduct { path } | Self::Scratch { path } => {
                format!("remove `{}`", path.display())
            }
            Self::Bridge { name } => format!("remove the bridge `{name}`"),
            Self::Sysctl { key, before, .. } => {
                format!("set `{}` back to `{before}`", key.replace('/', "."))
            }
            Self::Packages { added, .. } => format!("purge `{}`", added.join(" ")),
            Self::Service { service, .. } => format!("stop `{}`", service.name),
        }
    }

    /// The record that stands for both: the earlier state of `self`, the newer change of `newer`.
    pub fn merged_with(self, newer: Self) -> Self {
        match (self, newer) {
            (
                Self::Path { before, .. },
                Self::Path {
                    path,
                    wrote,
                    origin,
                    ..
                },
            ) => Self::Path {
                path,
                before,
                wrote,
                origin,
            },
            (
                Self::Folder {
                    path,
                    purge: before,
                },
                Self::Folder { purge, .. },
            ) => Self::Folder {
                path,
                purge: purge || before,
            },
            (Self::Sysctl { before, .. }, Self::Sysctl { key, wrote, .. }) => {
                Self::Sysctl { key, before, wrote }
            }
            (
                Self::Packages {
                    requested,
                    mut added,
                },
                Self::Packages { added: more, .. },
            ) => {
                added.extend(more);
                added.sort();
                added.dedup();
                Self::Packages { requested, added }
            }
            (
                Self::Service { was_running, .. },
                Self::Service {
                    service,
                    systemd,
                    inputs,
                    ..
                },
            ) => Self::Service {
                service,
                systemd,
                was_running,
                inputs,
            },
            (_, newer) => newer,
        }
    }

    /// In which part of a receipt it stands: packages are the ground of everything else and services
    /// stand on everything else, whichever run brought them.
    pub fn rank(&self) -> u8 {
        match self {
            Self::Packages { .. } => 0,
            Self::Service { .. } => 2,
            _ => 1,
        }
    }

    /// The before-image that this record needs.
    pub fn image(&self) -> Option<&str> {
        match self {
            Self::Path {
                before: Before::File { image, .. },
                ..
            } => Some(image),
            _ => None,
        }
    }

    /// Puts things back.
    pub fn undo(&self, context: &UndoContext<'_>) -> Result<Undone, UndoError> {
        match self {
            Self::Path {
                path,
                before,
                wrote,
                ..
            } => {
                let restored = path::restore(
                    context.root,
                    path,
                    before,
                    wrote,
                    context.images,
                    context.run,
                    context.discard_edits,
                );
                match restored.map_err(|source| UndoError::Path {
                    path: path.clone(),
                    source,
                })? {
                    Restored::Changed => Ok(Undone::Changed),
                    Restored::Unchanged => Ok(Undone::Unchanged),
                    Restored::Kept => Ok(Undone::Kept(format!(
                        "`{}` was changed since crio-setup wrote it",
                        path.display()
                    ))),
                }
            }
            Self::Folder { path, purge } => {
                act::folder(context.root, path, *purge).map_err(|source| UndoError::Folder {
                    path: path.clone(),
                    source,
                })
            }
            Self::Scratch { path } => {
                let real = under(context.root, path);
                act::tree(&real).map_err(|source| UndoError::Folder {
                    path: path.clone(),
                    source,
                })
            }
            Self::Byproduct { path } => {
                let real = under(context.root, path);
                path::look(&real)
                    .and_then(|there| match there {
                        Some(meta) if meta.is_dir() => act::folder(context.root, path, false),
                        there => {
                            path::remove_if_there(&real)?;
                            Ok(changed(there.is_some()))
                        }
                    })
                    .map_err(|source| UndoError::Path {
                        path: path.clone(),
                        source,
                    })
            }
            Self::Bridge { name } => match bridge::remove_unused(name) {
                Ok(true) => Ok(Undone::Changed),
                Ok(false) if bridge::exists(name) => {
                    Ok(Undone::Kept(format!("the bridge `{name}` is still in use")))
                }
                Ok(false) => Ok(Undone::Unchanged),
                Err(source) => Err(UndoError::Bridge {
                    name: name.clone(),
                    source,
                }),
            },
            Self::Sysctl { key, before, wrote } => act::sysctl(key, before, wrote),
            Self::Packages { added, .. } => Apt::new(context.root, context.lock_limit)
                .purge(added)
                .map(changed)
                .map_err(|source| UndoError::Packages {
                    packages: added.join(" "),
                    source,
                }),
            Self::Service {
                service, systemd, ..
            } => act::stop(service, *systemd),
        }
    }
}

/// The key of the record about a file or link.
pub fn path_key(path: &Path) -> String {
    format!("path:{}", path.display())
}

/// The key of the record about packages that were asked for together.
pub fn packages_key(requested: &[String]) -> String {
    format!("packages:{}", requested.join(" "))
}

fn changed(changed: bool) -> Undone {
    if changed {
        Undone::Changed
    } else {
        Undone::Unchanged
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn context(root: &Path) -> UndoContext<'_> {
        UndoContext {
            root,
            images: root,
            run: "t",
            discard_edits: false,
            lock_limit: Duration::ZERO,
        }
    }

    #[test]
    fn a_folder_goes_when_empty_and_with_its_content_when_that_is_ours() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        let undo = |path: &str, purge| {
            let path = PathBuf::from(path);
            Undo::Folder { path, purge }
                .undo(&context(dir.path()))
                .unwrap()
        };
        assert!(matches!(undo("/a", false), Undone::Kept(_)));
        assert_eq!(undo("/a/b", false), Undone::Changed);
        assert_eq!(undo("/a/b", false), Undone::Unchanged);
        fs::write(dir.path().join("a/f"), "data").unwrap();
        assert_eq!(undo("/a", true), Undone::Changed);
        assert_eq!(undo("/a", true), Undone::Unchanged);
        fs::write(dir.path().join("a"), "a file now").unwrap();
        assert!(matches!(undo("/a", true), Undone::Kept(_)));
    }

    #[test]
    fn merging_keeps_the_first_state_and_the_last_change() {
        let wrote = |target: &str| Wrote::Symlink {
            target: target.into(),
        };
        let record = |before, to: &str| Undo::Path {
            path: "/x".into(),
            before,
            wrote: wrote(to),
            origin: None,
        };
        let first = record(Before::Absent, "one");
        let second = record(
            Before::Symlink {
                target: "one".into(),
                uid: 0,
                gid: 0,
            },
            "two",
        );
        assert_eq!(first.key(), second.key());
        assert_eq!(first.merged_with(second), record(Before::Absent, "two"));

        let packages = |added: &[&str]| Undo::Packages {
            requested: vec!["docker.io".to_owned()],
            added: added.iter().map(|s| (*s).to_owned()).collect(),
        };
        let both = packages(&["docker.io"]).merged_with(packages(&["tini", "docker.io"]));
        assert_eq!(both, packages(&["docker.io", "tini"]));
    }

    #[test]
    fn records_survive_json() {
        let record = Undo::Path {
            path: "/etc/x".into(),
            before: Before::Absent,
            wrote: Wrote::File {
                sha256: Sha256Sum::of(b"x"),
                mode: 0o644,
                stamp: None,
            },
            origin: None,
        };
        let text = serde_json::to_string(&record).unwrap();
        assert_eq!(serde_json::from_str::<Undo>(&text).unwrap(), record);
    }
}
