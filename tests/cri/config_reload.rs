//! What SIGHUP changes in a daemon that runs, what it does not, and runtime handlers that come and go.

use anyhow::{Context, Result, ensure};
use crio_setup::cri::v1;
use nix::sys::signal::Signal;
use tonic::Code;

use crate::support::Machine;
use crate::world::{World, code, eventually};

const DROP_IN: &str = "/etc/ocid/ocid.conf.d/10-test.conf";

/// The machine's runc, and a second one of another name.
fn two_runtimes(machine: &Machine) -> Result<String> {
    let line = "path=$(command -v runc) && cp \"$path\" /usr/local/bin/second && echo \"$path\"";
    Ok(machine.run(&["sh", "-c", line])?.trim().to_owned())
}

/// Has the configuration read again, and waits until the daemon says so.
fn reload(world: &World, text: &str, said: &str) -> Result<()> {
    let count = |text: &str| text.matches(said).count();
    let before = count(&world.daemon().output());
    world.machine.write(DROP_IN, text, 0o644)?;
    world.daemon().signal(Signal::SIGHUP)?;
    let deadline = std::time::Instant::now() + crate::world::LIMIT;
    while count(&world.daemon().output()) == before {
        ensure!(
            std::time::Instant::now() < deadline,
            "not said: {said}\n{}",
            world.daemon().output()
        );
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    Ok(())
}

const DONE: &str = "the configuration is reloaded";
const REFUSED: &str = "the configuration is not reloaded";

#[tokio::test(flavor = "multi_thread")]
async fn handlers_come_and_go_while_their_pods_go_on() -> Result<()> {
    let machine = Machine::start()?;
    let runc = two_runtimes(&machine)?;
    let crun = machine
        .output(&["crun", "--version"])
        .is_ok_and(|o| o.status.success());
    let crun = if crun {
        "[crio.runtime.runtimes.crun]\n"
    } else {
        ""
    };
    let with_second = format!(
        "[crio.runtime.runtimes.runc]\nruntime_path = \"{runc}\"\n{crun}\
         [crio.runtime.runtimes.second]\nruntime_path = \"/usr/local/bin/second\"\nruntime_root = \"/run/second\"\n\
         [crio.runtime.runtimes.kata]\nruntime_type = \"vm\"\n"
    );
    let mut world = World::on(machine, &[(DROP_IN, &with_second)]).await?;
    world
        .daemon()
        .line_with("runtimes.kata.runtime_type = \"vm\"` has no effect")?;

    let answer = world.client.status(false).await?;
    let handlers = &answer.runtime_handlers;
    let names: Vec<&str> = handlers.iter().map(|h| h.name.as_str()).collect();
    let mut wanted = vec!["", "crun", "runc", "second"];
    wanted.retain(|name| *name != "crun" || !crun.is_empty());
    ensure!(names == wanted, "{names:?}");
    let features = |name: &str| {
        let found = handlers.iter().find(|h| h.name == name);
        found.and_then(|h| h.features).context("no features")
    };
    ensure!(features("")? == features("runc")?);
    ensure!(features("second")? == features("runc")?);
    // runc says so itself, crun by its version where it has no such command.
    ensure!(features("second")?.recursive_read_only_mounts, "no rro");
    if !crun.is_empty() {
        ensure!(features("crun")?.recursive_read_only_mounts, "crun: no rro");
    }
    let groups = answer
        .features
        .context("no features")?
        .supplemental_groups_policy;
    ensure!(groups, "no supplemental groups");

    let sandbox = world.pod_config("other");
    let pod = world
        .client
        .run_pod_sandbox(sandbox.clone(), "second")
        .await?;
    let config = world.container_config("sleeper", &["sleep", "600"]);
    let id = world.up(&pod, &sandbox, config).await?;
    let state = format!("/run/second/{id}/state.json");
    ensure!(world.machine.exists(&state), "its state is elsewhere");
    for handler in ["third", "kata"] {
        let refused = world
            .client
            .run_pod_sandbox(world.pod_config("third"), handler)
            .await;
        let (refusal, message) = code(refused)?;
        ensure!(refusal == Code::InvalidArgument, "{refusal}: {message}");
        ensure!(
            message.contains(handler) && message.contains("second"),
            "{message}"
        );
    }

    // Another in its place: the pod goes on, also with new containers.
    let with_third = "[crio.runtime.runtimes.runc]\n[crio.runtime.runtimes.third]\nruntime_path = \"/usr/local/bin/second\"\n";
    reload(&world, with_third, DONE)?;
    let again = world.pod_config("again");
    let (refusal, _) = code(world.client.run_pod_sandbox(again.clone(), "second").await)?;
    ensure!(refusal == Code::InvalidArgument, "{refusal}");
    let third = world.client.run_pod_sandbox(again.clone(), "third").await?;
    let config = world.container_config("of-third", &["sleep", "600"]);
    let of_third = world.up(&third, &again, config).await?;
    ensure!(world.exec(&id, &["echo", "on"]).await? == "on");
    let config = world.container_config("late", &["sleep", "600"]);
    let late = world.up(&pod, &sandbox, config).await?;
    ensure!(
        world
            .machine
            .exists(&format!("/run/second/{late}/state.json"))
    );

    // The records say by what they were made, also to the next daemon.
    world.restart(Signal::SIGTERM).await?;
    ensure!(world.exec(&id, &["echo", "on"]).await? == "on");
    ensure!(world.exec(&of_third, &["echo", "on"]).await? == "on");
    let config = world.container_config("later", &["sleep", "600"]);
    let later = world.up(&pod, &sandbox, config).await?;
    ensure!(
        world
            .machine
            .exists(&format!("/run/second/{later}/state.json"))
    );
    world
        .client
        .stop_container(&id, std::time::Duration::ZERO)
        .await?;
    world.client.remove_container(&id).await?;
    ensure!(!world.machine.exists(&state), "its state is left");
    world.client.stop_pod_sandbox(&pod).await?;
    world.client.remove_pod_sandbox(&pod).await?;
    // Folders of the runtimes' own.
    world.assert_clean(&["/run/second", "/run/ocid/oci"]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_change_does_and_what_is_wrong_changes_nothing() -> Result<()> {
    let world = World::start().await?;
    let pinned = async || -> Result<bool> {
        let answer = world.client.image_status(&world.image, false).await?;
        Ok(answer.image.context("no image")?.pinned)
    };
    ensure!(!pinned().await?);
    let sandbox = world.pod_config("reload");
    let pod = world.run_pod(&sandbox).await?;
    let env = async |name: &str| -> Result<String> {
        let config = world.container_config(name, &["env"]);
        Ok(world.run(&pod, &sandbox, config).await?.0)
    };
    ensure!(!env("before").await?.contains("GIVEN"));

    let good = "[crio.image]\npinned_images = [\"*busybox*\"]\n[crio.runtime]\ndefault_env = [\"GIVEN=1\"]\nabsent_mount_sources_to_reject = [\"/nowhere\"]\n";
    reload(&world, good, DONE)?;
    for key in [
        "`crio.image.pinned_images` has changed and takes effect",
        "`crio.runtime.default_env` has changed and takes effect",
        "`crio.runtime.absent_mount_sources_to_reject` has changed and takes effect",
    ] {
        let output = world.daemon().output();
        ensure!(output.contains(key), "no {key} in\n{output}");
    }
    ensure!(pinned().await?);
    ensure!(env("after").await?.contains("GIVEN=1"));
    let mut config = world.container_config("absent", &["true"]);
    config.mounts = vec![v1::Mount {
        host_path: "/nowhere".to_owned(),
        container_path: "/x".to_owned(),
        ..Default::default()
    }];
    let (refusal, message) = code(world.create(&pod, &sandbox, config).await)?;
    ensure!(message.contains("/nowhere"), "{refusal}: {message}");

    // Wrong in its words, in its values, or in a file that it names: nothing of it counts.
    world
        .machine
        .write("/srv/seccomp.json", "{ nonsense", 0o644)?;
    for (wrong, word) in [
        ("[crio.image\n", "10-test.conf"),
        (
            "[crio.runtime]\ndefault_env = [\"GIVEN=2\"]\nlog_level = \"loud\"\n",
            "log_level",
        ),
        (
            "[crio.runtime]\ndefault_env = [\"GIVEN=2\"]\nseccomp_profile = \"/srv/seccomp.json\"\n",
            "/srv/seccomp.json",
        ),
        (
            "[crio.runtime]\ndefault_env = [\"GIVEN=2\"]\ndefault_capabilities = [\"FLY\"]\n",
            "FLY",
        ),
        (
            "[crio.runtime]\ndefault_env = [\"GIVEN=2\"]\ndefault_mounts_file = \"/nowhere\"\n",
            "/nowhere",
        ),
    ] {
        reload(&world, wrong, REFUSED)?;
        let output = world.daemon().output();
        let said = output.lines().rfind(|line| line.contains(REFUSED));
        ensure!(
            said.is_some_and(|line| line.contains(word)),
            "{word}: {said:?}"
        );
    }
    ensure!(env("still").await?.contains("GIVEN=1") && pinned().await?);

    // A policy, for pulls from here on, and what is only for the next start.
    world.machine.write(
        "/srv/policy.json",
        r#"{"default":[{"type":"reject"}]}"#,
        0o644,
    )?;
    let next = "[crio.image]\nsignature_policy = \"/srv/policy.json\"\n[crio.api]\nstream_port = \"10011\"\n[crio.metrics]\nmetrics_port = 9093\n";
    reload(&world, next, DONE)?;
    for key in ["crio.api.stream_port", "crio.metrics.metrics_port"] {
        let line = format!("`{key}` has changed; it takes effect when the daemon is restarted");
        let output = world.daemon().output();
        ensure!(output.contains(&line), "no {line} in\n{output}");
    }
    let (refusal, _) = code(world.client.pull_image(&world.image, None).await)?;
    ensure!(refusal == Code::PermissionDenied, "{refusal}");
    ensure!(!pinned().await? && !env("unset").await?.contains("GIVEN"));
    world.assert_clean(&[]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_says_whom_a_call_is_about_and_only_what_is_wanted() -> Result<()> {
    let world = World::start().await?;
    let sandbox = world.pod_config("logged");
    let pod = world.run_pod(&sandbox).await?;
    let config = world.container_config("logged", &["true"]);
    let id = world.create(&pod, &sandbox, config).await?;
    world.client.start_container(&id).await?;
    world.ended(&id).await?;
    for parts in [
        vec![
            "run_pod_sandbox{name=\"tests/logged\"",
            &pod,
            "pod is ready",
        ],
        vec!["create_container{", &pod, &id, "container is created"],
        vec!["start_container{", &pod, &id, "container is started"],
    ] {
        // Colours are for terminals.
        eventually(&format!("a line with {parts:?}"), async || {
            let output = world.daemon().output();
            let mut lines = output.lines();
            Ok(lines.any(|line| parts.iter().all(|part| line.contains(*part))))
        })
        .await?;
    }
    // By a beginning of an id the whole one is found.
    let short = &id[..12];
    world
        .client
        .stop_container(short, std::time::Duration::ZERO)
        .await?;
    let refused = world.client.start_container(short).await;
    ensure!(refused.is_err());
    eventually("the refusal in the log", async || {
        let output = world.daemon().output();
        let told = ["refused", "start_container{", &id, &pod];
        let mut lines = output.lines();
        Ok(lines.any(|line| told.iter().all(|part| line.contains(*part))))
    })
    .await?;

    // A module's own level, and lines by what is in them.
    let lines = || world.daemon().output().lines().count();
    let since = |count: usize| -> Vec<String> {
        let output = world.daemon().output();
        output.lines().skip(count).map(str::to_owned).collect()
    };
    let levels = "[crio.runtime]\nlog_level = \"error,sandbox=info,reload=info\"\n";
    reload(&world, levels, DONE)?;
    let before = lines();
    let quiet = world.run_pod(&world.pod_config("quiet")).await?;
    let config = world.container_config("quiet", &["true"]);
    world
        .run(&quiet, &world.pod_config("quiet"), config)
        .await?;
    eventually("the new pod in the log", async || {
        Ok(since(before)
            .iter()
            .any(|line| line.contains("pod is ready")))
    })
    .await?;
    let said = since(before);
    ensure!(
        !said.iter().any(|line| line.contains("container is")),
        "{said:?}"
    );
    reload(
        &world,
        "[crio.runtime]\nlog_filter = \"reloaded|is (removed|gone)\"\n",
        DONE,
    )?;
    let before = lines();
    world.client.stop_pod_sandbox(&quiet).await?;
    world.client.remove_pod_sandbox(&quiet).await?;
    eventually("the removal in the log", async || {
        Ok(since(before).iter().any(|line| line.contains("is removed")))
    })
    .await?;
    let said = since(before);
    ensure!(
        said.iter().all(|line| line.contains("is removed")),
        "{said:?}"
    );
    world.assert_clean(&[]).await
}
