//! The overlay mount of a container's filesystem.
//!
//! In a pod with a user namespace the layers belong, on disk, to the machine's root and its users. They are
//! then mounted once more with their ids mapped, and the overlay stands on those mounts (overlayfs can
//! since Linux 5.19); the writable folder belongs to the namespace's root as it is.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::thread;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

use crate::host::context::during;
use crate::host::idmap::Detached;
use crate::host::namespace::IdMaps;

/// mount(2) copies one page of options, its last byte a NUL.
const LARGEST_OPTIONS: usize = 4095;

/// The user namespace from which a container sees its files.
#[derive(Debug, Clone)]
pub struct Users {
    /// Pinned.
    pub namespace: PathBuf,
    /// Its maps.
    pub maps: IdMaps,
}

/// What an overlay is made of. The paths in `lower` (topmost first) are relative to `layers`, which keeps
/// them short; `own` is the container's folder with `upper` and `work` in it.
#[derive(Debug, Clone, Copy)]
pub struct Parts<'a> {
    pub layers: &'a Path,
    pub lower: &'a [String],
    pub own: &'a Path,
}

/// Mounts an overlay on `target`, which must be absolute. It is made on a thread of its own, with a current
/// folder of its own.
pub fn mount_overlay(parts: Parts<'_>, target: &Path) -> io::Result<()> {
    on_a_thread(|| {
        unshare(CloneFlags::CLONE_FS)?;
        nix::unistd::chdir(parts.layers)?;
        // A sibling of the layers, so that no character of the root's own path gets into the options.
        let name = parts.own.file_name().ok_or(Errno::EINVAL)?;
        let own = format!("../containers/{}", name.to_string_lossy());
        overlay(parts.lower, &own, target)
    })
}

/// The same for a container in a user namespace: what belongs to user 0 in a layer belongs to the
/// namespace's user 0.
///
/// The mapped layers are attached in a mount namespace that goes with the thread: nobody else sees them,
/// and no crash can leave them behind.
pub fn mount_mapped(parts: Parts<'_>, users: &Users, target: &Path) -> io::Result<()> {
    on_a_thread(|| {
        let shown = users.namespace.display();
        let namespace = File::open(&users.namespace).map_err(during(format!("open `{shown}`")))?;
        let mut layers = Vec::new();
        for name in parts.lower {
            let layer = Detached::copy(&parts.layers.join(name), false)?;
            layer.map_ids(&namespace, false)?;
            layers.push(layer);
        }
        let own = Detached::copy(parts.own, false)?;

        let machine = File::open("/proc/thread-self/ns/mnt")?;
        unshare(CloneFlags::CLONE_NEWNS).map_err(during("leave the machine's mounts"))?;
        let none: Option<&str> = None;
        // What is unmounted on the machine meanwhile shall not be kept by us.
        let slave = MsFlags::MS_REC | MsFlags::MS_SLAVE;
        mount(none, "/", none, slave, none)?;
        let stage = Some("tmpfs");
        mount(stage, target, stage, MsFlags::empty(), Some("mode=700"))?;
        let mut lower = Vec::new();
        for (n, layer) in layers.iter().enumerate() {
            let folder = target.join(n.to_string());
            fs::create_dir(&folder)?;
            layer.attach(&folder)?;
            lower.push(n.to_string());
        }
        for name in ["own", "whole"] {
            fs::create_dir(target.join(name))?;
        }
        own.attach(&target.join("own"))?;
        nix::unistd::chdir(target)?;
        overlay(&lower, "own", Path::new("whole"))?;
        let whole = Detached::copy(Path::new("whole"), false)?;
        setns(machine, CloneFlags::CLONE_NEWNS).map_err(during("enter the machine's mounts"))?;
        whole.attach(target)
    })
}

fn on_a_thread(work: impl FnOnce() -> io::Result<()> + Send) -> io::Result<()> {
    thread::scope(|scope| {
        let mounter = thread::Builder::new()
            .name("overlay-mount".to_owned())
            .stack_size(128 << 10)
            .spawn_scoped(scope, work)?;
        let done = mounter.join();
        done.unwrap_or_else(|_| Err(Errno::ECANCELED.into()))
    })
}

fn overlay(lower: &[String], own: &str, target: &Path) -> io::Result<()> {
    let lower = lower.join(":");
    let options = format!("lowerdir={lower},upperdir={own}/upper,workdir={own}/work,index=off");
    if options.len() + ",volatile".len() > LARGEST_OPTIONS {
        return Err(Errno::E2BIG.into());
    }
    // A container's own files need not survive a power cut, since the container does not; `volatile`
    // spares it and its unmount the syncs. Kernels before 5.10 lack it.
    match mount_with(&format!("{options},volatile"), target) {
        Err(Errno::EINVAL) => Ok(mount_with(&options, target)?),
        other => Ok(other?),
    }
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
