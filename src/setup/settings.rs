//! What the user wants: defaults, overlaid by a file, the environment and flags, in this order.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Component as Part, Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

/// The file that is read when none is named.
pub const DEFAULT_FILE: &str = "/etc/crio-setup.toml";

/// A piece of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Component {
    Host,
    Runc,
    CniPlugins,
    CniConfig,
    Ocid,
    Docker,
}

impl Component {
    /// In the order in which they are installed.
    pub const ALL: [Self; 6] = [
        Self::Host,
        Self::Runc,
        Self::CniPlugins,
        Self::CniConfig,
        Self::Ocid,
        Self::Docker,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Runc => "runc",
            Self::CniPlugins => "cni-plugins",
            Self::CniConfig => "cni-config",
            Self::Ocid => "ocid",
            Self::Docker => "docker",
        }
    }
}

impl fmt::Display for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Component {
    type Err = SettingsError;

    fn from_str(text: &str) -> Result<Self, SettingsError> {
        Self::ALL
            .into_iter()
            .find(|c| c.name() == text)
            .ok_or_else(|| SettingsError::UnknownComponent(text.to_owned()))
    }
}

/// Which components a node has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    /// All of them.
    #[default]
    Tutorial,
    /// No docker, and no network configuration: a cluster brings its own.
    Kubernetes,
}

impl Profile {
    pub fn components(self) -> BTreeSet<Component> {
        let left_out: &[Component] = match self {
            Self::Tutorial => &[],
            Self::Kubernetes => &[Component::CniConfig, Component::Docker],
        };
        Component::ALL
            .into_iter()
            .filter(|c| !left_out.contains(c))
            .collect()
    }
}

/// Where programs come from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// What is installed and fit, else upstream, else the distribution.
    #[default]
    Auto,
    /// The pinned upstream release.
    Upstream,
    /// The distribution's signed package.
    Distro,
}

/// One layer of settings: what it does not say is left to the layer below.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct Layer {
    pub profile: Option<Profile>,
    pub with: Option<Vec<Component>>,
    pub without: Option<Vec<Component>>,
    pub source: Option<Source>,
    pub prefix: Option<PathBuf>,
    pub subnet: Option<String>,
    /// Seconds.
    pub lock_timeout: Option<u64>,
    /// Ids of findings that are not to stop the run.
    pub ignore: Option<Vec<String>>,
    pub replace_foreign: Option<bool>,
    pub selftest: Option<bool>,
    #[serde(skip)]
    pub root: Option<PathBuf>,
    /// A catalog in place of the built-in one.
    #[serde(skip)]
    pub catalog: Option<PathBuf>,
}

/// All settings of a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Settings {
    pub components: BTreeSet<Component>,
    pub profile: Profile,
    pub source: Source,
    /// Where programs go, e.g. `/usr/local`.
    pub prefix: PathBuf,
    /// `/`, or the tree that an image is made of: there nothing is started.
    pub root: PathBuf,
    /// The pods' network.
    pub subnet: Ipv4Net,
    /// How long to wait for dpkg's lock.
    pub lock_timeout: Duration,
    pub ignore: BTreeSet<String>,
    /// Replace files that are not ours; they come back with `uninstall`.
    pub replace_foreign: bool,
    /// Run a pod after a change.
    pub selftest: bool,
    pub catalog: Option<PathBuf>,
}

/// Why settings were not accepted: the user's mistake.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    #[error("unknown component `{0}`")]
    UnknownComponent(String),
    #[error("the component `{0}` stands in both `with` and `without`")]
    Contradiction(Component),
    #[error("{what} `{}` is not an absolute path without `..`", .path.display())]
    NotAbsolute { what: &'static str, path: PathBuf },
    #[error("the subnet `{0}` is not an IPv4 network of at most 30 bits, like `10.88.0.0/16`")]
    Subnet(String),
    #[error("the settings file `{path}`")]
    File {
        path: PathBuf,
        source: Box<toml::de::Error>,
    },
    #[error("read the settings file `{path}`")]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
}

impl SettingsError {
    /// What would be right.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::UnknownComponent(_) => Some(format!(
                "one of {}",
                Component::ALL.map(|c| format!("`{c}`")).join(", ")
            )),
            Self::Contradiction(component) => {
                Some(format!("leave `{component}` in one of the two"))
            }
            Self::File { .. } => Some("see `crio-setup install --help` for the names".to_owned()),
            Self::NotAbsolute { .. } | Self::Subnet(_) | Self::Read { .. } => None,
        }
    }
}

impl Layer {
    /// Parses the settings file's text; `path` names it in errors.
    pub fn parse(text: &str, path: &Path) -> Result<Self, SettingsError> {
        toml::from_str(text).map_err(|source| SettingsError::File {
            path: path.to_owned(),
            source: Box::new(source),
        })
    }

    /// Reads a settings file; one that was not asked for need not exist.
    pub fn read(path: &Path, required: bool) -> Result<Self, SettingsError> {
        match crate::host::fs::read_capped(path, 1 << 20) {
            Ok(bytes) => Self::parse(&String::from_utf8_lossy(&bytes), path),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && !required => Ok(Self::default()),
            Err(source) => Err(SettingsError::Read {
                path: path.to_owned(),
                source,
            }),
        }
    }

    /// This layer on top of `below`.
    pub fn over(self, below: Self) -> Self {
        Self {
            profile: self.profile.or(below.profile),
            with: self.with.or(below.with),
            without: self.without.or(below.without),
            source: self.source.or(below.source),
            prefix: self.prefix.or(below.prefix),
            subnet: self.subnet.or(below.subnet),
            lock_timeout: self.lock_timeout.or(below.lock_timeout),
            ignore: self.ignore.or(below.ignore),
            replace_foreign: self.replace_foreign.or(below.replace_foreign),
            selftest: self.selftest.or(below.selftest),
            root: self.root.or(below.root),
            catalog: self.catalog.or(below.catalog),
        }
    }

    /// The settings, defaults filled in and everything checked.
    pub fn settle(self) -> Result<Settings, SettingsError> {
        let profile = self.profile.unwrap_or_default();
        let with = self.with.unwrap_or_default();
        let without = self.without.unwrap_or_default();
        if let Some(both) = with.iter().find(|c| without.contains(c)) {
            return Err(SettingsError::Contradiction(*both));
        }
        let mut components = profile.components();
        components.extend(with);
        components.retain(|c| !without.contains(c));
        let prefix = self.prefix.unwrap_or_else(|| "/usr/local".into());
        let root = self.root.unwrap_or_else(|| "/".into());
        for (what, path) in [("the prefix", &prefix), ("the root", &root)] {
            let whole = path.is_absolute() && path.components().all(|c| c != Part::ParentDir);
            if !whole {
                let path = path.clone();
                return Err(SettingsError::NotAbsolute { what, path });
            }
        }
        let subnet = self.subnet.unwrap_or_else(|| "10.88.0.0/16".to_owned());
        let network: Ipv4Net = match subnet.parse() {
            Ok(network) => network,
            Err(_) => return Err(SettingsError::Subnet(subnet)),
        };
        if network.prefix_len() > 30 || network.trunc() != network {
            return Err(SettingsError::Subnet(subnet));
        }
        Ok(Settings {
            components,
            profile,
            source: self.source.unwrap_or_default(),
            prefix,
            root,
            subnet: network,
            lock_timeout: Duration::from_secs(self.lock_timeout.unwrap_or(120)),
            ignore: self.ignore.unwrap_or_default().into_iter().collect(),
            replace_foreign: self.replace_foreign.unwrap_or_default(),
            selftest: self.selftest.unwrap_or(true),
            catalog: self.catalog,
        })
    }
}

impl Settings {
    pub fn has(&self, component: Component) -> bool {
        self.components.contains(&component)
    }

    /// Is this the running system, rather than the tree of an image?
    pub fn is_live(&self) -> bool {
        self.root == Path::new("/")
    }

    /// `PREFIX/bin/NAME`
    pub fn bin(&self, name: &str) -> PathBuf {
        self.prefix.join("bin").join(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_lie_on_each_other() {
        let file = Layer::parse(
            "profile = 'kubernetes'\nwith = ['docker']\nprefix = '/opt/x'\nlock-timeout = 5\n",
            Path::new("f"),
        )
        .unwrap();
        let flags = Layer {
            prefix: Some("/usr".into()),
            ..Layer::default()
        };
        let settings = flags.over(file).settle().unwrap();
        assert_eq!(settings.prefix, Path::new("/usr"));
        assert_eq!(settings.lock_timeout, Duration::from_secs(5));
        assert!(settings.has(Component::Docker) && !settings.has(Component::CniConfig));
        let defaults = Layer::default().settle().unwrap();
        assert_eq!(defaults.components.len(), 6);
        assert!(defaults.is_live() && defaults.selftest);
    }

    #[test]
    fn mistakes_are_named() {
        let file = |text| Layer::parse(text, Path::new("f")).unwrap_err();
        let e = file("with = ['podman']");
        assert!(format!("{e:?}").contains("podman"));
        assert!(matches!(file("profil = 'x'"), SettingsError::File { .. }));
        let settle = |layer: Layer| layer.settle().unwrap_err().to_string();
        for bad in ["10.88.0.0", "10.88.0.1/16", "fd00::/64", "10.0.0.0/31", "x"] {
            let layer = Layer {
                subnet: Some(bad.to_owned()),
                ..Layer::default()
            };
            assert!(settle(layer).contains(bad));
        }
        let layer = Layer {
            prefix: Some("usr/../local".into()),
            ..Layer::default()
        };
        assert!(settle(layer).contains("the prefix"));
        let both = Some(vec![Component::Docker]);
        let layer = Layer {
            with: both.clone(),
            without: both,
            ..Layer::default()
        };
        assert!(settle(layer).contains("both"));
        let e = "podman".parse::<Component>().unwrap_err();
        assert!(e.hint().unwrap().contains("`cni-plugins`"));
    }
}
