//! Overlay mounts: a container's filesystem, and images as volumes.

use std::io;
use std::path::Path;
use std::thread;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

/// mount(2) copies one page of options, its last byte a NUL.
const LARGEST_OPTIONS: usize = 4095;

/// Mounts an overlay on `target`, which must be absolute. The paths in `lower` (topmost first),
/// `upper` and `work` are relative to `dir`. With a `context`, every file has that SELinux label.
pub fn mount_overlay(
    dir: &Path,
    lower: &[String],
    upper: &str,
    work: &str,
    context: Option<&str>,
    target: &Path,
) -> io::Result<()> {
    let lower = lower.join(":");
    let label = label(context)?;
    let options = format!("lowerdir={lower},upperdir={upper},workdir={work},index=off{label}");
    // A container's own files need not survive a power cut, since the container does not; `volatile`
    // spares it and its unmount the syncs. Kernels before 5.10 lack it.
    let volatile = format!("{options},volatile");
    in_folder(dir, volatile.len(), || {
        match mount_with(MsFlags::empty(), &volatile, target) {
            Err(Errno::EINVAL) => mount_with(MsFlags::empty(), &options, target),
            other => other,
        }
    })
}

/// Mounts layers that nobody writes on (`lower` topmost first, at least two, relative to `dir`): what
/// is in them can be read, and neither be executed nor raise anyone's rights.
pub fn mount_read_only(
    dir: &Path,
    lower: &[String],
    context: Option<&str>,
    target: &Path,
) -> io::Result<()> {
    let options = format!("lowerdir={}{}", lower.join(":"), label(context)?);
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    in_folder(dir, options.len(), || mount_with(flags, &options, target))
}

/// The option for a label, quoted since a level has commas.
fn label(context: Option<&str>) -> io::Result<String> {
    match context {
        None => Ok(String::new()),
        Some(label) if label.contains('"') => Err(Errno::EINVAL.into()),
        Some(label) => Ok(format!(",context=\"{label}\"")),
    }
}

/// Mounts from a current folder of its own, hence a thread of its own: it keeps paths short.
fn in_folder(
    dir: &Path,
    options: usize,
    mount: impl FnOnce() -> nix::Result<()> + Send,
) -> io::Result<()> {
    if options > LARGEST_OPTIONS {
        return Err(Errno::E2BIG.into());
    }
    thread::scope(|scope| {
        let mounter = thread::Builder::new()
            .name("overlay-mount".to_owned())
            .stack_size(128 << 10)
            .spawn_scoped(scope, || {
                unshare(CloneFlags::CLONE_FS)?;
                nix::unistd::chdir(dir)?;
                mount()
            })?;
        let done = mounter.join();
        done.unwrap_or(Err(Errno::ECANCELED))
            .map_err(io::Error::from)
    })
}

fn mount_with(flags: MsFlags, options: &str, target: &Path) -> nix::Result<()> {
    let overlay = Some("overlay");
    mount(overlay, target, overlay, flags, Some(options))
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
