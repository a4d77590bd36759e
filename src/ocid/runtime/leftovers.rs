//! What a runtime that was killed leaves in the state folder of a container, where it clears up no more itself.
//!
//! runc before 1.2 runs its first process from a copy of itself: `runc.XXXXXX`, bind-mounted there for a moment
//! by `create` and by `exec` (CVE-2019-5736). Killed in that moment, it leaves the mount, and `delete` fails on it
//! or, where `create` had not come so far as to write a state, takes the container for one that was never there.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

use super::{Runtime, RuntimeError};
use crate::host::fs::remove_tree;
use crate::host::mount::unmount_below;

impl Runtime {
    /// Takes away the copies that would keep the runtime from deleting the folder.
    pub(super) async fn uncover(&self, id: &str) -> Result<(), RuntimeError> {
        self.on_state(id, "unmount what was left of it", uncover)
            .await
    }

    /// Removes the folder of a container that the runtime has deleted, or does not know.
    pub(super) async fn forget(&self, id: &str) -> Result<(), RuntimeError> {
        self.on_state(id, "remove its state", forget).await
    }

    async fn on_state(
        &self,
        id: &str,
        what: &'static str,
        act: fn(&Path, &str) -> io::Result<()>,
    ) -> Result<(), RuntimeError> {
        let (root, name) = (self.oci.root.clone(), id.to_owned());
        let done = tokio::task::spawn_blocking(move || act(&root, &name)).await;
        let done = done.map_err(io::Error::other).and_then(|done| done);
        done.map_err(|source| RuntimeError::Io {
            what,
            id: id.to_owned(),
            source,
        })
    }
}

fn uncover(root: &Path, id: &str) -> io::Result<()> {
    let folder = root.join(id);
    let entries = match fs::read_dir(&folder) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for entry in entries {
        if entry?.file_name().as_encoded_bytes().starts_with(b"runc.") {
            return unmount_below(&folder);
        }
    }
    Ok(())
}

fn forget(root: &Path, id: &str) -> io::Result<()> {
    let folder = root.join(id);
    match fs::symlink_metadata(&folder) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    unmount_below(&folder)?;
    match remove_tree(root, Path::new(id)) {
        // The runtime itself, or a second call.
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
