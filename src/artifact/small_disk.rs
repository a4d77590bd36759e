//! A disk that is soon full, for tests.

use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// Runs `act` on a thread that alone sees a file system of 64 KiB at `at`; gone with the thread.
pub fn in_small_tmpfs<T: Send>(at: &Path, act: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNS).unwrap();
            let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
            mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
            mount(
                Some("small"),
                at,
                Some("tmpfs"),
                MsFlags::empty(),
                Some("size=64k"),
            )
            .unwrap();
            act()
        });
        thread.join().unwrap()
    })
}
