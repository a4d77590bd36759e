//! Says which act an `io::Error` belongs to, so that "permission denied" names its cause.

use std::fmt::Display;
use std::io;

/// Puts the act in front of an error's own words and keeps its kind:
/// `.map_err(during("bring up `lo`"))` reads "bring up `lo`: operation not permitted".
pub(crate) fn during<E: Into<io::Error>>(act: impl Display) -> impl FnOnce(E) -> io::Error {
    move |e| {
        let e = e.into();
        io::Error::new(e.kind(), format!("{act}: {e}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::errno::Errno;

    #[test]
    fn the_kind_stays() {
        let e = during("open `/x`")(Errno::EACCES);
        assert_eq!(e.kind(), io::ErrorKind::PermissionDenied);
        assert!(e.to_string().starts_with("open `/x`: "), "{e}");
    }
}
