//! Where the daemon listens: what the user said, else what the environment and crictl's file say.
//!
//! That file is YAML with one setting a line (<https://github.com/kubernetes-sigs/cri-tools/blob/master/docs/crictl.md>);
//! those that concern no socket are somebody else's.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use saphyr::{LoadableYamlNode, ScalarOwned, YamlOwned};

use super::client::DEFAULT_SOCKET;
use crate::host::fs::read_capped;

/// Where crictl's file is unless told otherwise.
const USUAL: &str = "/etc/crictl.yaml";

/// Nobody's file of a few lines is larger.
const LARGEST: u64 = 64 << 10;

#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    #[error("read `{}`", .path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("`{}`: {problem}", .path.display())]
    Malformed { path: PathBuf, problem: String },
    #[error("`{variable}` is `{value}`, which is not a path of a unix socket")]
    Variable {
        variable: &'static str,
        value: String,
    },
}

/// crictl's file, as far as it matters here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    pub runtime: Option<PathBuf>,
    pub images: Option<PathBuf>,
    /// How long connecting may take.
    pub timeout: Option<Duration>,
}

/// Both sockets, and how long connecting may take when that is set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoints {
    pub runtime: PathBuf,
    pub images: PathBuf,
    pub timeout: Option<Duration>,
}

impl Endpoints {
    /// `runtime` and `images` are what the user said; `variable` is `CONTAINER_RUNTIME_ENDPOINT`. The usual file is
    /// read only when it is needed, and need not be there; another `file` was named by the user.
    pub fn find(
        runtime: Option<&Path>,
        images: Option<&Path>,
        variable: Option<&str>,
        file: Option<&Path>,
    ) -> Result<Self, EndpointError> {
        let (file, named) = (file.unwrap_or(Path::new(USUAL)), file.is_some());
        let variable = variable.filter(|value| !value.is_empty());
        let said = match (runtime, variable) {
            (Some(socket), _) => Some(socket.to_owned()),
            (None, Some(value)) => Some(path(value).ok_or_else(|| EndpointError::Variable {
                variable: "CONTAINER_RUNTIME_ENDPOINT",
                value: value.to_owned(),
            })?),
            (None, None) => None,
        };
        let settings = match said {
            // A socket that was named is that of everything; the file speaks of another daemon.
            Some(_) if !named => Settings::default(),
            _ => read(file, named)?,
        };
        let default = || PathBuf::from(DEFAULT_SOCKET);
        let own = said.is_some();
        let runtime = said.or(settings.runtime).unwrap_or_else(default);
        let elsewhere = settings.images.filter(|_| !own);
        let images = images.map(Path::to_owned).or(elsewhere);
        Ok(Self {
            images: images.unwrap_or_else(|| runtime.clone()),
            runtime,
            timeout: settings.timeout,
        })
    }
}

/// The path in `/run/ocid/ocid.sock` or `unix:///run/ocid/ocid.sock`.
pub fn path(text: &str) -> Option<PathBuf> {
    let path = text.strip_prefix("unix://").unwrap_or(text);
    let fit = !path.is_empty() && !path.contains("://");
    fit.then(|| PathBuf::from(path))
}

fn read(file: &Path, named: bool) -> Result<Settings, EndpointError> {
    let bytes = match read_capped(file, LARGEST) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound && !named => return Ok(Settings::default()),
        Err(source) => {
            return Err(EndpointError::Read {
                path: file.to_owned(),
                source,
            });
        }
    };
    parse(&bytes).map_err(|problem| EndpointError::Malformed {
        path: file.to_owned(),
        problem,
    })
}

/// Parses crictl's file.
fn parse(bytes: &[u8]) -> Result<Settings, String> {
    let text = std::str::from_utf8(bytes).map_err(|e| e.to_string())?;
    let documents = YamlOwned::load_from_str(text).map_err(|e| e.to_string())?;
    let Some(document) = documents.first() else {
        return Ok(Settings::default());
    };
    let YamlOwned::Mapping(entries) = document else {
        return match document {
            YamlOwned::Value(ScalarOwned::Null) => Ok(Settings::default()),
            _ => Err("not lines of the form `runtime-endpoint: PATH`".to_owned()),
        };
    };
    let mut settings = Settings::default();
    for (key, value) in entries {
        let YamlOwned::Value(ScalarOwned::String(key)) = key else {
            continue;
        };
        let socket = || match value {
            YamlOwned::Value(ScalarOwned::Null) => Ok(None),
            YamlOwned::Value(ScalarOwned::String(text)) if text.is_empty() => Ok(None),
            YamlOwned::Value(ScalarOwned::String(text)) => match path(text) {
                Some(path) => Ok(Some(path)),
                None => Err(format!("`{key}`: `{text}` is not a path of a unix socket")),
            },
            _ => Err(format!("`{key}` is not a path of a unix socket")),
        };
        match key.as_str() {
            "runtime-endpoint" => settings.runtime = socket()?,
            "image-endpoint" => settings.images = socket()?,
            "timeout" => settings.timeout = timeout(value)?,
            _ => {}
        }
    }
    Ok(settings)
}

/// Seconds; 0 is the default.
fn timeout(value: &YamlOwned) -> Result<Option<Duration>, String> {
    let seconds = match value {
        YamlOwned::Value(ScalarOwned::Null) => return Ok(None),
        YamlOwned::Value(ScalarOwned::Integer(seconds)) => u64::try_from(*seconds).ok(),
        YamlOwned::Value(ScalarOwned::String(text)) => {
            text.strip_suffix('s').unwrap_or(text).parse().ok()
        }
        _ => None,
    };
    // A year: longer would overflow timers.
    let seconds = seconds.filter(|seconds| *seconds <= 366 * 86_400);
    let seconds = seconds.ok_or("`timeout` is not a number of seconds")?;
    Ok((seconds > 0).then(|| Duration::from_secs(seconds)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_names_the_sockets() {
        let text = "# ours\nruntime-endpoint: \"unix:///run/a.sock\"\nimage-endpoint: /run/b.sock\ntimeout: 30\ndebug: false\nelse: [1]\n";
        let expected = Settings {
            runtime: Some("/run/a.sock".into()),
            images: Some("/run/b.sock".into()),
            timeout: Some(Duration::from_secs(30)),
        };
        assert_eq!(parse(text.as_bytes()), Ok(expected));
        for nothing in ["", "# only\n", "runtime-endpoint: \"\"\ntimeout: 0\n"] {
            assert_eq!(
                parse(nothing.as_bytes()),
                Ok(Settings::default()),
                "{nothing}"
            );
        }
    }

    #[test]
    fn what_is_no_such_file_is_refused() {
        for (text, said) in [
            ("- a\n", "runtime-endpoint"),
            ("runtime-endpoint: [a\n", ""),
            ("runtime-endpoint: tcp://127.0.0.1:1\n", "tcp://127.0.0.1:1"),
            ("image-endpoint: 7\n", "image-endpoint"),
            ("timeout: soon\n", "timeout"),
            ("timeout: -1\n", "timeout"),
        ] {
            let problem = parse(text.as_bytes()).unwrap_err();
            assert!(problem.contains(said), "{text}: {problem}");
        }
        assert!(parse(b"\xff").is_err());
    }

    #[test]
    fn what_the_user_says_comes_first() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("crictl.yaml");
        std::fs::write(
            &file,
            "runtime-endpoint: /run/f.sock\nimage-endpoint: /run/i.sock\n",
        )
        .unwrap();
        let find = |said: Option<&str>, variable, file: Option<&Path>| {
            let found = Endpoints::find(said.map(Path::new), None, variable, file);
            found.map(|e| (e.runtime, e.images))
        };
        let pair = |a: &str, b: &str| (PathBuf::from(a), PathBuf::from(b));
        let said = find(Some("/run/s.sock"), Some("/run/v.sock"), Some(&file));
        assert_eq!(said.unwrap(), pair("/run/s.sock", "/run/s.sock"));
        let variable = find(None, Some("unix:///run/v.sock"), Some(&file));
        assert_eq!(variable.unwrap(), pair("/run/v.sock", "/run/v.sock"));
        let filed = find(None, Some(""), Some(&file));
        assert_eq!(filed.unwrap(), pair("/run/f.sock", "/run/i.sock"));
        let none = dir.path().join("none");
        assert!(matches!(
            find(None, None, Some(&none)),
            Err(EndpointError::Read { .. })
        ));
        assert!(matches!(
            find(None, Some("tcp://a"), None),
            Err(EndpointError::Variable { .. })
        ));
    }
}
