//! `crio-setup` on trees of images: what it makes, what it leaves alone, what it puts back, and what
//! it recovers from. Nothing is started here; whole machines have tests of their own.

mod crash;
mod tree;

use std::fs;
use std::io::Read;
use std::os::unix::fs::symlink;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use tree::{PLUGINS, Tree, difference, ended};

#[test]
fn installed_twice_and_removed_without_a_trace() -> Result<()> {
    let tree = Tree::new()?;
    let before = tree.list(false)?;
    let report = tree.install(&[])?;
    ensure!(report["changed"].as_u64() > Some(20), "{report}");
    ensure!(report["health"].is_null(), "nothing runs in a tree");
    for path in [
        "/usr/local/bin/runc",
        "/usr/local/bin/crio-setup",
        "/usr/local/libexec/crio-setup/docker/dockerd",
        "/etc/cni/net.d/10-mynet.conflist",
        "/etc/ocid/seccomp.json",
    ] {
        ensure!(tree.path(path).is_file(), "no `{path}`");
    }
    ensure!(!tree.path("/opt/cni/bin/LICENSE").exists());
    for (link, to) in [
        ("/usr/local/bin/ocid", "crio-setup"),
        ("/usr/local/bin/ocic", "crio-setup"),
        (
            "/etc/systemd/system/multi-user.target.wants/ocid.service",
            "/etc/systemd/system/ocid.service",
        ),
    ] {
        ensure!(fs::read_link(tree.path(link))? == std::path::Path::new(to));
    }
    ensure!(
        tree.read("/etc/ocid/ocid.conf")?
            .contains("/usr/local/bin/runc")
    );
    let network: Value = serde_json::from_str(&tree.read("/etc/cni/net.d/10-mynet.conflist")?)?;
    ensure!(network["cniVersion"] == "1.0.0", "{network}");

    let installed = tree.list(true)?;
    let report = tree.install(&[])?;
    ensure!(report["changed"] == 0, "{report}");
    let left = difference(&installed, &tree.list(true)?);
    ensure!(left.is_empty(), "changed: {left:#?}");
    let status = tree.command(&["status", "--deep"]).output()?;
    ended(&status, 0, &[])?;

    let report = tree.uninstall(&[])?;
    ensure!(report["changed"].as_u64() > Some(20), "{report}");
    let left = difference(&before, &tree.list(false)?);
    ensure!(left.is_empty(), "left: {left:#?}");
    ensure!(tree.uninstall(&[])?["changed"] == 0);
    Ok(())
}

#[test]
fn a_plan_changes_nothing_and_tells_by_its_exit_code() -> Result<()> {
    let tree = Tree::new()?;
    let before = tree.list(true)?;
    let catalog = tree.catalog().display().to_string();
    let plan = |more: &[&str]| {
        let fixed = ["plan", "--source", "upstream", "--catalog", &catalog];
        tree.command(&[&fixed[..], more].concat()).output()
    };
    ended(&plan(&[])?, 2, &["/etc/crictl.yaml", "--replace-foreign"])?;
    ended(&plan(&["--replace-foreign"])?, 0, &[])?;
    ended(
        &plan(&["--replace-foreign", "--detailed-exitcode"])?,
        4,
        &[],
    )?;
    let dry = tree
        .install_command(&["--source", "upstream", "--replace-foreign", "--dry-run"])
        .output()?;
    ended(&dry, 0, &[])?;
    let said = String::from_utf8_lossy(&dry.stdout);
    ensure!(said.contains("/usr/local/bin/runc"), "{said}");
    let left = difference(&before, &tree.list(true)?);
    ensure!(left.is_empty(), "changed: {left:#?}");
    tree.install(&[])?;
    ended(&plan(&["--detailed-exitcode"])?, 0, &[])?;
    Ok(())
}

#[test]
fn every_foreign_file_is_found_at_once_and_none_touched() -> Result<()> {
    let tree = Tree::new()?;
    fs::write(tree.path("/opt/cni/bin/bridge"), "theirs")?;
    fs::create_dir(tree.path("/usr/local/bin/runc"))?;
    let before = tree.list(true)?;
    let output = tree.install_command(&["--source", "upstream"]).output()?;
    ended(
        &output,
        2,
        &[
            "/etc/crictl.yaml",
            "/usr/local/bin/ocic",
            "/opt/cni/bin/bridge",
            "/usr/local/bin/runc",
        ],
    )?;
    // A folder is not replaced even then.
    let all = ["--source", "upstream", "--replace-foreign"];
    let output = tree.install_command(&all).output()?;
    let said = ended(&output, 2, &["/usr/local/bin/runc"])?;
    ensure!(!said.contains("/etc/crictl.yaml"), "{said}");
    let left = difference(&before, &tree.list(true)?);
    ensure!(left.is_empty(), "changed: {left:#?}");
    Ok(())
}

#[test]
fn what_the_user_edits_stays_until_it_is_purged() -> Result<()> {
    let tree = Tree::new()?;
    let before = tree.list(false)?;
    tree.install(&[])?;
    let conf = tree.path("/etc/ocid/ocid.conf");
    let edited = tree.read("/etc/ocid/ocid.conf")? + "# mine\n";
    fs::write(&conf, &edited)?;
    // Not configuration: a damaged program is put right.
    fs::write(tree.path("/usr/local/bin/runc"), "damaged")?;
    fs::remove_file(tree.path("/opt/cni/bin/portmap"))?;
    let status = tree.command(&["status"]).output()?;
    ended(&status, 1, &["ocid.conf", "portmap", "runc"])?;
    let report = tree.install(&[])?;
    ensure!(report["changed"] == 2, "{report}");
    ensure!(fs::read_to_string(&conf)? == edited);
    ensure!(tree.read("/usr/local/bin/runc")?.contains("1.5.2"));
    let report = tree.uninstall(&[])?;
    ensure!(report["kept"].to_string().contains("ocid.conf"), "{report}");
    ensure!(fs::read_to_string(&conf)? == edited);

    fs::remove_file(&conf)?;
    tree.install(&[])?;
    fs::write(&conf, &edited)?;
    tree.uninstall(&["--purge"])?;
    let left = difference(&before, &tree.list(false)?);
    ensure!(left.is_empty(), "left: {left:#?}");
    Ok(())
}

#[test]
fn a_replaced_file_is_not_lost_when_ours_was_edited() -> Result<()> {
    let tree = Tree::new()?;
    tree.install(&[])?;
    fs::write(tree.path("/etc/crictl.yaml"), "mine\n")?;
    let report = tree.uninstall(&[])?;
    ensure!(
        report["kept"].to_string().contains("before-crio-setup"),
        "{report}"
    );
    ensure!(tree.read("/etc/crictl.yaml")? == "mine\n");
    ensure!(tree.read("/etc/crictl.yaml.before-crio-setup")? == "theirs\n");
    Ok(())
}

#[test]
fn a_newer_release_is_taken_when_asked_for_and_undone_whole() -> Result<()> {
    let tree = Tree::new()?;
    let before = tree.list(false)?;
    tree.install(&[])?;
    let first = tree.list(false)?;
    tree.release("1.6.0")?;
    // Left to choose, what is installed is good enough.
    let catalog = tree.catalog().display().to_string();
    let auto = tree
        .command(&["install", "--catalog", &catalog, "--output", "json"])
        .output()?;
    ended(&auto, 0, &[])?;
    let report: Value = serde_json::from_slice(&auto.stdout)?;
    ensure!(report["changed"] == 0, "{report}");

    // A failure late in an upgrade brings the first release back.
    tree.serve("docker", Some(b"no archive".to_vec()))?;
    let output = tree.install_command(&["--source", "upstream"]).output()?;
    ended(&output, 1, &["docker", "undone"])?;
    let left = difference(&first, &tree.list(false)?);
    // The receipt is of the first run still, but for nothing.
    ensure!(left.is_empty(), "changed: {left:#?}");

    tree.release("1.6.0")?;
    let report = tree.install(&[])?;
    ensure!(report["changed"] == 3, "{report}");
    ensure!(tree.read("/usr/local/bin/runc")?.contains("1.6.0"));
    tree.uninstall(&[])?;
    let left = difference(&before, &tree.list(false)?);
    ensure!(left.is_empty(), "left: {left:#?}");
    Ok(())
}

#[test]
fn plugins_of_the_distribution_are_linked_and_later_replaced() -> Result<()> {
    let tree = Tree::new()?;
    let folder = tree.path("/usr/lib/cni");
    fs::create_dir_all(&folder)?;
    tree.install(&[])?;
    for name in PLUGINS {
        fs::copy(tree.path("/opt/cni/bin").join(name), folder.join(name))?;
    }
    tree.uninstall(&[])?;
    let before = tree.list(false)?;
    let catalog = tree.catalog().display().to_string();
    let auto = [
        "install",
        "--catalog",
        &catalog,
        "--replace-foreign",
        "--without",
        "docker,runc",
    ];
    let output = tree.command(&auto).output()?;
    ended(&output, 0, &[])?;
    let link = tree.path("/opt/cni/bin/bridge");
    ensure!(fs::read_link(&link)? == std::path::Path::new("/usr/lib/cni/bridge"));
    tree.install(&["--without", "docker,runc"])?;
    ensure!(fs::symlink_metadata(&link)?.is_file());
    tree.uninstall(&[])?;
    let left = difference(&before, &tree.list(false)?);
    ensure!(left.is_empty(), "left: {left:#?}");
    Ok(())
}

#[test]
fn another_prefix_takes_everything_along() -> Result<()> {
    let tree = Tree::new()?;
    let before = tree.list(false)?;
    tree.install(&[])?;
    tree.install(&["--prefix", "/opt/node"])?;
    for name in ["crio-setup", "ocid", "runc", "docker"] {
        ensure!(
            tree.path("/opt/node/bin").join(name).exists(),
            "no `{name}`"
        );
        ensure!(
            !tree.path("/usr/local/bin").join(name).exists(),
            "old `{name}`"
        );
    }
    // What was in the way of the first one is back.
    ensure!(fs::read_link(tree.path("/usr/local/bin/ocic"))? == std::path::Path::new("nowhere"));
    ensure!(
        tree.read("/etc/ocid/ocid.conf")?
            .contains("/opt/node/bin/runc")
    );
    tree.uninstall(&[])?;
    let left = difference(&before, &tree.list(false)?);
    ensure!(left.is_empty(), "left: {left:#?}");
    Ok(())
}

#[test]
fn one_run_at_a_time_and_a_signal_undoes_it() -> Result<()> {
    let tree = Tree::new()?;
    let before = tree.list(false)?;
    tree.serve("cni-plugins", None)?;
    let arguments = ["--source", "upstream", "--replace-foreign"];
    let mut first = tree
        .install_command(&arguments)
        .stderr(Stdio::piped())
        .spawn()?;
    // Its stderr tells when it is at the download that never comes.
    let mut said = String::new();
    let mut stderr = first.stderr.take().context("stderr")?;
    let mut chunk = [0; 256];
    while !said.contains("fetch cni-plugins") {
        let n = stderr.read(&mut chunk)?;
        ensure!(n > 0, "it ended: {said}");
        said += &String::from_utf8_lossy(&chunk[..n]);
    }
    let second = tree.install_command(&arguments).output()?;
    ended(&second, 2, &["another crio-setup"])?;
    let pid = nix::unistd::Pid::from_raw(i32::try_from(first.id())?);
    nix::sys::signal::kill(pid, nix::sys::signal::SIGTERM)?;
    stderr.read_to_string(&mut said)?;
    let status = first.wait()?;
    ensure!(status.code() == Some(1), "{status}: {said}");
    ensure!(said.contains("interrupted"), "{said}");
    let left = difference(&before, &tree.list(false)?);
    ensure!(left.is_empty(), "left: {left:#?}");
    Ok(())
}

#[test]
fn links_that_lead_out_of_the_tree_are_not_followed() -> Result<()> {
    let tree = Tree::new()?;
    let outside = tempfile::tempdir()?;
    fs::remove_dir_all(tree.path("/etc/ocid"))?;
    symlink(outside.path(), tree.path("/etc/ocid"))?;
    let output = tree
        .install_command(&["--source", "upstream", "--replace-foreign"])
        .output()?;
    ended(&output, 2, &["symlinked-folder", "etc/ocid"])?;
    ensure!(fs::read_dir(outside.path())?.next().is_none());
    Ok(())
}

#[test]
fn settings_that_make_no_sense_are_refused() -> Result<()> {
    let tree = Tree::new()?;
    let before = tree.list(true)?;
    let settings = tree.path("/../settings.toml");
    fs::write(&settings, "with = ['podman']\n")?;
    let file = settings.display().to_string();
    for (arguments, words) in [
        (vec!["--config", &file], vec!["settings.toml", "podman"]),
        (vec!["--config", "/no/such/file"], vec!["/no/such/file"]),
        (vec!["--with", "podman"], vec!["podman", "cni-plugins"]),
        (vec!["--subnet", "10.88.0.1/16"], vec!["10.88.0.1/16"]),
        (vec!["--prefix", "usr"], vec!["the prefix"]),
        (
            vec!["--with", "docker", "--without", "docker"],
            vec!["`docker`"],
        ),
        (
            vec!["--catalog", "/no/such/catalog"],
            vec!["/no/such/catalog"],
        ),
    ] {
        let output = tree
            .command(&[&["install"], &arguments[..]].concat())
            .output()?;
        ended(&output, 2, &words).with_context(|| format!("{arguments:?}"))?;
    }
    let left = difference(&before, &tree.list(true)?);
    ensure!(left.is_empty(), "changed: {left:#?}");
    Ok(())
}

#[test]
fn a_receipt_that_cannot_be_read_stops_everything() -> Result<()> {
    let tree = Tree::new()?;
    tree.install(&[])?;
    let receipt = tree.path("/var/lib/crio-setup/receipt.json");
    let whole = tree.read("/var/lib/crio-setup/receipt.json")?;
    let cut = &whole[..whole.len() / 2];
    for (content, word) in [
        ("{}", "no receipt"),
        (cut, "no receipt"),
        ("{\"schema\": 99}", "schema 99"),
    ] {
        fs::write(&receipt, content)?;
        let before = tree.list(true)?;
        for verb in ["install", "uninstall", "status"] {
            let output = tree.command(&[verb]).output()?;
            ended(&output, 2, &[word, "receipt.json", "hint"]).with_context(|| verb.to_owned())?;
        }
        let left = difference(&before, &tree.list(true)?);
        ensure!(left.is_empty(), "changed: {left:#?}");
    }
    Ok(())
}
