//! A folder watched for files that are renamed into it, the way whole files appear ([`super::fs::write_atomic`]).
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
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        inotify.add_watch(
            folder,
            AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_ONLYDIR,
        )?;
        let watched = Watched(inotify);
        // SAFETY: nix's `Inotify` owns one descriptor for its whole life, and `AsyncFd` owns it.
        let inotify = unsafe { AsyncFd::register_with_interest(watched, Interest::READABLE) }?;
        Ok(Self {
            inotify,
            events: VecDeque::new(),
        })
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
            let mut ready = self.inotify.readable().await?;
            match ready.get_inner().0.read_events() {
                Ok(events) => self.events.extend(events),
                Err(Errno::EAGAIN) => ready.clear_ready(),
                Err(Errno::EINTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
}
