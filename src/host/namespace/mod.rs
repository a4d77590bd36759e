//! Namespaces that outlive their maker, pinned by bind mounts (namespaces(7), "Namespace lifetime").
//!
//! [`pin`] makes them on a thread of its own: a thread that entered a namespace never goes back to
//! other work, so no error can leave a worker of the daemon in a pod's network. Everything here
//! blocks for a few milliseconds at most and belongs on a blocking thread of an async runtime.
#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};
use std::thread;

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use nix::sys::statfs::{NSFS_MAGIC, statfs};

mod user;

use super::context::during;
use super::mount;
use super::process::ProcessId;

pub use user::{IdMap, IdMaps, user_namespace};

/// Enough for system calls and paths; the default of 2 MiB would be mapped for each pod.
const STACK: usize = 256 << 10;

/// A kind of namespace, by its name in `/proc/PID/ns` and below a pin folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Net,
    Ipc,
    Uts,
    Pid,
    User,
}

impl Kind {
    const ALL: [Self; 5] = [Self::Net, Self::Ipc, Self::Uts, Self::Pid, Self::User];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Net => "net",
            Self::Ipc => "ipc",
            Self::Uts => "uts",
            Self::Pid => "pid",
            Self::User => "user",
        }
    }

    /// The namespace that a sysctl belongs to (dots or slashes; `None`: it is the machine's, no
    /// pod's). The list is that of runc and the Kubernetes documentation on sysctls.
    pub fn of_sysctl(name: &str) -> Option<Self> {
        let name = name.replace('/', ".");
        match name.as_str() {
            n if n.starts_with("net.") => Some(Self::Net),
            n if n.starts_with("fs.mqueue.") => Some(Self::Ipc),
            "kernel.msgmax"
            | "kernel.msgmnb"
            | "kernel.msgmni"
            | "kernel.sem"
            | "kernel.shmall"
            | "kernel.shmmax"
            | "kernel.shmmni"
            | "kernel.shm_rmid_forced" => Some(Self::Ipc),
            "kernel.hostname" | "kernel.domainname" => Some(Self::Uts),
            _ => None,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What [`pin`] makes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// A network namespace with `lo` up.
    pub net: bool,
    pub ipc: bool,
    /// A UTS namespace with this host name (at most 64 bytes).
    pub uts: Option<String>,
    /// Written inside the new namespaces. A sysctl of a namespace that is not asked for here is
    /// refused (`InvalidInput`): writing it would change the machine.
    pub sysctls: BTreeMap<String, String>,
    /// A user namespace with these maps, which owns the others.
    pub user: Option<IdMaps>,
}

impl Wanted {
    fn has(&self, kind: Kind) -> bool {
        match kind {
            Kind::Net => self.net,
            Kind::Ipc => self.ipc,
            Kind::Uts => self.uts.is_some(),
            Kind::Pid => false,
            Kind::User => self.user.is_some(),
        }
    }

    fn flags(&self) -> CloneFlags {
        let mut flags = CloneFlags::empty();
        flags.set(CloneFlags::CLONE_NEWNET, self.net);
        flags.set(CloneFlags::CLONE_NEWIPC, self.ipc);
        flags.set(CloneFlags::CLONE_NEWUTS, self.uts.is_some());
        flags
    }
}

/// Where the namespaces asked for are pinned: `DIR/net`, `DIR/ipc`, `DIR/uts`, `DIR/user`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pinned {
    pub net: Option<PathBuf>,
    pub ipc: Option<PathBuf>,
    pub uts: Option<PathBuf>,
    pub user: Option<PathBuf>,
}

/// Makes the namespaces and pins them in the new folder `dir` (`AlreadyExists` when it is there;
/// its parents are made). On failure nothing is left; the error names the act, and the clean-up's
/// failure if that failed too.
pub fn pin(dir: &Path, wanted: &Wanted) -> io::Result<Pinned> {
    let sysctls = sysctl_paths(wanted)?;
    if let Some(parent) = dir.parent() {
        let shown = parent.display();
        fs::create_dir_all(parent).map_err(during(format_args!("make folder `{shown}`")))?;
    }
    let shown = dir.display();
    let mut folder = DirBuilder::new();
    let made = folder.mode(0o700).create(dir);
    made.map_err(during(format_args!("make folder `{shown}`")))?;

    let made = match &wanted.user {
        Some(maps) => make_owned(dir, wanted, maps, &sysctls),
        None => on_a_thread("pin", || make(dir, wanted, &sysctls)).and_then(|made| made),
    };
    made.map_err(|e| match unpin(dir) {
        Ok(()) => e,
        Err(undo) => io::Error::new(e.kind(), format!("{e}; and then {undo}")),
    })
}

/// Pins a namespace of a running process beside the others: a pause process' PID namespace as
/// `DIR/pid`. `NotFound` when the process has ended.
pub fn pin_process(dir: &Path, process: &ProcessId, kind: Kind) -> io::Result<PathBuf> {
    let _alive = process.open().map_err(during(format_args!(
        "pin the {kind} namespace of process {}",
        process.pid
    )))?;
    let source = PathBuf::from(format!("/proc/{}/ns/{kind}", process.pid));
    let target = pin_one(dir, kind, &source)?;
    // The pid could have become another's between the check and the mount.
    match process.open() {
        Ok(_) => Ok(target),
        Err(e) => Err(match unpin_one(dir, kind) {
            Ok(()) => e,
            Err(undo) => io::Error::new(e.kind(), format!("{e}; and then {undo}")),
        }),
    }
}

/// Undoes [`pin`] and [`pin_process`], whole or half done. The namespaces end with their last
/// process. Idempotent; goes on after a failure, whose error it then returns.
pub fn unpin(dir: &Path) -> io::Result<()> {
    let mut result = Ok(());
    for kind in Kind::ALL {
        let done = unpin_one(dir, kind);
        result = result.and(done);
    }
    result.and_then(|()| match fs::remove_dir(dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(during(format_args!("remove folder `{}`", dir.display()))(e))
        }
        _ => Ok(()),
    })
}

/// Runs `f` on a thread of its own inside a network namespace and waits for its end. What `f`
/// opens there (a socket) stays in that namespace, wherever it is used later.
pub fn run_in<T: Send>(netns: &Path, f: impl FnOnce() -> T + Send) -> io::Result<T> {
    let shown = netns.display();
    let file = File::open(netns).map_err(during(format_args!("open namespace `{shown}`")))?;
    on_a_thread("netns", || {
        setns(&file, CloneFlags::CLONE_NEWNET)
            .map_err(during(format_args!("enter network namespace `{shown}`")))?;
        Ok(f())
    })
    .and_then(|done| done)
}

/// As [`run_in`] in many network namespaces, one after the other on a single thread, which spares a thread each.
/// An error is that namespace's own.
pub fn run_in_each<T: Send>(
    netns: &[PathBuf],
    f: impl Fn() -> T + Send + Sync,
) -> io::Result<Vec<io::Result<T>>> {
    on_a_thread("netns", || {
        let run = |path: &PathBuf| {
            let shown = path.display();
            let file =
                File::open(path).map_err(during(format_args!("open namespace `{shown}`")))?;
            setns(&file, CloneFlags::CLONE_NEWNET)
                .map_err(during(format_args!("enter network namespace `{shown}`")))?;
            Ok(f())
        };
        netns.iter().map(run).collect()
    })
}

/// Is this path a pinned namespace? `false` where it is gone or an ordinary file, as a pin is after
/// a reboot where `/run` is on disk.
pub fn is_pinned(path: &Path) -> io::Result<bool> {
    match statfs(path) {
        Ok(found) => Ok(found.filesystem_type() == NSFS_MAGIC),
        Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(false),
        Err(e) => Err(during(format_args!("look up `{}`", path.display()))(e)),
    }
}

/// A fresh thread for work that changes its own namespaces; its panic becomes the caller's.
pub(super) fn on_a_thread<T: Send>(name: &str, f: impl FnOnce() -> T + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let builder = thread::Builder::new().name(name.to_owned());
        let running = builder.stack_size(STACK).spawn_scoped(scope, f)?;
        running
            .join()
            .or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// The part of [`pin`] that runs in the new namespaces.
fn make(dir: &Path, wanted: &Wanted, sysctls: &[(PathBuf, &str)]) -> io::Result<Pinned> {
    unshare(wanted.flags()).map_err(during("make namespaces"))?;
    if wanted.net {
        loopback_up().map_err(during("bring `lo` up"))?;
    }
    if let Some(name) = &wanted.uts {
        nix::unistd::sethostname(name)
            .map_err(during(format_args!("set the host name to `{name}`")))?;
    }
    for (path, value) in sysctls {
        write_sysctl(path, value)?;
    }
    pin_all(dir, wanted, Path::new("/proc/thread-self/ns"))
}

/// [`make`], with a user namespace that owns the others.
fn make_owned(
    dir: &Path,
    wanted: &Wanted,
    maps: &IdMaps,
    sysctls: &[(PathBuf, &str)],
) -> io::Result<Pinned> {
    // The kernel asks for the machine's root where this one is written as a file.
    let domainname = Path::new("/proc/sys/kernel/domainname");
    let is_name = |path: &Path| path == domainname;
    let name = sysctls.iter().find(|(path, _)| is_name(path));
    let others = sysctls.iter().filter(|(path, _)| !is_name(path));
    let set_up = user::SetUp {
        loopback: wanted.net,
        hostname: wanted.uts.clone(),
        domainname: name.map(|(_, value)| (*value).to_owned()),
        sysctls: others
            .map(|(path, value)| (path.clone(), value.as_bytes().to_owned()))
            .collect(),
    };
    user::inside(maps, wanted.flags(), &set_up, |folder| {
        pin_all(dir, wanted, folder)
    })
}

/// `source` is a process' or thread's `ns` folder.
fn pin_all(dir: &Path, wanted: &Wanted, source: &Path) -> io::Result<Pinned> {
    let pin = |kind: Kind| {
        wanted
            .has(kind)
            .then(|| pin_one(dir, kind, &source.join(kind.as_str())))
            .transpose()
    };
    Ok(Pinned {
        net: pin(Kind::Net)?,
        ipc: pin(Kind::Ipc)?,
        uts: pin(Kind::Uts)?,
        user: pin(Kind::User)?,
    })
}

fn pin_one(dir: &Path, kind: Kind, source: &Path) -> io::Result<PathBuf> {
    let target = dir.join(kind.as_str());
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o400)
        .open(&target)
        .map_err(during(format_args!("make `{}`", target.display())))?;
    mount::bind(source, &target)?;
    Ok(target)
}

fn unpin_one(dir: &Path, kind: Kind) -> io::Result<()> {
    let target = dir.join(kind.as_str());
    mount::unmount(&target)?;
    match fs::remove_file(&target) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(during(format_args!("remove `{}`", target.display()))(e))
        }
        _ => Ok(()),
    }
}

/// Every sysctl as its file and value, each judged before anything is made.
fn sysctl_paths(wanted: &Wanted) -> io::Result<Vec<(PathBuf, &str)>> {
    let refuse = |name: &str, why: &str| {
        io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("sysctl `{name}` {why}"),
        )
    };
    let mut paths = Vec::with_capacity(wanted.sysctls.len());
    for (name, value) in &wanted.sysctls {
        match Kind::of_sysctl(name) {
            None => return Err(refuse(name, "belongs to the machine, not to a namespace")),
            Some(kind) if !wanted.has(kind) => {
                let why = format!("belongs to the {kind} namespace, which is the machine's here");
                return Err(refuse(name, &why));
            }
            Some(_) => {}
        }
        let path = sysctl_path(name).ok_or_else(|| refuse(name, "is not a sysctl's name"))?;
        paths.push((path, value.as_str()));
    }
    Ok(paths)
}

/// sysctl(8): the first separator says which of `.` and `/` separates; the other is then swapped
/// into the names, as for an interface `eth0.1`.
fn sysctl_path(name: &str) -> Option<PathBuf> {
    let dotted = name
        .find(['.', '/'])
        .is_some_and(|i| name[i..].starts_with('.'));
    let relative: String = match dotted {
        true => name
            .chars()
            .map(|c| match c {
                '.' => '/',
                '/' => '.',
                other => other,
            })
            .collect(),
        false => name.to_owned(),
    };
    let normal = |c: Component<'_>| matches!(c, Component::Normal(_));
    let whole = relative.split('/').all(|part| !part.is_empty());
    let confined = Path::new(&relative).components().all(normal);
    (whole && confined && !name.contains('\0')).then(|| Path::new("/proc/sys").join(relative))
}

fn write_sysctl(path: &Path, value: &str) -> io::Result<()> {
    let written = OpenOptions::new()
        .write(true)
        .open(path)
        .and_then(|mut file| file.write_all(value.as_bytes()));
    written.map_err(during(format_args!(
        "write `{value}` to `{}`",
        path.display()
    )))
}

/// Two ioctls (netdevice(7)) instead of a run of the loopback plugin, which would take milliseconds.
fn loopback_up() -> io::Result<()> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Inet, SockType::Datagram, flags, None)?;
    // SAFETY: `ifreq` is plain old data, for which all zeroes is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    // SAFETY: an open socket, and an `ifreq` with a terminated name that outlives the call; the
    // kernel fills in `ifru_flags`.
    Errno::result(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS, &mut request) })?;
    // SAFETY: the call before has written the field that is read, and only that one.
    unsafe { request.ifr_ifru.ifru_flags |= libc::IFF_UP as libc::c_short };
    // SAFETY: as for the first call; the kernel only reads.
    Errno::result(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &request) })?;
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests;
