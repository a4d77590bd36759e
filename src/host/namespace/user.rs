//! User namespaces, and the other namespaces that one of them owns (user_namespaces(7)).
//!
//! Only a process with one thread may enter a new user namespace, and only from outside can any ids be
//! mapped into it. So a child is cloned into it, which waits for its maps, sets up what must be set up
//! from inside (a sysctl asks for the namespace's root), and waits again until its namespaces are pinned.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sched::CloneFlags;
use nix::sys::signal::{SigSet, SigmaskHow, pthread_sigmask};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use super::{loopback_up, on_a_thread};
use crate::host::context::during;

/// What the child answers when all is set up.
const READY: u8 = 0xff;

/// A range of ids: `length` ids from `inside` on are `outside` and on for the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdMap {
    pub inside: u32,
    pub outside: u32,
    pub length: u32,
}

/// Which users and groups a user namespace knows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IdMaps {
    pub uids: Vec<IdMap>,
    pub gids: Vec<IdMap>,
}

impl IdMaps {
    /// The machine's number of a user of the namespace; `None` where it has no such user.
    pub fn uid(&self, inside: u32) -> Option<u32> {
        outside(&self.uids, inside)
    }

    /// The same for a group.
    pub fn gid(&self, inside: u32) -> Option<u32> {
        outside(&self.gids, inside)
    }

    /// Both at once, for chown(2).
    pub fn owner(&self, uid: u32, gid: u32) -> Option<(u32, u32)> {
        self.uid(uid).zip(self.gid(gid))
    }
}

fn outside(maps: &[IdMap], inside: u32) -> Option<u32> {
    maps.iter().find_map(|map| {
        let offset = inside.checked_sub(map.inside)?;
        let within = offset < map.length;
        within.then(|| map.outside.checked_add(offset)).flatten()
    })
}

/// What is done inside before the namespaces are shown to anyone.
#[derive(Debug, Default)]
pub(super) struct SetUp {
    pub loopback: bool,
    pub hostname: Option<String>,
    pub domainname: Option<String>,
    pub sysctls: Vec<(PathBuf, Vec<u8>)>,
}

/// A user namespace with these maps, for id-mapped mounts; it lives as long as the file or a mount of
/// it. Blocks for a moment.
pub fn user_namespace(maps: &IdMaps) -> io::Result<File> {
    inside(maps, CloneFlags::empty(), &SetUp::default(), |folder| {
        let path = folder.join("user");
        File::open(&path).map_err(during(format_args!("open `{}`", path.display())))
    })
}

/// Makes a user namespace and those of `flags` in it, sets them up, and calls `take` with the folder
/// of their files, `/proc/PID/ns`. They end with it unless it pins or opens them.
pub(super) fn inside<T: Send>(
    maps: &IdMaps,
    flags: CloneFlags,
    set_up: &SetUp,
    take: impl FnOnce(&Path) -> io::Result<T> + Send,
) -> io::Result<T> {
    on_a_thread("userns", || {
        // The child inherits the mask: no handler of ours may run in it.
        let all = SigSet::all();
        pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&all), None)
            .map_err(during("block signals"))?;
        let plan = Plan::new(set_up)?;
        let (go, gate) = io::pipe().map_err(during("make a pipe"))?;
        let (answer, report) = io::pipe().map_err(during("make a pipe"))?;
        let child = clone(CloneFlags::CLONE_NEWUSER | flags, &plan, &go, &report)?;
        drop((go, report));
        let made = tend(child, maps, set_up, gate, answer, take);
        // The gate is closed by now, which ends it wherever it waits.
        while let Err(Errno::EINTR) = waitpid(Pid::from_raw(child), None) {}
        made
    })
    .and_then(|made| made)
}

/// The parent's part, until the child is no longer needed.
fn tend<T>(
    child: i32,
    maps: &IdMaps,
    set_up: &SetUp,
    mut gate: PipeWriter,
    mut answer: PipeReader,
    take: impl FnOnce(&Path) -> io::Result<T>,
) -> io::Result<T> {
    for (file, maps) in [("uid_map", &maps.uids), ("gid_map", &maps.gids)] {
        let lines = |map: &IdMap| format!("{} {} {}\n", map.inside, map.outside, map.length);
        let text: String = maps.iter().map(lines).collect();
        let written = fs::write(format!("/proc/{child}/{file}"), &text);
        let shown = text.trim_end().replace('\n', ", ");
        written.map_err(during(format_args!("write the {file} `{shown}`")))?;
    }
    gate.write_all(&[1])
        .map_err(during("set up a user namespace"))?;
    let mut said = Vec::new();
    // One byte for what, four for the errno; the child keeps its end open.
    let mut byte = [0];
    let mut read = |count: usize| -> io::Result<()> {
        for _ in 0..count {
            answer.read_exact(&mut byte)?;
            said.extend(byte);
        }
        Ok(())
    };
    read(5).map_err(during("set up a user namespace"))?;
    match said.as_slice() {
        [READY, ..] => take(Path::new(&format!("/proc/{child}/ns"))),
        [step, errno @ ..] => {
            let errno = errno.try_into().map(i32::from_ne_bytes).unwrap_or(0);
            Err(during(set_up.step(*step))(io::Error::from_raw_os_error(
                errno,
            )))
        }
        [] => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

impl SetUp {
    /// What the child was at, for the error.
    fn step(&self, step: u8) -> String {
        match step {
            0 => "become root of a user namespace".to_owned(),
            1 => "bring `lo` up".to_owned(),
            2 => "set the host name".to_owned(),
            3 => "set the domain name".to_owned(),
            n => match self.sysctls.get(usize::from(n) - 4) {
                Some((path, value)) => format!(
                    "write `{}` to `{}`",
                    String::from_utf8_lossy(value),
                    path.display()
                ),
                None => "write a sysctl".to_owned(),
            },
        }
    }
}

/// [`SetUp`] in the form that the child can use without allocating.
struct Plan {
    loopback: bool,
    hostname: Option<Vec<u8>>,
    domainname: Option<Vec<u8>>,
    sysctls: Vec<(CString, Vec<u8>)>,
}

impl Plan {
    fn new(set_up: &SetUp) -> io::Result<Self> {
        if set_up.sysctls.len() > 200 {
            let text = "more than 200 sysctls";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let mut sysctls = Vec::new();
        for (path, value) in &set_up.sysctls {
            sysctls.push((CString::new(path.as_os_str().as_bytes())?, value.clone()));
        }
        let bytes = |text: &Option<String>| text.as_ref().map(|t| t.clone().into_bytes());
        Ok(Self {
            loopback: set_up.loopback,
            hostname: bytes(&set_up.hostname),
            domainname: bytes(&set_up.domainname),
            sysctls,
        })
    }

    /// The child's work. Only system calls: the process that it is a copy of has other threads, whose
    /// locks (of the allocator, say) nobody will ever release here.
    fn carry_out(&self) -> Result<(), (u8, Errno)> {
        let at = |step: u8| move |errno: Errno| (step, errno);
        let done = |result: libc::c_int| Errno::result(result).map(drop);
        // SAFETY: plain system calls without pointers. The C library's wrappers would have the other
        // threads, which are not here, do the same.
        let root = unsafe {
            let gid = libc::syscall(libc::SYS_setresgid, 0, 0, 0);
            let uid = libc::syscall(libc::SYS_setresuid, 0, 0, 0);
            gid.min(uid)
        };
        Errno::result(root).map_err(at(0))?;
        if self.loopback {
            let up = loopback_up();
            up.map_err(|e| (1, Errno::from_raw(e.raw_os_error().unwrap_or(0))))?;
        }
        if let Some(name) = &self.hostname {
            // SAFETY: pointer and length are of one slice.
            let set = unsafe { libc::sethostname(name.as_ptr().cast(), name.len()) };
            done(set).map_err(at(2))?;
        }
        if let Some(name) = &self.domainname {
            // SAFETY: as above.
            let set = unsafe { libc::setdomainname(name.as_ptr().cast(), name.len()) };
            done(set).map_err(at(3))?;
        }
        for (step, (path, value)) in (4_u8..).zip(&self.sysctls) {
            // SAFETY: a terminated path; pointer and length are of one slice. The descriptor ends with
            // the process.
            let written = unsafe {
                let fd = libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
                if fd < 0 {
                    -1
                } else {
                    libc::write(fd, value.as_ptr().cast(), value.len())
                }
            };
            Errno::result(written).map_err(at(step))?;
        }
        Ok(())
    }
}

/// Clones the child. What it inherits of ours it does not touch, and it executes nothing.
fn clone(flags: CloneFlags, plan: &Plan, go: &PipeReader, report: &PipeWriter) -> io::Result<i32> {
    let flags = libc::c_ulong::from(flags.bits().cast_unsigned()) | libc::SIGCHLD as libc::c_ulong;
    let (go, report) = (go.as_raw_fd(), report.as_raw_fd());
    let (low, high) = (go.min(report), go.max(report));
    // SAFETY: without a new stack and without CLONE_VM this is fork(2). The child is a copy with one
    // thread, and until its end it makes system calls only.
    match unsafe { libc::syscall(libc::SYS_clone, flags, 0usize, 0usize, 0usize, 0usize) } {
        0 => {
            let wait = || {
                let mut byte = 0_u8;
                // SAFETY: one byte into one byte.
                unsafe { libc::read(go, (&raw mut byte).cast(), 1) }
            };
            // Every other descriptor: two children at once that hold each other's gates open would wait
            // for ever.
            for (first, last) in [(0, low - 1), (low + 1, high - 1), (high + 1, i32::MAX)] {
                if first <= last {
                    // SAFETY: a system call on numbers; the table of descriptors is the child's own.
                    unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
                }
            }
            // Zero: the parent has given up.
            if wait() == 1 {
                let (step, errno) = match plan.carry_out() {
                    Ok(()) => (READY, 0),
                    Err((step, errno)) => (step, errno as i32),
                };
                let [a, b, c, d] = errno.to_ne_bytes();
                let said = [step, a, b, c, d];
                // SAFETY: pointer and length are of one array.
                unsafe { libc::write(report, said.as_ptr().cast(), said.len()) };
                wait();
            }
            // SAFETY: ends the child at once; handlers and buffers of the parent's copy must not run.
            unsafe { libc::_exit(0) }
        }
        pid => i32::try_from(pid)
            .ok()
            .filter(|&pid| pid > 0)
            .ok_or_else(io::Error::last_os_error)
            .map_err(during("make a user namespace")),
    }
}
