//! Downloads a file to a temporary one beside its destination and hashes it on the way. Only a file
//! with the right sum can be persisted; any other is gone when its handle is dropped.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::StatusCode;
use tempfile::NamedTempFile;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::digest::{Hashing, Sha256Sum};
use super::http::{self, Proxies, RedirectError};

/// What to fetch and how far to go for it.
#[derive(Debug, Clone)]
pub struct Fetch<'a> {
    /// `https`, or `http`: the sum protects both.
    pub url: &'a str,
    pub sha256: Sha256Sum,
    /// A larger file is refused, by its announced length or as soon as it has passed.
    pub size_cap: u64,
    pub limits: Limits,
    /// Where the temporary file is made: on the file system of the final path.
    pub dir: &'a Path,
    pub proxies: &'a Proxies,
    /// Ends the fetch from another thread.
    pub cancel: CancellationToken,
}

/// How long to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// For name lookup, TCP and TLS together.
    pub connect: Duration,
    /// For the next bytes.
    pub idle: Duration,
    /// For the whole file.
    pub total: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            idle: Duration::from_secs(20),
            total: Duration::from_secs(15 * 60),
        }
    }
}

/// Why there is no file.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error("fetch `{url}`: set up the http client")]
    Client {
        url: String,
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("fetch `{url}`: reach the server")]
    Unreachable { url: String, source: reqwest::Error },
    #[error("fetch `{url}`: the server answered {status}")]
    Status { url: String, status: StatusCode },
    #[error("fetch `{url}`: {reason}")]
    Redirect { url: String, reason: String },
    #[error("fetch `{url}`: larger than the {cap} bytes it may have")]
    TooLarge { url: String, cap: u64 },
    #[error("fetch `{url}`: cut short after {got}{} bytes", of(*.expected))]
    CutShort {
        url: String,
        got: u64,
        expected: Option<u64>,
        source: reqwest::Error,
    },
    #[error("fetch `{url}`: {what} within {limit:?} ({got} bytes so far)")]
    TooSlow {
        url: String,
        what: &'static str,
        limit: Duration,
        got: u64,
    },
    #[error("fetch `{url}`: the sha256 of its {bytes} bytes is {got}, expected {expected}")]
    Mismatch {
        url: String,
        bytes: u64,
        expected: Sha256Sum,
        got: Sha256Sum,
    },
    #[error("fetch `{url}`: write to `{dir}`")]
    Write {
        url: String,
        dir: PathBuf,
        source: io::Error,
    },
    #[error("fetch `{url}`: cancelled")]
    Cancelled { url: String },
}

impl FetchError {
    /// What helps.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Client { .. } => {
                Some("see `env | grep -i proxy`: one of them may be malformed".to_owned())
            }
            Self::Unreachable { url, .. }
            | Self::TooSlow { url, .. }
            | Self::CutShort { url, .. } => Some(format!(
                "try `curl -fsSLI {url}`; behind a proxy set `https_proxy`, or take the \
                     distribution's package with `--source distro`"
            )),
            Self::Status { url, .. } | Self::Redirect { url, .. } => Some(format!(
                "see `curl -sSLI {url}`, or take the distribution's package with `--source distro`"
            )),
            Self::Mismatch { .. } | Self::TooLarge { .. } => Some(
                "something between here and the server changes the file, or the file was replaced \
                 there: do not use it; take the distribution's package with `--source distro`"
                    .to_owned(),
            ),
            Self::Write { dir, .. } => Some(format!("see `df -h {}`", dir.display())),
            Self::Cancelled { .. } => None,
        }
    }
}

fn of(expected: Option<u64>) -> String {
    expected.map_or_else(String::new, |n| format!(" of {n}"))
}

/// A file with the right sum, at a temporary path; deleted on drop unless persisted.
#[derive(Debug)]
pub struct VerifiedFile {
    temp: NamedTempFile,
    pub size: u64,
    pub sha256: Sha256Sum,
}

impl VerifiedFile {
    /// The temporary path.
    pub fn path(&self) -> &Path {
        self.temp.path()
    }

    /// Another handle on its content, from the start.
    pub fn open(&self) -> io::Result<File> {
        self.temp.reopen()
    }

    /// Renames it to `to` with this mode, durably; what stood there is replaced.
    pub fn persist(self, to: &Path, mode: u32) -> io::Result<()> {
        self.temp
            .as_file()
            .set_permissions(fs::Permissions::from_mode(mode))?;
        self.temp.as_file().sync_all()?;
        self.temp.persist(to).map_err(|e| e.error)?;
        match to.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => crate::host::fs::sync_dir(folder),
            _ => crate::host::fs::sync_dir(Path::new(".")),
        }
    }
}

/// Fetches and verifies. `progress` hears of the bytes so far and, where the server tells, of all.
/// For code without an async runtime.
pub fn fetch(
    what: &Fetch<'_>,
    progress: &dyn Fn(u64, Option<u64>),
) -> Result<VerifiedFile, FetchError> {
    fetch_trusting(what, http::system_roots(), progress)
}

fn fetch_trusting(
    what: &Fetch<'_>,
    roots: rustls::RootCertStore,
    progress: &dyn Fn(u64, Option<u64>),
) -> Result<VerifiedFile, FetchError> {
    let client =
        http::client(what.proxies, what.limits.connect, roots).map_err(|e| FetchError::Client {
            url: what.url.to_owned(),
            source: e.into(),
        })?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| FetchError::Client {
            url: what.url.to_owned(),
            source: e.into(),
        })?;
    runtime.block_on(async {
        tokio::select! {
            biased;
            () = what.cancel.cancelled() => Err(FetchError::Cancelled { url: what.url.to_owned() }),
            done = download(what, &client, progress) => done,
        }
    })
}

async fn download(
    what: &Fetch<'_>,
    client: &reqwest::Client,
    progress: &dyn Fn(u64, Option<u64>),
) -> Result<VerifiedFile, FetchError> {
    let Limits {
        connect,
        idle,
        total,
    } = what.limits;
    let deadline = Instant::now() + total;
    let too_slow = |what_happened, limit, got| FetchError::TooSlow {
        url: what.url.to_owned(),
        what: what_happened,
        limit,
        got,
    };
    let answer = timeout(connect + idle, client.get(what.url).send());
    let mut response = timeout_at(deadline, answer)
        .await
        .map_err(|_| too_slow("not complete", total, 0))?
        .map_err(|_| too_slow("no answer", connect + idle, 0))?
        .map_err(|e| classify(what.url, e))?;
    if response.status() != StatusCode::OK {
        return Err(FetchError::Status {
            url: what.url.to_owned(),
            status: response.status(),
        });
    }
    let expected = response.content_length();
    let too_large = || FetchError::TooLarge {
        url: what.url.to_owned(),
        cap: what.size_cap,
    };
    if expected.is_some_and(|n| n > what.size_cap) {
        return Err(too_large());
    }

    let write_error = |source| FetchError::Write {
        url: what.url.to_owned(),
        dir: what.dir.to_owned(),
        source,
    };
    let temp = tempfile::Builder::new()
        .prefix(".fetch-")
        .permissions(fs::Permissions::from_mode(0o600))
        .tempfile_in(what.dir)
        .map_err(write_error)?;
    let mut sink = Hashing::new(temp);
    loop {
        let got = sink.count();
        progress(got, expected);
        let chunk = timeout_at(deadline, timeout(idle, response.chunk()))
            .await
            .map_err(|_| too_slow("not complete", total, got))?
            .map_err(|_| too_slow("nothing more came", idle, got))?
            .map_err(|source| FetchError::CutShort {
                url: what.url.to_owned(),
                got,
                expected,
                source,
            })?;
        let Some(chunk) = chunk else { break };
        if got + chunk.len() as u64 > what.size_cap {
            return Err(too_large());
        }
        sink.write_all(&chunk).map_err(write_error)?;
    }
    let bytes = sink.count();
    let (temp, got) = sink.finish();
    if got != what.sha256 {
        return Err(FetchError::Mismatch {
            url: what.url.to_owned(),
            bytes,
            expected: what.sha256,
            got,
        });
    }
    temp.as_file().sync_all().map_err(write_error)?;
    tracing::debug!(url = what.url, bytes, "fetched and verified");
    Ok(VerifiedFile {
        temp,
        size: bytes,
        sha256: got,
    })
}

fn classify(url: &str, error: reqwest::Error) -> FetchError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = std::error::Error::source(&error);
    while let Some(e) = cause {
        if let Some(refused) = e.downcast_ref::<RedirectError>() {
            return FetchError::Redirect {
                url: url.to_owned(),
                reason: refused.to_string(),
            };
        }
        cause = e.source();
    }
    let url = url.to_owned();
    if error.is_builder() {
        return FetchError::Client {
            url,
            source: error.without_url().into(),
        };
    }
    FetchError::Unreachable {
        url,
        source: error.without_url(),
    }
}

#[cfg(test)]
mod tests;
