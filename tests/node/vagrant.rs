//! What the Vagrantfile runs in its machine, on a machine with systemd: a node from a build or from a release, redis
//! answering at the machine's own port, and nothing done by a second run.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};

use crate::support::listing::{self, Listing};
use crate::support::node::fails;
use crate::support::registry::Registry;
use crate::support::upstream::{Answer, Upstream};
use crate::support::{Machine, binary, redis, release, repository};

/// What is on the machine will do, and docker is another test's.
const ARGUMENTS: [&str; 4] = ["--source", "distro", "--without", "docker"];
const UPLOAD: &str = "/tmp/crio-setup";
const IMAGE: &str = "docker.io/library/redis:7-alpine";

fn script(name: &str) -> String {
    repository()
        .join("vagrant")
        .join(name)
        .display()
        .to_string()
}

/// Puts the program where Vagrant uploads it to and has it installed.
fn install_build(machine: &Machine) -> Result<String> {
    let upload = machine.path(UPLOAD);
    std::fs::copy(binary(), &upload).with_context(|| upload.display().to_string())?;
    let install = script("install");
    machine.run(&[&[install.as_str(), "build", UPLOAD], &ARGUMENTS[..]].concat())
}

/// One PING of a client that comes from the machine's own network.
fn ping(machine: &Machine, to: (Ipv4Addr, u16)) -> Result<String> {
    let mut stream = BufReader::new(machine.connect(SocketAddr::from(to))?);
    stream.get_mut().write_all(b"PING\r\n")?;
    let mut line = String::new();
    stream.read_line(&mut line)?;
    Ok(line.trim_end().to_owned())
}

/// Everything that a run might have touched, with the times of it.
fn picture(machine: &Machine) -> Result<Listing> {
    // Not /run: what runs is asked for by its ids.
    let trees = ["/etc", "/usr/local", "/opt", "/var/lib"];
    let mut listing = listing::list(machine, &trees, true)?;
    // The journal and systemd's own books go on by themselves.
    listing.retain(|path, _| !path.starts_with("/var/lib/systemd"));
    Ok(listing)
}

#[test]
fn the_provisioners_make_a_node_with_redis_once() -> Result<()> {
    let machine = Machine::boot()?;
    machine.write(
        "/etc/containers/registries.conf",
        "[[registry]]\nlocation = \"docker.io\"\n[[registry.mirror]]\nlocation = \"127.0.0.1:5000\"\ninsecure = true\n",
        0o644,
    )?;
    let registry = Registry::start(&machine, 5000)?;
    registry.push(&machine, "library/redis", "7-alpine", &redis::image()?)?;

    // Without an upload there is nothing to install, and that is said.
    let install = script("install");
    let said = machine.output(&[install.as_str(), "build", UPLOAD])?;
    fails("install", &said, 1, &["cargo build --release"])?;
    // And what runs at each `vagrant up` says that this is no node.
    let said = machine.output(&[&script("redis"), IMAGE])?;
    fails("redis", &said, 1, &["no node", "vagrant provision"])?;

    install_build(&machine)?;
    ensure!(!machine.exists(UPLOAD), "the upload is still there");
    let redis = script("redis");
    let said = machine.run(&[&redis, IMAGE])?;
    ensure!(said == "redis answers", "{said}");
    ensure!(ping(&machine, (Ipv4Addr::LOCALHOST, 6379))? == "+PONG");
    ensure!(ping(&machine, (Ipv4Addr::new(10, 88, 0, 2), 6379))? == "+PONG");
    let reader = machine.output(&["pgrep", "-x", "ocic"])?;
    ensure!(
        reader.status.code() == Some(1),
        "redis' log is still read: {reader:?}"
    );

    // Provisioned again: no file's time, no unit's start, the same container.
    let units = ["show", "ocid", "--property=InvocationID,MainPID"];
    let state = || -> Result<(Listing, String, String)> {
        Ok((
            picture(&machine)?,
            machine.run(&[&["systemctl"], &units[..]].concat())?,
            machine.run(&["ocic", "ps", "--quiet"])?,
        ))
    };
    let (files, unit, containers) = state()?;
    let said = install_build(&machine)?;
    ensure!(said.contains("changed: 0"), "{said}");
    let said = machine.run(&[&redis, IMAGE])?;
    ensure!(said.contains("as before"), "{said}");
    let (files_again, unit_again, containers_again) = state()?;
    let differ = listing::difference(&files, &files_again);
    ensure!(differ.is_empty(), "changed:\n{}", differ.join("\n"));
    ensure!(unit == unit_again, "{unit} became {unit_again}");
    ensure!(!containers.is_empty() && containers == containers_again);

    // A machine that was switched off has a pod that is no longer ready; redis comes back all the same.
    let pods = machine.run(&["ocic", "pods", "--quiet"])?;
    machine.run(&["ocic", "pod", "stop", "--id", &pods])?;
    let said = machine.run(&[&redis, IMAGE])?;
    ensure!(said == "redis answers", "{said}");
    ensure!(ping(&machine, (Ipv4Addr::LOCALHOST, 6379))? == "+PONG");
    let pods = machine.run(&["ocic", "pods", "--quiet"])?;
    ensure!(pods.lines().collect::<BTreeSet<_>>().len() == 1, "{pods}");

    // What cannot come up is an error with its reason.
    machine.run(&["ocic", "pod", "remove", "--id", &pods])?;
    let said = machine.output(&[&redis, "127.0.0.1:1/nobody/nothing:1"])?;
    ensure!(!said.status.success(), "redis without an image");
    Ok(())
}

#[test]
fn a_release_is_downloaded_once_and_only_with_its_sum() -> Result<()> {
    let machine = Machine::start()?;
    let upstream = Upstream::start(&machine)?;
    let program = std::fs::read(binary())?;
    let (sum, path) = (release::hash(&program), "/crio-setup-linux");
    upstream.set(path, Answer::Whole(Arc::new(program)))?;
    let (install, url) = (script("install"), upstream.url(path));
    let run = |sum: &str| {
        let first = [install.as_str(), "release", &url, sum];
        machine.output(&[&first[..], &ARGUMENTS, &["--no-selftest"]].concat())
    };
    let wrong = "0".repeat(64);
    fails("install release", &run(&wrong)?, 1, &[&url, &wrong])?;
    ensure!(!machine.exists("/usr/local/bin/crio-setup"));
    let first = run(&sum)?;
    ensure!(first.status.success(), "{first:?}");
    let asked = upstream.asked().len();
    ensure!(asked == 2, "{:?}", upstream.asked());
    let again = run(&sum)?;
    let said = String::from_utf8_lossy(&again.stdout).into_owned();
    ensure!(
        again.status.success() && said.contains("changed: 0"),
        "{said}"
    );
    ensure!(
        upstream.asked().len() == asked,
        "what is installed was downloaded"
    );
    Ok(())
}
