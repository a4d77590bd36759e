//! A pod or container that lives: its record, who may change it, and who waits for a change.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::{RwLock as Gate, RwLockReadGuard, RwLockWriteGuard, watch};

use super::record::Record;
use crate::ocid::error::{Error, Result};

/// Readers take the record as it is now; one operation at a time changes it.
#[derive(Debug)]
pub struct Live<R> {
    folder: PathBuf,
    record: RwLock<Arc<R>>,
    gate: Gate<()>,
    changes: watch::Sender<()>,
}

impl<R: Record + Clone + Send + Sync + 'static> Live<R> {
    /// `folder` holds its `state.json`.
    pub fn new(folder: PathBuf, record: R) -> Self {
        Self {
            folder,
            record: RwLock::new(Arc::new(record)),
            gate: Gate::new(()),
            changes: watch::Sender::new(()),
        }
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The record at this moment.
    pub fn now(&self) -> Arc<R> {
        Arc::clone(&self.record.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Held by the operation that changes it from one phase to the next.
    pub async fn gate(&self) -> RwLockWriteGuard<'_, ()> {
        self.gate.write().await
    }

    /// Held by operations that need it to stay in its phase and get on with each other: the making and
    /// starting of a pod's containers, which its stop must wait for.
    pub async fn share(&self) -> RwLockReadGuard<'_, ()> {
        self.gate.read().await
    }

    /// Does an operation hold it at this moment?
    pub fn is_busy(&self) -> bool {
        self.gate.try_write().is_err()
    }

    /// Changes the record, in memory and in the page cache: it survives our death, not the machine's.
    pub fn change(&self, edit: impl FnOnce(&mut R)) -> Result<Arc<R>> {
        let mut slot = self.record.write().unwrap_or_else(PoisonError::into_inner);
        let mut next = (**slot).clone();
        edit(&mut next);
        next.save(&self.folder, false)
            .map_err(Error::io("write the record in", &self.folder))?;
        *slot = Arc::new(next);
        let now = Arc::clone(&slot);
        drop(slot);
        self.changes.send_replace(());
        Ok(now)
    }

    /// As [`Live::change`] for what has happened already, and is so whether it can be written or not: a
    /// full disk must not keep a container running that has ended. A restart sees for itself what a
    /// record that was not written does not say.
    pub fn note(&self, edit: impl FnOnce(&mut R)) -> Arc<R> {
        let mut slot = self.record.write().unwrap_or_else(PoisonError::into_inner);
        let mut next = (**slot).clone();
        edit(&mut next);
        if let Err(error) = next.save(&self.folder, false) {
            tracing::error!(folder = %self.folder.display(), %error, "a record was not written");
        }
        *slot = Arc::new(next);
        let now = Arc::clone(&slot);
        drop(slot);
        self.changes.send_replace(());
        now
    }

    /// Writes the record as it is now so that it survives the machine's death too.
    pub async fn commit(&self) -> Result<()> {
        let (record, folder) = (self.now(), self.folder.clone());
        let save = move || record.save(&folder, true);
        let saved = tokio::task::spawn_blocking(save)
            .await
            .unwrap_or_else(|e| Err(io::Error::other(e)));
        saved
            .map_err(Error::io("commit the record in", &self.folder))
            .map_err(Arc::new)
    }

    /// Waits until the record fits.
    pub async fn until(&self, fits: impl Fn(&R) -> bool) -> Arc<R> {
        let mut changes = self.changes.subscribe();
        loop {
            let now = self.now();
            if fits(&now) {
                return now;
            }
            if changes.changed().await.is_err() {
                // The sender lives as long as `self`.
                return now;
            }
        }
    }
}
