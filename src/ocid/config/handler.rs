//! Runtime handlers: `[crio.runtime.runtimes.NAME]`, and what the tables come to together.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{ConfigError, Runtime};

/// The name that CRI-O's own machine has in `platform_runtime_paths`.
#[cfg(target_arch = "x86_64")]
const PLATFORM: &str = "linux/amd64";
#[cfg(target_arch = "aarch64")]
const PLATFORM: &str = "linux/arm64";
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const PLATFORM: &str = "linux/other";

/// Annotations of pods that `allowed_annotations` can allow here.
pub const ANNOTATIONS: [&str; 5] = [
    "io.kubernetes.cri-o.Devices",
    "io.kubernetes.cri-o.ShmSize",
    "io.kubernetes.cri-o.UnifiedCgroup",
    "io.kubernetes.cri-o.cgroup2-mount-hierarchy-rw",
    "io.kubernetes.cri-o.umask",
];

/// `[crio.runtime.runtimes.NAME]`
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Handler {
    /// Empty: the handler's name, looked up in `PATH`.
    pub runtime_path: PathBuf,
    /// The same by platform (`linux/amd64`), which goes before it.
    pub platform_runtime_paths: BTreeMap<String, PathBuf>,
    /// `oci`, or empty for that. (`pod` is CRI-O's word for another monitor, which makes no difference here.)
    pub runtime_type: String,
    /// Where the runtime keeps its state; empty: `RUNROOT/oci/NAME`.
    pub runtime_root: PathBuf,
    /// Path, type and root are those of the default handler.
    pub inherit_default_runtime: bool,
    /// A privileged container gets only those devices that it asks for.
    pub privileged_without_host_devices: bool,
    /// Annotations of pods that are heeded, each with what it begins with (see [`ANNOTATIONS`]).
    pub allowed_annotations: Vec<String>,
    /// Annotations of every container, unless the pod or the container says otherwise.
    pub default_annotations: BTreeMap<String, String>,
    /// A container with a smaller memory limit is refused: `12MiB`, or a number of bytes; empty is none.
    pub container_min_memory: String,
    /// Seconds that the runtime may take to create a container; 0: 240. Less than 30 are 30.
    pub container_create_timeout: u64,
    /// The default seccomp profile of this handler's containers; empty: `crio.runtime.seccomp_profile`.
    pub seccomp_profile: PathBuf,
}

impl Handler {
    /// As CRI-O has it.
    const CREATE_TIMEOUT: u64 = 240;
    const LEAST_CREATE_TIMEOUT: u64 = 30;

    /// Is it driven by an OCI runtime's command line? Shims of virtual machines are not.
    pub fn is_oci(&self) -> bool {
        matches!(self.runtime_type.as_str(), "" | "oci" | "pod")
    }

    /// The configured path of the runtime on this machine; None: to be looked up.
    pub fn path(&self) -> Option<PathBuf> {
        let path = self.platform_runtime_paths.get(PLATFORM);
        let path = path.unwrap_or(&self.runtime_path);
        (!path.as_os_str().is_empty()).then(|| path.clone())
    }

    pub fn create_limit(&self) -> Duration {
        Duration::from_secs(match self.container_create_timeout {
            0 => Self::CREATE_TIMEOUT,
            seconds => seconds.max(Self::LEAST_CREATE_TIMEOUT),
        })
    }

    /// The least memory limit in bytes; 0 is none. None where the text is no size.
    pub fn min_memory(&self) -> Option<i64> {
        match self.container_min_memory.as_str() {
            "" => Some(0),
            text => bytes(text),
        }
    }
}

impl Runtime {
    /// Every handler that can be used, complete: with what it inherits, and with the default one also where
    /// the files name only others.
    pub fn handlers(&self) -> BTreeMap<String, Handler> {
        let mut handlers = self.runtimes.clone();
        handlers.entry(self.default_runtime.clone()).or_default();
        let default = handlers
            .get(&self.default_runtime)
            .cloned()
            .unwrap_or_default();
        for (name, handler) in &mut handlers {
            if handler.inherit_default_runtime && *name != self.default_runtime {
                // Without a path the name decides, which has to be the default's.
                handler.runtime_path = match default.path() {
                    Some(path) => path,
                    None => PathBuf::from(&self.default_runtime),
                };
                handler.platform_runtime_paths.clear();
                handler.runtime_type.clone_from(&default.runtime_type);
                handler.runtime_root.clone_from(&default.runtime_root);
            }
        }
        handlers.retain(|_, handler| handler.is_oci());
        handlers
    }

    /// Refuses what no pod could be run by.
    pub(super) fn check_handlers(&self) -> Result<(), ConfigError> {
        let wrong = |key, problem| Err(ConfigError::Value { key, problem });
        let name = &self.default_runtime;
        let default = self.runtimes.get(name);
        // CRI-O too has its own default also where a file names other handlers only.
        if default.is_none()
            && !self.runtimes.is_empty()
            && *name != Self::default().default_runtime
        {
            let problem = format!("no table `crio.runtime.runtimes.{name}`");
            return wrong("crio.runtime.default_runtime", problem);
        }
        if default.is_some_and(|handler| !handler.is_oci()) {
            let problem = format!("the handler `{name}` is no OCI runtime (`runtime_type`)");
            return wrong("crio.runtime.default_runtime", problem);
        }
        for (name, handler) in &self.runtimes {
            if name.is_empty() || name.contains(['/', '\0']) || name.starts_with('.') {
                let problem = format!("`{}` is no name of a handler", name.escape_debug());
                return wrong("crio.runtime.runtimes", problem);
            }
            if handler.min_memory().is_none() {
                let text = &handler.container_min_memory;
                let problem = format!("`{text}` of `{name}` is no size such as `12MiB`");
                return wrong("crio.runtime.runtimes.*.container_min_memory", problem);
            }
            let root = &handler.runtime_root;
            if !root.as_os_str().is_empty() && !root.is_absolute() {
                let problem = format!("`{}` of `{name}` is not an absolute path", root.display());
                return wrong("crio.runtime.runtimes.*.runtime_root", problem);
            }
        }
        Ok(())
    }
}

/// `12MiB`, `12 MB`, `500k` or a bare number; like docker's sizes, units are powers of 1024 whether they say so
/// or not.
pub fn bytes(text: &str) -> Option<i64> {
    let text = text.trim();
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    let number: i64 = digits.parse().ok()?;
    let unit = unit.trim().to_ascii_lowercase();
    let power = match unit.trim_end_matches("ib").trim_end_matches('b') {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        _ => return None,
    };
    number.checked_mul(1024_i64.checked_pow(power)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        assert_eq!(bytes("12MiB"), Some(12 << 20));
        assert_eq!(bytes("12 MB"), Some(12 << 20));
        assert_eq!(bytes("500k"), Some(500 << 10));
        assert_eq!(bytes("4096"), Some(4096));
        for bad in ["", "MiB", "-1", "1.5M", "12 apples", "99999999999t"] {
            assert_eq!(bytes(bad), None, "{bad}");
        }
    }

    fn runtime(text: &str) -> Runtime {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn handlers_inherit_and_those_of_virtual_machines_are_left_out() {
        let runtime = runtime(
            r#"
            [runtimes.runc]
            runtime_root = "/run/runc"
            [runtimes.other]
            inherit_default_runtime = true
            runtime_path = "/nowhere"
            [runtimes.kata]
            runtime_type = "vm"
            "#,
        );
        runtime.check_handlers().unwrap();
        let handlers = runtime.handlers();
        let names: Vec<&str> = handlers.keys().map(String::as_str).collect();
        assert_eq!(names, ["other", "runc"]);
        assert_eq!(handlers["other"].path(), Some("runc".into()));
        assert_eq!(handlers["other"].runtime_root, PathBuf::from("/run/runc"));
    }

    #[test]
    fn the_default_is_there_unless_another_is_named_that_is_not() {
        let crun = runtime("[runtimes.crun]\n");
        crun.check_handlers().unwrap();
        assert!(crun.handlers().contains_key("runc"));
        assert!(runtime("").handlers().contains_key("runc"));
        let bad = runtime("default_runtime = \"kata\"\n[runtimes.kata]\nruntime_type = \"vm\"\n");
        assert!(bad.check_handlers().is_err());
        let bad = runtime("default_runtime = \"x\"\n[runtimes.runc]\n");
        assert!(bad.check_handlers().is_err());
        let bad = runtime("[runtimes.\"a/b\"]\n");
        assert!(bad.check_handlers().is_err());
    }

    #[test]
    fn a_platforms_path_goes_first_and_short_limits_are_lengthened() {
        let handler = Handler {
            runtime_path: "/a".into(),
            platform_runtime_paths: [(PLATFORM.to_owned(), PathBuf::from("/b"))].into(),
            container_create_timeout: 5,
            ..Handler::default()
        };
        assert_eq!(handler.path(), Some("/b".into()));
        assert_eq!(handler.create_limit(), Duration::from_secs(30));
        assert_eq!(Handler::default().create_limit(), Duration::from_secs(240));
    }
}
