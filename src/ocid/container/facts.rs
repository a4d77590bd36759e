//! What this machine can give to containers, looked up once.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Mutex;

use nix::sys::resource::{Resource, getrlimit};
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use oci_spec::runtime::{Capability, PosixRlimitType};

use super::apparmor::AppArmor;
use super::capabilities::CapabilitySet;
use super::selinux::Contexts;
use crate::ocid::runtime::ExecCgroups;

/// What was found, and which shortcomings were already spoken of.
#[derive(Debug, Default)]
pub struct HostFacts {
    /// The most that any process here can have.
    pub bounding: CapabilitySet,
    /// The daemon's own; without CAP_SYS_RESOURCE no child can go below it.
    pub oom_score_adj: i32,
    /// cgroup v2 alone; v1 and hybrid are false.
    pub cgroup_v2: bool,
    /// Swap is counted in the memory controller.
    pub memory_swap: bool,
    /// The pids controller is there.
    pub pids: bool,
    /// Sizes that the hugetlb controller can limit, e.g. `2MB`.
    pub hugepage_sizes: Vec<String>,
    pub seccomp: bool,
    /// AppArmor is on in the kernel.
    pub apparmor: bool,
    pub apparmor_profiles: AppArmor,
    pub selinux: bool,
    /// What the SELinux policy has for containers.
    pub selinux_contexts: Option<Contexts>,
    /// Major and minor version.
    pub kernel: (u32, u32),
    /// The kernel has mount_setattr(2) with AT_RECURSIVE; whether the runtime can do it as well is
    /// for the caller to see to.
    pub recursive_read_only: bool,
    /// Pods can have user namespaces: the runtime knows them, and the kernel can map the ids of the images'
    /// layers and stand an overlay on them. Not probed here: false.
    pub user_namespaces: bool,
    /// A command can be run in a cgroup below the container's; the caller's word, as above.
    pub exec_cgroup: ExecCgroups,
    /// Hard limits of the daemon; without CAP_SYS_RESOURCE no child can go above them.
    pub hard_limits: Vec<(PosixRlimitType, u64)>,
    spoken_of: Mutex<BTreeSet<&'static str>>,
}

impl HostFacts {
    /// Asks this machine. What cannot be read counts as absent.
    pub fn probe() -> Self {
        let status = text("/proc/self/status");
        let cgroup_v2 =
            statfs("/sys/fs/cgroup").is_ok_and(|s| s.filesystem_type() == CGROUP2_SUPER_MAGIC);
        let kernel = kernel();
        let controllers = text("/sys/fs/cgroup/cgroup.controllers");
        let controller = |name: &str| {
            if cgroup_v2 {
                controllers.split_ascii_whitespace().any(|c| c == name)
            } else {
                Path::new("/sys/fs/cgroup").join(name).is_dir()
            }
        };
        let hugepage_sizes = if controller("hugetlb") {
            hugepage_sizes(Path::new("/sys/kernel/mm/hugepages"))
        } else {
            Vec::new()
        };
        Self {
            bounding: CapabilitySet::from_mask(bounding_mask(&status)),
            oom_score_adj: text("/proc/self/oom_score_adj").trim().parse().unwrap_or(0),
            cgroup_v2,
            memory_swap: if cgroup_v2 {
                has_swap_files(Path::new("/sys/fs/cgroup"), &text("/proc/self/cgroup"))
            } else {
                Path::new("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes").exists()
            },
            pids: controller("pids"),
            hugepage_sizes,
            seccomp: status.lines().any(|l| l.starts_with("Seccomp:")),
            apparmor: text("/sys/module/apparmor/parameters/enabled").trim() == "Y",
            apparmor_profiles: AppArmor::default(),
            selinux: Path::new("/sys/fs/selinux/enforce").exists(),
            selinux_contexts: Contexts::read(Path::new("/etc/selinux")),
            kernel,
            recursive_read_only: kernel >= (5, 12),
            user_namespaces: false,
            exec_cgroup: ExecCgroups::No,
            hard_limits: LIMITS
                .iter()
                .filter_map(|(ours, theirs)| Some((*ours, getrlimit(*theirs).ok()?.1)))
                .collect(),
            spoken_of: Mutex::default(),
        }
    }

    /// A machine that has nothing.
    pub fn none() -> Self {
        Self::default()
    }

    pub fn has(&self, capability: Capability) -> bool {
        self.bounding.contains(capability)
    }

    /// The warning where it was not given before. A shortcoming of the machine meets every
    /// container; once is enough.
    pub fn once(&self, about: &'static str, warning: &str) -> Option<String> {
        let mut spoken_of = match self.spoken_of.lock() {
            Ok(set) => set,
            // The set is whole after every insert, whatever happened to its last user.
            Err(poisoned) => poisoned.into_inner(),
        };
        spoken_of.insert(about).then(|| warning.to_owned())
    }
}

const LIMITS: [(PosixRlimitType, Resource); 16] = [
    (PosixRlimitType::RlimitAs, Resource::RLIMIT_AS),
    (PosixRlimitType::RlimitCore, Resource::RLIMIT_CORE),
    (PosixRlimitType::RlimitCpu, Resource::RLIMIT_CPU),
    (PosixRlimitType::RlimitData, Resource::RLIMIT_DATA),
    (PosixRlimitType::RlimitFsize, Resource::RLIMIT_FSIZE),
    (PosixRlimitType::RlimitLocks, Resource::RLIMIT_LOCKS),
    (PosixRlimitType::RlimitMemlock, Resource::RLIMIT_MEMLOCK),
    (PosixRlimitType::RlimitMsgqueue, Resource::RLIMIT_MSGQUEUE),
    (PosixRlimitType::RlimitNice, Resource::RLIMIT_NICE),
    (PosixRlimitType::RlimitNofile, Resource::RLIMIT_NOFILE),
    (PosixRlimitType::RlimitNproc, Resource::RLIMIT_NPROC),
    (PosixRlimitType::RlimitRss, Resource::RLIMIT_RSS),
    (PosixRlimitType::RlimitRtprio, Resource::RLIMIT_RTPRIO),
    (PosixRlimitType::RlimitRttime, Resource::RLIMIT_RTTIME),
    (
        PosixRlimitType::RlimitSigpending,
        Resource::RLIMIT_SIGPENDING,
    ),
    (PosixRlimitType::RlimitStack, Resource::RLIMIT_STACK),
];

fn text(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn bounding_mask(status: &str) -> u64 {
    let line = status.lines().find_map(|l| l.strip_prefix("CapBnd:"));
    line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0)
}

fn kernel() -> (u32, u32) {
    match nix::sys::utsname::uname() {
        Ok(name) => version(&name.release().to_string_lossy()),
        Err(_) => (0, 0),
    }
}

/// `6.18.0-rc1` is (6, 18); what is no version is (0, 0).
pub(super) fn version(release: &str) -> (u32, u32) {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map_while(|n| n.parse().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// The root has no limits of its own, so look at our own cgroup, then at the root's children.
fn has_swap_files(root: &Path, own: &str) -> bool {
    let own = own.lines().find_map(|l| l.strip_prefix("0::/"));
    let in_own = own.is_some_and(|path| root.join(path).join("memory.swap.max").exists());
    in_own
        || fs::read_dir(root).is_ok_and(|entries| {
            entries
                .flatten()
                .any(|e| e.path().join("memory.swap.max").exists())
        })
}

/// Names as the cgroup files spell them: `hugepages-2048kB` is `2MB`.
fn hugepage_sizes(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let size = |name: &str| {
        let kb: u64 = name
            .strip_prefix("hugepages-")?
            .strip_suffix("kB")?
            .parse()
            .ok()?;
        Some(match kb {
            kb if kb >= 1 << 20 => format!("{}GB", kb >> 20),
            kb if kb >= 1 << 10 => format!("{}MB", kb >> 10),
            kb => format!("{kb}KB"),
        })
    };
    let mut sizes: Vec<String> = entries
        .flatten()
        .filter_map(|e| size(&e.file_name().to_string_lossy()))
        .collect();
    sizes.sort();
    sizes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_files() {
        let status = "Name:\tx\nCapBnd:\t000001fffeffffff\nSeccomp:\t0\n";
        assert_eq!(bounding_mask(status), 0x1ff_feff_ffff);
        assert_eq!(bounding_mask("CapBnd:\tzz\n"), 0);
        assert_eq!(version("6.18.0-rc1"), (6, 18));
        assert_eq!(version("5.15"), (5, 15));
        assert_eq!(version("next"), (0, 0));
        let dir = tempfile::tempdir().unwrap();
        for name in [
            "hugepages-2048kB",
            "hugepages-1048576kB",
            "hugepages-64kB",
            "x",
        ] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        assert_eq!(hugepage_sizes(dir.path()), ["1GB", "2MB", "64KB"]);
    }

    #[test]
    fn swap_is_looked_for_where_limits_are() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!has_swap_files(dir.path(), "0::/a/b\n"));
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        fs::write(dir.path().join("a/b/memory.swap.max"), "max").unwrap();
        assert!(has_swap_files(dir.path(), "0::/a/b\n"));
        assert!(!has_swap_files(dir.path(), "0::/\n"));
        fs::write(dir.path().join("a/memory.swap.max"), "max").unwrap();
        assert!(has_swap_files(dir.path(), "0::/\n"));
    }

    #[test]
    fn this_machine() {
        let host = HostFacts::probe();
        assert!(!host.bounding.is_empty());
        assert!(host.kernel >= (4, 0));
        assert_eq!(host.hard_limits.len(), LIMITS.len());
    }

    #[test]
    fn a_warning_is_given_once() {
        let host = HostFacts::none();
        assert_eq!(host.once("a", "no a").as_deref(), Some("no a"));
        assert_eq!(host.once("a", "no a"), None);
        assert!(host.once("b", "no b").is_some());
    }
}
