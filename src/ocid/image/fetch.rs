//! One layer's download, fed to the threads that unpack it while it comes.

use std::sync::Arc;

use prost::bytes::Bytes;
use reqwest::Response;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::digest::Digest;
use super::error::ImageError;
use super::manifest::Blob;
use super::progress::Progress;
use super::registry::{Repository, chain_without_url};
use super::store::Inner;
use crate::ocid::storage::StorageError;
use crate::ocid::storage::unpack::{Expected, Fed, LayerError, feed};

/// What a download must have brought before it broke off, so that the next break counts as the first.
const HEADWAY: u64 = 1 << 20;

/// One layer of one pull.
pub struct Fetch {
    pub store: Arc<Inner>,
    pub repository: Arc<Repository>,
    /// The image, for messages.
    pub reference: String,
    pub blob: Blob,
    pub diff_id: Digest,
    pub progress: Arc<Progress>,
    pub cancel: CancellationToken,
}

impl Fetch {
    /// Returns when the layer stands, fetched here or by another pull.
    pub async fn run(self) -> Result<(), ImageError> {
        let cancel = self.cancel.clone();
        let turn = async {
            let alone = self.store.pulls.layer(&self.diff_id).lock_owned().await;
            if self.store.layers.get(&self.diff_id).is_some() {
                return None;
            }
            let permit = self.store.permits.clone().acquire_owned().await.ok();
            Some((alone, permit))
        };
        let turn = tokio::select! {
            turn = turn => turn,
            () = cancel.cancelled() => return Err(self.interrupted()),
        };
        match turn {
            Some(turn) => {
                let fetched = self.fetch().await;
                drop(turn);
                fetched
            }
            None => Ok(()),
        }
    }

    async fn fetch(&self) -> Result<(), ImageError> {
        let (sender, feed) = feed();
        let (done, unpacked) = oneshot::channel();
        let layers = self.store.layers.clone();
        let expected = Expected {
            blob: self.blob.digest.clone(),
            size: self.blob.size,
            diff_id: self.diff_id.clone(),
        };
        let thread = std::thread::Builder::new()
            .name("layer-unpack".to_owned())
            .spawn(move || {
                // Nobody waits any more when the runtime is shut down; the layer stands or is gone.
                let _ = done.send(layers.add(&expected, feed));
            });
        let layer_error = |source| ImageError::Layer {
            reference: self.reference.clone(),
            digest: self.blob.digest.clone(),
            source,
        };
        thread.map_err(|e| layer_error(LayerError::Thread(Arc::new(e)).into()))?;
        let downloaded = self.download(sender).await;
        match (unpacked.await, downloaded) {
            (Ok(Ok(_)), _) => Ok(()),
            (Ok(Err(StorageError::Layer(LayerError::Abandoned))), Err(e)) => Err(e),
            (Ok(Err(e)), _) => Err(layer_error(e)),
            (Err(_), _) => Err(self.interrupted()),
        }
    }

    /// Feeds the blob to the unpacking threads, and says `End` when all of it was fed.
    async fn download(&self, sender: mpsc::Sender<Fed<Bytes>>) -> Result<(), ImageError> {
        let (mut fed, mut reached, mut breaks) = (0, 0, 0);
        let mut broken: Option<ImageError> = None;
        let _awaited = self.progress.awaiting();
        loop {
            let response = tokio::select! {
                response = self.repository.blob(&self.blob.digest, fed) => response,
                () = self.cancel.cancelled() => return Err(self.interrupted()),
            };
            // If it cannot be taken up again, the reason is what broke it off.
            let response = response.map_err(|e| broken.take().unwrap_or(e))?;
            match self.feed(response, &sender, &mut fed).await {
                Ok(true) => return Ok(()),
                Ok(false) => {
                    // The unpacking side has failed or is content if it has left; else it wants more.
                    if fed >= self.blob.size {
                        let _ = sender.send(Fed::End).await;
                        return Ok(());
                    }
                    broken = Some(self.short(fed));
                }
                Err(e) => broken = Some(e),
            }
            if fed >= reached + HEADWAY {
                (reached, breaks) = (fed, 0);
            }
            breaks += 1;
            let Some(pause) = self.repository.pause(breaks) else {
                return Err(broken.unwrap_or_else(|| self.interrupted()));
            };
            tracing::debug!(blob = %self.blob.digest, fed, "a download broke off and is taken up again");
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.cancel.cancelled() => return Err(self.interrupted()),
            }
        }
    }

    /// True when nobody takes any more; false at the end of the response.
    async fn feed(
        &self,
        mut response: Response,
        sender: &mpsc::Sender<Fed<Bytes>>,
        fed: &mut u64,
    ) -> Result<bool, ImageError> {
        loop {
            let piece = tokio::select! {
                piece = response.chunk() => piece,
                () = self.cancel.cancelled() => return Err(self.interrupted()),
            };
            let piece = piece.map_err(|e| ImageError::Unavailable {
                url: format!("{} {}", self.reference, self.blob.digest),
                message: format!(
                    "after {fed} of {} bytes: {}",
                    self.blob.size,
                    chain_without_url(&e)
                ),
            })?;
            let Some(piece) = piece else {
                return Ok(false);
            };
            let length = piece.len() as u64;
            let sent = tokio::select! {
                sent = sender.send(Fed::Piece(piece)) => sent,
                () = self.cancel.cancelled() => return Err(self.interrupted()),
            };
            if sent.is_err() {
                return Ok(true);
            }
            *fed += length;
            self.progress.received(length);
        }
    }

    fn short(&self, fed: u64) -> ImageError {
        ImageError::Unavailable {
            url: format!("{} {}", self.reference, self.blob.digest),
            message: format!("it ends after {fed} of {} bytes", self.blob.size),
        }
    }

    fn interrupted(&self) -> ImageError {
        ImageError::Interrupted(self.reference.clone())
    }
}
