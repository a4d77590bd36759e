//! Unix sockets of the daemon's.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::Path;

use nix::sys::stat::{Mode, umask};
use tokio::net::UnixListener;

use super::server::ServerError;

/// Listens on a socket that its owner and group may use. A dead one in its place is removed; a living one, and
/// whatever is no socket, is refused.
pub fn bind(path: &Path) -> Result<UnixListener, ServerError> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(ServerError::io("make the folder", folder))?;
    }
    // Not of what a link leads to: the link would be removed, which is somebody's.
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            return Err(ServerError::NoSocket(path.to_owned()));
        }
        Ok(_) => remove_dead(path)?,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(ServerError::io("look at", path)(e)),
    }
    let old = umask(Mode::from_bits_truncate(0o117));
    let listener = UnixListener::bind(path);
    umask(old);
    let listener = listener.map_err(ServerError::io("listen on", path))?;
    fs::set_permissions(path, Permissions::from_mode(0o660))
        .map_err(ServerError::io("set the mode of", path))?;
    Ok(listener)
}

fn remove_dead(path: &Path) -> Result<(), ServerError> {
    match StdUnixStream::connect(path) {
        Ok(_) => Err(ServerError::Listening(path.to_owned())),
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(ServerError::io("remove the dead socket", path))
        }
        // It has gone in between.
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(ServerError::io("look at the socket", path)(e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[tokio::test]
    async fn only_a_dead_socket_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("folder/a.sock");
        let living = bind(&path).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o660);
        assert!(matches!(bind(&path), Err(ServerError::Listening(_))));
        drop(living);
        bind(&path).unwrap();

        for make in [
            |path: &Path| fs::write(path, "mine").unwrap(),
            |path: &Path| fs::create_dir(path).unwrap(),
            |path: &Path| symlink("/nowhere", path).unwrap(),
        ] {
            let path = dir.path().join("taken");
            make(&path);
            let error = bind(&path).unwrap_err();
            assert!(matches!(error, ServerError::NoSocket(_)), "{error}");
            assert!(error.hint().is_some());
            assert!(fs::symlink_metadata(&path).is_ok(), "it is still there");
            let _ = fs::remove_file(&path).or_else(|_| fs::remove_dir(&path));
        }
    }
}
