//! What a container executes, where, with which variables and as whom: its config against its image.

use anyhow::{Result, ensure};
use crio_setup::cri::v1;
use serde_json::{Value, json};
use tonic::Code;

use crate::support::image::{Compression, Layer, assemble};
use crate::world::{World, busybox, code};

/// Pushes and pulls the test image with another configuration.
async fn image(world: &World, name: &str, config: Value) -> Result<String> {
    let image = busybox(config)?;
    let reference = world
        .registry
        .push(&world.machine, &format!("library/{name}"), "1", &image)?;
    world.client.pull_image(&reference, None).await?;
    Ok(reference)
}

fn secure(
    mut config: v1::ContainerConfig,
    security: v1::LinuxContainerSecurityContext,
) -> v1::ContainerConfig {
    config.linux.get_or_insert_default().security_context = Some(security);
    config
}

fn id(value: i64) -> Option<v1::Int64Value> {
    Some(v1::Int64Value { value })
}

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

#[tokio::test]
async fn command_variables_and_folder() -> Result<()> {
    let world = World::start().await?;
    let config = json!({
        "Entrypoint": ["echo", "entry"], "Cmd": ["of", "image"],
        "Env": ["PATH=/bin", "A=image", "B=x=y"], "WorkingDir": "/data/deep",
        "Volumes": { "/vol": {} }, "User": "worker",
    });
    let image = image(&world, "words", config).await?;
    let sandbox = world.pod_config("words");
    let pod = world.run_pod(&sandbox).await?;
    let mut number = 0;
    let mut config = |command: &str, args: &str| {
        number += 1;
        let mut config = world.container_config(&format!("c{number}"), &[]);
        config.image.get_or_insert_default().image = image.clone();
        config.command = words(command);
        config.args = words(args);
        config
    };
    for (command, args, printed) in [
        ("", "", "entry of image"),
        ("", "own args", "entry own args"),
        ("echo only", "", "only"),
        ("echo both", "of them", "both of them"),
    ] {
        let (said, status) = world.run(&pod, &sandbox, config(command, args)).await?;
        ensure!(
            (said.as_str(), status.exit_code) == (printed, 0),
            "{said}: {status:?}"
        );
    }
    let mut own = config("sleep 600", "");
    let pair = |key: &str, value: &[u8]| v1::KeyValue {
        key: key.to_owned(),
        value: value.to_vec(),
    };
    own.envs = vec![
        pair("A", b"config"),
        pair("EMPTY", b""),
        pair("LINES", b"1\n2"),
    ];
    let running = world.up(&pod, &sandbox, own).await?;
    let env = world
        .shell(&running, "echo $A.$B.${EMPTY-unset}.; echo \"$LINES\"; pwd")
        .await?;
    ensure!(env == "config.x=y..\n1\n2\n/data/deep", "{env}");
    ensure!(
        world
            .shell(&running, "hostname; echo $HOSTNAME")
            .await?
            .lines()
            .collect::<std::collections::BTreeSet<_>>()
            .len()
            == 1
    );
    // A volume of the image is a folder that belongs to whom the container runs as.
    ensure!(
        world
            .exec(&running, &["stat", "-c", "%u:%g", "/vol"])
            .await?
            == "1234:1235"
    );

    let mut own = config("pwd", "");
    own.working_dir = "/made/for/it".to_owned();
    let (said, _) = world.run(&pod, &sandbox, own).await?;
    ensure!(said == "/made/for/it", "{said}");
    // What does not exist is said at the start or before, and the container can be removed.
    let own = config("/no/such/program", "");
    let (refused, message) = code(world.up(&pod, &sandbox, own).await)?;
    ensure!(
        refused == Code::InvalidArgument && message.contains("/no/such/program"),
        "{message}"
    );
    world.client.remove_image(&image).await?;
    world.assert_clean(&[]).await
}

#[tokio::test]
async fn users_and_groups() -> Result<()> {
    let world = World::start().await?;
    let sandbox = world.pod_config("users");
    let pod = world.run_pod(&sandbox).await?;
    let strict = v1::SupplementalGroupsPolicy::Strict.into();
    let by_name = |name: &str| v1::LinuxContainerSecurityContext {
        run_as_username: name.to_owned(),
        ..Default::default()
    };
    let by_uid = |uid| v1::LinuxContainerSecurityContext {
        run_as_user: id(uid),
        ..Default::default()
    };
    let cases = [
        (v1::LinuxContainerSecurityContext::default(), 0, 0, vec![0]),
        // The image's group file has `extra` for `worker`.
        (by_name("worker"), 1234, 1235, vec![1235, 4321]),
        (by_uid(1234), 1234, 1235, vec![1235, 4321]),
        (by_uid(77), 77, 0, vec![0]),
        (
            v1::LinuxContainerSecurityContext {
                run_as_group: id(99),
                supplemental_groups: vec![7, 4321, 7],
                ..by_name("worker")
            },
            1234,
            99,
            vec![99, 4321, 7],
        ),
        (
            v1::LinuxContainerSecurityContext {
                supplemental_groups: vec![7],
                supplemental_groups_policy: strict,
                ..by_uid(1234)
            },
            1234,
            1235,
            vec![1235, 7],
        ),
    ];
    for (i, (security, uid, gid, groups)) in cases.into_iter().enumerate() {
        let config = world.container_config(
            &format!("c{i}"),
            &["sh", "-c", "id -u; id -g; id -G; cat /proc/self/status"],
        );
        let (said, status) = world.run(&pod, &sandbox, secure(config, security)).await?;
        let mut lines = said.lines();
        let (u, g) = (lines.next(), lines.next());
        let numbers = (uid.to_string(), gid.to_string());
        ensure!(
            (u, g) == (Some(numbers.0.as_str()), Some(numbers.1.as_str())),
            "{i}: {said}"
        );
        let line = said
            .lines()
            .find_map(|l| l.strip_prefix("Groups:"))
            .unwrap_or_default();
        let mut kernel: Vec<i64> = line
            .split_whitespace()
            .filter_map(|n| n.parse().ok())
            .collect();
        let mut sorted = groups.clone();
        kernel.sort();
        sorted.sort();
        ensure!(kernel == sorted, "{i}: {line}");
        let user = status.user.and_then(|u| u.linux).unwrap_or_default();
        ensure!(
            (user.uid, user.gid, &user.supplemental_groups) == (uid, gid, &groups),
            "{i}: {user:?}"
        );
    }

    // A user that the image does not know has a name and a home all the same.
    let config = world.container_config("unknown", &["sleep", "600"]);
    let mut config = secure(
        config,
        v1::LinuxContainerSecurityContext {
            run_as_group: id(2000),
            ..by_uid(1000)
        },
    );
    config.working_dir = "/tmp".to_owned();
    let unknown = world.up(&pod, &sandbox, config).await?;
    ensure!(world.shell(&unknown, "id -un; id -gn; echo $HOME").await? == "1000\n2000\n/tmp");
    let passwd = world.exec(&unknown, &["cat", "/etc/passwd"]).await?;
    ensure!(
        passwd.ends_with("1000:x:1000:2000:1000 user:/tmp:/sbin/nologin")
            && passwd.starts_with("root:"),
        "{passwd}"
    );
    // Not where the user has a mount of its own there.
    world
        .machine
        .write("/mnt/passwd", "root:x:0:0::/:\n", 0o644)?;
    let mut config = secure(
        world.container_config("own", &["cat", "/etc/passwd"]),
        by_uid(1000),
    );
    config.mounts = vec![v1::Mount {
        container_path: "/etc/passwd".to_owned(),
        host_path: "/mnt/passwd".to_owned(),
        ..Default::default()
    }];
    let (said, _) = world.run(&pod, &sandbox, config).await?;
    ensure!(said == "root:x:0:0::/:", "{said}");

    let bad = secure(
        world.container_config("bad", &["true"]),
        by_name("nobody-here"),
    );
    let (refused, message) = code(world.create(&pod, &sandbox, bad).await)?;
    ensure!(
        refused == Code::InvalidArgument && message.contains("`nobody-here`"),
        "{message}"
    );
    world.machine.run(&["rm", "/mnt/passwd"])?;
    world.assert_clean(&[]).await
}

#[tokio::test]
async fn an_images_links_do_not_lead_out() -> Result<()> {
    let world = World::start().await?;
    // The machine's own passwd has users that the image's must not get from it.
    world
        .machine
        .write("/srv/evil/passwd", "intruder:x:0:0::/:\n", 0o644)?;
    let mut layer = Layer::default();
    layer.file("/bin/busybox", 0o755, &std::fs::read("/bin/busybox")?)?;
    layer.symlink("/bin/sh", "busybox")?;
    layer.symlink("/etc/passwd", "/../../../../../srv/evil/passwd")?;
    layer.symlink("/etc/group", "/proc/self/root/etc/group")?;
    layer.symlink("/work", "/../../../../../srv/evil")?;
    let hostile = assemble(
        vec![layer.finish(Compression::Gzip)?],
        json!({ "Cmd": ["sh"], "Env": ["PATH=/bin"], "WorkingDir": "/work/made" }),
    )?;
    let hostile = world
        .registry
        .push(&world.machine, "library/hostile", "1", &hostile)?;
    world.client.pull_image(&hostile, None).await?;
    let sandbox = world.pod_config("hostile");
    let pod = world.run_pod(&sandbox).await?;
    let config = |name: &str, security| {
        let mut config = secure(world.container_config(name, &["sh", "-c", "pwd"]), security);
        config.image.get_or_insert_default().image = hostile.clone();
        config
    };
    let intruder = v1::LinuxContainerSecurityContext {
        run_as_username: "intruder".to_owned(),
        ..Default::default()
    };
    let (refused, message) = code(
        world
            .create(&pod, &sandbox, config("named", intruder))
            .await,
    )?;
    ensure!(
        refused == Code::InvalidArgument && message.contains("`intruder`"),
        "{message}"
    );
    let by_uid = v1::LinuxContainerSecurityContext {
        run_as_user: id(4000),
        ..Default::default()
    };
    let (said, status) = world
        .run(&pod, &sandbox, config("numbered", by_uid))
        .await?;
    ensure!(
        status.exit_code == 0 && said.ends_with("/made"),
        "{said} {status:?}"
    );
    ensure!(
        !world.machine.exists("/srv/evil/made"),
        "a folder was made outside"
    );
    world.machine.run(&["rm", "-r", "/srv/evil"])?;
    world.client.remove_image(&hostile).await?;
    world.assert_clean(&[]).await
}
