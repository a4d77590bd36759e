//! What dpkg's status file and apt's simulations say.

use std::collections::BTreeMap;
use std::io::{self, BufRead};

use super::Simulation;

pub(super) fn status(file: impl BufRead, names: &[&str]) -> io::Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    let (mut package, mut installed) = (None, false);
    for line in file.split(b'\n') {
        let line = line?;
        if line.is_empty() {
            (package, installed) = (None, false);
        } else if let Some(name) = line.strip_prefix(b"Package: ") {
            package = names.iter().find(|n| n.as_bytes() == name).copied();
        } else if package.is_none() {
        } else if let Some(status) = line.strip_prefix(b"Status: ") {
            installed = status.ends_with(b" installed") && !status.ends_with(b"not-installed");
        } else if let (true, Some(name), Some(version)) =
            (installed, package, line.strip_prefix(b"Version: "))
        {
            found.insert(
                name.to_owned(),
                String::from_utf8_lossy(version).into_owned(),
            );
        }
    }
    Ok(found)
}

/// Does this package's paragraph of a status file recommend another?
pub(super) fn recommends(file: impl BufRead, package: &str, other: &str) -> io::Result<bool> {
    let mut is_it = false;
    for line in file.split(b'\n') {
        let line = line?;
        if let Some(name) = line.strip_prefix(b"Package: ") {
            is_it = name == package.as_bytes();
        } else if let (true, Some(list)) = (is_it, line.strip_prefix(b"Recommends: ")) {
            let list = String::from_utf8_lossy(list);
            // `a, b (>= 1) | c`
            return Ok(list
                .split([',', '|'])
                .any(|one| one.split_ascii_whitespace().next() == Some(other)));
        }
    }
    Ok(false)
}

/// Every package of a status file, with its status: what is wanted, whether it must be unpacked anew (`reinstreq`)
/// or not (`ok`), and what it is.
pub(super) fn statuses(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut package = None;
    text.lines().filter_map(move |line| {
        if let Some(name) = line.strip_prefix("Package: ") {
            package = Some(name);
        }
        package.zip(line.strip_prefix("Status: "))
    })
}

/// `Inst NAME (NEW ...)` adds, `Inst NAME [OLD] (NEW ...)` upgrades, `Remv`/`Purg NAME` removes; what is indented below
/// `Recommended packages:` is not installed.
pub(super) fn simulation(text: &str) -> Simulation {
    let mut simulation = Simulation::default();
    let mut recommended = false;
    for line in text.lines() {
        if let (true, Some(names)) = (recommended, line.strip_prefix("  ")) {
            let names = names.split_ascii_whitespace().map(str::to_owned);
            simulation.recommended.extend(names);
            continue;
        }
        recommended = line == "Recommended packages:";
        let mut words = line.split_ascii_whitespace();
        let (Some(act), Some(name)) = (words.next(), words.next()) else {
            continue;
        };
        let name = name.to_owned();
        match act {
            "Inst" if words.next().is_some_and(|w| w.starts_with('[')) => {
                simulation.upgraded.insert(name);
            }
            "Inst" => drop(simulation.added.insert(name)),
            "Remv" | "Purg" => drop(simulation.removed.insert(name)),
            _ => {}
        }
    }
    simulation
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    #[test]
    fn only_installed_packages_count() {
        let status = "Package: runc\nStatus: install ok installed\nVersion: 1.1.5+ds1\n\n\
            Package: docker.io\nStatus: deinstall ok config-files\nVersion: 20.10\n\n\
            Package: tini\nStatus: install ok half-configured\nVersion: 0.19\n\n\
            Package: other\nStatus: install ok installed\nVersion: 9\n";
        let names = ["runc", "docker.io", "tini", "gone"];
        let found = super::status(status.as_bytes(), &names).unwrap();
        assert_eq!(
            found.into_iter().collect::<Vec<_>>(),
            [("runc".to_owned(), "1.1.5+ds1".to_owned())]
        );
    }

    #[test]
    fn a_package_recommends_what_its_paragraph_says() {
        let status = "Package: runc\nStatus: install ok installed\nRecommends: criu\n\n\
            Package: docker.io\nStatus: install ok installed\n\
            Recommends: apparmor, docker-cli (>= 26), git | hg, xz-utils-extra\n\n\
            Package: other\nRecommends: docker-doc\n";
        let recommends =
            |package, other| super::recommends(status.as_bytes(), package, other).unwrap();
        assert!(recommends("docker.io", "docker-cli"));
        assert!(recommends("docker.io", "hg"));
        for other in ["criu", "docker-doc", "docker", "xz-utils"] {
            assert!(!recommends("docker.io", other), "{other}");
        }
        assert!(!recommends("docker", "docker-cli"));
    }

    #[test]
    fn a_package_that_dpkg_was_killed_over_shows() {
        let text = "Package: runc\nStatus: install reinstreq half-installed\nVersion: 1\n\n\
            Package: tini\nPriority: optional\nStatus: install ok unpacked\n";
        let found: Vec<_> = super::statuses(text).collect();
        assert_eq!(
            found,
            [
                ("runc", "install reinstreq half-installed"),
                ("tini", "install ok unpacked")
            ]
        );
    }

    #[test]
    fn a_simulation_tells_new_from_upgraded() {
        let text = "Reading package lists...\nSuggested packages:\n  docker-doc zfs-fuse\n\
            Recommended packages:\n  apparmor git\n  docker-cli | moby-cli\n\
            The following NEW packages will be installed:\n  tini\nInst tini (0.19.0-1+b3 Debian:12 [amd64])\n\
            Inst libc6 [2.36-9] (2.36-10 Debian:12 [amd64])\nConf tini (0.19)\nRemv old [1.0]\n\
            Purg older [1.0]\n";
        let simulation = super::simulation(text);
        assert_eq!(simulation.added, BTreeSet::from(["tini".to_owned()]));
        assert_eq!(simulation.upgraded, BTreeSet::from(["libc6".to_owned()]));
        assert_eq!(simulation.removed.len(), 2);
        let recommended: Vec<_> = simulation.recommended.iter().collect();
        assert_eq!(
            recommended,
            ["apparmor", "docker-cli", "git", "moby-cli", "|"]
        );
    }
}
