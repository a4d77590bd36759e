//! Whether a pull gets on: its bytes are counted and told to the log; it is given up when none come for
//! too long (`pull_progress_timeout` of crio.conf).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::error::ImageError;

/// Looks per time limit, and so many lines in the log, as CRI-O has it.
const LOOKS: u32 = 10;

/// One pull's.
#[derive(Default)]
pub struct Progress {
    received: AtomicU64,
    /// Requests whose answers are awaited. Without any the pull waits for its own machine or for
    /// another pull's layer, which is no fault of the registry's.
    awaited: AtomicUsize,
    stalled: AtomicBool,
    /// Ends everything that the pull does.
    pub cancel: CancellationToken,
}

/// Counts as a request while it lives.
pub struct Awaited(Arc<Progress>);

impl Drop for Awaited {
    fn drop(&mut self) {
        self.0.awaited.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Progress {
    pub fn received(&self, bytes: u64) {
        self.received.fetch_add(bytes, Ordering::Relaxed);
    }

    /// For as long as the registry is to answer.
    pub fn awaiting(self: &Arc<Self>) -> Awaited {
        self.awaited.fetch_add(1, Ordering::Relaxed);
        Awaited(self.clone())
    }

    /// Awaits an answer, unless the pull is given up before.
    pub async fn answer<T>(
        self: &Arc<Self>,
        image: &str,
        answer: impl Future<Output = Result<T, ImageError>>,
    ) -> Result<T, ImageError> {
        let _awaited = self.awaiting();
        tokio::select! {
            answer = answer => answer,
            () = self.cancel.cancelled() => Err(ImageError::Interrupted(image.to_owned())),
        }
    }

    /// Awaits the pull, and makes it end when it does not get on for `limit`.
    pub async fn watch<T>(
        &self,
        image: &str,
        limit: Duration,
        pull: impl Future<Output = Result<T, ImageError>>,
    ) -> Result<T, ImageError> {
        tokio::pin!(pull);
        let mut looks = interval((limit / LOOKS).max(Duration::from_millis(1)));
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut seen, mut since) = (0, Instant::now());
        loop {
            tokio::select! {
                done = &mut pull => return match done {
                    Err(_) if self.stalled.load(Ordering::Relaxed) => Err(ImageError::Unavailable {
                        url: image.to_owned(),
                        message: format!("nothing came for {limit:?} (`pull_progress_timeout`), after {seen} bytes"),
                    }),
                    done => done,
                },
                _ = looks.tick() => {
                    let received = self.received.load(Ordering::Relaxed);
                    if received != seen {
                        tracing::info!(%image, bytes = received, "pulling");
                    }
                    if received != seen || self.awaited.load(Ordering::Relaxed) == 0 {
                        (seen, since) = (received, Instant::now());
                    } else if since.elapsed() >= limit {
                        self.stalled.store(true, Ordering::Relaxed);
                        self.cancel.cancel();
                    }
                }
            }
        }
    }
}
