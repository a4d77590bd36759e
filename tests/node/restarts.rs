//! When the daemon is started anew by `install` and when it is not, on a machine with systemd where others change files
//! and restart services too.

use anyhow::{Context, Result, ensure};

use crate::install::{changed, install, json};
use crate::support::node::fails;
use crate::support::{Machine, binary};

const DROP_IN: &str = "/etc/ocid/ocid.conf.d/10-test.conf";
const ARGUMENTS: [&str; 4] = ["--without", "docker", "--source", "distro"];

fn daemon(machine: &Machine) -> Result<String> {
    machine.run(&["systemctl", "show", "-P", "MainPID", "ocid"])
}

/// What `plan` says, which ends with this code.
fn plan(machine: &Machine, code: i32) -> Result<String> {
    let verb = ["crio-setup", "plan", "--detailed-exitcode"];
    let output = machine.output(&[&verb[..], &ARGUMENTS].concat())?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let ended = output.status.code();
    ensure!(ended == Some(code), "{ended:?} instead of {code}: {said}");
    Ok(said)
}

/// Installs again, with so many changes; was the daemon started anew?
fn again(machine: &Machine, changes: u64) -> Result<bool> {
    let before = daemon(machine)?;
    let report = json(machine, &[&["install"], &ARGUMENTS[..]].concat())?;
    ensure!(changed(&report)? == changes, "{report}");
    ensure!(report["health"]["runtime"]["ready"] == true, "{report}");
    Ok(daemon(machine)? != before)
}

#[test]
fn a_daemon_that_was_started_since_the_last_change_is_left_alone() -> Result<()> {
    let machine = Machine::boot()?;
    install(&machine, &ARGUMENTS)?;
    // Somebody's settings, taken over by somebody's restart.
    machine.run(&["mkdir", "-p", "/etc/ocid/ocid.conf.d"])?;
    machine.write(DROP_IN, "[crio.runtime]\npids_limit = 2000\n", 0o644)?;
    let said = plan(&machine, 4)?;
    ensure!(said.contains("ocid.conf.d"), "{said}");
    machine.run(&["systemctl", "restart", "ocid"])?;
    plan(&machine, 0)?;
    ensure!(!again(&machine, 0)?, "started once more");
    // An edit moves no time of the folder.
    machine.run(&["sh", "-c", &format!("echo '# an edit' >>{DROP_IN}")])?;
    let said = plan(&machine, 4)?;
    ensure!(said.contains(DROP_IN), "{said}");
    ensure!(again(&machine, 1)?, "not started with the edit");
    ensure!(!again(&machine, 0)?, "started once more");
    machine.run(&["rm", DROP_IN])?;
    plan(&machine, 4)?;
    machine.run(&["systemctl", "restart", "ocid"])?;
    ensure!(!again(&machine, 0)?, "started once more");
    // A unit is read by systemd when it is told to, and not by a restart.
    let unit = "/etc/systemd/system/ocid.service";
    machine.run(&["touch", unit])?;
    machine.run(&["systemctl", "restart", "ocid"])?;
    machine.run(&["systemctl", "daemon-reload"])?;
    ensure!(again(&machine, 1)?, "it may run by the earlier unit");
    machine.run(&["crio-setup", "uninstall"])?;
    Ok(())
}

#[test]
fn a_service_that_is_up_at_its_second_start_is_up() -> Result<()> {
    let machine = Machine::boot()?;
    // What is too slow the first time, by an administrator's own addition to the unit.
    machine.run(&["mkdir", "-p", "/etc/systemd/system/ocid.service.d"])?;
    let addition = |script: &str| {
        let text = format!("[Service]\nExecStartPre=/bin/sh -c '{script}'\n");
        machine.write("/etc/systemd/system/ocid.service.d/slow.conf", &text, 0o644)
    };
    addition("echo >>/run/starts; [ $(wc -l </run/starts) != 1 ]")?;
    install(&machine, &ARGUMENTS)?;
    let starts = || machine.run(&["sh", "-c", "wc -l </run/starts; rm /run/starts"]);
    ensure!(starts()? == "2", "it was not started a second time");
    ensure!(!again(&machine, 0)?, "started once more");
    // One that never comes up is an error, and everything is undone.
    machine.run(&["crio-setup", "uninstall"])?;
    addition("echo >>/run/starts; false")?;
    let program = binary().display().to_string();
    let said = machine.output(&[&[program.as_str(), "install"], &ARGUMENTS[..]].concat())?;
    fails("install", &said, 1, &["ocid.service", "journalctl"])?;
    ensure!(starts()? != "1", "it was not started a second time");
    ensure!(!machine.exists("/etc/systemd/system/ocid.service"));
    Ok(())
}

#[test]
fn a_node_whose_receipt_is_lost_counts_as_found() -> Result<()> {
    let machine = Machine::boot()?;
    install(&machine, &ARGUMENTS)?;
    let (folder, aside) = ("/var/lib/crio-setup", "/root/crio-setup");
    let receipt = format!("{folder}/receipt.json");
    machine.run(&["cp", "-a", &receipt, "/root/receipt.json"])?;
    machine.run(&["truncate", "-s", "700", &receipt])?;
    for verb in ["install", "status", "uninstall"] {
        let output = machine.output(&["crio-setup", verb])?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.code() == Some(2), "{}: {said}", output.status);
        ensure!(said.contains(&format!("mv {folder} /root/")), "{said}");
    }
    machine.run(&["mv", folder, "/root/"])?;
    let before = daemon(&machine)?;
    let report = json(&machine, &[&["install"], &ARGUMENTS[..]].concat())?;
    // What may come from now on is noted as ours, and nothing else.
    let steps = report["steps"].as_array().context("no steps")?;
    let other = steps.iter().find(|step| {
        step["state"] != "satisfied" && !step["id"].to_string().ends_with(":byproducts\"")
    });
    ensure!(other.is_none(), "{other:?}");
    ensure!(!again(&machine, 0)?, "the daemon was started anew");
    machine.run(&["crio-setup", "uninstall"])?;
    ensure!(daemon(&machine)? == before, "the daemon is not as it was");
    ensure!(machine.exists("/usr/local/bin/crio-setup"), "it is removed");
    ensure!(!machine.exists(folder), "left behind");
    machine.run(&["mv", aside, folder])?;
    machine.run(&["cp", "-a", "/root/receipt.json", &receipt])?;
    ensure!(!again(&machine, 0)?, "the daemon was started anew");
    machine.run(&["crio-setup", "uninstall"])?;
    ensure!(!machine.exists("/usr/local/bin/crio-setup"));
    Ok(())
}
