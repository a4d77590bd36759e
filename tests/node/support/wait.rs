//! Waits for what a file will say, told by the kernel when it grows.

use std::fs;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

/// Waits until a file holds `text`; returns its content.
pub fn file_with(path: &Path, text: &str, limit: Duration) -> Result<String> {
    let deadline = Instant::now() + limit;
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
    inotify
        .add_watch(path, AddWatchFlags::IN_MODIFY)
        .with_context(|| format!("watch `{}`", path.display()))?;
    loop {
        let content = fs::read(path).with_context(|| format!("read `{}`", path.display()))?;
        let content = String::from_utf8_lossy(&content).into_owned();
        if content.contains(text) {
            return Ok(content);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let mut fds = [PollFd::new(inotify.as_fd(), PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        if poll(&mut fds, timeout)? == 0 {
            bail!(
                "no `{text}` in `{}` within {limit:?}:\n{content}",
                path.display()
            );
        }
        inotify.read_events()?;
    }
}
