//! One file of registries.conf's format, version 2, checked.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::super::reference::Named;

/// The value of `credential-helpers` that stands for auth.json.
pub const AUTH_FILES: &str = "containers-auth.json";

/// What a file says. Absent settings leave those of earlier files.
#[derive(Debug, Default)]
pub struct File {
    /// `HOST[:PORT]`.
    pub search: Option<Vec<String>>,
    /// Short name to full name, or to nothing: then an earlier file's alias does not hold.
    pub aliases: BTreeMap<String, Option<Named>>,
    pub tables: Vec<Table>,
    pub mode: Option<ShortNames>,
    /// Names of programs `docker-credential-NAME`, or [`AUTH_FILES`], in the order they are asked.
    pub helpers: Option<Vec<String>>,
}

/// What a name without registry may mean where several registries are searched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ShortNames {
    /// Nothing: it is refused, since whoever owns the name on the first of them would be trusted.
    Enforcing,
    /// The first that has it.
    Permissive,
    /// The first that has it.
    Disabled,
}

/// A `[[registry]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// `HOST[:PORT][/PATH][:TAG]`, or with `*.` in front.
    pub prefix: String,
    /// What stands in the prefix's place; absent: the name stays as it is.
    pub location: Option<String>,
    pub insecure: bool,
    pub blocked: bool,
    pub mirrors: Vec<Mirror>,
}

/// A `[[registry.mirror]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    pub location: String,
    pub insecure: bool,
    pub asked_for: AskedFor,
}

/// Which images a mirror is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AskedFor {
    All,
    DigestOnly,
    TagOnly,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Wire {
    unqualified_search_registries: Option<Vec<String>>,
    #[serde(default)]
    aliases: BTreeMap<String, String>,
    #[serde(default, rename = "registry")]
    tables: Vec<WireTable>,
    short_name_mode: Option<ShortNames>,
    credential_helpers: Option<Vec<String>>,
    /// Only version 1 has this.
    registries: Option<toml::Table>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct WireTable {
    prefix: String,
    location: String,
    insecure: bool,
    blocked: bool,
    mirror_by_digest_only: bool,
    #[serde(rename = "mirror")]
    mirrors: Vec<WireMirror>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct WireMirror {
    location: String,
    #[serde(default)]
    insecure: bool,
    pull_from_mirror: Option<AskedFor>,
}

/// Parses a file; the error says what is wrong and where. Keys that mean nothing to us are told to the log.
pub fn parse(text: &str) -> Result<File, String> {
    let document: toml::Table = toml::from_str(text).map_err(|e| e.to_string())?;
    let unknown = |path: serde_ignored::Path<'_>| {
        tracing::debug!(key = %path, "this key of registries.conf has no effect");
    };
    let wire: Wire = serde_ignored::deserialize(toml::Value::Table(document), unknown)
        .map_err(|e| e.to_string())?;
    if wire.registries.is_some() {
        return Err(
            "it is of version 1, which is no longer supported: write `[[registry]]` tables"
                .to_owned(),
        );
    }
    let search = wire.unqualified_search_registries.map(|list| {
        let checked = list.iter().map(|r| searched(r));
        checked.collect::<Result<Vec<String>, String>>()
    });
    let aliases = wire.aliases.iter().map(|(name, full)| alias(name, full));
    let tables = wire.tables.into_iter().map(table);
    if let Some(bad) = wire
        .credential_helpers
        .iter()
        .flatten()
        .find(|h| !is_helper(h))
    {
        return Err(format!("`credential-helpers`: `{bad}` names no program"));
    }
    Ok(File {
        search: search.transpose()?,
        aliases: aliases.collect::<Result<_, String>>()?,
        tables: tables.collect::<Result<_, String>>()?,
        mode: wire.short_name_mode,
        helpers: wire.credential_helpers,
    })
}

/// What may stand behind `docker-credential-`: no path and no option.
pub fn is_helper(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    !name.is_empty() && name.bytes().all(plain)
}

fn searched(registry: &str) -> Result<String, String> {
    let host = registry.trim_end_matches('/');
    let named = Named::parse(&format!("{host}/x"));
    match named {
        Ok(Named {
            registry: Some(registry),
            path,
            tag: None,
            digest: None,
        }) if path == "x" => Ok(registry),
        _ => Err(format!(
            "`unqualified-search-registries`: `{registry}` is not a host name with an optional port"
        )),
    }
}

fn alias(name: &str, full: &str) -> Result<(String, Option<Named>), String> {
    let bare = |text: &str| {
        let named = Named::parse(text).ok();
        named.filter(|n| n.tag.is_none() && n.digest.is_none())
    };
    if bare(name).is_none_or(|n| n.registry.is_some()) {
        let problem = "is not a name without registry, tag and digest";
        return Err(format!("`aliases`: `{name}` {problem}"));
    }
    if full.is_empty() {
        return Ok((name.to_owned(), None));
    }
    match bare(full).filter(|n| n.registry.is_some()) {
        Some(full) => Ok((name.to_owned(), Some(full))),
        None => {
            let problem = "is not a name with registry, without tag and digest";
            Err(format!("`aliases.{name}`: `{full}` {problem}"))
        }
    }
}

fn table(wire: WireTable) -> Result<Table, String> {
    let location = match wire.location.as_str() {
        "" => None,
        location => Some(checked("location", location)?),
    };
    let prefix = match (wire.prefix.as_str(), &location) {
        ("", Some(location)) => location.clone(),
        ("", None) => {
            return Err("a `[[registry]]` has neither `prefix` nor `location`".to_owned());
        }
        (prefix, _) => match prefix.strip_prefix("*.") {
            // A single label is no host by itself, but the domain of many.
            Some(domain) if !domain.is_empty() => {
                let any = checked("prefix", &format!("any.{domain}"))?;
                any.replacen("any", "*", 1)
            }
            Some(_) => return Err(format!("the prefix `{prefix}` has no domain")),
            None => checked("prefix", prefix)?,
        },
    };
    let mirrors = wire.mirrors.into_iter().map(|mirror| {
        let of_all = wire.mirror_by_digest_only.then_some(AskedFor::DigestOnly);
        if of_all.is_some() && mirror.pull_from_mirror.is_some() {
            return Err(format!(
                "the registry `{prefix}` has `mirror-by-digest-only`, and its mirror `{}` has `pull-from-mirror`: only one of them can hold",
                mirror.location
            ));
        }
        Ok(Mirror {
            location: checked("location", &mirror.location)?,
            insecure: mirror.insecure,
            asked_for: of_all.or(mirror.pull_from_mirror).unwrap_or(AskedFor::All),
        })
    });
    Ok(Table {
        mirrors: mirrors.collect::<Result<_, String>>()?,
        location,
        insecure: wire.insecure,
        blocked: wire.blocked,
        prefix,
    })
}

/// The beginning of a name, or a whole one.
fn checked(key: &str, text: &str) -> Result<String, String> {
    if text.contains("://") {
        let problem = "starts with a scheme; only host, port and path belong there";
        return Err(format!("the {key} `{text}` {problem}"));
    }
    let bare = text.trim_end_matches('/');
    let begins = [format!("{bare}/x"), bare.to_owned()];
    let mut parsed = begins.iter().filter_map(|n| Named::parse(n).ok());
    // `docker.io` has names of old that mean the same.
    if parsed.any(|n| n.registry.is_some()) {
        return Ok(bare.to_owned());
    }
    Err(format!(
        "the {key} `{text}` is not a host name with an optional port and path"
    ))
}
