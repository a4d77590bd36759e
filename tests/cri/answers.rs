//! What lists and statuses say: filters, order, times, reasons, and what `crictl inspect` shows.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use crio_setup::cri::v1;
use crio_setup::host::clock::now_ns;
use serde_json::Value;
use tonic::Code;

use crate::world::{World, code, eventually};

fn labels(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    let own = |(k, v): &(&str, &str)| ((*k).to_owned(), (*v).to_owned());
    pairs.iter().map(own).collect()
}

async fn pods(world: &World, filter: v1::PodSandboxFilter) -> Result<Vec<String>> {
    let found = world.client.list_pod_sandboxes(Some(filter)).await?;
    Ok(found.into_iter().map(|pod| pod.id).collect())
}

async fn containers(world: &World, filter: v1::ContainerFilter) -> Result<Vec<String>> {
    let found = world.client.list_containers(Some(filter)).await?;
    Ok(found.into_iter().map(|container| container.id).collect())
}

fn by_id(id: &str) -> v1::ContainerFilter {
    v1::ContainerFilter {
        id: id.to_owned(),
        ..Default::default()
    }
}

fn by_state(state: v1::ContainerState) -> v1::ContainerFilter {
    v1::ContainerFilter {
        state: Some(v1::ContainerStateValue {
            state: state.into(),
        }),
        ..Default::default()
    }
}

fn by_labels(pairs: &[(&str, &str)]) -> v1::ContainerFilter {
    v1::ContainerFilter {
        label_selector: labels(pairs),
        ..Default::default()
    }
}

#[tokio::test]
async fn lists_are_filtered_and_in_order() -> Result<()> {
    let world = World::start().await?;
    let before = now_ns();
    let mut first = world.pod_config("first-one");
    first.labels = labels(&[("app", "web"), ("tier", "front")]);
    let mut second = world.pod_config("second-one");
    second.labels = labels(&[("app", "web")]);
    second.annotations = labels(&[("note", "a note, with = and \"quotes\"")]);
    let a = world.run_pod(&first).await?;
    let b = world.run_pod(&second).await?;
    let all = |filter| pods(&world, filter);

    // Pods: the newest first; an id or its beginning; a state; labels, each of them whole.
    ensure!(all(Default::default()).await? == [b.clone(), a.clone()]);
    for (id, found) in [
        (a.as_str(), vec![a.clone()]),
        (&a[..20], vec![a.clone()]),
        (&a[1..], vec![]),
        ("0123456789abcdef0123", vec![]),
    ] {
        let filter = v1::PodSandboxFilter {
            id: id.to_owned(),
            ..Default::default()
        };
        ensure!(all(filter).await? == found, "{id}");
    }
    for (selector, found) in [
        (vec![("app", "web")], vec![b.clone(), a.clone()]),
        (vec![("app", "web"), ("tier", "front")], vec![a.clone()]),
        (vec![("app", "we")], vec![]),
        (vec![("app", "")], vec![]),
        (vec![("other", "")], vec![]),
    ] {
        let filter = v1::PodSandboxFilter {
            label_selector: labels(&selector),
            ..Default::default()
        };
        ensure!(all(filter).await? == found, "{selector:?}");
    }
    world.client.stop_pod_sandbox(&b).await?;
    for (state, found) in [
        (v1::PodSandboxState::SandboxReady, &a),
        (v1::PodSandboxState::SandboxNotready, &b),
    ] {
        let filter = v1::PodSandboxFilter {
            state: Some(v1::PodSandboxStateValue {
                state: state.into(),
            }),
            ..Default::default()
        };
        ensure!(all(filter).await? == [found.clone()], "{state:?}");
    }
    let listed = world.client.list_pod_sandboxes(None).await?;
    for (item, config) in listed.iter().zip([&second, &first]) {
        let status = world.pod_status(&item.id).await?;
        ensure!((before..now_ns()).contains(&item.created_at), "{item:?}");
        ensure!(item.metadata == config.metadata && status.metadata == config.metadata);
        ensure!(item.labels == config.labels && status.labels == config.labels);
        ensure!(item.annotations == config.annotations && status.annotations == config.annotations);
        ensure!((item.created_at, item.state) == (status.created_at, status.state));
        ensure!(!item.runtime_handler.is_empty() || status.runtime_handler == item.runtime_handler);
    }

    // Containers, the same, and by their pod.
    let mut config = world.container_config("runs", &["sleep", "600"]);
    config.labels = labels(&[("kind", "long"), ("x", "1")]);
    let runs = world.up(&a, &first, config).await?;
    let mut config = world.container_config("waits", &["sleep", "600"]);
    config.labels = labels(&[("kind", "long")]);
    let waits = world.create(&a, &first, config).await?;
    let mut config = world.container_config("ended", &["true"]);
    config.metadata = Some(v1::ContainerMetadata {
        name: "ended".to_owned(),
        attempt: 3,
    });
    config.annotations = labels(&[("note", "again")]);
    let ended = world.up(&a, &first, config.clone()).await?;
    let status = world.ended(&ended).await?;
    ensure!(status.metadata == config.metadata && status.annotations == config.annotations);
    let (long, exited) = (vec![waits.clone(), runs.clone()], vec![ended.clone()]);
    let everything = vec![ended.clone(), waits.clone(), runs.clone()];
    let with_pod = |id: &str, pod: &str| v1::ContainerFilter {
        pod_sandbox_id: pod.to_owned(),
        ..by_id(id)
    };
    for (filter, found) in [
        (Default::default(), everything.clone()),
        (by_id(&waits), vec![waits.clone()]),
        (by_id(&waits[..16]), vec![waits.clone()]),
        (by_id("0123456789abcdef0123"), vec![]),
        (
            by_state(v1::ContainerState::ContainerRunning),
            vec![runs.clone()],
        ),
        (
            by_state(v1::ContainerState::ContainerCreated),
            vec![waits.clone()],
        ),
        (by_state(v1::ContainerState::ContainerExited), exited),
        (by_state(v1::ContainerState::ContainerUnknown), vec![]),
        (by_labels(&[("kind", "long")]), long),
        (
            by_labels(&[("kind", "long"), ("x", "1")]),
            vec![runs.clone()],
        ),
        (by_labels(&[("kind", "lon")]), vec![]),
        (with_pod("", &a), everything),
        (
            with_pod("", &a[..16]),
            vec![ended.clone(), waits.clone(), runs.clone()],
        ),
        (with_pod("", &b), vec![]),
        (with_pod(&waits, &a), vec![waits.clone()]),
        (with_pod(&waits, &b), vec![]),
        (with_pod("", "0123456789abcdef0123"), vec![]),
    ] {
        let said = format!("{filter:?}");
        ensure!(containers(&world, filter).await? == found, "{said}");
    }
    let answer = world.client.pod_sandbox_status(&a, false).await?;
    let told: Vec<_> = answer
        .containers_statuses
        .iter()
        .map(|c| c.id.clone())
        .collect();
    ensure!(
        told == [ended.clone(), waits.clone(), runs.clone()],
        "{told:?}"
    );
    ensure!((before..=now_ns()).contains(&answer.timestamp));
    ensure!(answer.info.is_empty());
    ensure!(answer.containers_statuses[2] == world.status(&runs).await?);

    // Short ids name things in every call, and what nobody knows is gone already.
    ensure!(world.status(&runs[..16]).await?.id == runs);
    world
        .client
        .stop_container(&runs[..16], Duration::ZERO)
        .await?;
    for id in [runs.as_str(), "0123456789abcdef0123"] {
        world.client.stop_container(id, Duration::ZERO).await?;
        world.client.remove_container(id).await?;
        world.client.remove_container(id).await?;
        let (code_, message) = code(world.client.container_status(id, false).await)?;
        ensure!(code_ == Code::NotFound && message.contains(id), "{message}");
    }
    for id in [b.as_str(), "0123456789abcdef0123"] {
        world.client.stop_pod_sandbox(id).await?;
        world.client.stop_pod_sandbox(id).await?;
        world.client.remove_pod_sandbox(id).await?;
        world.client.remove_pod_sandbox(id).await?;
        let (code_, message) = code(world.client.pod_sandbox_status(id, false).await)?;
        ensure!(code_ == Code::NotFound && message.contains(id), "{message}");
    }
    world.assert_clean(&[]).await
}

/// Refuses to start anything, as a runtime does whose hook fails: the container's process is killed.
const BROKEN: &str = r#"#!/bin/sh
for last; do :; done
case " $* " in
*" start "*)
    /usr/sbin/runc "$1" "$2" kill "$last" KILL
    echo '{"level":"error","msg":"runc start: the hook said no"}' >&2
    exit 1 ;;
esac
exec /usr/sbin/runc "$@"
"#;

#[tokio::test]
async fn an_end_has_its_reason_code_and_times() -> Result<()> {
    let config = "[crio.runtime.runtimes.runc]\n[crio.runtime.runtimes.broken]\nruntime_path = \"/srv/broken\"\n";
    let machine = crate::support::Machine::start()?;
    machine.write("/srv/broken", BROKEN, 0o755)?;
    let world = World::on(machine, &[("/etc/ocid/ocid.conf.d/10-test.conf", config)]).await?;
    let sandbox = world.pod_config("ends");
    let pod = world.run_pod(&sandbox).await?;
    let before = now_ns();

    for (name, script, exit_code, reason) in [
        ("good", "exit 0", 0, "Completed"),
        ("bad", "exit 3", 3, "Error"),
        ("worse", "exit 255", 255, "Error"),
    ] {
        let config = world.container_config(name, &["sh", "-c", script]);
        let (_, status) = world.run(&pod, &sandbox, config).await?;
        ensure!(
            (status.exit_code, status.reason.as_str()) == (exit_code, reason),
            "{status:?}"
        );
        ensure!(status.message.is_empty(), "{status:?}");
        let times = [
            before,
            status.created_at,
            status.started_at,
            status.finished_at,
            now_ns(),
        ];
        ensure!(times.is_sorted(), "{times:?}");
    }

    // While it runs nothing of its end is said; a kill is an error with the signal's code.
    let config = world.container_config("killed", &["sleep", "600"]);
    let id = world.create(&pod, &sandbox, config).await?;
    let status = world.status(&id).await?;
    ensure!(
        status.state() == v1::ContainerState::ContainerCreated,
        "{status:?}"
    );
    ensure!(
        (status.started_at, status.finished_at) == (0, 0),
        "{status:?}"
    );
    world.client.start_container(&id).await?;
    let status = world.status(&id).await?;
    ensure!(
        status.state() == v1::ContainerState::ContainerRunning,
        "{status:?}"
    );
    ensure!(
        status.finished_at == 0 && status.reason.is_empty(),
        "{status:?}"
    );
    world.client.stop_container(&id, Duration::ZERO).await?;
    let status = world.ended(&id).await?;
    ensure!(
        (status.exit_code, status.reason.as_str()) == (137, "Error"),
        "{status:?}"
    );
    let (code_, message) = code(world.client.start_container(&id).await)?;
    ensure!(
        code_ == Code::FailedPrecondition && message.contains("exited"),
        "{message}"
    );

    // Memory.
    let mut config = world.container_config(
        "hungry",
        &["dd", "if=/dev/zero", "of=/dev/null", "bs=100M", "count=1"],
    );
    if let Some(linux) = &mut config.linux {
        linux.resources = Some(v1::LinuxContainerResources {
            memory_limit_in_bytes: 16 << 20,
            ..Default::default()
        });
    }
    let (_, status) = world.run(&pod, &sandbox, config).await?;
    ensure!(
        (status.exit_code, status.reason.as_str()) == (137, "OOMKilled"),
        "{status:?}"
    );

    // What cannot run is refused at its creation where that can be seen, and leaves nothing.
    let here = world.client.list_containers(None).await?.len();
    for command in ["no-such-program", "/etc/passwd", "/tmp"] {
        let config = world.container_config("cannot", &[command]);
        let (code_, message) = code(world.create(&pod, &sandbox, config).await)?;
        ensure!(
            code_ == Code::InvalidArgument && message.contains(command),
            "{code_}: {message}"
        );
    }
    ensure!(world.client.list_containers(None).await?.len() == here);

    // And at its start else: that call says why, and so does the status ever after.
    let broken = world.pod_config("broken");
    let broken_pod = world
        .client
        .run_pod_sandbox(broken.clone(), "broken")
        .await?;
    let config = world.container_config("refused", &["sleep", "600"]);
    let id = world.create(&broken_pod, &broken, config).await?;
    let (code_, message) = code(world.client.start_container(&id).await)?;
    ensure!(
        code_ == Code::Internal && message.contains("the hook said no"),
        "{code_}: {message}"
    );
    let status = world.ended(&id).await?;
    ensure!(status.reason == "ContainerCannotRun", "{status:?}");
    ensure!(status.message.contains("the hook said no"), "{status:?}");
    ensure!(
        status.exit_code != 0 && status.started_at == 0,
        "{status:?}"
    );
    world.assert_clean(&["/run/ocid/oci/broken"]).await
}

fn parsed(info: &HashMap<String, String>, key: &str) -> Result<Value> {
    let text = info
        .get(key)
        .with_context(|| format!("no `{key}`: {info:?}"))?;
    Ok(serde_json::from_str(text)?)
}

#[tokio::test]
async fn verbose_answers_show_what_crictl_looks_for() -> Result<()> {
    let world = World::start().await?;
    let mut sandbox = world.pod_config("shown");
    sandbox.hostname = "shown-host".to_owned();
    let pod = world.run_pod(&sandbox).await?;
    let mut config = world.container_config("shown", &["sleep", "600"]);
    config.envs = vec![v1::KeyValue {
        key: "A".to_owned(),
        value: b"b".to_vec(),
    }];
    let id = world.up(&pod, &sandbox, config).await?;

    // crictl inspect.
    let answer = world.client.container_status(&id, true).await?;
    let info = parsed(&answer.info, "info")?;
    ensure!(
        info["sandboxID"] == pod.as_str() && info["privileged"] == false,
        "{info}"
    );
    let pid = info["pid"].as_i64().context("no pid")?;
    eventually("the process is the container's own program", async || {
        let command = world.machine.read(&format!("/proc/{pid}/cmdline"))?;
        Ok(command == "sleep\x00600\0")
    })
    .await?;
    let spec = &info["runtimeSpec"];
    ensure!(
        spec["process"]["args"] == serde_json::json!(["sleep", "600"]),
        "{spec}"
    );
    let env = spec["process"]["env"].as_array().context("no env")?;
    ensure!(env.iter().any(|e| e == "A=b"), "{env:?}");
    ensure!(info["config"]["metadata"]["name"] == "shown", "{info}");
    ensure!(answer.status == Some(world.status(&id).await?));

    // crictl inspectp: the namespaces' paths are those that the container is in.
    let answer = world.client.pod_sandbox_status(&pod, true).await?;
    let info = parsed(&answer.info, "info")?;
    let namespaces = info["runtimeSpec"]["linux"]["namespaces"]
        .as_array()
        .context("no namespaces")?;
    let path = |kind: &str| {
        let found = namespaces.iter().find(|n| n["type"] == kind)?;
        found["path"].as_str().map(str::to_owned)
    };
    for (kind, link) in [("network", "net"), ("uts", "uts"), ("ipc", "ipc")] {
        let pinned = path(kind).with_context(|| format!("no path of `{kind}`"))?;
        let inode = |path: &str| world.machine.run(&["stat", "-L", "-c", "%i", path]);
        let own = format!("/proc/{pid}/ns/{link}");
        ensure!(
            inode(&pinned)? == inode(&own)?,
            "`{pinned}` is not the container's"
        );
    }
    ensure!(path("pid").is_none(), "{namespaces:?}");
    ensure!(info["runtimeSpec"]["hostname"] == "shown-host", "{info}");
    let ip = answer
        .status
        .and_then(|s| s.network)
        .context("no network")?
        .ip;
    let address = info["cniResult"]["ips"][0]["address"]
        .as_str()
        .unwrap_or_default();
    ensure!(
        !ip.is_empty() && address.starts_with(&format!("{ip}/")),
        "{info}"
    );
    ensure!(info["config"]["metadata"]["name"] == "shown", "{info}");

    // crictl inspecti.
    let answer = world.client.image_status(&world.image, true).await?;
    let info = parsed(&answer.info, "info")?;
    ensure!(
        info["imageSpec"]["config"]["Cmd"] == serde_json::json!(["sh"]),
        "{info}"
    );
    ensure!(info["imageSpec"]["os"] == "linux", "{info}");

    // crictl info.
    let answer = world.client.status(true).await?;
    let info = parsed(&answer.info, "config")?;
    ensure!(
        info["root"] == "/var/lib/ocid" && info["runroot"] == "/run/ocid",
        "{info}"
    );
    ensure!(
        info["cgroupManager"] == "cgroupfs" && info["pods"] == 1,
        "{info}"
    );
    let conditions = answer.status.context("no status")?.conditions;
    ensure!(
        conditions.iter().all(|c| c.status) && conditions.len() == 2,
        "{conditions:?}"
    );

    // Only who asks gets it, and what has ended has no process.
    ensure!(world.client.status(false).await?.info.is_empty());
    ensure!(
        world
            .client
            .image_status(&world.image, false)
            .await?
            .info
            .is_empty()
    );
    ensure!(
        world
            .client
            .container_status(&id, false)
            .await?
            .info
            .is_empty()
    );
    world.client.stop_container(&id, Duration::ZERO).await?;
    let answer = world.client.container_status(&id, true).await?;
    let info = parsed(&answer.info, "info")?;
    ensure!(
        info["pid"] == 0 && info["runtimeSpec"]["process"].is_object(),
        "{info}"
    );

    // A pod with a process of its own shows its PID namespace.
    let mut shared = world.pod_config("shared");
    shared.linux = None;
    let pod = world.run_pod(&shared).await?;
    let answer = world.client.pod_sandbox_status(&pod, true).await?;
    let info = parsed(&answer.info, "info")?;
    let pid = info["pid"].as_i64().context("no pid")?;
    ensure!(pid > 0, "{info}");
    let namespaces = info["runtimeSpec"]["linux"]["namespaces"]
        .as_array()
        .context("no namespaces")?;
    let path = format!("/proc/{pid}/ns/pid");
    ensure!(
        namespaces
            .iter()
            .any(|n| n["type"] == "pid" && n["path"] == path.as_str()),
        "{info}"
    );
    world.assert_clean(&[]).await
}
