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
