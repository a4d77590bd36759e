//! The locks of dpkg and apt: who holds one, and waiting until nobody does.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};

use super::AptError;

/// Blocks until the lock could be had, then lets it go again: apt takes it itself.
pub(super) fn wait(path: &Path, left: Duration, limit: Duration) -> Result<(), AptError> {
    let read = |source| AptError::Read {
        path: path.to_owned(),
        source,
    };
    let file = match File::options().read(true).write(true).open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        opened => opened.map_err(read)?,
    };
    let Some(holder) = holder(&file).map_err(read)? else {
        return Ok(());
    };
    tracing::info!(path = %path.display(), holder, "wait for the lock");
    let (done, acquired) = mpsc::channel();
    // The thread outlives a wait that takes too long, and ends with the process or the holder.
    std::thread::spawn(move || {
        let lock = whole_file();
        let result = loop {
            match fcntl(&file, FcntlArg::F_OFD_SETLKW(&lock)) {
                Err(Errno::EINTR) => {}
                other => break other,
            }
        };
        drop(file);
        // Nobody listens any more when the wait took too long.
        let _ = done.send(result);
    });
    match acquired.recv_timeout(left) {
        Ok(result) => result.map(|_| ()).map_err(|e| read(e.into())),
        Err(_) => Err(AptError::Locked {
            path: path.to_owned(),
            holder,
            limit,
        }),
    }
}

/// Who holds the lock, as `apt-get (pid 12)`.
fn holder(file: &File) -> io::Result<Option<String>> {
    let mut lock = whole_file();
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut lock))?;
    if libc::c_int::from(lock.l_type) == libc::F_UNLCK {
        return Ok(None);
    }
    if lock.l_pid <= 0 {
        return Ok(Some("a process that the kernel does not name".to_owned()));
    }
    let comm = fs::read_to_string(format!("/proc/{}/comm", lock.l_pid)).unwrap_or_default();
    let name = if comm.trim().is_empty() {
        "a process"
    } else {
        comm.trim()
    };
    Ok(Some(format!("`{name}` (pid {})", lock.l_pid)))
}

fn whole_file() -> libc::flock {
    libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};
    use std::process::Stdio;

    #[test]
    fn a_held_lock_is_named_and_a_freed_one_taken() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        fs::write(&path, "").unwrap();
        let wait = |limit| super::wait(&path, limit, limit);
        wait(Duration::ZERO).unwrap();
        // A lock of our own process by the classic call would be ours for apt as well; the holder
        // must be another process.
        let script = "import fcntl,sys; f=open(sys.argv[1],'r+'); fcntl.lockf(f,fcntl.LOCK_EX); \
                      print('held',flush=True); sys.stdin.read()";
        let mut holder = std::process::Command::new("python3")
            .args(["-c", script])
            .arg(&path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(holder.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert_eq!(line, "held\n");
        let e = wait(Duration::from_millis(50)).unwrap_err().to_string();
        let named = format!("`python3` (pid {})", holder.id());
        assert!(e.contains(&named), "{e}");
        drop(holder.stdin.take());
        wait(Duration::from_secs(20)).unwrap();
        assert!(holder.wait().unwrap().success());
    }
}
