//! `install` from an upstream on loopback with archives of the true layout, and everything that can go
//! wrong on that road: each fault is told, undone, and leaves the machine as it was.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::json;

use crate::install::{changed, install, json};
use crate::support::Machine;
use crate::support::listing::{self, TREES};
use crate::support::machine::BROUGHT;
use crate::support::mirror::Mirror;
use crate::support::node::fails;
use crate::support::release::{self, CATALOG, Tgz, hash, publish, sum};
use crate::support::upstream::{Answer, Upstream};

/// A machine that has the `iptables` package and nothing else that `install` brings: with it there,
/// no package is touched and the listings need no exceptions.
fn machine() -> Result<Machine> {
    let purged: Vec<&str> = BROUGHT.into_iter().filter(|p| *p != "iptables").collect();
    let machine = Machine::start()?.without(&purged)?;
    // A client that someone put where upstream's is linked; what becomes of such a file is a case of
    // the preflight's tests.
    machine.run(&["rm", "-f", "/usr/local/bin/docker"])?;
    Ok(machine)
}

const UPSTREAM: [&str; 4] = ["--source", "upstream", "--catalog", CATALOG];

#[test]
fn uninstall_after_upstream_leaves_the_tree_as_it_was() -> Result<()> {
    let machine = machine()?;
    let upstream = Upstream::start(&machine)?;
    let way = Mirror::open(&machine)?;
    machine.run(&["apt-get", "-qq", "update"])?;
    let docker = release::docker(&machine, &way)?;
    drop(way);
    let (runc, plugins) = (release::runc()?, release::plugins()?);
    publish(
        &machine,
        &upstream,
        &[runc.clone(), plugins.clone(), docker],
    )?;
    // Something of the user's that must survive, and something that is replaced and comes back.
    machine.write("/etc/cni/net.d/50-theirs.conflist.off", "theirs", 0o640)?;
    machine.write("/opt/cni/bin/theirs", "their plugin", 0o700)?;
    machine.product("crio-setup")?;
    let before = listing::list(&machine, &TREES, false)?;

    let started = Instant::now();
    install(&machine, &UPSTREAM)?;
    println!("install from upstream: {:?}", started.elapsed());
    ensure!(
        started.elapsed() < Duration::from_secs(60),
        "{:?}",
        started.elapsed()
    );
    ensure!(sum(&machine, "/usr/local/bin/runc")? == hash(&runc.bytes));
    let bridge = std::fs::read("/usr/lib/cni/bridge")?;
    ensure!(sum(&machine, "/opt/cni/bin/bridge")? == hash(&bridge));
    ensure!(!machine.exists("/usr/sbin/runc"), "a package came along");
    machine.run(&["crio-setup", "selftest"])?;
    let docker = machine.run(&["docker", "version", "--format", "{{.Server.Version}}"])?;
    ensure!(!docker.is_empty());

    let installed = listing::list(&machine, &TREES, true)?;
    let asked = upstream.asked().len();
    let report = json(
        &machine,
        &["install", "--source", "upstream", "--catalog", CATALOG],
    )?;
    ensure!(changed(&report)? == 0, "{report}");
    ensure!(
        upstream.asked().len() == asked,
        "downloaded again: {:?}",
        upstream.asked()
    );
    let differ: Vec<String> =
        listing::difference(&installed, &listing::list(&machine, &TREES, true)?)
            .into_iter()
            // dockerd writes there by itself.
            .filter(|line| !line.contains("/var/lib/docker") && !line.contains("/run/docker"))
            .collect();
    ensure!(
        differ.is_empty(),
        "a second install changed:\n{}",
        differ.join("\n")
    );

    machine.run(&["crio-setup", "uninstall"])?;
    let left = listing::difference(&before, &listing::list(&machine, &TREES, false)?);
    ensure!(left.is_empty(), "uninstall left:\n{}", left.join("\n"));
    ensure!(machine.exists("/opt/cni/bin/theirs"));
    Ok(())
}

/// Runs an `install` that must fail with `code`, tell of `words` within `limit`, and change nothing.
fn refused(
    machine: &Machine,
    what: &str,
    arguments: &[&str],
    code: i32,
    words: &[&str],
    limit: Duration,
) -> Result<()> {
    let program = machine.product("crio-setup")?;
    let before = listing::list(machine, &TREES, false)?;
    let mut argv = vec![program.as_str(), "install"];
    argv.extend(arguments);
    let started = Instant::now();
    let output = machine.output(&argv)?;
    let took = started.elapsed();
    fails(&format!("install: {what}"), &output, code, words)?;
    ensure!(took < limit, "{what}: it took {took:?}");
    let left = listing::difference(&before, &listing::list(machine, &TREES, false)?);
    ensure!(left.is_empty(), "{what} left:\n{}", left.join("\n"));
    Ok(())
}

#[test]
fn broken_downloads_are_told_and_undone() -> Result<()> {
    let machine = machine()?;
    let upstream = Upstream::start(&machine)?;
    let (runc, plugins) = (release::runc()?, release::plugins()?);
    let arguments = [&UPSTREAM[..], &["--without", "docker"]].concat();
    let quick = Duration::from_secs(15);
    let half = plugins.bytes.len() / 2;
    let mut wrong = plugins.bytes.to_vec();
    wrong[half] ^= 1;
    let url = upstream.url(plugins.path);
    let faults = [
        (
            "cut short",
            Answer::Cut(plugins.bytes.clone(), half),
            vec![url.as_str()],
        ),
        (
            "of the wrong hash",
            Answer::Whole(Arc::new(wrong)),
            vec![&url, "sha256"],
        ),
        (
            "longer than it may be",
            Answer::Whole(Arc::new([&plugins.bytes[..], b"x"].concat())),
            vec![&url],
        ),
        ("not there", Answer::Status(404), vec![&url, "404"]),
        ("a failing server", Answer::Status(503), vec![&url, "503"]),
    ];
    for (what, answer, words) in faults {
        publish(&machine, &upstream, &[runc.clone(), plugins.clone()])?;
        upstream.set(plugins.path, answer)?;
        refused(&machine, what, &arguments, 1, &words, quick)?;
    }
    // One that hangs in the middle is given up after the idle limit.
    upstream.set(plugins.path, Answer::Stall(plugins.bytes.clone(), half))?;
    refused(
        &machine,
        "hangs",
        &arguments,
        1,
        &[&url],
        Duration::from_secs(60),
    )
}

#[test]
fn an_upstream_behind_a_firewall_costs_seconds() -> Result<()> {
    let machine = machine()?;
    // Packets into this interface are gone, without an answer: nobody has the address they are sent to.
    for command in [
        "ip link add void type veth peer name beyond",
        "ip link set beyond up",
        "ip link set void up",
        "ip route add 198.51.100.0/24 dev void",
        "ip neighbour add 198.51.100.7 lladdr 02:00:00:00:00:07 dev void",
    ] {
        machine.run(&command.split(' ').collect::<Vec<_>>())?;
    }
    let artifacts: Vec<_> = [release::runc()?, release::plugins()?]
        .iter()
        .map(|release| {
            json!({
                "component": release.component,
                "version": "1.1.1",
                "arch": crate::support::image::architecture(),
                "kind": "binary",
                "url": format!("http://198.51.100.7{}", release.path),
                "sha256": hash(&release.bytes),
            })
        })
        .collect();
    machine.write(
        CATALOG,
        json!({ "artifacts": artifacts }).to_string(),
        0o644,
    )?;
    let arguments = [&UPSTREAM[..], &["--without", "docker"]].concat();
    let limit = Duration::from_secs(15);
    refused(
        &machine,
        "dropped packets",
        &arguments,
        2,
        &["198.51.100.7"],
        limit,
    )?;
    // Left to choose, it turns to the distribution, and says why.
    let program = machine.product("crio-setup")?;
    let _way = Mirror::open(&machine)?;
    let started = Instant::now();
    let plan = machine.run(&[
        &program,
        "plan",
        "--without",
        "docker",
        "--catalog",
        CATALOG,
    ])?;
    ensure!(started.elapsed() < limit, "{:?}", started.elapsed());
    ensure!(
        plan.contains("distro") && plan.contains("198.51.100.7"),
        "{plan}"
    );
    Ok(())
}

#[test]
fn archives_that_do_not_fit_or_reach_out_are_told_and_undone() -> Result<()> {
    let machine = machine()?;
    let upstream = Upstream::start(&machine)?;
    let (runc, plugins) = (release::runc()?, release::plugins()?);
    let arguments = [&UPSTREAM[..], &["--without", "docker"]].concat();
    let limit = Duration::from_secs(20);
    for path in ["../evil", "bin/../../evil", "/evil"] {
        let mut tgz = Tgz::default();
        for name in ["bridge", "host-local", "loopback", "portmap"] {
            tgz.file(&format!("./{name}"), 0o755, b"#!/bin/sh\n")?;
        }
        tgz.file(path, 0o755, b"evil")?;
        let evil = release::plugins_of(tgz.finish()?);
        publish(&machine, &upstream, &[runc.clone(), evil])?;
        refused(&machine, path, &arguments, 1, &[path], limit)?;
        for place in ["/evil", "/opt/evil", "/opt/cni/evil", "/opt/cni/bin/evil"] {
            ensure!(!machine.exists(place), "`{place}` was written");
        }
    }
    let not_gzip = release::plugins_of(b"this is no archive".to_vec());
    publish(&machine, &upstream, &[runc.clone(), not_gzip])?;
    refused(
        &machine,
        "no archive",
        &arguments,
        1,
        &["cni-plugins"],
        limit,
    )?;
    // Room for the download, none for what is in it.
    machine.run(&["mkdir", "-p", "/opt/cni"])?;
    machine.run(&[
        "mount",
        "-t",
        "tmpfs",
        "-o",
        "size=8m,mode=755",
        "tmpfs",
        "/opt/cni",
    ])?;
    publish(&machine, &upstream, &[runc, plugins])?;
    refused(
        &machine,
        "full disk",
        &arguments,
        1,
        &["no space left", "/opt/cni"],
        limit,
    )
}
