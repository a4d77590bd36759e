//! The machine's network for pods: missing, broken, healed, told its subnets.

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use tonic::Code;

use crate::world::{World, code};

const CONFLIST: &str = "/etc/cni/net.d/10-mynet.conflist";

/// Addresses come from the subnets that kubelet tells.
const TOLD: &str = r#"{
  "cniVersion": "1.0.0",
  "name": "told",
  "plugins": [{
    "type": "bridge",
    "bridge": "cni1",
    "capabilities": { "ipRanges": true },
    "ipam": { "type": "host-local" }
  }]
}
"#;

/// A plugin that takes part in the ADD and then refuses.
const REFUSING: &str = r#"#!/bin/sh
[ "$CNI_COMMAND" = VERSION ] && echo '{"cniVersion":"1.0.0","supportedVersions":["1.0.0"]}' && exit 0
[ "$CNI_COMMAND" = ADD ] || exit 0
echo '{"cniVersion":"1.0.0","code":100,"msg":"not today"}'
exit 1
"#;

async fn network(world: &World) -> Result<(bool, String, String)> {
    let status = world
        .client
        .status(false)
        .await?
        .status
        .context("no status")?;
    let condition = status
        .conditions
        .into_iter()
        .find(|c| c.r#type == "NetworkReady");
    let condition = condition.context("no NetworkReady")?;
    Ok((condition.status, condition.reason, condition.message))
}

/// NetworkReady follows the folder; pods with the machine's network need none.
#[tokio::test]
async fn a_missing_or_broken_network_heals_without_a_restart() -> Result<()> {
    let world = World::start().await?;
    let good = world.machine.read(CONFLIST)?;
    ensure!(network(&world).await?.0);
    let missing_plugin = good.replace("\"portmap\"", "\"no-such-plugin\"");
    for (content, word) in [
        (None, "/etc/cni/net.d"),
        (Some("{ broken"), "10-mynet.conflist"),
        (Some(missing_plugin.as_str()), "no-such-plugin"),
    ] {
        match content {
            Some(content) => world.machine.write(CONFLIST, content, 0o644)?,
            None => std::fs::remove_file(world.machine.path(CONFLIST))?,
        }
        let (ready, reason, message) = network(&world).await?;
        ensure!(!ready && reason == "NetworkPluginNotReady", "{reason}");
        ensure!(message.contains(word), "{message}");
        let (_, message) = code(world.run_pod(&world.pod_config("none")).await)?;
        ensure!(message.contains(word), "{message}");
        let mut host = world.pod_config("host");
        let options = crate::pods::namespaces(&mut host);
        options.network = crio_setup::cri::v1::NamespaceMode::Node.into();
        let pod = world.run_pod(&host).await?;
        world.client.remove_pod_sandbox(&pod).await?;
        world.machine.write(CONFLIST, &good, 0o644)?;
        ensure!(network(&world).await? == (true, String::new(), String::new()));
        let pod = world.run_pod(&world.pod_config("healed")).await?;
        // One that is there goes even though its network's file is gone.
        std::fs::remove_file(world.machine.path(CONFLIST))?;
        world.client.remove_pod_sandbox(&pod).await?;
        world.machine.write(CONFLIST, &good, 0o644)?;
    }
    world.assert_clean(&["last_reserved_ip"]).await
}

/// A plugin that fails after others have done their work: all of it is undone.
#[tokio::test]
async fn a_pod_without_a_network_leaves_nothing() -> Result<()> {
    let world = World::start().await?;
    let good = world.machine.read(CONFLIST)?;
    world
        .machine
        .write("/opt/refusing/refusing", REFUSING, 0o755)?;
    let dirs = "[crio.network]\nplugin_dirs = [\"/usr/lib/cni\", \"/opt/refusing\"]\n";
    world
        .machine
        .write("/etc/ocid/ocid.conf.d/10-plugins.conf", dirs, 0o644)?;
    let mut world = world;
    world.restart(Signal::SIGKILL).await?;
    let refusing = good.replace(
        "{ \"type\": \"portmap\"",
        "{ \"type\": \"refusing\" },\n    { \"type\": \"portmap\"",
    );
    ensure!(refusing != good, "{good}");
    world.machine.write(CONFLIST, &refusing, 0o644)?;
    for pid in [
        crio_setup::cri::v1::NamespaceMode::Container,
        crio_setup::cri::v1::NamespaceMode::Pod,
    ] {
        let mut sandbox = world.pod_config("unlucky");
        crate::pods::namespaces(&mut sandbox).pid = pid.into();
        let (code, message) = code(world.run_pod(&sandbox).await)?;
        ensure!(
            code == Code::Internal && message.contains("not today"),
            "{code:?} {message}"
        );
        ensure!(message.contains("refusing"), "{message}");
        ensure!(world.client.list_pod_sandboxes(None).await?.is_empty());
    }
    world.machine.write(CONFLIST, &good, 0o644)?;
    // The name is free, too.
    world.run_pod(&world.pod_config("unlucky")).await?;
    world.assert_clean(&["last_reserved_ip"]).await
}

/// UpdateRuntimeConfig: pods get addresses from the node's subnets, also after a restart.
#[tokio::test]
async fn subnets_are_told_and_remembered() -> Result<()> {
    let mut world = World::start().await?;
    world
        .machine
        .write("/etc/cni/net.d/05-told.conflist", TOLD, 0o644)?;
    let sandbox = world.pod_config("early");
    ensure!(
        code(world.run_pod(&sandbox).await).is_ok(),
        "there is no subnet yet"
    );
    for (text, word) in [
        ("10.1.0.0", "10.1.0.0"),
        ("10.1.0.0/16,10.2.0.0/16", "10.2.0.0/16"),
    ] {
        let (code, message) = code(world.client.update_runtime_config(text).await)?;
        ensure!(
            code == Code::InvalidArgument && message.contains(word),
            "{message}"
        );
        ensure!(
            message.contains("runtime_config.network_config.pod_cidr"),
            "{message}"
        );
    }
    world
        .client
        .update_runtime_config("10.99.3.0/24,fd00:99::/64")
        .await?;
    // As kubelet says it while it has none.
    world.client.update_runtime_config("").await?;
    for round in ["now", "later"] {
        let pod = world.run_pod(&world.pod_config(round)).await?;
        let network = world.pod_status(&pod).await?.network.unwrap_or_default();
        let more: Vec<&str> = network
            .additional_ips
            .iter()
            .map(|ip| ip.ip.as_str())
            .collect();
        ensure!(network.ip.starts_with("10.99.3."), "{network:?}");
        ensure!(
            more.iter().any(|ip| ip.starts_with("fd00:99::")),
            "{network:?}"
        );
        world.restart(Signal::SIGKILL).await?;
        world.client.remove_pod_sandbox(&pod).await?;
    }
    let kept = [
        "/var/lib/ocid/runtime-config.json",
        "/var/lib/cni/",
        "link cni1",
        "dev cni1",
    ];
    world.assert_clean(&kept).await
}
