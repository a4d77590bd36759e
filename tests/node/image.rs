//! The tree of an image: made by mmdebstrap with the hook in `examples/image`, twice, to the same bytes; then
//! booted, where the daemon comes up by itself and runs a pod.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::install::{changed, json};
use crate::support::listing;
use crate::support::mirror::Mirror;
use crate::support::{Machine, repository};

/// Where the work is done: a folder of the host, so that a second machine can start from what the first has made.
const WORK: &str = "/srv/image";
/// What an image has besides apt, to boot.
const PACKAGES: &str = "systemd-sysv,dbus";
/// What must not change by the making of an image, on the machine where it is made.
const HOST: [&str; 5] = ["/etc", "/usr/local", "/opt", "/var/lib", "/usr/sbin"];

/// The distribution's release and its sources, as this machine has them.
fn sources(machine: &Machine) -> Result<(String, Vec<String>)> {
    let form = "deb $(REPO_URI) $(CODENAME) $(COMPONENT)";
    let listed = machine.run(&[
        "apt-get",
        "indextargets",
        "--format",
        form,
        "Created-By: Packages",
    ])?;
    let os = machine.read("/etc/os-release")?;
    let suite = os
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
        .context("the distribution's release has no name")?;
    let mut lines: Vec<&str> = listed
        .lines()
        .filter(|line| {
            line.contains(suite) && (line.ends_with(" main") || line.ends_with(" universe"))
        })
        .collect();
    lines.sort_unstable();
    lines.dedup();
    Ok((
        suite.to_owned(),
        lines.into_iter().map(str::to_owned).collect(),
    ))
}

/// mmdebstrap with what it is always told here, and more.
fn mmdebstrap(machine: &Machine, proxy: &str, more: &[&str]) -> Result<String> {
    let program = machine.product("crio-setup")?;
    let program = format!("CRIO_SETUP_PROGRAM={program}");
    let proxy = format!("--aptopt=Acquire::http::Proxy \"{proxy}\"");
    let first = [
        "env",
        "SOURCE_DATE_EPOCH=1767225600",
        // Docker is another test's.
        "CRIO_SETUP_WITHOUT=docker",
        &program,
        "mmdebstrap",
        "--quiet",
        "--mode=root",
        &proxy,
        "--aptopt=Acquire::http::Pipeline-Depth \"0\"",
        // A mirror may be a frozen one.
        "--aptopt=Acquire::Check-Valid-Until \"false\"",
    ];
    machine
        .run(&[&first[..], more].concat())
        .context("`apt-get install mmdebstrap` brings what makes the tree")
}

#[test]
fn an_image_made_twice_is_the_same_and_boots_as_a_node() -> Result<()> {
    let folder = tempfile::Builder::new()
        .prefix("crio-setup-test-")
        .tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())?;
    let tree = folder.path().join("tree");
    make(folder.path()).context("make the image")?;
    look(&tree).context("look at the tree")?;
    boot(&tree).context("boot the image")
}

fn make(folder: &Path) -> Result<()> {
    let machine = Machine::start_with(&[format!("{}:{WORK}", folder.display())])?;
    let mirror = Mirror::open(&machine)?;
    let (proxy, (suite, sources)) = (mirror.url()?, sources(&machine)?);
    ensure!(
        !sources.is_empty(),
        "this machine knows no source of {suite}"
    );
    // Without the hook, once: what it stands on is not what is to be the same.
    let base = format!("{WORK}/base.tar");
    let packages = format!("--include={PACKAGES}");
    let mut arguments = vec!["--variant=apt", &packages, &suite, &base];
    arguments.extend(sources.iter().map(String::as_str));
    mmdebstrap(&machine, &proxy, &arguments)?;
    let hook = repository().join("examples/image/crio-setup-hook");
    let hook = format!("--customize-hook={}", hook.display());
    let unpack = format!(r#"--setup-hook=tar -xf {base} -C "$1""#);
    let before = listing::list(&machine, &HOST, true)?;
    for name in ["one.tar", "two.tar"] {
        let made = format!("{WORK}/{name}");
        mmdebstrap(
            &machine,
            &proxy,
            &[
                "--variant=custom",
                "--skip=update",
                &unpack,
                &hook,
                "",
                &made,
            ],
        )?;
    }
    let differ = listing::difference(&before, &listing::list(&machine, &HOST, true)?);
    ensure!(
        differ.is_empty(),
        "the machine that made it has changed:\n{}",
        differ.join("\n")
    );
    let same = machine.output(&[
        "cmp",
        &format!("{WORK}/one.tar"),
        &format!("{WORK}/two.tar"),
    ])?;
    if !same.status.success() {
        let script = format!(
            "cd {WORK} && mkdir a b && tar -xf one.tar -C a && tar -xf two.tar -C b && diff -r --no-dereference a b"
        );
        let differ = machine.output(&["sh", "-c", &script])?;
        anyhow::bail!(
            "made twice, it differs:\n{}",
            String::from_utf8_lossy(&differ.stdout)
        );
    }
    let (tree, two) = (format!("{WORK}/tree"), format!("{WORK}/two.tar"));
    machine.run(&["mkdir", &tree])?;
    machine.run(&["tar", "-xf", &two, "-C", &tree])?;

    // Unpacked elsewhere, it is still known: nothing is to be done, by sums and not by times.
    let program = machine.product("crio-setup")?;
    let said = machine.run(&[
        &program,
        "install",
        "--root",
        &tree,
        "--source",
        "distro",
        "--without",
        "docker",
        "--output",
        "json",
    ])?;
    let report: Value = serde_json::from_str(&said).with_context(|| said.clone())?;
    ensure!(changed(&report)? == 0, "{said}");
    Ok(())
}

/// What an image of a node has to hold, and what not.
fn look(tree: &Path) -> Result<()> {
    let read = |path: &str| {
        let path = tree.join(path);
        fs::read_to_string(&path).with_context(|| path.display().to_string())
    };
    let enabled = tree.join("etc/systemd/system/multi-user.target.wants");
    let target = fs::read_link(enabled.join("ocid.service"))?;
    ensure!(
        target == Path::new("/etc/systemd/system/ocid.service"),
        "{target:?}"
    );
    for path in [
        "usr/sbin/runc",
        "usr/sbin/iptables",
        "opt/cni/bin/bridge",
        "etc/cni/net.d/10-mynet.conflist",
        "etc/modules-load.d/crio-setup.conf",
        "var/lib/crio-setup/receipt.json",
    ] {
        ensure!(
            fs::symlink_metadata(tree.join(path)).is_ok(),
            "the image has no `/{path}`"
        );
    }
    let link = fs::read_link(tree.join("usr/local/bin/ocid"))?;
    ensure!(link == Path::new("crio-setup"), "{link:?}");
    ensure!(read("etc/ocid/ocid.conf")?.contains("cgroup_manager = \"systemd\""));
    ensure!(read("etc/sysctl.d/90-crio-setup.conf")?.contains("net.ipv4.ip_forward = 1"));
    // Nothing of the run, and nothing of this disk.
    for path in [
        "usr/sbin/policy-rc.d",
        "var/lib/crio-setup/journal.jsonl",
        "run/ocid",
    ] {
        ensure!(
            fs::symlink_metadata(tree.join(path)).is_err(),
            "`/{path}` is left in the image"
        );
    }
    ensure!(!read("var/lib/crio-setup/receipt.json")?.contains("inode"));
    Ok(())
}

fn boot(tree: &Path) -> Result<()> {
    let machine = Machine::boot_image(tree)?;
    // The unit that does this at a boot is off here: some settings are the kernel's that all machines share.
    machine.run(&[
        "/lib/systemd/systemd-sysctl",
        "/etc/sysctl.d/90-crio-setup.conf",
    ])?;
    ensure!(machine.run(&["systemctl", "is-active", "ocid"])? == "active");
    let status = json(&machine, &["status"])?;
    ensure!(status["healthy"] == true, "{status}");
    machine.run(&["crio-setup", "selftest"])?;

    // From here on it is a node like any other.
    let invocation = || machine.run(&["systemctl", "show", "ocid", "--property=InvocationID"]);
    let settings = ["install", "--source", "distro", "--without", "docker"];
    let first = json(&machine, &settings)?;
    ensure!(
        changed(&first)? > 0,
        "the boot's own start is not taken over: {first}"
    );
    let started = invocation()?;
    let again = json(&machine, &settings)?;
    ensure!(changed(&again)? == 0, "{again}");
    ensure!(invocation()? == started, "the daemon was started anew");

    // And the way back: what the image had of ours is gone, the daemon too.
    machine.run(&["crio-setup", "uninstall"])?;
    ensure!(!machine.exists("/usr/local/bin/ocid") && !machine.exists("/etc/ocid"));
    let left = machine.output(&["systemctl", "is-active", "ocid"])?;
    ensure!(!left.status.success(), "the daemon still runs");
    Ok(())
}
