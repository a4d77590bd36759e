//! A folder watched for files that are renamed into it, the way whole files appear ([`super::fs::write_atomic`]),
//! or for whatever happens to the files in it.
#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// What happened in the folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A file of this name has been renamed into it.
    Appeared(OsString),
    /// More happened than the kernel remembers: look at the whole folder.
    Overflow,
}

#[derive(Debug)]
pub struct FolderWatch {
    inotify: AsyncFd<Watched>,
    events: VecDeque<InotifyEvent>,
}

#[derive(Debug)]
struct Watched(Inotify);

impl AsRawFd for Watched {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl FolderWatch {
    /// Changes count from here on. Needs an async runtime.
    pub fn new(folder: &Path) -> io::Result<Self> {
        Self::of(folder, AddWatchFlags::IN_MOVED_TO)
    }

    /// Everything that happens to files in the folder counts from here on, for [`FolderWatch::stirred`]: they are
    /// made, written to, renamed, removed. Needs an async runtime.
    pub fn of_files(folder: &Path) -> io::Result<Self> {
        let moved = AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_MOVED_FROM;
        let written = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MODIFY;
        Self::of(folder, moved | written | AddWatchFlags::IN_DELETE)
    }

    fn of(folder: &Path, what: AddWatchFlags) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        inotify.add_watch(folder, what | AddWatchFlags::IN_ONLYDIR)?;
        let watched = Watched(inotify);
        // SAFETY: nix's `Inotify` owns one descriptor for its whole life, and `AsyncFd` owns it.
        let inotify = unsafe { AsyncFd::register_with_interest(watched, Interest::READABLE) }?;
        Ok(Self {
            inotify,
            events: VecDeque::new(),
        })
    }

    /// Waits until something has happened since the last call; how much does not matter. `NotFound` when the folder
    /// itself is gone. Nothing is lost when the future is dropped.
    pub async fn stirred(&mut self) -> io::Result<()> {
        loop {
            let gone = |event: &InotifyEvent| event.mask.contains(AddWatchFlags::IN_IGNORED);
            if self.events.iter().any(gone) {
                return Err(io::ErrorKind::NotFound.into());
            }
            if !self.events.is_empty() {
                self.events.clear();
                return Ok(());
            }
            self.wait().await?;
        }
    }

    /// The next change. Nothing is lost when the future is dropped. `NotFound` when the folder itself is gone.
    pub async fn next(&mut self) -> io::Result<Change> {
        loop {
            while let Some(event) = self.events.pop_front() {
                if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
                    return Ok(Change::Overflow);
                } else if event.mask.contains(AddWatchFlags::IN_IGNORED) {
                    return Err(io::ErrorKind::NotFound.into());
                } else if let Some(name) = event.name {
                    return Ok(Change::Appeared(name));
                }
            }
            self.wait().await?;
        }
    }

    /// Reads what has come, or waits.
    async fn wait(&mut self) -> io::Result<()> {
        let mut ready = self.inotify.readable().await?;
        match ready.get_inner().0.read_events() {
            Ok(events) => self.events.extend(events),
            Err(Errno::EAGAIN) => ready.clear_ready(),
            Err(Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
        Ok(())
    }
}
