//! Credentials: from the CRI request, from auth.json (containers-auth.json(5)), or from a credential
//! helper that is named there or in registries.conf.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::error::{ImageError, chain};
use super::reference::{DOCKER_HUB, Reference};
use super::registries::{AUTH_FILES, is_helper};
use crate::host::command::Command;
use crate::host::fs::read_capped;

/// How long a credential helper may take; some ask a cloud's service.
const HELPER: Duration = Duration::from_secs(30);

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

/// Credentials in the form of docker's config.json.
#[derive(Deserialize)]
pub(super) struct AuthFile {
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

/// What is stored for an image: each of `helpers` is asked in turn, where [`AUTH_FILES`] stands for
/// `files`, of which each may be absent.
pub async fn stored(
    helpers: &[&str],
    files: &[PathBuf],
    reference: &Reference,
) -> Result<Option<Credentials>, ImageError> {
    for helper in helpers {
        let found = if *helper == AUTH_FILES {
            from_files(files, reference).await?
        } else {
            ask(helper, &reference.registry).await?
        };
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

async fn from_files(
    files: &[PathBuf],
    reference: &Reference,
) -> Result<Option<Credentials>, ImageError> {
    for path in files {
        let wrong = |problem: String| ImageError::Config {
            path: path.to_owned(),
            problem,
        };
        let Some(file) = read(path).map_err(wrong)? else {
            continue;
        };
        let found = from_file(path, &file, reference).await?;
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// What one file has for an image.
pub(super) async fn from_file(
    path: &Path,
    file: &AuthFile,
    reference: &Reference,
) -> Result<Option<Credentials>, ImageError> {
    // As with CRI-O a helper goes before what stands in the same file.
    if let Some((server, helper)) = file.helper(reference) {
        let found = ask(helper, server).await?;
        if found.is_some() {
            return Ok(found);
        }
    }
    file.look_up(reference)
        .map_err(|problem| ImageError::Config {
            path: path.to_owned(),
            problem,
        })
}

/// The file's content; None where there is no file, or an empty one.
pub(super) fn read(path: &Path) -> Result<Option<AuthFile>, String> {
    let bytes = match read_capped(path, 1 << 20) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(|e| e.to_string())?,
    };
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Ok(None);
    }
    let file = serde_json::from_slice(&bytes).map_err(|e| e.to_string())?;
    Ok(Some(file))
}

impl AuthFile {
    /// The helper for an image's registry, and the registry as the file writes it.
    fn helper(&self, reference: &Reference) -> Option<(&str, &str)> {
        let mut helpers = self.helpers.iter();
        helpers
            .find(|(server, _)| canonical(host_of(server)) == reference.registry)
            .map(|(server, helper)| (server.as_str(), helper.as_str()))
    }

    /// The most specific entry: repository, then each namespace above it, then the registry.
    fn look_up(&self, reference: &Reference) -> Result<Option<Credentials>, String> {
        let name = reference.name();
        let mut key = name.as_str();
        loop {
            let found = self
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
                None => return Ok(None),
            }
        }
    }
}

/// Asks a credential helper (the protocol of docker-credential-helpers: the server on standard input,
/// JSON on standard output).
async fn ask(helper: &str, server: &str) -> Result<Option<Credentials>, ImageError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Answer {
        #[serde(default)]
        username: String,
        #[serde(default)]
        secret: String,
    }
    let program = format!("docker-credential-{helper}");
    let wrong = |problem: String| ImageError::Config {
        path: PathBuf::from(&program),
        problem,
    };
    if !is_helper(helper) {
        return Err(wrong("that names no program".to_owned()));
    }
    let command = Command::new(&program)
        .arg("get")
        .stdin(server)
        .limit(HELPER);
    let output = command.output_async().await.map_err(|e| wrong(chain(&e)))?;
    if !output.status.success() {
        // Helpers say why on standard output; that they know nothing is no failure.
        let said: String = output.text().chars().take(300).collect();
        if said.contains("credentials not found") {
            return Ok(None);
        }
        return Err(wrong(format!("`get` for `{server}` failed: {said}")));
    }
    let answer: Answer = serde_json::from_slice(&output.stdout).map_err(|_| {
        wrong(format!(
            "its answer for `{server}` is not the JSON of credentials"
        ))
    })?;
    Ok(match (answer.username, answer.secret) {
        (_, secret) if secret.is_empty() => None,
        (user, secret) if user == "<token>" => Some(Credentials::IdentityToken(secret)),
        (user, password) => Some(Credentials::Password { user, password }),
    })
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
            let file: AuthFile = serde_json::from_str(&file).unwrap();
            user(file.look_up(&reference).unwrap())
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
