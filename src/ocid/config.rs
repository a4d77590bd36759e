//! `/etc/ocid/ocid.conf` and its drop-ins: the tables and keys of CRI-O's crio.conf, so that such a
//! file can be used as it is.
//!
//! Drop-ins (`ocid.conf.d/*.conf`) are laid over the file in the order of their names, key by key.
//! A key that we do not honour is named in [`Loaded::ignored`] with the reason ([`unused`]), never dropped in
//! silence; one whose value asks for what is so anyway is none of those.

mod check;
mod handler;
mod report;
mod streams;
mod tables;
pub mod unused;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_ignored::Path as Place;
use toml::{Table, Value};

pub use self::handler::{ANNOTATIONS, Handler, bytes};
pub use self::tables::{
    Api, CgroupManager, Config, Crio, Image, ImageVolumes, Metrics, Network, Runtime, Stats,
};
pub use self::unused::Ignored;
use crate::host::fs::read_capped;

/// Where the daemon looks when it is told nothing.
pub const DEFAULT_FILE: &str = "/etc/ocid/ocid.conf";
/// Where clients look when they are told nothing.
pub const DEFAULT_SOCKET: &str = "/run/ocid/ocid.sock";

/// A configuration together with what in it has no effect.
#[derive(Debug, Default)]
pub struct Loaded {
    pub config: Config,
    /// What has no effect.
    pub ignored: Vec<Ignored>,
    /// Where each value that is no default comes from: its dotted key, and a file or a flag.
    pub origins: BTreeMap<String, String>,
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("read the configuration `{}`", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("parse the configuration `{}`", path.display())]
    Parse {
        path: PathBuf,
        source: Box<toml::de::Error>,
    },
    #[error("`{key}` in the configuration: {problem}")]
    Value { key: &'static str, problem: String },
}

impl ConfigError {
    /// The command that helps.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Read { path, .. } => Some(format!("look at it with `ls -l {}`", path.display())),
            Self::Parse { .. } => Some("the format is that of crio.conf(5)".to_owned()),
            Self::Value { .. } => None,
        }
    }
}

/// No configuration is larger on purpose.
const CAP: u64 = 1 << 20;

/// Loads `file` and the drop-ins in `file`.d. A missing file is no error unless `required`.
pub fn load(file: &Path, required: bool) -> Result<Loaded, ConfigError> {
    let mut ignored = Vec::new();
    let mut merged = Table::new();
    let mut origins = BTreeMap::new();
    let main = if required || file.exists() {
        Some(file.to_owned())
    } else {
        None
    };
    for path in main.into_iter().chain(drop_ins(file)?) {
        let read = |source| ConfigError::Read {
            path: path.clone(),
            source,
        };
        let text = String::from_utf8(read_capped(&path, CAP).map_err(read)?)
            .map_err(|e| read(io::Error::new(io::ErrorKind::InvalidData, e)))?;
        let (table, unknown) = parse(&text).map_err(|source| ConfigError::Parse {
            path: path.clone(),
            source: Box::new(source),
        })?;
        ignored.extend(unknown.into_iter().map(|(key, why)| Ignored {
            file: path.display().to_string(),
            key,
            why,
        }));
        report::leaves("", &table, &mut |key, _| {
            origins.insert(key.to_owned(), path.display().to_string());
        });
        lay_over(&mut merged, table);
    }
    let config =
        Config::deserialize(Value::Table(merged)).map_err(|source| ConfigError::Parse {
            path: file.to_owned(),
            source: Box::new(source),
        })?;
    config.check()?;
    Ok(Loaded {
        config,
        ignored,
        origins,
    })
}

/// A key, and why it has no effect.
type NoEffect = (String, &'static str);

/// One file's table, checked by itself so that an error names this file, and what in it has no effect.
fn parse(text: &str) -> Result<(Table, Vec<NoEffect>), toml::de::Error> {
    let table: Table = toml::from_str(text)?;
    let mut unknown = Vec::new();
    let config: Config = serde_ignored::deserialize(Value::Table(table.clone()), |place| {
        unknown.push(parts(&place));
    })?;
    let mut ignored = Vec::new();
    for key in unknown {
        let value = key.iter().try_fold(None::<&Value>, |at, part| {
            let table = at.map_or(Some(&table), Value::as_table)?;
            table.get(part).map(Some)
        });
        match value {
            Some(Some(value)) => name_unused(key, value, &mut ignored),
            // In a list of tables, of which there are none.
            _ => ignored.push((report::dotted(&key), "its place is not known")),
        }
    }
    ignored.extend(without_effect(&config));
    Ok((table, ignored))
}

/// The parts of a key's path.
fn parts(place: &Place<'_>) -> Vec<String> {
    match place {
        Place::Root => Vec::new(),
        Place::Map { parent, key } => {
            let mut parts = parts(parent);
            parts.push(key.clone());
            parts
        }
        Place::Seq { parent, index } => {
            let mut parts = parts(parent);
            parts.push(index.to_string());
            parts
        }
        Place::Some { parent }
        | Place::NewtypeStruct { parent }
        | Place::NewtypeVariant { parent } => parts(parent),
    }
}

/// Names a key, or each key of a table.
fn name_unused(key: Vec<String>, value: &Value, ignored: &mut Vec<NoEffect>) {
    match value {
        Value::Table(table) if !table.is_empty() => {
            for (name, value) in table {
                let mut key = key.clone();
                key.push(name.clone());
                name_unused(key, value, ignored);
            }
        }
        // Empty, it asks for nothing.
        Value::Table(_) if unused::is_table(&key) => {}
        value => {
            if let Some(why) = unused::why(&key, value) {
                ignored.push((report::dotted(&key), why));
            }
        }
    }
}

/// Values of keys that do have an effect, but not these.
fn without_effect(config: &Config) -> Vec<NoEffect> {
    let mut found = Vec::new();
    for (name, handler) in &config.crio.runtime.runtimes {
        let at = report::dotted(&["crio", "runtime", "runtimes", name].map(str::to_owned));
        if !handler.is_oci() {
            let kind = &handler.runtime_type;
            found.push((
                format!("{at}.runtime_type = \"{kind}\""),
                "shims of virtual machines are not driven, so there is no such handler",
            ));
        }
        let unknown = |name: &&String| !ANNOTATIONS.iter().any(|known| name.starts_with(known));
        for annotation in handler.allowed_annotations.iter().filter(unknown) {
            found.push((
                format!("{at}.allowed_annotations: {annotation}"),
                "ocid does not know the annotation",
            ));
        }
    }
    for collector in config.crio.metrics.unknown_collectors() {
        found.push((
            format!("crio.metrics.metrics_collectors: {collector}"),
            "there is no such figure here",
        ));
    }
    found
}

fn drop_ins(file: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let mut folder = file.as_os_str().to_owned();
    folder.push(".d");
    let folder = PathBuf::from(folder);
    let read = |source| ConfigError::Read {
        path: folder.clone(),
        source,
    };
    let entries = match std::fs::read_dir(&folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(read)?,
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(read)?.path();
        if path.extension().is_some_and(|e| e == "conf") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

fn lay_over(base: &mut Table, over: Table) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(Value::Table(below)), Value::Table(above)) => lay_over(below, above),
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use indoc::indoc;
    use std::fs;

    #[test]
    fn drop_ins_win_key_by_key_and_unknown_keys_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ocid.conf");
        fs::write(
            &file,
            indoc! {r#"
                [crio]
                root = "/a"
                [crio.runtime]
                cgroup_manager = "systemd"
                conmon = "/usr/bin/conmon"
                [crio.runtime.runtimes.runc]
                runtime_path = "/usr/bin/runc"
            "#},
        )
        .unwrap();
        fs::create_dir(dir.path().join("ocid.conf.d")).unwrap();
        fs::write(
            dir.path().join("ocid.conf.d/10-x.conf"),
            "[crio.runtime]\ncgroup_manager = \"cgroupfs\"\n",
        )
        .unwrap();
        fs::write(dir.path().join("ocid.conf.d/README"), "not toml [").unwrap();
        let loaded = load(&file, true).unwrap();
        let config = loaded.config;
        assert_eq!(config.crio.root, Path::new("/a"));
        assert_eq!(config.crio.runroot, Path::new("/run/ocid"));
        assert_eq!(config.cgroup_manager(), CgroupManager::Cgroupfs);
        assert_eq!(
            config.crio.runtime.runtimes["runc"].runtime_path,
            Path::new("/usr/bin/runc")
        );
        let [ignored] = &loaded.ignored[..] else {
            panic!("{:?}", loaded.ignored);
        };
        assert_eq!(ignored.file, file.display().to_string());
        assert_eq!(ignored.key, "crio.runtime.conmon");
    }

    #[test]
    fn a_missing_file_counts_only_where_it_was_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("none.conf");
        assert_eq!(load(&file, false).unwrap().config, Config::default());
        assert!(matches!(load(&file, true), Err(ConfigError::Read { .. })));
    }

    #[test]
    fn bad_values_name_their_file_or_key() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ocid.conf");
        for (text, part) in [
            ("[crio.runtime]\npids_limit = \"many\"", "ocid.conf"),
            ("[crio]\nroot = \"relative\"", "crio.root"),
            (
                "[crio.metrics]\nmetrics_host = \"localhost\"",
                "crio.metrics.metrics_host",
            ),
            (
                "[crio.runtime]\nlog_level = \"loud\"",
                "crio.runtime.log_level",
            ),
            (
                "[crio.runtime]\ndefault_env = [\"A\"]",
                "crio.runtime.default_env",
            ),
            (
                "[crio.runtime]\ndefault_runtime = \"x\"\n[crio.runtime.runtimes.runc]",
                "default_runtime",
            ),
            (
                "[crio.stats]\nincluded_pod_metrics = [\"cpu\", \"weather\"]",
                "ocid.conf",
            ),
            (
                "[crio.runtime]\nlog_filter = \"(\"",
                "crio.runtime.log_filter",
            ),
            (
                "[crio.runtime]\ntimezone = \"../passwd\"",
                "crio.runtime.timezone",
            ),
            (
                "[crio.runtime]\ninfra_ctr_cpuset = \"one\"",
                "crio.runtime.infra_ctr_cpuset",
            ),
            (
                "[crio.runtime.runtimes.runc]\ncontainer_min_memory = \"much\"",
                "container_min_memory",
            ),
            (
                "[crio.metrics]\nmetrics_cert = \"/c.pem\"",
                "crio.metrics.metrics_key",
            ),
            (
                "[crio.api]\nstream_min_tls_version = \"VersionTLS10\"",
                "crio.api.stream_min_tls_version",
            ),
            (
                "[crio.image]\nsignature_policy_dir = \"policies\"",
                "crio.image.signature_policy_dir",
            ),
            ("[crio.image]\nimage_volumes = \"copy\"", "ocid.conf"),
            ("[crio", "ocid.conf"),
        ] {
            fs::write(&file, text).unwrap();
            let error = load(&file, true).unwrap_err();
            assert!(error.to_string().contains(part), "{text}: {error}");
        }
    }
}
