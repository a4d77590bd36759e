//! The same daemon through a client of another make: python's grpcio with messages from our `proto/`,
//! in `python/`. Those tests are written from the CRI's documentation and from what kubelet and crictl do,
//! not from this code; this one gives them a machine and holds them to their result.

use anyhow::{Context, Result, ensure};

use crate::support::{repository, skip};
use crate::world::World;

/// `CRIO_SETUP_TEST_PYTHON` names single tests by words, for work on one of them.
#[tokio::test]
async fn a_client_of_another_make_finds_what_the_interface_promises() -> Result<()> {
    let world = World::start().await?;
    let folder = repository().join("tests/cri/python");
    let (run, proto) = (
        folder.join("run.py"),
        repository().join("proto/runtime.proto"),
    );
    let words = std::env::var("CRIO_SETUP_TEST_PYTHON").unwrap_or_default();
    let registry = world.registry.address().to_string();
    let mut argv = vec!["/usr/bin/python3", "-B", run.to_str().context("not UTF-8")?];
    argv.extend([
        "unix:///run/ocid/ocid.sock",
        proto.to_str().context("not UTF-8")?,
    ]);
    argv.push(&registry);
    argv.extend(words.split_whitespace());
    let output = world.machine.output(&argv)?;
    let said = String::from_utf8_lossy(&output.stdout);
    let whole = format!("{said}{}", String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{}:\n{whole}", output.status);
    for line in said
        .lines()
        .filter_map(|line| line.strip_prefix("skipped "))
    {
        skip("python", line);
    }
    println!("{whole}");
    let count = said.lines().last().context("no count")?;
    ensure!(count.contains(" passed, 0 failed, "), "{whole}");
    let usual = [
        // What the first host port brings for all of them; a pod's own chains have other names.
        "CNI-HOSTPORT-",
        // An address that the bridge has only once the kernel has made sure that nobody else has it.
        "dev cni0 table local",
        // UpdateRuntimeConfig's, kept over restarts.
        "/var/lib/ocid/runtime-config.json",
    ];
    world.assert_clean(&usual).await
}
