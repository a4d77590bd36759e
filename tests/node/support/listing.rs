//! A listing of folders with content hashes, modes, owners and, where asked, modification times:
//! what `uninstall` must put back and a second `install` must not touch.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use super::Machine;

/// The trees that `install` may write to.
pub const TREES: [&str; 5] = ["/etc", "/usr/local", "/opt", "/var/lib", "/run"];

/// Path inside the machine -> what stands there.
pub type Listing = BTreeMap<PathBuf, String>;

/// Lists the trees. With `times`, mtimes are part of the picture.
pub fn list(machine: &Machine, trees: &[&str], times: bool) -> Result<Listing> {
    let mut listing = Listing::new();
    for tree in trees {
        let path = machine.path(tree);
        if fs::symlink_metadata(&path).is_ok() {
            walk(&path, Path::new(tree), times, &mut listing)?;
        }
    }
    Ok(listing)
}

fn walk(path: &Path, inside: &Path, times: bool, listing: &mut Listing) -> Result<()> {
    let metadata = fs::symlink_metadata(path).with_context(|| path.display().to_string())?;
    let kind = metadata.file_type();
    let mut entry = format!(
        "{:06o} {}:{}",
        metadata.mode(),
        metadata.uid(),
        metadata.gid()
    );
    if times {
        entry += &format!(" {}.{:09}", metadata.mtime(), metadata.mtime_nsec());
    }
    if kind.is_symlink() {
        entry += &format!(" -> {}", fs::read_link(path)?.display());
    } else if kind.is_file() {
        entry += &format!(" {} {}", metadata.len(), digest(path)?);
    } else if kind.is_char_device() || kind.is_block_device() {
        entry += &format!(" {:x}", metadata.rdev());
    }
    listing.insert(inside.to_owned(), entry);
    if kind.is_dir() {
        for child in fs::read_dir(path).with_context(|| path.display().to_string())? {
            let child = child?;
            walk(
                &child.path(),
                &inside.join(child.file_name()),
                times,
                listing,
            )?;
        }
    }
    Ok(())
}

fn digest(path: &Path) -> Result<String> {
    let mut file = fs::File::open(path).with_context(|| path.display().to_string())?;
    let mut hash = Sha256::new();
    std::io::copy(&mut file, &mut hash)?;
    Ok(hex::encode(hash.finalize()))
}

/// What differs, one line per path: `+` new, `-` gone, `~` changed.
pub fn difference(before: &Listing, after: &Listing) -> Vec<String> {
    let mut lines = Vec::new();
    for (path, entry) in after {
        match before.get(path) {
            None => lines.push(format!("+ {} {entry}", path.display())),
            Some(old) if old != entry => {
                lines.push(format!("~ {}: {old} => {entry}", path.display()));
            }
            Some(_) => {}
        }
    }
    for path in before.keys().filter(|path| !after.contains_key(*path)) {
        lines.push(format!("- {}", path.display()));
    }
    lines.sort();
    lines
}
