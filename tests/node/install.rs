//! `install` on a bare machine that reaches its package mirror and nothing else, a second time, and
//! away again.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::support::listing::{self, TREES};
use crate::support::machine::BROUGHT;
use crate::support::mirror::Mirror;
use crate::support::node::fails;
use crate::support::snapshot::Snapshot;
use crate::support::{Machine, repository};

/// What packages that came and went may leave different: books that are not ours to put back.
const PACKAGES_LEAVE: [(&str, &str); 5] = [
    (
        "/etc/group",
        "docker.io's group stays, as there may be files of it",
    ),
    ("/etc/gshadow", "the same group"),
    (
        "/var/lib/dpkg/",
        "dpkg's books: the order of entries, copies of older states",
    ),
    (
        "/var/lib/apt/",
        "apt's lists and its marks of automatic packages",
    ),
    (
        "/etc/ld.so.cache",
        "written anew by ldconfig's trigger when libraries come or go",
    ),
];

/// Runs the release binary's `install` with arguments; it must succeed.
pub fn install(machine: &Machine, arguments: &[&str]) -> Result<String> {
    let program = machine.product("crio-setup")?;
    let mut argv = vec![program.as_str(), "install"];
    argv.extend(arguments);
    machine.run(&argv)
}

/// Runs a verb of the installed binary with `--output json`, which must succeed.
pub fn json(machine: &Machine, arguments: &[&str]) -> Result<Value> {
    let mut argv = vec!["crio-setup"];
    argv.extend(arguments);
    argv.extend(["--output", "json"]);
    let text = machine.run(&argv)?;
    serde_json::from_str(&text).with_context(|| format!("not JSON: {text}"))
}

pub fn changed(report: &Value) -> Result<u64> {
    report["changed"]
        .as_u64()
        .with_context(|| format!("no count of changes in {report}"))
}

/// The README's commands: the lines of its first `sh` block.
fn readme_commands() -> Result<Vec<String>> {
    let readme = std::fs::read_to_string(repository().join("README.md"))?;
    let block = readme.split("```sh\n").nth(1).context("no sh block")?;
    let block = block.split("```").next().unwrap_or_default();
    let commands = block
        .lines()
        .map(|l| l.split(" #").next().unwrap_or(l).trim().to_owned());
    Ok(commands.filter(|l| !l.is_empty()).collect())
}

/// What systemd writes about units that come and go while it runs.
const SYSTEMD_WRITES: [(&str, &str); 3] = [
    ("/run/systemd/", "its own state of units and sessions"),
    ("/run/log", "journald's volatile journal"),
    ("/run/dbus", "dbus is reloaded when packages change"),
];

#[test]
fn the_readme_makes_a_node_of_a_bare_machine_and_uninstall_unmakes_it() -> Result<()> {
    readme(&Machine::bare()?)
}

#[test]
fn the_readme_makes_a_node_under_systemd_and_uninstall_unmakes_it() -> Result<()> {
    let machine = Machine::boot()?.without(&BROUGHT)?;
    readme(&machine)
}

/// The services' processes: a restart would show.
fn services(machine: &Machine) -> Result<String> {
    machine.run(&["pgrep", "-a", "-x", "ocid|dockerd"])
}

/// Differences that neither we nor a pod made.
pub fn is_explained(line: &str) -> bool {
    let both = PACKAGES_LEAVE.iter().chain(&SYSTEMD_WRITES);
    both.into_iter().any(|(path, _)| line.contains(path))
}

fn readme(machine: &Machine) -> Result<()> {
    let systemd = machine.exists("/run/systemd/system");
    let _mirror = Mirror::open(machine)?;
    // The packages' lists are refreshed by the installer or by this; neither is a change of ours.
    machine.run(&["apt-get", "-qq", "update"])?;
    let before = listing::list(machine, &TREES, false)?;
    let pods_before = Snapshot::take(machine)?;
    let groups = machine.read("/etc/group")?;
    let commands = readme_commands()?;
    // The second is what runs this.
    ensure!(
        commands == ["cargo run --release -- install", "tests/run"],
        "{commands:?}"
    );

    // Command one, word for word, with the toolchain that the machine has.
    let home = std::env::var("HOME").unwrap_or_else(|_| "/root".to_owned());
    let path = std::env::var("PATH").unwrap_or_default();
    let mut first = vec!["env", "CARGO_NET_OFFLINE=true"];
    let settings = [format!("HOME={home}"), format!("PATH={path}")];
    first.extend(settings.iter().map(String::as_str));
    let kept: Vec<String> = ["CARGO_HOME", "RUSTUP_HOME", "CARGO_TARGET_DIR"]
        .iter()
        .filter_map(|key| Some(format!("{key}={}", std::env::var(key).ok()?)))
        .collect();
    first.extend(kept.iter().map(String::as_str));
    let repository = repository().display().to_string();
    let script = format!("cd '{repository}' && {}", commands[0]);
    first.extend(["sh", "-c", &script]);
    let limit = Duration::from_secs(900);
    let output = machine.command(&first).limit(limit).output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned()
        + &String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "{}: {said}", output.status);
    // Said aloud: where things came from and why not from upstream.
    ensure!(said.contains("distro"), "the fallback is not told: {said}");

    let status = json(machine, &["status"])?;
    ensure!(
        status["healthy"] == true,
        "the node is not healthy: {status}"
    );
    for name in ["crio-setup", "ocid", "ocic"] {
        machine.run(&[
            "sh",
            "-c",
            &format!("test $(command -v {name}) = /usr/local/bin/{name}"),
        ])?;
    }
    ensure!(machine.run(&["docker", "info", "--format", "{{.ServerVersion}}"])? != "");

    if systemd {
        for unit in ["ocid", "docker"] {
            machine.run(&["systemctl", "is-active", unit])?;
            machine.run(&["systemctl", "is-enabled", unit])?;
        }
        // Packages that came along bring units of their own; they are not to be enabled.
        let enabled = machine.run(&[
            "systemctl",
            "list-unit-files",
            "--state=enabled",
            "--no-legend",
        ])?;
        for unit in ["containerd.service", "docker.socket"] {
            ensure!(!enabled.contains(unit), "`{unit}` is enabled:\n{enabled}");
        }
    }

    for package in [
        "runc",
        "containernetworking-plugins",
        "iptables",
        "docker.io",
    ] {
        ensure!(machine.has_package(package), "`{package}` is not installed");
    }

    // The same command again, by cargo's binary and by the installed one: not one mtime.
    let installed = listing::list(machine, &TREES, true)?;
    let processes = services(machine)?;
    let output = machine.command(&first).limit(limit).output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(
        output.status.success() && said.contains("changed: 0"),
        "{said}"
    );
    let started = Instant::now();
    let report = json(machine, &["install"])?;
    let took = started.elapsed();
    ensure!(changed(&report)? == 0, "{report}");
    println!("no-op re-run of `install`: {took:?}");
    ensure!(services(machine)? == processes, "restarted");
    let again = listing::list(machine, &TREES, true)?;
    let differ: Vec<String> = listing::difference(&installed, &again)
        .into_iter()
        // dockerd and systemd write by themselves.
        .filter(|line| !line.contains("/var/lib/docker"))
        .filter(|line| !SYSTEMD_WRITES.iter().any(|(path, _)| line.contains(path)))
        .collect();
    ensure!(
        differ.is_empty(),
        "a second install changed:\n{}",
        differ.join("\n")
    );
    let plan = machine.output(&["crio-setup", "plan", "--detailed-exitcode"])?;
    ensure!(
        plan.status.code() == Some(0),
        "changes pending: {:?}",
        plan.status
    );

    machine.run(&["crio-setup", "selftest"])?;

    machine.run(&["crio-setup", "uninstall"])?;
    for package in BROUGHT {
        ensure!(!machine.has_package(package), "`{package}` is still there");
    }
    let after = listing::list(machine, &TREES, false)?;
    let (explained, ours): (Vec<String>, Vec<String>) = listing::difference(&before, &after)
        .into_iter()
        .partition(|line| is_explained(line));
    println!("left by packages:\n  {}", explained.join("\n  "));
    ensure!(ours.is_empty(), "uninstall left:\n{}", ours.join("\n"));
    let groups_after = machine.read("/etc/group")?;
    let others = groups_after.lines().filter(|l| !l.starts_with("docker:"));
    let groups = groups.lines().filter(|l| !l.starts_with("docker:"));
    ensure!(others.eq(groups), "other groups: {groups_after}");
    let pods_after = Snapshot::take(machine)?;
    let processes: Vec<String> = pods_after
        .since(&pods_before, &[])
        .into_iter()
        .filter(|line| line.starts_with("process") || line.starts_with("mount"))
        .collect();
    ensure!(processes.is_empty(), "still running: {processes:?}");
    Ok(())
}

#[test]
fn uninstall_with_pods_is_refused_without_force() -> Result<()> {
    use crate::support::redis;
    use crate::support::registry::Registry;
    let machine = Machine::bare()?;
    let _mirror = Mirror::open(&machine)?;
    install(&machine, &["--without", "docker"])?;
    let registry = Registry::start(&machine, 5000)?;
    let image = registry.push(&machine, "library/redis", "7-alpine", &redis::image()?)?;
    let pods_before = Snapshot::take(&machine)?;
    let example = |name: &str| {
        repository()
            .join("examples")
            .join(name)
            .display()
            .to_string()
    };
    let (sandbox, container) = (
        example("sandbox_config.json"),
        example("container_redis.json"),
    );
    let pod = machine.run(&["ocic", "pod", "create", "--config", &sandbox])?;
    let redis = machine.run(&[
        "ocic", "ctr", "create", "--pod", &pod, "--config", &container, "--image", &image,
    ])?;
    machine.run(&["ocic", "ctr", "start", "--id", &redis])?;
    let refused = machine.output(&["crio-setup", "uninstall"])?;
    fails("crio-setup uninstall", &refused, 2, &["pod", "--force"])?;
    let running = machine.run(&["ocic", "ctr", "list"])?;
    ensure!(
        running.contains(&redis[..12]),
        "the refusal stopped it: {running}"
    );
    machine.run(&["crio-setup", "uninstall", "--force"])?;
    let left: Vec<String> = Snapshot::take(&machine)?
        .since(&pods_before, &[])
        .into_iter()
        .filter(|line| {
            ["process", "mount", "link", "rule", "chain", "cgroup"]
                .iter()
                .any(|k| line.starts_with(k))
        })
        .collect();
    ensure!(left.is_empty(), "left behind:\n{}", left.join("\n"));
    Ok(())
}
