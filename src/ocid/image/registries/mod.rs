//! registries.conf and its drop-ins (containers-registries.conf(5), version 2): where a name is
//! looked up, mirrors, blocked and insecure registries.

mod file;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use super::error::ImageError;
use super::options::ImageOptions;
use super::reference::{DOCKER_HUB, InvalidReference, Named, Reference};
use crate::host::fs::read_capped;

pub use file::{AUTH_FILES, ShortNames, is_helper};
use file::{AskedFor, Table};

/// The settings of one pull; read anew for each, so that changes need no restart.
#[derive(Debug, Default)]
pub struct Registries {
    search: Vec<String>,
    aliases: BTreeMap<String, Option<Named>>,
    tables: Vec<Table>,
    mode: Option<ShortNames>,
    /// Where credentials are asked for, in this order.
    helpers: Option<Vec<String>>,
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
    /// The request's credentials are for it: it is the registry that the image names.
    pub named: bool,
}

impl Registries {
    /// Reads the file, its folder of drop-ins and the aliases that were recorded on this machine, all of
    /// which may be absent.
    pub fn load(options: &ImageOptions) -> Result<Self, ImageError> {
        let mut registries = Self {
            insecure: options.insecure_registries.clone(),
            ..Self::default()
        };
        registries.merge(&options.registries_conf)?;
        for path in drop_in_files(&options.registries_conf_dir)? {
            registries.merge(&path)?;
        }
        // Of that file only the aliases count, over those of all others.
        let mut recorded = Self::default();
        recorded.merge(&options.short_name_aliases)?;
        registries.aliases.extend(recorded.aliases);
        registries.mode = options.short_names.or(registries.mode);
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
        let file = file::parse(text)?;
        if let Some(search) = file.search {
            self.search = search;
        }
        self.mode = file.mode.or(self.mode);
        self.helpers = file.helpers.or(self.helpers.take());
        self.aliases.extend(file.aliases);
        for table in file.tables {
            self.tables.retain(|t| t.prefix != table.prefix);
            self.tables.push(table);
        }
        Ok(())
    }

    /// Programs and files that are asked for credentials; see [`AUTH_FILES`].
    pub fn helpers(&self) -> Vec<&str> {
        match &self.helpers {
            Some(helpers) => helpers.iter().map(String::as_str).collect(),
            None => vec![AUTH_FILES],
        }
    }

    /// The images that a name may mean, in the order in which they are tried: the name's own
    /// registry; an alias; the configured search list; docker.io.
    pub fn candidates(&self, named: &Named) -> Vec<Reference> {
        if let Some(registry) = &named.registry {
            return vec![named.at(registry)];
        }
        if let Some(Some(alias)) = self.aliases.get(&named.path) {
            let aliased = Named {
                tag: named.tag.clone(),
                digest: named.digest.clone(),
                ..alias.clone()
            };
            return vec![aliased.qualified()];
        }
        if self.search.is_empty() {
            return vec![named.at(DOCKER_HUB)];
        }
        self.search.iter().map(|r| named.at(r)).collect()
    }

    /// As [`Registries::candidates`], for a pull: a short name that several registries may have is
    /// refused unless the configuration lets the first one have it.
    pub fn resolve(&self, named: &Named) -> Result<Vec<Reference>, ImageError> {
        let candidates = self.candidates(named);
        let mode = self.mode.unwrap_or(ShortNames::Enforcing);
        if candidates.len() > 1 && mode == ShortNames::Enforcing {
            return Err(ImageError::Reference(InvalidReference {
                reference: named.path.clone(),
                problem: "it is a short name that several registries may have; write it with its registry, or give it an alias in registries.conf",
            }));
        }
        Ok(candidates)
    }

    /// Where an image is fetched from: mirrors first, its own registry last.
    pub fn sources(&self, reference: &Reference) -> Result<Vec<Source>, ImageError> {
        let full = reference.to_string();
        let fitting = self.tables.iter();
        let fitting = fitting.filter_map(|t| Some((matched(&t.prefix, &full)?, t)));
        let Some((end, table)) = fitting.max_by_key(|(end, _)| *end) else {
            return Ok(vec![self.source(reference.clone(), false, true)]);
        };
        if table.blocked {
            return Err(ImageError::Forbidden {
                reference: full,
                reason: format!("registries.conf blocks `{}`", table.prefix),
            });
        }
        let rest = full.get(end..).unwrap_or("");
        let by_digest = reference.digest.is_some();
        let mut sources = Vec::new();
        for mirror in &table.mirrors {
            let wanted = match mirror.asked_for {
                AskedFor::All => true,
                AskedFor::DigestOnly => by_digest,
                AskedFor::TagOnly => !by_digest,
            };
            if wanted {
                let there = Reference::parse(&format!("{}{rest}", mirror.location))?;
                let named = there.registry == reference.registry;
                sources.push(self.source(there, mirror.insecure, named));
            }
        }
        let own = match &table.location {
            Some(location) => Reference::parse(&format!("{location}{rest}"))?,
            None => reference.clone(),
        };
        let named = own.registry == reference.registry;
        sources.push(self.source(own, table.insecure, named));
        Ok(sources)
    }

    fn source(&self, reference: Reference, insecure: bool, named: bool) -> Source {
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
            named,
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

/// Where in a full reference the rest behind `prefix` begins, if it fits: `HOST[:PORT][/PATH][:TAG]`, or
/// with `*.` in front, which stands for any names of hosts below a domain.
fn matched(prefix: &str, full: &str) -> Option<usize> {
    let ends = |at: usize, also: &[u8]| match full.as_bytes().get(at) {
        None | Some(b'/' | b'@') => true,
        Some(byte) => also.contains(byte),
    };
    let Some(domain) = prefix.strip_prefix('*') else {
        full.strip_prefix(prefix)?;
        // Behind a path a colon starts the tag; behind a host another registry's port.
        let also: &[u8] = if prefix.contains('/') { b":" } else { b"" };
        return ends(prefix.len(), also).then_some(prefix.len());
    };
    let host = full.find('/')?;
    let found = full.match_indices(domain).find_map(|(at, _)| {
        let end = at + domain.len();
        (at > 0 && at < host && ends(end, b":")).then_some(end)
    })?;
    // The port is the host's, and goes with it.
    Some(found.max(if found < host { host } else { found }))
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
mod tests;
