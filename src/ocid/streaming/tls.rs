//! TLS for the streaming server and for metrics, where it is configured.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::version::TLS13;
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};
use tokio_rustls::TlsAcceptor;

use crate::host::fs::read_capped;
use crate::ocid::config::Api;

/// No chain of certificates is longer.
const CAP: u64 = 1 << 20;

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("read `{}`", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("`{}` holds no {what}", path.display())]
    Pem {
        what: &'static str,
        path: PathBuf,
        source: rustls::pki_types::pem::Error,
    },
    #[error("use the certificate `{}`", path.display())]
    Certificate {
        path: PathBuf,
        source: rustls::Error,
    },
    #[error("use the authorities in `{}`: {problem}", path.display())]
    Authorities { path: PathBuf, problem: String },
}

/// Streams: with a certificate, its key, and where `stream_tls_ca` is set, only clients that one of those vouches
/// for.
pub fn acceptor(api: &Api) -> Result<TlsAcceptor, TlsError> {
    Identity {
        cert: &api.stream_tls_cert,
        key: &api.stream_tls_key,
        ca: &api.stream_tls_ca,
        min_version: &api.stream_min_tls_version,
    }
    .acceptor()
}

/// A server's files.
pub struct Identity<'a> {
    /// PEM: the certificate with its chain, and its key.
    pub cert: &'a PathBuf,
    pub key: &'a PathBuf,
    /// PEM: the authorities that clients' certificates must come from; empty: clients need none.
    pub ca: &'a Path,
    /// `VersionTLS13` turns those away that know no newer than 1.2.
    pub min_version: &'a str,
}

impl Identity<'_> {
    /// Reads the files.
    pub fn acceptor(&self) -> Result<TlsAcceptor, TlsError> {
        acceptor_of(self)
    }
}

const ONLY_13: &[&SupportedProtocolVersion] = &[&TLS13];

fn acceptor_of(identity: &Identity<'_>) -> Result<TlsAcceptor, TlsError> {
    let (cert, key) = (identity.cert, identity.key);
    let chain = certificates(cert)?;
    let pem = |source| TlsError::Pem {
        what: "private key",
        path: key.clone(),
        source,
    };
    let private = PrivateKeyDer::from_pem_slice(&read(key)?).map_err(pem)?;
    let certificate = |source| TlsError::Certificate {
        path: cert.clone(),
        source,
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(match identity.min_version {
            "VersionTLS13" => ONLY_13,
            _ => rustls::DEFAULT_VERSIONS,
        })
        .map_err(certificate)?;
    let builder = if identity.ca.as_os_str().is_empty() {
        builder.with_no_client_auth()
    } else {
        let path = &identity.ca.to_owned();
        let mut roots = RootCertStore::empty();
        let (_, bad) = roots.add_parsable_certificates(certificates(path)?);
        if bad > 0 {
            let problem = format!("{bad} of them cannot be parsed");
            let path = path.clone();
            return Err(TlsError::Authorities { path, problem });
        }
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .map_err(|e| TlsError::Authorities {
                path: path.clone(),
                problem: e.to_string(),
            })?;
        builder.with_client_cert_verifier(verifier)
    };
    let mut config = builder
        .with_single_cert(chain, private)
        .map_err(certificate)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    read_capped(path, CAP).map_err(|source| TlsError::Read {
        path: path.to_owned(),
        source,
    })
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = |source| TlsError::Pem {
        what: "certificate",
        path: path.to_owned(),
        source,
    };
    let text = read(path)?;
    let chain = CertificateDer::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(pem)?;
    if chain.is_empty() {
        return Err(pem(rustls::pki_types::pem::Error::NoItemsFound));
    }
    Ok(chain)
}
