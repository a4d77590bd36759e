//! The effective configuration as a file again, with where each value comes from.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use toml::{Table, Value};

use super::{Config, Loaded};

/// Calls `visit` with the dotted key and value of everything in a table that is no table.
pub fn leaves(prefix: &str, table: &Table, visit: &mut impl FnMut(&str, &Value)) {
    for (key, value) in table {
        let path = join(prefix, key);
        match value {
            Value::Table(inner) => leaves(&path, inner, visit),
            value => visit(&path, value),
        }
    }
}

/// Parts of a key as one.
pub fn dotted(parts: &[String]) -> String {
    let spelt: Vec<String> = parts.iter().map(|part| spelt(part)).collect();
    spelt.join(".")
}

fn join(prefix: &str, key: &str) -> String {
    let key = spelt(key);
    if prefix.is_empty() {
        key
    } else {
        format!("{prefix}.{key}")
    }
}

/// A key as TOML spells it: bare where it can be.
fn spelt(key: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if !key.is_empty() && key.chars().all(bare) {
        key.to_owned()
    } else {
        Value::String(key.to_owned()).to_string()
    }
}

impl Loaded {
    /// Every setting, in the format of the file itself; each line ends with a comment that names its
    /// file, its flag, or `default`.
    pub fn report(&self) -> Result<String, toml::ser::Error> {
        let mut config = self.config.clone();
        config.crio.runtime.cgroup_manager = Some(config.cgroup_manager());
        let mut text = String::new();
        self.table("", &Table::try_from(&config)?, &mut text);
        Ok(text)
    }

    fn table(&self, prefix: &str, table: &Table, text: &mut String) {
        let values: Vec<_> = table
            .iter()
            .filter(|(_, value)| !value.is_table())
            .collect();
        // A table of tables alone needs no head; an empty one means something by its name.
        if !prefix.is_empty() && (!values.is_empty() || table.is_empty()) {
            let gap = if text.is_empty() { "" } else { "\n" };
            let _ = writeln!(text, "{gap}[{prefix}]");
        }
        for (key, value) in values {
            let origin = self.origins.get(&join(prefix, key));
            let origin = origin.map_or("default", String::as_str);
            let _ = writeln!(text, "{} = {value}  # {origin}", spelt(key));
        }
        for (key, value) in table {
            if let Value::Table(inner) = value {
                self.table(&join(prefix, key), inner, text);
            }
        }
    }
}

impl Config {
    /// The dotted keys whose values differ, in their order.
    pub fn changed(&self, other: &Self) -> Result<BTreeSet<String>, toml::ser::Error> {
        let flat = |config: &Self| -> Result<BTreeMap<String, Value>, toml::ser::Error> {
            let mut flat = BTreeMap::new();
            leaves("", &Table::try_from(config)?, &mut |key, value| {
                flat.insert(key.to_owned(), value.clone());
            });
            Ok(flat)
        };
        let (ours, theirs) = (flat(self)?, flat(other)?);
        let keys = ours.keys().chain(theirs.keys());
        Ok(keys
            .filter(|key| ours.get(*key) != theirs.get(*key))
            .cloned()
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use indoc::indoc;

    use crate::ocid::config::{Config, load};

    #[test]
    fn changes_are_named_by_their_keys() {
        let (one, mut two) = (Config::default(), Config::default());
        assert!(one.changed(&two).unwrap().is_empty());
        two.crio.runtime.log_level = "debug".to_owned();
        two.crio.network.cni_default_network = Some("mynet".to_owned());
        let changed: Vec<String> = two.changed(&one).unwrap().into_iter().collect();
        assert_eq!(
            changed,
            ["crio.network.cni_default_network", "crio.runtime.log_level"]
        );
    }

    #[test]
    fn it_reads_back_as_the_same_and_names_where_values_come_from() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ocid.conf");
        let text = indoc! {r#"
            [crio.runtime]
            pids_limit = 7
            default_env = ["A=\"b\"", "C=#"]
            default_runtime = "with.dot"
            [crio.runtime.runtimes."with.dot"]
            runtime_path = "/usr/bin/runc"
        "#};
        fs::write(&file, text).unwrap();
        fs::create_dir(dir.path().join("ocid.conf.d")).unwrap();
        let drop_in = dir.path().join("ocid.conf.d/1.conf");
        fs::write(&drop_in, "[crio.runtime]\npids_limit = 8\n").unwrap();
        let loaded = load(&file, true).unwrap();
        let report = loaded.report().unwrap();
        for line in [
            format!("pids_limit = 8  # {}", drop_in.display()),
            "root = \"/var/lib/ocid\"  # default".to_owned(),
            format!("runtime_path = \"/usr/bin/runc\"  # {}", file.display()),
        ] {
            assert!(report.lines().any(|l| l == line), "no {line} in\n{report}");
        }
        let again = dir.path().join("again.conf");
        fs::write(&again, &report).unwrap();
        let mut again = load(&again, true).unwrap();
        assert_eq!(again.ignored, []);
        again.config.crio.runtime.cgroup_manager = loaded.config.crio.runtime.cgroup_manager;
        assert_eq!(again.config, loaded.config);
    }
}
