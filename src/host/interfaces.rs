//! Network interfaces' counters, from `/proc/net/dev` (proc_pid_net(5)).
//!
//! Read there and not by netlink: RTM_GETLINK waits for the lock under which plugins make and delete interfaces,
//! on every machine and in every namespace at once.
//!
//! The file stays open between reads, since it is of the namespace in which it was opened wherever it is read: to
//! enter a namespace and to find the file there costs several times what the kernel takes to write it anew. An open
//! one keeps its namespace alive, so whoever unpins one has it closed ([`Interfaces::forget`]).

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::sys::resource::{Resource, getrlimit};

use super::context::during;
use super::namespace;
use super::text::Text;

/// Of the thread, not of the process, as the thread alone is in the namespace.
const FILE: &str = "/proc/thread-self/net/dev";
/// So many are kept, and a sixteenth of what this process may have open where that is less; the rest is opened for
/// each read. More pods than kubelet runs on any machine.
const MOST: usize = 1024;

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

/// The files of pinned network namespaces, by the pin. One per daemon.
#[derive(Debug, Default)]
pub struct Interfaces(Mutex<HashMap<PathBuf, Arc<File>>>);

impl Interfaces {
    /// The interfaces in each of these pinned network namespaces, in the kernel's order. An error is that
    /// namespace's own. Blocks.
    pub fn in_each(&self, namespaces: &[PathBuf]) -> io::Result<Vec<io::Result<Vec<Interface>>>> {
        let known: Vec<_> = {
            let kept = self.kept();
            namespaces
                .iter()
                .map(|pin| kept.get(pin).cloned())
                .collect()
        };
        let is_new = |(pin, known): (&PathBuf, &Option<_>)| known.is_none().then(|| pin.clone());
        let new: Vec<_> = namespaces.iter().zip(&known).filter_map(is_new).collect();
        let (room, read_first) = (self.room(), AtomicUsize::new(0));
        let open = || -> io::Result<(Vec<Interface>, Option<File>)> {
            let file = File::open(FILE).map_err(during(format_args!("open `{FILE}`")))?;
            let found = read(&file)?;
            let fits = read_first.fetch_add(1, Ordering::Relaxed) < room;
            Ok((found, fits.then_some(file)))
        };
        let first = match new.is_empty() {
            true => Vec::new(),
            false => namespace::run_in_each(&new, open)?,
        };
        let mut first = new.iter().zip(first).map(|(pin, found)| {
            let (found, file) = found.and_then(|found| found)?;
            if let Some(file) = file {
                self.keep(pin, file);
            }
            Ok(found)
        });
        let missing = || Err(io::Error::other("it was not read"));
        let each = known.iter().map(|known| match known {
            Some(file) => read(file),
            None => first.next().unwrap_or_else(missing),
        });
        Ok(each.collect())
    }

    /// Closes what is open of a namespace whose pin has gone; whatever reads it now is the last to do so.
    pub fn forget(&self, pin: &Path) {
        self.kept().remove(pin);
    }

    fn keep(&self, pin: &Path, file: File) {
        let mut kept = self.kept();
        // Unpinned since it was opened: nobody comes to forget it.
        if namespace::is_pinned(pin).unwrap_or(false) {
            kept.insert(pin.to_owned(), Arc::new(file));
        }
    }

    /// How many more may be kept.
    fn room(&self) -> usize {
        let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((0, 0));
        let most = MOST.min(usize::try_from(soft / 16).unwrap_or(MOST));
        most.saturating_sub(self.kept().len())
    }

    fn kept(&self) -> MutexGuard<'_, HashMap<PathBuf, Arc<File>>> {
        // Whole whatever a panicking thread was at.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(file: &File) -> io::Result<Vec<Interface>> {
    let mut text = Text::new();
    text.read(file)
        .map_err(during(format_args!("read `{FILE}`")))?;
    let found = std::str::from_utf8(text.bytes()).ok().and_then(parse);
    found.ok_or_else(|| {
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
    use crate::host::namespace::Wanted;

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
        let interfaces = Interfaces::default();
        let found = interfaces.in_each(&[file, folder.path().join("gone"), own]);
        let found = found.unwrap();
        assert_eq!(found.len(), 3);
        assert!(found[0].is_err() && found[1].is_err());
        if nix::unistd::geteuid().is_root() {
            let interfaces = found[2].as_ref().unwrap();
            assert!(interfaces.iter().any(|i| i.name == "lo"), "{interfaces:?}");
        }
        assert!(interfaces.in_each(&[]).unwrap().is_empty());
    }

    /// Of the kernel, where a test may make namespaces.
    #[test]
    fn a_kept_file_tells_of_its_own_namespace_and_of_now() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let wanted = Wanted {
            net: true,
            ..Wanted::default()
        };
        let dirs = ["a", "b"].map(|name| folder.path().join(name));
        let pins = dirs.each_ref().map(|dir| {
            let pinned = namespace::pin(dir, &wanted).unwrap();
            pinned.net.unwrap()
        });
        let interfaces = Interfaces::default();
        let packets = || {
            let found = interfaces.in_each(&pins).unwrap();
            let found = found.into_iter().map(|one| {
                let one = one.unwrap();
                assert_eq!((one.len(), one[0].name.as_str()), (1, "lo"));
                one[0].received.packets
            });
            found.collect::<Vec<_>>()
        };
        assert_eq!(packets(), [0, 0]);
        assert_eq!(interfaces.kept().len(), 2);
        namespace::run_in(&pins[1], || {
            let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
            let own = socket.local_addr().unwrap();
            socket.send_to(b"x", own).unwrap();
            socket.recv_from(&mut [0]).unwrap();
        })
        .unwrap();
        let later = packets();
        assert!(later[0] == 0 && later[1] > 0, "{later:?}");
        namespace::unpin(&dirs[0]).unwrap();
        interfaces.forget(&pins[0]);
        let found = interfaces.in_each(&pins).unwrap();
        assert!(found[0].is_err() && found[1].is_ok());
        assert_eq!(interfaces.kept().len(), 1);
        namespace::unpin(&dirs[1]).unwrap();
        // Read by a call that began before.
        let file = File::open("/proc/self/net/dev").unwrap();
        interfaces.forget(&pins[1]);
        interfaces.keep(&pins[1], file);
        assert_eq!(interfaces.kept().len(), 0);
    }
}
