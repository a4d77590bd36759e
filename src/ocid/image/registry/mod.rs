//! One repository of one registry, over HTTP (OCI distribution spec): manifests and blobs, with the
//! authentication that it asks for.

mod token;

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use reqwest::header::{
    ACCEPT, AUTHORIZATION, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderValue, RANGE,
};
use reqwest::{Client, RequestBuilder, Response, StatusCode, Url};
use serde::Deserialize;

use super::auth::Credentials;
use super::digest::Digest;
use super::error::{ImageError, chain};
use super::manifest;
use super::reference::{DOCKER_HUB, Reference};
use super::registries::{Source, Transport};
use super::retry::{self, Retries};
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
    retries: Retries,
}

/// A manifest or index as the registry sent it.
pub struct Fetched {
    pub bytes: Vec<u8>,
    pub content_type: Option<String>,
    pub digest: Digest,
}

impl Repository {
    /// Finds out how the source can be spoken to, and gets the manifest that it names. What follows is
    /// asked for with all patience; this only if the source is the `last` there is.
    pub async fn open(
        source: &Source,
        credentials: Option<Credentials>,
        certs_dirs: &[PathBuf],
        retries: Retries,
        last: bool,
    ) -> Result<(Self, Fetched), ImageError> {
        let attempts: &[(&str, Tls)] = match source.transport {
            Transport::Verified => &[("https", Tls::Checked)],
            Transport::Loopback => &[("https", Tls::Checked), ("http", Tls::Absent)],
            Transport::Insecure => &[("https", Tls::Unchecked), ("http", Tls::Absent)],
        };
        let mut failure: Option<ImageError> = None;
        for (scheme, tls) in attempts {
            let mut repository = Self::new(source, scheme, *tls, credentials.clone(), certs_dirs)?;
            repository.retries = if last {
                retries
            } else {
                retries.for_a_mirror()
            };
            match repository.manifest(source.reference.object()).await {
                Ok(fetched) => {
                    repository.retries = retries;
                    return Ok((repository, fetched));
                }
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
            retries: Retries::default(),
        })
    }

    /// How long to wait before a download that broke off `done` times in a row is taken up again.
    pub fn pause(&self, done: u32) -> Option<Duration> {
        self.retries.pause(done, None)
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
        if from > 0
            && (response.status() != StatusCode::PARTIAL_CONTENT
                || !starts_at(response.headers(), from))
        {
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
        let request = || {
            let request = adorn(self.client.get(url.clone()));
            match self.authorization() {
                Some(value) => request.header(AUTHORIZATION, value),
                None => request,
            }
        };
        let response = self.send(url, request).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return self.successful(url, response).await;
        }
        let sent = self.authorization();
        if !self.authenticate(&response, sent.as_ref()).await? {
            return Err(Attempt::Answer(self.refused(url, response).await));
        }
        let response = self.send(url, request).await?;
        self.successful(url, response).await
    }

    async fn successful(&self, url: &Url, response: Response) -> Result<Response, Attempt> {
        if response.status().is_success() {
            return Ok(response);
        }
        Err(Attempt::Answer(self.refused(url, response).await))
    }

    /// Sends a request, and again after a pause while the registry is busy or in trouble, or the
    /// connection breaks. Any answer that is no such trouble is the caller's.
    async fn send(
        &self,
        url: &Url,
        request: impl Fn() -> RequestBuilder,
    ) -> Result<Response, Attempt> {
        let mut failed = 0;
        loop {
            let answer = request().send().await;
            let asked = match &answer {
                Ok(response) if retry::may_pass(response.status()) => {
                    retry::asked(response.headers(), time::OffsetDateTime::now_utc())
                }
                Err(e) if retry::broke_off(e) => None,
                Ok(_) | Err(_) => return answer.map_err(|e| self.unanswered(url, &e)),
            };
            failed += 1;
            match (self.retries.pause(failed, asked), answer) {
                (Some(pause), _) => {
                    tracing::debug!(url = %bare(url), failed, ?pause, "asked again after a pause");
                    tokio::time::sleep(pause).await;
                }
                (None, answer) => return answer.map_err(|e| self.unanswered(url, &e)),
            }
        }
    }

    fn authorization(&self) -> Option<HeaderValue> {
        let held = self.authorization.lock();
        held.unwrap_or_else(PoisonError::into_inner).clone()
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
        let asked = retry::asked(response.headers(), time::OffsetDateTime::now_utc());
        let body = read_capped(&mut response, SMALL_BODY, url)
            .await
            .unwrap_or_default();
        let mut message = registry_message(&body);
        if let Some(asked) = asked.filter(|_| retry::may_pass(status)) {
            let separator = if message.is_empty() { "" } else { "; " };
            message = format!("{message}{separator}try again in {} s", asked.as_secs());
        }
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

/// `Content-Range: bytes FROM-...`; where it is missing the digest will tell.
fn starts_at(headers: &HeaderMap, from: u64) -> bool {
    let range = headers.get(CONTENT_RANGE).and_then(|v| v.to_str().ok());
    range.is_none_or(|range| {
        let start = range.strip_prefix("bytes").map(str::trim_start);
        let start = start.and_then(|r| r.split('-').next());
        start.and_then(|s| s.parse().ok()) == Some(from)
    })
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
