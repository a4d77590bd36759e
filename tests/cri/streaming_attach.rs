//! Attach: to pipes and to terminals, several at once, and what becomes of the container when they go.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use crio_setup::cri::v1;
use crio_setup::ocic::stream::{Ended, Remote};
use tonic::Code;

use crate::streams::{self, ApiServer, Behind, LIMIT, STREAMED, all, ended, until};
use crate::world::World;

const OUT: [bool; 4] = [false, true, true, false];
const IN_OUT: [bool; 4] = [true, true, true, false];
const TTY: [bool; 4] = [true, true, false, true];

async fn url(
    world: &World,
    id: &str,
    [stdin, stdout, stderr, tty]: [bool; 4],
) -> Result<String, tonic::Status> {
    let request = v1::AttachRequest {
        container_id: id.to_owned(),
        tty,
        stdin,
        stdout,
        stderr,
    };
    let answer = world.client.runtime().attach(request).await?;
    Ok(answer.into_inner().url)
}

async fn attach(world: &World, id: &str, wanted: [bool; 4]) -> Result<Remote> {
    streams::remote(world, &url(world, id, wanted).await?, wanted).await
}

/// Waits until the container's log holds `text`.
async fn logged(world: &World, id: &str, text: &str) -> Result<()> {
    let path = world.machine.path(&world.status(id).await?.log_path);
    let deadline = Instant::now() + LIMIT;
    while !std::fs::read_to_string(&path)?.contains(text) {
        ensure!(Instant::now() < deadline, "`{text}` is not logged");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    Ok(())
}

/// Types lines until the container has said one of them: an attachment begins a moment after its streams.
async fn heard(remote: &mut Remote, word: &str) -> Result<()> {
    streams::write(remote, format!("{word}\n")).await?;
    let out = remote.stdout.as_mut().context("no output")?;
    until(out, &format!("said {word}\n")).await?;
    Ok(())
}

const TALKER: &str =
    "echo up; while read line; do echo said $line; echo err $line >&2; done; echo over; exit 3";

fn talker(world: &World, name: &str, once: bool, tty: bool) -> v1::ContainerConfig {
    let mut config = world.container_config(name, &["sh", "-c", TALKER]);
    (config.stdin, config.stdin_once, config.tty) = (true, once, tty);
    config
}

#[tokio::test(flavor = "multi_thread")]
async fn several_are_attached_and_go_as_they_like() -> Result<()> {
    let mut world = World::start().await?;
    let sandbox = world.pod_config("attach");
    let pod = world.run_pod(&sandbox).await?;
    let id = world
        .up(&pod, &sandbox, talker(&world, "open", false, false))
        .await?;
    logged(&world, &id, "up").await?;

    let mut one = attach(&world, &id, IN_OUT).await?;
    heard(&mut one, "first").await?;
    let mut two = attach(&world, &id, IN_OUT).await?;
    heard(&mut two, "second").await?;
    until(one.stdout.as_mut().context("no output")?, "said second").await?;
    until(one.stderr.as_mut().context("no output")?, "err second").await?;
    // One goes, the input of the other ends: without `stdin_once` the container does not notice.
    one.connection.abort();
    streams::close(&mut two).await?;
    // Nor when the daemon is another one.
    world.restart(nix::sys::signal::Signal::SIGKILL).await?;
    let mut three = attach(&world, &id, IN_OUT).await?;
    heard(&mut three, "third").await?;
    logged(&world, &id, "said third").await?;
    let mut four = attach(&world, &id, OUT).await?;
    three.connection.abort();
    let mut five = attach(&world, &id, IN_OUT).await?;
    heard(&mut five, "fifth").await?;
    until(four.stdout.as_mut().context("no output")?, "said fifth").await?;
    // Its end is everybody's.
    world
        .client
        .stop_container(&id, std::time::Duration::ZERO)
        .await?;
    ensure!(ended(&mut four).await? == Ended::Exit(0));
    ensure!(ended(&mut five).await? == Ended::Exit(0));
    let status = url(&world, &id, OUT)
        .await
        .err()
        .context("attached to what has ended")?;
    ensure!(status.code() == Code::FailedPrecondition, "{status}");
    let status = url(&world, &id, [false; 4])
        .await
        .err()
        .context("attached to nothing")?;
    ensure!(status.code() == Code::InvalidArgument, "{status}");

    // With `stdin_once` the input ends with the first, and its output is complete.
    let id = world
        .create(&pod, &sandbox, talker(&world, "once", true, false))
        .await?;
    let mut once = attach(&world, &id, IN_OUT).await?;
    world.client.start_container(&id).await?;
    heard(&mut once, "only").await?;
    streams::close(&mut once).await?;
    ensure!(all(once.stdout.take()).await? == b"over\n");
    ensure!(ended(&mut once).await? == Ended::Exit(0));
    ensure!(world.ended(&id).await?.exit_code == 3);
    // The same where the first just goes.
    let id = world
        .up(&pod, &sandbox, talker(&world, "gone", true, false))
        .await?;
    let mut gone = attach(&world, &id, IN_OUT).await?;
    heard(&mut gone, "only").await?;
    gone.connection.abort();
    ensure!(world.ended(&id).await?.exit_code == 3);
    world.assert_clean(&STREAMED).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_is_shared_and_left() -> Result<()> {
    let world = World::start().await?;
    let sandbox = world.pod_config("attach");
    let pod = world.run_pod(&sandbox).await?;
    let mut config = world.container_config("shell", &["sh"]);
    (config.stdin, config.tty) = (true, true);
    let id = world.up(&pod, &sandbox, config).await?;
    let mut one = attach(&world, &id, TTY).await?;
    let size = Bytes::from_static(b"{\"Width\":99,\"Height\":33}\n");
    one.resize.as_mut().context("no sizes")?.write(size).await?;
    let script = "until [ \"$(stty size)\" = '33 99' ]; do :; done; echo si''zed\n";
    streams::write(&mut one, script).await?;
    until(one.stdout.as_mut().context("no output")?, "sized\r\n").await?;
    let mut two = attach(&world, &id, TTY).await?;
    streams::write(&mut two, "echo to''gether\n").await?;
    for one in [&mut one, &mut two] {
        until(one.stdout.as_mut().context("no output")?, "together\r\n").await?;
    }
    // Detached, it goes on.
    one.connection.abort();
    two.connection.abort();
    let mut three = attach(&world, &id, TTY).await?;
    streams::write(&mut three, "echo still he''re; exit 4\n").await?;
    until(
        three.stdout.as_mut().context("no output")?,
        "still here\r\n",
    )
    .await?;
    ensure!(ended(&mut three).await? == Ended::Exit(0));
    ensure!(world.ended(&id).await?.exit_code == 4);
    world.assert_clean(&STREAMED).await
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_read_is_let_go_and_the_log_goes_on() -> Result<()> {
    let world = World::start().await?;
    let sandbox = world.pod_config("attach");
    let pod = world.run_pod(&sandbox).await?;
    let script = "echo up; read line; yes 0123456789abcdef | head -n 600000; echo the end; exit 5";
    let mut config = world.container_config("writer", &["sh", "-c", script]);
    config.stdin = true;
    let id = world.up(&pod, &sandbox, config).await?;
    logged(&world, &id, "up").await?;
    let mut reads = attach(&world, &id, IN_OUT).await?;
    let mut sleeps = attach(&world, &id, OUT).await?;
    let reading = tokio::spawn(all(reads.stdout.take()));
    // Nobody has heard anything yet, so the second may be attached a moment after this.
    streams::write(&mut reads, "go\n").await?;
    let got = reading.await??;
    ensure!(world.ended(&id).await?.exit_code == 5);
    ensure!(got.ends_with(b"abcdef\nthe end\n"), "{}", got.len());
    ensure!(got.len() == 17 * 600_000 + 8, "{}", got.len());
    ensure!(ended(&mut reads).await? == Ended::Exit(0));
    let log = std::fs::read_to_string(world.machine.path(&world.status(&id).await?.log_path))?;
    ensure!(log.ends_with("F the end\n"));
    // What was held up may have been logged in pieces.
    let whole = log.lines().filter(|line| line.contains(" stdout F "));
    ensure!(whole.count() == 600_002);
    drop(sleeps.stdout.take());
    drop(sleeps);
    world.assert_clean(&STREAMED).await
}

/// Kubernetes' own client.
#[tokio::test(flavor = "multi_thread")]
async fn kubectl_attaches() -> Result<()> {
    let world = World::start().await?;
    let sandbox = world.pod_config("attach");
    let pod = world.run_pod(&sandbox).await?;
    for websockets in ["false", "true"] {
        let config = talker(&world, &format!("talker-{websockets}"), true, false);
        let id = world.up(&pod, &sandbox, config).await?;
        let behind = Behind {
            pod: pod.clone(),
            container: id.clone(),
            tty: false,
        };
        let api = ApiServer::start(&world, behind)?;
        let env = format!("KUBECTL_REMOTE_COMMAND_WEBSOCKETS={websockets}");
        let (code, out, err) = api.kubectl(&world, &env, "echo typed |", "attach -i pod");
        ensure!(
            code == 0 && out.contains("said typed\nover\n"),
            "{code} {out} {err}"
        );
        ensure!(err.contains("err typed"), "{err}");
        ensure!(world.ended(&id).await?.exit_code == 3);
    }
    world.assert_clean(&STREAMED).await
}
