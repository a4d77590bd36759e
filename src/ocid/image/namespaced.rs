//! Credentials and policies for the pods of single namespaces.
//!
//! A credential provider of kubelet's (CRI-O has one) leaves `NAMESPACE-HASH.json` for the pull that follows;
//! HASH is the SHA-256 of the image's name, registry included, without tag and digest. Such a file is deleted
//! once it is read, so that it serves no later pull that nobody gave credentials. `NAMESPACE.json` is the
//! administrator's and stays.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::auth::{self, AuthFile, Credentials};
use super::error::ImageError;
use super::options::ImageOptions;
use super::reference::Reference;

/// What one namespace has for the pull of one image.
#[derive(Default)]
pub struct Namespaced {
    files: Vec<(PathBuf, AuthFile)>,
    /// The policy that decides instead of the machine's.
    pub policy: Option<PathBuf>,
}

impl Namespaced {
    /// Reads what is there; `namespace` must be a name that can stand in a file's.
    pub fn take(
        options: &ImageOptions,
        namespace: Option<&str>,
        reference: &Reference,
    ) -> Result<Self, ImageError> {
        let Some(namespace) = namespace else {
            return Ok(Self::default());
        };
        let mut files = Vec::new();
        if let Some(folder) = &options.namespaced_auth {
            let hash = hex::encode(Sha256::digest(reference.name().as_bytes()));
            let once = folder.join(format!("{namespace}-{hash}.json"));
            files.extend(read(&once)?.inspect(|_| remove(&once)));
            files.extend(read(&folder.join(format!("{namespace}.json")))?);
        }
        let policy = options.namespaced_policies.as_ref();
        let policy = policy.map(|folder| folder.join(format!("{namespace}.json")));
        Ok(Self {
            files,
            policy: policy.filter(|path| path.exists()),
        })
    }

    /// The first credentials for where the image is to come from.
    pub async fn credentials(
        &self,
        reference: &Reference,
    ) -> Result<Option<Credentials>, ImageError> {
        for (path, file) in &self.files {
            let found = auth::from_file(path, file, reference).await?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }
}

fn read(path: &Path) -> Result<Option<(PathBuf, AuthFile)>, ImageError> {
    let file = auth::read(path).map_err(|problem| ImageError::Config {
        path: path.to_owned(),
        problem,
    })?;
    Ok(file.map(|file| (path.to_owned(), file)))
}

fn remove(path: &Path) {
    if let Err(error) = std::fs::remove_file(path) {
        let path = path.display();
        tracing::warn!(%path, %error, "credentials for one pull are left");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"{"auths":{"a.b":{"auth":"dTpw"}}}"#;

    #[tokio::test]
    async fn a_file_for_one_pull_goes_first_and_only_once() {
        let dir = tempfile::tempdir().unwrap();
        let reference = Reference::parse("a.b/c:1").unwrap();
        let hash = hex::encode(Sha256::digest(b"a.b/c"));
        let once = dir.path().join(format!("ns-{hash}.json"));
        std::fs::write(&once, FILE).unwrap();
        let options = ImageOptions {
            namespaced_auth: Some(dir.path().to_owned()),
            namespaced_policies: Some(dir.path().join("policies")),
            ..ImageOptions::default()
        };
        let take = |namespace| Namespaced::take(&options, namespace, &reference).unwrap();
        assert!(take(None).files.is_empty() && once.exists());
        assert!(take(Some("other")).files.is_empty() && once.exists());
        let found = take(Some("ns")).credentials(&reference).await.unwrap();
        assert!(matches!(found, Some(Credentials::Password { user, .. }) if user == "u"));
        assert!(!once.exists());
        let found = take(Some("ns")).credentials(&reference).await.unwrap();
        assert!(found.is_none());
        let always = dir.path().join("ns.json");
        std::fs::write(&always, FILE).unwrap();
        let found = take(Some("ns")).credentials(&reference).await.unwrap();
        assert!(found.is_some() && always.exists());
        std::fs::write(&always, "{").unwrap();
        let broken = Namespaced::take(&options, Some("ns"), &reference);
        assert!(matches!(broken, Err(ImageError::Config { .. })));
    }

    #[test]
    fn a_namespaces_policy_counts_where_it_has_one() {
        let dir = tempfile::tempdir().unwrap();
        let reference = Reference::parse("a.b/c:1").unwrap();
        let options = ImageOptions {
            namespaced_policies: Some(dir.path().to_owned()),
            ..ImageOptions::default()
        };
        let policy = dir.path().join("ns.json");
        std::fs::write(&policy, "{}").unwrap();
        let of = |namespace| {
            let namespaced = Namespaced::take(&options, namespace, &reference).unwrap();
            namespaced.policy
        };
        assert_eq!(of(Some("ns")), Some(policy));
        assert_eq!(of(Some("other")), None);
        assert_eq!(of(None), None);
    }
}
