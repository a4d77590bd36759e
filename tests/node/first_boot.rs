//! The user-data in `examples/cloud-init`, run by cloud-init itself on a machine with systemd, as at a first boot:
//! another service holds dpkg's lock, apt has no lists, the programs that a node needs are not there.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::install::json;
use crate::support::machine::BROUGHT;
use crate::support::mirror::Mirror;
use crate::support::wait::file_with;
use crate::support::{Machine, binary, repository};

const SIGNAL: &str = "/run/crio-setup.first-boot";
const PROGRAM: &str = "/usr/local/src/crio-setup";

/// The modules that the example needs, and none that would make a machine of a cloud of this one.
const CONFIG: &str = "\
datasource_list: [NoCloud]
network: {config: disabled}
users: []
cloud_init_modules: [write-files]
cloud_config_modules: [runcmd]
cloud_final_modules: [scripts-user]
";

/// Holds dpkg's lock as another apt does, says so, and lets go when somebody waits for it; says then whether a node
/// was made all the same.
const HOLDER: &str = r#"
import fcntl, os, sys, time
with open("/var/lib/dpkg/lock-frontend", "a") as lock:
    fcntl.lockf(lock, fcntl.LOCK_EX)
    print("held", flush=True)
    inode = ":%d " % os.fstat(lock.fileno()).st_ino
    end = time.monotonic() + 120
    # The kernel lists who waits with an arrow, and tells of it in no other way.
    while not any("->" in line and inode in line for line in open("/proc/locks")):
        if time.monotonic() > end:
            print("nobody waits", flush=True)
            sys.exit(1)
        time.sleep(0.02)
    print("a node already" if os.path.exists("/usr/sbin/runc") else "waited for", flush=True)
"#;

fn example() -> Result<String> {
    let path = repository().join("examples/cloud-init/user-data.yaml");
    let text = fs::read_to_string(&path)?;
    // Docker is another test's.
    let profile = "profile = \"tutorial\"\n";
    ensure!(text.contains(profile), "the example has another profile");
    Ok(text.replace(profile, &format!("{profile}      without = [\"docker\"]\n")))
}

/// Everything that cloud-init does in a boot; what its own `status` says of it, and its exit code.
fn boot(machine: &Machine, instance: &str, user_data: &str) -> Result<(String, Option<i32>)> {
    let seed = "/var/lib/cloud/seed/nocloud";
    machine.write(
        &format!("{seed}/meta-data"),
        format!("instance-id: {instance}\nlocal-hostname: node\n"),
        0o644,
    )?;
    machine.write(&format!("{seed}/user-data"), user_data, 0o600)?;
    // As if nothing had run yet, and what /run held were gone; then it is decided whether cloud-init is wanted.
    machine.run(&["cloud-init", "clean"])?;
    machine.run(&["rm", "-rf", "/run/cloud-init", SIGNAL])?;
    machine.run(&["systemctl", "daemon-reload"])?;
    // As its four units do; a stage in which something failed does not end the boot.
    for stage in [
        &["init", "--local"][..],
        &["init"],
        &["modules", "--mode=config"],
        &["modules", "--mode=final"],
    ] {
        machine.output(&[&["cloud-init"], stage].concat())?;
    }
    let status = machine.output(&["cloud-init", "status", "--wait", "--long"])?;
    let said = String::from_utf8_lossy(&status.stdout).into_owned();
    Ok((said, status.status.code()))
}

#[test]
fn cloud_init_makes_a_node_at_first_boot_and_says_how_it_went() -> Result<()> {
    let machine = Machine::boot()?.without(&BROUGHT)?;
    let _mirror = Mirror::open(&machine)?;
    machine.run(&["apt-get", "-qq", "update"])?;
    let packages = [
        "-qq",
        "-y",
        "--no-install-recommends",
        "install",
        "cloud-init",
    ];
    machine.run(
        &[
            &["env", "DEBIAN_FRONTEND=noninteractive", "apt-get"],
            &packages[..],
        ]
        .concat(),
    )?;
    machine.write("/etc/cloud/cloud.cfg", CONFIG, 0o644)?;
    for file in fs::read_dir(machine.path("/etc/cloud/cloud.cfg.d"))? {
        fs::remove_file(file?.path())?;
    }

    // By its own schema; a word that it does not know is found.
    let path = "/srv/user-data.yaml";
    machine.write(path, example()?, 0o644)?;
    machine.run(&["cloud-init", "schema", "--config-file", path])?;
    machine.write(
        path,
        example()?.replace("permissions:", "permission:"),
        0o644,
    )?;
    let wrong = machine.output(&["cloud-init", "schema", "--config-file", path])?;
    ensure!(!wrong.status.success(), "the schema is not asked");

    // Without the program there is no node: said by cloud-init, by the file, and in words.
    let (said, code) = boot(&machine, "i-0", &example()?)?;
    ensure!(
        said.contains("status: error") && code == Some(1),
        "{code:?}: {said}"
    );
    ensure!(
        machine.read(SIGNAL)?.starts_with("failed "),
        "{}",
        machine.read(SIGNAL)?
    );

    // With it, at the next instance's first boot. The images of a cloud come without lists.
    machine.run(&["sh", "-c", "rm -rf /var/lib/apt/lists/*"])?;
    fs::create_dir_all(machine.path("/usr/local/src"))?;
    fs::copy(binary(), machine.path(PROGRAM))?;
    let holder = machine.spawn(&["python3", "-c", HOLDER], &[])?;
    holder.line_with("held", Duration::from_secs(60))?;
    let (said, code) = boot(&machine, "i-1", &example()?)?;
    let log = machine.read("/var/log/crio-setup.log").unwrap_or_default();
    ensure!(
        said.contains("status: done") && code == Some(0),
        "{code:?}: {said}\n{}\n{log}",
        holder.output()
    );
    ensure!(machine.read(SIGNAL)? == "ok\n", "{}", machine.read(SIGNAL)?);
    holder
        .line_with("waited for", Duration::from_secs(60))
        .with_context(|| holder.output())?;
    let status = json(&machine, &["status"])?;
    ensure!(status["healthy"] == true, "{status}");
    let report: serde_json::Value =
        serde_json::from_str(&machine.read("/var/log/crio-setup.json")?)?;
    ensure!(report["changed"].as_u64() > Some(0), "{report}");

    // What the program refuses is told with its exit code and its words.
    let refused = example()?.replace(
        "      without",
        "      subnet = \"10.88.0.0/33\"\n      without",
    );
    let (said, code) = boot(&machine, "i-2", &refused)?;
    ensure!(
        said.contains("status: error") && code == Some(1),
        "{code:?}: {said}"
    );
    ensure!(
        machine.read(SIGNAL)? == "failed 2\n",
        "{}",
        machine.read(SIGNAL)?
    );
    file_with(
        &machine.path("/var/log/crio-setup.log"),
        "10.88.0.0/33",
        Duration::from_secs(1),
    )?;
    Ok(())
}
