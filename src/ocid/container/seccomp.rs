//! Seccomp profiles in the format of docker and containers/common: a list of rules, each of which
//! may depend on architecture, capabilities and kernel. Such a profile is turned into the flat one
//! that an OCI runtime wants. The flat format is read as well.

use std::path::Path;

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder,
    LinuxSeccompBuilder, LinuxSeccompFilterFlag, LinuxSeccompOperator, LinuxSyscall,
    LinuxSyscallBuilder,
};
use serde::Deserialize;

use super::capabilities::{CapabilitySet, parse as capability};
use super::error::SpecError;
use super::facts::version;
use crate::host::fs::read_capped;

/// No profile that people write is larger.
const LARGEST_PROFILE: u64 = 8 << 20;

/// The profile that stands in for a missing `/etc/ocid/seccomp.json`; the installer writes this very
/// file there.
pub const BUILTIN: &str = include_str!("../../../templates/ocid/seccomp.json");

/// A profile, not yet fitted to a container.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SeccompProfile {
    default_action: LinuxSeccompAction,
    default_errno_ret: Option<u32>,
    #[serde(default)]
    architectures: Vec<Arch>,
    #[serde(default)]
    arch_map: Vec<Architectures>,
    #[serde(default)]
    flags: Vec<LinuxSeccompFilterFlag>,
    listener_path: Option<std::path::PathBuf>,
    listener_metadata: Option<String>,
    #[serde(default)]
    syscalls: Vec<Rule>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Architectures {
    architecture: Arch,
    #[serde(default)]
    sub_architectures: Option<Vec<Arch>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    /// One name, in the oldest form of the format.
    #[serde(default)]
    name: String,
    #[serde(default)]
    names: Vec<String>,
    action: LinuxSeccompAction,
    errno_ret: Option<u32>,
    #[serde(default)]
    args: Option<Vec<Argument>>,
    #[serde(default)]
    includes: Option<Condition>,
    #[serde(default)]
    excludes: Option<Condition>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Argument {
    index: usize,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: LinuxSeccompOperator,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Condition {
    #[serde(default)]
    caps: Option<Vec<String>>,
    #[serde(default)]
    arches: Option<Vec<String>>,
    #[serde(default)]
    min_kernel: Option<String>,
}

/// What the conditions of a profile are about.
#[derive(Debug, Clone, Copy)]
pub struct Circumstances<'a> {
    /// As the format names it, e.g. `amd64`.
    pub arch: &'a str,
    pub kernel: (u32, u32),
    /// What the container may have at most.
    pub capabilities: &'a CapabilitySet,
}

impl SeccompProfile {
    /// Reads a profile's text; the error says where it is wrong.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let mut json = serde_json::Deserializer::from_slice(bytes);
        let profile: Self =
            serde_path_to_error::deserialize(&mut json).map_err(|e| e.to_string())?;
        json.end().map_err(|e| e.to_string())?;
        if !profile.architectures.is_empty() && !profile.arch_map.is_empty() {
            return Err("it has both `architectures` and `archMap`".to_owned());
        }
        let named_twice = |r: &&Rule| !r.name.is_empty() && !r.names.is_empty();
        if let Some(rule) = profile.syscalls.iter().find(named_twice) {
            return Err(format!(
                "the rule for `{}` has both `name` and `names`",
                rule.name
            ));
        }
        let far = |r: &Rule| r.args.iter().flatten().any(|a| a.index > 5);
        if profile.syscalls.iter().any(far) {
            return Err("a rule looks at an argument after the sixth".to_owned());
        }
        Ok(profile)
    }

    /// Reads a profile's file.
    pub fn load(path: &Path) -> Result<Self, SpecError> {
        let seccomp = |problem: String| SpecError::Seccomp {
            path: path.to_owned(),
            problem,
        };
        let bytes = read_capped(path, LARGEST_PROFILE).map_err(|e| seccomp(e.to_string()))?;
        Self::parse(&bytes).map_err(seccomp)
    }

    /// The profile that we bring.
    pub fn builtin() -> Result<Self, SpecError> {
        Self::parse(BUILTIN.as_bytes()).map_err(|problem| SpecError::Seccomp {
            path: "the built-in profile".into(),
            problem,
        })
    }

    /// The flat form for one container.
    pub fn resolve(&self, at: &Circumstances<'_>) -> Result<LinuxSeccomp, SpecError> {
        let mut rules = Vec::new();
        for rule in self.syscalls.iter().filter(|r| r.applies(at)) {
            rules.extend(rule.flat()?);
        }
        let mut profile = LinuxSeccompBuilder::default()
            .default_action(self.default_action)
            .architectures(self.architectures(at.arch))
            .syscalls(rules);
        if let Some(errno) = self.default_errno_ret {
            profile = profile.default_errno_ret(errno);
        }
        if !self.flags.is_empty() {
            profile = profile.flags(self.flags.clone());
        }
        if let Some(path) = &self.listener_path {
            profile = profile.listener_path(path.clone());
        }
        if let Some(metadata) = &self.listener_metadata {
            profile = profile.listener_metadata(metadata.clone());
        }
        profile.build().map_err(SpecError::Assemble)
    }

    fn architectures(&self, arch: &str) -> Vec<Arch> {
        if self.arch_map.is_empty() {
            return self.architectures.clone();
        }
        let native = self
            .arch_map
            .iter()
            .find(|a| go_name(a.architecture) == Some(arch));
        let Some(native) = native else {
            // The runtime adds the one it runs on.
            return Vec::new();
        };
        let mut all = vec![native.architecture];
        all.extend(native.sub_architectures.iter().flatten());
        all
    }
}

impl Rule {
    fn applies(&self, at: &Circumstances<'_>) -> bool {
        let has = |name: &String| capability(name).is_some_and(|c| at.capabilities.contains(c));
        let is_arch = |name: &String| name == at.arch;
        let reached = |min: &String| at.kernel >= version(min);
        if let Some(c) = &self.excludes
            && (c.caps.iter().flatten().any(has)
                || c.arches.iter().flatten().any(is_arch)
                || c.min_kernel.as_ref().is_some_and(reached))
        {
            return false;
        }
        let Some(c) = &self.includes else { return true };
        let arches: Vec<&String> = c.arches.iter().flatten().collect();
        c.caps.iter().flatten().all(has)
            && (arches.is_empty() || arches.into_iter().any(is_arch))
            && c.min_kernel.as_ref().is_none_or(reached)
    }

    /// None for a rule about nothing, which a runtime would refuse.
    fn flat(&self) -> Result<Option<LinuxSyscall>, SpecError> {
        let mut names = self.names.clone();
        if !self.name.is_empty() {
            names.push(self.name.clone());
        }
        if names.is_empty() {
            return Ok(None);
        }
        let args = self.args.iter().flatten().map(Argument::flat);
        let args: Vec<LinuxSeccompArg> = args.collect::<Result<_, _>>()?;
        let mut rule = LinuxSyscallBuilder::default()
            .names(names)
            .action(self.action);
        if !args.is_empty() {
            rule = rule.args(args);
        }
        if let Some(errno) = self.errno_ret {
            rule = rule.errno_ret(errno);
        }
        rule.build().map(Some).map_err(SpecError::Assemble)
    }
}

impl Argument {
    fn flat(&self) -> Result<LinuxSeccompArg, SpecError> {
        LinuxSeccompArgBuilder::default()
            .index(self.index)
            .value(self.value)
            .value_two(self.value_two)
            .op(self.op)
            .build()
            .map_err(SpecError::Assemble)
    }
}

/// This machine's architecture as the format names it.
pub fn native() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
        other => other,
    }
}

fn go_name(arch: Arch) -> Option<&'static str> {
    Some(match arch {
        Arch::ScmpArchX86_64 => "amd64",
        Arch::ScmpArchAarch64 => "arm64",
        Arch::ScmpArchX86 => "386",
        Arch::ScmpArchArm => "arm",
        Arch::ScmpArchPpc64le => "ppc64le",
        Arch::ScmpArchS390x => "s390x",
        Arch::ScmpArchRiscv64 => "riscv64",
        Arch::ScmpArchLoongarch64 => "loongarch64",
        Arch::ScmpArchMips64 => "mips64",
        Arch::ScmpArchMipsel64 => "mips64el",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::Capability;

    fn at<'a>(capabilities: &'a CapabilitySet) -> Circumstances<'a> {
        Circumstances {
            arch: "amd64",
            kernel: (6, 1),
            capabilities,
        }
    }

    /// What the profile says about a system call called with these arguments: the action of the
    /// first rule that matches, as libseccomp's filters do for disjoint rules.
    fn action(profile: &LinuxSeccomp, call: &str, args: &[u64]) -> LinuxSeccompAction {
        let matches = |rule: &&LinuxSyscall| {
            rule.names().iter().any(|n| n == call)
                && rule.args().iter().flatten().all(|a| {
                    let value = args.get(a.index()).copied().unwrap_or(0);
                    match a.op() {
                        LinuxSeccompOperator::ScmpCmpEq => value == a.value(),
                        LinuxSeccompOperator::ScmpCmpNe => value != a.value(),
                        LinuxSeccompOperator::ScmpCmpMaskedEq => {
                            Some(value & a.value()) == a.value_two()
                        }
                        other => panic!("no rule of ours uses {other}"),
                    }
                })
        };
        let rules = profile.syscalls().as_ref().unwrap();
        let found = rules.iter().find(matches);
        found.map_or(profile.default_action(), |rule| rule.action())
    }

    #[test]
    fn the_builtin_profile() {
        use LinuxSeccompAction::{ScmpActAllow as Allow, ScmpActErrno as Errno};
        let builtin = SeccompProfile::builtin().unwrap();
        let none = CapabilitySet::default();
        let plain = builtin.resolve(&at(&none)).unwrap();
        let admin: CapabilitySet = [Capability::SysAdmin].into_iter().collect();
        let admin = builtin.resolve(&at(&admin)).unwrap();
        for call in [
            "read",
            "openat",
            "clone3",
            "execve",
            "statx",
            "futex",
            "epoll_wait",
        ] {
            assert_eq!(action(&plain, call, &[]), Allow, "{call}");
        }
        for call in ["unshare", "sethostname", "bpf", "setns", "perf_event_open"] {
            assert_eq!(action(&plain, call, &[]), Errno, "{call}");
            assert_eq!(action(&admin, call, &[]), Allow, "{call}");
        }
        for call in [
            "kexec_load",
            "init_module",
            "ptrace",
            "no_such_call",
            "userfaultfd",
        ] {
            assert_eq!(action(&plain, call, &[]), Errno, "{call}");
        }
        assert_eq!(action(&plain, "personality", &[0x20000]), Allow);
        assert_eq!(action(&plain, "personality", &[0x40000]), Errno);
        // A netlink audit socket needs CAP_AUDIT_WRITE; the others do not.
        assert_eq!(action(&plain, "socket", &[16, 3, 9]), Errno);
        assert_eq!(action(&plain, "socket", &[16, 3, 0]), Allow);
        assert_eq!(action(&plain, "socket", &[2, 1, 0]), Allow);
        assert_eq!(plain.default_action(), Errno);
        assert_eq!(plain.default_errno_ret(), Some(38));
        assert_eq!(
            plain.architectures().as_ref().unwrap(),
            &[Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32]
        );
    }

    #[test]
    fn no_call_is_listed_twice_in_the_builtin_profile() {
        let builtin = SeccompProfile::builtin().unwrap();
        let mut seen = std::collections::BTreeSet::new();
        for rule in &builtin.syscalls {
            let unconditional =
                |c: &Option<Condition>| c.as_ref().is_none_or(|c| *c == Condition::default());
            if rule.args.is_none() && unconditional(&rule.includes) && unconditional(&rule.excludes)
            {
                for name in &rule.names {
                    assert!(seen.insert(name), "{name}");
                }
            }
        }
        assert!(seen.len() > 300);
    }

    #[test]
    fn conditions() {
        let profile = br#"{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
            {"names": ["a"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["arm64"]}},
            {"names": ["b"], "action": "SCMP_ACT_ALLOW", "excludes": {"arches": ["arm64"]}},
            {"names": ["c"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4.8"}},
            {"names": ["d"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "6.2"}},
            {"names": ["e"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_CHOWN", "CAP_KILL"]}},
            {"names": ["f"], "action": "SCMP_ACT_ALLOW", "excludes": {"caps": ["CAP_CHOWN"]}},
            {"name": "g", "action": "SCMP_ACT_LOG", "args": null},
            {"names": [], "action": "SCMP_ACT_LOG"}
        ]}"#;
        let profile = SeccompProfile::parse(profile).unwrap();
        let chown: CapabilitySet = [Capability::Chown].into_iter().collect();
        let flat = profile.resolve(&at(&chown)).unwrap();
        let names: Vec<&String> = flat
            .syscalls()
            .iter()
            .flatten()
            .flat_map(|r| r.names())
            .collect();
        assert_eq!(names, ["b", "c", "g"]);
    }

    #[test]
    fn a_runtime_profile_is_read_as_well() {
        let profile =
            br#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"],
            "flags": ["SECCOMP_FILTER_FLAG_LOG"],
            "syscalls": [{"names": ["chmod"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}]}"#;
        let profile = SeccompProfile::parse(profile).unwrap();
        let flat = profile.resolve(&at(&CapabilitySet::default())).unwrap();
        assert_eq!(flat.architectures().as_ref().unwrap().len(), 1);
        assert_eq!(
            action(&flat, "chmod", &[]),
            LinuxSeccompAction::ScmpActErrno
        );
    }

    #[test]
    fn mistakes_are_named() {
        let e = |text: &str| SeccompProfile::parse(text.as_bytes()).unwrap_err();
        assert!(e("{").contains("EOF"));
        let action = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["x"], "action": "NO"}]}"#;
        assert!(e(action).contains("syscalls[0].action"), "{}", e(action));
        let index = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["x"],
            "action": "SCMP_ACT_LOG", "args": [{"index": 6, "value": 1, "op": "SCMP_CMP_EQ"}]}]}"#;
        assert!(e(index).contains("sixth"));
        let e = SeccompProfile::load(Path::new("/no/such/profile")).unwrap_err();
        assert!(e.to_string().contains("/no/such/profile"), "{e}");
    }
}
