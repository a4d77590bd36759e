//! A registry on loopback that has one image and lives as long as its pull (OCI distribution spec,
//! "Pull").

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::image::{MANIFEST_TYPE, TestImage, digest};

/// The repository's name.
pub const REPOSITORY: &str = "ocid-selftest/peer";

/// Serves until dropped.
pub struct Registry {
    address: SocketAddr,
    tag: String,
    server: JoinHandle<io::Result<()>>,
}

struct Blobs {
    tag: String,
    manifest: (String, Bytes),
    others: Vec<(String, Bytes)>,
}

impl Registry {
    /// Serves `image` under `tag`, on a free port.
    pub async fn start(image: TestImage, tag: &str) -> io::Result<Self> {
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
        let address = listener.local_addr()?;
        let named = |blob: Vec<u8>| (digest(&blob), Bytes::from(blob));
        let blobs = Arc::new(Blobs {
            tag: tag.to_owned(),
            manifest: named(image.manifest),
            others: vec![named(image.config), named(image.layer)],
        });
        // The repository is part of the routes: there is no other.
        let router = Router::new()
            .route("/v2/", get(|| async { "{}" }))
            .route(
                "/v2/ocid-selftest/peer/manifests/{reference}",
                get(manifest),
            )
            .route("/v2/ocid-selftest/peer/blobs/{digest}", get(blob))
            .with_state(blobs);
        Ok(Self {
            address,
            tag: tag.to_owned(),
            server: tokio::spawn(axum::serve(listener, router).into_future()),
        })
    }

    /// What to pull.
    pub fn reference(&self) -> String {
        format!("{}/{REPOSITORY}:{}", self.address, self.tag)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn manifest(State(blobs): State<Arc<Blobs>>, Path(reference): Path<String>) -> Response {
    let (digest, bytes) = &blobs.manifest;
    if reference != blobs.tag && reference != *digest {
        return missing("MANIFEST_UNKNOWN");
    }
    found(MANIFEST_TYPE, digest, bytes)
}

async fn blob(State(blobs): State<Arc<Blobs>>, Path(wanted): Path<String>) -> Response {
    match blobs.others.iter().find(|(digest, _)| *digest == wanted) {
        Some((digest, bytes)) => found("application/octet-stream", digest, bytes),
        None => missing("BLOB_UNKNOWN"),
    }
}

fn found(media_type: &str, digest: &str, bytes: &Bytes) -> Response {
    let headers = [
        (header::CONTENT_TYPE.as_str(), media_type),
        ("docker-content-digest", digest),
    ];
    (headers, bytes.clone()).into_response()
}

fn missing(code: &str) -> Response {
    let body = format!(r#"{{"errors":[{{"code":"{code}"}}]}}"#);
    (StatusCode::NOT_FOUND, body).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artifact::{Fetch, FetchError, Limits, Proxies, Sha256Sum, fetch};

    #[tokio::test]
    async fn serves_its_image_and_nothing_else() {
        let image = TestImage {
            manifest: b"{\"manifest\":1}".to_vec(),
            config: b"config".to_vec(),
            layer: b"layer".to_vec(),
        };
        let registry = Registry::start(image, "tag").await.unwrap();
        assert!(registry.reference().ends_with("/ocid-selftest/peer:tag"));
        let base = format!("http://{}/v2/{REPOSITORY}", registry.address);
        let get = |path: String, content: &'static [u8]| {
            let url = format!("{base}/{path}");
            tokio::task::spawn_blocking(move || {
                let dir = tempfile::tempdir().unwrap();
                let what = Fetch {
                    url: &url,
                    sha256: Sha256Sum::of(content),
                    size_cap: 1 << 20,
                    limits: Limits::default(),
                    dir: dir.path(),
                    proxies: &Proxies::default(),
                    cancel: Default::default(),
                };
                fetch(&what, &|_, _| {}).map(|f| f.size)
            })
        };
        let manifest = b"{\"manifest\":1}";
        assert_eq!(
            get("manifests/tag".into(), manifest)
                .await
                .unwrap()
                .unwrap(),
            14
        );
        let by_digest = format!("manifests/{}", digest(manifest));
        assert_eq!(get(by_digest, manifest).await.unwrap().unwrap(), 14);
        let layer = format!("blobs/{}", digest(b"layer"));
        assert_eq!(get(layer, b"layer").await.unwrap().unwrap(), 5);
        for other in [
            "manifests/other".to_owned(),
            format!("blobs/{}", digest(b"x")),
        ] {
            let error = get(other, b"").await.unwrap().unwrap_err();
            assert!(matches!(error, FetchError::Status { .. }), "{error:?}");
        }
    }
}
