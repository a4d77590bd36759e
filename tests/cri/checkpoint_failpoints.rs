//! CheckpointContainer killed and failing at every stage: the container goes on, nothing is left, the repeat succeeds.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use crio_setup::ocid::failpoint::Point;
use tonic::Code;

use crate::checkpoint::{PROGRAM, is_well, nothing_left, played, said, subject, take};
use crate::failpoints::{Act, Stage, act};
use crate::world::code;

#[tokio::test]
async fn a_daemon_killed_during_a_checkpoint() -> Result<()> {
    let world = played().await?;
    world.machine.run(&["mkdir", "/checkpoints"])?;
    let mut stage = Stage::on(world).await?;
    for &point in Point::ALL
        .iter()
        .filter(|point| act(**point) == Act::Checkpoint)
    {
        let killed = kill_at(&mut stage, point).await;
        killed.with_context(|| format!("killed at `{}`", point.name()))?;
    }
    stage.end().await
}

async fn kill_at(stage: &mut Stage, point: Point) -> Result<()> {
    let location = "/checkpoints/c.tar";
    let sandbox = stage.world.pod_config("subject");
    let pod = stage.world.run_pod(&sandbox).await?;
    let config = stage
        .world
        .container_config("subject", &["sh", "-c", PROGRAM]);
    let id = stage.world.up(&pod, &sandbox, config).await?;
    said(&stage.world, &id, "here").await?;
    stage.arm(point, "abort").await?;
    let answer = take(&stage.world, &id, location).await;
    ensure!(answer.is_err(), "answered");
    stage.next().await?;
    let world = &stage.world;
    // Neither frozen nor half of a file anywhere; the archive is there once it has its name.
    is_well(world, &id).await?;
    let there = usize::from(point == Point::CheckpointPlaced);
    nothing_left(world, "/checkpoints", there).await?;
    take(world, &id, location).await?;
    is_well(world, &id).await?;
    nothing_left(world, "/checkpoints", 1).await?;
    std::fs::remove_file(world.machine.path(location))?;
    world.client.remove_pod_sandbox(&pod).await?;
    stage.clean().await
}

#[tokio::test]
async fn a_checkpoint_that_fails_at_any_stage_is_undone() -> Result<()> {
    let location = "/checkpoints/c.tar";
    let world = played().await?;
    world.machine.run(&["mkdir", "/checkpoints"])?;
    let (_, id) = subject(&world).await?;
    let mut stage = Stage::on(world).await?;
    for &point in Point::ALL
        .iter()
        .filter(|point| act(**point) == Act::Checkpoint)
    {
        stage.arm(point, "error").await?;
        let world = &stage.world;
        let (got, message) = code(take(world, &id, location).await)?;
        ensure!(
            got == Code::Internal && message.contains("it is armed"),
            "{got:?} {message}"
        );
        let check = async {
            is_well(world, &id).await?;
            let placed = point == Point::CheckpointPlaced;
            nothing_left(world, "/checkpoints", usize::from(placed)).await
        };
        check
            .await
            .with_context(|| format!("failed at `{}`", point.name()))?;
    }
    std::fs::remove_file(stage.world.machine.path(location))?;
    stage
        .world
        .client
        .stop_container(&id, Duration::from_secs(30))
        .await?;
    stage.end().await
}
