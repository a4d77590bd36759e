//! One client that keeps a node as kubelet does: a sync loop per pod, woken by container events; probes, log
//! rotation, garbage collection, statistics. The daemon is stopped and killed all the while, and every answer and
//! every event is held against what must be.

mod collect;
mod desired;
mod flat;
mod housekeeping;
mod logs;
mod node;
mod pleg;
mod pod;
mod probe;
mod tracker;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use tokio::task::JoinSet;

use crate::calls::no_panic;
use crate::figures::Figures;
use crate::model::Numbers;
use crate::setting;
use crate::world::World;
use flat::Flat;
use node::{Node, Pace};

/// KiB: what the daemon may hold more than before, of what its allocator keeps.
const SLACK: u64 = 16 << 10;
/// Every Nth end of the daemon is a kill.
const KILLS: u64 = 2;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_is_kept_as_it_should_be() -> Result<()> {
    let seconds = setting("OCID_SOAK_SECONDS", 20);
    let pods = setting("OCID_SOAK_NODE_PODS", 10);
    let clock = u64::try_from(crio_setup::host::clock::now_ns())?;
    let seed = setting("OCID_SOAK_SEED", clock);
    println!("OCID_SOAK_SEED={seed}, {pods} pods, {seconds} s");
    let told = || format!("OCID_SOAK_SEED={seed}");
    let mut world = World::start().await?;
    let pace = Pace::of(Duration::from_secs(seconds));
    let node = Node::of(&world, pace).await?;
    let before = Figures::take(&world)?;
    println!("before: {before}");

    let mut work = JoinSet::new();
    work.spawn(pleg::listen(Arc::clone(&node)));
    work.spawn(pleg::verify(Arc::clone(&node)));
    work.spawn(collect::containers(Arc::clone(&node)));
    work.spawn(collect::images(Arc::clone(&node)));
    work.spawn(housekeeping::statistics(Arc::clone(&node)));
    work.spawn(housekeeping::status(Arc::clone(&node)));
    let mut workers = JoinSet::new();
    for slot in 0..pods {
        let numbers = Numbers::new(seed.wrapping_add(slot));
        workers.spawn(Box::pin(pod::keep(Arc::clone(&node), slot, numbers)));
    }
    let mut numbers = Numbers::new(!seed);
    let mut flat = Flat::new(pace.figures, SLACK);
    let mut death = Instant::now() + pace.life(&mut numbers);
    loop {
        let wake = death.min(flat.due());
        tokio::select! {
            ended = workers.join_next() => match ended {
                Some(ended) => ended?.with_context(told)?,
                None => break,
            },
            Some(ended) = work.join_next() => {
                ended?.with_context(told)?;
                anyhow::bail!("one of the node's tasks is over before its time; {}", told());
            }
            () = tokio::time::sleep_until(wake.into()) => {
                if Instant::now() >= flat.due() {
                    flat.note(Figures::take(&world)?);
                }
                if Instant::now() >= death {
                    end_daemon(&mut world, &node, &mut numbers).await.with_context(told)?;
                    death = Instant::now() + pace.life(&mut numbers);
                }
            }
        }
    }
    node.emptied().await.with_context(told)?;
    node.finish();
    while let Some(ended) = work.join_next().await {
        ended?.with_context(told)?;
    }
    let events = node.tracker.close().with_context(told)?;
    node.print();
    println!("{events:7} events");
    println!("{:7} deaths of the daemon", node.deaths.count() / 2);
    if pace.is_whole {
        flat.assert_flat().with_context(told)?;
    }
    ensure!(events > pods, "only {events} events");
    no_panic(&world)?;
    // What others do to the machine's `/tmp` shows through; what kubelet told of its subnets is remembered.
    let expected = [
        "route local fe80",
        "--debug",
        "file /tmp",
        "runtime-config.json",
    ];
    let clean = world.assert_clean(&expected);
    clean.await.with_context(told)?;
    let after = flat::settled(&world, &before, SLACK).await?;
    println!("after:  {after}");
    Ok(())
}

/// Ends the daemon in one way or the other, and starts the next.
async fn end_daemon(world: &mut World, node: &Arc<Node>, numbers: &mut Numbers) -> Result<()> {
    no_panic(world)?;
    // The first in any case.
    let signal = match numbers.below(KILLS) * node.deaths.count() {
        0 => Signal::SIGKILL,
        _ => Signal::SIGTERM,
    };
    node.count(match signal {
        Signal::SIGKILL => "kill -9",
        _ => "SIGTERM",
    });
    node.deaths.note();
    world.end_daemon_beside(signal).await?;
    world.start_daemon().await?;
    // A call that began in between was cut off by the same death.
    node.deaths.note();
    Ok(())
}
