//! The two kinds of child that [`crate::host::command::Command`] cannot be used for: a process of ours that
//! outlives its parent, and a child of a process that has no async runtime and keeps its memory small.
//!
//! Both start from a chosen environment and with default signals, and inherit descriptors 0 to 2 only: every
//! other descriptor of ours is close-on-exec.
#![allow(unsafe_code)]

use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Stdio;

use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawn};
use nix::sys::signal::{SigHandler, SigSet, Signal};
use nix::unistd::Pid;

/// What a long-lived process of ours, and the OCI runtime below it, may know of the daemon's environment.
/// `NOTIFY_SOCKET`, `LISTEN_FDS` and their kin must not get through: a runtime acts on them.
const KEPT: [&str; 7] = [
    "PATH",
    "HOME",
    "TMPDIR",
    "XDG_RUNTIME_DIR",
    "DBUS_SYSTEM_BUS_ADDRESS",
    "DBUS_SESSION_BUS_ADDRESS",
    "SSL_CERT_FILE",
];

/// Starts another face of our own binary, `ocid FACE`. The caller may drop the child: it is not killed. It
/// inherits the working folder, and leaves it and our session itself: asking for either here would have a large
/// daemon forked instead of its memory shared with the child until the exec. Needs an async runtime.
pub fn own_face(
    exe: &Path,
    face: &str,
    stdin: OwnedFd,
    stdout: Stdio,
    stderr: Stdio,
) -> io::Result<tokio::process::Child> {
    tokio::process::Command::new(exe)
        .arg0("ocid")
        .arg(face)
        .env_clear()
        .envs(KEPT.iter().filter_map(|k| Some((k, std::env::var_os(k)?))))
        .stdin(Stdio::from(stdin))
        .stdout(stdout)
        .stderr(stderr)
        .spawn()
}

/// Starts `program` with our own environment, default signal actions, nothing blocked, and the three given
/// descriptors as its standard ones. Shares memory with the child until the exec (vfork), so that a small
/// process stays small.
pub fn child<S: AsRef<OsStr>>(
    program: &Path,
    args: &[S],
    stdio: [BorrowedFd<'_>; 3],
) -> io::Result<Pid> {
    let mut argv = vec![c_string(program.as_os_str())?];
    for arg in args {
        argv.push(c_string(arg.as_ref())?);
    }
    let mut env = Vec::new();
    for (key, value) in std::env::vars_os() {
        let mut pair = key.as_bytes().to_vec();
        pair.push(b'=');
        pair.extend_from_slice(value.as_bytes());
        env.push(c_string(OsStr::from_bytes(&pair))?);
    }

    let mut actions = PosixSpawnFileActions::init()?;
    for (number, fd) in (0..).zip(stdio) {
        actions.add_dup2(fd.as_raw_fd(), number)?;
    }
    let mut attributes = PosixSpawnAttr::init()?;
    attributes.set_flags(
        PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK | PosixSpawnFlags::POSIX_SPAWN_SETSIGDEF,
    )?;
    attributes.set_sigmask(&SigSet::empty())?;
    attributes.set_sigdefault(&every_signal())?;
    Ok(posix_spawn::<OsStr, CString, CString>(
        program.as_os_str(),
        &actions,
        &attributes,
        &argv,
        &env,
    )?)
}

/// All 64, also the two that glibc keeps for itself and leaves out of its own full set: left to itself it starts
/// children with one of them ignored, and they would pass that on into containers.
fn every_signal() -> SigSet {
    let mut all = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: a `sigset_t` is an array of bits, and any pattern of them is valid.
    unsafe {
        all.as_mut_ptr().write_bytes(0xff, 1);
        SigSet::from_sigset_t_unchecked(all.assume_init())
    }
}

fn c_string(text: &OsStr) -> io::Result<CString> {
    CString::new(text.as_bytes()).map_err(|_| {
        let message = format!("`{}` holds a zero byte", text.to_string_lossy());
        io::Error::new(io::ErrorKind::InvalidInput, message)
    })
}

/// Ignores a signal in this process. Children started by [`child`] do not inherit that.
pub fn ignore(signal: Signal) -> io::Result<()> {
    // SAFETY: no handler is installed, so nothing of ours can run in signal context.
    unsafe { nix::sys::signal::signal(signal, SigHandler::SigIgn) }?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::wait::{WaitStatus, waitpid};
    use std::fs::{self, File};
    use std::os::fd::AsFd;

    #[test]
    fn a_child_gets_its_three_descriptors_and_default_signals() {
        let dir = tempfile::tempdir().unwrap();
        let (out, null) = (dir.path().join("out"), File::open("/dev/null").unwrap());
        let file = File::create(&out).unwrap();
        let held = File::create(dir.path().join("held")).unwrap();
        let script = "readlink /proc/$$/fd/*; grep 'Sig[BI]' /proc/self/status";
        let args = ["-c", script];
        let stdio = [null.as_fd(), file.as_fd(), null.as_fd()];
        let pid = child(Path::new("/bin/sh"), &args, stdio).unwrap();
        assert_eq!(waitpid(pid, None).unwrap(), WaitStatus::Exited(pid, 0));
        drop(held);
        let text = fs::read_to_string(&out).unwrap();
        let first: Vec<&str> = text.lines().take(3).collect();
        let out = out.to_str().unwrap();
        assert!(
            first.contains(&"/dev/null") && first.contains(&out),
            "{text}"
        );
        assert!(!text.contains("/held"), "{text}");
        assert!(
            text.ends_with("SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n"),
            "{text}"
        );
    }

    #[test]
    fn a_missing_program_is_an_error_of_the_call() {
        let null = File::open("/dev/null").unwrap();
        let stdio = [null.as_fd(), null.as_fd(), null.as_fd()];
        let e = child::<&str>(Path::new("/no/such"), &[], stdio).unwrap_err();
        assert_eq!(e.kind(), io::ErrorKind::NotFound);
        assert!(child(Path::new("/bin/true"), &["a\0b"], stdio).is_err());
    }
}
