//! HTTP clients for registries: host names by hickory, TLS by rustls with the system's roots and
//! certs.d (containers-certs.d(5)), plain HTTP where that is allowed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::LookupIpStrategy;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::redirect;
use rustls::RootCertStore;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};

use super::error::ImageError;

/// How long a connection may take to come up.
const CONNECT: Duration = Duration::from_secs(15);
/// How long a registry may stay silent in the middle of an answer.
const IDLE: Duration = Duration::from_secs(60);
/// Hops from a registry to where its blobs really are.
const REDIRECTS: usize = 10;

/// What a client does about certificates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tls {
    Checked,
    Unchecked,
    /// Plain HTTP only.
    Absent,
}

/// Makes a client for one registry. `host` is `HOST[:PORT]` as the image names it.
pub fn client(host: &str, tls: Tls, certs_dirs: &[PathBuf]) -> Result<reqwest::Client, ImageError> {
    let plain_allowed = tls != Tls::Checked;
    let policy = redirect::Policy::custom(move |attempt| {
        if attempt.previous().len() > REDIRECTS {
            return attempt.error("too many redirects");
        }
        let was_secure = attempt.previous().iter().any(|u| u.scheme() == "https");
        if was_secure && attempt.url().scheme() != "https" && !plain_allowed {
            return attempt.error("a redirect from https to plain http");
        }
        attempt.follow()
    });
    let mut builder = reqwest::Client::builder()
        .user_agent(concat!("ocid/", env!("CARGO_PKG_VERSION")))
        .tls_backend_preconfigured(tls_config(host, tls, certs_dirs)?)
        .dns_resolver(Arc::new(Dns::default()))
        .connect_timeout(CONNECT)
        .read_timeout(IDLE)
        .redirect(policy)
        // Layers come over connections of their own; HTTP/2 would squeeze them through one window.
        .http1_only();
    if super::registries::is_loopback(host) {
        builder = builder.no_proxy();
    }
    builder.build().map_err(|e| ImageError::Unavailable {
        url: host.to_owned(),
        message: super::error::chain(&e),
    })
}

fn tls_config(host: &str, tls: Tls, certs_dirs: &[PathBuf]) -> Result<ClientConfig, ImageError> {
    let wrong = |problem: String| ImageError::Config {
        path: PathBuf::from("certs.d").join(host),
        problem,
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|e| wrong(e.to_string()))?;
    let mut client_certificate = None;
    let builder = match tls {
        Tls::Checked => {
            let mut roots = system_roots();
            client_certificate = read_certs_d(host, certs_dirs, &mut roots)?;
            builder.with_root_certificates(roots)
        }
        Tls::Unchecked => {
            client_certificate = read_certs_d(host, certs_dirs, &mut RootCertStore::empty())?;
            builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        }
        Tls::Absent => builder.with_root_certificates(RootCertStore::empty()),
    };
    let mut config = match client_certificate {
        Some((chain, key)) => builder
            .with_client_auth_cert(chain, key)
            .map_err(|e| wrong(format!("the client certificate: {e}")))?,
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// The system's trust store, or where there is none the bundled one.
fn system_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::debug!(%error, "a file of the system's trust store cannot be read");
    }
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    roots
}

/// A client's certificate with its chain, and its key.
type ClientCertificate = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// `*.crt` in `CERTS_D/HOST:PORT` are trusted too; `NAME.cert` with `NAME.key` is our own.
fn read_certs_d(
    host: &str,
    certs_dirs: &[PathBuf],
    roots: &mut RootCertStore,
) -> Result<Option<ClientCertificate>, ImageError> {
    let mut client = None;
    for folder in certs_dirs.iter().map(|d| d.join(host)) {
        let wrong = |path: &Path, problem: String| ImageError::Config {
            path: path.to_owned(),
            problem,
        };
        let entries = match std::fs::read_dir(&folder) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            other => other.map_err(|e| wrong(&folder, e.to_string()))?,
        };
        for entry in entries {
            let path = entry.map_err(|e| wrong(&folder, e.to_string()))?.path();
            let extension = path.extension().and_then(|e| e.to_str());
            if extension == Some("crt") {
                for certificate in read_pem(&path).map_err(|e| wrong(&path, e))? {
                    roots
                        .add(certificate)
                        .map_err(|e| wrong(&path, e.to_string()))?;
                }
            } else if extension == Some("cert") {
                let chain = read_pem(&path).map_err(|e| wrong(&path, e))?;
                let key_path = path.with_extension("key");
                let key = PrivateKeyDer::from_pem_file(&key_path);
                client = Some((chain, key.map_err(|e| wrong(&key_path, e.to_string()))?));
            }
        }
    }
    Ok(client)
}

fn read_pem(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates = CertificateDer::pem_file_iter(path).map_err(|e| e.to_string())?;
    certificates.map(|c| c.map_err(|e| e.to_string())).collect()
}

/// For registries configured as insecure: any certificate will do.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Names by /etc/hosts and the servers of /etc/resolv.conf, in Rust (glibc's resolver does not
/// survive static linking), and by no servers that were not configured.
#[derive(Default)]
struct Dns(Arc<OnceLock<Result<TokioResolver, String>>>);

impl Resolve for Dns {
    fn resolve(&self, name: Name) -> Resolving {
        let cell = self.0.clone();
        Box::pin(async move {
            if name.as_str().eq_ignore_ascii_case("localhost") {
                let own = [
                    IpAddr::V4(Ipv4Addr::LOCALHOST),
                    IpAddr::V6(Ipv6Addr::LOCALHOST),
                ];
                let addresses: Addrs = Box::new(own.into_iter().map(|a| SocketAddr::new(a, 0)));
                return Ok(addresses);
            }
            let resolver = cell
                .get_or_init(resolver)
                .as_ref()
                .map_err(String::as_str)?;
            let found = resolver.lookup_ip(name.as_str()).await?;
            let found: Vec<SocketAddr> = found.iter().map(|a| SocketAddr::new(a, 0)).collect();
            let addresses: Addrs = Box::new(found.into_iter());
            Ok(addresses)
        })
    }
}

fn resolver() -> Result<TokioResolver, String> {
    let mut builder =
        TokioResolver::builder_tokio().map_err(|e| format!("read /etc/resolv.conf: {e}"))?;
    builder.options_mut().ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    builder.build().map_err(|e| e.to_string())
}
