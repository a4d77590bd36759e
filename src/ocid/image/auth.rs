//! Credentials: from the CRI request, or from auth.json (containers-auth.json(5)).

use std::collections::BTreeMap;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::error::ImageError;
use super::reference::{DOCKER_HUB, Reference};
use crate::host::fs::read_capped;

/// CRI `AuthConfig`; empty strings mean absent.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct RegistryAuth {
    pub username: String,
    pub password: String,
    /// base64 of `USER:PASSWORD`.
    pub auth: String,
    /// The registry that these credentials are for; absent: the image's.
    pub server_address: String,
    /// A refresh token, traded for an access token at the registry's token server.
    pub identity_token: String,
    /// A bearer token, sent as it is.
    pub registry_token: String,
}

/// What to present to a registry.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    Password { user: String, password: String },
    IdentityToken(String),
    RegistryToken(String),
}

/// Secrets do not go into logs.
impl std::fmt::Debug for RegistryAuth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RegistryAuth(..)")
    }
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credentials(..)")
    }
}

impl RegistryAuth {
    /// What it amounts to for this image; nothing if it is for another registry or empty.
    pub fn credentials(&self, reference: &Reference) -> Result<Option<Credentials>, ImageError> {
        let server = host_of(&self.server_address);
        if !server.is_empty() && canonical(server) != reference.registry {
            tracing::warn!(%server, %reference, "credentials for another registry are not used");
            return Ok(None);
        }
        if !self.registry_token.is_empty() {
            return Ok(Some(Credentials::RegistryToken(
                self.registry_token.clone(),
            )));
        }
        if !self.identity_token.is_empty() {
            return Ok(Some(Credentials::IdentityToken(
                self.identity_token.clone(),
            )));
        }
        if !self.username.is_empty() {
            return Ok(Some(Credentials::Password {
                user: self.username.clone(),
                password: self.password.clone(),
            }));
        }
        if self.auth.is_empty() {
            return Ok(None);
        }
        let malformed = || ImageError::Unauthenticated {
            registry: reference.registry.clone(),
            reference: reference.to_string(),
            message: "the `auth` given is not base64 of `USER:PASSWORD`".to_owned(),
        };
        decode(&self.auth).map(Some).ok_or_else(malformed)
    }
}

#[derive(Deserialize)]
struct AuthFile {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
    #[serde(default, rename = "credHelpers")]
    helpers: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    auth: String,
    #[serde(default, rename = "identitytoken")]
    identity_token: String,
}

/// The most specific entry of an auth.json for an image: repository, then each namespace above it,
/// then the registry. An absent file has none.
pub fn from_file(path: &Path, reference: &Reference) -> Result<Option<Credentials>, ImageError> {
    let wrong = |problem: String| ImageError::Config {
        path: path.to_owned(),
        problem,
    };
    let bytes = match read_capped(path, 1 << 20) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(|e| wrong(e.to_string()))?,
    };
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Ok(None);
    }
    look_up(&bytes, reference).map_err(wrong)
}

fn look_up(bytes: &[u8], reference: &Reference) -> Result<Option<Credentials>, String> {
    let file: AuthFile = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    let name = reference.name();
    let mut key = name.as_str();
    loop {
        let found = file
            .auths
            .iter()
            .find(|(k, _)| canonical(host_of(k)) == key);
        if let Some((key, entry)) = found {
            if !entry.identity_token.is_empty() {
                return Ok(Some(Credentials::IdentityToken(
                    entry.identity_token.clone(),
                )));
            }
            if !entry.auth.is_empty() {
                let decoded = decode(&entry.auth);
                let decoded = decoded.ok_or_else(|| {
                    format!("`auths.{key}.auth` is not base64 of `USER:PASSWORD`")
                })?;
                return Ok(Some(decoded));
            }
        }
        match key.rsplit_once('/') {
            Some((shorter, _)) => key = shorter,
            None => break,
        }
    }
    if file.helpers.contains_key(&reference.registry) {
        tracing::warn!(registry = %reference.registry, "credential helpers are not run; no credentials are used");
    }
    Ok(None)
}

fn decode(auth: &str) -> Option<Credentials> {
    let bytes = STANDARD.decode(auth.trim()).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let (user, password) = text.split_once(':')?;
    // Some writers pad with NUL bytes.
    let password = password.trim_end_matches('\0').to_owned();
    Some(Credentials::Password {
        user: user.to_owned(),
        password,
    })
}

/// Older files have URLs as keys, docker.io's with a path.
fn host_of(key: &str) -> &str {
    let bare = key.strip_prefix("https://").or(key.strip_prefix("http://"));
    match bare {
        Some(url) => url.split('/').next().unwrap_or(url),
        None => key.strip_suffix('/').unwrap_or(key),
    }
}

fn canonical(host: &str) -> &str {
    match host {
        "index.docker.io" | "registry-1.docker.io" => DOCKER_HUB,
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(credentials: Option<Credentials>) -> String {
        match credentials {
            Some(Credentials::Password { user, .. }) => user,
            Some(_) => "token".to_owned(),
            None => "nobody".to_owned(),
        }
    }

    #[test]
    fn the_most_specific_entry_counts() {
        let entry = |u: &str| format!(r#"{{"auth":"{}"}}"#, STANDARD.encode(format!("{u}:p:w")));
        let file = format!(
            r#"{{"auths":{{"https://index.docker.io/v1/":{},"a.b:5000":{},"a.b:5000/ns":{},"c.d":{{"identitytoken":"t"}}}}}}"#,
            entry("hub"),
            entry("host"),
            entry("namespace")
        );
        let found = |r: &str| {
            let reference = Reference::parse(r).unwrap();
            user(look_up(file.as_bytes(), &reference).unwrap())
        };
        assert_eq!(found("redis"), "hub");
        assert_eq!(found("a.b:5000/x"), "host");
        assert_eq!(found("a.b:5000/ns/x/y"), "namespace");
        assert_eq!(found("a.b:5000/nsx/y"), "host");
        assert_eq!(found("c.d/x"), "token");
        assert_eq!(found("e.f/x"), "nobody");
    }

    #[test]
    fn a_request_s_credentials_go_only_where_they_belong() {
        let auth = RegistryAuth {
            username: "u".into(),
            password: "p".into(),
            server_address: "https://a.b".into(),
            ..Default::default()
        };
        let at = |r: &str| user(auth.credentials(&Reference::parse(r).unwrap()).unwrap());
        assert_eq!(at("a.b/x"), "u");
        assert_eq!(at("c.d/x"), "nobody");
        let bad = RegistryAuth {
            auth: "%%%".into(),
            ..Default::default()
        };
        assert!(
            bad.credentials(&Reference::parse("a.b/x").unwrap())
                .is_err()
        );
        assert_eq!(format!("{auth:?}"), "RegistryAuth(..)");
    }
}
