//! Pods with one container each, started and removed one after the other: all that they took comes back.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::figures::Figures;
use crate::setting;
use crate::world::{LIMIT, World};

/// What is allocated once, at first use, is no leak.
const WARM_UP: u64 = 10;
/// KiB: what an allocator keeps of what threads used.
const SLACK: u64 = 4096;

async fn round(world: &World, number: u64) -> Result<()> {
    let name = format!("soak-{number}");
    let sandbox = world.pod_config(&name);
    let pod = world.run_pod(&sandbox).await?;
    let config = world.container_config(&name, &["sleep", "600"]);
    let id = world.up(&pod, &sandbox, config).await?;
    world.status(&id).await?;
    world.client.stop_pod_sandbox(&pod).await?;
    world.client.remove_pod_sandbox(&pod).await?;
    // The logs are kubelet's to remove.
    std::fs::remove_dir_all(world.machine.path(&sandbox.log_directory))?;
    Ok(())
}

#[tokio::test]
async fn what_pods_took_comes_back() -> Result<()> {
    let count = setting("OCID_SOAK_PODS", 20);
    let world = World::start().await?;
    for number in 0..WARM_UP {
        round(&world, number).await?;
    }
    let before = settled(&world, None).await?;
    println!("before: {before}");
    let begun = Instant::now();
    for number in 0..count {
        let done = round(&world, WARM_UP + number).await;
        done.with_context(|| format!("pod {number}"))?;
        if (number + 1) % 100 == 0 {
            println!("{:5}: {}", number + 1, Figures::take(&world)?);
        }
    }
    let after = settled(&world, Some(&before)).await?;
    println!("after:  {after}");
    println!("{count} pods in {:.1} s", begun.elapsed().as_secs_f64());
    after.assert_back(&before, SLACK)?;
    let output = world.daemon().output();
    anyhow::ensure!(!output.contains("panicked"), "{output}");
    world.assert_clean(&["route local fe80"]).await
}

/// The figures once they are as `before`, or when that takes too long: a closed connection's descriptor and a
/// task's last words come a moment after the answer.
async fn settled(world: &World, before: Option<&Figures>) -> Result<Figures> {
    let deadline = Instant::now() + LIMIT;
    loop {
        let now = Figures::take(world)?;
        let back = before.is_some_and(|before| now.assert_back(before, SLACK).is_ok());
        if back || before.is_none() || Instant::now() > deadline {
            return Ok(now);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
