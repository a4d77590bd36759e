//! A file watched for what is written to it, such as a log.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::Path;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Tells of each change after [`FileWatch::new`].
#[derive(Debug)]
pub struct FileWatch(AsyncFd<Watched>);

#[derive(Debug)]
struct Watched(Inotify);

impl AsRawFd for Watched {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl FileWatch {
    /// The file must exist. Needs an async runtime.
    pub fn new(file: &Path) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        inotify.add_watch(file, AddWatchFlags::IN_MODIFY)?;
        let watched = Watched(inotify);
        // SAFETY: nix's `Inotify` owns one descriptor for its whole life, and `AsyncFd` owns it.
        let fd = unsafe { AsyncFd::register_with_interest(watched, Interest::READABLE) }?;
        Ok(Self(fd))
    }

    /// Waits for the next change; several may count as one.
    pub async fn changed(&self) -> io::Result<()> {
        let read = |watched: &Watched| Ok(watched.0.read_events().map(drop)?);
        self.0.async_io(Interest::READABLE, read).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[tokio::test]
    async fn a_write_wakes() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let watch = FileWatch::new(file.path()).unwrap();
        let quiet = std::time::Duration::from_millis(20);
        assert!(tokio::time::timeout(quiet, watch.changed()).await.is_err());
        file.as_file().write_all(b"x").unwrap();
        watch.changed().await.unwrap();
        assert!(FileWatch::new(Path::new("/no/such/file")).is_err());
    }
}
