//! Where each component comes from, and why.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;

use crate::artifact::Reach;

use super::catalog::{Artifact, Catalog, Version};
use super::facts::Facts;
use super::receipt::{Receipt, SourceRecord};
use super::settings::{Component, Settings, Source};

/// The oldest runc that ocid drives well.
const OLDEST_RUNC: Version = Version::new(1, 1, 0);
/// The oldest dockerd that knows all of our flags.
const OLDEST_DOCKERD: Version = Version::new(20, 10, 0);

/// The source of a component that is a program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "source", rename_all = "kebab-case")]
pub enum From {
    /// It is installed and fit; for plugins, the folder.
    Kept {
        path: PathBuf,
    },
    Upstream(Box<Artifact>),
    Distro {
        package: &'static str,
    },
}

/// A component's source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Choice {
    pub component: Component,
    #[serde(flatten)]
    pub from: From,
    pub why: String,
}

impl Choice {
    pub fn record(&self) -> SourceRecord {
        match self.from {
            From::Kept { .. } => SourceRecord::Kept,
            From::Upstream(_) => SourceRecord::Upstream,
            From::Distro { .. } => SourceRecord::Distro,
        }
    }

    /// `upstream`, `distro` or `kept`.
    pub fn word(&self) -> &'static str {
        match self.from {
            From::Kept { .. } => "kept",
            From::Upstream(_) => "upstream",
            From::Distro { .. } => "distro",
        }
    }
}

/// A component without a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoSource {
    pub component: Component,
    pub reason: String,
}

/// The package of each component that is a program.
pub fn package(component: Component) -> Option<&'static str> {
    match component {
        Component::Runc => Some("runc"),
        Component::CniPlugins => Some("containernetworking-plugins"),
        Component::Docker => Some("docker.io"),
        _ => None,
    }
}

/// Chooses. `reach` is asked once at most, with all URLs that matter, and only when something has
/// to be fetched at all.
pub fn choose(
    settings: &Settings,
    facts: &Facts,
    receipt: &Receipt,
    catalog: &Catalog,
    reach: impl FnOnce(&[&str]) -> Vec<Reach>,
) -> (Vec<Choice>, Vec<NoSource>) {
    let mut chosen: BTreeMap<Component, Choice> = BTreeMap::new();
    let mut without = Vec::new();
    let mut undecided = Vec::new();
    for &component in &settings.components {
        let Some(package) = package(component) else {
            continue;
        };
        let artifact = facts.arch.and_then(|arch| catalog.find(component, arch));
        let choice = |from, why: &str| Choice {
            component,
            from,
            why: why.to_owned(),
        };
        let no_release = || NoSource {
            component,
            reason: format!("there is no upstream release for `{}`", facts.machine),
        };
        let earlier = receipt.sources.get(&component);
        match (settings.source, earlier) {
            (Source::Upstream, _) => match artifact {
                Some(artifact) => {
                    let from = From::Upstream(Box::new(artifact.clone()));
                    chosen.insert(component, choice(from, "as asked"));
                }
                None => without.push(no_release()),
            },
            (Source::Distro, _) => {
                chosen.insert(component, choice(From::Distro { package }, "as asked"));
            }
            (Source::Auto, Some(SourceRecord::Upstream)) if artifact.is_some() => {
                if let Some(artifact) = artifact {
                    let from = From::Upstream(Box::new(artifact.clone()));
                    chosen.insert(component, choice(from, "as before"));
                }
            }
            (Source::Auto, Some(SourceRecord::Distro)) => {
                chosen.insert(component, choice(From::Distro { package }, "as before"));
            }
            (Source::Auto, _) => match fit(component, facts) {
                Some((path, why)) => {
                    chosen.insert(component, choice(From::Kept { path }, &why));
                }
                None => undecided.push((component, package, artifact)),
            },
        }
    }
    let urls: Vec<&str> = undecided
        .iter()
        .filter_map(|(_, _, artifact)| artifact.map(|a| a.url.as_str()))
        .collect();
    let mut reached = if urls.is_empty() {
        Vec::new()
    } else {
        reach(&urls)
    }
    .into_iter();
    for (component, package, artifact) in undecided {
        let why_not = match artifact {
            None => format!("there is no upstream release for `{}`", facts.machine),
            Some(artifact) => match reached.next() {
                Some(Reach::Yes) => {
                    let from = From::Upstream(Box::new(artifact.clone()));
                    let why = "none that is fit is installed".to_owned();
                    let choice = Choice {
                        component,
                        from,
                        why,
                    };
                    chosen.insert(component, choice);
                    continue;
                }
                Some(Reach::No { reason }) => format!("upstream is out of reach: {reason}"),
                None => "upstream was not judged".to_owned(),
            },
        };
        if facts.apt {
            let from = From::Distro { package };
            let choice = Choice {
                component,
                from,
                why: why_not,
            };
            chosen.insert(component, choice);
        } else {
            let reason = format!("{why_not}; and there is no apt to install a package");
            without.push(NoSource { component, reason });
        }
    }
    (chosen.into_values().collect(), without)
}

/// What is installed of a component, if it is good enough.
fn fit(component: Component, facts: &Facts) -> Option<(PathBuf, String)> {
    let program = |found: &Option<super::probe::Program>, oldest: Version| {
        let found = found.as_ref()?;
        (found.version >= oldest).then(|| {
            let why = format!("version {} is installed", found.version);
            (found.path.clone(), why)
        })
    };
    match component {
        Component::Runc => program(&facts.runc, OLDEST_RUNC),
        Component::Docker => program(&facts.dockerd, OLDEST_DOCKERD),
        Component::CniPlugins => facts.plugins.as_ref().map(|plugins| {
            let why = format!("plugins of CNI {} are installed", plugins.cni_version);
            (plugins.folder.clone(), why)
        }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::setup::catalog::Arch;
    use crate::setup::probe::{Plugins, Program};
    use crate::setup::settings::Layer;

    fn choose_with(
        source: Source,
        facts: &Facts,
        receipt: &Receipt,
        reach: Option<Reach>,
    ) -> (Vec<&'static str>, Vec<NoSource>) {
        let layer = Layer {
            source: Some(source),
            ..Layer::default()
        };
        let settings = layer.settle().unwrap();
        let catalog = Catalog::load(None).unwrap();
        let mut asked = 0;
        let (choices, without) = choose(&settings, facts, receipt, &catalog, |urls| {
            asked += 1;
            let answer = reach.clone().expect("nobody needs to ask");
            urls.iter().map(|_| answer.clone()).collect()
        });
        assert!(asked <= 1);
        let words = choices.iter().map(Choice::word).collect();
        (words, without)
    }

    fn bare() -> Facts {
        Facts {
            arch: Some(Arch::Amd64),
            apt: true,
            ..Facts::default()
        }
    }

    fn no() -> Option<Reach> {
        Some(Reach::No {
            reason: "packets are dropped".to_owned(),
        })
    }

    #[test]
    fn auto_keeps_then_fetches_then_falls_back() {
        let none = Receipt::default();
        let all = |word| (vec![word; 3], Vec::new());
        assert_eq!(
            choose_with(Source::Auto, &bare(), &none, Some(Reach::Yes)),
            all("upstream")
        );
        assert_eq!(
            choose_with(Source::Auto, &bare(), &none, no()),
            all("distro")
        );
        let mut facts = bare();
        facts.runc = Some(Program {
            path: "/usr/sbin/runc".into(),
            version: Version::new(1, 1, 5),
        });
        facts.plugins = Some(Plugins {
            folder: "/usr/lib/cni".into(),
            cni_version: "1.0.0".to_owned(),
        });
        facts.dockerd = Some(Program {
            path: "/usr/sbin/dockerd".into(),
            version: Version::new(19, 3, 0),
        });
        let (words, _) = choose_with(Source::Auto, &facts, &none, no());
        assert_eq!(
            words,
            ["kept", "kept", "distro"],
            "an old dockerd is not fit"
        );
    }

    #[test]
    fn what_was_chosen_once_stays_without_asking() {
        let mut receipt = Receipt::default();
        for component in [Component::Runc, Component::CniPlugins, Component::Docker] {
            receipt.sources.insert(component, SourceRecord::Upstream);
        }
        let (words, _) = choose_with(Source::Auto, &bare(), &receipt, None);
        assert_eq!(words, ["upstream"; 3]);
        let (words, _) = choose_with(Source::Distro, &bare(), &receipt, None);
        assert_eq!(words, ["distro"; 3]);
        let (words, _) = choose_with(Source::Upstream, &bare(), &Receipt::default(), None);
        assert_eq!(words, ["upstream"; 3]);
    }

    #[test]
    fn without_any_source_the_reasons_are_told() {
        let mut facts = bare();
        facts.apt = false;
        let (words, without) = choose_with(Source::Auto, &facts, &Receipt::default(), no());
        assert!(words.is_empty());
        assert_eq!(without.len(), 3);
        assert!(without[0].reason.contains("packets are dropped"));
        facts.arch = None;
        facts.machine = "riscv64".to_owned();
        let (_, without) = choose_with(Source::Upstream, &facts, &Receipt::default(), None);
        assert!(without[2].reason.contains("riscv64"));
    }
}
