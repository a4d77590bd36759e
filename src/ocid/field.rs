//! What is wrong with a field of a request: the name a client knows it by, and the problem.

use std::path::{Component, Path, PathBuf};

/// A request that cannot be honoured as written; becomes `InvalidArgument`. `field` is the path
/// from the request's root in the proto's own names, e.g.
/// `config.linux.security_context.run_as_user`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{field}` {problem}")]
pub struct FieldError {
    pub field: String,
    pub problem: String,
}

impl FieldError {
    pub fn new(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            problem: problem.into(),
        }
    }

    /// The field must be set and is not.
    pub fn required(field: impl Into<String>) -> Self {
        Self::new(field, "is required")
    }

    /// The command that shows what the field may hold; none, since its name says where to look.
    pub fn hint(&self) -> Option<String> {
        None
    }
}

/// Text that ends up in a C string or a line of a file: no control characters.
pub(crate) fn plain(field: &str, text: &str) -> Result<(), FieldError> {
    match text.chars().find(|c| c.is_control()) {
        Some(c) => Err(FieldError::new(field, format!("holds the character {c:?}"))),
        None => Ok(()),
    }
}

/// Text that ends up in a C string.
pub(crate) fn no_nul(field: &str, text: &str) -> Result<(), FieldError> {
    if text.contains('\0') {
        return Err(FieldError::new(field, "holds a NUL character"));
    }
    Ok(())
}

/// An absolute path without `..`; `//` and `/./` are taken out.
pub(crate) fn absolute(field: &str, text: &str) -> Result<PathBuf, FieldError> {
    if text.is_empty() {
        return Err(FieldError::required(field));
    }
    let path = Path::new(text);
    if !path.is_absolute() {
        return Err(FieldError::new(
            field,
            format!("is `{text}`, not an absolute path"),
        ));
    }
    without_parent(field, path)
}

/// A path without `..` and NUL; `//` and `/./` are taken out.
pub(crate) fn without_parent(field: &str, path: &Path) -> Result<PathBuf, FieldError> {
    no_nul(field, &path.to_string_lossy())?;
    if path.components().any(|c| c == Component::ParentDir) {
        let problem = format!("is `{}`, which leads out by `..`", path.display());
        return Err(FieldError::new(field, problem));
    }
    Ok(path.components().collect())
}

/// A number of a proto enum that the proto does not define.
pub(crate) fn unknown_enum(field: &str, value: i32) -> FieldError {
    FieldError::new(field, format!("has the unknown value {value}"))
}

/// A user or group id: 0 to 2^32 - 2 (the last one means "unchanged" to the kernel).
pub(crate) fn id(field: &str, value: i64) -> Result<u32, FieldError> {
    u32::try_from(value)
        .ok()
        .filter(|id| *id != u32::MAX)
        .ok_or_else(|| FieldError::new(field, format!("is {value}, not a user or group id")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        assert_eq!(absolute("f", "/a//b/./c").unwrap(), Path::new("/a/b/c"));
        for (bad, problem) in [
            ("", "`f` is required"),
            ("a/b", "`f` is `a/b`, not an absolute path"),
            ("/a/../b", "`f` is `/a/../b`, which leads out by `..`"),
            ("/a\0", "`f` holds a NUL character"),
        ] {
            assert_eq!(absolute("f", bad).unwrap_err().to_string(), problem);
        }
    }

    #[test]
    fn ids() {
        assert_eq!(id("f", 4294967294).unwrap(), u32::MAX - 1);
        for bad in [-1, 4294967295, i64::MAX] {
            assert!(id("f", bad).is_err());
        }
    }
}
