//! registries.conf and its drop-ins (containers-registries.conf(5), version 2): where a name is
//! looked up, mirrors, blocked and insecure registries.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::error::ImageError;
use super::reference::{DOCKER_HUB, Named, Reference};
use crate::host::fs::read_capped;

/// The settings of one pull; read anew for each, so that changes need no restart.
#[derive(Debug, Default)]
pub struct Registries {
    search: Vec<String>,
    aliases: BTreeMap<String, String>,
    tables: Vec<Table>,
    /// `HOST[:PORT]` or a range of addresses, from ocid's own configuration.
    insecure: Vec<String>,
}

/// How much a registry's transport is trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// HTTPS with a certificate that is checked.
    Verified,
    /// The same, else plain HTTP: on loopback nobody listens in.
    Loopback,
    /// HTTPS unchecked, else plain HTTP: configured so.
    Insecure,
}

/// A place to get an image from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The image's name there.
    pub reference: Reference,
    pub transport: Transport,
    /// Not the registry that the image names: the request's credentials are not for it.
    pub mirror: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct File {
    unqualified_search_registries: Option<Vec<String>>,
    #[serde(default)]
    aliases: BTreeMap<String, String>,
    #[serde(default, rename = "registry")]
    tables: Vec<Table>,
    /// Only version 1 has this.
    registries: Option<toml::Table>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Table {
    prefix: String,
    location: String,
    insecure: bool,
    blocked: bool,
    mirror_by_digest_only: bool,
    #[serde(rename = "mirror")]
    mirrors: Vec<Mirror>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Mirror {
    location: String,
    insecure: bool,
    /// `all`, `digest-only` or `tag-only`.
    pull_from_mirror: String,
}

impl Registries {
    /// Reads the file and its folder of drop-ins, both of which may be absent.
    pub fn load(file: &Path, drop_ins: &Path, insecure: &[String]) -> Result<Self, ImageError> {
        let mut registries = Self {
            insecure: insecure.to_vec(),
            ..Self::default()
        };
        registries.merge(file)?;
        for path in drop_in_files(drop_ins)? {
            registries.merge(&path)?;
        }
        Ok(registries)
    }

    fn merge(&mut self, path: &Path) -> Result<(), ImageError> {
        let wrong = |problem: String| ImageError::Config {
            path: path.to_owned(),
            problem,
        };
        let bytes = match read_capped(path, 1 << 20) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            other => other.map_err(|e| wrong(e.to_string()))?,
        };
        let text = String::from_utf8(bytes).map_err(|e| wrong(e.to_string()))?;
        self.merge_text(&text).map_err(wrong)
    }

    fn merge_text(&mut self, text: &str) -> Result<(), String> {
        let file: File = toml::from_str(text).map_err(|e| e.to_string())?;
        if file.registries.is_some() {
            return Err(
                "it is of version 1, which is no longer supported: write `[[registry]]` tables"
                    .to_owned(),
            );
        }
        if let Some(search) = file.unqualified_search_registries {
            self.search = search;
        }
        self.aliases.extend(file.aliases);
        for mut table in file.tables {
            if table.prefix.is_empty() {
                table.prefix = table.location.clone();
            }
            if table.prefix.is_empty() {
                return Err("a `[[registry]]` has neither `prefix` nor `location`".to_owned());
            }
            self.tables.retain(|t| t.prefix != table.prefix);
            self.tables.push(table);
        }
        Ok(())
    }

    /// The images that a name may mean, in the order in which they are tried: the name's own
    /// registry; an alias; the configured search list; docker.io.
    pub fn candidates(&self, named: &Named) -> Vec<Reference> {
        if let Some(registry) = &named.registry {
            return vec![named.at(registry)];
        }
        if let Some(alias) = self
            .aliases
            .get(&named.path)
            .and_then(|a| Named::parse(a).ok())
        {
            let aliased = Named {
                tag: named.tag.clone(),
                digest: named.digest.clone(),
                ..alias
            };
            return vec![aliased.qualified()];
        }
        if self.search.is_empty() {
            return vec![named.at(DOCKER_HUB)];
        }
        self.search.iter().map(|r| named.at(r)).collect()
    }

    /// Where an image is fetched from: mirrors first, its own registry last.
    pub fn sources(&self, reference: &Reference) -> Result<Vec<Source>, ImageError> {
        let name = reference.name();
        let table = self.tables.iter().filter(|t| matches(&t.prefix, &name));
        let Some(table) = table.max_by_key(|t| t.prefix.len()) else {
            return Ok(vec![self.source(reference.clone(), false, false)]);
        };
        if table.blocked {
            return Err(ImageError::Forbidden {
                reference: reference.to_string(),
                reason: format!("registries.conf blocks `{}`", table.prefix),
            });
        }
        let mut sources = Vec::new();
        for mirror in &table.mirrors {
            let by_digest = reference.digest.is_some();
            let wanted = match mirror.pull_from_mirror.as_str() {
                "digest-only" => by_digest,
                "tag-only" => !by_digest,
                _ => by_digest || !table.mirror_by_digest_only,
            };
            if let (true, Some(there)) =
                (wanted, rewrite(reference, &table.prefix, &mirror.location))
            {
                sources.push(self.source(there, mirror.insecure, true));
            }
        }
        let own = rewrite(reference, &table.prefix, &table.location);
        let moved = own.is_some();
        let own = own.unwrap_or_else(|| reference.clone());
        let elsewhere = moved && own.registry != reference.registry;
        sources.push(self.source(own, table.insecure, elsewhere));
        Ok(sources)
    }

    fn source(&self, reference: Reference, insecure: bool, mirror: bool) -> Source {
        let transport = if insecure || self.is_insecure(&reference.registry) {
            Transport::Insecure
        } else if is_loopback(&reference.registry) {
            Transport::Loopback
        } else {
            Transport::Verified
        };
        Source {
            reference,
            transport,
            mirror,
        }
    }

    fn is_insecure(&self, registry: &str) -> bool {
        let address: Option<IpAddr> = host(registry).parse().ok();
        self.insecure.iter().any(|entry| {
            let range: Option<ipnet::IpNet> = entry.parse().ok();
            entry == registry
                || matches!((range, address), (Some(range), Some(address)) if range.contains(&address))
        })
    }
}

fn drop_in_files(folder: &Path) -> Result<Vec<PathBuf>, ImageError> {
    let wrong = |e: std::io::Error| ImageError::Config {
        path: folder.to_owned(),
        problem: e.to_string(),
    };
    let entries = match std::fs::read_dir(folder) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(wrong)?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(wrong)?.path();
        if path.extension().is_some_and(|e| e == "conf") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// `host[:port]`, `host/namespace`, or `*.domain` as the beginning of a name.
fn matches(prefix: &str, name: &str) -> bool {
    if let Some(domain) = prefix.strip_prefix('*') {
        let host = host(name.split('/').next().unwrap_or(name));
        return domain.starts_with('.') && host.ends_with(domain);
    }
    match name.strip_prefix(prefix) {
        Some(rest) => rest.is_empty() || rest.starts_with('/'),
        None => false,
    }
}

/// The reference with `location` in place of `prefix`; nothing where there is nothing to replace.
fn rewrite(reference: &Reference, prefix: &str, location: &str) -> Option<Reference> {
    if location.is_empty() {
        return None;
    }
    let name = reference.name();
    let rest = match prefix.strip_prefix('*') {
        Some(_) => name.split_once('/').map_or("", |(_, path)| path),
        None => name.strip_prefix(prefix)?.trim_start_matches('/'),
    };
    let moved = format!("{}/{rest}", location.trim_end_matches('/'));
    let (registry, repository) = moved.trim_end_matches('/').split_once('/')?;
    Some(Reference {
        registry: registry.to_owned(),
        repository: repository.to_owned(),
        tag: reference.tag.clone(),
        digest: reference.digest.clone(),
    })
}

/// A registry's host without its port and brackets.
pub fn host(registry: &str) -> &str {
    if let Some(rest) = registry.strip_prefix('[') {
        return rest.split(']').next().unwrap_or(rest);
    }
    registry.split(':').next().unwrap_or(registry)
}

/// 127.0.0.0/8, ::1 or localhost.
pub fn is_loopback(registry: &str) -> bool {
    let host = host(registry);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|a| a.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Registries {
        let mut registries = Registries::default();
        registries.merge_text(text).unwrap();
        registries
    }

    fn sources(registries: &Registries, reference: &str) -> Vec<String> {
        let reference = Reference::parse(reference).unwrap();
        let sources = registries.sources(&reference).unwrap();
        sources
            .iter()
            .map(|s| format!("{} {:?}", s.reference, s.transport))
            .collect()
    }

    #[test]
    fn names_without_registry() {
        let named = Named::parse("redis:7").unwrap();
        let of = |r: &Registries| -> Vec<String> {
            r.candidates(&named)
                .iter()
                .map(Reference::to_string)
                .collect()
        };
        assert_eq!(of(&Registries::default()), ["docker.io/library/redis:7"]);
        let search = parsed("unqualified-search-registries = ['quay.io', 'docker.io']");
        assert_eq!(
            of(&search),
            ["quay.io/redis:7", "docker.io/library/redis:7"]
        );
        let alias =
            parsed("unqualified-search-registries = ['quay.io']\n[aliases]\nredis = 'a.b/c/redis'");
        assert_eq!(of(&alias), ["a.b/c/redis:7"]);
    }

    #[test]
    fn mirrors_come_first_and_the_longest_prefix_counts() {
        let registries = parsed(
            "
            [[registry]]
            prefix = 'docker.io'
            location = 'docker.io'
            [[registry.mirror]]
            location = '127.0.0.1:5000/hub'
            [[registry.mirror]]
            location = 'm.example'
            insecure = true
            pull-from-mirror = 'digest-only'
            [[registry]]
            prefix = 'docker.io/secret'
            blocked = true
            [[registry]]
            prefix = '*.corp'
            insecure = true
            [[registry]]
            location = 'old.example/a'
            prefix = 'new.example/b'
            ",
        );
        assert_eq!(
            sources(&registries, "redis"),
            [
                "127.0.0.1:5000/hub/library/redis:latest Loopback",
                "docker.io/library/redis:latest Verified"
            ]
        );
        assert_eq!(
            sources(&registries, "x.corp:5/a"),
            ["x.corp:5/a:latest Insecure"]
        );
        assert_eq!(
            sources(&registries, "corp.io/a"),
            ["corp.io/a:latest Verified"]
        );
        assert_eq!(
            sources(&registries, "new.example/b/c"),
            ["old.example/a/c:latest Verified"]
        );
        assert_eq!(
            sources(&registries, "new.example/bc"),
            ["new.example/bc:latest Verified"]
        );
        let blocked = Reference::parse("secret/x").unwrap();
        assert!(matches!(
            registries.sources(&blocked),
            Err(ImageError::Forbidden { .. })
        ));
    }

    #[test]
    fn insecure_by_name_or_range() {
        let registries = Registries {
            insecure: vec!["a.b:5000".into(), "10.0.0.0/8".into()],
            ..Default::default()
        };
        assert_eq!(
            sources(&registries, "a.b:5000/x"),
            ["a.b:5000/x:latest Insecure"]
        );
        assert_eq!(sources(&registries, "a.b/x"), ["a.b/x:latest Verified"]);
        assert_eq!(
            sources(&registries, "10.1.2.3:80/x"),
            ["10.1.2.3:80/x:latest Insecure"]
        );
        assert_eq!(
            sources(&registries, "[::1]:80/x"),
            ["[::1]:80/x:latest Loopback"]
        );
    }

    #[test]
    fn what_is_wrong_is_said() {
        for bad in [
            "x = ",
            "[[registry]]\ninsecure = true",
            "[registries.search]\nregistries = ['a']",
            "unqualified-search-registries = 3",
        ] {
            assert!(Registries::default().merge_text(bad).is_err(), "{bad}");
        }
    }
}
