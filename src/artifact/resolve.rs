//! Host names, resolved in Rust: glibc's resolver does not survive static linking.

use std::net::SocketAddr;
use std::sync::Arc;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::LookupIpStrategy;
use hickory_resolver::net::NetError;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// Asks /etc/hosts and the name servers of /etc/resolv.conf. Without that file a name is an error:
/// a machine's lookups go to no server that it was not told of.
#[derive(Clone, Default)]
pub struct SystemResolver(Arc<tokio::sync::OnceCell<TokioResolver>>);

impl Resolve for SystemResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let cell = self.0.clone();
        Box::pin(async move {
            let resolver = cell.get_or_try_init(|| async { build() }).await?;
            let found = resolver.lookup_ip(name.as_str()).await?;
            let addresses: Vec<_> = found.iter().map(|ip| SocketAddr::new(ip, 0)).collect();
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

fn build() -> Result<TokioResolver, NetError> {
    let mut builder = TokioResolver::builder_tokio()?;
    // Both families: the connector tries them side by side.
    builder.options_mut().ip_strategy = LookupIpStrategy::Ipv6AndIpv4;
    builder.build()
}
