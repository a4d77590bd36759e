//! The power fails while dpkg is at work: everything that works is killed outright, in the middle of a package, and
//! the next run finds dpkg's books and files as that leaves them.

use anyhow::{Result, ensure};

use crate::install::{changed, json};
use crate::support::listing::{self, TREES};
use crate::support::machine::BROUGHT;
use crate::support::mirror::Mirror;
use crate::support::{Machine, node::fails};

/// Stands where dpkg looks for the program that hands it a package's files: breaks off within runc's, and kills dpkg,
/// apt and who called that.
const BREAKS_OFF: &str = r#"#!/bin/sh
case "$*" in
    *--fsys-tarfile*runc*)
        dpkg-deb.whole "$@" | head -c 1000000
        apt=$(ps -o ppid= -p $PPID)
        kill -KILL $(ps -o ppid= -p $apt) $apt $PPID ;;
    *) exec dpkg-deb.whole "$@" ;;
esac
"#;

/// Lets an install die in the middle of unpacking runc.
fn cut(machine: &Machine) -> Result<()> {
    machine.run(&["mv", "/usr/bin/dpkg-deb", "/usr/bin/dpkg-deb.whole"])?;
    machine.write("/usr/bin/dpkg-deb", BREAKS_OFF, 0o755)?;
    let program = machine.product("crio-setup")?;
    let died = machine.output(&[&program, "install", "--without", "docker"])?;
    machine.run(&["mv", "/usr/bin/dpkg-deb.whole", "/usr/bin/dpkg-deb"])?;
    let said = String::from_utf8_lossy(&died.stderr);
    ensure!(died.status.code().is_none(), "it ended by itself: {said}");
    // It is in dpkg's journal and nowhere else that it had begun.
    let entries = machine.run(&["ls", "/var/lib/dpkg/updates"])?;
    ensure!(!entries.is_empty(), "dpkg was killed at another moment");
    let torn = machine.run(&["sh", "-c", "ls /usr/sbin/runc* /usr/bin/runc* 2>&1; true"])?;
    ensure!(torn.contains("runc.dpkg-new"), "nothing of runc: {torn}");
    let status = machine.output(&[&program, "status"])?;
    fails("status", &status, 1, &[])?;
    Ok(())
}

#[test]
fn an_install_is_put_right_that_dpkg_was_killed_in() -> Result<()> {
    let machine = Machine::bare()?;
    let _way = Mirror::open(&machine)?;
    machine.run(&["apt-get", "-qq", "update"])?;
    let trees = [&TREES[..], &["/usr/bin", "/usr/sbin", "/usr/lib/cni"]].concat();
    let before = listing::list(&machine, &trees, false)?;
    let program = machine.product("crio-setup")?;

    cut(&machine)?;
    let report = machine.run(&[
        &program,
        "install",
        "--without",
        "docker",
        "--output",
        "json",
    ])?;
    ensure!(changed(&serde_json::from_str(&report)?)? > 0, "{report}");
    let status = json(&machine, &["status"])?;
    ensure!(status["healthy"] == true, "{status}");
    machine.run(&["crio-setup", "uninstall"])?;
    let unexplained = |after: &listing::Listing| -> Vec<String> {
        listing::difference(&before, after)
            .into_iter()
            .filter(|line| !crate::install::is_explained(line))
            .collect()
    };
    let left = unexplained(&listing::list(&machine, &trees, false)?);
    ensure!(left.is_empty(), "left:\n{}", left.join("\n"));

    // The way back instead; then with no archive to be had.
    cut(&machine)?;
    machine.run(&[&program, "uninstall"])?;
    let left = unexplained(&listing::list(&machine, &trees, false)?);
    ensure!(left.is_empty(), "left:\n{}", left.join("\n"));
    cut(&machine)?;
    machine.run(&[
        "sh",
        "-c",
        "rm -rf /var/lib/apt/lists/* /var/cache/apt/archives/*.deb",
    ])?;
    machine.run(&[&program, "uninstall"])?;
    let known = machine.run(&[
        "dpkg-query",
        "-W",
        "-f",
        "${Package} ${db:Status-Status}\\n",
    ])?;
    for package in BROUGHT {
        let left = known
            .lines()
            .find(|line| line.starts_with(&format!("{package} ")));
        ensure!(left.is_none(), "{left:?}");
    }
    ensure!(!machine.exists("/var/lib/crio-setup"));
    Ok(())
}

/// What forbids services to start.
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// Once dpkg is done, whoever called apt dies with it.
const DIES_AFTERWARDS: &str = r#"DPkg::Post-Invoke {
    "apt=$(ps -o ppid= -p $PPID); kill -KILL $(ps -o ppid= -p $apt) $apt";
};"#;

#[test]
fn what_a_boot_started_of_a_cut_off_install_is_stopped() -> Result<()> {
    let machine = Machine::boot()?.without(&BROUGHT)?;
    let _way = Mirror::open(&machine)?;
    machine.run(&["apt-get", "-qq", "update"])?;
    let own_policy = machine.exists(POLICY);
    let program = machine.product("crio-setup")?;
    let hook = "/etc/apt/apt.conf.d/zz-dies";
    machine.write(hook, DIES_AFTERWARDS, 0o644)?;
    let died = machine.output(&[&program, "install"])?;
    let said = String::from_utf8_lossy(&died.stderr);
    ensure!(died.status.code().is_none(), "it ended by itself: {said}");
    machine.run(&["rm", hook])?;
    // dpkg has enabled it, so the next boot would do this.
    machine.run(&["systemctl", "is-enabled", "docker", "containerd"])?;
    machine.run(&["systemctl", "start", "docker"])?;
    machine.run(&["pgrep", "-x", "dockerd"])?;

    machine.run(&[&program, "uninstall"])?;
    let running = machine.output(&["pgrep", "-a", "-x", "dockerd|containerd"])?;
    fails("pgrep", &running, 1, &[])?;
    for package in BROUGHT {
        ensure!(!machine.has_package(package), "`{package}` is still there");
    }
    ensure!(
        machine.exists(POLICY) == own_policy,
        "the machine's own policy, or none"
    );
    Ok(())
}
