//! The configuration folder: which of its files is the machine's pod network.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::conf::{self, Loaded, NetworkConf};
use crate::host::fs::read_capped;

/// No configuration is larger.
const FILE_CAP: u64 = 1 << 20;

/// The first network by file name that is valid, whose plugins are there, that is not loopback, and
/// that has the wanted name if there is one. As in CRI-O a file that does not count does not keep
/// those after it from counting. The error is a message that says why each file does not count.
pub(super) fn choose(
    dir: &Path,
    plugin_dirs: &[PathBuf],
    wanted: Option<&str>,
) -> Result<NetworkConf, String> {
    let mut problems = Vec::new();
    for file in files(dir)? {
        match load(&file, plugin_dirs) {
            Ok(Loaded::Loopback) => {}
            Ok(Loaded::Network(conf)) if wanted.is_none_or(|w| w == conf.name) => {
                for problem in problems {
                    tracing::debug!("{problem}");
                }
                return Ok(conf);
            }
            Ok(Loaded::Network(_)) => {}
            Err(problem) => problems.push(format!("`{}` {problem}", file.display())),
        }
    }
    let mut message = match wanted {
        Some(name) => format!("no network `{name}` in `{}`", dir.display()),
        None => format!("no network for pods in `{}`", dir.display()),
    };
    for problem in problems {
        message.push_str("; ");
        message.push_str(&problem);
    }
    Err(message)
}

/// The configuration files, by name.
fn files(dir: &Path) -> Result<Vec<PathBuf>, String> {
    let unreadable = |e| {
        format!(
            "no network for pods: `{}` cannot be read: {e}",
            dir.display()
        )
    };
    let entries = match fs::read_dir(dir) {
        Err(e) if e.kind() == ErrorKind::NotFound => {
            return Err(format!(
                "no network for pods: there is no `{}`",
                dir.display()
            ));
        }
        other => other.map_err(unreadable)?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(unreadable)?.path();
        let extension = path.extension().and_then(|e| e.to_str());
        if matches!(extension, Some("conf" | "conflist" | "json")) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn load(file: &Path, plugin_dirs: &[PathBuf]) -> Result<Loaded, String> {
    let bytes = read_capped(file, FILE_CAP).map_err(|e| format!("cannot be read: {e}"))?;
    let loaded = conf::parse(&bytes)?;
    if let Loaded::Network(conf) = &loaded {
        let mut needed = conf.plugin_types().chain(conf.delegate_types());
        if let Some(missing) = needed.find(|kind| find_plugin(plugin_dirs, kind).is_none()) {
            let dirs = super::listed(plugin_dirs);
            return Err(format!(
                "needs the plugin `{missing}`, which is in none of {dirs}"
            ));
        }
    }
    Ok(loaded)
}

/// A plugin's program: the first executable file of that name.
pub(super) fn find_plugin(dirs: &[PathBuf], kind: &str) -> Option<PathBuf> {
    let is_program = |path: &PathBuf| {
        fs::metadata(path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
    };
    dirs.iter().map(|dir| dir.join(kind)).find(is_program)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixture {
        dir: tempfile::TempDir,
    }

    impl Fixture {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            for folder in ["net.d", "bin"] {
                fs::create_dir(dir.path().join(folder)).unwrap();
            }
            let fixture = Self { dir };
            fixture.plugin("bridge", 0o755);
            fixture.plugin("host-local", 0o755);
            fixture
        }

        fn plugin(&self, name: &str, mode: u32) {
            let path = self.dir.path().join("bin").join(name);
            fs::write(&path, "").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }

        fn conf(&self, file: &str, text: &str) {
            fs::write(self.dir.path().join("net.d").join(file), text).unwrap();
        }

        fn chosen(&self, wanted: Option<&str>) -> Result<String, String> {
            let bin = vec![self.dir.path().join("bin")];
            choose(&self.dir.path().join("net.d"), &bin, wanted).map(|conf| conf.name)
        }
    }

    const LOOPBACK: &str = r#"{"type":"loopback"}"#;

    fn bridge(name: &str) -> String {
        format!(
            r#"{{"name":"{name}","plugins":[{{"type":"bridge","ipam":{{"type":"host-local"}}}}]}}"#
        )
    }

    #[test]
    fn the_first_network_by_file_name_counts() {
        let fixture = Fixture::new();
        fixture.conf("00-lo.conf", LOOPBACK);
        fixture.conf("20-b.conflist", &bridge("b"));
        fixture.conf("10-a.json", &bridge("a"));
        fixture.conf("05-other.txt", &bridge("other"));
        fixture.conf("06-other.conflist.bak", &bridge("other"));
        assert_eq!(fixture.chosen(None).unwrap(), "a");
        assert_eq!(fixture.chosen(Some("b")).unwrap(), "b");
        let e = fixture.chosen(Some("c")).unwrap_err();
        assert!(e.starts_with("no network `c` in "), "{e}");
    }

    #[test]
    fn loopback_alone_is_no_network() {
        let fixture = Fixture::new();
        fixture.conf("99-loopback.conflist", LOOPBACK);
        let e = fixture.chosen(None).unwrap_err();
        assert!(e.starts_with("no network for pods in "), "{e}");
    }

    #[test]
    fn a_broken_file_is_named_and_heals() {
        let fixture = Fixture::new();
        fixture.conf("10-a.conflist", "{\"name\":");
        let e = fixture.chosen(None).unwrap_err();
        assert!(e.contains("10-a.conflist` is not JSON"), "{e}");
        fixture.conf("20-b.conflist", &bridge("b"));
        assert_eq!(fixture.chosen(None).unwrap(), "b");
        fixture.conf("10-a.conflist", &bridge("a"));
        assert_eq!(fixture.chosen(None).unwrap(), "a");
    }

    #[test]
    fn every_plugin_must_be_there_and_executable() {
        let fixture = Fixture::new();
        fixture.conf("10-a.conflist", &bridge("a"));
        fixture.plugin("host-local", 0o644);
        let e = fixture.chosen(None).unwrap_err();
        assert!(e.contains("needs the plugin `host-local`"), "{e}");
        fixture.plugin("host-local", 0o755);
        assert_eq!(fixture.chosen(None).unwrap(), "a");
    }

    #[test]
    fn no_folder_is_no_network() {
        let e = choose(Path::new("/no/such/net.d"), &[], None).unwrap_err();
        assert!(e.contains("there is no `/no/such/net.d`"), "{e}");
    }
}
