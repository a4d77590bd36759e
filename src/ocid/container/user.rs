//! Who a container runs as: names are looked up in the image's own passwd and group files.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::config::{ContainerSecurity, GroupsPolicy};
use super::error::SpecError;
use crate::host::rooted::Rooted;
use crate::host::users::{self, Group, Passwd};

/// No real passwd or group file is larger.
pub(super) const LARGEST_FILE: u64 = 16 << 20;

/// A user as the kernel knows it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResolvedUser {
    pub uid: u32,
    pub gid: u32,
    /// The primary group first; no group twice.
    pub supplemental: Vec<u32>,
}

/// Reads the image's files and resolves the user: `run_as_username`, else `run_as_user`, else the
/// image's `User`, else root.
pub fn resolve(
    rootfs: &Rooted,
    image_user: &str,
    security: &ContainerSecurity,
) -> Result<ResolvedUser, SpecError> {
    let read = |path: &str| {
        rootfs
            .read(Path::new(path), LARGEST_FILE)
            .map(Option::unwrap_or_default)
            .map_err(|e| SpecError::io("read the image's", path, e))
    };
    let passwd = users::passwd(&read("/etc/passwd")?);
    let groups = users::group(&read("/etc/group")?);
    resolve_with(&passwd, &groups, image_user, security)
}

fn resolve_with(
    passwd: &[Passwd],
    groups: &[Group],
    image_user: &str,
    security: &ContainerSecurity,
) -> Result<ResolvedUser, SpecError> {
    let by_uid: String;
    let wanted = if !security.run_as_username.is_empty() {
        security.run_as_username.as_str()
    } else if let Some(uid) = security.run_as_user {
        by_uid = uid.to_string();
        &by_uid
    } else {
        image_user
    };
    let (user, group) = match wanted.split_once(':') {
        Some((user, group)) => (user.trim(), group.trim()),
        None => (wanted.trim(), ""),
    };
    let user = if user.is_empty() { "0" } else { user };

    // A name made of digits is a name first, as `docker run --user` has it.
    let number = || user.parse::<u32>().ok().filter(|uid| *uid != u32::MAX);
    let entry = passwd
        .iter()
        .find(|p| p.name == user)
        .or_else(|| number().and_then(|uid| passwd.iter().find(|p| p.uid == uid)));
    let (uid, mut gid) = match entry {
        Some(entry) => (entry.uid, entry.gid),
        None => {
            let uid = number().ok_or_else(|| SpecError::NoSuchUser(user.to_owned()))?;
            (uid, 0)
        }
    };
    if !group.is_empty() {
        let number = || group.parse::<u32>().ok().filter(|gid| *gid != u32::MAX);
        gid = groups
            .iter()
            .find(|g| g.name == group)
            .map(|g| g.gid)
            .or_else(number)
            .ok_or_else(|| SpecError::NoSuchGroup(group.to_owned()))?;
    }
    if let Some(asked) = security.run_as_group {
        gid = asked;
    }

    let mut supplemental = vec![gid];
    // An image that names a group with its user wants that one alone.
    if security.supplemental_groups_policy == GroupsPolicy::Merge
        && group.is_empty()
        && let Some(entry) = entry
    {
        let member = |g: &&Group| g.members.contains(&entry.name);
        supplemental.extend(groups.iter().filter(member).map(|g| g.gid));
    }
    supplemental.extend(&security.supplemental_groups);
    let mut seen = std::collections::BTreeSet::new();
    supplemental.retain(|gid| seen.insert(*gid));
    Ok(ResolvedUser {
        uid,
        gid,
        supplemental,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(image: &str, security: ContainerSecurity) -> Result<ResolvedUser, SpecError> {
        let passwd = users::passwd(
            b"root:x:0:0::/root:\nredis:x:999:1000::/:\n1234:x:77:78::/:\napp:x:5:6::/:\n",
        );
        let groups =
            users::group(b"root:x:0:\nredis:x:1000:\ntape:x:26:redis,root\nmail:x:8:app,redis\n");
        resolve_with(&passwd, &groups, image, &security)
    }

    fn ids(image: &str) -> (u32, u32, Vec<u32>) {
        let u = user(image, ContainerSecurity::default()).unwrap();
        (u.uid, u.gid, u.supplemental)
    }

    #[test]
    fn the_images_user() {
        assert_eq!(ids(""), (0, 0, vec![0, 26]));
        assert_eq!(ids("redis"), (999, 1000, vec![1000, 26, 8]));
        assert_eq!(ids("999"), (999, 1000, vec![1000, 26, 8]));
        assert_eq!(ids("redis:mail"), (999, 8, vec![8]));
        assert_eq!(ids("redis:4000"), (999, 4000, vec![4000]));
        assert_eq!(ids("4000"), (4000, 0, vec![0]));
        assert_eq!(ids("4000:5000"), (4000, 5000, vec![5000]));
        assert_eq!(ids(":mail"), (0, 8, vec![8]));
        assert_eq!(ids("1234"), (77, 78, vec![78]), "a name of digits");
    }

    #[test]
    fn unknown_names() {
        let bad = |image| user(image, ContainerSecurity::default()).unwrap_err();
        assert!(matches!(bad("nobody"), SpecError::NoSuchUser(n) if n == "nobody"));
        assert!(matches!(bad("redis:nogroup"), SpecError::NoSuchGroup(n) if n == "nogroup"));
        assert!(matches!(bad("4294967295"), SpecError::NoSuchUser(_)));
        assert!(matches!(bad("-1"), SpecError::NoSuchUser(_)));
    }

    #[test]
    fn the_config_wins() {
        let security = ContainerSecurity {
            run_as_user: Some(5),
            run_as_group: Some(900),
            supplemental_groups: vec![8, 901],
            ..Default::default()
        };
        let u = user("redis:mail", security.clone()).unwrap();
        assert_eq!((u.uid, u.gid, u.supplemental), (5, 900, vec![900, 8, 901]));
        let named = ContainerSecurity {
            run_as_username: "redis".into(),
            ..security.clone()
        };
        assert_eq!(user("", named).unwrap().uid, 999);
        let strict = ContainerSecurity {
            run_as_username: "redis".into(),
            supplemental_groups_policy: GroupsPolicy::Strict,
            ..security
        };
        assert_eq!(user("", strict).unwrap().supplemental, [900, 8, 901]);
    }

    #[test]
    fn files_come_from_inside_the_rootfs() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("root/etc")).unwrap();
        std::fs::write(dir.path().join("evil"), "app:x:0:0::/:\n").unwrap();
        let link = dir.path().join("root/etc/passwd");
        std::os::unix::fs::symlink(dir.path().join("evil"), link).unwrap();
        let rootfs = Rooted::open(&dir.path().join("root")).unwrap();
        let e = resolve(&rootfs, "app", &ContainerSecurity::default()).unwrap_err();
        assert!(matches!(e, SpecError::NoSuchUser(_)));
    }
}
