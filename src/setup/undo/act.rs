//! The acts of undoing: each looks first, and leaves alone what is not as we left it.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use crate::host::fs::{remove_tree, under};
use crate::host::{mount, service, systemd};
use crate::setup::path;

use super::{ServiceSpec, UndoError, Undone, changed};

/// How long a service may take to stop before it is killed.
const STOP_LIMIT: Duration = Duration::from_secs(30);

pub(super) fn folder(root: &Path, path: &Path, purge: bool) -> io::Result<Undone> {
    let real = under(root, path);
    match path::look(&real)? {
        None => return Ok(Undone::Unchanged),
        Some(meta) if !meta.is_dir() => {
            let reason = format!("`{}` is no folder any more", path.display());
            return Ok(Undone::Kept(reason));
        }
        Some(_) => {}
    }
    if purge {
        if mount::is_mounted(&real)? {
            let reason = format!("something is mounted on `{}`", path.display());
            return Ok(Undone::Kept(reason));
        }
        // Pinned namespaces and overlays of pods that are gone.
        mount::unmount_below(&real)?;
        return tree(&real);
    }
    match fs::remove_dir(&real) {
        Ok(()) => Ok(Undone::Changed),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Undone::Unchanged),
        Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty => {
            Ok(Undone::Kept(format!("`{}` is not empty", path.display())))
        }
        Err(e) => Err(e),
    }
}

pub(super) fn tree(real: &Path) -> io::Result<Undone> {
    let there = path::look(real)?.is_some();
    let (Some(folder), Some(name)) = (real.parent(), real.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    // A folder above that is gone took it along.
    if there {
        remove_tree(folder, Path::new(name))?;
    }
    Ok(changed(there))
}

pub(super) fn sysctl(key: &str, before: &str, wrote: &str) -> Result<Undone, UndoError> {
    let path = Path::new("/proc/sys").join(key);
    let now = match fs::read_to_string(&path) {
        Ok(text) => text.trim().to_owned(),
        // The module that brought it is gone, and the setting with it.
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Undone::Unchanged),
        Err(source) => {
            return Err(UndoError::Sysctl {
                key: key.to_owned(),
                value: before.to_owned(),
                source,
            });
        }
    };
    if now == before {
        return Ok(Undone::Unchanged);
    }
    if now != wrote {
        let reason = format!("`{}` was set to `{now}` since", key.replace('/', "."));
        return Ok(Undone::Kept(reason));
    }
    fs::write(&path, before)
        .map(|()| Undone::Changed)
        .map_err(|source| UndoError::Sysctl {
            key: key.to_owned(),
            value: before.to_owned(),
            source,
        })
}

pub(super) fn stop(service: &ServiceSpec, by_systemd: bool) -> Result<Undone, UndoError> {
    if !by_systemd {
        return Ok(changed(service::stop(
            &service.direct(Duration::ZERO),
            STOP_LIMIT,
        )?));
    }
    let unit = service.unit();
    let failed = |source| UndoError::Unit {
        unit: unit.clone(),
        source,
    };
    let states = systemd::show(&[&unit]).map_err(failed)?;
    // One that systemd does not know, or that does not run, cannot be stopped: no need to.
    let running = states
        .get(&unit)
        .is_some_and(|state| state.main_pid != 0 || !state.is_stopped());
    if running {
        systemd::stop(&unit).map_err(failed)?;
    }
    systemd::reset_failed(&unit);
    Ok(changed(running))
}
