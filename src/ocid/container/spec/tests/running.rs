//! The specification under a real runtime: this very test binary is mounted into an empty root and
//! tells what it sees there.

use super::*;
use crate::host::command::Command;
use crate::host::namespace::{Wanted, pin, unpin};
use crate::ocid::container::resources::Resources;
use std::collections::BTreeMap;
use std::time::Duration;

const PROBE: &str = "ocid::container::spec::tests::running::probe";

/// Everything of one run, taken away again on drop.
struct Run {
    fixture: Fixture,
    id: String,
}

impl Run {
    /// None, with a word about why, where no container can run.
    fn new(name: &str) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() || which::which("runc").is_err() {
            eprintln!("skipped: needs root and `runc`");
            return None;
        }
        let mut fixture = Fixture::new();
        let id = format!("ocid-spec-{name}-{}", std::process::id());
        let wanted = Wanted {
            net: true,
            ipc: true,
            uts: Some("pod-1".to_owned()),
            ..Default::default()
        };
        let pinned = pin(&fixture.path("ns"), &wanted).unwrap();
        fixture.namespaces = [pinned.net, pinned.ipc, pinned.uts];
        fixture.cgroups_path = format!("/{id}");
        fixture.config.command = [
            "/probe",
            "--exact",
            PROBE,
            "--ignored",
            "--nocapture",
            "--test-threads=1",
        ]
        .map(str::to_owned)
        .into();
        fixture.config.mounts = vec![Mount {
            container_path: "/probe".into(),
            host_path: std::env::current_exe().unwrap(),
            readonly: true,
            ..Default::default()
        }];
        Some(Self { fixture, id })
    }

    fn runc(&self) -> Command {
        Command::new("runc")
            .arg("--root")
            .arg(self.fixture.path("runc"))
            .limit(Duration::from_secs(60))
    }

    /// What the probe printed, by name.
    fn seen(&self) -> BTreeMap<String, String> {
        let spec = self.fixture.spec();
        std::fs::write(
            self.fixture.path("config.json"),
            serde_json::to_vec(&spec).unwrap(),
        )
        .unwrap();
        let run = self
            .runc()
            .args(["run", "--bundle"])
            .arg(self.fixture.dir.path());
        let output = run.arg(&self.id).output().unwrap();
        let text = output.text();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{text}\n{stderr}");
        let pairs = text.lines().filter_map(|l| l.strip_prefix("seen "));
        pairs
            .filter_map(|l| l.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect()
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // Whatever is left after a failure; gone already is the normal case.
        let _ = self
            .runc()
            .args(["delete", "--force"])
            .arg(&self.id)
            .output();
        let _ = unpin(&self.fixture.path("ns"));
    }
}

#[test]
#[ignore = "runs inside the containers of the other tests"]
fn probe() {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    for line in status.lines() {
        if let Some((name, value)) = line.split_once(':') {
            let words: Vec<_> = value.split_whitespace().collect();
            println!("seen {name}={}", words.join(" "));
        }
    }
    for (name, value) in std::env::vars() {
        println!("seen env {name}={value}");
    }
    let hostname = nix::unistd::gethostname().unwrap();
    println!("seen hostname={}", hostname.to_string_lossy());
    println!("seen cwd={}", std::env::current_dir().unwrap().display());
    for file in [
        "/proc/self/oom_score_adj",
        "/etc/hosts",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory.max",
        "/sys/fs/cgroup/cpu/cpu.shares",
        "/proc/kcore",
    ] {
        // The masked ones are empty, so that a few bytes tell.
        if let Ok(bytes) = crate::host::fs::read_capped(Path::new(file), 4096) {
            println!(
                "seen file {file}={}",
                String::from_utf8_lossy(&bytes).trim()
            );
        }
    }
    for path in [
        "/new",
        "/data/new",
        "/dev/shm/new",
        "/tmp-of-root",
        "/sys/fs/cgroup/new",
    ] {
        let made = std::fs::create_dir(path).is_ok();
        println!("seen writable {path}={made}");
    }
    let sysctl = std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").is_ok();
    println!("seen writable sysctl={sysctl}");
    let mut interfaces: Vec<_> = std::fs::read_dir("/sys/class/net")
        .unwrap()
        .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    interfaces.sort();
    println!("seen interfaces={}", interfaces.join(" "));
    let unshared = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUTS);
    println!("seen unshare={unshared:?}");
    let null = std::fs::write("/dev/null", "x").is_ok();
    println!("seen null={null}");
}

fn value<'a>(seen: &'a BTreeMap<String, String>, name: &str) -> &'a str {
    seen.get(name).map_or("", String::as_str)
}

#[test]
fn a_confined_container_runs() {
    let Some(mut run) = Run::new("confined") else {
        return;
    };
    let config = &mut run.fixture.config;
    config.resources = Resources {
        memory_limit: 256 << 20,
        cpu_shares: 512,
        oom_score_adj: 500,
        ..Default::default()
    };
    config.security.seccomp = Profile::RuntimeDefault;
    config.security.no_new_privs = true;
    config.security.readonly_rootfs = true;
    config.security.supplemental_groups = vec![4242];
    run.fixture.defaults.pids_limit = 500;
    let seen = run.seen();
    for (name, expected) in [
        ("Uid", "999 999 999 999"),
        ("Gid", "1000 1000 1000 1000"),
        ("Groups", "77 1000 4242"),
        ("CapEff", "0000000000000000"),
        ("CapBnd", "00000000000005fb"),
        ("NoNewPrivs", "1"),
        ("Seccomp", "2"),
        ("NSpid", "1"),
        ("hostname", "pod-1"),
        ("cwd", "/work/dir"),
        ("env HOSTNAME", "pod-1"),
        ("env V", "1"),
        ("env HOME", "/data"),
        ("file /proc/self/oom_score_adj", "500"),
        ("file /etc/hosts", "hosts"),
        ("file /proc/kcore", ""),
        ("writable /new", "false"),
        ("writable sysctl", "false"),
        ("writable /sys/fs/cgroup/new", "false"),
        ("interfaces", "lo"),
        ("unshare", "Err(EPERM)"),
        ("null", "true"),
    ] {
        assert_eq!(value(&seen, name), expected, "{name}: {seen:#?}");
    }
    let (memory, shares) = if run.fixture.host.cgroup_v2 {
        ("file /sys/fs/cgroup/memory.max", None)
    } else {
        let shares = "file /sys/fs/cgroup/cpu/cpu.shares";
        (
            "file /sys/fs/cgroup/memory/memory.limit_in_bytes",
            Some(shares),
        )
    };
    assert_eq!(value(&seen, memory), "268435456", "{seen:#?}");
    if let Some(shares) = shares {
        assert_eq!(value(&seen, shares), "512");
    }
}

#[test]
fn a_plain_container_writes_to_its_own() {
    let Some(mut run) = Run::new("plain") else {
        return;
    };
    run.fixture.config.security.run_as_user = Some(0);
    let seen = run.seen();
    for (name, expected) in [
        ("Uid", "0 0 0 0"),
        ("CapEff", "00000000000005fb"),
        ("Seccomp", "0"),
        ("writable /new", "true"),
        ("writable /data/new", "true"),
        ("writable /dev/shm/new", "true"),
        ("writable sysctl", "false"),
        ("unshare", "Err(EPERM)"),
    ] {
        assert_eq!(value(&seen, name), expected, "{name}: {seen:#?}");
    }
    assert!(
        run.fixture.path("shm/new").is_dir(),
        "the pod's own /dev/shm"
    );
}

#[test]
fn a_privileged_container_gets_what_the_machine_has() {
    let Some(mut run) = Run::new("privileged") else {
        return;
    };
    run.fixture.pod.security.privileged = true;
    run.fixture.config.security.privileged = true;
    run.fixture.config.security.run_as_user = Some(0);
    run.fixture.config.resources.oom_score_adj = -999;
    let seen = run.seen();
    let own = std::fs::read_to_string("/proc/self/status").unwrap();
    let bounding = own
        .lines()
        .find_map(|l| l.strip_prefix("CapBnd:\t"))
        .unwrap();
    assert_eq!(value(&seen, "CapEff"), bounding);
    assert_eq!(value(&seen, "unshare"), "Ok(())");
    assert_eq!(value(&seen, "writable sysctl"), "true");
    assert_eq!(
        value(&seen, "interfaces"),
        "lo",
        "its own namespace all the same"
    );
}
