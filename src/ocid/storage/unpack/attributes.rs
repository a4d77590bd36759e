//! Extended attributes, and the umask that creation obeys.

use std::ffi::OsStr;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;

use super::tree::is;
use crate::host::fs::fd_path;

/// The attributes that an image may bring: `trusted.` and overlayfs' own steer the kernel, labels
/// and measurements belong to the host.
fn wanted(xattrs: &[(Vec<u8>, Vec<u8>)]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let refused: [&[u8]; 5] = [
        b"trusted.",
        b"user.overlay.",
        b"security.selinux",
        b"security.ima",
        b"security.evm",
    ];
    xattrs
        .iter()
        .map(|(name, value)| (name.as_slice(), value.as_slice()))
        .filter(move |(name, _)| !refused.iter().any(|r| name.starts_with(r)))
}

/// Sets what an image may bring on an open file or folder.
pub fn set_xattrs(file: impl AsFd, xattrs: &[(Vec<u8>, Vec<u8>)]) -> io::Result<()> {
    for (name, value) in wanted(xattrs) {
        let set = xattr::set_deref(fd_path(&file), OsStr::from_bytes(name), value);
        tolerate(name, set)?;
    }
    Ok(())
}

/// As [`set_xattrs`], for links and devices, which cannot be opened: the path through the folder's
/// descriptor has one component, and that is not followed.
pub fn set_xattrs_of_node(
    folder: impl AsFd,
    name: &[u8],
    xattrs: &[(Vec<u8>, Vec<u8>)],
) -> io::Result<()> {
    let place = fd_path(&folder).join(OsStr::from_bytes(name));
    for (attribute, value) in wanted(xattrs) {
        // xattr(7): only files and folders have attributes of users.
        if attribute.starts_with(b"user.") {
            continue;
        }
        let set = xattr::set(&place, OsStr::from_bytes(attribute), value);
        tolerate(attribute, set)?;
    }
    Ok(())
}

/// File capabilities must be kept; of the rest a file system may know less than the image's.
fn tolerate(name: &[u8], set: io::Result<()>) -> io::Result<()> {
    match set {
        Err(e) if name != b"security.capability" && is(&e, Errno::EOPNOTSUPP) => {
            let name = String::from_utf8_lossy(name);
            tracing::debug!(%name, "the file system does not keep this attribute");
            Ok(())
        }
        other => other,
    }
}

/// This process' umask, read without changing it: umask(2) could only swap it, for every thread.
pub fn umask() -> u32 {
    let read = || -> Option<u32> {
        let status = std::fs::read_to_string("/proc/self/status").ok()?;
        let value = status.lines().find_map(|l| l.strip_prefix("Umask:"))?;
        u32::from_str_radix(value.trim(), 8).ok()
    };
    // Unknown counts as the strictest: then every file's mode is set explicitly.
    read().unwrap_or(0o777)
}
