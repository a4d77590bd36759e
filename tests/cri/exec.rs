//! ExecSync.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use crio_setup::cri::v1;
use futures_util::future::join_all;
use tonic::Code;

use crate::world::{LIMIT, World, code, eventually};

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

/// The command lines of a container's living processes.
async fn processes(world: &World, id: &str) -> Result<String> {
    // The dead have an empty command line. The last `echo`: one may end while it is read.
    let script =
        "for f in /proc/[0-9]*/cmdline; do tr '\\0' ' ' < $f 2>/dev/null; echo; done; echo";
    world.shell(id, script).await
}

/// Cgroups of execs that are there now.
pub fn cgroups(world: &World) -> Result<String> {
    let argv = ["find", "/sys/fs/cgroup", "-type", "d", "-name", "exec-*"];
    world.machine.run(&argv)
}

#[tokio::test]
async fn what_a_command_says_comes_back_apart_and_whole() -> Result<()> {
    let world = World::start().await?;
    let sandbox = world.pod_config("said");
    let pod = world.run_pod(&sandbox).await?;
    let mut config = world.container_config("sleeper", &["sleep", "600"]);
    config.tty = true;
    config.working_dir = "/tmp".to_owned();
    config.envs = vec![v1::KeyValue {
        key: "COLOUR".to_owned(),
        value: b"blue".to_vec(),
    }];
    if let Some(linux) = &mut config.linux {
        linux.security_context = Some(v1::LinuxContainerSecurityContext {
            run_as_user: Some(v1::Int64Value { value: 1234 }),
            ..Default::default()
        });
    }
    let id = world.up(&pod, &sandbox, config).await?;
    let run = |script: &str| {
        world
            .client
            .exec_sync(&id, words(&["sh", "-c", script]), Some(LIMIT))
    };

    // Each to its own, with every byte, and the code.
    let answer = run("printf 'o\\0\\377\\nut'; printf 'err\\n' >&2; exit 42").await?;
    ensure!(answer.stdout == b"o\0\xff\nut", "{answer:?}");
    ensure!(answer.stderr == b"err\n", "{answer:?}");
    ensure!(answer.exit_code == 42, "{answer:?}");
    let answer = run("kill -9 $$").await?;
    ensure!(answer.exit_code == 128 + 9, "{answer:?}");
    let answer = run("exit 0").await?;
    ensure!(answer == v1::ExecSyncResponse::default(), "{answer:?}");

    // As the container's own process runs, but for its terminal, and with nothing to read.
    let answer = world.shell(&id, "id -u; pwd; echo $COLOUR").await?;
    ensure!(answer == "1234\n/tmp\nblue", "{answer}");
    let tty = "for n in 0 1 2; do test -t $n && echo $n is a terminal; done; cat";
    let answer = world.shell(&id, tty).await?;
    ensure!(answer.is_empty(), "{answer}");

    // A command that is not there is the caller's mistake, and named.
    let answer = world
        .client
        .exec_sync(&id, words(&["no-such-program"]), Some(LIMIT))
        .await;
    let (code, message) = code(answer)?;
    ensure!(code == Code::InvalidArgument, "{code}: {message}");
    ensure!(message.contains("no-such-program"), "{message}");

    // Who stays behind is not waited for, stays, and is the container's like any other.
    let answer = run("(setsid sleep 4321 &); echo gone").await?;
    ensure!(answer.stdout == b"gone\n", "{answer:?}");
    ensure!(processes(&world, &id).await?.contains("sleep 4321"));
    ensure!(cgroups(&world)?.is_empty(), "{}", cgroups(&world)?);

    // Too much of it is cut at 16 MiB of each, and the command comes to its end.
    let script = "yes 0123456 | head -c 17000000; yes 0123456 | head -c 17000000 >&2; exit 3";
    let patient = world.client.with_limit(Duration::from_secs(240));
    let answer = patient
        .exec_sync(&id, words(&["sh", "-c", script]), Some(LIMIT * 6))
        .await?;
    ensure!(answer.exit_code == 3, "{}", answer.exit_code);
    for (stream, bytes) in [("stdout", &answer.stdout), ("stderr", &answer.stderr)] {
        ensure!(bytes.len() == 16 << 20, "{stream}: {}", bytes.len());
        ensure!(bytes.chunks(8).all(|line| line == b"0123456\n"), "{stream}");
    }
    world.assert_clean(&[]).await
}

#[tokio::test]
async fn fifty_at_once_do_not_mix() -> Result<()> {
    let world = World::start().await?;
    let sandbox = world.pod_config("many");
    let pod = world.run_pod(&sandbox).await?;
    let config = world.container_config("sleeper", &["sleep", "600"]);
    let id = world.up(&pod, &sandbox, config).await?;
    let patient = world.client.with_limit(Duration::from_secs(300));
    let one = |n: i32| {
        let script = format!("echo out {n}; echo err {n} >&2; exit {n}");
        let (patient, id) = (patient.clone(), id.clone());
        async move {
            let answer = patient
                .exec_sync(&id, words(&["sh", "-c", &script]), None)
                .await?;
            ensure!(
                answer.stdout == format!("out {n}\n").into_bytes(),
                "{n}: {answer:?}"
            );
            ensure!(
                answer.stderr == format!("err {n}\n").into_bytes(),
                "{n}: {answer:?}"
            );
            ensure!(answer.exit_code == n, "{n}: {answer:?}");
            Ok(())
        }
    };
    join_all((0..50).map(one))
        .await
        .into_iter()
        .collect::<Result<()>>()?;
    ensure!(cgroups(&world)?.is_empty(), "{}", cgroups(&world)?);
    world.assert_clean(&[]).await
}

/// Starts children of every kind that may get away: of the same session, of another, orphans of the one and the
/// other, and one that forks into a new session and dies, again and again. Says when all are there.
const FAMILY: &str = r#"
echo 'setsid sh /tmp/comet & ' > /tmp/comet
sleep 7101 &
setsid sleep 7102 &
(sleep 7103 &)
(setsid sleep 7104 &)
(setsid sh -c 'sleep 7105 & (setsid sleep 7106 &) ; sleep 7107' &)
setsid sh /tmp/comet &
for n in 1 2 3 4 5 6 7; do
    until cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\0' ' ' | grep -q "sleep 710$n"; do :; done
done
echo all > /tmp/started
sleep 7100
"#;

#[tokio::test]
async fn a_timeout_kills_the_command_with_its_children_and_nothing_else() -> Result<()> {
    a_timeout_kills(World::start().await?, "").await
}

#[tokio::test]
async fn so_it_does_on_a_machine_with_cgroup_v2() -> Result<()> {
    let machine = crate::support::Machine::start()?;
    if !machine.exists("/sys/fs/cgroup/cgroup.controllers") {
        machine.run(&["mount", "-t", "cgroup2", "cgroup2", "/sys/fs/cgroup"])?;
    }
    a_timeout_kills(World::on(machine, &[]).await?, "").await
}

/// As the crun of Debian 12, which cannot run here, it knows nothing of cgroups for commands: they are moved once
/// they run.
#[tokio::test]
async fn so_it_does_with_a_runtime_that_cannot_be_told_of_cgroups() -> Result<()> {
    let machine = crate::support::Machine::start()?;
    let runtime = "#!/bin/sh\nfor word; do\ncase $word in features|--cgroup)\n\
        echo \"unknown $word\" >&2; exit 1;;\nesac\ndone\nexec runc \"$@\"\n";
    machine.write("/srv/simple", runtime, 0o755)?;
    let config = "[crio.runtime]\ndefault_runtime = \"simple\"\n\
        [crio.runtime.runtimes.simple]\nruntime_path = \"/srv/simple\"\n";
    let files = [("/etc/ocid/ocid.conf.d/10-test.conf", config)];
    let moved = "until grep -q exec- /proc/self/cgroup; do :; done\n";
    a_timeout_kills(World::on(machine, &files).await?, moved).await
}

/// What runs late begins with `first`.
async fn a_timeout_kills(world: World, first: &str) -> Result<()> {
    let family = format!("{first}{FAMILY}");
    let sandbox = world.pod_config("late");
    let pod = world.run_pod(&sandbox).await?;
    // The first process adopts orphans and says so if it is told to end.
    let config = world.container_config("adopts", &["sh", "-c", "sleep 7001 & wait; sleep 600"]);
    let id = world.up(&pod, &sandbox, config).await?;
    let other = world.client.clone();
    let beside = {
        let id = id.clone();
        tokio::spawn(async move {
            let script = "echo begun > /tmp/beside; sleep 7002 & wait; echo never";
            other
                .exec_sync(&id, words(&["sh", "-c", script]), None)
                .await
        })
    };
    world
        .shell(
            &id,
            "until test -e /tmp/beside; do :; done; (setsid sleep 7003 &)",
        )
        .await?;

    // On a loaded machine it may take a while until all are there.
    let mut limit = Duration::from_secs(4);
    loop {
        world.shell(&id, "rm -f /tmp/started").await?;
        let answer = world
            .client
            .exec_sync(&id, words(&["sh", "-c", &family]), Some(limit))
            .await;
        let (code, message) = code(answer)?;
        ensure!(code == Code::DeadlineExceeded, "{code}: {message}");
        ensure!(message.contains("killed with its children"), "{message}");
        let left = processes(&world, &id).await?;
        ensure!(
            !left.contains("sleep 71") && !left.contains("comet"),
            "{left}"
        );
        if world.shell(&id, "cat /tmp/started || true").await? == "all" {
            break;
        }
        limit *= 2;
        ensure!(
            limit < Duration::from_secs(70),
            "the family never came together"
        );
    }
    let left = processes(&world, &id).await?;
    for stays in ["sleep 7001", "sleep 7002", "sleep 7003"] {
        ensure!(left.contains(stays), "{stays} was killed too:\n{left}");
    }
    ensure!(!beside.is_finished(), "another exec was ended");

    // A caller who gives up ends the command, too.
    let hasty = world.client.exec_sync(&id, words(&["sleep", "7200"]), None);
    let mut hasty = Box::pin(hasty);
    let mut there = false;
    for _ in 0..1500 {
        if tokio::time::timeout(Duration::from_millis(20), &mut hasty)
            .await
            .is_ok()
        {
            anyhow::bail!("`sleep 7200` ended");
        }
        there = processes(&world, &id).await?.contains("sleep 7200");
        if there {
            break;
        }
    }
    ensure!(there, "`sleep 7200` did not start");
    drop(hasty);
    eventually("the command of a caller who left is killed", async || {
        Ok(!processes(&world, &id).await?.contains("sleep 7200"))
    })
    .await?;
    // What is left of the other one goes with the container; its answer is the kill.
    world.client.stop_container(&id, Duration::ZERO).await?;
    let answer = tokio::time::timeout(LIMIT, beside)
        .await
        .context("no answer")??;
    ensure!(
        answer.as_ref().is_ok_and(|a| a.exit_code == 137),
        "{answer:?}"
    );
    world.assert_clean(&[]).await
}

#[tokio::test]
async fn a_command_meets_a_container_in_every_state() -> Result<()> {
    let world = World::start().await?;
    let sandbox = world.pod_config("states");
    let pod = world.run_pod(&sandbox).await?;
    let exec = |id: &str| {
        let (client, id) = (world.client.clone(), id.to_owned());
        async move {
            client
                .exec_sync(&id, words(&["echo", "hi"]), Some(LIMIT))
                .await
        }
    };

    // Created: nothing of it runs yet.
    let script =
        "trap 'echo asked > /tmp/asked' TERM; echo up > /tmp/up; while :; do sleep 1; done";
    let config = world.container_config("stubborn", &["sh", "-c", script]);
    let id = world.create(&pod, &sandbox, config).await?;
    let (code_, message) = code(exec(&id).await)?;
    ensure!(code_ == Code::FailedPrecondition, "{code_}: {message}");
    ensure!(message.contains("is created, not running"), "{message}");

    // Starting: one or the other, and the container is none the worse.
    let (started, answers) = tokio::join!(
        world.client.start_container(&id),
        join_all((0..8).map(|_| exec(&id)))
    );
    started?;
    for answer in answers {
        match answer {
            Ok(answer) => ensure!(answer.stdout == b"hi\n", "{answer:?}"),
            refused => {
                let (code, message) = code(refused)?;
                ensure!(code == Code::FailedPrecondition, "{code}: {message}");
            }
        }
    }
    world
        .shell(&id, "until test -e /tmp/up; do :; done")
        .await?;

    // Stopping: it runs until it does not.
    let stopping = {
        let (client, id) = (world.client.clone(), id.clone());
        tokio::spawn(async move { client.stop_container(&id, LIMIT * 10).await })
    };
    world
        .shell(&id, "until test -e /tmp/asked; do :; done")
        .await?;
    ensure!(exec(&id).await?.stdout == b"hi\n");
    let during = {
        let (client, id) = (world.client.clone(), id.clone());
        let script = words(&["sh", "-c", "echo during > /tmp/during; sleep 600"]);
        tokio::spawn(async move { client.exec_sync(&id, script, None).await })
    };
    world
        .shell(&id, "until test -e /tmp/during; do :; done")
        .await?;
    world.client.stop_container(&id, Duration::ZERO).await?;
    stopping.await??;
    let answer = tokio::time::timeout(LIMIT, during)
        .await
        .context("no answer")??;
    ensure!(
        answer.as_ref().is_ok_and(|a| a.exit_code == 137),
        "{answer:?}"
    );

    // Ended, removed.
    let (code_, message) = code(exec(&id).await)?;
    ensure!(code_ == Code::FailedPrecondition, "{code_}: {message}");
    ensure!(message.contains("is exited, not running"), "{message}");
    world.client.remove_container(&id).await?;
    let (code_, message) = code(exec(&id).await)?;
    ensure!(
        code_ == Code::NotFound && message.contains(&id),
        "{code_}: {message}"
    );
    world.assert_clean(&[]).await
}
