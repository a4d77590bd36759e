//! Exec: streams, terminals, ends, and clients that go away.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use crio_setup::ocic::stream::Ended;
use tonic::Code;

use crate::streams::{self, ApiServer, Behind, LIMIT, STREAMED, all, ended, exec, until};
use crate::support::Machine;
use crate::world::{World, code, eventually};

const OUT: [bool; 4] = [false, true, true, false];
const IN_OUT: [bool; 4] = [true, true, true, false];
const TTY: [bool; 4] = [true, true, false, true];

/// A pod and a container that has said that it runs.
pub async fn sleeper(world: &World) -> Result<(String, String)> {
    let sandbox = world.pod_config("streams");
    let pod = world.run_pod(&sandbox).await?;
    let config = world.container_config("sleeper", &["sh", "-c", "echo up; exec sleep 600"]);
    let id = world.up(&pod, &sandbox, config).await?;
    let log = world.status(&id).await?.log_path;
    let deadline = Instant::now() + LIMIT;
    while std::fs::read_to_string(world.machine.path(&log))?.is_empty() {
        ensure!(Instant::now() < deadline, "it does not come up");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok((pod, id))
}

/// Waits until `grep` finds no process like this in the container.
pub async fn gone(world: &World, id: &str, marker: &str) -> Result<()> {
    let script = format!("ps | grep -c '[s]leep {marker}' || true");
    let deadline = Instant::now() + LIMIT;
    while world.shell(id, &script).await? != "0" {
        ensure!(Instant::now() < deadline, "`sleep {marker}` goes on");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_of_a_command_are_the_clients() -> Result<()> {
    let world = World::start().await?;
    let (_, id) = sleeper(&world).await?;

    // Both outputs, and the exit code.
    let mut e = exec(
        &world,
        &id,
        &["sh", "-c", "echo out; echo err >&2; exit 7"],
        OUT,
    )
    .await?;
    let (out, err) = (all(e.stdout.take()).await?, all(e.stderr.take()).await?);
    ensure!(out == b"out\n" && err == b"err\n", "{out:?} {err:?}");
    ensure!(ended(&mut e).await? == Ended::Exit(7));

    // The end of the input reaches the command, and its output outlasts it.
    let mut e = exec(&world, &id, &["sh", "-c", "cat; echo done"], IN_OUT).await?;
    streams::write(&mut e, "some input\n").await?;
    until(e.stdout.as_mut().context("no output")?, "some input\n").await?;
    streams::close(&mut e).await?;
    ensure!(all(e.stdout.take()).await? == b"done\n");
    ensure!(ended(&mut e).await? == Ended::Exit(0));

    // Much both ways at once, through windows and pipes.
    let mut e = exec(&world, &id, &["cat"], IN_OUT).await?;
    let sent: Vec<u8> = (0..48 << 20).map(|n: u32| (n % 253) as u8).collect();
    let mut stdin = e.stdin.take().context("no input")?;
    let sending = Bytes::from(sent.clone());
    let send = async {
        stdin.write(sending).await?;
        stdin.finish().await?;
        anyhow::Ok(())
    };
    let (got, fed) = tokio::join!(all(e.stdout.take()), send);
    fed?;
    ensure!(got? == sent, "what came back is not what was sent");
    ensure!(ended(&mut e).await? == Ended::Exit(0));

    // Only what was asked for.
    let only_err = [false, false, true, false];
    let mut e = exec(
        &world,
        &id,
        &["sh", "-c", "echo out; echo err >&2"],
        only_err,
    )
    .await?;
    ensure!(all(e.stderr.take()).await? == b"err\n");
    ensure!(ended(&mut e).await? == Ended::Exit(0));

    // What cannot be run says why.
    let mut e = exec(&world, &id, &["/no/such"], IN_OUT).await?;
    let Ended::Failed(why) = ended(&mut e).await? else {
        anyhow::bail!("`/no/such` was run");
    };
    ensure!(why.contains("/no/such"), "{why}");
    let mut e = exec(&world, &id, &["/no/such"], TTY).await?;
    ensure!(matches!(ended(&mut e).await?, Ended::Failed(_)));

    // A child left behind with the output does not hold the end; a signal is an exit code.
    let mut e = exec(
        &world,
        &id,
        &["sh", "-c", "sleep 77 & echo left; kill -9 $$"],
        OUT,
    )
    .await?;
    ensure!(all(e.stdout.take()).await? == b"left\n");
    ensure!(ended(&mut e).await? == Ended::Exit(137));
    world.assert_clean(&STREAMED).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_is_typed_into_and_sized() -> Result<()> {
    let world = World::start().await?;
    let (_, id) = sleeper(&world).await?;
    let mut e = exec(&world, &id, &["sh"], TTY).await?;
    let size = Bytes::from_static(b"{\"Width\":132,\"Height\":43}\n");
    e.resize.as_mut().context("no sizes")?.write(size).await?;
    let mut out = e.stdout.take().context("no output")?;
    // The size comes over another stream, so it is asked for until it is there.
    let script = "until [ \"$(stty size)\" = '43 132' ]; do :; done; ls -l /proc/self/fd/0; echo $TERM the e''nd\n";
    streams::write(&mut e, script).await?;
    let said = until(&mut out, "xterm the end\r\n").await?;
    ensure!(said.contains("until"), "a terminal echoes: {said}");
    ensure!(said.contains("/dev/pts/"), "{said}");
    streams::write(&mut e, "exit 5\n").await?;
    ensure!(ended(&mut e).await? == Ended::Exit(5));
    world.assert_clean(&STREAMED).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_ends_what_it_ran() -> Result<()> {
    let world = World::start().await?;
    let (_, id) = sleeper(&world).await?;
    // With pipes, on a terminal, and stuck in an output that nobody takes.
    let endless = "sleep 401 & sleep 402 & yes";
    let cases = [
        (
            vec!["sh", "-c", "echo on; sleep 403 & sleep 404"],
            IN_OUT,
            ["403", "404"],
        ),
        (
            vec!["sh", "-c", "echo on; sleep 405 & sleep 406"],
            TTY,
            ["405", "406"],
        ),
        (vec!["sh", "-c", endless], OUT, ["401", "402"]),
    ];
    for (command, wanted, markers) in cases {
        let mut e = exec(&world, &id, &command, wanted).await?;
        let first = e.stdout.as_mut().context("no output")?.read();
        let first = tokio::time::timeout(LIMIT, first).await??;
        ensure!(first.is_some_and(|bytes| !bytes.is_empty()));
        e.connection.abort();
        for marker in markers {
            gone(&world, &id, marker).await.context(marker)?;
        }
    }
    // The container itself goes on.
    ensure!(world.shell(&id, "echo here").await? == "here");
    world.assert_clean(&STREAMED).await
}

/// A runtime that takes its time to tell of the next exec, for which there is a file, and puts none into a cgroup.
const SLOW: &str = r#"#!/bin/sh
case $* in *features*) exit 1 ;; esac
for word in "$@"; do [ "$word" = exec ] && exec=yes; done
if [ -n "$exec" ] && rm /srv/slow/next 2>/dev/null; then
    runc "$@"
    exec sleep 60
fi
exec runc "$@"
"#;

/// The command ends, and leaves somebody behind, before the runtime has told of it; then the client goes.
#[tokio::test(flavor = "multi_thread")]
async fn what_has_ended_before_the_runtime_tells_of_it_leaves_nobody() -> Result<()> {
    let machine = Machine::start()?;
    machine.write("/srv/slow/runc", SLOW, 0o755)?;
    let config = "[crio.runtime.runtimes.runc]\nruntime_path = \"/srv/slow/runc\"\n";
    let world = World::on(machine, &[("/etc/ocid/ocid.conf.d/10-slow.conf", config)]).await?;
    let (_, id) = sleeper(&world).await?;
    ensure!(world.shell(&id, "echo here").await? == "here");
    world.machine.write("/srv/slow/next", "", 0o644)?;
    let command = ["sh", "-c", "sleep 407 & echo on"];
    let mut e = exec(&world, &id, &command, OUT).await?;
    let first = e.stdout.as_mut().context("no output")?.read();
    let first = tokio::time::timeout(LIMIT, first).await??;
    ensure!(first.is_some_and(|bytes| bytes.starts_with(b"on")));
    // Once only the child that it left is there; with the shell gone this counts what `ps` shows.
    let script = "ps | grep -c '[s]leep 407 & echo'";
    eventually("the command ends", async || {
        Ok(world.shell(&id, &format!("{script} || true")).await? == "0")
    })
    .await?;
    e.connection.abort();
    gone(&world, &id, "407").await?;
    ensure!(world.shell(&id, "echo here").await? == "here");
    world.assert_clean(&STREAMED).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_url_is_good_once_and_requests_are_judged() -> Result<()> {
    let world = World::start().await?;
    let (_, id) = sleeper(&world).await?;
    let url = streams::exec_url(&world, &id, &["true"], OUT).await?;
    ensure!(url.starts_with("http://127.0.0.1:"), "{url}");
    let mut e = streams::remote(&world, &url, OUT).await?;
    ensure!(ended(&mut e).await? == Ended::Exit(0));
    let again = streams::remote(&world, &url, OUT).await;
    let refused = format!("{:#}", again.err().context("a URL was good twice")?);
    ensure!(refused.contains("404"), "{refused}");

    let cases = [
        ([false; 4], vec!["true"], Code::InvalidArgument, "none of"),
        (
            [false, true, true, true],
            vec!["true"],
            Code::InvalidArgument,
            "tty",
        ),
        (OUT, vec![], Code::InvalidArgument, "cmd"),
    ];
    for (wanted, command, expected, word) in cases {
        let answer = streams::exec_url(&world, &id, &command, wanted).await;
        let (code, message) = code(answer)?;
        ensure!(
            code == expected && message.contains(word),
            "{code:?} {message}"
        );
    }
    let (code, _) = code(streams::exec_url(&world, "nobody", &["true"], OUT).await)?;
    ensure!(code == Code::NotFound, "{code:?}");
    world.assert_clean(&STREAMED).await
}

/// Kubernetes' own client, which has its own SPDY; a recent one begins with a WebSocket.
#[tokio::test(flavor = "multi_thread")]
async fn kubectl_execs() -> Result<()> {
    let world = World::start().await?;
    let (pod, container) = sleeper(&world).await?;
    let behind = Behind {
        pod,
        container,
        tty: false,
    };
    let api = ApiServer::start(&world, behind)?;
    for websockets in ["false", "true"] {
        let env = format!("KUBECTL_REMOTE_COMMAND_WEBSOCKETS={websockets}");
        kubectl(&world, &api, &env).context(env)?;
    }
    drop(api);
    world.assert_clean(&STREAMED).await
}

fn kubectl(world: &World, api: &ApiServer, env: &str) -> Result<()> {
    let (code, out, err) = api.kubectl(
        world,
        env,
        "",
        "exec pod -- sh -c 'echo out; echo err >&2; exit 7'",
    );
    ensure!((code, out.as_str()) == (7, "out\n"), "{code} {out} {err}");
    ensure!(err.starts_with("err\n"), "{err}");
    let many = "head -c 20000000 /dev/zero | tr '\\0' x |";
    let (code, out, err) = api.kubectl(world, env, many, "exec -i pod -- sh -c 'cat | wc -c'");
    ensure!((code, out.trim()) == (0, "20000000"), "{code} {out} {err}");
    let (code, out, err) = api.kubectl(
        world,
        env,
        "",
        "exec pod -- sh -c 'yes | head -c 30000000' | wc -c",
    );
    ensure!((code, out.trim()) == (0, "30000000"), "{code} {out} {err}");
    // On a terminal of its own.
    let line = "exec -it pod -- sh -c \"stty size; exit 3\"";
    let typed = format!(
        "script -qec '{env} HOME=/tmp/kube timeout --foreground 120 kubectl --server=http://{} {line}' /dev/null </dev/null",
        api.address
    );
    let output = world.machine.output(&["sh", "-c", &typed])?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.code() == Some(3), "{}: {said}", output.status);
    let (code, _, err) = api.kubectl(world, env, "", "exec pod -- /no/such");
    ensure!(code != 0 && err.contains("/no/such"), "{code} {err}");
    Ok(())
}
