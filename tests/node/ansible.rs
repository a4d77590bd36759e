//! The Ansible role on a throwaway machine: what a check says, what a run does, that a second one does
//! nothing, that damage is told and repaired, and the way back.

use anyhow::{Context, Result, ensure};

use crate::support::{Machine, binary, repository};

/// What Ansible's recap counts of the one machine.
#[derive(Debug)]
struct Recap {
    changed: u32,
    failed: u32,
    text: String,
}

/// Runs a playbook on the machine itself, from a copy of the folder without a cache of its own.
fn play(machine: &Machine, book: &str, arguments: &[&str]) -> Result<Recap> {
    let folder = repository().join("playbook-tests");
    let inventory = folder.join("localhost.ini").display().to_string();
    let book = folder.join(book).display().to_string();
    let binary = format!("crio_setup_binary={}", binary().display());
    let mut argv = vec![
        "env",
        "ANSIBLE_NOCOLOR=1",
        "PYTHONDONTWRITEBYTECODE=1",
        "LC_ALL=C.UTF-8",
        "ansible-playbook",
        "-i",
        &inventory,
        &book,
        "-e",
        &binary,
        // The test is root already.
        "-e",
        "ansible_become=false",
        // What is on the machine will do, and docker is another test's.
        "-e",
        r#"{"crio_setup_without": ["docker"], "crio_setup_source": "distro"}"#,
    ];
    argv.extend(arguments);
    let output = machine.output(&argv)?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    let line = text
        .lines()
        .find(|line| line.starts_with("localhost") && line.contains("changed="))
        .with_context(|| {
            format!("no recap; `apt-get install ansible-core` brings Ansible:\n{text}{error}")
        })?;
    let count = |key: &str| -> Result<u32> {
        let word = line.split(' ').find_map(|word| word.strip_prefix(key));
        Ok(word
            .with_context(|| format!("no `{key}` in {line}"))?
            .parse()?)
    };
    let (changed, failed) = (count("changed=")?, count("failed=")?);
    Ok(Recap {
        changed,
        failed,
        text,
    })
}

fn ok(recap: Recap, what: &str) -> Result<Recap> {
    ensure!(recap.failed == 0, "{what}:\n{}", recap.text);
    Ok(recap)
}

#[test]
fn the_role_says_does_and_undoes_what_the_program_does() -> Result<()> {
    let machine = Machine::start()?;
    let socket = "/run/ocid/ocid.sock";

    // Without the program there, a check only knows that something is to be done; with it, what.
    let check = ok(play(&machine, "node.yml", &["--check"])?, "first check")?;
    ensure!(
        check.changed > 0 && !machine.exists("/usr/local/src/crio-setup"),
        "{}",
        check.text
    );
    ok(
        play(&machine, "node.yml", &["--tags", "crio_setup_program"])?,
        "the program alone",
    )?;
    ensure!(
        !machine.exists("/etc/ocid"),
        "a tag let more run than its own"
    );
    let check = ok(play(&machine, "node.yml", &["--check", "--diff"])?, "check")?;
    ensure!(
        check.changed > 0 && check.text.contains("+ ocid: write `/etc/ocid/ocid.conf`"),
        "{}",
        check.text
    );
    ensure!(
        !machine.exists("/etc/ocid") && !machine.exists("/var/lib/crio-setup"),
        "a check wrote"
    );

    let first = ok(play(&machine, "node.yml", &["--diff"])?, "first run")?;
    ensure!(
        first.changed == 1 && first.text.contains("+ ocid: write `/etc/ocid/ocid.conf`"),
        "{}",
        first.text
    );
    ensure!(machine.exists(socket), "no daemon");
    let again = ok(play(&machine, "node.yml", &[])?, "again")?;
    ensure!(
        again.changed == 0,
        "a second run changed something:\n{}",
        again.text
    );

    // Damage is told by a check and put right by a run.
    machine.run(&["rm", "/etc/crictl.yaml"])?;
    let check = ok(
        play(&machine, "node.yml", &["--check", "--diff"])?,
        "check of damage",
    )?;
    ensure!(
        check.changed == 1 && check.text.contains("+ ocid: write `/etc/crictl.yaml`"),
        "{}",
        check.text
    );
    let repaired = ok(play(&machine, "node.yml", &[])?, "repair")?;
    ensure!(
        repaired.changed == 1 && machine.exists("/etc/crictl.yaml"),
        "{}",
        repaired.text
    );

    // What the program refuses fails the play, with its own words.
    let refused = play(
        &machine,
        "node.yml",
        &["-e", "crio_setup_subnet=10.88.0.0/33"],
    )?;
    ensure!(
        refused.failed == 1 && refused.text.contains("10.88.0.0/33"),
        "{}",
        refused.text
    );

    let check = ok(
        play(&machine, "uninstall.yml", &["--check"])?,
        "check of the way back",
    )?;
    ensure!(
        check.changed > 0 && machine.exists(socket),
        "{}",
        check.text
    );
    let gone = ok(play(&machine, "uninstall.yml", &[])?, "the way back")?;
    ensure!(gone.changed > 0, "{}", gone.text);
    for path in [
        socket,
        "/etc/ocid",
        "/usr/local/bin/ocid",
        "/usr/local/src/crio-setup",
    ] {
        ensure!(!machine.exists(path), "`{path}` is still there");
    }
    Ok(())
}

/// Which start of the daemon this is.
fn invocation(machine: &Machine) -> Result<String> {
    machine.run(&["systemctl", "show", "ocid", "--property=InvocationID"])
}

/// A file for the daemon, as the role's variable has it.
fn configured(level: &str) -> String {
    serde_json::json!({
        "crio_setup_ocid_config": { "50-test.conf": format!("[crio.runtime]\nlog_level = \"{level}\"\n") }
    })
    .to_string()
}

#[test]
fn the_role_converges_restarts_repairs_and_cleans_up_under_systemd() -> Result<()> {
    let machine = Machine::boot()?;
    let (debug, info) = (configured("debug"), configured("info"));
    let quick = ["--skip-tags", "crio_setup_verify"];
    let run = |book: &str, more: &[&str]| play(&machine, book, &[&quick[..], more].concat());

    // Converge, verify, and once more.
    let first = ok(play(&machine, "node.yml", &["-e", &debug])?, "converge")?;
    ensure!(first.changed > 1, "{}", first.text);
    let config = || machine.run(&["ocid", "config"]);
    ensure!(config()?.contains("log_level = \"debug\""));
    let started = invocation(&machine)?;
    let again = ok(play(&machine, "node.yml", &["-e", &debug])?, "idempotence")?;
    ensure!(
        again.changed == 0 && invocation(&machine)? == started,
        "{}",
        again.text
    );

    // A changed setting: shown by a check, and its handler restarts the daemon under a pod that does not notice.
    let pod = repository()
        .join("examples/sandbox_config.json")
        .display()
        .to_string();
    let pod = machine.run(&["ocic", "pod", "create", "--config", &pod])?;
    let check = ok(
        run("node.yml", &["-e", &info, "--check", "--diff"])?,
        "check",
    )?;
    ensure!(
        check.text.contains("+log_level = \"info\"") && config()?.contains("debug"),
        "{}",
        check.text
    );
    ensure!(
        invocation(&machine)? == started,
        "a check restarted the daemon"
    );
    let other = ok(run("node.yml", &["-e", &info])?, "another setting")?;
    ensure!(other.changed == 2, "{}", other.text);
    ensure!(invocation(&machine)? != started && config()?.contains("log_level = \"info\""));
    let ready = machine.run(&["ocic", "pods", "--state", "ready", "--quiet"])?;
    ensure!(ready == pod, "the pod did not outlive the restart: {ready}");

    // Side effects of others: the daemon stopped and disabled, a program gone.
    machine.run(&["systemctl", "disable", "--now", "ocid"])?;
    machine.run(&["rm", "/usr/local/bin/ocic"])?;
    let repaired = ok(play(&machine, "node.yml", &["-e", &info])?, "repair")?;
    ensure!(repaired.changed == 1, "{}", repaired.text);
    for verb in ["is-active", "is-enabled"] {
        machine.run(&["systemctl", verb, "ocid"])?;
    }

    // Clean up: refused while a pod runs, then without a trace, then nothing.
    let refused = run("uninstall.yml", &["-e", "crio_setup_force=false"])?;
    ensure!(
        refused.failed == 1 && refused.text.contains("podsandbox1"),
        "{}",
        refused.text
    );
    ensure!(machine.run(&["ocic", "pods", "--quiet"])? == pod);
    let gone = ok(run("uninstall.yml", &["-e", &info])?, "clean-up")?;
    ensure!(gone.changed > 0, "{}", gone.text);
    for path in [
        "/etc/ocid",
        "/var/lib/ocid",
        "/run/ocid",
        "/usr/local/bin/ocid",
        "/var/lib/crio-setup",
    ] {
        ensure!(!machine.exists(path), "`{path}` is still there");
    }
    let again = ok(run("uninstall.yml", &["-e", &info])?, "clean-up again")?;
    ensure!(again.changed == 0, "{}", again.text);
    Ok(())
}

/// Writes down what it is asked, and what the daemon was then.
const KUBECTL: &str = "#!/bin/sh\n\
echo \"$1 $(test -e /etc/crictl.yaml && echo whole || echo damaged)\" >>/srv/kubectl.log\n";

#[test]
fn nodes_of_a_cluster_are_drained_around_an_install_and_only_then() -> Result<()> {
    let machine = Machine::start()?;
    // There is no cluster to be had here; what counts is what kubectl is asked and when.
    machine.write("/srv/kubectl", KUBECTL, 0o755)?;
    let arguments = [
        "-e",
        "kubectl=/srv/kubectl",
        "-e",
        "crio_setup_selftest=false",
    ];
    let upgrade = || play(&machine, "cluster.yml", &arguments);
    let log = || machine.read("/srv/kubectl.log");

    let first = ok(upgrade()?, "first")?;
    ensure!(first.changed > 2, "{}", first.text);
    ensure!(
        log()? == "drain damaged\nwait whole\nuncordon whole\n",
        "{}",
        log()?
    );
    let again = ok(upgrade()?, "again")?;
    ensure!(again.changed == 0, "{}", again.text);
    ensure!(
        log()?.ends_with("uncordon whole\nwait whole\n"),
        "{}",
        log()?
    );

    // A node that does not come back stays as it is, and ends the roll-out.
    machine.run(&["rm", "/etc/crictl.yaml"])?;
    machine.write(
        "/srv/kubectl",
        KUBECTL.replace("log\n", "log\n[ \"$1\" != wait ]\n"),
        0o755,
    )?;
    let failed = upgrade()?;
    ensure!(failed.failed == 1, "{}", failed.text);
    ensure!(
        log()?.ends_with("drain damaged\nwait whole\n"),
        "{}",
        log()?
    );

    // The fleet's inventory and its order: the canary, then everybody else.
    let folder = repository().join("playbook-tests");
    let (inventory, book) = (folder.join("fleet.inventory.yml"), folder.join("fleet.yml"));
    let listed = machine.run(&[
        "ansible-playbook",
        "-i",
        &inventory.display().to_string(),
        &book.display().to_string(),
        "--list-hosts",
    ])?;
    let plays: Vec<&str> = listed.split("play #").skip(1).collect();
    ensure!(plays.len() == 2, "{listed}");
    ensure!(
        plays[0].contains("hosts (1)") && plays[0].contains("node-00"),
        "{listed}"
    );
    ensure!(
        plays[1].contains("hosts (43)") && !plays[1].contains("node-00"),
        "{listed}"
    );
    Ok(())
}
