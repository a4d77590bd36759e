//! How images are fetched and kept.

use std::path::PathBuf;
use std::time::Duration;

use super::registries::ShortNames;
use super::retry::Retries;
use crate::ocid::storage::unpack::Limits;

/// How images are fetched and kept.
#[derive(Debug, Clone)]
pub struct ImageOptions {
    /// `HOST[:PORT]` or address ranges whose certificates are not checked, or that speak plain HTTP.
    pub insecure_registries: Vec<String>,
    pub registries_conf: PathBuf,
    pub registries_conf_dir: PathBuf,
    /// Aliases that another engine on this machine has recorded.
    pub short_name_aliases: PathBuf,
    /// Overrules `short-name-mode` of registries.conf.
    pub short_names: Option<ShortNames>,
    /// Credentials for pulls whose request brings none: the first file that has any. Each may be absent.
    pub auth_files: Vec<PathBuf>,
    /// A folder of files `NAMESPACE-HASH.json` and `NAMESPACE.json`, see [`super::namespaced`].
    pub namespaced_auth: Option<PathBuf>,
    /// A folder of policies `NAMESPACE.json`.
    pub namespaced_policies: Option<PathBuf>,
    /// Folders with `HOST:PORT/{*.crt,*.cert,*.key}`.
    pub certs_dirs: Vec<PathBuf>,
    pub policy: PathBuf,
    /// Whether an absent policy is an error; else it accepts everything.
    pub policy_required: bool,
    /// A pull that receives nothing for so long is given up.
    pub progress_timeout: Option<Duration>,
    pub retries: Retries,
    /// Layers of all pulls together that are fetched at a time.
    pub max_parallel_downloads: usize,
    /// What one layer may take.
    pub limits: Limits,
    /// Names of images not to be collected: exact, `PREFIX*` or `*PART*`.
    pub pinned_images: Vec<String>,
}

impl Default for ImageOptions {
    fn default() -> Self {
        Self {
            insecure_registries: Vec::new(),
            registries_conf: "/etc/containers/registries.conf".into(),
            registries_conf_dir: "/etc/containers/registries.conf.d".into(),
            short_name_aliases: "/var/cache/containers/short-name-aliases.conf".into(),
            short_names: None,
            // Ours first; then where root's `skopeo login`, `podman login` and `docker login` leave them.
            auth_files: [
                "/etc/containers/auth.json",
                "/run/containers/0/auth.json",
                "/root/.config/containers/auth.json",
                "/root/.docker/config.json",
            ]
            .map(PathBuf::from)
            .to_vec(),
            namespaced_auth: None,
            namespaced_policies: None,
            certs_dirs: vec![
                "/etc/containers/certs.d".into(),
                "/etc/docker/certs.d".into(),
            ],
            policy: "/etc/containers/policy.json".into(),
            policy_required: false,
            progress_timeout: None,
            retries: Retries::default(),
            max_parallel_downloads: 4,
            limits: Limits::default(),
            pinned_images: Vec::new(),
        }
    }
}

impl ImageOptions {
    /// Is an image by any of its names not to be collected?
    pub(super) fn pins(&self, tags: &[String], digests: &[String]) -> bool {
        let names = || tags.iter().chain(digests);
        let mut patterns = self.pinned_images.iter();
        patterns.any(|p| names().any(|n| fits(p, n)))
    }
}

/// CRI-O's patterns: exact, with `*` at the end, or between two `*`.
fn fits(pattern: &str, name: &str) -> bool {
    match (pattern.strip_prefix('*'), pattern.strip_suffix('*')) {
        (Some(_), Some(_)) => name.contains(pattern.trim_matches('*')),
        (None, Some(prefix)) => name.starts_with(prefix),
        _ => name == pattern,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pinning_patterns() {
        assert!(fits("a.b/c:1", "a.b/c:1") && !fits("a.b/c", "a.b/c:1"));
        assert!(fits("a.b/*", "a.b/c:1") && !fits("a.b/*", "x.a.b/c:1"));
        assert!(fits("*pause*", "a.b/pause:1") && !fits("*pause*", "a.b/c"));
    }
}
