//! How many files containers have open. To list them is a fifth of what a scrape costs, and who has not run since they
//! were last listed has neither opened nor closed one: then what was found still stands.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::host::open_files::{self, OpenFiles};
use crate::ocid::stats::known;

/// What was found stands no longer than this: a process that was moved out of the cgroup that accounts for its time
/// alone would run unseen.
const LONGEST: Duration = Duration::from_secs(60);

/// What was found, by container id.
#[derive(Debug, Default)]
pub struct Opened(Mutex<HashMap<String, Found>>);

#[derive(Debug)]
struct Found {
    at: Instant,
    /// Processor time of the container before its files were listed, in nanoseconds.
    ran: u64,
    pids: BTreeSet<i32>,
    open: OpenFiles,
}

impl Opened {
    /// The open files of a container's processes together. `ran` is its processor time, in nanoseconds, as read before
    /// this.
    pub fn of(&self, id: &str, ran: Option<u64>, pids: &BTreeSet<i32>, now: Instant) -> OpenFiles {
        let stands = |found: &&Found| {
            Some(found.ran) == ran
                && found.pids == *pids
                && now.saturating_duration_since(found.at) < LONGEST
        };
        if let Some(found) = self.all().get(id).filter(stands) {
            return found.open;
        }
        let (mut open, mut whole) = (OpenFiles::default(), true);
        for pid in pids {
            let of_one = open_files::of_process(*pid).map(Some);
            match known("open files", id, of_one) {
                Some(of_one) => {
                    open.all += of_one.all;
                    open.sockets += of_one.sockets;
                }
                None => whole = false,
            }
        }
        let mut all = self.all();
        match ran.filter(|_| whole) {
            Some(ran) => {
                let found = Found {
                    at: now,
                    ran,
                    pids: pids.clone(),
                    open,
                };
                all.insert(id.to_owned(), found);
            }
            None => {
                all.remove(id);
            }
        }
        open
    }

    /// Forgets what is no more.
    pub fn retain(&self, exists: impl Fn(&str) -> bool) {
        self.all().retain(|id, _| exists(id));
    }

    fn all(&self) -> MutexGuard<'_, HashMap<String, Found>> {
        // The map is whole whatever a panicking thread was at.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader, Write};
    use std::process::{Command, Stdio};

    #[test]
    fn they_are_listed_anew_when_there_is_a_reason() {
        let mut shell = Command::new("sh")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut orders = shell.stdin.take().unwrap();
        let mut answers = BufReader::new(shell.stdout.take().unwrap());
        let mut order = |line: &str| {
            writeln!(orders, "{line}; echo").unwrap();
            answers.read_line(&mut String::new()).unwrap();
        };
        let (opened, now) = (Opened::default(), Instant::now());
        let own = BTreeSet::from([shell.id() as i32]);
        let none = BTreeSet::new();
        let all = |ran, pids, seconds| {
            let at = now + Duration::from_secs(seconds);
            opened.of("a", ran, pids, at).all
        };
        order("exec 5</dev/null");
        let first = all(Some(1), &own, 0);
        assert!(first >= 4, "{first}");
        order("exec 6</dev/null 7</dev/null");
        assert_eq!(all(Some(1), &own, 1), first, "kept");
        assert_eq!(all(Some(2), &own, 1), first + 2, "has run");
        order("exec 7<&-");
        assert_eq!(all(Some(2), &own, 60), first + 2, "kept again");
        assert_eq!(all(Some(2), &own, 61), first + 1, "is old");
        assert_eq!(all(Some(2), &none, 61), 0, "other processes");
        assert_eq!(all(None, &own, 61), first + 1, "no time known");
        assert!(opened.all().is_empty());
        assert_eq!(all(Some(2), &own, 61), first + 1);
        opened.retain(|id| id != "a");
        assert!(opened.all().is_empty());
        drop(orders);
        assert!(shell.wait().unwrap().success());
    }
}
