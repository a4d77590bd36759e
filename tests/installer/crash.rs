//! `kill -9` at every point that matters, and failing steps: the next run puts things right, and an
//! uninstall finds back to where everything began.

use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use anyhow::{Result, ensure};

use crate::tree::{Tree, difference, ended, skip};

const UPSTREAM: [&str; 3] = ["--source", "upstream", "--replace-foreign"];

/// Failpoints are compiled into debug builds only.
fn armed() -> Result<bool> {
    if !cfg!(debug_assertions) {
        skip("kill at every point", "this is a release build")?;
    }
    Ok(cfg!(debug_assertions))
}

/// Runs it to be killed at its N-th point; false when it ends before that.
fn killed(mut command: Command, n: u32) -> Result<bool> {
    let output = command
        .env("CRIO_SETUP_FAILPOINT", format!("kill@{n}"))
        .output()?;
    if output.status.signal() == Some(9) {
        return Ok(true);
    }
    ended(&output, 0, &[])?;
    Ok(false)
}

#[test]
fn an_install_killed_at_any_point_is_put_right() -> Result<()> {
    if !armed()? {
        return Ok(());
    }
    let tree = Tree::new()?;
    let before = tree.list(false)?;
    let mut n = 0;
    loop {
        n += 1;
        tree.reset()?;
        // Docker's steps are of the same kinds as the others.
        let arguments = [&UPSTREAM[..], &["--without", "docker"]].concat();
        if !killed(tree.install_command(&arguments), n)? {
            break;
        }
        // By turns the next thing is another install or the uninstall.
        if n % 2 == 0 {
            tree.install(&["--without", "docker"])?;
            let status = tree.command(&["status", "--deep"]).output()?;
            ended(&status, 0, &[])?;
        }
        tree.uninstall(&[])?;
        let left = difference(&before, &tree.list(false)?);
        ensure!(left.is_empty(), "killed at {n}, left: {left:#?}");
    }
    ensure!(n > 100, "only {n} points: are they still passed?");
    println!("killed at {} points", n - 1);
    Ok(())
}

#[test]
fn an_uninstall_killed_at_any_point_is_finished() -> Result<()> {
    if !armed()? {
        return Ok(());
    }
    let tree = Tree::new()?;
    let before = tree.list(false)?;
    let mut n = 0;
    loop {
        n += 1;
        tree.reset()?;
        tree.install(&["--without", "docker"])?;
        if !killed(tree.command(&["uninstall"]), n)? {
            break;
        }
        // An install finishes the uninstall before it begins anew.
        if n % 2 == 0 {
            tree.install(&["--without", "docker"])?;
        }
        tree.uninstall(&[])?;
        let left = difference(&before, &tree.list(false)?);
        ensure!(left.is_empty(), "killed at {n}, left: {left:#?}");
    }
    ensure!(n > 20, "only {n} points: are they still passed?");
    Ok(())
}

#[test]
fn an_undo_killed_at_any_point_is_finished() -> Result<()> {
    if !armed()? {
        return Ok(());
    }
    let tree = Tree::new()?;
    let before = tree.list(false)?;
    let mut n = 0;
    loop {
        n += 1;
        tree.reset()?;
        let half = tree
            .install_command(&UPSTREAM)
            .env("CRIO_SETUP_FAILPOINT", "kill@before-commit")
            .output()?;
        ensure!(half.status.signal() == Some(9), "{}", half.status);
        // The recovery is the first thing that the next run does.
        if !killed(tree.command(&["uninstall"]), n)? {
            break;
        }
        tree.uninstall(&[])?;
        let left = difference(&before, &tree.list(false)?);
        ensure!(left.is_empty(), "killed at {n}, left: {left:#?}");
    }
    ensure!(n > 20, "only {n} points: are they still passed?");
    Ok(())
}

#[test]
fn every_failing_step_is_undone() -> Result<()> {
    if !armed()? {
        return Ok(());
    }
    let tree = Tree::new()?;
    let before = tree.list(false)?;
    for step in [
        "host:file:/etc/sysctl.d/90-crio-setup.conf",
        "runc:program:/usr/local/bin/runc",
        "cni-plugins:programs",
        "cni-config:file:/etc/cni/net.d/99-loopback.conflist",
        "ocid:program:/usr/local/bin/crio-setup",
        "ocid:link:/usr/local/bin/ocic",
        "ocid:file:/etc/crictl.yaml",
        "docker:programs:/usr/local/libexec/crio-setup/docker",
        "docker:folder:/var/lib/docker",
    ] {
        let output = tree
            .install_command(&UPSTREAM)
            .env("CRIO_SETUP_FAILPOINT", format!("fail@{step}"))
            .output()?;
        ended(&output, 1, &["undone"])?;
        let left = difference(&before, &tree.list(false)?);
        ensure!(left.is_empty(), "failed at {step}, left: {left:#?}");
    }
    Ok(())
}
