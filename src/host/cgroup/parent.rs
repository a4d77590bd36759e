//! A pod's place in the cgroup tree: from the CRI's `cgroup_parent` to the names that kernel, runtime
//! and systemd know it by.
//!
//! Rules are CRI-O's: the systemd driver takes a slice and the cgroupfs driver anything else, so that
//! a kubelet with the other driver is refused at once, by name, instead of failing somewhere in runc.

use serde::{Deserialize, Serialize};

/// Where pods go that name no parent.
const CGROUPFS_DEFAULT: &str = "/ocid";
const SYSTEMD_DEFAULT: &str = "system.slice";
/// In front of container ids in cgroup names.
const PREFIX: &str = "ocid";

/// Who makes the cgroups of containers (`cgroup_manager` in crio.conf, kubelet's `cgroupDriver`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Driver {
    Cgroupfs,
    Systemd,
}

/// A `cgroup_parent` that the driver cannot take.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParentError {
    #[error("cgroup parent `{0}` is not a slice, which the systemd cgroup driver needs")]
    NotASlice(String),
    #[error("cgroup parent `{0}` is a systemd slice, but the cgroup driver is cgroupfs")]
    ASlice(String),
    #[error("cgroup parent `{0}` is not the name of a cgroup")]
    Malformed(String),
}

impl ParentError {
    pub fn hint(&self) -> Option<String> {
        let driver = match self {
            Self::NotASlice(_) => "cgroupfs",
            Self::ASlice(_) => "systemd",
            Self::Malformed(_) => return None,
        };
        Some(format!(
            "set `cgroup_manager = \"{driver}\"` in /etc/ocid/ocid.conf, or kubelet's `cgroupDriver` to ours"
        ))
    }
}

/// The cgroup that holds a pod's containers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodCgroup {
    driver: Driver,
    /// A slice's name (systemd) or an absolute path (cgroupfs).
    parent: String,
    path: String,
}

impl PodCgroup {
    /// From the CRI's `linux.cgroup_parent`; empty means `/ocid`, or `system.slice` under systemd.
    pub fn new(driver: Driver, cgroup_parent: &str) -> Result<Self, ParentError> {
        let malformed = || ParentError::Malformed(cgroup_parent.to_owned());
        let names = cgroup_parent.split('/').filter(|name| !name.is_empty());
        let names: Vec<&str> = names.collect();
        let bad = |name: &&str| matches!(*name, "." | "..") || name.contains(['\0', '\n']);
        if names.iter().any(bad) {
            return Err(malformed());
        }
        let last = names.last().copied().unwrap_or_default();
        match driver {
            Driver::Cgroupfs if last.ends_with(".slice") => {
                Err(ParentError::ASlice(cgroup_parent.to_owned()))
            }
            Driver::Cgroupfs => {
                let parent = match names.as_slice() {
                    [] => CGROUPFS_DEFAULT.to_owned(),
                    names => format!("/{}", names.join("/")),
                };
                let path = parent.clone();
                Ok(Self {
                    driver,
                    parent,
                    path,
                })
            }
            Driver::Systemd => {
                // Kubelet writes the whole path, systemd knows a slice by its last name alone.
                let slice = match last {
                    "" => SYSTEMD_DEFAULT,
                    last => last,
                };
                if !slice.ends_with(".slice") {
                    return Err(ParentError::NotASlice(cgroup_parent.to_owned()));
                }
                let path = slice_path(slice).ok_or_else(malformed)?;
                Ok(Self {
                    driver,
                    parent: slice.to_owned(),
                    path,
                })
            }
        }
    }

    pub fn driver(&self) -> Driver {
        self.driver
    }

    /// Absolute path of the pod's cgroup, as [`super::Cgroups`] takes it:
    /// `/kubepods.slice/kubepods-pod1.slice`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// What the OCI spec's `linux.cgroupsPath` must say for a container: a path for cgroupfs,
    /// `SLICE:PREFIX:NAME` for systemd (runc's docs/systemd.md).
    pub fn runtime_path(&self, container_id: &str) -> String {
        match self.driver {
            Driver::Cgroupfs => self.container_path(container_id),
            Driver::Systemd => format!("{}:{PREFIX}:{container_id}", self.parent),
        }
    }

    /// Absolute path in every hierarchy at which the runtime makes a container's cgroup.
    pub fn container_path(&self, container_id: &str) -> String {
        let parent = self.path.trim_end_matches('/');
        match self.driver {
            Driver::Cgroupfs => format!("{parent}/{PREFIX}-{container_id}"),
            Driver::Systemd => format!("{parent}/{PREFIX}-{container_id}.scope"),
        }
    }
}

/// Dashes in a slice's name are its place in the tree: `a-b.slice` lies in `a.slice`
/// (systemd.slice(5)). `None` when it is no slice's name.
fn slice_path(slice: &str) -> Option<String> {
    let name = slice.strip_suffix(".slice")?;
    if name == "-" {
        return Some("/".to_owned());
    }
    let mut path = String::new();
    let mut prefix = String::new();
    for part in name.split('-') {
        if part.is_empty() {
            return None;
        }
        prefix.push_str(part);
        path.push_str(&format!("/{prefix}.slice"));
        prefix.push('-');
    }
    Some(path)
}

#[cfg(test)]
mod tests {
    use super::Driver::{Cgroupfs, Systemd};
    use super::*;

    #[test]
    fn cgroupfs_parents_are_paths() {
        let path = |parent| PodCgroup::new(Cgroupfs, parent).map(|p| p.path().to_owned());
        assert_eq!(path("").unwrap(), "/ocid");
        assert_eq!(path("/").unwrap(), "/ocid");
        assert_eq!(path("a//b/").unwrap(), "/a/b");
        assert_eq!(path("/Burstable/pod_1").unwrap(), "/Burstable/pod_1");
        assert_eq!(
            path("/a/b.slice"),
            Err(ParentError::ASlice("/a/b.slice".into()))
        );
        for bad in ["/a/../../b", ".", "/a/\0b"] {
            assert_eq!(path(bad), Err(ParentError::Malformed(bad.into())));
        }
        let pod = PodCgroup::new(Cgroupfs, "/a").unwrap();
        assert_eq!(pod.runtime_path("c1"), "/a/ocid-c1");
        assert_eq!(pod.container_path("c1"), "/a/ocid-c1");
    }

    #[test]
    fn systemd_parents_are_slices() {
        let path = |parent| PodCgroup::new(Systemd, parent).map(|p| p.path().to_owned());
        assert_eq!(path("").unwrap(), "/system.slice");
        assert_eq!(path("-.slice").unwrap(), "/");
        assert_eq!(
            path("/kubepods.slice/kubepods-pod1.slice").unwrap(),
            "/kubepods.slice/kubepods-pod1.slice"
        );
        assert_eq!(path("/ocid"), Err(ParentError::NotASlice("/ocid".into())));
        for bad in ["a--b.slice", "-a.slice", "a-.slice", ".slice"] {
            assert_eq!(path(bad), Err(ParentError::Malformed(bad.into())), "{bad}");
        }
        let pod = PodCgroup::new(Systemd, "a-b.slice").unwrap();
        assert_eq!(pod.runtime_path("c1"), "a-b.slice:ocid:c1");
        assert_eq!(pod.container_path("c1"), "/a.slice/a-b.slice/ocid-c1.scope");
        let root = PodCgroup::new(Systemd, "-.slice").unwrap();
        assert_eq!(root.container_path("c1"), "/ocid-c1.scope");
    }

    #[test]
    fn a_refusal_says_which_setting_to_change() {
        let e = PodCgroup::new(Cgroupfs, "a.slice").unwrap_err();
        assert!(e.hint().unwrap().contains("cgroup_manager = \"systemd\""));
    }
}
