//! `ocic logs`: which lines, and following them across rotations to the container's end.

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use crate::support::node::{ocic, ocic_fails, ocic_ok};
use crate::support::running::Running;
use crate::world::{LIMIT, World};

/// Waits for the next `count` numbered lines, each once and in order.
fn numbered(of: &Running, from: usize, count: usize) -> Result<()> {
    for number in from..from + count {
        let wanted = format!("line {number}.");
        let line = of.line_with("line ", LIMIT)?;
        ensure!(line == wanted, "`{line}` instead of `{wanted}`");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_are_chosen() -> Result<()> {
    let world = World::start().await?;
    let machine = &world.machine;
    let sandbox = world.pod_config("said");
    let pod = world.run_pod(&sandbox).await?;
    let script = "echo one; echo two >&2; head -c 40000 /dev/zero | tr '\\0' x; echo; printf open";
    let config = world.container_config("said", &["sh", "-c", script]);
    let id = world.up(&pod, &sandbox, config).await?;
    world.ended(&id).await?;
    let long = "x".repeat(40_000);

    let output = ocic(machine, &["logs", "said"])?;
    ensure!(
        output.status.success() && output.stderr == b"two\n",
        "{output:?}"
    );
    ensure!(output.stdout == format!("one\n{long}\nopen\n").into_bytes());
    let follow = ocic(machine, &["logs", "-f", "said"])?;
    ensure!(follow.stdout == output.stdout && follow.stderr == output.stderr);
    let config = world.container_config("counted", &["seq", "5"]);
    let counted = world.up(&pod, &sandbox, config).await?;
    world.ended(&counted).await?;
    let output = ocic(machine, &["logs", "--tail", "2", "counted"])?;
    ensure!(output.stdout == b"4\n5\n", "{output:?}");
    ensure!(
        ocic(machine, &["logs", "--tail", "0", "said"])?
            .stdout
            .is_empty()
    );
    ensure!(ocic_ok(machine, &["logs", "--since", "1h", "said"])?.starts_with("one\n"));
    ensure!(
        ocic_ok(
            machine,
            &["logs", "--since", "2999-01-01T00:00:00Z", "said"]
        )?
        .is_empty()
    );
    let text = ocic_ok(machine, &["logs", "-t", "said"])?;
    let first = text.lines().next().context("no line")?;
    let (time, said) = first.split_once(' ').context("no time")?;
    ensure!(said == "one" && time.ends_with('Z'), "{first}");
    let since = ocic_ok(machine, &["logs", "--since", time, "said"])?;
    ensure!(
        since.starts_with("one\n"),
        "a line of this very time counts"
    );

    for (args, code, words) in [
        (&["logs", "nobody"][..], 1, &["no container `nobody`"][..]),
        (&["logs", "-f", "nobody"], 1, &["no container `nobody`"]),
        (&["logs", "--tail", "many", "said"], 2, &["--tail"]),
        (&["logs", "--since", "yesterday", "said"], 2, &["--since"]),
    ] {
        ocic_fails(machine, args, code, words)?;
    }
    let log = world.status(&id).await?.log_path;
    machine.write(&log, "{\"log\": \"of another kind\"}\n", 0o640)?;
    for args in [&["logs", "said"][..], &["logs", "-f", "said"]] {
        ocic_fails(machine, args, 1, &["line 1", &log])?;
    }
    std::fs::remove_file(machine.path(&log))?;
    ocic_fails(machine, &["logs", "said"], 1, &[&log])?;
    world.assert_clean(&[]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_is_followed_across_rotations_and_a_restart_to_its_end() -> Result<()> {
    let mut world = World::start().await?;
    let sandbox = world.pod_config("told");
    let pod = world.run_pod(&sandbox).await?;
    let script = "n=0; mkfifo /tmp/f; exec 3<>/tmp/f; echo ready; while read what <&3; do \
                  [ $what = end ] && exit 0; n=$((n+1)); echo line $n.; echo error $n. >&2; done";
    let config = world.container_config("told", &["sh", "-c", script]);
    let id = world.up(&pod, &sandbox, config).await?;
    let program = world.machine.product("ocic")?;
    let follow = world
        .machine
        .spawn(&[&program, "logs", "-f", "told"], &[])?;
    follow.line_with("ready", LIMIT)?;
    let only = world
        .machine
        .spawn(&[&program, "logs", "-f", "told"], &[])?;
    only.line_with("ready", LIMIT)?;
    let say = async |world: &World, times: usize| {
        let line = format!("for i in $(seq {times}); do echo go; done > /tmp/f");
        world.shell(&id, &line).await.map(|_| ())
    };
    say(&world, 3).await?;
    numbered(&follow, 1, 3)?;

    // Kubelet's way: a new name, more lines before the daemon is told, then the new file.
    let log = world.status(&id).await?.log_path;
    for round in 0..3 {
        let path = world.machine.path(&log);
        std::fs::rename(&path, world.machine.path(format!("{log}.{round}")))?;
        say(&world, 2).await?;
        numbered(&follow, 4 + round * 5, 2)?;
        world.client.reopen_container_log(&id).await?;
        say(&world, 3).await?;
        numbered(&follow, 6 + round * 5, 3)?;
    }

    // The daemon goes and comes back; the container does not care.
    world.restart(Signal::SIGKILL).await?;
    say(&world, 2).await?;
    numbered(&follow, 19, 2)?;
    let mut interrupted = only;
    interrupted.signal(Signal::SIGINT)?;
    ensure!(interrupted.wait()?.success());
    // It ends its container and may go with it.
    let _ = world.shell(&id, "echo end > /tmp/f").await;
    let mut follow = follow;
    ensure!(follow.wait()?.success(), "{}", follow.output());
    // Every line once, those of the other stream too.
    let output = follow.output();
    for number in 1..=20 {
        for kind in ["line", "error"] {
            let line = format!("{kind} {number}.");
            let count = output.lines().filter(|l| *l == line).count();
            ensure!(count == 1, "`{line}` {count} times:\n{output}");
        }
    }

    // Removal is an end too.
    let config = world.container_config("gone", &["sh", "-c", "echo here; sleep 600"]);
    let id = world.up(&pod, &sandbox, config).await?;
    let mut follow = world
        .machine
        .spawn(&[&program, "logs", "-f", "gone"], &[])?;
    follow.line_with("here", LIMIT)?;
    world.client.remove_container(&id).await?;
    ensure!(follow.wait()?.success(), "{}", follow.output());
    world.assert_clean(&[]).await
}
