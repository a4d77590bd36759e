//! The HTTP client of downloads: system roots with a bundled fallback, proxies as given, redirects
//! that never leave TLS, no name service of glibc.

use std::ffi::OsString;
use std::fmt;
use std::time::Duration;

use reqwest::redirect::{Attempt, Policy};
use reqwest::{Client, NoProxy, Proxy};
use rustls::RootCertStore;
use tokio::time::timeout;

use super::resolve::SystemResolver;

const AGENT: &str = concat!("crio-setup/", env!("CARGO_PKG_VERSION"));
/// A release file is two redirects away from its address; more than this is a loop.
const REDIRECTS: usize = 10;

/// Proxies by the names that curl, Go and others share: `http_proxy`, `https_proxy`, `all_proxy`,
/// `no_proxy`, upper case too.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Proxies {
    pub http: Option<String>,
    pub https: Option<String>,
    /// Hosts, domains and networks, separated by commas.
    pub no_proxy: Option<String>,
}

impl Proxies {
    /// Picks them from an environment; the lower-case name wins, an empty value is none.
    pub fn from_env(env: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        let vars: Vec<(String, String)> = env
            .into_iter()
            .filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)))
            .filter(|(_, v)| !v.is_empty())
            .collect();
        let exact = |name: &str| {
            let found = vars.iter().find(|(k, _)| k == name);
            found.map(|(_, v)| v.clone())
        };
        let get = |name: &str| exact(name).or_else(|| exact(&name.to_ascii_uppercase()));
        Self {
            http: get("http_proxy").or_else(|| get("all_proxy")),
            https: get("https_proxy").or_else(|| get("all_proxy")),
            no_proxy: get("no_proxy"),
        }
    }

    /// The machine itself is never reached through a proxy.
    fn exceptions(&self) -> Option<NoProxy> {
        let own = "localhost,127.0.0.0/8,::1";
        NoProxy::from_string(&match &self.no_proxy {
            Some(list) => format!("{own},{list}"),
            None => own.to_owned(),
        })
    }
}

/// Without the credentials that a proxy's address may hold.
impl fmt::Debug for Proxies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bare = |proxy: &Option<String>| {
            let after = |p: &String| p.rsplit('@').next().unwrap_or_default().to_owned();
            proxy.as_ref().map(after)
        };
        f.debug_struct("Proxies")
            .field("http", &bare(&self.http))
            .field("https", &bare(&self.https))
            .field("no_proxy", &self.no_proxy)
            .finish()
    }
}

/// Can a URL's server be reached?
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reach {
    /// A server answered, whatever it said.
    Yes,
    No {
        /// Names the URL.
        reason: String,
    },
}

/// Asks for the head of each URL, all at once, and follows redirects; over after `limit` at most. A
/// firewall that drops packets costs `limit`, not minutes.
pub fn reachable(urls: &[&str], proxies: &Proxies, limit: Duration) -> Vec<Reach> {
    let failed = |reason: String| {
        urls.iter()
            .map(|_| Reach::No {
                reason: reason.clone(),
            })
            .collect()
    };
    let client = match client(proxies, limit, system_roots()) {
        Ok(client) => client,
        Err(e) => return failed(format!("build the http client: {}", chain(&e))),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => runtime.block_on(futures_util::future::join_all(
            urls.iter().map(|url| head(&client, url, limit)),
        )),
        Err(e) => failed(format!("start the async runtime: {e}")),
    }
}

async fn head(client: &Client, url: &str, limit: Duration) -> Reach {
    match timeout(limit, client.head(url).send()).await {
        Ok(Ok(_)) => Reach::Yes,
        Ok(Err(e)) => Reach::No {
            reason: format!("`{url}`: {}", chain(&e.without_url())),
        },
        Err(_) => Reach::No {
            reason: format!("`{url}`: no answer within {limit:?}"),
        },
    }
}

/// A client for downloads. `connect` limits name lookup, TCP and TLS together.
pub(super) fn client(
    proxies: &Proxies,
    connect: Duration,
    roots: RootCertStore,
) -> Result<Client, reqwest::Error> {
    let provider = rustls::crypto::ring::default_provider();
    let tls = rustls::ClientConfig::builder_with_provider(provider.into())
        .with_safe_default_protocol_versions()
        .map(|builder| builder.with_root_certificates(roots).with_no_client_auth());
    let mut builder = Client::builder()
        .user_agent(AGENT)
        .http1_only()
        // One file, one connection: a redirect to the same server must not meet a connection that the
        // server is closing at this moment.
        .pool_max_idle_per_host(0)
        .connect_timeout(connect)
        .dns_resolver(SystemResolver::default())
        .redirect(Policy::custom(follow))
        // Not reqwest's own look at the environment: it comes in as a parameter.
        .no_proxy();
    // The versions of ring's provider are what the builder asks for; were they not, reqwest says
    // that it has no provider when it builds.
    if let Ok(tls) = tls {
        builder = builder.tls_backend_preconfigured(tls);
    }
    if let Some(proxy) = &proxies.http {
        builder = builder.proxy(Proxy::http(proxy)?.no_proxy(proxies.exceptions()));
    }
    if let Some(proxy) = &proxies.https {
        builder = builder.proxy(Proxy::https(proxy)?.no_proxy(proxies.exceptions()));
    }
    builder.build()
}

/// The system's roots; a machine without any (a minimal image has no `ca-certificates`) gets
/// Mozilla's, bundled.
pub(super) fn system_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    for problem in &found.errors {
        tracing::debug!(%problem, "load the system's certificates");
    }
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    roots
}

/// Why a redirect was not followed.
#[derive(Debug, thiserror::Error)]
pub(super) enum RedirectError {
    #[error("refused the redirect from https to `{0}`: it leaves TLS")]
    Downgrade(String),
    #[error("gave up after {REDIRECTS} redirects")]
    TooMany,
}

fn follow(attempt: Attempt<'_>) -> reqwest::redirect::Action {
    let to = attempt.url();
    let was_secure = attempt.previous().iter().any(|u| u.scheme() == "https");
    if was_secure && to.scheme() != "https" {
        let to = to.to_string();
        attempt.error(RedirectError::Downgrade(to))
    } else if attempt.previous().len() > REDIRECTS {
        attempt.error(RedirectError::TooMany)
    } else {
        attempt.follow()
    }
}

/// An error with its causes on one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        // Libraries like to repeat their cause in their own message.
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(vars: &[(&str, &str)]) -> Proxies {
        Proxies::from_env(vars.iter().map(|(k, v)| (k.into(), v.into())))
    }

    #[test]
    fn proxies_from_the_environment() {
        let p = env(&[
            ("HTTPS_PROXY", "upper"),
            ("https_proxy", "lower"),
            ("all_proxy", "all"),
            ("NO_PROXY", "a,b"),
            ("http_proxy", ""),
        ]);
        assert_eq!(p.https.as_deref(), Some("lower"));
        assert_eq!(p.http.as_deref(), Some("all"));
        assert_eq!(p.no_proxy.as_deref(), Some("a,b"));
        assert_eq!(env(&[]), Proxies::default());
    }

    #[test]
    fn a_proxy_is_printed_without_its_password() {
        let p = env(&[("http_proxy", "http://me:secret@proxy:3128")]);
        let text = format!("{p:?}");
        assert!(
            text.contains("proxy:3128") && !text.contains("secret"),
            "{text}"
        );
    }

    #[test]
    fn unreachable_is_told_in_time() {
        // A bound socket that never accepts drops what arrives like a firewall does, once its
        // queue is full; a closed port refuses.
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let silent_url = format!("http://{}/f", silent.local_addr().unwrap());
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let closed_url = format!("http://{}/f", closed.local_addr().unwrap());
        drop(closed);
        let begun = std::time::Instant::now();
        let limit = Duration::from_millis(400);
        let reach = reachable(&[&silent_url, &closed_url], &Proxies::default(), limit);
        assert!(begun.elapsed() < limit * 2, "{:?}", begun.elapsed());
        let [Reach::No { reason: silent }, Reach::No { reason: closed }] = &reach[..] else {
            panic!("{reach:?}");
        };
        assert!(
            silent.contains(&silent_url) && silent.contains("400ms"),
            "{silent}"
        );
        assert!(
            closed.contains(&closed_url) && closed.contains("refused"),
            "{closed}"
        );
    }
}
