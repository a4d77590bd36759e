//! One repository of one registry, over HTTP (OCI distribution spec): manifests and blobs, with the
//! authentication that it asks for.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue, RANGE, WWW_AUTHENTICATE};
use reqwest::{Client, RequestBuilder, Response, StatusCode, Url};
use serde::Deserialize;

use super::auth::Credentials;
use super::challenge::{self, Challenge};
use super::digest::Digest;
use super::error::{ImageError, chain};
use super::manifest;
use super::reference::{DOCKER_HUB, Reference};
use super::registries::{Source, Transport};
use super::transport::{Tls, client};

/// Bytes of an error's body that are looked at, and of a token's answer.
const SMALL_BODY: usize = 256 << 10;

/// A repository, and how to speak to its registry.
pub struct Repository {
    reference: Reference,
    /// `SCHEME://HOST/v2/REPOSITORY/`.
    base: Url,
    client: Client,
    credentials: Option<Credentials>,
    authorization: Mutex<Option<HeaderValue>>,
    transport: Transport,
}

/// A manifest or index as the registry sent it.
pub struct Fetched {
    pub bytes: Vec<u8>,
    pub content_type: Option<String>,
    pub digest: Digest,
}

impl Repository {
    /// Finds out how the source can be spoken to, and gets the manifest that it names.
    pub async fn open(
        source: &Source,
        credentials: Option<Credentials>,
        certs_dirs: &[PathBuf],
    ) -> Result<(Self, Fetched), ImageError> {
        let attempts: &[(&str, Tls)] = match source.transport {
            Transport::Verified => &[("https", Tls::Checked)],
            Transport::Loopback => &[("https", Tls::Checked), ("http", Tls::Absent)],
            Transport::Insecure => &[("https", Tls::Unchecked), ("http", Tls::Absent)],
        };
        let mut failure: Option<ImageError> = None;
        for (scheme, tls) in attempts {
            let repository = Self::new(source, scheme, *tls, credentials.clone(), certs_dirs)?;
            match repository.manifest(source.reference.object()).await {
                Ok(fetched) => return Ok((repository, fetched)),
                // Only what was never an answer is tried over plain HTTP.
                Err(Attempt::Connect(e)) => {
                    failure = Some(match failure {
                        Some(first) => both(first, e),
                        None => e,
                    });
                }
                Err(Attempt::Answer(e)) => {
                    // A TLS server answers plain HTTP with an error that explains nothing.
                    return Err(match failure {
                        Some(first) if matches!(e, ImageError::Unavailable { .. }) => {
                            both(first, e)
                        }
                        _ => e,
                    });
                }
            }
        }
        Err(failure.unwrap_or_else(|| ImageError::Interrupted(source.reference.to_string())))
    }

    fn new(
        source: &Source,
        scheme: &str,
        tls: Tls,
        credentials: Option<Credentials>,
        certs_dirs: &[PathBuf],
    ) -> Result<Self, ImageError> {
        let reference = source.reference.clone();
        let host = match reference.registry.as_str() {
            DOCKER_HUB => "registry-1.docker.io",
            other => other,
        };
        let base = format!("{scheme}://{host}/v2/{}/", reference.repository);
        let base = Url::parse(&base).map_err(|e| ImageError::Unavailable {
            url: base.clone(),
            message: e.to_string(),
        })?;
        let authorization = match &credentials {
            Some(Credentials::RegistryToken(token)) => Some(bearer(token, base.as_str())?),
            _ => None,
        };
        Ok(Self {
            client: client(&reference.registry, tls, certs_dirs)?,
            reference,
            base,
            credentials,
            authorization: Mutex::new(authorization),
            transport: source.transport,
        })
    }

    /// A manifest by tag or digest; by digest its bytes have been compared with it.
    pub async fn manifest(&self, object: &str) -> Result<Fetched, Attempt> {
        let accept = [
            manifest::OCI_INDEX,
            manifest::DOCKER_LIST,
            manifest::OCI_MANIFEST,
            manifest::DOCKER_MANIFEST,
        ]
        .join(", ");
        let url = self.url(&format!("manifests/{object}"))?;
        let accepting = |r: RequestBuilder| r.header(ACCEPT, accept.as_str());
        let mut response = self.get(&url, accepting).await?;
        let content_type = response.headers().get(CONTENT_TYPE);
        let content_type = content_type
            .and_then(|v| v.to_str().ok())
            .map(str::to_owned);
        let bytes = read_capped(&mut response, manifest::LARGEST, &url).await?;
        let digest = match Digest::parse(object) {
            Ok(expected) => {
                let got = expected.of_same_kind(&bytes);
                if got != expected {
                    let reference = self.reference.to_string();
                    return Err(Attempt::Answer(ImageError::WrongDigest {
                        what: "the manifest",
                        reference,
                        expected,
                        got,
                    }));
                }
                expected
            }
            Err(_) => Digest::sha256(&bytes),
        };
        Ok(Fetched {
            bytes,
            content_type,
            digest,
        })
    }

    /// A small blob in whole, compared with its digest.
    pub async fn small_blob(&self, digest: &Digest, size: u64) -> Result<Vec<u8>, ImageError> {
        let url = self.url(&format!("blobs/{digest}"))?;
        let mut response = self.get(&url, |r| r).await.map_err(Attempt::into_error)?;
        let cap = usize::try_from(size).unwrap_or(usize::MAX);
        let bytes = read_capped(&mut response, cap, &url).await?;
        let got = digest.of_same_kind(&bytes);
        if got != *digest {
            return Err(ImageError::WrongDigest {
                what: "the configuration",
                reference: self.reference.to_string(),
                expected: digest.clone(),
                got,
            });
        }
        Ok(bytes)
    }

    /// A blob as a stream, from byte `from` on. Nothing of it has been checked.
    pub async fn blob(&self, digest: &Digest, from: u64) -> Result<Response, ImageError> {
        let url = self.url(&format!("blobs/{digest}"))?;
        let ranged = |r: RequestBuilder| match from {
            0 => r,
            from => r.header(RANGE, format!("bytes={from}-")),
        };
        let response = self.get(&url, ranged).await.map_err(Attempt::into_error)?;
        if from > 0 && response.status() != StatusCode::PARTIAL_CONTENT {
            return Err(self.unavailable(&url, "the registry does not go on where it broke off"));
        }
        Ok(response)
    }

    fn url(&self, relative: &str) -> Result<Url, ImageError> {
        let joined = self.base.join(relative);
        joined.map_err(|e| self.unavailable(&self.base, &e.to_string()))
    }

    /// GET with what authorization we have; asked for another, gets it and tries once more.
    async fn get(
        &self,
        url: &Url,
        adorn: impl Fn(RequestBuilder) -> RequestBuilder,
    ) -> Result<Response, Attempt> {
        let mut authenticated = false;
        loop {
            let mut request = adorn(self.client.get(url.clone()));
            if let Some(value) = self.authorization() {
                request = request.header(AUTHORIZATION, value);
            }
            let response = request.send().await.map_err(|e| self.unanswered(url, &e))?;
            let status = response.status();
            if status.is_success() {
                return Ok(response);
            }
            if status == StatusCode::UNAUTHORIZED && !authenticated {
                authenticated = true;
                if self.authenticate(&response).await? {
                    continue;
                }
            }
            return Err(Attempt::Answer(self.refused(url, response).await));
        }
    }

    /// Answers a registry's challenge; false if there is nothing to answer it with.
    async fn authenticate(&self, response: &Response) -> Result<bool, ImageError> {
        let values = response.headers().get_all(WWW_AUTHENTICATE).iter();
        let challenges = values.filter_map(|v| challenge::parse(v.to_str().ok()?));
        // A token before a password, whichever header line it is on.
        let challenge = challenges.min_by_key(|c| matches!(c, Challenge::Basic));
        let value = match (challenge, &self.credentials) {
            (Some(Challenge::Basic), Some(Credentials::Password { user, password })) => {
                use base64::Engine as _;
                let pair =
                    base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
                secret(&format!("Basic {pair}"), self.base.as_str())?
            }
            (
                Some(Challenge::Bearer {
                    realm,
                    service,
                    scope,
                }),
                _,
            ) => {
                let token = self
                    .token(&realm, service.as_deref(), scope.as_deref())
                    .await?;
                bearer(&token, &realm)?
            }
            _ => return Ok(false),
        };
        *self
            .authorization
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(value);
        Ok(true)
    }

    fn authorization(&self) -> Option<HeaderValue> {
        let held = self.authorization.lock();
        held.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A token for pulling, from the token server (distribution spec, "Token Authentication"); with
    /// an identity token by OAuth2.
    async fn token(
        &self,
        realm: &str,
        service: Option<&str>,
        scope: Option<&str>,
    ) -> Result<String, ImageError> {
        #[derive(Deserialize)]
        struct Answer {
            #[serde(default)]
            token: String,
            #[serde(default)]
            access_token: String,
        }
        let mut url = Url::parse(realm).map_err(|e| {
            self.unavailable(&self.base, &format!("its token server `{realm}`: {e}"))
        })?;
        if url.scheme() != "https" && self.transport == Transport::Verified {
            let message = format!("its token server `{realm}` is not https");
            return Err(self.unavailable(&self.base, &message));
        }
        let fallback = format!("repository:{}:pull", self.reference.repository);
        let mut pairs = vec![("scope", scope.unwrap_or(&fallback))];
        pairs.extend(service.map(|s| ("service", s)));
        let request = match &self.credentials {
            Some(Credentials::IdentityToken(token)) => {
                pairs.push(("grant_type", "refresh_token"));
                pairs.push(("client_id", "ocid"));
                pairs.push(("refresh_token", token));
                let mut form = url.clone();
                form.set_query(None);
                form.query_pairs_mut().extend_pairs(&pairs);
                let body = form.query().unwrap_or("").to_owned();
                let kind = "application/x-www-form-urlencoded";
                self.client
                    .post(url.clone())
                    .header(CONTENT_TYPE, kind)
                    .body(body)
            }
            credentials => {
                url.query_pairs_mut().extend_pairs(&pairs);
                let request = self.client.get(url.clone());
                match credentials {
                    Some(Credentials::Password { user, password }) => {
                        request.basic_auth(user, Some(password))
                    }
                    _ => request,
                }
            }
        };
        let mut response = request
            .send()
            .await
            .map_err(|e| self.unanswered(&url, &e).into_error())?;
        if !response.status().is_success() {
            return Err(self.refused(&url, response).await);
        }
        let bytes = read_capped(&mut response, SMALL_BODY, &url).await?;
        let answer: Answer = serde_json::from_slice(&bytes)
            .map_err(|e| self.unavailable(&url, &format!("the token server's answer: {e}")))?;
        match (answer.token, answer.access_token) {
            (token, _) if !token.is_empty() => Ok(token),
            (_, token) if !token.is_empty() => Ok(token),
            _ => Err(self.unavailable(&url, "the token server's answer has no token")),
        }
    }

    fn unanswered(&self, url: &Url, e: &reqwest::Error) -> Attempt {
        // The URL is said once, without a query that may hold secrets.
        let message = chain_without_url(e);
        let error = self.unavailable(url, &message);
        if e.is_connect() || e.is_request() && !e.is_redirect() {
            Attempt::Connect(error)
        } else {
            Attempt::Answer(error)
        }
    }

    fn unavailable(&self, url: &Url, message: &str) -> ImageError {
        ImageError::Unavailable {
            url: bare(url),
            message: message.to_owned(),
        }
    }

    /// What a status that is no success means.
    async fn refused(&self, url: &Url, mut response: Response) -> ImageError {
        let status = response.status();
        let body = read_capped(&mut response, SMALL_BODY, url)
            .await
            .unwrap_or_default();
        let message = registry_message(&body);
        let reference = self.reference.to_string();
        let registry = self.reference.registry.clone();
        match status {
            StatusCode::NOT_FOUND => ImageError::NotFound { reference, message },
            StatusCode::UNAUTHORIZED => ImageError::Unauthenticated {
                registry,
                reference,
                message,
            },
            StatusCode::FORBIDDEN => ImageError::Denied {
                registry,
                reference,
                message,
            },
            status if message.is_empty() => self.unavailable(url, &format!("it answered {status}")),
            status => self.unavailable(url, &format!("it answered {status}: {message}")),
        }
    }
}

/// Whether a failed request had an answer at all.
pub enum Attempt {
    Connect(ImageError),
    Answer(ImageError),
}

impl Attempt {
    pub fn into_error(self) -> ImageError {
        match self {
            Self::Connect(e) | Self::Answer(e) => e,
        }
    }
}

impl From<ImageError> for Attempt {
    fn from(e: ImageError) -> Self {
        Self::Answer(e)
    }
}

/// Both ways failed: over HTTPS, and without.
fn both(first: ImageError, second: ImageError) -> ImageError {
    match (first, second) {
        (
            ImageError::Unavailable { url, message },
            ImageError::Unavailable { message: plain, .. },
        ) => ImageError::Unavailable {
            url,
            message: format!("{message}; over plain HTTP: {plain}"),
        },
        (_, second) => second,
    }
}

fn bearer(token: &str, url: &str) -> Result<HeaderValue, ImageError> {
    secret(&format!("Bearer {token}"), url)
}

fn secret(value: &str, url: &str) -> Result<HeaderValue, ImageError> {
    let mut value = HeaderValue::from_str(value).map_err(|_| ImageError::Unavailable {
        url: url.to_owned(),
        message: "the credentials hold bytes that HTTP cannot carry".to_owned(),
    })?;
    value.set_sensitive(true);
    Ok(value)
}

async fn read_capped(
    response: &mut Response,
    cap: usize,
    url: &Url,
) -> Result<Vec<u8>, ImageError> {
    let broken = |message: String| ImageError::Unavailable {
        url: bare(url),
        message,
    };
    let mut bytes = Vec::new();
    while let Some(piece) = response
        .chunk()
        .await
        .map_err(|e| broken(chain_without_url(&e)))?
    {
        if bytes.len() + piece.len() > cap {
            return Err(broken(format!("the answer is larger than {cap} bytes")));
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

fn bare(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.into()
}

/// What went wrong, without reqwest's own first sentence (which repeats the URL).
pub fn chain_without_url(e: &reqwest::Error) -> String {
    match std::error::Error::source(e) {
        Some(cause) => chain(cause),
        None => e.to_string(),
    }
}

/// `{"errors": [{"code": ..., "message": ...}]}` (distribution spec, "Error Codes"), in short.
fn registry_message(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Body {
        errors: Vec<Entry>,
    }
    #[derive(Deserialize)]
    struct Entry {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let Ok(body) = serde_json::from_slice::<Body>(body) else {
        return String::new();
    };
    let texts = body.errors.iter().map(|e| match e.message.as_str() {
        "" => e.code.to_lowercase(),
        message => message.to_owned(),
    });
    let text = texts.take(3).collect::<Vec<_>>().join("; ");
    text.chars().filter(|c| !c.is_control()).take(300).collect()
}
