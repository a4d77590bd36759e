//! Paths of the machine in containers: how mounts spread, read-only all the way down, sources that are
//! not there.

use anyhow::{Result, ensure};
use crio_setup::cri::v1;
use tonic::Code;

use crate::world::{World, code};

fn bind(host: &str, container: &str) -> v1::Mount {
    v1::Mount {
        host_path: host.to_owned(),
        container_path: container.to_owned(),
        ..Default::default()
    }
}

fn spreading(how: v1::MountPropagation) -> v1::Mount {
    v1::Mount {
        propagation: how.into(),
        ..bind("/mnt/shared", "/m")
    }
}

/// A container with these mounts, privileged where it is to mount something itself.
fn with(
    mut config: v1::ContainerConfig,
    mounts: Vec<v1::Mount>,
    privileged: bool,
) -> v1::ContainerConfig {
    config.mounts = mounts;
    let security = v1::LinuxContainerSecurityContext {
        privileged,
        ..Default::default()
    };
    config.linux.get_or_insert_default().security_context = Some(security);
    config
}

#[tokio::test]
async fn how_mounts_spread() -> Result<()> {
    let world = World::start().await?;
    let on_machine = |script: &str| world.machine.run(&["sh", "-c", script]);
    on_machine(
        "mkdir -p /mnt/shared && mount -t tmpfs shared /mnt/shared && mount --make-shared /mnt/shared && \
                mkdir /mnt/shared/a /mnt/shared/b /mnt/shared/c",
    )?;
    let mut sandbox = world.pod_config("spread");
    sandbox
        .linux
        .get_or_insert_default()
        .security_context
        .get_or_insert_default()
        .privileged = true;
    let pod = world.run_pod(&sandbox).await?;
    use v1::MountPropagation::{
        PropagationBidirectional, PropagationHostToContainer, PropagationPrivate,
    };
    let mut ids = Vec::new();
    for (name, how) in [
        ("private", PropagationPrivate),
        ("slave", PropagationHostToContainer),
        ("shared", PropagationBidirectional),
    ] {
        let config = world.container_config(name, &["sleep", "600"]);
        let id = world
            .up(&pod, &sandbox, with(config, vec![spreading(how)], true))
            .await?;
        ensure!(world.status(&id).await?.mounts[0].propagation() == how);
        ids.push(id);
    }
    let [private, slave, shared] = &ids[..] else {
        anyhow::bail!("three containers");
    };
    on_machine("mount -t tmpfs later /mnt/shared/a && touch /mnt/shared/a/later")?;
    for (id, seen) in [(private, ""), (slave, "later"), (shared, "later")] {
        ensure!(world.exec(id, &["ls", "/m/a"]).await? == seen, "{seen}");
    }
    world
        .shell(slave, "mount -t tmpfs own /m/b && touch /m/b/own")
        .await?;
    ensure!(
        on_machine("ls /mnt/shared/b")?.is_empty(),
        "a slave's mount came out"
    );
    world
        .shell(shared, "mount -t tmpfs own /m/c && touch /m/c/own")
        .await?;
    ensure!(on_machine("ls /mnt/shared/c")?.trim() == "own");
    ensure!(world.exec(slave, &["ls", "/m/c"]).await? == "own");

    // What is private on the machine cannot spread.
    on_machine("mount --make-private /mnt/shared")?;
    for how in [PropagationHostToContainer, PropagationBidirectional] {
        let config = with(
            world.container_config("bad", &["true"]),
            vec![spreading(how)],
            true,
        );
        let (refused, message) = code(world.create(&pod, &sandbox, config).await)?;
        ensure!(
            refused == Code::FailedPrecondition && message.contains("config.mounts[0].propagation"),
            "{message}"
        );
    }
    world.client.stop_pod_sandbox(&pod).await?;
    on_machine("umount /mnt/shared/a /mnt/shared/c /mnt/shared && rmdir /mnt/shared")?;
    world.assert_clean(&[]).await
}

#[tokio::test]
async fn who_sees_the_whole_machine_does_not_keep_its_mounts() -> Result<()> {
    let world = World::start().await?;
    world.machine.run(&["mount", "--make-rshared", "/"])?;
    let sandbox = world.pod_config("spying");
    let pod = world.run_pod(&sandbox).await?;
    let host = v1::Mount {
        readonly: true,
        ..bind("/", "/host")
    };
    let config = with(
        world.container_config("spy", &["sleep", "600"]),
        vec![host],
        false,
    );
    let spy = world.up(&pod, &sandbox, config).await?;
    let config = world.container_config("other", &["sleep", "600"]);
    let other = world.up(&pod, &sandbox, config).await?;
    let seen = format!("grep -c '{other}/rootfs ' /proc/mounts || true");
    ensure!(world.shell(&spy, &seen).await? == "1");
    world.client.remove_container(&other).await?;
    ensure!(
        world.shell(&spy, &seen).await? == "0",
        "a removed container's root is still mounted"
    );
    world.assert_clean(&[]).await
}

#[tokio::test]
async fn read_only_and_all_the_way_down() -> Result<()> {
    let world = World::start().await?;
    let on_machine = |script: &str| world.machine.run(&["sh", "-c", script]);
    on_machine(
        "mkdir -p /mnt/tree && mount -t tmpfs tree /mnt/tree && mkdir /mnt/tree/below && mount -t tmpfs below /mnt/tree/below",
    )?;
    let status = world.client.status(false).await?;
    let handlers: Vec<(&str, bool)> = status
        .runtime_handlers
        .iter()
        .map(|h| {
            (
                h.name.as_str(),
                h.features.is_some_and(|f| f.recursive_read_only_mounts),
            )
        })
        .collect();
    ensure!(handlers == [("", true), ("runc", true)], "{handlers:?}");
    let sandbox = world.pod_config("tree");
    let pod = world.run_pod(&sandbox).await?;
    let shallow = v1::Mount {
        readonly: true,
        ..bind("/mnt/tree", "/shallow")
    };
    let deep = v1::Mount {
        readonly: true,
        recursive_read_only: true,
        ..bind("/mnt/tree", "/deep")
    };
    let config = with(
        world.container_config("tree", &["sleep", "600"]),
        vec![shallow, deep.clone()],
        false,
    );
    let id = world.up(&pod, &sandbox, config).await?;
    let script = "for d in /shallow /shallow/below /deep /deep/below; do (touch $d/x) 2>/dev/null && echo free || echo kept; done";
    let said = world.shell(&id, script).await?;
    ensure!(said == "kept\nfree\nkept\nkept", "{said}");
    let reported: Vec<bool> = world
        .status(&id)
        .await?
        .mounts
        .iter()
        .map(|m| m.recursive_read_only)
        .collect();
    ensure!(reported == [false, true], "{reported:?}");
    for (mount, part) in [
        (
            v1::Mount {
                readonly: false,
                ..deep.clone()
            },
            "readonly",
        ),
        (
            v1::Mount {
                propagation: v1::MountPropagation::PropagationHostToContainer.into(),
                ..deep
            },
            "private propagation",
        ),
    ] {
        let config = with(world.container_config("bad", &["true"]), vec![mount], false);
        let (refused, message) = code(world.create(&pod, &sandbox, config).await)?;
        ensure!(
            refused == Code::InvalidArgument
                && message.contains("recursive_read_only")
                && message.contains(part),
            "{message}"
        );
    }
    world.client.remove_pod_sandbox(&pod).await?;
    on_machine("umount /mnt/tree/below /mnt/tree && rmdir /mnt/tree")?;
    world.assert_clean(&[]).await
}

#[tokio::test]
async fn sources_that_are_not_there() -> Result<()> {
    let world = World::start().await?;
    let sandbox = world.pod_config("sources");
    let pod = world.run_pod(&sandbox).await?;
    world.machine.run(&["sh", "-c", "mkdir -p /mnt/s && echo text >/mnt/s/file && ln -s file /mnt/s/link && ln -s none /mnt/s/dangling"])?;
    let mounts = vec![
        bind("/mnt/s/made/for/it", "/made"),
        bind("/mnt/s/link", "/file"),
        bind("/mnt/s", "/outer"),
        bind("/mnt/s/made", "/outer/inner/deep"),
    ];
    let config = with(
        world.container_config("mounts", &["sleep", "600"]),
        mounts,
        false,
    );
    let id = world.up(&pod, &sandbox, config).await?;
    let said = world
        .shell(
            &id,
            "touch /made/x; cat /file; ls /outer/inner/deep; ls -A /outer",
        )
        .await?;
    ensure!(
        said == "text\nfor\ndangling\nfile\ninner\nlink\nmade",
        "{said}"
    );
    ensure!(world.machine.exists("/mnt/s/made/for/it/x"));
    for (mount, refused, part) in [
        (
            bind("/mnt/s/dangling", "/x"),
            Code::InvalidArgument,
            "a link to nothing",
        ),
        (bind("mnt", "/x"), Code::InvalidArgument, "host_path"),
        (bind("/mnt", "x"), Code::InvalidArgument, "container_path"),
        (bind("/mnt", "/"), Code::InvalidArgument, "container_path"),
        (
            bind("/mnt", "/a/../../b"),
            Code::InvalidArgument,
            "container_path",
        ),
    ] {
        let config = with(world.container_config("bad", &["true"]), vec![mount], false);
        let (got, message) = code(world.create(&pod, &sandbox, config).await)?;
        ensure!(
            got == refused && message.contains(part),
            "{got:?} {message}"
        );
    }
    world.client.remove_pod_sandbox(&pod).await?;
    world.machine.run(&["rm", "-r", "/mnt/s"])?;
    world.assert_clean(&[]).await
}
