//! The overlay mount of a container's filesystem.

use std::io;
use std::path::Path;
use std::thread;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

/// mount(2) copies one page of options, its last byte a NUL.
const LARGEST_OPTIONS: usize = 4095;

/// Mounts an overlay on `target`, which must be absolute. The paths in `lower` (topmost first),
/// `upper` and `work` are relative to `dir`, which keeps them short: that is why a thread of its own
/// does it, with a current folder of its own.
pub fn mount_overlay(
    dir: &Path,
    lower: &[String],
    upper: &str,
    work: &str,
    target: &Path,
) -> io::Result<()> {
    let lower = lower.join(":");
    let options = format!("lowerdir={lower},upperdir={upper},workdir={work},index=off");
    if options.len() + ",volatile".len() > LARGEST_OPTIONS {
        return Err(Errno::E2BIG.into());
    }
    thread::scope(|scope| {
        let mounter = thread::Builder::new()
            .name("overlay-mount".to_owned())
            .stack_size(128 << 10)
            .spawn_scoped(scope, || {
                unshare(CloneFlags::CLONE_FS)?;
                nix::unistd::chdir(dir)?;
                // A container's own files need not survive a power cut, since the container does
                // not; `volatile` spares it and its unmount the syncs. Kernels before 5.10 lack it.
                match mount_with(&format!("{options},volatile"), target) {
                    Err(Errno::EINVAL) => mount_with(&options, target),
                    other => other,
                }
            })?;
        let done = mounter.join();
        done.unwrap_or(Err(Errno::ECANCELED))
            .map_err(io::Error::from)
    })
}

fn mount_with(options: &str, target: &Path) -> nix::Result<()> {
    let overlay = Some("overlay");
    mount(overlay, target, overlay, MsFlags::empty(), Some(options))
}

/// Unmounts whatever is mounted on `target`; nothing there is no error.
pub fn unmount(target: &Path) -> io::Result<()> {
    loop {
        match umount2(target, MntFlags::UMOUNT_NOFOLLOW) {
            // A mount may lie on top of another.
            Ok(()) => {}
            Err(Errno::EINVAL | Errno::ENOENT) => return Ok(()),
            Err(Errno::EBUSY) => {
                umount2(target, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)?;
            }
            Err(e) => return Err(e.into()),
        }
    }
}
