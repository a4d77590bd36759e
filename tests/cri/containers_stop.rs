//! How containers are asked to end: the signal of the image or of the config, a grace period, then the
//! kill; and the attempts of one name.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use crio_setup::cri::v1;
use serde_json::json;
use tonic::Code;

use crate::world::{LIMIT, World, busybox, code, printed};

/// Says what it is told by which signal; `TERM` does nothing.
const SCRIPT: &str = "trap '' TERM; trap 'echo usr1; exit 11' USR1; trap 'echo usr2; exit 12' USR2; \
                      echo ready; while :; do sleep 0.1; done";

/// Starts the script and waits until its traps are set.
async fn up(
    world: &World,
    pod: &str,
    sandbox: &v1::PodSandboxConfig,
    config: v1::ContainerConfig,
) -> Result<String> {
    let id = world.up(pod, sandbox, config).await?;
    let log = world.machine.path(&world.status(&id).await?.log_path);
    let deadline = Instant::now() + LIMIT;
    while !std::fs::read_to_string(&log)?.contains("ready") {
        ensure!(Instant::now() < deadline, "the script does not run");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(id)
}

async fn end(world: &World, id: &str, grace: Duration) -> Result<(String, v1::ContainerStatus)> {
    world.client.stop_container(id, grace).await?;
    let status = world.status(id).await?;
    let log = std::fs::read_to_string(world.machine.path(&status.log_path))?;
    Ok((printed(&log), status))
}

#[tokio::test]
async fn signals_and_grace_periods() -> Result<()> {
    let world = World::start().await?;
    let image = busybox(json!({ "StopSignal": "SIGUSR1" }))?;
    let image = world
        .registry
        .push(&world.machine, "library/usr1", "1", &image)?;
    world.client.pull_image(&image, None).await?;
    let sandbox = world.pod_config("signals");
    let pod = world.run_pod(&sandbox).await?;
    let config = |name: &str| {
        let mut config = world.container_config(name, &["sh", "-c", SCRIPT]);
        config.image.get_or_insert_default().image = image.clone();
        config
    };
    let id = up(&world, &pod, &sandbox, config("images")).await?;
    let (said, status) = end(&world, &id, LIMIT).await?;
    ensure!(
        (said.as_str(), status.exit_code) == ("ready\nusr1", 11),
        "{said} {status:?}"
    );
    ensure!(
        status.reason == "Error" && status.finished_at > status.started_at,
        "{status:?}"
    );

    let mut own = config("own");
    own.stop_signal = v1::Signal::Sigusr2.into();
    let id = up(&world, &pod, &sandbox, own).await?;
    ensure!(world.status(&id).await?.stop_signal() == v1::Signal::Sigusr2);
    let (said, status) = end(&world, &id, LIMIT).await?;
    ensure!(
        (said.as_str(), status.exit_code) == ("ready\nusr2", 12),
        "{said} {status:?}"
    );

    // Whoever does not heed the signal is killed when the grace period is over, and not before.
    let mut deaf = config("deaf");
    deaf.stop_signal = v1::Signal::Sigterm.into();
    let id = up(&world, &pod, &sandbox, deaf).await?;
    let begun = Instant::now();
    let (said, status) = end(&world, &id, Duration::from_secs(1)).await?;
    ensure!(begun.elapsed() >= Duration::from_secs(1));
    ensure!(
        (said.as_str(), status.exit_code) == ("ready", 137),
        "{said} {status:?}"
    );
    // Without one it is killed without being asked.
    let id = up(&world, &pod, &sandbox, config("unasked")).await?;
    let (said, status) = end(&world, &id, Duration::ZERO).await?;
    ensure!(
        (said.as_str(), status.exit_code) == ("ready", 137),
        "{said} {status:?}"
    );
    // Again, and of one that nobody knows: done.
    world.client.stop_container(&id, Duration::ZERO).await?;
    world.client.stop_container("f00d", LIMIT).await?;

    let mut unknown = config("unknown");
    unknown.stop_signal = 999;
    let (refused, message) = code(world.create(&pod, &sandbox, unknown).await)?;
    ensure!(
        refused == Code::InvalidArgument && message.contains("config.stop_signal"),
        "{message}"
    );
    world.client.remove_image(&image).await?;
    world.assert_clean(&[]).await
}

#[tokio::test]
async fn a_second_stop_may_be_less_patient() -> Result<()> {
    let world = World::start().await?;
    let sandbox = world.pod_config("patience");
    let pod = world.run_pod(&sandbox).await?;
    let config = world.container_config("deaf", &["sh", "-c", SCRIPT]);
    let id = up(&world, &pod, &sandbox, config).await?;
    let patient = {
        let (client, id) = (world.client.clone(), id.clone());
        tokio::spawn(async move { client.stop_container(&id, Duration::from_secs(600)).await })
    };
    world.client.stop_container(&id, Duration::ZERO).await?;
    tokio::time::timeout(LIMIT, patient).await???;
    ensure!(world.status(&id).await?.exit_code == 137);
    world.assert_clean(&[]).await
}

#[tokio::test]
async fn attempts_of_one_name() -> Result<()> {
    let world = World::start().await?;
    let sandbox = world.pod_config("attempts");
    let pod = world.run_pod(&sandbox).await?;
    let attempt = |number| {
        let mut config = world.container_config("again", &["sleep", "600"]);
        config.metadata.get_or_insert_default().attempt = number;
        config
    };
    let first = world.create(&pod, &sandbox, attempt(0)).await?;
    // The same call again is answered as the first was; another one may not have the name.
    ensure!(world.create(&pod, &sandbox, attempt(0)).await? == first);
    let mut other = attempt(0);
    other.command = vec!["true".to_owned()];
    let (refused, message) = code(world.create(&pod, &sandbox, other).await)?;
    ensure!(
        refused == Code::AlreadyExists && message.contains(&first),
        "{message}"
    );
    let second = world.create(&pod, &sandbox, attempt(1)).await?;
    let metadata = world.status(&second).await?.metadata.unwrap_or_default();
    ensure!(
        (metadata.name.as_str(), metadata.attempt) == ("again", 1),
        "{metadata:?}"
    );
    world.client.remove_container(&first).await?;
    let again = world.create(&pod, &sandbox, attempt(0)).await?;
    ensure!(again != first && again != second);
    world.assert_clean(&[]).await
}
