//! What we did to this machine and what was there before: `/var/lib/crio-setup/receipt.json`.
//!
//! Written once a run, by rename: that rename is the run's commit. Newer builds read every older
//! schema; an unknown newer one is refused rather than guessed at.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::catalog::Version;
use super::path::{Stamp, Wrote};
use super::settings::Component;
use super::undo::{Origin, ServiceSpec, Undo, path_key};

/// The schema that this build writes.
pub const SCHEMA: u32 = 1;

/// The state of the machine as far as it is ours.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Receipt {
    pub schema: u32,
    /// The run that wrote it.
    pub run: String,
    /// The build that wrote it.
    pub version: String,
    /// An uninstall has begun: it is to be finished, not built upon.
    #[serde(default)]
    pub removing: bool,
    /// Folders that had to be made for the state folder itself, outermost first.
    #[serde(default)]
    pub made: Vec<PathBuf>,
    /// In the order in which they were made; undone from the end.
    pub records: Vec<Record>,
    /// What programs said about themselves, so that they are asked only once.
    #[serde(default)]
    pub probes: BTreeMap<PathBuf, Probe>,
    /// Where the pieces of each component came from.
    #[serde(default)]
    pub sources: BTreeMap<Component, SourceRecord>,
}

/// One resource of one step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub step: String,
    pub component: Component,
    pub undo: Undo,
}

/// The origin of a component.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SourceRecord {
    Upstream,
    Distro,
    Kept,
}

/// An answer that holds as long as the program's file stays the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    pub stamp: Stamp,
    pub answer: String,
}

/// Why a receipt could not be used.
#[derive(Debug, thiserror::Error)]
pub enum ReceiptError {
    #[error("it is no receipt of crio-setup")]
    Malformed(#[from] serde_json::Error),
    #[error("it has schema {found}, this build of crio-setup knows {SCHEMA} at most")]
    TooNew { found: u32 },
}

impl Receipt {
    /// Parses a receipt of this or any earlier schema.
    pub fn parse(bytes: &[u8]) -> Result<Self, ReceiptError> {
        #[derive(Deserialize)]
        struct Head {
            schema: u32,
        }
        let Head { schema } = serde_json::from_slice(bytes)?;
        if schema > SCHEMA {
            return Err(ReceiptError::TooNew { found: schema });
        }
        Ok(serde_json::from_slice(bytes)?)
    }

    pub fn record(&self, key: &str) -> Option<&Record> {
        self.records.iter().find(|r| r.undo.key() == key)
    }

    /// What we last wrote at this path, if it is ours.
    pub fn wrote(&self, path: &std::path::Path) -> Option<(&Wrote, Option<&Origin>)> {
        match &self.record(&path_key(path))?.undo {
            Undo::Path { wrote, origin, .. } => Some((wrote, origin.as_ref())),
            _ => None,
        }
    }

    /// Takes in a change: a resource that is known keeps its earliest state and its place.
    pub fn add(&mut self, record: Record) {
        let key = record.undo.key();
        match self.records.iter_mut().find(|r| r.undo.key() == key) {
            Some(known) => {
                known.step = record.step;
                known.component = record.component;
                known.undo = known.undo.clone().merged_with(record.undo);
            }
            None => {
                let rank = record.undo.rank();
                let after = self.records.iter().rposition(|r| r.undo.rank() <= rank);
                self.records.insert(after.map_or(0, |i| i + 1), record);
            }
        }
    }

    /// Forgets what holds on this file system only: inodes and times of files, and what was learnt by them.
    ///
    /// For the tree of an image, which is unpacked elsewhere: there such a file is read and compared by its
    /// sum. So a tree that is made twice has twice the same receipt.
    pub fn leave_this_disk(&mut self) {
        self.probes.clear();
        for record in &mut self.records {
            if let Undo::Path { wrote, origin, .. } = &mut record.undo {
                if let Wrote::File { stamp, .. } = wrote {
                    *stamp = None;
                }
                if matches!(origin, Some(Origin::Copy { .. })) {
                    *origin = None;
                }
            }
        }
    }

    /// Takes in the services of an image that was booted: their units are ours, and systemd started them. With which
    /// files is not known.
    pub fn adopt_services(&mut self, names: &[&str]) {
        for name in names {
            let unit = PathBuf::from(format!("/etc/systemd/system/{name}.service"));
            let known = self.record(&format!("service:{name}")).is_some();
            let Some(component) = self.record(&path_key(&unit)).map(|r| r.component) else {
                continue;
            };
            if !known {
                self.add(Record {
                    step: format!("{component}:service"),
                    component,
                    undo: Undo::Service {
                        service: ServiceSpec::named(name),
                        systemd: true,
                        was_running: false,
                        inputs: Vec::new(),
                    },
                });
            }
        }
    }

    /// Which version of a component's program was found or installed, if it was recorded.
    pub fn probe(&self, path: &std::path::Path, stamp: Stamp) -> Option<&str> {
        let probe = self.probes.get(path)?;
        (probe.stamp == stamp).then_some(probe.answer.as_str())
    }
}

/// The version in the answer of a program, e.g. `runc version 1.1.5+ds1`.
pub fn version_in(answer: &str) -> Option<Version> {
    answer
        .split(|c: char| c.is_whitespace() || c == ',')
        .find_map(|word| word.strip_prefix('v').unwrap_or(word).parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::setup::path::Before;

    #[test]
    fn a_newer_schema_is_refused_and_rubbish_too() {
        let e = Receipt::parse(br#"{"schema": 99, "whatever": 1}"#).unwrap_err();
        assert!(matches!(e, ReceiptError::TooNew { found: 99 }));
        for bad in [&b""[..], b"{}", b"[]", br#"{"schema": 1}"#] {
            assert!(matches!(
                Receipt::parse(bad),
                Err(ReceiptError::Malformed(_))
            ));
        }
    }

    #[test]
    fn the_first_schema_stays_readable() {
        let receipt = Receipt::parse(include_bytes!("fixtures/receipt-1.json")).unwrap();
        assert_eq!(receipt.records.len(), 8);
        assert!(receipt.wrote("/usr/local/bin/runc".as_ref()).is_some());
    }

    #[test]
    fn a_booted_image_has_the_services_of_its_units() {
        let mut receipt = Receipt::default();
        receipt.adopt_services(&["ocid"]);
        assert!(receipt.records.is_empty());
        receipt.add(Record {
            step: "ocid:file".to_owned(),
            component: Component::Ocid,
            undo: Undo::Path {
                path: "/etc/systemd/system/ocid.service".into(),
                before: Before::Absent,
                wrote: Wrote::Symlink { target: "x".into() },
                origin: None,
            },
        });
        for _ in 0..2 {
            receipt.adopt_services(&["ocid", "docker"]);
            assert_eq!(receipt.records.len(), 2);
        }
        assert!(receipt.record("service:ocid").is_some());
    }

    #[test]
    fn on_another_disk_nothing_is_known_by_inode_and_time() {
        let mut receipt = Receipt::parse(include_bytes!("fixtures/receipt-1.json")).unwrap();
        receipt.leave_this_disk();
        let text = serde_json::to_string(&receipt).unwrap();
        assert!(!text.contains("inode") && !text.contains("ctime"), "{text}");
        assert!(receipt.wrote("/usr/local/bin/runc".as_ref()).is_some());
    }

    #[test]
    fn services_stop_first_and_packages_go_last_whichever_run_brought_them() {
        let mut receipt = Receipt::parse(include_bytes!("fixtures/receipt-1.json")).unwrap();
        let add = |receipt: &mut Receipt, undo| {
            receipt.add(Record {
                step: "late".to_owned(),
                component: Component::Docker,
                undo,
            });
        };
        let packages = Undo::Packages {
            requested: vec!["late".to_owned()],
            added: Vec::new(),
        };
        add(&mut receipt, packages);
        add(
            &mut receipt,
            Undo::Bridge {
                name: "late0".to_owned(),
            },
        );
        let late: Vec<usize> = (0..receipt.records.len())
            .filter(|i| receipt.records[*i].step == "late")
            .collect();
        assert_eq!(late, [1, 8]);
        assert!(matches!(
            receipt.records.last().map(|r| &r.undo),
            Some(Undo::Service { .. })
        ));
    }

    #[test]
    fn versions_are_found_in_answers() {
        let v = |s| version_in(s).map(|v| v.to_string());
        assert_eq!(
            v("runc version 1.1.5+ds1\ncommit: 1.1"),
            Some("1.1.5".to_owned())
        );
        assert_eq!(
            v("Docker version 20.10.24+dfsg1, build 297e128"),
            Some("20.10.24".to_owned())
        );
        assert_eq!(v("no number"), None);
    }
}
