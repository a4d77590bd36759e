//! CheckpointContainer with the real runtime and the real criu: nothing that runs notices, and what was written can be
//! restored. `CRIO_SETUP_TEST_CRIU` names another criu than the distribution's, which may be too old for the kernel.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use crio_setup::cri::v1;
use tonic::Code;

use crate::checkpoint::{is_well, nothing_left, unpack};
use crate::pods::{namespaces, userns};
use crate::support::{Machine, skip};
use crate::world::{World, code, eventually};

/// Counts, answers on a FIFO, and holds a connection whose other end is outside the container.
const PROGRAM: &str = "mkfifo /tmp/f /tmp/out; exec 3<>/tmp/f 4<>/tmp/out; nc -l -p 80 <&4 >/tmp/in & \
    echo here; while read x <&3; do n=$((n+1)); echo $n >/tmp/count; echo got $x; done";
const LOCATION: &str = "/checkpoints/c.tar";

/// A world with a criu that can work on this kernel; none is said and counted.
async fn world() -> Result<Option<World>> {
    let machine = Machine::start()?;
    if let Some(criu) = std::env::var_os("CRIO_SETUP_TEST_CRIU") {
        machine.write("/usr/local/sbin/criu", std::fs::read(criu)?, 0o755)?;
    }
    let check = machine.output(&["sh", "-c", "criu check 2>&1"])?;
    if !check.status.success() {
        let why = check.text();
        skip(
            "checkpoints by criu",
            why.lines().next().unwrap_or_default(),
        );
        return Ok(None);
    }
    machine.run(&["mkdir", "/checkpoints"])?;
    Ok(Some(World::on(machine, &[]).await?))
}

async fn said(world: &World, id: &str, word: &str) -> Result<()> {
    let log = world.machine.path(&world.status(id).await?.log_path);
    eventually(&format!("it says `{word}`"), async || {
        Ok(std::fs::read_to_string(&log)?.contains(word))
    })
    .await
}

async fn count(world: &World, id: &str) -> Result<String> {
    world.exec(id, &["cat", "/tmp/count"]).await
}

/// A connection from the machine to a container's port 80.
struct Connection<'a> {
    world: &'a World,
    id: &'a str,
    folder: &'static str,
}

impl<'a> Connection<'a> {
    async fn open(world: &'a World, pod: &str, id: &'a str) -> Result<Self> {
        let ip = world
            .pod_status(pod)
            .await?
            .network
            .context("no network")?
            .ip;
        let folder = "/srv/connection";
        let script = format!(
            "mkdir -p {folder}; cd {folder}; rm -f *; mkfifo in; \
             (exec 4<>in; exec busybox nc {ip} 80 <&4 >out 2>err) >/dev/null 2>&1 & "
        );
        world.machine.run(&["sh", "-c", &script])?;
        let connection = Self { world, id, folder };
        connection.carries("first").await?;
        Ok(connection)
    }

    /// Both ways.
    async fn carries(&self, word: &str) -> Result<()> {
        let (world, folder) = (self.world, self.folder);
        world
            .machine
            .run(&["sh", "-c", &format!("echo to-{word} >{folder}/in")])?;
        world
            .shell(self.id, &format!("echo from-{word} >/tmp/out"))
            .await?;
        eventually(&format!("`{word}` is here"), async || {
            let out = std::fs::read_to_string(world.machine.path(format!("{folder}/out")))?;
            Ok(out.contains(&format!("from-{word}")))
        })
        .await?;
        eventually(&format!("`{word}` is there"), async || {
            let inside = world.exec(self.id, &["cat", "/tmp/in"]).await?;
            Ok(inside.contains(&format!("to-{word}")))
        })
        .await
    }
}

async fn take(
    world: &World,
    id: &str,
    limit: u64,
) -> Result<(), crio_setup::ocic::client::ClientError> {
    let limit = Duration::from_secs(limit);
    world.client.checkpoint_container(id, LOCATION, limit).await
}

#[tokio::test]
async fn a_container_does_not_notice_and_can_be_restored() -> Result<()> {
    let Some(world) = world().await? else {
        return Ok(());
    };
    let sandbox = world.pod_config("subject");
    let pod = world.run_pod(&sandbox).await?;
    let config = world.container_config("subject", &["sh", "-c", PROGRAM]);
    let id = world.up(&pod, &sandbox, config.clone()).await?;
    said(&world, &id, "here").await?;
    is_well(&world, &id).await?;
    let connection = Connection::open(&world, &pod, &id).await?;
    let pid = world.exec(&id, &["cat", "/proc/1/stat"]).await?;
    take(&world, &id, 0).await?;
    connection.carries("second").await?;
    is_well(&world, &id).await?;
    nothing_left(&world, "/checkpoints", 1).await?;
    let start = |stat: &str| stat.split(' ').nth(21).map(str::to_owned);
    let now = world.exec(&id, &["cat", "/proc/1/stat"]).await?;
    ensure!(start(&now) == start(&pid), "another process: {pid} {now}");

    let files = unpack(&std::fs::read(world.machine.path(LOCATION))?)?;
    for name in [
        "inventory.img",
        "pstree.img",
        "core-1.img",
        "pages-1.img",
        "descriptors.json",
    ] {
        ensure!(
            files.contains_key(&format!("checkpoint/{name}")),
            "{:?}",
            files.keys()
        );
    }
    for name in ["stats-dump", "dump.log", "rootfs-diff.tar"] {
        ensure!(
            files.get(name).is_some_and(|file| !file.is_empty()),
            "{name}"
        );
    }
    // The count stands at 1 in the checkpoint, and at 2 in the container, which ends now.
    ensure!(count(&world, &id).await? == "2");
    world.client.stop_container(&id, Duration::ZERO).await?;
    restored(&world, &pod, &sandbox, config).await?;
    world
        .assert_clean(&["/checkpoints", "/srv/connection", "/srv/restored"])
        .await
}

/// Goes on with the checkpoint in the place of a container that was made and not started, by runc's own means; in a
/// cgroup beside that one's, which newer runc wants to be empty.
async fn restored(
    world: &World,
    pod: &str,
    sandbox: &v1::PodSandboxConfig,
    mut config: v1::ContainerConfig,
) -> Result<()> {
    config.metadata = Some(v1::ContainerMetadata {
        name: "second".to_owned(),
        attempt: 1,
    });
    let id = world.create(pod, sandbox, config).await?;
    let script = format!(
        "set -e; mkdir /srv/restored; cd /srv/restored; tar -xf {LOCATION}; \
         bundle=/run/ocid/containers/{id}; tar -xf rootfs-diff.tar -C $bundle/rootfs; \
         sed 's|\"cgroupsPath\": *\"[^\"]*|&-restored|' $bundle/config.json >config.json; \
         grep -q -e -restored config.json; ln -s $bundle/rootfs rootfs; mkfifo said; (cat said >output) & \
         runc --root /srv/restored/state restore --detach --tcp-established --file-locks --image-path checkpoint --work-path . \
            --bundle . restored </dev/null >said 2>&1 || {{ cat output restore.log; exit 1; }}"
    );
    world.machine.run(&["sh", "-c", &script])?;
    let exec = |script: &str| {
        let runc = [
            "runc",
            "--root",
            "/srv/restored/state",
            "exec",
            "restored",
            "sh",
            "-c",
            script,
        ];
        world.machine.run(&runc)
    };
    ensure!(exec("cat /tmp/count")? == "1");
    exec("echo more >/tmp/f")?;
    eventually("it goes on", async || Ok(exec("cat /tmp/count")? == "2")).await?;
    world.machine.run(&[
        "runc",
        "--root",
        "/srv/restored/state",
        "delete",
        "--force",
        "restored",
    ])?;
    Ok(())
}

#[tokio::test]
async fn containers_of_every_kind_are_dumped() -> Result<()> {
    let Some(world) = world().await? else {
        return Ok(());
    };
    let own = world.pod_config("own");
    let mut shared = world.pod_config("shared");
    shared.linux = Some(v1::LinuxPodSandboxConfig::default());
    let mut host = world.pod_config("host");
    if let Some(linux) = &mut host.linux {
        linux.security_context = Some(v1::LinuxSandboxSecurityContext {
            privileged: true,
            namespace_options: Some(v1::NamespaceOption {
                network: v1::NamespaceMode::Node.into(),
                pid: v1::NamespaceMode::Container.into(),
                ..Default::default()
            }),
            ..Default::default()
        });
    }
    let mut users = world.pod_config("users");
    namespaces(&mut users).userns_options = Some(userns());
    let mut told = Vec::new();
    for (kind, sandbox) in [
        ("plain", &own),
        ("tty", &own),
        ("stdin", &own),
        ("read-only", &own),
        ("shared-pid", &shared),
        ("users", &users),
        ("host-network", &host),
        ("privileged", &host),
    ] {
        let mut sandbox = sandbox.clone();
        if let Some(metadata) = &mut sandbox.metadata {
            metadata.name = kind.to_owned();
        }
        let pod = world.run_pod(&sandbox).await?;
        let script =
            "mkfifo /tmp/f; exec 3<>/tmp/f; echo here; while read x <&3; do echo got $x; done";
        let mut config = world.container_config(kind, &["sh", "-c", script]);
        config.tty = kind == "tty";
        config.stdin = matches!(kind, "tty" | "stdin");
        let security = v1::LinuxContainerSecurityContext {
            privileged: kind == "privileged",
            readonly_rootfs: kind == "read-only",
            namespace_options: sandbox
                .linux
                .as_ref()
                .and_then(|linux| linux.security_context.as_ref()?.namespace_options.clone()),
            ..Default::default()
        };
        if kind == "read-only" {
            world.machine.run(&["mkdir", "-p", "/srv/tmp"])?;
            config.mounts.push(v1::Mount {
                container_path: "/tmp".to_owned(),
                host_path: "/srv/tmp".to_owned(),
                ..Default::default()
            });
        }
        config.linux = Some(v1::LinuxContainerConfig {
            security_context: Some(security),
            ..Default::default()
        });
        let id = world.up(&pod, &sandbox, config).await?;
        said(&world, &id, "here").await?;
        if let Err(error) = take(&world, &id, 0).await {
            told.push(format!("{kind}: {error}"));
        }
        is_well(&world, &id)
            .await
            .with_context(|| kind.to_owned())?;
    }
    ensure!(told.is_empty(), "{}", told.join("\n"));
    nothing_left(&world, "/checkpoints", 1).await?;
    world.assert_clean(&["/checkpoints", "/srv/tmp"]).await
}

#[tokio::test]
async fn a_dump_that_is_cut_off_leaves_processes_and_network_well() -> Result<()> {
    let Some(world) = world().await? else {
        return Ok(());
    };
    let sandbox = world.pod_config("subject");
    let pod = world.run_pod(&sandbox).await?;
    let config = world.container_config("subject", &["sh", "-c", PROGRAM]);
    let id = world.up(&pod, &sandbox, config).await?;
    said(&world, &id, "here").await?;
    is_well(&world, &id).await?;
    let connection = Connection::open(&world, &pod, &id).await?;
    let rules = || {
        let net = format!("--net=/run/ocid/ns/{pod}/net");
        world.machine.run(&["nsenter", &net, "iptables-save"])
    };
    let before = rules()?;
    // criu waits for its own hook, with the network locked and every process in its hands.
    let hook = "#!/bin/sh\n[ \"$CRTOOLS_SCRIPT_ACTION\" != post-dump ] || { : >/checkpoints/hook; sleep 77777; }\n";
    world.machine.write("/srv/hook", hook, 0o755)?;
    world
        .machine
        .write("/etc/criu/runc.conf", "action-script /srv/hook\n", 0o644)?;
    let (got, message) = code(take(&world, &id, 5).await)?;
    ensure!(got == Code::DeadlineExceeded, "{got:?} {message}");
    let reached = world.machine.path("/checkpoints/hook");
    ensure!(Path::new(&reached).exists(), "criu did not come that far");
    std::fs::remove_file(reached)?;
    nothing_left(&world, "/checkpoints", 0).await?;
    is_well(&world, &id).await?;
    let after = rules()?;
    // Looking at rules makes an empty table.
    let told = |text: &str| -> Vec<String> {
        let lines = text
            .lines()
            .filter(|line| line.starts_with('-') || line.contains("CRIU"));
        lines.map(str::to_owned).collect()
    };
    ensure!(told(&before) == told(&after), "{before}\n{after}");
    connection.carries("after").await?;
    // And the next one goes well.
    std::fs::remove_file(world.machine.path("/etc/criu/runc.conf"))?;
    take(&world, &id, 0).await?;
    connection.carries("at last").await?;
    is_well(&world, &id).await?;
    world
        .assert_clean(&["/checkpoints", "/srv/connection", "/srv/hook", "/etc/criu"])
        .await
}
