//! The security settings that pods and containers share: seccomp and AppArmor profiles, SELinux
//! labels, capabilities as they are asked for, id mappings.

use oci_spec::runtime::Capability;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

use crate::cri::v1;
use crate::ocid::field::{FieldError, absolute, no_nul, plain, unknown_enum};

/// Which seccomp or AppArmor profile a container wants.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Profile {
    /// Nothing was said. For seccomp that is unconfined, as CRI-O and the CRI's validation have it;
    /// for AppArmor it is the runtime's default.
    #[default]
    Unset,
    RuntimeDefault,
    Unconfined,
    /// A file (seccomp, absolute) or the name of a loaded profile (AppArmor).
    Localhost(String),
}

impl Profile {
    /// Reads a seccomp profile; `old` is the deprecated field by path, heeded where the new one is
    /// absent.
    pub(crate) fn seccomp(
        field: &str,
        new: Option<v1::SecurityProfile>,
        old: &str,
    ) -> Result<Self, FieldError> {
        let profile = match new {
            Some(profile) => Self::parse(&format!("{field}.seccomp"), profile)?,
            None => Self::parse_old(&format!("{field}.seccomp_profile_path"), old)?,
        };
        if let Self::Localhost(path) = &profile {
            absolute(&format!("{field}.seccomp.localhost_ref"), path)?;
        }
        Ok(profile)
    }

    /// Reads an AppArmor profile; `old` is the deprecated field.
    pub(crate) fn apparmor(
        field: &str,
        new: Option<v1::SecurityProfile>,
        old: &str,
    ) -> Result<Self, FieldError> {
        match new {
            Some(profile) => Self::parse(&format!("{field}.apparmor"), profile),
            None => Self::parse_old(&format!("{field}.apparmor_profile"), old),
        }
    }

    fn parse(field: &str, profile: v1::SecurityProfile) -> Result<Self, FieldError> {
        use v1::security_profile::ProfileType;
        let kind = ProfileType::try_from(profile.profile_type)
            .map_err(|e| unknown_enum(&format!("{field}.profile_type"), e.0))?;
        Ok(match kind {
            ProfileType::RuntimeDefault => Self::RuntimeDefault,
            ProfileType::Unconfined => Self::Unconfined,
            ProfileType::Localhost => {
                let field = format!("{field}.localhost_ref");
                no_nul(&field, &profile.localhost_ref)?;
                // Clients of the older fields keep their prefix here.
                let name = profile.localhost_ref.as_str();
                let name = name.strip_prefix("localhost/").unwrap_or(name);
                if name.is_empty() {
                    return Err(FieldError::required(field));
                }
                Self::Localhost(name.to_owned())
            }
        })
    }

    fn parse_old(field: &str, text: &str) -> Result<Self, FieldError> {
        no_nul(field, text)?;
        Ok(match text {
            "" => Self::Unset,
            "runtime/default" | "docker/default" => Self::RuntimeDefault,
            "unconfined" => Self::Unconfined,
            other => match other.strip_prefix("localhost/") {
                Some(name) if !name.is_empty() => Self::Localhost(name.to_owned()),
                _ => {
                    let problem = format!(
                        "is `{other}`, neither `runtime/default`, `unconfined` nor `localhost/NAME`"
                    );
                    return Err(FieldError::new(field, problem));
                }
            },
        })
    }
}

/// SELinux options; empty parts are left to the policy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Selinux {
    pub user: String,
    pub role: String,
    pub kind: String,
    pub level: String,
}

impl Selinux {
    pub(crate) fn parse(
        field: &str,
        options: Option<v1::SeLinuxOption>,
    ) -> Result<Option<Self>, FieldError> {
        let Some(options) = options else {
            return Ok(None);
        };
        let parts = [
            ("user", &options.user),
            ("role", &options.role),
            ("type", &options.r#type),
            ("level", &options.level),
        ];
        for (name, value) in parts {
            plain(&format!("{field}.{name}"), value)?;
        }
        let wanted = Self {
            user: options.user,
            role: options.role,
            kind: options.r#type,
            level: options.level,
        };
        Ok((wanted != Self::default()).then_some(wanted))
    }
}

/// Capabilities as a container asks for them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CapabilityChanges {
    pub add_all: bool,
    pub drop_all: bool,
    pub add: Vec<Capability>,
    pub drop: Vec<Capability>,
    pub add_ambient: Vec<Capability>,
}

impl CapabilityChanges {
    pub(crate) fn parse(field: &str, asked: Option<v1::Capability>) -> Result<Self, FieldError> {
        let asked = asked.unwrap_or_default();
        let (add_all, add) = Self::names(
            &format!("{field}.add_capabilities"),
            &asked.add_capabilities,
        )?;
        let (drop_all, drop) = Self::names(
            &format!("{field}.drop_capabilities"),
            &asked.drop_capabilities,
        )?;
        let ambient = format!("{field}.add_ambient_capabilities");
        let (ambient_all, add_ambient) = Self::names(&ambient, &asked.add_ambient_capabilities)?;
        if ambient_all {
            return Err(FieldError::new(ambient, "cannot be `ALL`"));
        }
        Ok(Self {
            add_all,
            drop_all,
            add,
            drop,
            add_ambient,
        })
    }

    fn names(field: &str, names: &[String]) -> Result<(bool, Vec<Capability>), FieldError> {
        let mut all = false;
        let mut known = Vec::new();
        for (i, name) in names.iter().enumerate() {
            if name.eq_ignore_ascii_case("ALL") {
                all = true;
            } else {
                let capability = super::capabilities::parse(name).ok_or_else(|| {
                    let problem = format!("is `{name}`, not a capability");
                    FieldError::new(format!("{field}[{i}]"), problem)
                })?;
                known.push(capability);
            }
        }
        Ok((all, known))
    }
}

/// A range of user or group ids: `length` ids from `container_id` on are `host_id` and on outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMapping {
    pub container_id: u32,
    pub host_id: u32,
    pub length: u32,
}

impl IdMapping {
    pub(crate) fn parse(field: &str, list: &[v1::IdMapping]) -> Result<Vec<Self>, FieldError> {
        let range = |(i, m): (usize, &v1::IdMapping)| {
            let fits = |start: u32| start.checked_add(m.length).is_some();
            if m.length == 0 || !fits(m.host_id) || !fits(m.container_id) {
                let problem = "is empty or leaves the range of ids";
                return Err(FieldError::new(format!("{field}[{i}]"), problem));
            }
            Ok(Self {
                container_id: m.container_id,
                host_id: m.host_id,
                length: m.length,
            })
        };
        list.iter().enumerate().map(range).collect()
    }
}

impl From<IdMapping> for v1::IdMapping {
    fn from(m: IdMapping) -> Self {
        Self {
            host_id: m.host_id,
            container_id: m.container_id,
            length: m.length,
        }
    }
}

/// Paths that a container shall not see or not write.
pub(crate) fn paths(field: &str, list: &[String]) -> Result<Vec<PathBuf>, FieldError> {
    let one = |(i, path): (usize, &String)| absolute(&format!("{field}[{i}]"), path);
    list.iter().enumerate().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cri::v1::security_profile::ProfileType;

    fn profile(kind: ProfileType, name: &str) -> Option<v1::SecurityProfile> {
        Some(v1::SecurityProfile {
            profile_type: kind.into(),
            localhost_ref: name.into(),
        })
    }

    #[test]
    fn profiles_old_and_new() {
        let new = |kind, name| Profile::seccomp("sc", profile(kind, name), "unconfined");
        assert_eq!(
            new(ProfileType::RuntimeDefault, "").unwrap(),
            Profile::RuntimeDefault
        );
        assert_eq!(
            new(ProfileType::Localhost, "localhost//p.json").unwrap(),
            Profile::Localhost("/p.json".into())
        );
        let e = new(ProfileType::Localhost, "").unwrap_err().to_string();
        assert_eq!(e, "`sc.seccomp.localhost_ref` is required");
        let e = new(ProfileType::Localhost, "a/../p").unwrap_err();
        assert_eq!(e.field, "sc.seccomp.localhost_ref");

        let old = |text| Profile::apparmor("sc", None, text);
        assert_eq!(old("").unwrap(), Profile::Unset);
        assert_eq!(old("runtime/default").unwrap(), Profile::RuntimeDefault);
        assert_eq!(old("unconfined").unwrap(), Profile::Unconfined);
        assert_eq!(
            old("localhost/mine").unwrap(),
            Profile::Localhost("mine".into())
        );
        assert_eq!(old("mine").unwrap_err().field, "sc.apparmor_profile");
        let unknown = v1::SecurityProfile {
            profile_type: 9,
            localhost_ref: String::new(),
        };
        let e = Profile::apparmor("sc", Some(unknown), "").unwrap_err();
        assert_eq!(
            e.to_string(),
            "`sc.apparmor.profile_type` has the unknown value 9"
        );
    }

    #[test]
    fn capabilities_by_any_spelling() {
        let asked = v1::Capability {
            add_capabilities: vec!["net_admin".into(), "CAP_SYS_TIME".into()],
            drop_capabilities: vec!["all".into()],
            ..Default::default()
        };
        let changes = CapabilityChanges::parse("c", Some(asked)).unwrap();
        assert!(changes.drop_all && !changes.add_all);
        assert_eq!(changes.add, [Capability::NetAdmin, Capability::SysTime]);
        let asked = v1::Capability {
            add_capabilities: vec!["CHOWN".into(), "FLY".into()],
            ..Default::default()
        };
        let e = CapabilityChanges::parse("c", Some(asked)).unwrap_err();
        assert_eq!(
            e.to_string(),
            "`c.add_capabilities[1]` is `FLY`, not a capability"
        );
    }

    #[test]
    fn mappings_stay_in_range() {
        let map = |host_id, length| {
            let m = v1::IdMapping {
                host_id,
                container_id: 0,
                length,
            };
            IdMapping::parse("m", &[m])
        };
        assert!(map(100_000, 65_536).is_ok());
        assert!(map(100_000, 0).is_err());
        assert!(map(u32::MAX, 2).is_err());
    }

    #[test]
    fn selinux_without_content_is_none() {
        let none = Selinux::parse("s", Some(v1::SeLinuxOption::default())).unwrap();
        assert_eq!(none, None);
        let some = v1::SeLinuxOption {
            user: "u".into(),
            role: "r".into(),
            r#type: "t".into(),
            level: String::new(),
        };
        let some = Selinux::parse("s", Some(some)).unwrap().unwrap();
        assert_eq!((some.kind.as_str(), some.level.as_str()), ("t", ""));
    }
}
