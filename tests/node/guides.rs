//! The commands of the guides, word for word, on throwaway machines.

use std::fs;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::install::json;
use crate::support::document::{blocks, yaml};
use crate::support::node::ocic_json;
use crate::support::upstream::{Answer, Upstream};
use crate::support::{Machine, binary, release, repository};

/// What a test of commands leaves to others: where programs come from, and docker.
const SETTINGS: &str = "source = \"distro\"\n";

fn guide(name: &str) -> Result<String> {
    Ok(fs::read_to_string(repository().join("docs").join(name))?)
}

#[test]
fn the_recipe_for_pipelines_makes_a_node_and_unmakes_it() -> Result<()> {
    let machine = Machine::start()?;
    let settings = format!("{SETTINGS}without = [\"docker\"]\n");
    machine.write("/etc/crio-setup.toml", settings, 0o644)?;
    // Hosted runners have it, a bare machine need not.
    if machine.output(&["which", "sudo"])?.status.code() != Some(0) {
        machine.write("/usr/local/bin/sudo", "#!/bin/sh\nexec \"$@\"\n", 0o755)?;
    }
    let upstream = Upstream::start(&machine)?;
    let program = fs::read(binary())?;
    let sum = release::hash(&program);
    upstream.set("/crio-setup-linux-amd64", Answer::Whole(Arc::new(program)))?;
    let pod = fs::read(repository().join("examples/sandbox_config.json"))?;
    machine.write("/srv/job/pod.json", pod, 0o644)?;

    let block = blocks(&guide("ci.md")?, "yaml");
    let documents = yaml(block.first().context("the guide has no recipe")?)?;
    let steps = documents[0]["steps"].as_array().context("no steps")?;
    let run = |step: &Value, sum: &str| {
        let script = format!("cd /srv/job && {}", step["run"].as_str().unwrap_or("false"));
        let (release, sum) = (
            format!("RELEASE={}", upstream.url("")),
            format!("SHA256={sum}"),
        );
        // As a hosted runner does; it has no more than `-e`.
        machine.output(&["env", &release, &sum, "bash", "-e", "-c", &script])
    };
    let first = steps.first().context("no step")?;
    let other = run(first, &"0".repeat(64))?;
    ensure!(
        !other.status.success() && !machine.exists("/usr/local/bin/ocid"),
        "another program than the one that was looked at is run"
    );
    for (index, step) in steps.iter().enumerate() {
        let output = run(step, &sum)?;
        ensure!(
            output.status.success(),
            "{step}: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        if index == 0 {
            ensure!(json(&machine, &["status"])?["healthy"] == true);
            let report: Value = serde_json::from_str(&machine.read("/srv/job/install.json")?)?;
            ensure!(report["changed"].as_u64() > Some(0), "{report}");
        }
    }
    for path in [
        "/usr/local/bin/ocid",
        "/run/ocid",
        "/var/lib/ocid",
        "/etc/ocid",
    ] {
        ensure!(!machine.exists(path), "`{path}` is still there");
    }
    // A step that fails must fail the job: nothing may stand behind a pipe.
    machine.write("/etc/crio-setup.toml", "subnet = \"10.88.0.0/33\"\n", 0o644)?;
    ensure!(!run(first, &sum)?.status.success(), "a refusal passes");
    Ok(())
}

#[test]
fn the_guide_for_kubernetes_prepares_a_node_for_kubelet() -> Result<()> {
    let machine = Machine::boot()?;
    machine.write("/etc/crio-setup.toml", SETTINGS, 0o644)?;
    let program = machine.product("crio-setup")?;
    let folder = program.trim_end_matches("/crio-setup");
    let block = blocks(&guide("kubernetes.md")?, "sh");
    let commands = block.first().context("the guide has no commands")?;
    let said = machine.run(&[
        "bash",
        "-e",
        "-c",
        &format!("PATH=$PATH:{folder}; {commands}"),
    ])?;
    ensure!(said.contains("cgroup_manager = \"systemd\""), "{said}");
    ensure!(
        machine
            .read("/etc/crictl.yaml")?
            .contains("unix:///run/ocid/ocid.sock"),
        "crictl does not find the socket"
    );
    ensure!(
        machine
            .run(&["systemctl", "show", "ocid", "--property=Before"])?
            .contains("kubelet.service")
    );
    for path in [
        "/etc/cni/net.d/10-mynet.conflist",
        "/etc/systemd/system/docker.service",
    ] {
        ensure!(!machine.exists(path), "`{path}` is there");
    }
    let network = || -> Result<bool> {
        let info = ocic_json(&machine, &["info"])?;
        let conditions = info["status"]["conditions"]
            .as_array()
            .context("no conditions")?;
        let network = conditions.iter().find(|it| it["type"] == "NetworkReady");
        network
            .and_then(|it| it["status"].as_bool())
            .with_context(|| info.to_string())
    };
    ensure!(
        !network()?,
        "there is a network although the cluster has brought none"
    );
    // The cluster's agent brings it, with no word to the daemon.
    machine.write(
        "/etc/cni/net.d/20-cluster.conflist",
        r#"{"cniVersion":"1.0.0","name":"cluster","plugins":[{"type":"bridge","bridge":"cni1","ipam":{"type":"host-local","subnet":"10.244.0.0/24"}}]}"#,
        0o644,
    )?;
    ensure!(network()?, "the cluster's network is not seen");
    let again = json(&machine, &["install", "--profile", "kubernetes"])?;
    ensure!(again["changed"] == 0, "{again}");
    Ok(())
}
