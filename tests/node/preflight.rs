//! What `install` refuses before it touches anything, and what it does when a package manager is busy.

use std::fs::OpenOptions;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

use crate::support::listing::{self, TREES};
use crate::support::mirror::Mirror;
use crate::support::node::fails;
use crate::support::{Machine, binary};

/// Runs the product, which must refuse with exit code 2, tell of `words`, and change nothing.
fn refused(machine: &Machine, argv: &[&str], words: &[&str]) -> Result<()> {
    let before = listing::list(machine, &TREES, false)?;
    let output = machine.output(argv)?;
    fails(&argv.join(" "), &output, 2, words)?;
    let left = listing::difference(&before, &listing::list(machine, &TREES, false)?);
    ensure!(left.is_empty(), "{argv:?} left:\n{}", left.join("\n"));
    Ok(())
}

#[test]
fn what_cannot_go_well_is_refused_before_anything_is_touched() -> Result<()> {
    let machine = Machine::bare()?;
    let _way = Mirror::open(&machine)?;
    machine.run(&["apt-get", "-qq", "update"])?;
    let program = machine.product("crio-setup")?;
    let run = |arguments: &[&'static str]| [&[program.as_str(), "install"], arguments].concat();

    refused(
        &machine,
        &run(&["--with", "nonsense"]),
        &["nonsense", "cni-plugins"],
    )?;
    refused(&machine, &run(&["--no-such-flag"]), &["--no-such-flag"])?;
    refused(&machine, &run(&["--source", "thin-air"]), &["thin-air"])?;

    // Someone who is not root has a copy that they may run.
    machine.write("/srv/open/crio-setup", std::fs::read(binary())?, 0o755)?;
    let nobody = [
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
    ];
    let argv = [&nobody[..], &["/srv/open/crio-setup", "install"]].concat();
    refused(&machine, &argv, &["root"])?;

    // Files that are not ours, where ours would go.
    for path in ["/etc/cni/net.d/10-mynet.conflist", "/usr/local/bin/ocid"] {
        machine.write(path, "somebody else's", 0o644)?;
        refused(&machine, &run(&[]), &[path])?;
        ensure!(machine.read(path)? == "somebody else's");
        machine.run(&["rm", path])?;
    }

    // A route into the pods' network that is not our bridge's.
    for command in [
        "ip link add elsewhere type veth peer name beyond",
        "ip link set beyond up",
        "ip link set elsewhere up",
        "ip address add 10.88.7.1/24 dev elsewhere",
    ] {
        machine.run(&command.split(' ').collect::<Vec<_>>())?;
    }
    refused(&machine, &run(&[]), &["10.88.0.0/16", "10.88.7.0/24"])?;
    // Every finding at once, not one per attempt.
    machine.write("/usr/local/bin/ocid", "somebody else's", 0o644)?;
    refused(
        &machine,
        &run(&[]),
        &["10.88.7.0/24", "/usr/local/bin/ocid"],
    )
}

#[test]
fn a_held_dpkg_lock_is_waited_for_and_named() -> Result<()> {
    let machine = Machine::bare()?;
    let _way = Mirror::open(&machine)?;
    machine.run(&["apt-get", "-qq", "update"])?;
    machine.write("/etc/crio-setup.toml", "lock-timeout = 3\n", 0o644)?;
    let program = machine.product("crio-setup")?;
    let before = listing::list(&machine, &TREES, false)?;
    let lock = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(machine.path("/var/lib/dpkg/lock-frontend"))?;
    let whole = libc::flock {
        l_type: libc::F_WRLCK as i16,
        l_whence: libc::SEEK_SET as i16,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    fcntl(&lock, FcntlArg::F_SETLK(&whole))?;
    let started = Instant::now();
    let output = machine.output(&[&program, "install", "--without", "docker"])?;
    let took = started.elapsed();
    drop(lock);
    fails(
        "install under a held lock",
        &output,
        1,
        &["/var/lib/dpkg/lock"],
    )?;
    ensure!(took > Duration::from_secs(2), "it did not wait: {took:?}");
    ensure!(took < Duration::from_secs(40), "it waited {took:?}");
    let left = listing::difference(&before, &listing::list(&machine, &TREES, false)?);
    ensure!(left.is_empty(), "it left:\n{}", left.join("\n"));
    Ok(())
}
