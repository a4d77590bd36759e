use super::*;
use crate::host::command::Command;
use crate::host::namespace::tests::with_private_mounts;
use crate::host::process::PidFd;
use nix::mount::MsFlags;
use std::io::{BufRead, Read, Write};
use std::process::{Child, Command as Process, Stdio};
use std::time::Duration;

mod processes_below;

fn mounted(fs_type: &str, target: &str, options: &str) -> MountPoint {
    MountPoint {
        root: "/".into(),
        target: target.into(),
        fs_type: fs_type.to_owned(),
        source: OsString::from("cgroup"),
        options: options.into(),
    }
}

#[test]
fn the_three_layouts_are_told_apart() {
    let v2 = Cgroups::from_mounts(
        &[mounted("cgroup2", ROOT, "rw,nsdelegate")],
        "0::/box/init.scope",
    );
    assert_eq!((v2.version, v2.hierarchies.len()), (Version::V2, 1));
    assert_eq!(
        v2.folder("memory", "/a/b").unwrap(),
        Path::new("/sys/fs/cgroup/a/b")
    );
    assert_eq!(
        v2.folder("memory", "/a.slice").unwrap(),
        Path::new("/sys/fs/cgroup/box/a.slice")
    );

    let hybrid = Cgroups::from_mounts(
        &[
            mounted("tmpfs", ROOT, "rw"),
            mounted("cgroup2", "/sys/fs/cgroup/unified", "rw"),
            mounted("cgroup", "/sys/fs/cgroup/systemd", "rw,xattr,name=systemd"),
            mounted("cgroup", "/sys/fs/cgroup/cpu,cpuacct", "rw,cpu,cpuacct"),
            mounted("cgroup", "/sys/fs/cgroup/twice", "rw,cpu,cpuacct"),
            mounted("cgroup", "/elsewhere", "rw,memory"),
        ],
        "",
    );
    assert_eq!((hybrid.version, hybrid.hierarchies.len()), (Version::V1, 3));
    assert_eq!(
        hybrid.folder("cpuacct", "/a").unwrap(),
        Path::new("/sys/fs/cgroup/cpu,cpuacct/a")
    );
    assert_eq!(hybrid.folder("memory", "/a"), None);
    assert!(Cgroups::from_mounts(&[], "").hierarchies.is_empty());
}

#[test]
fn levels_go_from_the_top_down() {
    let of = |path| levels(path).collect::<Vec<_>>();
    assert_eq!(of("/a/b/c"), ["/a", "/a/b", "/a/b/c"]);
    assert_eq!(of("/a"), ["/a"]);
    assert!(of("/").is_empty());
}

/// A pod cgroup of this test's own, removed with everything in it.
struct Scratch {
    cgroups: Cgroups,
    top: String,
    children: Vec<Child>,
}

impl Scratch {
    fn new(name: &str) -> Self {
        Self {
            cgroups: Cgroups::detect().unwrap(),
            top: format!("/ocid-test-{name}-{}", std::process::id()),
            children: Vec::new(),
        }
    }

    fn pod(&self, below: &str) -> PodCgroup {
        PodCgroup::new(Driver::Cgroupfs, &format!("{}{below}", self.top)).unwrap()
    }

    fn exists(&self, path: &str) -> bool {
        let folders: Vec<bool> = self
            .cgroups
            .hierarchies
            .iter()
            .map(|h| below(h, path).is_dir())
            .collect();
        assert!(
            folders.windows(2).all(|w| w[0] == w[1]),
            "{path}: {folders:?}"
        );
        folders[0]
    }

    /// A process in the cgroup, in every hierarchy that takes it.
    fn process(&mut self, path: &str) -> i32 {
        let child = Process::new("sleep").arg("60").spawn().unwrap();
        let pid = child.id() as i32;
        self.children.push(child);
        for hierarchy in &self.cgroups.hierarchies {
            for level in levels(path) {
                let folder = below(hierarchy, level);
                for file in ["cpuset.cpus", "cpuset.mems"] {
                    if let Ok(value) = fs::read_to_string(folder.with_file_name(file)) {
                        write(&folder.join(file), value.trim()).unwrap();
                    }
                }
            }
            let file = below(hierarchy, path).join("cgroup.procs");
            write(&file, &pid.to_string()).unwrap();
        }
        pid
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = self.cgroups.remove(&self.top);
    }
}

/// Runs a test on what this machine mounts, and on a lone cgroup2, as a machine of today has it.
fn on_both(test: impl Fn(&str) + Send + Sync) {
    test("own");
    with_private_mounts(|| {
        let root = Path::new(ROOT);
        mount::mount(
            Path::new("cgroup2"),
            root,
            Some("cgroup2"),
            MsFlags::empty(),
            None,
        )
        .unwrap();
        assert_eq!(Cgroups::detect().unwrap().version(), Version::V2);
        test("v2");
    });
}

#[test]
fn a_pod_cgroup_is_ours_only_if_we_made_it() {
    on_both(ours_only_if_made);
}

fn ours_only_if_made(layout: &str) {
    let scratch = Scratch::new(&format!("made-{layout}"));
    let (a, b) = (scratch.pod("/shared/a"), scratch.pod("/shared/b"));
    let none = Limits::default();
    scratch.cgroups.make("a", &a, &none).unwrap();
    scratch.cgroups.make("b", &b, &none).unwrap();
    assert!(scratch.exists(a.path()) && scratch.exists(b.path()));
    scratch.cgroups.release("a", &a).unwrap();
    assert!(!scratch.exists(a.path()) && scratch.exists(b.path()));
    scratch.cgroups.release("a", &a).unwrap();
    scratch.cgroups.release("b", &b).unwrap();
    assert!(!scratch.exists(&scratch.top));

    // Kubelet's: there before us, there after us, and its limits untouched.
    for hierarchy in &scratch.cgroups.hierarchies {
        fs::create_dir_all(below(hierarchy, a.path())).unwrap();
    }
    let limits = Limits {
        memory: Some(64 << 20),
        ..none
    };
    scratch.cgroups.make("a", &a, &limits).unwrap();
    if scratch.cgroups.version() == Version::V1 {
        let file = scratch.cgroups.folder("memory", a.path()).unwrap();
        let text = fs::read_to_string(file.join("memory.limit_in_bytes")).unwrap();
        assert!(text.trim().parse::<u64>().unwrap() > 1 << 40, "{text}");
    }
    scratch.cgroups.release("a", &a).unwrap();
    assert!(scratch.exists(a.path()));
}

#[test]
fn a_cgroup_in_use_by_another_pod_stays() {
    on_both(in_use_stays);
}

fn in_use_stays(layout: &str) {
    let scratch = Scratch::new(&format!("held-{layout}"));
    let pod = scratch.pod("");
    scratch.cgroups.make("a", &pod, &Limits::default()).unwrap();
    scratch.cgroups.hold("b", &pod);
    scratch.cgroups.release("a", &pod).unwrap();
    assert!(scratch.exists(pod.path()));
    // A daemon that starts again has no notes but those of its pods; the mark is on the cgroup.
    let later = Cgroups::detect().unwrap();
    later.hold("b", &pod);
    later.release("b", &pod).unwrap();
    assert!(!scratch.exists(pod.path()));
}

/// Set in the process that [`a_maker_that_is_killed_leaves_nothing`] kills: the cgroup that it makes and removes.
const MAKER: &str = "CRIO_SETUP_TEST_CGROUP_MAKER";

#[test]
fn a_maker_that_is_killed_leaves_nothing() {
    let none = Limits::default();
    if let Ok(parent) = std::env::var(MAKER) {
        let cgroups = Cgroups::detect().unwrap();
        let pod = PodCgroup::new(Driver::Cgroupfs, &parent).unwrap();
        println!("@ready@");
        loop {
            cgroups.make("a", &pod, &none).unwrap();
            cgroups.release("a", &pod).unwrap();
        }
    }
    let scratch = Scratch::new("killed");
    let pod = scratch.pod("/a");
    for round in 0..60 {
        let mut maker = Process::new(std::env::current_exe().unwrap())
            .args(["--exact", "--nocapture"])
            .arg("host::cgroup::tests::a_maker_that_is_killed_leaves_nothing")
            .env(MAKER, pod.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut told = std::io::BufReader::new(maker.stdout.take().unwrap()).lines();
        assert!(told.any(|line| line.unwrap().ends_with("@ready@")));
        std::thread::sleep(Duration::from_micros(round * 97 % 3000));
        maker.kill().unwrap();
        maker.wait().unwrap();
        // As the daemon that starts next does with a pod that was being made.
        scratch.cgroups.hold("a", &pod);
        scratch.cgroups.release("a", &pod).unwrap();
        for path in [pod.path(), &scratch.top] {
            assert!(!scratch.exists(path), "{path} is left in round {round}");
        }
    }
    // What was there and empty, but is nobody's of ours, stays.
    for hierarchy in &scratch.cgroups.hierarchies {
        fs::create_dir_all(below(hierarchy, pod.path())).unwrap();
    }
    scratch.cgroups.make("a", &pod, &none).unwrap();
    scratch.cgroups.release("a", &pod).unwrap();
    assert!(scratch.exists(pod.path()));
}

#[test]
fn limits_reach_the_kernel_or_nothing_is_left() {
    on_both(limits_or_nothing);
}

fn limits_or_nothing(layout: &str) {
    let scratch = Scratch::new(&format!("limits-{layout}"));
    let pod = scratch.pod("/a");
    let limits = Limits {
        pids: Some(77),
        ..Limits::default()
    };
    let cgroups = &scratch.cgroups;
    let root = cgroups.folder("pids", "/").unwrap();
    let offered = fs::read_to_string(root.join("cgroup.controllers"));
    if offered.is_ok_and(|names| !names.contains("pids")) {
        // Version 2 beside version 1, which has taken the controllers.
        let e = cgroups.make("a", &pod, &limits).unwrap_err();
        assert!(e.to_string().contains("pids.max"), "{e}");
        assert!(!scratch.exists(&scratch.top));
        return;
    }
    cgroups.make("a", &pod, &limits).unwrap();
    let folder = cgroups.folder("pids", pod.path()).unwrap();
    assert_eq!(fs::read_to_string(folder.join("pids.max")).unwrap(), "77\n");
    cgroups.release("a", &pod).unwrap();
    assert!(!scratch.exists(&scratch.top));
}

#[test]
fn an_empty_slice_of_nobodys_is_stopped() {
    let mut scratch = Scratch::new("slices");
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("calls");
    let top = format!("ocidtest{}", std::process::id());
    scratch.top = format!("/{top}.slice");
    let echo = format!("echo \"$*\" >> {}", log.display());
    scratch.cgroups.slices.systemctl = script(dir.path(), &echo);
    scratch.cgroups.slices.unit_dirs = vec![dir.path().to_owned()];
    let calls = || fs::read_to_string(&log).unwrap_or_default();
    let pod = PodCgroup::new(Driver::Systemd, &format!("{top}-a.slice")).unwrap();
    let none = Limits::default();
    scratch.cgroups.make("one", &pod, &none).unwrap();
    scratch.cgroups.make("two", &pod, &none).unwrap();
    assert!(
        !scratch.exists(&scratch.top),
        "a slice is systemd's to make"
    );
    scratch.cgroups.release("one", &pod).unwrap();
    assert_eq!(calls(), "", "the other pod's, too");
    scratch.cgroups.release("two", &pod).unwrap();
    let both = format!("stop -- {top}-a.slice {top}.slice\n");
    assert_eq!(calls(), both);

    // With a unit file it is kubelet's or an administrator's.
    fs::write(dir.path().join(format!("{top}-a.slice")), "").unwrap();
    scratch.cgroups.release("two", &pod).unwrap();
    // With a process in it, in use.
    fs::remove_file(dir.path().join(format!("{top}-a.slice"))).unwrap();
    for hierarchy in &scratch.cgroups.hierarchies {
        fs::create_dir_all(below(hierarchy, pod.path())).unwrap();
    }
    scratch.process(pod.path());
    scratch.cgroups.release("two", &pod).unwrap();
    // And systemd's own never end.
    let system = PodCgroup::new(Driver::Systemd, "").unwrap();
    scratch.cgroups.release("two", &system).unwrap();
    assert_eq!(calls(), both);
    assert!(scratch.exists(&scratch.top));

    // What the runtime left beside systemd's own hierarchies goes.
    let mut children = std::mem::take(&mut scratch.children);
    for child in &mut children {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    scratch.cgroups.release("two", &pod).unwrap();
    for hierarchy in &scratch.cgroups.hierarchies {
        let is_systemds = hierarchy.unified || hierarchy.controllers == ["name=systemd"];
        let folder = below(hierarchy, &scratch.top);
        assert_eq!(folder.exists(), is_systemds, "{}", folder.display());
    }
}

/// An executable script. Another process writes it: a child of another test's thread, between fork
/// and exec, would still have ours open for writing, and it could not be run (ETXTBSY).
fn script(dir: &Path, body: &str) -> OsString {
    let path = dir.join("systemctl");
    let text = format!("#!/bin/sh\n{body}");
    let write = Command::new("sh").args(["-c", "cat > \"$0\" && chmod 755 \"$0\""]);
    write.arg(&path).stdin(text).run().unwrap();
    path.into()
}

#[test]
fn everything_in_a_cgroup_is_killed() {
    on_both(everything_is_killed);
}

fn everything_is_killed(layout: &str) {
    let mut scratch = Scratch::new(&format!("kill-{layout}"));
    let (pod, inner) = (scratch.pod(""), scratch.pod("/inner"));
    scratch
        .cgroups
        .make("a", &inner, &Limits::default())
        .unwrap();
    let pid = scratch.process(inner.path());
    for path in [pod.path(), inner.path(), inner.path()] {
        assert_eq!(scratch.cgroups.pids(path).unwrap(), [pid].into());
        assert_eq!(scratch.cgroups.pids_again(path).unwrap(), [pid].into());
    }
    let busy = scratch.cgroups.remove(pod.path()).unwrap_err();
    assert_eq!(busy.kind(), ErrorKind::ResourceBusy, "{busy}");
    scratch.cgroups.release("a", &inner).unwrap();
    assert!(scratch.exists(&scratch.top), "somebody's process is in it");
    assert!(
        scratch
            .cgroups
            .kill(pod.path(), Duration::from_secs(10))
            .unwrap()
    );
    let child = scratch.children.first_mut().unwrap();
    assert!(!child.wait().unwrap().success());
    assert!(scratch.cgroups.pids(pod.path()).unwrap().is_empty());
    assert!(scratch.cgroups.pids_again(inner.path()).unwrap().is_empty());
    // Nobody counts in a hierarchy without the memory controller.
    let oom_kills = scratch.cgroups.oom_kills(pod.path()).unwrap();
    assert_eq!(oom_kills.unwrap_or(0), 0);
    scratch.cgroups.release("a", &inner).unwrap();
    assert!(!scratch.exists(&scratch.top));
    assert!(scratch.cgroups.pids_again(inner.path()).unwrap().is_empty());

    // Another cgroup of a name that was asked for before.
    let again = &scratch.cgroups;
    again.make("a", &inner, &Limits::default()).unwrap();
    let other = Cgroups::detect().unwrap();
    assert!(again.pids_again(inner.path()).unwrap().is_empty());
    other.remove(inner.path()).unwrap();
    again.make("a", &inner, &Limits::default()).unwrap();
    let pid = scratch.process(inner.path());
    assert_eq!(
        scratch.cgroups.pids_again(inner.path()).unwrap(),
        [pid].into()
    );
}

#[test]
fn what_is_not_there_is_empty() {
    on_both(absent_is_empty);
}

fn absent_is_empty(layout: &str) {
    let scratch = Scratch::new(&format!("absent-{layout}"));
    let cgroups = &scratch.cgroups;
    assert!(cgroups.pids(&scratch.top).unwrap().is_empty());
    assert!(cgroups.kill(&scratch.top, Duration::ZERO).unwrap());
    assert_eq!(cgroups.oom_kills(&scratch.top).unwrap(), None);
    cgroups.remove(&scratch.top).unwrap();
    cgroups.release("a", &scratch.pod("/x")).unwrap();
}

#[test]
fn what_an_exec_started_is_ended_or_given_back() {
    on_both(ended_or_given_back);
}

fn ended_or_given_back(layout: &str) {
    let mut scratch = Scratch::new(&format!("sub-{layout}"));
    let pod = scratch.pod("");
    scratch.cgroups.make("a", &pod, &Limits::default()).unwrap();
    let beside = scratch.process(pod.path());
    let container = scratch.cgroups.folder("freezer", pod.path()).unwrap();
    let folder = container.join("exec-1");
    let listed = |folder: &Path| fs::read_to_string(folder.join("cgroup.procs")).unwrap();

    // One that forks into a new session and dies, again and again, and others that got away.
    let dir = tempfile::tempdir().unwrap();
    let comet = dir.path().join("comet");
    fs::write(&comet, format!("setsid sh {} &", comet.display())).unwrap();
    let family = format!(
        "read go; setsid sleep 60 & (setsid sh -c 'sleep 60 & sleep 60' &); setsid sh {} & echo; wait",
        comet.display()
    );
    let sub = SubCgroup::make(&folder).unwrap();
    let mut shell = Process::new("sh")
        .args(["-c", &family])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    write(&folder.join("cgroup.procs"), &shell.id().to_string()).unwrap();
    shell.stdin.take().unwrap().write_all(b"go\n").unwrap();
    let mut line = [0];
    shell
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut line)
        .unwrap();
    while listed(&folder).lines().count() < 5 {
        std::thread::yield_now();
    }
    assert!(sub.kill(Duration::from_secs(30)).unwrap());
    assert_eq!(listed(&folder), "");
    assert!(!shell.wait().unwrap().success());
    assert!(sub.give_back().unwrap() && !folder.exists());
    let beside = PidFd::open(beside).unwrap();
    assert!(!beside.has_exited().unwrap(), "another was killed");

    // Who stays is the container's again.
    let sub = SubCgroup::make(&folder).unwrap();
    let stays = Process::new("sleep").arg("60").spawn().unwrap();
    let pid = stays.id().to_string();
    scratch.children.push(stays);
    write(&folder.join("cgroup.procs"), &pid).unwrap();
    assert!(sub.give_back().unwrap() && !folder.exists());
    assert!(listed(&container).lines().any(|l| l == pid));
    assert!(sub.kill(Duration::ZERO).unwrap(), "nobody is left to kill");
    drop(scratch);
}
