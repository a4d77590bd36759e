//! Whole-file locks that outlive nobody: flock(2), with a little patience.

use std::fs::File;
use std::sync::mpsc;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

/// Locks the file for this process alone. One that is taken is waited for, at most `patience`: a process that was
/// killed in the middle of starting another leaves its lock to that one, until it has become what it should be.
///
/// # Errors
///
/// `EWOULDBLOCK`: it is still taken; else what flock(2) says.
pub fn exclusive(file: File, patience: Duration) -> Result<Flock<File>, Errno> {
    let file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => return Ok(lock),
        Err((file, Errno::EWOULDBLOCK)) => file,
        Err((_, errno)) => return Err(errno),
    };
    // flock(2) knows no limit, so it is another thread that waits. Should it get the lock too late, nobody takes
    // it and it is free again.
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || sender.send(Flock::lock(file, FlockArg::LockExclusive)));
    match receiver.recv_timeout(patience) {
        Ok(locked) => locked.map_err(|(_, errno)| errno),
        Err(_) => Err(Errno::EWOULDBLOCK),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_waited_for_but_not_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let open = || File::create(dir.path().join("lock")).unwrap();
        let first = exclusive(open(), Duration::ZERO).unwrap();
        let second = exclusive(open(), Duration::from_millis(10)).map(|_| ());
        assert_eq!(second, Err(Errno::EWOULDBLOCK));
        let third = std::thread::spawn({
            let file = open();
            move || exclusive(file, Duration::from_secs(60)).map(|_| ())
        });
        drop(first);
        assert_eq!(third.join().unwrap(), Ok(()));
    }
}
