//! Devices by the Container Device Interface (CDI): vendors' files say what a device called
//! `vendor.com/class=name` is in a container: variables, device nodes, mounts, hooks, groups.
//!
//! <https://github.com/cncf-tags/container-device-interface/blob/main/SPEC.md>. The folders are read
//! anew for every container that asks: devices come and go, and a container that asks for none costs
//! nothing. A later folder wins over an earlier one; two files of one folder that both describe a
//! device are a conflict. A file that cannot be read matters only to who asks for what no other has.

mod edits;
mod format;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use self::format::{ContainerEdits, Device, Document};
use super::config::ContainerConfig;
use super::error::SpecError;
use crate::host::fs::read_capped;

pub(super) use self::edits::apply;

/// Where vendors put their files when nobody says otherwise, the later the stronger.
pub const DEFAULT_DIRS: [&str; 2] = ["/etc/cdi", "/var/run/cdi"];

/// Annotations whose values are devices too, a list with commas: what older device plugins write.
const ANNOTATIONS: &str = "cdi.k8s.io/";
/// The field of the CRI that names devices.
const FIELD: &str = "config.CDI_devices";
/// No vendor's file is larger on purpose.
const CAP: u64 = 16 << 20;

/// What all asked-for devices together do to a container, in the order in which it is to be done.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Edits(Vec<ContainerEdits>);

/// A container's devices by name: those of the field, then those of annotations, each once.
fn asked(config: &ContainerConfig) -> Vec<(String, &str)> {
    let by_field = config
        .cdi_devices
        .iter()
        .enumerate()
        .map(|(i, name)| (format!("{FIELD}[{i}]"), name.as_str()));
    let by_annotation = config
        .annotations
        .iter()
        .filter(|(key, _)| key.starts_with(ANNOTATIONS))
        .flat_map(|(key, value)| {
            let names = value.split(',').map(str::trim);
            names.map(move |name| (format!("config.annotations[{key}]"), name))
        });
    let mut devices: Vec<(String, &str)> = Vec::new();
    for (field, name) in by_field.chain(by_annotation) {
        if !devices.iter().any(|(_, known)| *known == name) {
            devices.push((field, name));
        }
    }
    devices
}

/// Looks up what a container asks for; every device that cannot be had is an error by its name.
pub(super) fn resolve(config: &ContainerConfig, dirs: &[PathBuf]) -> Result<Edits, SpecError> {
    let devices = asked(config);
    if devices.is_empty() {
        return Ok(Edits::default());
    }
    let registry = Registry::read(dirs);
    let mut edits = Vec::new();
    let mut documents: Vec<&Path> = Vec::new();
    for (field, name) in devices {
        let found = registry.find(name).map_err(|problem| SpecError::Cdi {
            field,
            device: name.to_owned(),
            problem,
        })?;
        // What a file says of all its devices is done once, before the first of them.
        if !documents.contains(&found.path.as_path()) {
            documents.push(&found.path);
            edits.push(found.common.as_ref().clone());
        }
        edits.push(found.device.container_edits.clone());
    }
    Ok(Edits(edits))
}

/// A device with the file that describes it.
#[derive(Debug, Clone)]
struct Known {
    path: PathBuf,
    common: Arc<ContainerEdits>,
    device: Device,
}

/// Everything that the folders describe.
#[derive(Debug, Default)]
struct Registry {
    devices: BTreeMap<String, Known>,
    /// Devices that two files of one folder describe.
    conflicts: BTreeMap<String, String>,
    /// What is wrong with the files that could not be used.
    problems: Vec<String>,
    dirs: Vec<PathBuf>,
}

impl Registry {
    fn read(dirs: &[PathBuf]) -> Self {
        let mut registry = Self {
            dirs: dirs.to_vec(),
            ..Self::default()
        };
        for dir in dirs {
            match files(dir) {
                Ok(paths) => registry.read_folder(&paths),
                Err(e) => registry.problems.push(format!("{}: {e}", dir.display())),
            }
        }
        registry
    }

    fn read_folder(&mut self, paths: &[PathBuf]) {
        let mut here: BTreeMap<String, Known> = BTreeMap::new();
        for path in paths {
            let document = match read(path) {
                Ok(document) => document,
                Err(problem) => {
                    self.problems.push(format!("{}: {problem}", path.display()));
                    continue;
                }
            };
            let common = Arc::new(document.container_edits);
            for device in document.devices {
                let name = format!("{}={}", document.kind, device.name);
                // A stronger folder settles the conflicts of the weaker.
                if let Some(other) = here.get(&name) {
                    let both = format!("both {} and {}", other.path.display(), path.display());
                    self.conflicts.insert(name, both);
                    continue;
                }
                self.conflicts.remove(&name);
                let known = Known {
                    path: path.clone(),
                    common: Arc::clone(&common),
                    device,
                };
                here.insert(name, known);
            }
        }
        self.devices.extend(here);
    }

    fn find(&self, name: &str) -> Result<&Known, String> {
        format::check_device_name(name)?;
        if let Some(both) = self.conflicts.get(name) {
            return Err(format!("is described by {both}"));
        }
        self.devices.get(name).ok_or_else(|| {
            let dirs: Vec<String> = self.dirs.iter().map(|d| d.display().to_string()).collect();
            let mut problem = format!("is not described by any file in {}", dirs.join(", "));
            if !self.problems.is_empty() {
                problem += &format!(" (not read: {})", self.problems.join("; "));
            }
            problem
        })
    }
}

/// The files that count, by name; none where the folder is missing.
fn files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "json" || e == "yaml") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

fn read(path: &Path) -> Result<Document, String> {
    let bytes = read_capped(path, CAP).map_err(|e| e.to_string())?;
    if path.extension().is_some_and(|e| e == "json") {
        Document::from_json(&bytes)
    } else {
        Document::from_yaml(&bytes)
    }
}

#[cfg(test)]
mod tests;
