//! Network interfaces' counters, from `/proc/net/dev` (proc_pid_net(5)).
//!
//! Read there and not by netlink: RTM_GETLINK waits for the lock under which plugins make and delete interfaces,
//! on every machine and in every namespace at once.

use std::io;
use std::path::PathBuf;

use super::context::during;
use super::namespace;

/// Of the thread, not of the process, as the thread alone is in the namespace.
const FILE: &str = "/proc/thread-self/net/dev";

/// What went through an interface since it was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    pub name: String,
    pub received: Traffic,
    pub sent: Traffic,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    pub bytes: u64,
    pub packets: u64,
    pub errors: u64,
    pub dropped: u64,
}

/// The interfaces in each of these pinned network namespaces, in the kernel's order. An error is that namespace's
/// own. Blocks.
pub fn in_each(namespaces: &[PathBuf]) -> io::Result<Vec<io::Result<Vec<Interface>>>> {
    if namespaces.is_empty() {
        return Ok(Vec::new());
    }
    let found = namespace::run_in_each(namespaces, read)?;
    Ok(found
        .into_iter()
        .map(|one| one.and_then(|one| one))
        .collect())
}

fn read() -> io::Result<Vec<Interface>> {
    let text = std::fs::read_to_string(FILE).map_err(during(format_args!("read `{FILE}`")))?;
    parse(&text).ok_or_else(|| {
        let message = format!("`{FILE}` has a line that is no interface");
        io::Error::new(io::ErrorKind::InvalidData, message)
    })
}

/// Two lines of headings; then `name: ` and eight numbers for each direction.
fn parse(text: &str) -> Option<Vec<Interface>> {
    let interface = |line: &str| {
        let (name, numbers) = line.split_once(':')?;
        let numbers: Vec<u64> = numbers
            .split_ascii_whitespace()
            .map(|number| number.parse().ok())
            .collect::<Option<_>>()?;
        let traffic = |from: usize| match numbers.get(from..from + 4)? {
            &[bytes, packets, errors, dropped] => Some(Traffic {
                bytes,
                packets,
                errors,
                dropped,
            }),
            _ => None,
        };
        Some(Interface {
            name: name.trim().to_owned(),
            received: traffic(0)?,
            sent: traffic(8)?,
        })
    };
    text.lines().skip(2).map(interface).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORDED: &str = "\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo: 168 2 0 0 0 0 0 0 168 2 0 0 0 0 0 0
  eth0: 6816424659  370483    3    4    0     0          0         9 5816424659  270483    1    2    0     0       7          0
";

    #[test]
    fn each_line_is_an_interface() {
        let found = parse(RECORDED).unwrap();
        let names: Vec<_> = found.iter().map(|i| i.name.as_str()).collect();
        assert_eq!(names, ["lo", "eth0"]);
        let traffic = |bytes, packets, errors, dropped| Traffic {
            bytes,
            packets,
            errors,
            dropped,
        };
        assert_eq!(found[1].received, traffic(6816424659, 370483, 3, 4));
        assert_eq!(found[1].sent, traffic(5816424659, 270483, 1, 2));
        assert_eq!(parse("a\nb\n").unwrap(), []);
        assert_eq!(parse("a\nb\neth0: 1 2 3\n"), None);
        assert_eq!(parse("a\nb\nno colon\n"), None);
    }

    #[test]
    fn a_namespace_that_is_none_has_its_own_error() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("net");
        std::fs::write(&file, "").unwrap();
        let own = PathBuf::from("/proc/self/ns/net");
        let found = in_each(&[file, folder.path().join("gone"), own]).unwrap();
        assert_eq!(found.len(), 3);
        assert!(found[0].is_err() && found[1].is_err());
        if nix::unistd::geteuid().is_root() {
            let interfaces = found[2].as_ref().unwrap();
            assert!(interfaces.iter().any(|i| i.name == "lo"), "{interfaces:?}");
        }
    }
}
