//! Control groups, version 1 and 2, in whatever mix the machine mounts them.
//!
//! A pod's cgroup is usually kubelet's: it made it, set its limits and removes it. One that is not
//! there is made here, marked with an extended attribute, and removed again with the last pod in it;
//! the mark lies on the cgroup itself, so it lives exactly as long and survives any crash of ours.
//! While one is made, a claim on the cgroup above says so: a crash between making and marking leaves
//! nothing that nobody knows of.
//! systemd makes slices by itself; the last pod's end stops one that is nobody else's. The cgroups of
//! containers are the runtime's.

mod limits;
mod parent;
mod processes;
mod slices;
mod sub;
mod usage;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use super::context::during;
use super::mount::{self, MountPoint};
use super::text::Text;

pub use limits::Limits;
pub use parent::{Driver, ParentError, PodCgroup};
use slices::Slices;
pub use sub::SubCgroup;
pub use usage::{
    CpuTime, DeviceIo, HugePages, Memory, MemoryExtremes, MemoryStat, Pressure, Psi, Stall, Swap,
    Tasks,
};

const ROOT: &str = "/sys/fs/cgroup";
/// On cgroups of our making. `trusted.` needs CAP_SYS_ADMIN, which mounts and namespaces need anyway.
const MARK: &str = "trusted.ocid.made";
/// On the cgroup above one that is being made; the name of that one follows.
const CLAIM: &str = "trusted.ocid.making.";
/// How much of a name follows: an attribute's may have 255 bytes.
const CLAIM_NAME: usize = 200;

/// Which interface carries the controllers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    V1,
    V2,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Hierarchy {
    mount: PathBuf,
    /// Controllers, or `name=systemd`; empty for cgroup2.
    controllers: Vec<String>,
    unified: bool,
    /// Where systemd has its slices in it; see [`slices::base`].
    base: String,
}

/// The machine's cgroup hierarchies, and who of this daemon's pods uses which pod cgroup. One per
/// daemon. Paths given to its methods are absolute below every hierarchy ([`PodCgroup::path`],
/// [`PodCgroup::container_path`]); a path that is not there is an empty cgroup, never an error.
#[derive(Debug)]
pub struct Cgroups {
    version: Version,
    hierarchies: Vec<Hierarchy>,
    /// Pod id to the path of its pod cgroup. Held while cgroups are made and removed, so that a pod
    /// cannot lose its cgroup to the end of another.
    holders: Mutex<BTreeMap<String, String>>,
    slices: Slices,
    /// Of accounts, kept open.
    files: usage::Files,
    huge_page_sizes: OnceLock<Vec<String>>,
}

impl Cgroups {
    /// Reads the mounts; `NotFound` where no cgroup file system is mounted below `/sys/fs/cgroup`.
    pub fn detect() -> io::Result<Self> {
        // Unreadable: as everywhere but in containers.
        let init = fs::read_to_string("/proc/1/cgroup").unwrap_or_default();
        let found = Self::from_mounts(&mount::all()?, &init);
        if found.hierarchies.is_empty() {
            let text = format!("no cgroup file system is mounted at or below `{ROOT}`");
            return Err(io::Error::new(ErrorKind::NotFound, text));
        }
        Ok(found)
    }

    /// As runc sees it: cgroup2 at the root of the tree is version 2; beside version 1 (systemd's
    /// hybrid layout) it is one more hierarchy, which processes enter and no controller uses.
    /// `init` is process 1's `/proc/PID/cgroup`.
    fn from_mounts(mounts: &[MountPoint], init: &str) -> Self {
        let mut hierarchies: Vec<Hierarchy> = Vec::new();
        let mut version = Version::V1;
        for mount in mounts.iter().filter(|m| m.target.starts_with(ROOT)) {
            let options = mount.options.to_string_lossy();
            let mut found = Hierarchy {
                base: String::new(),
                mount: mount.target.clone(),
                unified: mount.fs_type == "cgroup2",
                controllers: match mount.fs_type.as_str() {
                    "cgroup" => options
                        .split(',')
                        .filter(is_controller)
                        .map(str::to_owned)
                        .collect(),
                    "cgroup2" => Vec::new(),
                    _ => continue,
                },
            };
            found.base = slices::base(init, &found.controllers);
            if found.unified && found.mount == Path::new(ROOT) {
                version = Version::V2;
                hierarchies = vec![found];
                break;
            }
            let known =
                |h: &Hierarchy| h.unified == found.unified && h.controllers == found.controllers;
            if !hierarchies.iter().any(known) {
                hierarchies.push(found);
            }
        }
        Self {
            version,
            hierarchies,
            holders: Mutex::default(),
            slices: Slices::new(),
            files: usage::Files::default(),
            huge_page_sizes: OnceLock::new(),
        }
    }

    pub fn version(&self) -> Version {
        self.version
    }

    /// The folder that holds a controller's files for a cgroup: of the one hierarchy on version 2,
    /// of the controller's own on version 1. `None` where the machine has no such controller.
    pub fn folder(&self, controller: &str, path: &str) -> Option<PathBuf> {
        let has = |h: &&Hierarchy| match self.version {
            Version::V1 => h.controllers.iter().any(|c| c == controller),
            Version::V2 => true,
        };
        self.hierarchies.iter().find(has).map(|h| below(h, path))
    }

    /// Makes the pod's cgroup where it is missing, and notes that pod `id` uses it. `limits` apply to
    /// a cgroup that this call made, not to one that was there. Under the systemd driver it makes
    /// nothing: a slice appears with its first container. Blocks.
    pub fn make(&self, id: &str, pod: &PodCgroup, limits: &Limits) -> io::Result<()> {
        let mut holders = self.holders();
        if pod.driver() == Driver::Cgroupfs
            && let Err(e) = self.make_folders(pod.path(), limits)
        {
            return Err(match self.remove_made(&holders, pod) {
                Ok(()) => e,
                Err(undo) => io::Error::new(e.kind(), format!("{e}; and then {undo}")),
            });
        }
        holders.insert(id.to_owned(), pod.path().to_owned());
        Ok(())
    }

    /// Gives a pod's cgroup new limits where it is of our making; else whoever made it limits it. What
    /// is `None` stays. Blocks.
    pub fn update(&self, pod: &PodCgroup, limits: &Limits) -> io::Result<()> {
        // It stays while we write.
        let _holders = self.holders();
        if pod.driver() == Driver::Systemd {
            return Ok(());
        }
        for hierarchy in &self.hierarchies {
            let folder = below(hierarchy, pod.path());
            if is_marked(&folder) {
                limits.apply(self.version, &hierarchy.controllers, &folder)?;
            }
        }
        Ok(())
    }

    /// Notes that pod `id` uses this cgroup and makes nothing: for pods read back at start.
    pub fn hold(&self, id: &str, pod: &PodCgroup) {
        self.holders().insert(id.to_owned(), pod.path().to_owned());
    }

    /// The end of [`Cgroups::make`]: once no pod of ours uses them, the empty cgroups of our making
    /// (slices: of nobody's) go, from the pod's own upwards. One with a process in it stays.
    /// Idempotent. Blocks.
    pub fn release(&self, id: &str, pod: &PodCgroup) -> io::Result<()> {
        let mut holders = self.holders();
        holders.remove(id);
        let removed = self.remove_made(&holders, pod);
        // Not before: who asks for its use meanwhile would open it again.
        self.files.forget(pod.path());
        removed
    }

    /// Removes a cgroup and those below it from every hierarchy, whoever made them: what a runtime
    /// that was killed left of a container. An error (`ResourceBusy`) where processes are in it.
    pub fn remove(&self, path: &str) -> io::Result<()> {
        if path == "/" {
            return Ok(());
        }
        let mut result = Ok(());
        for hierarchy in &self.hierarchies {
            let removed = remove_tree(&below(hierarchy, path));
            result = result.and(removed);
        }
        // Not before: who asks for its use meanwhile would open it again.
        self.files.forget(path);
        result
    }

    fn holders(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, String>> {
        // The map is whole whatever a panicking thread was at.
        self.holders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn make_folders(&self, path: &str, limits: &Limits) -> io::Result<()> {
        for hierarchy in &self.hierarchies {
            for level in levels(path) {
                let folder = below(hierarchy, level);
                if !make_marked(&folder)? {
                    continue;
                }
                if self.version == Version::V2 {
                    limits::enable_controllers(&folder);
                }
                if level == path {
                    limits.apply(self.version, &hierarchy.controllers, &folder)?;
                }
            }
        }
        Ok(())
    }

    fn remove_made(&self, holders: &BTreeMap<String, String>, pod: &PodCgroup) -> io::Result<()> {
        let used = |level: &&str| {
            holders
                .values()
                .any(|path| Path::new(path).starts_with(level))
        };
        let upwards = levels(pod.path()).collect::<Vec<_>>().into_iter().rev();
        let unused = upwards.take_while(|level| !used(level));
        match pod.driver() {
            Driver::Cgroupfs => {
                let folders =
                    unused.flat_map(|l| self.hierarchies.iter().map(move |h| below(h, l)));
                // One that cannot be removed keeps none of the others.
                let removed: Vec<_> = folders.map(|f| remove_ours(&f)).collect();
                removed.into_iter().collect()
            }
            Driver::Systemd => {
                let (mut stop, mut swept) = (Vec::new(), Vec::new());
                for level in unused {
                    let slice = level.rsplit('/').next().unwrap_or(level);
                    if self.slices.is_somebodys(slice) {
                        break;
                    }
                    swept.push(level);
                    let own = &["name=systemd"];
                    if slices::is_perpetual(slice) || !self.pids_by(own, level)?.is_empty() {
                        break;
                    }
                    stop.push(slice);
                }
                self.slices.stop(&stop)?;
                // On version 1 systemd knows nothing of what the runtime made in other hierarchies.
                let others = |h: &&Hierarchy| !h.unified && h.controllers != ["name=systemd"];
                for hierarchy in self.hierarchies.iter().filter(others) {
                    for level in &swept {
                        remove_if_empty(&below(hierarchy, level))?;
                    }
                }
                Ok(())
            }
        }
    }
}

/// In a version 1 mount's options: anything but the options of the file system itself.
fn is_controller(option: &&str) -> bool {
    let other = [
        "rw",
        "ro",
        "xattr",
        "noprefix",
        "clone_children",
        "none",
        "cpuset_v2_mode",
    ];
    !other.contains(option) && !option.starts_with("release_agent=")
}

fn below(hierarchy: &Hierarchy, path: &str) -> PathBuf {
    let mount = &hierarchy.mount;
    match slices::is_systemds(path) {
        true => mount.join(format!("{}{path}", hierarchy.base).trim_start_matches('/')),
        false => mount.join(path.trim_start_matches('/')),
    }
}

/// `/a/b/c`: `/a`, `/a/b`, `/a/b/c`; nothing for `/`.
fn levels(path: &str) -> impl Iterator<Item = &str> {
    let ends = path.match_indices('/').map(|(i, _)| i).filter(|i| *i > 0);
    let whole = (path.len() > 1).then_some(path.len());
    ends.chain(whole).map(|end| &path[..end])
}

/// Removes a cgroup and those below it; one that cannot be removed keeps none of the others.
fn remove_tree(folder: &Path) -> io::Result<()> {
    let removed: Vec<_> = tree(folder)?
        .iter()
        .rev()
        .map(|f| remove_folder(f))
        .collect();
    removed.into_iter().collect()
}

/// A cgroup and those below it, parents first; nothing where it is gone.
fn tree(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = vec![folder.to_owned()];
    let mut next = 0;
    while let Some(folder) = found.get(next) {
        let read = || -> io::Result<Vec<PathBuf>> {
            let mut children = Vec::new();
            // Itself and its name: every folder in it would be one more.
            if fs::metadata(folder)?.nlink() == 2 {
                return Ok(children);
            }
            for entry in fs::read_dir(folder)? {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    children.push(entry.path());
                }
            }
            Ok(children)
        };
        match read() {
            Ok(children) => {
                found.extend(children);
                next += 1;
            }
            Err(e) if is_gone(&e) => {
                found.remove(next);
            }
            Err(e) => return Err(during(format_args!("list `{}`", folder.display()))(e)),
        }
    }
    Ok(found)
}

/// Makes and marks a cgroup; false when it was there, and not by a call of this that was cut short. After an error the
/// claim stays, by which [`remove_ours`] knows it.
fn make_marked(folder: &Path) -> io::Result<bool> {
    if !folder.exists() {
        claim(folder)?;
    }
    match fs::create_dir(folder) {
        Err(e) if e.kind() != ErrorKind::AlreadyExists => {
            let at = folder.display();
            return Err(during(format_args!("make cgroup `{at}`"))(e));
        }
        Err(_) if !is_claimed(folder) => return Ok(false),
        Ok(()) | Err(_) => {}
    }
    mark(folder)?;
    unclaim(folder)?;
    Ok(true)
}

fn mark(folder: &Path) -> io::Result<()> {
    xattr::set(folder, MARK, b"1")
        .map_err(during(format_args!("mark cgroup `{}`", folder.display())))
}

/// A cgroup that is gone, or whose attributes cannot be read, is none of ours.
fn is_marked(folder: &Path) -> bool {
    matches!(xattr::get(folder, MARK), Ok(Some(_)))
}

/// Says on the cgroup above that this one is about to be made here.
fn claim(folder: &Path) -> io::Result<()> {
    let (above, name) = claim_of(folder);
    let at = folder.display();
    xattr::set(above, name, b"1").map_err(during(format_args!("announce cgroup `{at}`")))
}

fn is_claimed(folder: &Path) -> bool {
    let (above, name) = claim_of(folder);
    matches!(xattr::get(above, name), Ok(Some(_)))
}

fn unclaim(folder: &Path) -> io::Result<()> {
    let (above, name) = claim_of(folder);
    match xattr::remove(above, name) {
        Err(e) if e.raw_os_error() != Some(nix::libc::ENODATA) && !is_gone(&e) => {
            let at = folder.display();
            Err(during(format_args!("announce cgroup `{at}` no longer"))(e))
        }
        _ => Ok(()),
    }
}

/// The cgroup that carries the claim on one, and the attribute.
fn claim_of(folder: &Path) -> (&Path, OsString) {
    let name = folder.file_name().unwrap_or_default().as_bytes();
    let mut attribute = OsString::from(CLAIM);
    attribute.push(OsStr::from_bytes(
        &name[name.len().saturating_sub(CLAIM_NAME)..],
    ));
    (folder.parent().unwrap_or(folder), attribute)
}

/// Removes a cgroup of our making that is empty.
fn remove_ours(folder: &Path) -> io::Result<()> {
    let claimed = is_claimed(folder);
    if claimed || is_marked(folder) {
        remove_if_empty(folder)?;
    }
    if claimed {
        unclaim(folder)?;
    }
    Ok(())
}

fn remove_folder(folder: &Path) -> io::Result<()> {
    match fs::remove_dir(folder) {
        Err(e) if !is_gone(&e) => {
            Err(during(format_args!("remove cgroup `{}`", folder.display()))(e))
        }
        _ => Ok(()),
    }
}

fn remove_if_empty(folder: &Path) -> io::Result<()> {
    match remove_folder(folder) {
        Err(e) if e.kind() == ErrorKind::ResourceBusy => Ok(()),
        other => other,
    }
}

/// The file's text; `None` when its cgroup is gone (ENODEV: gone while the file was open).
fn read_if_there(file: &Path) -> io::Result<Option<String>> {
    let read = || {
        let mut text = Text::new();
        text.read(&fs::File::open(file)?)?;
        let text = std::str::from_utf8(text.bytes());
        text.map(str::to_owned)
            .map_err(|e| io::Error::new(ErrorKind::InvalidData, e))
    };
    match read() {
        Ok(text) => Ok(Some(text)),
        Err(e) if is_gone(&e) => Ok(None),
        Err(e) => Err(during(format_args!("read `{}`", file.display()))(e)),
    }
}

/// False when there is no such file.
fn write_if_there(file: &Path, value: &str) -> io::Result<bool> {
    match write(file, value) {
        Ok(()) => Ok(true),
        Err(e) if is_gone(&e) => Ok(false),
        Err(e) => Err(during(format_args!(
            "write `{value}` to `{}`",
            file.display()
        ))(e)),
    }
}

fn write(file: &Path, value: &str) -> io::Result<()> {
    use io::Write;
    let mut file = fs::OpenOptions::new().write(true).open(file)?;
    file.write_all(value.as_bytes())
}

fn is_gone(e: &io::Error) -> bool {
    e.kind() == ErrorKind::NotFound || e.raw_os_error() == Some(nix::libc::ENODEV)
}

#[cfg(test)]
mod tests;
