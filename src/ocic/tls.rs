//! TLS towards a daemon that serves its streams by it.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::host::fs::read_capped;

/// No file of certificates of a person's is larger.
const CAP: u64 = 1 << 20;

/// Whom we trust, and who we are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trust {
    /// Only the authorities in this PEM file; `None`: those of the machine.
    pub ca: Option<PathBuf>,
    /// The name that the server's certificate must have; `None`: the host in its URL.
    pub server_name: Option<String>,
    /// Our certificate and its key, both PEM.
    pub identity: Option<(PathBuf, PathBuf)>,
}

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("read `{}`", .path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("`{}` holds no {what} in PEM", .path.display())]
    Pem { what: &'static str, path: PathBuf },
    #[error("use the authorities in `{}`", .path.display())]
    Authority {
        path: PathBuf,
        source: rustls::Error,
    },
    #[error("use our certificate `{}`", .path.display())]
    Identity {
        path: PathBuf,
        source: rustls::Error,
    },
    #[error("set up TLS")]
    Setup(#[source] rustls::Error),
    #[error("`{name}` is neither a host's name nor an address")]
    Name { name: String },
    #[error("speak TLS with `{name}`")]
    Handshake { name: String, source: io::Error },
}

impl TlsError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Handshake { source, .. } => advice(source),
            _ => None,
        }
    }
}

/// What to do about an error of TLS, wherever among its causes it is. A server refuses a client's certificate only
/// after the client has finished its part, so that comes where the first answer is read.
pub fn advice(error: &(dyn Error + 'static)) -> Option<String> {
    let mut next = Some(error);
    while let Some(cause) = next {
        let io = cause.downcast_ref::<io::Error>();
        let inner = io.and_then(io::Error::get_ref);
        let inner = inner.and_then(|inner| inner.downcast_ref());
        match inner.or_else(|| cause.downcast_ref()) {
            None => next = cause.source(),
            Some(rustls::Error::InvalidCertificate(problem)) => return match problem {
                rustls::CertificateError::UnknownIssuer => Some(
                    "`--tls-ca FILE` names the authority that signed the daemon's `stream_tls_cert`"
                        .to_owned(),
                ),
                rustls::CertificateError::NotValidForName
                | rustls::CertificateError::NotValidForNameContext { .. } => {
                    Some("`--tls-server-name NAME` names what the certificate is for".to_owned())
                }
                _ => None,
            },
            Some(rustls::Error::AlertReceived(_)) => return Some(
                "a daemon with `stream_tls_ca` wants a certificate of ours: `--tls-cert FILE --tls-key FILE`"
                    .to_owned(),
            ),
            Some(_) => return None,
        }
    }
    None
}

impl Trust {
    /// Shakes hands with the server at `host`.
    pub async fn connect(
        &self,
        io: TcpStream,
        host: &str,
    ) -> Result<TlsStream<TcpStream>, TlsError> {
        let text = self.server_name.as_deref().unwrap_or(host);
        let bare = text.trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(bare.to_owned()).map_err(|_| TlsError::Name {
            name: text.to_owned(),
        })?;
        let connector = TlsConnector::from(Arc::new(self.config()?));
        let shaken = connector.connect(name, io).await;
        shaken.map_err(|source| TlsError::Handshake {
            name: text.to_owned(),
            source,
        })
    }

    fn config(&self) -> Result<ClientConfig, TlsError> {
        let mut roots = RootCertStore::empty();
        match &self.ca {
            Some(path) => {
                for certificate in certificates(path)? {
                    roots
                        .add(certificate)
                        .map_err(|source| TlsError::Authority {
                            path: path.clone(),
                            source,
                        })?;
                }
            }
            // What of the machine's cannot be read vouches for nobody.
            None => {
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            }
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Setup)?
            .with_root_certificates(roots);
        let mut config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let chain = certificates(certificate)?;
                let bytes = read(key)?;
                let key = PrivateKeyDer::from_pem_slice(&bytes).map_err(|_| TlsError::Pem {
                    what: "private key",
                    path: key.clone(),
                })?;
                let made = builder.with_client_auth_cert(chain, key);
                made.map_err(|source| TlsError::Identity {
                    path: certificate.clone(),
                    source,
                })?
            }
        };
        // Upgrades are HTTP/1.1's.
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bytes = read(path)?;
    let found = CertificateDer::pem_slice_iter(&bytes).collect::<Result<Vec<_>, _>>();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        _ => Err(TlsError::Pem {
            what: "certificate",
            path: path.to_owned(),
        }),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    read_capped(path, CAP).map_err(|source| TlsError::Read {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_are_no_certificates_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let bad = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        std::fs::write(path("empty"), "").unwrap();
        std::fs::write(path("bad"), bad).unwrap();
        let with = |ca: &str| Trust {
            ca: Some(path(ca)),
            ..Trust::default()
        };
        let said = |trust: Trust| trust.config().map(|_| ()).unwrap_err().to_string();
        assert!(said(with("none")).starts_with("read `"));
        assert!(said(with("empty")).contains("empty` holds no certificate"));
        assert!(said(with("bad")).contains("bad`"));
        let fixture = |name: &str| {
            Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("tests/fixtures/tls")
                .join(name)
        };
        let mut trust = Trust {
            ca: Some(fixture("ca.pem")),
            identity: Some((fixture("server.pem"), fixture("server.key"))),
            ..Trust::default()
        };
        assert!(trust.config().is_ok());
        trust.identity = Some((fixture("server.pem"), path("empty")));
        assert!(said(trust).contains("empty` holds no private key"));
    }
}
