//! Programs that are installed: where they are and what they say about themselves.
//!
//! An answer is good for as long as the program's file is the same (size, inode, mtime, ctime), so
//! a later run asks nobody.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::host::command::Command;
use crate::host::fs::under;

use super::catalog::Version;
use super::path::Stamp;
use super::receipt::{Probe, version_in};

/// Where a CNI plugin is looked for: upstream's folder, then the distribution's.
pub const PLUGIN_FOLDERS: [&str; 2] = ["/opt/cni/bin", "/usr/lib/cni"];
/// The plugins of our networks.
pub const PLUGINS: [&str; 4] = ["bridge", "host-local", "loopback", "portmap"];
/// The newest version of the CNI specification that we write.
const NEWEST_CNI: Version = Version::new(1, 0, 0);
/// The oldest whose configuration lists we can use.
const OLDEST_CNI: Version = Version::new(0, 4, 0);

/// Answers of programs, old and new.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Probes {
    pub answers: BTreeMap<PathBuf, Probe>,
}

/// A program that is installed and works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    pub path: PathBuf,
    pub version: Version,
}

/// Plugins that are installed and work together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plugins {
    pub folder: PathBuf,
    /// The newest CNI version that all of them know, [`NEWEST_CNI`] at most.
    pub cni_version: String,
}

impl Probes {
    /// What the program at `path` answers; `None` when it is not there or fails.
    fn ask(
        &mut self,
        root: &Path,
        path: &Path,
        ask: impl Fn(Command) -> Command,
    ) -> Option<String> {
        let stamp = Stamp::follow(&under(root, path)).ok().flatten()?;
        if let Some(known) = self.answers.get(path)
            && known.stamp == stamp
        {
            return Some(known.answer.clone());
        }
        let live = root == Path::new("/");
        let inside = Command::new("chroot").arg(root).arg(path);
        // A static program runs without the tree around it, be there a shell and a libc or not.
        let bare = Command::new(under(root, path));
        let ways = if live {
            vec![Command::new(path)]
        } else {
            vec![inside, bare]
        };
        // A program that does not run, or fails at this, is not fit: that is the answer.
        let output = ways
            .into_iter()
            .find_map(|command| ask(command.limit(Duration::from_secs(20))).run().ok())?;
        let answer = output.text();
        self.answers.insert(
            path.to_owned(),
            Probe {
                stamp,
                answer: answer.clone(),
            },
        );
        Some(answer)
    }

    /// A program by name, with the version that it tells.
    pub fn program(
        &mut self,
        root: &Path,
        prefix: &Path,
        name: &str,
        args: &[&str],
    ) -> Option<Program> {
        let path = find(root, prefix, name)?;
        let answer = self.ask(root, &path, |command| command.args(args))?;
        Some(Program {
            version: version_in(&answer)?,
            path,
        })
    }

    /// The CNI versions that a plugin knows (CNI specification, VERSION).
    fn plugin(&mut self, root: &Path, path: &Path) -> Option<Vec<Version>> {
        let answer = self.ask(root, path, |command| {
            command
                .env_clear()
                .env("CNI_COMMAND", "VERSION")
                // Plugins before CNI 1.0 insist on these.
                .env("CNI_IFNAME", "none")
                .env("CNI_PATH", "none")
                .env("CNI_CONTAINERID", "none")
                .env("CNI_NETNS", "none")
                .stdin(r#"{"cniVersion":"1.0.0"}"#)
        })?;
        parse_cni_versions(&answer)
    }
}

/// The path of a program in the folders that services search, `PREFIX` first.
pub fn find(root: &Path, prefix: &Path, name: &str) -> Option<PathBuf> {
    let own = [prefix.join("bin"), prefix.join("sbin")];
    let common = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin"];
    own.into_iter()
        .chain(common.map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|path| is_program(&under(root, path)))
}

/// The path at which a package of the distribution has put a program.
pub fn find_packaged(root: &Path, name: &str) -> Option<PathBuf> {
    ["/usr/sbin", "/usr/bin"]
        .iter()
        .map(|folder| Path::new(folder).join(name))
        .find(|path| is_program(&under(root, path)))
}

fn is_program(real: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(real).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

impl Plugins {
    /// The first folder in which all plugins of ours are, and work.
    pub fn find(root: &Path, probes: &mut Probes) -> Option<Self> {
        PLUGIN_FOLDERS
            .iter()
            .find_map(|folder| Self::in_folder(root, Path::new(folder), probes))
    }

    /// The plugins in one folder, if all of ours are there and have a version in common.
    pub fn in_folder(root: &Path, folder: &Path, probes: &mut Probes) -> Option<Self> {
        let mut common: Option<Vec<Version>> = None;
        for name in PLUGINS {
            let known = probes.plugin(root, &folder.join(name))?;
            common = Some(match common {
                None => known,
                Some(common) => common.into_iter().filter(|v| known.contains(v)).collect(),
            });
        }
        let best = common?
            .into_iter()
            .filter(|v| (OLDEST_CNI..=NEWEST_CNI).contains(v))
            .max()?;
        Some(Self {
            folder: folder.to_owned(),
            cni_version: best.to_string(),
        })
    }
}

fn parse_cni_versions(answer: &str) -> Option<Vec<Version>> {
    #[derive(Deserialize)]
    struct Answer {
        #[serde(rename = "supportedVersions")]
        supported: Vec<String>,
    }
    let answer: Answer = serde_json::from_str(answer).ok()?;
    Some(
        answer
            .supported
            .iter()
            .filter_map(|v| v.parse().ok())
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    fn script(path: &Path, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn plugins(folder: &Path, versions: &[&str]) {
        for (name, versions) in PLUGINS.iter().zip(versions) {
            let answer = format!(
                "echo \"$CNI_COMMAND\" >> {}/asked; echo '{{\"supportedVersions\":[{versions}]}}'",
                folder.display()
            );
            script(&folder.join(name), &answer);
        }
    }

    #[test]
    fn the_newest_common_version_counts() {
        let root = Path::new("/");
        let dir = tempfile::tempdir().unwrap();
        let all = r#""0.3.1","0.4.0","1.0.0","1.1.0""#;
        plugins(dir.path(), &[all, all, all, all]);
        let mut probes = Probes::default();
        let found = Plugins::in_folder(root, dir.path(), &mut probes).unwrap();
        assert_eq!(found.cni_version, "1.0.0");
        let asked = fs::read_to_string(dir.path().join("asked")).unwrap();
        assert_eq!(asked, "VERSION\n".repeat(4));
        Plugins::in_folder(root, dir.path(), &mut probes).unwrap();
        let again = fs::read_to_string(dir.path().join("asked")).unwrap();
        assert_eq!(again, asked, "nobody was asked twice");

        plugins(dir.path(), &[all, r#""0.3.1","0.4.0""#, all, all]);
        let found = Plugins::in_folder(root, dir.path(), &mut probes).unwrap();
        assert_eq!(found.cni_version, "0.4.0");
        plugins(dir.path(), &[all, r#""0.2.0""#, all, all]);
        assert!(Plugins::in_folder(root, dir.path(), &mut probes).is_none());
        fs::remove_file(dir.path().join("portmap")).unwrap();
        assert!(Plugins::in_folder(root, dir.path(), &mut probes).is_none());
    }

    #[test]
    fn a_program_that_fails_is_not_there() {
        let dir = tempfile::tempdir().unwrap();
        let mut probes = Probes::default();
        let name = "crio-setup-test-program";
        let mut find = |text| {
            script(&dir.path().join("bin").join(name), text);
            probes.program(Path::new("/"), dir.path(), name, &["--version"])
        };
        assert!(find("exit 1").is_none());
        assert!(find("echo no number").is_none());
        assert_eq!(find("echo v3.2.1").unwrap().version, Version::new(3, 2, 1));
    }
}
