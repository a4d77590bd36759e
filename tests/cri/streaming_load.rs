//! Many execs at once, and clients that are slow or gone: what they ran ends, and the daemon's memory stays.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use crio_setup::ocic::stream::{Ended, Remote};
use futures_util::future::join_all;
use futures_util::{StreamExt, TryStreamExt, stream};

use crate::exec::cgroups;
use crate::streaming_exec::{gone, sleeper};
use crate::streams::{self, LIMIT, STREAMED};
use crate::world::{World, eventually};

const OUT: [bool; 4] = [false, true, true, false];
const IN_OUT: [bool; 4] = [true, true, true, false];
const TTY: [bool; 4] = [true, true, false, true];
/// KiB that the daemon may need for a few dozen clients, whatever they do.
const GROWTH: u64 = 24 << 10;
/// For hundreds of processes on a machine with other things to do.
const PATIENCE: Duration = Duration::from_secs(400);

fn resident(world: &World) -> Result<u64> {
    let path = format!("/proc/{}/status", world.daemon().pid()?);
    let text = std::fs::read_to_string(path)?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.context("no VmRSS")?.trim().trim_end_matches(" kB");
    Ok(number.parse()?)
}

/// One with input, output, errors and an exit code of its own, streamed; it waits for its input.
async fn begin(world: &World, id: &str, n: i32) -> Result<Remote> {
    let script = format!(
        "echo up; read line; echo {n} $line; echo err {n} >&2; exit {}",
        n % 120
    );
    let mut e = streams::exec(world, id, &["sh", "-c", &script], IN_OUT).await?;
    let first = e.stdout.as_mut().context("no output")?.read().await?;
    ensure!(first.is_some_and(|bytes| *bytes == *b"up\n"));
    Ok(e)
}

async fn finish(mut e: Remote, n: i32) -> Result<()> {
    let stdin = e.stdin.as_mut().context("no input")?;
    stdin.write(Bytes::from(format!("of many {n}\n"))).await?;
    let (mut out, mut err) = (e.stdout.take(), e.stderr.take());
    let (out, err) = tokio::try_join!(whole(&mut out), whole(&mut err))?;
    ensure!(out == format!("{n} of many {n}\n"), "{n}: {out}");
    ensure!(err == format!("err {n}\n"), "{n}: {err}");
    let ended = e.ended().await?;
    ensure!(ended == Ended::Exit(n % 120), "{n}: {ended:?}");
    Ok(())
}

async fn whole(reader: &mut Option<crio_setup::spdy::StreamReader>) -> Result<String> {
    let reader = reader.as_mut().context("no such stream")?;
    let mut all = Vec::new();
    while let Some(bytes) = reader.read().await? {
        all.extend_from_slice(&bytes);
    }
    Ok(String::from_utf8(all)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_execs_at_once() -> Result<()> {
    let world = World::start().await?;
    let (_, id) = sleeper(&world).await?;
    let patient = world.client.with_limit(PATIENCE);
    let synchronous = async |n: i32| {
        let script = format!(
            "echo out {n}; echo > /tmp/up.{n}; until test -e /tmp/go; do sleep 1; done; echo err {n} >&2; exit {}",
            n % 120
        );
        let words = ["sh", "-c", &script].map(str::to_owned).to_vec();
        let answer = patient.exec_sync(&id, words, None).await?;
        let (out, err) = (format!("out {n}\n"), format!("err {n}\n"));
        ensure!(answer.stdout == out.as_bytes(), "{n}: {answer:?}");
        ensure!(answer.stderr == err.as_bytes(), "{n}: {answer:?}");
        ensure!(answer.exit_code == n % 120, "{n}: {answer:?}");
        anyhow::Ok(())
    };
    // All of them run before the first may end.
    let streamed = async {
        let begun = stream::iter(0..100).map(|n| begin(&world, &id, n));
        begun.buffered(10).try_collect::<Vec<_>>().await
    };
    let all_up = async {
        let streamed = streamed.await?;
        let begun = Instant::now();
        while world.shell(&id, "ls /tmp | grep -c up || true").await? != "100" {
            ensure!(begun.elapsed() < PATIENCE, "they do not come up");
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        world.shell(&id, "echo > /tmp/go").await?;
        anyhow::Ok(streamed)
    };
    let both = async {
        let synchronous = join_all((100..200).map(synchronous));
        let (streamed, synchronous) = tokio::join!(all_up, synchronous);
        synchronous.into_iter().collect::<Result<()>>()?;
        let ends = streamed?.into_iter().zip(0..).map(|(e, n)| finish(e, n));
        join_all(ends).await.into_iter().collect::<Result<()>>()
    };
    tokio::time::timeout(PATIENCE, both)
        .await
        .context("no end")??;
    eventually("no exec has a cgroup", async || {
        Ok(cgroups(&world)?.is_empty())
    })
    .await?;
    let left = world
        .shell(&id, "ps | grep -v grep | grep -c 'read line' || true")
        .await?;
    ensure!(left == "0", "{left} are left");
    world.assert_clean(&STREAMED).await
}

/// Children that have left their parent and its session are the client's all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_ends_daemons_too() -> Result<()> {
    let world = World::start().await?;
    let (_, id) = sleeper(&world).await?;
    let family = "(setsid sleep 411 &); setsid sh -c '(setsid sleep 412 &); sleep 413' & \
        until ps | grep -q '[s]leep 412' && ps | grep -q '[s]leep 413'; do :; done; echo on; ";
    let cases = [
        (IN_OUT, "sleep 414"),
        (TTY, "sleep 414"),
        (OUT, "yes; sleep 414"),
        // Itself at its end before the client goes: what it left behind is the container's by then.
        (OUT, "exit 3"),
    ];
    for (wanted, last) in cases {
        let script = format!("{family}{last}");
        let mut e = streams::exec(&world, &id, &["sh", "-c", &script], wanted).await?;
        streams::until(e.stdout.as_mut().context("no output")?, "on").await?;
        if last == "exit 3" {
            ensure!(streams::ended(&mut e).await? == Ended::Exit(3));
            ensure!(world.shell(&id, "ps | grep -c '[s]leep 41'").await? == "3");
            continue;
        }
        ensure!(!cgroups(&world)?.is_empty(), "it has no cgroup of its own");
        e.connection.abort();
        for marker in ["411", "412", "413", "414"] {
            gone(&world, &id, marker).await.context(script.clone())?;
        }
    }
    eventually("no exec has a cgroup", async || {
        Ok(cgroups(&world)?.is_empty())
    })
    .await?;
    ensure!(world.shell(&id, "echo here").await? == "here");
    world.assert_clean(&STREAMED).await
}

/// Writes until nobody takes any more.
async fn stuff(e: &mut Remote) -> Result<()> {
    let stdin = e.stdin.as_mut().context("no input")?;
    let piece = Bytes::from(vec![b'x'; 64 << 10]);
    let pause = Duration::from_secs(1);
    for _ in 0..2000 {
        match tokio::time::timeout(pause, stdin.write(piece.clone())).await {
            Ok(written) => written?,
            Err(_) => return Ok(()),
        }
    }
    anyhow::bail!("everything is taken")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_slow_cost_little_and_the_vanished_nothing() -> Result<()> {
    let world = World::start().await?;
    let (_, id) = sleeper(&world).await?;
    finish(begin(&world, &id, 1).await?, 1).await?;
    let before = resident(&world)?;

    // Output that nobody reads, and input that nobody reads.
    let (mut deaf, mut stuffed) = (Vec::new(), Vec::new());
    for _ in 0..12 {
        let command = ["sh", "-c", "echo on; sleep 421 & yes"];
        let mut e = streams::exec(&world, &id, &command, OUT).await?;
        streams::until(e.stdout.as_mut().context("no output")?, "on").await?;
        deaf.push(e);
        let command = ["sh", "-c", "echo on; sleep 422"];
        let mut e = streams::exec(&world, &id, &command, IN_OUT).await?;
        streams::until(e.stdout.as_mut().context("no output")?, "on").await?;
        stuffed.push(e);
    }
    for done in join_all(stuffed.iter_mut().map(stuff)).await {
        done?;
    }
    let held = resident(&world)?;
    ensure!(held < before + GROWTH, "{before} KiB grew to {held}");
    // One that is slow gets everything in the end.
    let command = ["sh", "-c", "yes 0123456 | head -c 4000000"];
    let mut slow = streams::exec(&world, &id, &command, OUT).await?;
    let out = slow.stdout.as_mut().context("no output")?;
    let (begun, mut got) = (Instant::now(), 0);
    while let Some(bytes) = tokio::time::timeout(LIMIT, out.read()).await?? {
        got += bytes.len();
        if begun.elapsed() < Duration::from_secs(2) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    ensure!(got == 4_000_000, "{got}");
    ensure!(streams::ended(&mut slow).await? == Ended::Exit(0));

    // They go in the middle of it; of the stuffed nothing is read that could tell.
    for e in deaf.iter().chain(&stuffed) {
        e.connection.abort();
    }
    gone(&world, &id, "421").await?;
    gone(&world, &id, "422").await?;
    let after = resident(&world)?;
    ensure!(after < before + GROWTH, "{before} KiB grew to {after}");
    world.assert_clean(&STREAMED).await
}
