//! Overlay mounts: a container's filesystem, and images as volumes.
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

/// How a container sees its files.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// None: as the machine's users see them.
    pub users: Option<Users>,
    /// The SELinux label of every file; None where SELinux is off.
    pub context: Option<String>,
}

impl View {
    /// The mount option for the label, quoted since a level has commas.
    fn label(&self) -> io::Result<String> {
        match &self.context {
            None => Ok(String::new()),
            Some(label) if label.contains('"') => Err(Errno::EINVAL.into()),
            Some(label) => Ok(format!(",context=\"{label}\"")),
        }
    }
}

/// Mounts an overlay on `target`, which must be absolute. The paths in `lower` (topmost first),
/// `upper` and `work` are relative to `dir`.
pub fn mount_overlay(
    dir: &Path,
    lower: &[String],
    upper: &str,
    work: &str,
    view: &View,
    target: &Path,
) -> io::Result<()> {
    let options = writable(lower, upper, work, &view.label()?);
    in_folder(dir, || mount_writable(&options, target))
}

fn writable(lower: &[String], upper: &str, work: &str, label: &str) -> String {
    let lower = lower.join(":");
    format!("lowerdir={lower},upperdir={upper},workdir={work},index=off{label}")
}

/// A container's own files need not survive a power cut, since the container does not; `volatile` spares
/// it and its unmount the syncs. Kernels before 5.10 lack it.
fn mount_writable(options: &str, target: &Path) -> io::Result<()> {
    match mount_with(MsFlags::empty(), &format!("{options},volatile"), target) {
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {
            mount_with(MsFlags::empty(), options, target)
        }
        other => other,
    }
}

/// Mounts layers that nobody writes on (`lower` topmost first, at least two, relative to `dir`): what
/// is in them can be read and run, and raises nobody's rights.
pub fn mount_read_only(dir: &Path, lower: &[String], view: &View, target: &Path) -> io::Result<()> {
    let label = view.label()?;
    in_folder(dir, || mount_volume(lower, &label, target))
}

fn mount_volume(lower: &[String], label: &str, target: &Path) -> io::Result<()> {
    let options = format!("lowerdir={}{label}", lower.join(":"));
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount_with(flags, &options, target)
}

/// [`mount_overlay`], or without `own` [`mount_read_only`], for a container in a user namespace: what
/// belongs to user 0 in a layer belongs to the namespace's user 0. `own` is the container's folder with
/// `upper` and `work` in it.
///
/// The mapped layers are attached in a mount namespace that goes with the thread: nobody else sees them,
/// and no crash can leave them behind.
pub fn mount_mapped(
    dir: &Path,
    lower: &[String],
    own: Option<&Path>,
    users: &Users,
    view: &View,
    target: &Path,
) -> io::Result<()> {
    let label = view.label()?;
    in_folder(dir, || {
        let shown = users.namespace.display();
        let namespace = File::open(&users.namespace).map_err(during(format!("open `{shown}`")))?;
        let mut layers = Vec::new();
        for name in lower {
            let layer = Detached::copy(Path::new(name), false)?;
            layer.map_ids(&namespace, false)?;
            layers.push(layer);
        }
        let own = own.map(|own| Detached::copy(own, false)).transpose()?;

        let machine = File::open("/proc/thread-self/ns/mnt")?;
        unshare(CloneFlags::CLONE_NEWNS).map_err(during("leave the machine's mounts"))?;
        let none: Option<&str> = None;
        // What is unmounted on the machine meanwhile shall not be kept by us.
        let slave = MsFlags::MS_REC | MsFlags::MS_SLAVE;
        mount(none, "/", none, slave, none)?;
        let stage = Some("tmpfs");
        mount(stage, target, stage, MsFlags::empty(), Some("mode=700"))?;
        nix::unistd::chdir(target)?;
        let mut lower = Vec::new();
        for (n, layer) in layers.iter().enumerate() {
            let name = n.to_string();
            fs::create_dir(&name)?;
            layer.attach(Path::new(&name))?;
            lower.push(name);
        }
        let whole = Path::new("whole");
        fs::create_dir(whole)?;
        if let Some(own) = own {
            fs::create_dir("own")?;
            own.attach(Path::new("own"))?;
            mount_writable(&writable(&lower, "own/upper", "own/work", &label), whole)?;
        } else {
            mount_volume(&lower, &label, whole)?;
        }
        let whole = Detached::copy(whole, false)?;
        setns(machine, CloneFlags::CLONE_NEWNS).map_err(during("enter the machine's mounts"))?;
        whole.attach(target)
    })
}

/// Mounts from a current folder of its own, hence a thread of its own: it keeps paths short.
fn in_folder(dir: &Path, mount: impl FnOnce() -> io::Result<()> + Send) -> io::Result<()> {
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
        done.unwrap_or_else(|_| Err(Errno::ECANCELED.into()))
    })
}

fn mount_with(flags: MsFlags, options: &str, target: &Path) -> io::Result<()> {
    if options.len() > LARGEST_OPTIONS {
        return Err(Errno::E2BIG.into());
    }
    let overlay = Some("overlay");
    Ok(mount(overlay, target, overlay, flags, Some(options))?)
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
