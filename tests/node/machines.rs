//! The throwaway machines themselves: what the other tests stand on must hold.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Result, ensure};

use crate::support::http::request;
use crate::support::mirror::Mirror;
use crate::support::registry::Registry;
use crate::support::release;
use crate::support::snapshot::Snapshot;
use crate::support::{Machine, listing, redis};

#[test]
fn a_machine_leaves_nothing_on_the_host() -> Result<()> {
    let cgroups;
    {
        let machine = Machine::start()?;
        cgroups = machine.cgroups().to_vec();
        ensure!(!cgroups.is_empty() && cgroups.iter().all(|c| c.is_dir()));
        machine.write("/etc/crio-setup-test-mark", "inside", 0o600)?;
        ensure!(machine.run(&["cat", "/etc/crio-setup-test-mark"])? == "inside");
        ensure!(machine.run(&["hostname"])? == "node");
        // A process left behind there must not survive it.
        machine.run(&["sh", "-c", "sleep 1000 >/dev/null 2>&1 &"])?;
    }
    ensure!(!std::path::Path::new("/etc/crio-setup-test-mark").exists());
    for cgroup in cgroups {
        ensure!(!cgroup.exists(), "`{}` is still there", cgroup.display());
    }
    Ok(())
}

#[test]
fn pictures_of_a_machine_show_what_was_added_and_changed() -> Result<()> {
    let machine = Machine::start()?;
    let before = Snapshot::take(&machine)?;
    Snapshot::take(&machine)?.assert_as(&before, &[])?;
    machine.run(&[
        "ip", "link", "add", "veth0", "type", "veth", "peer", "veth1",
    ])?;
    machine.run(&["mount", "-t", "tmpfs", "tmpfs", "/opt"])?;
    machine.run(&["sh", "-c", "sleep 1000 >/dev/null 2>&1 &"])?;
    machine.run(&["mkdir", "-p", "/run/x/y"])?;
    for added in ["link veth0", "mount /opt", "sleep 1000", "file /run/x/y"] {
        let now = Snapshot::take(&machine)?;
        ensure!(
            now.since(&before, &[])
                .iter()
                .any(|line| line.contains(added)),
            "`{added}` is not seen"
        );
    }
    let before = listing::list(&machine, &["/etc"], true)?;
    ensure!(listing::difference(&before, &listing::list(&machine, &["/etc"], true)?).is_empty());
    machine.run(&["chmod", "0600", "/etc/passwd"])?;
    let after = listing::list(&machine, &["/etc"], true)?;
    let lines = listing::difference(&before, &after);
    ensure!(
        lines.len() == 1 && lines[0].contains("/etc/passwd"),
        "{lines:?}"
    );
    Ok(())
}

#[test]
fn the_registry_serves_the_redis_image() -> Result<()> {
    let machine = Machine::start()?;
    let registry = Registry::start(&machine, 5000)?;
    let image = redis::image()?;
    let reference = registry.push(&machine, "library/redis", "7-alpine", &image)?;
    ensure!(reference == "127.0.0.1:5000/library/redis:7-alpine");
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 5000));
    let path = "/v2/library/redis/tags/list";
    let reply = request(&machine, address, "GET", path, "text/plain", b"")?;
    ensure!(reply.status == 200, "{reply:?}");
    ensure!(String::from_utf8_lossy(&reply.body).contains("7-alpine"));
    Ok(())
}

#[test]
fn a_bare_machine_reaches_its_package_mirror_and_nothing_else() -> Result<()> {
    let machine = Machine::bare()?;
    let _way = Mirror::open(&machine)?;
    machine.run(&["apt-get", "-qq", "update"])?;
    machine.run(&["apt-get", "-qq", "-y", "install", "tini"])?;
    ensure!(machine.has_package("tini"));
    // A documentation address; nothing routes there, and no name resolves.
    let elsewhere = SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1), 80));
    ensure!(machine.connect(elsewhere).is_err());
    Ok(())
}

#[test]
fn releases_have_upstreams_layout() -> Result<()> {
    let machine = Machine::start()?;
    let way = Mirror::open(&machine)?;
    machine.run(&["apt-get", "-qq", "update"])?;
    let docker = release::docker(&machine, &way)?;
    machine.write("/srv/docker.tgz", docker.bytes.as_slice(), 0o644)?;
    let listed = machine.run(&["tar", "-tzf", "/srv/docker.tgz"])?;
    ensure!(
        listed.starts_with("docker/\n") && listed.contains("docker/dockerd"),
        "{listed}"
    );
    machine.write(
        "/srv/plugins.tgz",
        release::plugins()?.bytes.as_slice(),
        0o644,
    )?;
    let listed = machine.run(&["tar", "-tzf", "/srv/plugins.tgz"])?;
    ensure!(
        listed.starts_with("./\n") && listed.contains("./bridge"),
        "{listed}"
    );
    Ok(())
}

#[test]
fn a_machine_with_systemd_boots_and_goes() -> Result<()> {
    let cgroups;
    {
        let machine = Machine::boot()?;
        cgroups = machine.cgroups().to_vec();
        ensure!(machine.run(&["systemctl", "is-active", "systemd-journald"])? == "active");
        machine.run(&["systemd-run", "--wait", "--unit=probe", "echo", "hello"])?;
        let journal = machine.run(&["journalctl", "-u", "probe", "--no-pager"])?;
        ensure!(journal.contains("hello"), "{journal}");
    }
    for cgroup in cgroups {
        ensure!(!cgroup.exists(), "`{}` is still there", cgroup.display());
    }
    Ok(())
}
