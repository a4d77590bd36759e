//! What a person gets wrong in a pod, a container or an image: a clear error, the right exit code, and
//! nothing changed on the node.

use anyhow::{Result, ensure};
use serde_json::json;

use crate::support::node::{Daemon, configure, ocic_fails, ocic_ok};
use crate::support::registry::Registry;
use crate::support::snapshot::Snapshot;
use crate::support::{Machine, redis};

/// What a node has from its first pod on: the bridge, host-local's notes, the folder of logs, and the
/// runtime's own folder.
const STAYS: [&str; 4] = ["cni0", "/var/lib/cni", "/var/log/pods", "/run/ocid/oci"];

#[test]
fn pod_configs_that_cannot_be_right_are_refused_by_name() -> Result<()> {
    let machine = Machine::start()?;
    configure(&machine)?;
    let _daemon = Daemon::start(&machine)?;
    let cases = [
        ("not-json", "metadata: {}", vec!["not-json", "JSON"]),
        ("empty", "", vec!["empty"]),
        (
            "no-metadata",
            r#"{ "log_directory": "/var/log/pods/x" }"#,
            vec!["metadata"],
        ),
        (
            "no-name",
            r#"{ "metadata": { "uid": "u", "namespace": "n" } }"#,
            vec!["metadata.name"],
        ),
        (
            "wrong-type",
            r#"{ "metadata": { "name": "a", "uid": "u", "namespace": "n", "attempt": "one" } }"#,
            vec!["metadata.attempt"],
        ),
        (
            "wrong-list",
            r#"{ "metadata": { "name": "a", "uid": "u", "namespace": "n" }, "dns_config": { "servers": "1.1.1.1" } }"#,
            vec!["dns_config.servers"],
        ),
    ];
    let before = Snapshot::take(&machine)?;
    for (name, text, words) in cases {
        let path = format!("/srv/{name}.json");
        machine.write(&path, text, 0o644)?;
        ocic_fails(&machine, &["pod", "create", "--config", &path], 2, &words)?;
        Snapshot::take(&machine)?.assert_as(&before, &STAYS)?;
    }
    let absent = ["pod", "create", "--config", "/srv/absent.json"];
    ocic_fails(&machine, &absent, 2, &["/srv/absent.json"])?;
    // What only the daemon can judge is its answer: exit code 1, the field named all the same.
    let sysctl = json!({
        "metadata": { "name": "a", "uid": "u", "namespace": "n" },
        "linux": { "sysctls": { "kernel.panic": "1" } },
    });
    machine.write("/srv/sysctl.json", sysctl.to_string(), 0o644)?;
    let refused = ["pod", "create", "--config", "/srv/sysctl.json"];
    ocic_fails(&machine, &refused, 1, &["kernel.panic"])?;
    Snapshot::take(&machine)?.assert_as(&before, &STAYS)?;
    ensure!(!ocic_ok(&machine, &["pod", "list", "--output", "json"])?.contains("\"a\""));
    Ok(())
}

#[test]
fn images_that_are_not_there_or_not_given_are_told_apart() -> Result<()> {
    let machine = Machine::start()?;
    configure(&machine)?;
    let _registry = Registry::start(&machine, 5000)?;
    // A registry that wants credentials nobody has.
    machine.write("/srv/htpasswd", "", 0o600)?;
    machine.write(
        "/srv/refusing.yml",
        "version: 0.1\nstorage: { inmemory: {} }\nhttp: { addr: '127.0.0.1:5001' }\nauth: { htpasswd: { realm: test, path: /srv/htpasswd } }\n",
        0o644,
    )?;
    let refusing = machine.spawn(&["docker-registry", "serve", "/srv/refusing.yml"], &[])?;
    refusing.line_with("listening on", std::time::Duration::from_secs(20))?;
    let _daemon = Daemon::start(&machine)?;
    let before = Snapshot::take(&machine)?;
    let pull = |reference: &str, words: &[&str]| {
        ocic_fails(&machine, &["image", "pull", reference], 1, words)
    };
    let absent = "127.0.0.1:5000/library/absent:1";
    let not_there = pull(absent, &[absent, "not found"])?;
    let refused = pull(
        "127.0.0.1:5001/library/redis:1",
        &["127.0.0.1:5001/library/redis:1"],
    )?;
    let refused = refused.to_lowercase();
    ensure!(
        [
            "unauthenticated",
            "unauthorized",
            "permission",
            "denied",
            "credentials"
        ]
        .iter()
        .any(|word| refused.contains(word)),
        "a refusal that does not read as one: {refused}"
    );
    let nobody = pull("127.0.0.1:5002/library/redis:1", &["127.0.0.1:5002"])?;
    ensure!(nobody.to_lowercase().contains("refused"), "{nobody}");
    ensure!(not_there != refused && refused != nobody);
    pull("not a reference", &["not a reference"])?;
    Snapshot::take(&machine)?.assert_as(&before, &STAYS)?;

    let pod = json!({ "metadata": { "name": "a", "uid": "u", "namespace": "n" } });
    machine.write("/srv/pod.json", pod.to_string(), 0o644)?;
    let pod = ocic_ok(&machine, &["pod", "create", "--config", "/srv/pod.json"])?;
    let container = json!({ "metadata": { "name": "c" }, "image": { "image": absent } });
    machine.write("/srv/container.json", container.to_string(), 0o644)?;
    let create = [
        "ctr",
        "create",
        "--pod",
        &pod,
        "--config",
        "/srv/container.json",
    ];
    ocic_fails(&machine, &create, 1, &[absent])?;
    let container = json!({ "image": { "image": absent } });
    machine.write("/srv/container.json", container.to_string(), 0o644)?;
    ocic_fails(&machine, &create, 2, &["metadata"])?;
    let unknown = [
        "ctr",
        "create",
        "--pod",
        "0123456789ab",
        "--config",
        "/srv/container.json",
    ];
    ocic_fails(&machine, &unknown, 2, &["metadata"])?;
    ocic_ok(&machine, &["pod", "stop", "--id", &pod])?;
    ocic_ok(&machine, &["pod", "remove", "--id", &pod])?;
    // Stop and remove of what is not there succeed, as a retry of a kubelet's must.
    ocic_ok(&machine, &["pod", "remove", "--id", &pod])?;
    Snapshot::take(&machine)?.assert_as(&before, &STAYS)
}

#[test]
fn a_command_that_does_not_exist_is_named() -> Result<()> {
    let machine = Machine::start()?;
    configure(&machine)?;
    let registry = Registry::start(&machine, 5000)?;
    let image = registry.push(&machine, "library/redis", "7-alpine", &redis::image()?)?;
    let _daemon = Daemon::start(&machine)?;
    ocic_ok(&machine, &["image", "pull", &image])?;
    let pod = json!({ "metadata": { "name": "a", "uid": "u", "namespace": "n" } });
    machine.write("/srv/pod.json", pod.to_string(), 0o644)?;
    let pod = ocic_ok(&machine, &["pod", "create", "--config", "/srv/pod.json"])?;
    let before = Snapshot::take(&machine)?;
    let container = json!({
        "metadata": { "name": "c" },
        "image": { "image": image },
        "command": ["no-such-program", "--flag"],
    });
    machine.write("/srv/container.json", container.to_string(), 0o644)?;
    // Where the runtime finds out, at create or at start, is its own affair.
    let create = [
        "ctr",
        "create",
        "--pod",
        &pod,
        "--config",
        "/srv/container.json",
    ];
    let created = crate::support::node::ocic(&machine, &create)?;
    if created.status.success() {
        let id = String::from_utf8_lossy(&created.stdout).trim().to_owned();
        ocic_fails(
            &machine,
            &["ctr", "start", "--id", &id],
            1,
            &["no-such-program"],
        )?;
        ocic_ok(&machine, &["ctr", "remove", "--id", &id])?;
    } else {
        ocic_fails(&machine, &create, 1, &["no-such-program"])?;
    }
    Snapshot::take(&machine)?.assert_as(&before, &STAYS)?;
    ocic_fails(
        &machine,
        &["ctr", "start", "--id", "0123456789ab"],
        1,
        &["0123456789ab"],
    )?;
    ocic_fails(
        &machine,
        &[
            "ctr",
            "create",
            "--pod",
            "0123456789ab",
            "--config",
            "/srv/container.json",
        ],
        1,
        &["0123456789ab"],
    )?;
    ocic_ok(&machine, &["pod", "stop", "--id", &pod])?;
    ocic_ok(&machine, &["pod", "remove", "--id", &pod])?;
    Ok(())
}
