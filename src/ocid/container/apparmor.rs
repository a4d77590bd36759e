//! AppArmor: is a profile loaded, and our own one, which is brought in at its first use.
//!
//! The kernel lists the loaded profiles in securityfs; a profile's text is compiled and loaded by the
//! distribution's `apparmor_parser`. Profiles are the machine's: ours stays loaded when the daemon
//! ends, as containers that run under it do.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::host::command::{Command, CommandError};
use crate::host::fs::read_capped;
use crate::template::{AppArmorProfile, TemplateError, render};

/// The name of our own profile.
pub const OWN: &str = "ocid-default";
/// Turns AppArmor off for a container, as a profile's name.
pub const UNCONFINED: &str = "unconfined";

/// Compiling a profile takes a second on a slow machine.
const LIMIT: Duration = Duration::from_secs(60);
/// The list of a machine with thousands of profiles is smaller.
const LIST_CAP: u64 = 16 << 20;

/// Why our own profile could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum AppArmorError {
    #[error("`apparmor_parser`, which loads profiles, is not installed")]
    NoParser,
    #[error("write the AppArmor profile to a file")]
    Write(#[source] io::Error),
    #[error(transparent)]
    Render(#[from] TemplateError),
    #[error("load the AppArmor profile `{name}`")]
    Load { name: String, source: CommandError },
    #[error("`apparmor_parser` loaded the profile `{0}`, but the kernel does not list it")]
    NotListed(String),
}

/// Where profiles are listed, and what loads them.
#[derive(Debug, Clone)]
pub struct AppArmor {
    list: PathBuf,
    parser: Option<PathBuf>,
}

impl Default for AppArmor {
    fn default() -> Self {
        Self::below(Path::new("/sys/kernel/security"), parser())
    }
}

impl AppArmor {
    /// With another securityfs and parser (None: there is none).
    pub fn below(securityfs: &Path, parser: Option<PathBuf>) -> Self {
        Self {
            list: securityfs.join("apparmor/profiles"),
            parser,
        }
    }

    /// Lines are `NAME (MODE)`; a name may hold blanks.
    pub fn is_loaded(&self, profile: &str) -> bool {
        let list = read_capped(&self.list, LIST_CAP).unwrap_or_default();
        String::from_utf8_lossy(&list).lines().any(|line| {
            line.rsplit_once(" (")
                .is_some_and(|(name, _)| name == profile)
        })
    }

    /// Sees to it that our own profile is loaded. Two at once load the same text twice, which replaces
    /// it by itself. Blocks.
    pub fn ensure_own(&self) -> Result<(), AppArmorError> {
        if self.is_loaded(OWN) {
            return Ok(());
        }
        let parser = self.parser.as_ref().ok_or(AppArmorError::NoParser)?;
        let text = render("apparmor/ocid-default", &AppArmorProfile::new(OWN))?;
        let mut file = tempfile::NamedTempFile::new().map_err(AppArmorError::Write)?;
        file.write_all(text.as_bytes())
            .and_then(|()| file.flush())
            .map_err(AppArmorError::Write)?;
        Command::new(parser)
            // Replaces what is loaded, and keeps no compiled copy on disk.
            .args(["--replace", "--skip-cache"])
            .arg(file.path())
            .limit(LIMIT)
            .run()
            .map_err(|source| AppArmorError::Load {
                name: OWN.to_owned(),
                source,
            })?;
        if !self.is_loaded(OWN) {
            return Err(AppArmorError::NotListed(OWN.to_owned()));
        }
        tracing::info!(profile = OWN, "the AppArmor profile is loaded");
        Ok(())
    }
}

/// It lives in a folder that a daemon's PATH may not have.
fn parser() -> Option<PathBuf> {
    const FOLDERS: &str = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin";
    which::which_in("apparmor_parser", Some(FOLDERS), "/").ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    /// A securityfs, and a parser that runs `script` on the profile's text (`$3`) and the list (`$LIST`).
    fn machine(script: &str) -> (tempfile::TempDir, AppArmor) {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("apparmor")).unwrap();
        let list = dir.path().join("apparmor/profiles");
        fs::write(&list, "docker-default (enforce)\nmy profile (complain)\n").unwrap();
        let parser = dir.path().join("parser");
        let text = format!("#!/bin/sh\nLIST={}\n{script}\n", list.display());
        fs::write(&parser, text).unwrap();
        fs::set_permissions(&parser, fs::Permissions::from_mode(0o755)).unwrap();
        let apparmor = AppArmor::below(dir.path(), Some(parser));
        (dir, apparmor)
    }

    #[test]
    fn profiles_are_listed_by_name() {
        let (_dir, apparmor) = machine("exit 1");
        assert!(apparmor.is_loaded("my profile") && apparmor.is_loaded("docker-default"));
        assert!(!apparmor.is_loaded("docker") && !apparmor.is_loaded(""));
        let none = AppArmor::below(Path::new("/no/such"), None);
        assert!(!none.is_loaded("docker-default"));
    }

    #[test]
    fn our_own_profile_is_loaded_once() {
        let script = r#"
            [ "$1 $2" = "--replace --skip-cache" ] || exit 9
            grep -q "^profile ocid-default " "$3" || exit 8
            echo "ocid-default (enforce)" >>"$LIST"
            echo run >>"$LIST.runs""#;
        let (dir, apparmor) = machine(script);
        apparmor.ensure_own().unwrap();
        apparmor.ensure_own().unwrap();
        let runs = fs::read_to_string(dir.path().join("apparmor/profiles.runs")).unwrap();
        assert_eq!(runs, "run\n");
    }

    #[test]
    fn what_stands_in_the_way_is_named() {
        let (dir, apparmor) = machine("echo 'syntax error in line 3' >&2; exit 1");
        let e = apparmor.ensure_own().unwrap_err();
        let AppArmorError::Load { source, .. } = e else {
            panic!("{e}");
        };
        assert!(
            source.to_string().contains("syntax error in line 3"),
            "{source}"
        );
        let (_other, apparmor) = machine("exit 0");
        let e = apparmor.ensure_own().unwrap_err();
        assert!(matches!(e, AppArmorError::NotListed(_)), "{e}");
        let e = AppArmor::below(dir.path(), None).ensure_own().unwrap_err();
        assert!(matches!(e, AppArmorError::NoParser), "{e}");
    }
}
