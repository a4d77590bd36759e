//! Copies of mounts that only we can make: the volumes of pods with a user namespace, id-mapped (the runtime
//! cannot before runc 1.2), and the `/dev/shm` of a container whose IPC namespace another joins.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::sys::statvfs::{FsFlags, statvfs};

use super::config::Mount;
use super::error::SpecError;
use super::spec::SpecInputs;
use crate::host::idmap::Detached;
use crate::host::mount::unmount_below;
use crate::host::namespace::{IdMap, IdMaps, user_namespace};

/// Below the bundle.
const FOLDER: &str = "mapped";

/// Mounts `source` once more with the mount's id mappings, in the bundle, and answers where. The
/// mappings say which id of the volume is which of the machine; kubelet sends the pod's.
pub(super) fn copy(
    field: &str,
    mount: &Mount,
    inputs: &SpecInputs<'_>,
    source: &Path,
) -> Result<PathBuf, SpecError> {
    let maps =
        |list: &[super::security::IdMapping]| list.iter().copied().map(IdMap::from).collect();
    let maps = IdMaps {
        uids: maps(&mount.uid_mappings),
        gids: maps(&mount.gid_mappings),
    };
    let folder = inputs.bundle.join(FOLDER);
    let taken = fs::read_dir(&folder).map_or(0, Iterator::count);
    let target = folder.join(taken.to_string());
    let failed = |act| {
        let target = target.clone();
        move |e| SpecError::io(act, target, e)
    };
    fs::create_dir_all(&folder).map_err(failed("make the folder of"))?;
    // A file can only be mounted on a file.
    let made = match source.is_dir() {
        true => fs::create_dir(&target),
        false => fs::File::create_new(&target).map(drop),
    };
    made.map_err(failed("make the mount point"))?;
    let attach = || -> io::Result<()> {
        let namespace = user_namespace(&maps)?;
        let copy = Detached::copy(source, true)?;
        copy.map_ids(&namespace, true)?;
        copy.attach(&target)
    };
    match attach() {
        Ok(()) => Ok(target),
        Err(e) if e.kind() == io::ErrorKind::InvalidInput => {
            let need = format!(
                "a file system below `{}` whose ids can be mapped ({e})",
                source.display()
            );
            Err(SpecError::Unavailable {
                field: format!("{field}.uidMappings"),
                need,
            })
        }
        Err(e) => Err(failed("mount a volume with mapped ids on")(e)),
    }
}

/// Shows the `/dev/shm` of the container whose init is process `pid` in the bundle, and answers where.
pub(super) fn shm_of(pid: i32, bundle: &Path) -> Result<PathBuf, SpecError> {
    let target = bundle.join(FOLDER).join("shm");
    let failed = |act| {
        let target = target.clone();
        move |e| SpecError::io(act, target, e)
    };
    fs::create_dir_all(&target).map_err(failed("make the mount point"))?;
    let mounts = PathBuf::from(format!("/proc/{pid}/ns/mnt"));
    Detached::copy_from(&mounts, Path::new("/dev/shm"))
        .and_then(|copy| copy.attach(&target))
        .map_err(failed("mount the target container's `/dev/shm` on"))?;
    Ok(target)
}

/// Unmounts a bundle's volumes; none is no error.
pub(super) fn unmount(bundle: &Path) -> io::Result<()> {
    let folder = bundle.join(FOLDER);
    if folder.exists() {
        unmount_below(&folder)?;
    }
    Ok(())
}

/// The options of the source's mount that a user namespace may not take off. The runtime would do just
/// that when it makes the copy read-only, and be refused.
pub(super) fn locked(source: &Path) -> Vec<&'static str> {
    // What cannot be looked at is for the runtime to complain about.
    let flags = statvfs(source).map_or(FsFlags::empty(), |found| found.flags());
    [
        (FsFlags::ST_NOSUID, "nosuid"),
        (FsFlags::ST_NODEV, "nodev"),
        (FsFlags::ST_NOEXEC, "noexec"),
    ]
    .into_iter()
    .filter(|(flag, _)| flags.contains(*flag))
    .map(|(_, name)| name)
    .collect()
}
