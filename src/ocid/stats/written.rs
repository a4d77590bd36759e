//! How much containers have written: the overlay's upper folders, walked in the background.
//!
//! A call takes what is known. Sizes older than [`FRESH`] are measured anew behind its back, for the next one. A
//! call waits, and not for long ([`PATIENCE`]), only for what was never measured or not within [`OLDEST`], as
//! after a time in which nobody asked. Each size says when it was measured.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, watch};

use super::Moment;
use crate::host::disk_usage::{self, DiskUsage};

/// Kubelet asks every ten seconds.
const FRESH: Duration = Duration::from_secs(8);
const OLDEST: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_secs(1);
/// Walks at once: one of a million files does not hold up all others.
const WALKERS: usize = 2;

/// The size of a container's writable layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    pub bytes: u64,
    pub inodes: u64,
    /// When it was measured; nanoseconds since the epoch.
    pub at: i64,
}

#[derive(Debug, Default)]
struct Entry {
    size: Option<(Written, Instant)>,
    underway: bool,
}

/// The sizes by container id.
#[derive(Debug)]
pub struct Layers(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    entries: Mutex<HashMap<String, Entry>>,
    walkers: Semaphore,
    /// A walk is over.
    changes: watch::Sender<()>,
}

impl Default for Layers {
    fn default() -> Self {
        Self(Arc::new(Shared {
            entries: Mutex::default(),
            walkers: Semaphore::new(WALKERS),
            changes: watch::Sender::new(()),
        }))
    }
}

impl Layers {
    /// The sizes of these folders, by container id; without those that could not be measured in time.
    pub async fn sizes(&self, folders: Vec<(String, PathBuf)>) -> HashMap<String, Written> {
        let mut changes = self.0.changes.subscribe();
        let due = self.0.claim(&folders, Instant::now());
        if !due.is_empty() {
            let shared = Arc::clone(&self.0);
            tokio::spawn(async move { shared.measure(due).await });
        }
        let all_known = async {
            while !self.0.all_known(&folders, Instant::now()) {
                if changes.changed().await.is_err() {
                    // The sender lives as long as `self`.
                    return;
                }
            }
        };
        if tokio::time::timeout(PATIENCE, all_known).await.is_err() {
            tracing::debug!("some writable layers are still being measured");
        }
        let entries = self.0.entries();
        let size = |id: &String| entries.get(id)?.size.map(|(written, _)| written);
        let known = folders
            .iter()
            .filter_map(|(id, _)| Some((id.clone(), size(id)?)));
        known.collect()
    }

    /// Forgets containers that are no more.
    pub fn retain(&self, exists: impl Fn(&str) -> bool) {
        self.0.entries().retain(|id, _| exists(id));
    }
}

impl Shared {
    fn entries(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        // The map is whole whatever a panicking thread was at.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those to be measured, which nobody else measures from now on.
    fn claim(&self, folders: &[(String, PathBuf)], now: Instant) -> Vec<(String, PathBuf)> {
        let mut entries = self.entries();
        let mut due = Vec::new();
        for (id, folder) in folders {
            let entry = entries.entry(id.clone()).or_default();
            if !entry.underway && age(entry, now).is_none_or(|age| age >= FRESH) {
                entry.underway = true;
                due.push((id.clone(), folder.clone()));
            }
        }
        due
    }

    /// Is there something to answer for each, or nobody at it who could tell?
    fn all_known(&self, folders: &[(String, PathBuf)], now: Instant) -> bool {
        let entries = self.entries();
        let known = |entry: &Entry| age(entry, now).is_some_and(|age| age < OLDEST);
        folders.iter().all(|(id, _)| {
            entries
                .get(id)
                .is_none_or(|entry| known(entry) || !entry.underway)
        })
    }

    async fn measure(self: Arc<Self>, due: Vec<(String, PathBuf)>) {
        let permit = self.walkers.acquire().await;
        let shared = Arc::clone(&self);
        let walk = tokio::task::spawn_blocking(move || {
            for (id, folder) in due {
                let moment = Moment::now();
                let found = disk_usage::of_tree(&folder);
                if let Err(error) = &found {
                    tracing::debug!(container = %id, %error, "a writable layer was not measured");
                }
                shared.settle(&id, found.ok(), moment);
            }
        });
        if let Err(error) = walk.await {
            tracing::error!(%error, "writable layers are not measured");
        }
        drop(permit);
    }

    fn settle(&self, id: &str, found: Option<DiskUsage>, moment: Moment) {
        // Whoever was forgotten meanwhile stays so.
        if let Some(entry) = self.entries().get_mut(id) {
            entry.underway = false;
            entry.size = found.map(|found| {
                let written = Written {
                    bytes: found.bytes,
                    inodes: found.inodes,
                    at: moment.at,
                };
                (written, moment.monotonic)
            });
        }
        self.changes.send_replace(());
    }
}

fn age(entry: &Entry, now: Instant) -> Option<Duration> {
    let (_, measured) = entry.size?;
    Some(now.saturating_duration_since(measured))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[tokio::test]
    async fn the_first_answer_is_waited_for_and_then_kept() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("f"), vec![1; 8192]).unwrap();
        let layers = Layers::default();
        let folders = vec![
            ("a".to_owned(), dir.path().to_owned()),
            ("gone".to_owned(), dir.path().join("gone")),
        ];
        let first = layers.sizes(folders.clone()).await;
        assert_eq!(first.len(), 1, "{first:?}");
        assert_eq!(first["a"].inodes, 2);
        assert!(first["a"].bytes >= 8192);
        fs::write(dir.path().join("g"), "").unwrap();
        assert_eq!(layers.sizes(folders.clone()).await["a"], first["a"]);
        layers.retain(|id| id != "a");
        assert_eq!(layers.sizes(folders).await["a"].inodes, 3);
    }

    #[test]
    fn only_the_old_are_due_and_only_once() {
        let layers = Layers::default();
        let folders = vec![("a".to_owned(), PathBuf::from("/x"))];
        let (moment, found) = (Moment::now(), DiskUsage::default());
        let at = |s| moment.monotonic + Duration::from_secs(s);
        assert_eq!(layers.0.claim(&folders, at(0)).len(), 1);
        assert_eq!(layers.0.claim(&folders, at(0)).len(), 0, "underway");
        assert!(!layers.0.all_known(&folders, at(0)));
        layers.0.settle("a", Some(found), moment);
        assert!(layers.0.all_known(&folders, at(1)));
        assert_eq!(layers.0.claim(&folders, at(1)).len(), 0, "fresh");
        assert_eq!(layers.0.claim(&folders, at(9)).len(), 1);
        assert!(
            layers.0.all_known(&folders, at(9)),
            "old enough to renew, not to wait"
        );
        assert!(!layers.0.all_known(&folders, at(61)));
        layers.0.settle("a", None, moment);
        assert!(layers.0.all_known(&folders, at(61)), "nobody is at it");
        layers.0.settle("forgotten", Some(found), moment);
        assert_eq!(layers.0.entries().len(), 1);
    }
}
