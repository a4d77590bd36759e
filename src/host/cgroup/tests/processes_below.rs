//! Processes of the cgroups below one, found by folders that are kept open.

use std::collections::BTreeSet;

use super::*;

#[test]
fn processes_are_found_whatever_came_and_went_below() {
    on_both(processes_below);
}

fn processes_below(layout: &str) {
    let mut scratch = Scratch::new(&format!("below-{layout}"));
    let top = scratch.pod("");
    let mut expected = BTreeSet::new();
    let check = |scratch: &Scratch, expected: &BTreeSet<i32>| {
        // Twice: with what was seen the last time, and with what was seen just now.
        for _ in 0..2 {
            assert_eq!(
                scratch.cgroups.pids_again(top.path()).unwrap(),
                *expected,
                "{layout}"
            );
        }
    };
    let begun = |scratch: &mut Scratch, name: &str| {
        let pod = scratch.pod(name);
        let none = Limits::default();
        scratch.cgroups.make("a", &pod, &none).unwrap();
        scratch.process(pod.path())
    };
    expected.insert(begun(&mut scratch, "/one"));
    check(&scratch, &expected);
    let two = begun(&mut scratch, "/two");
    expected.insert(two);
    check(&scratch, &expected);
    expected.insert(begun(&mut scratch, "/one/within/deep"));
    check(&scratch, &expected);
    // As many as before, but another.
    let gone = scratch.pod("/two");
    let limit = Duration::from_secs(10);
    assert!(scratch.cgroups.kill(gone.path(), limit).unwrap());
    scratch.cgroups.remove(gone.path()).unwrap();
    expected.remove(&two);
    expected.insert(begun(&mut scratch, "/three"));
    check(&scratch, &expected);
    // Another of the same name, made by somebody else and unknown to us.
    let other = Cgroups::detect().unwrap();
    let again = scratch.pod("/three");
    let before = scratch.cgroups.pids(again.path()).unwrap();
    assert!(other.kill(again.path(), limit).unwrap());
    expected.retain(|pid| !before.contains(pid));
    for hierarchy in &scratch.cgroups.hierarchies {
        let folder = below(hierarchy, again.path());
        if folder.exists() {
            fs::remove_dir(&folder).unwrap();
            fs::create_dir(&folder).unwrap();
        }
    }
    expected.insert(scratch.process(again.path()));
    check(&scratch, &expected);
    assert!(scratch.cgroups.kill(top.path(), limit).unwrap());
    check(&scratch, &BTreeSet::new());
}

#[test]
fn nothing_stays_open_of_what_has_gone() {
    on_both(closed_when_gone);
}

fn closed_when_gone(layout: &str) {
    let mut scratch = Scratch::new(&format!("closed-{layout}"));
    let (top, limit) = (scratch.pod(""), Duration::from_secs(10));
    let open = || {
        let files = fs::read_dir("/proc/self/fd").unwrap();
        let targets = files.flat_map(|file| fs::read_link(file.unwrap().path()));
        let within = |target: &PathBuf| target.to_string_lossy().contains(top.path());
        targets.filter(within).count()
    };
    let none = Limits::default();
    for name in ["/container", "/container/exec", "/other"] {
        let pod = scratch.pod(name);
        scratch.cgroups.make("a", &pod, &none).unwrap();
        scratch.process(pod.path());
    }
    let found = scratch.cgroups.pids_again(top.path()).unwrap();
    assert_eq!((found.len(), open()), (3, 4), "{layout}");
    scratch.cgroups.tasks(top.path()).unwrap();
    // Somebody else ends one.
    let other = Cgroups::detect().unwrap();
    let exec = scratch.pod("/container/exec");
    assert!(other.kill(exec.path(), limit).unwrap());
    other.remove(exec.path()).unwrap();
    let before = open();
    let found = scratch.cgroups.pids_again(top.path()).unwrap();
    assert_eq!((found.len(), open()), (2, before - 1), "{layout}");
    // And one that nobody asks about any more, with one below it.
    assert!(other.kill(top.path(), limit).unwrap());
    scratch.cgroups.remove(top.path()).unwrap();
    assert_eq!(open(), 0, "{layout}");
}
