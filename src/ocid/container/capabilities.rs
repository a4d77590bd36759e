//! Capabilities: names, kernel numbers, and the set a container gets.

use std::collections::BTreeSet;

use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities, LinuxCapabilitiesBuilder};

use super::error::SpecError;
use super::security::CapabilityChanges;

/// Every capability at its number (linux/capability.h).
const BY_NUMBER: [Capability; 41] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::DacReadSearch,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setpcap,
    Capability::LinuxImmutable,
    Capability::NetBindService,
    Capability::NetBroadcast,
    Capability::NetAdmin,
    Capability::NetRaw,
    Capability::IpcLock,
    Capability::IpcOwner,
    Capability::SysModule,
    Capability::SysRawio,
    Capability::SysChroot,
    Capability::SysPtrace,
    Capability::SysPacct,
    Capability::SysAdmin,
    Capability::SysBoot,
    Capability::SysNice,
    Capability::SysResource,
    Capability::SysTime,
    Capability::SysTtyConfig,
    Capability::Mknod,
    Capability::Lease,
    Capability::AuditWrite,
    Capability::AuditControl,
    Capability::Setfcap,
    Capability::MacOverride,
    Capability::MacAdmin,
    Capability::Syslog,
    Capability::WakeAlarm,
    Capability::BlockSuspend,
    Capability::AuditRead,
    Capability::Perfmon,
    Capability::Bpf,
    Capability::CheckpointRestore,
];

/// Reads `SYS_ADMIN`, `CAP_SYS_ADMIN` or either in lower case.
pub fn parse(name: &str) -> Option<Capability> {
    let upper = name.to_ascii_uppercase();
    let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
    BY_NUMBER.iter().copied().find(|c| c.to_string() == bare)
}

/// The name with its prefix, e.g. `CAP_SYS_ADMIN`.
pub fn name(capability: Capability) -> String {
    format!("CAP_{capability}")
}

/// A set of capabilities in the order of their numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CapabilitySet(BTreeSet<usize>);

impl CapabilitySet {
    /// From a mask of `/proc/PID/status` (capabilities(7)); numbers that we do not know are left out,
    /// since a spec could not name them.
    pub fn from_mask(mask: u64) -> Self {
        Self(
            (0..BY_NUMBER.len())
                .filter(|n| mask >> n & 1 == 1)
                .collect(),
        )
    }

    pub fn contains(&self, capability: Capability) -> bool {
        number(capability).is_some_and(|n| self.0.contains(&n))
    }

    pub fn insert(&mut self, capability: Capability) {
        self.0.extend(number(capability));
    }

    pub fn remove(&mut self, capability: Capability) {
        if let Some(n) = number(capability) {
            self.0.remove(&n);
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = Capability> + '_ {
        self.0.iter().filter_map(|n| BY_NUMBER.get(*n).copied())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn oci(&self) -> Capabilities {
        self.iter().collect()
    }
}

impl FromIterator<Capability> for CapabilitySet {
    fn from_iter<I: IntoIterator<Item = Capability>>(list: I) -> Self {
        Self(list.into_iter().filter_map(number).collect())
    }
}

fn number(capability: Capability) -> Option<usize> {
    BY_NUMBER.iter().position(|c| *c == capability)
}

/// What a container gets, and what was asked for by name but is not to be had on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Granted {
    pub bounding: CapabilitySet,
    pub ambient: CapabilitySet,
    pub refused: Vec<Capability>,
}

/// `ALL` is taken first, then the single names, so that `add: [ALL], drop: [CHOWN]` is all but one
/// and `drop: [ALL], add: [CHOWN]` is one. The defaults count only where no `ALL` stands. Nothing
/// beyond the machine's own bounding set can be given.
pub fn grant(
    defaults: &[Capability],
    changes: &CapabilityChanges,
    privileged: bool,
    machine: &CapabilitySet,
) -> Granted {
    let mut wanted = CapabilitySet::default();
    let mut ambient = CapabilitySet::default();
    let mut named: Vec<Capability> = Vec::new();
    if privileged {
        wanted = machine.clone();
    } else {
        if changes.add_all && !changes.drop_all {
            wanted = machine.clone();
        } else if !changes.drop_all {
            wanted = defaults.iter().copied().collect();
        }
        for capability in changes.add.iter().chain(&changes.add_ambient) {
            wanted.insert(*capability);
            named.push(*capability);
        }
        for capability in &changes.drop {
            wanted.remove(*capability);
        }
        ambient = changes.add_ambient.iter().copied().collect();
    }
    let has = |c: &Capability| machine.contains(*c);
    let bounding: CapabilitySet = wanted.iter().filter(has).collect();
    Granted {
        ambient: ambient.iter().filter(|c| bounding.contains(*c)).collect(),
        refused: named.into_iter().filter(|c| !has(c)).collect(),
        bounding,
    }
}

impl Granted {
    /// The five sets. The inheritable one stays empty (CVE-2022-27652) unless `inheritable` asks
    /// for it; ambient capabilities need to be inheritable too.
    pub fn oci(&self, inheritable: bool) -> Result<LinuxCapabilities, SpecError> {
        let inherited = if inheritable {
            &self.bounding
        } else {
            &self.ambient
        };
        LinuxCapabilitiesBuilder::default()
            .bounding(self.bounding.oci())
            .effective(self.bounding.oci())
            .permitted(self.bounding.oci())
            .inheritable(inherited.oci())
            .ambient(self.ambient.oci())
            .build()
            .map_err(SpecError::Assemble)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Capability::*;

    fn machine() -> CapabilitySet {
        // All but CAP_SYS_RESOURCE (24).
        CapabilitySet::from_mask(0x1ff_feff_ffff)
    }

    fn got(changes: CapabilityChanges, privileged: bool) -> Granted {
        grant(&[Chown, Kill], &changes, privileged, &machine())
    }

    #[test]
    fn numbers_are_the_kernels() {
        assert_eq!(number(Chown), Some(0));
        assert_eq!(number(SysAdmin), Some(21));
        assert_eq!(number(SysResource), Some(24));
        assert_eq!(number(AuditRead), Some(37));
        assert_eq!(number(CheckpointRestore), Some(40));
        assert_eq!(machine().iter().count(), 40);
        assert!(!machine().contains(SysResource));
        assert_eq!(CapabilitySet::from_mask(u64::MAX).iter().count(), 41);
        for capability in BY_NUMBER {
            assert_eq!(parse(&name(capability)), Some(capability));
        }
    }

    #[test]
    fn defaults_with_additions_and_drops() {
        let changes = CapabilityChanges {
            add: vec![NetAdmin],
            drop: vec![Kill],
            ..Default::default()
        };
        let granted = got(changes, false);
        assert_eq!(
            granted.bounding.iter().collect::<Vec<_>>(),
            [Chown, NetAdmin]
        );
        let oci = granted.oci(false).unwrap();
        assert_eq!(oci.bounding(), oci.effective());
        assert!(oci.inheritable().as_ref().unwrap().is_empty());
    }

    #[test]
    fn all_is_taken_before_names() {
        let all_but = CapabilityChanges {
            add_all: true,
            drop: vec![Chown],
            ..Default::default()
        };
        let granted = got(all_but, false);
        assert_eq!(granted.bounding.iter().count(), 39);
        assert!(!granted.bounding.contains(Chown));
        let only = CapabilityChanges {
            drop_all: true,
            add: vec![NetRaw],
            ..Default::default()
        };
        assert_eq!(
            got(only, false).bounding.iter().collect::<Vec<_>>(),
            [NetRaw]
        );
    }

    #[test]
    fn what_the_machine_lacks_is_not_given() {
        let granted = got(CapabilityChanges::default(), true);
        assert_eq!(granted.bounding, machine());
        assert!(granted.refused.is_empty(), "nobody named it");
        let named = CapabilityChanges {
            add: vec![SysResource],
            ..Default::default()
        };
        let granted = got(named, false);
        assert_eq!(granted.refused, [SysResource]);
        assert!(!granted.bounding.contains(SysResource));
    }

    #[test]
    fn ambient_is_inheritable_too() {
        let changes = CapabilityChanges {
            drop_all: true,
            add_ambient: vec![NetBindService],
            ..Default::default()
        };
        let oci = got(changes, false).oci(false).unwrap();
        for set in [
            oci.ambient(),
            oci.inheritable(),
            oci.permitted(),
            oci.bounding(),
        ] {
            assert_eq!(set.as_ref().unwrap().len(), 1);
        }
    }
}
