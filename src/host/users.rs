//! The passwd and group files, parsed by us: glibc's name services do not survive a static binary.
//!
//! Lines that make no sense are passed over, as glibc does.

/// A line of `/etc/passwd` (passwd(5)), as far as we need it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passwd {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
    pub home: String,
}

/// A line of `/etc/group` (group(5)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    pub name: String,
    pub gid: u32,
    pub members: Vec<String>,
}

/// Reads a passwd file.
pub fn passwd(bytes: &[u8]) -> Vec<Passwd> {
    lines(bytes, |line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|n| !n.is_empty())?.to_owned();
        let uid = fields.nth(1)?.trim().parse().ok()?;
        let gid = fields.next()?.trim().parse().ok()?;
        let home = fields.nth(1).unwrap_or("").to_owned();
        Some(Passwd {
            name,
            uid,
            gid,
            home,
        })
    })
}

/// Reads a group file.
pub fn group(bytes: &[u8]) -> Vec<Group> {
    lines(bytes, |line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|n| !n.is_empty())?.to_owned();
        let gid = fields.nth(1)?.trim().parse().ok()?;
        let members = fields.next().unwrap_or("").split(',');
        let members = members.map(str::trim).filter(|m| !m.is_empty());
        Some(Group {
            name,
            gid,
            members: members.map(str::to_owned).collect(),
        })
    })
}

fn lines<T>(bytes: &[u8], parse: impl Fn(&str) -> Option<T>) -> Vec<T> {
    String::from_utf8_lossy(bytes)
        .lines()
        .map(str::trim)
        .filter(|l| !l.is_empty() && !l.starts_with('#'))
        .filter_map(parse)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwd_lines() {
        let file = b"root:x:0:0:root:/root:/bin/bash\n# note\n\nshort:x:5\n:x:1:1::/:\n\
            bad:x:no:1::/:\nredis:x:999:1000::/data:/bin/sh\r\n\xff:x:7:8:::\nbare:x:3:4\n";
        let users = passwd(file);
        let names: Vec<_> = users.iter().map(|u| u.name.as_str()).collect();
        assert_eq!(names, ["root", "redis", "\u{fffd}", "bare"]);
        assert_eq!(
            users[1],
            Passwd {
                name: "redis".into(),
                uid: 999,
                gid: 1000,
                home: "/data".into()
            }
        );
        assert_eq!(users[3].home, "");
    }

    #[test]
    fn group_lines() {
        let file = b"root:x:0:\nstaff:x:50: a, b ,,c\nbad:x:-1:\nnumberless:x\n";
        let groups = group(file);
        assert_eq!(groups.len(), 2);
        assert_eq!(groups[1].members, ["a", "b", "c"]);
    }
}
