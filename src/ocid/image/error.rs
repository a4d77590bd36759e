//! Why an image was not pulled, found or removed.

use std::path::PathBuf;

use super::digest::Digest;
use super::reference::InvalidReference;
use crate::ocid::storage::StorageError;
use crate::ocid::storage::unpack::LayerError;

/// Can be cloned, since several callers may wait for one pull.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ImageError {
    #[error(transparent)]
    Reference(#[from] InvalidReference),
    /// The registry answered, and has no such image.
    #[error("image `{reference}` was not found{}", after(.message))]
    NotFound { reference: String, message: String },
    /// Credentials are missing or wrong (401).
    #[error("`{registry}` asks for other credentials for `{reference}`{}", after(.message))]
    Unauthenticated {
        registry: String,
        reference: String,
        message: String,
    },
    /// The registry knows us and says no (403).
    #[error("`{registry}` denies access to `{reference}`{}", after(.message))]
    Denied {
        registry: String,
        reference: String,
        message: String,
    },
    /// The registry could not be reached, broke off, or is in trouble (429, 5xx).
    #[error("fetch `{url}`: {message}")]
    Unavailable { url: String, message: String },
    /// It was not to be had from the image's registry, and not from its mirrors either.
    #[error("{error}; from mirrors: {mirrors}")]
    Everywhere {
        #[source]
        error: Box<ImageError>,
        mirrors: String,
    },
    /// Our own configuration forbids it.
    #[error("image `{reference}` is not allowed: {reason}")]
    Forbidden { reference: String, reason: String },
    #[error("the manifest of `{reference}` cannot be used: {problem}")]
    Manifest { reference: String, problem: String },
    #[error("{what} of `{reference}` is {got}, not {expected}")]
    WrongDigest {
        what: &'static str,
        reference: String,
        expected: Digest,
        got: Digest,
    },
    #[error("read the configuration `{}`: {problem}", path.display())]
    Config { path: PathBuf, problem: String },
    #[error("unpack layer {digest} of `{reference}`")]
    Layer {
        reference: String,
        digest: Digest,
        source: StorageError,
    },
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The pull's task ended without a result: a bug of ours, or the daemon is stopping.
    #[error("the pull of `{0}` was interrupted")]
    Interrupted(String),
}

impl ImageError {
    /// The command or act that helps, where there is one.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Everywhere { error, .. } => error.hint(),
            Self::NotFound { .. } => Some("check the image's name and tag".to_owned()),
            Self::Unauthenticated { registry, .. } | Self::Denied { registry, .. } => {
                Some(format!(
                    "give the pull credentials, or put them into auth.json: `skopeo login {registry}`"
                ))
            }
            Self::Unavailable { message, .. } if message.contains("UnknownIssuer") => Some(
                "put the registry's CA into /etc/containers/certs.d/HOST:PORT/ca.crt".to_owned(),
            ),
            Self::Layer { source, .. } => source.hint(),
            Self::Storage(source) => source.hint(),
            _ => None,
        }
    }

    /// Is it worth while to ask another registry that may have the image? Not where this machine is at
    /// its end.
    pub(super) fn may_differ_elsewhere(&self) -> bool {
        match self {
            Self::Layer { source, .. } => matches!(
                source,
                StorageError::Layer(e) if !matches!(e, LayerError::Apply { .. } | LayerError::Thread(_))
            ),
            Self::Storage(_) | Self::Interrupted(_) | Self::Reference(_) => false,
            _ => true,
        }
    }
}

fn after(message: &str) -> String {
    if message.is_empty() {
        String::new()
    } else {
        format!(": {message}")
    }
}

/// An error with all its causes, for a message that is all a client gets to see.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}
