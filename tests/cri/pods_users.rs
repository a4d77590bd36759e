//! Pods with a user namespace.

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use anyhow::{Result, ensure};
use crio_setup::cri::v1;
use crio_setup::ocic::stream::Ended;
use nix::sys::signal::Signal;
use serde_json::json;
use tonic::Code;

use crate::pods::{host, namespaces, userns};
use crate::streams;
use crate::support::image::{Compression, Layer, assemble};
use crate::world::{World, code};

fn pod_with_users(world: &World, name: &str) -> v1::PodSandboxConfig {
    let mut config = world.pod_config(name);
    namespaces(&mut config).userns_options = Some(userns());
    config
}

/// Root in the pod is nobody in particular on the machine; the image's files, the pod's files and a
/// volume belong to whom they should; everything works as in any pod.
#[tokio::test(flavor = "multi_thread")]
async fn root_of_a_pod_is_not_the_machines() -> Result<()> {
    let mut world = World::start().await?;
    let status = world.client.status(false).await?;
    for handler in &status.runtime_handlers {
        let able = handler.features.as_ref().is_some_and(|f| f.user_namespaces);
        ensure!(able, "{handler:?}");
    }
    let mut sandbox = pod_with_users(&world, "users");
    let linux = crate::pods::linux(&mut sandbox);
    for (name, value) in [
        ("net.ipv4.ip_unprivileged_port_start", "80"),
        ("kernel.shm_rmid_forced", "1"),
        ("kernel.domainname", "example.org"),
    ] {
        linux.sysctls.insert(name.to_owned(), value.to_owned());
    }
    sandbox.hostname = "mapped".to_owned();
    let pod = world.run_pod(&sandbox).await?;
    let status = world.pod_status(&pod).await?;
    let options = status
        .linux
        .and_then(|l| l.namespaces)
        .and_then(|n| n.options);
    let echoed = options.and_then(|options| options.userns_options);
    ensure!(echoed == Some(userns()), "{echoed:?}");

    let volume = world.machine.path("/var/lib/volume");
    std::fs::create_dir_all(&volume)?;
    std::fs::set_permissions(&volume, std::fs::Permissions::from_mode(0o700))?;
    std::fs::write(volume.join("file"), "of the volume")?;
    let mut config = world.container_config("sleeper", &["sleep", "600"]);
    for (container_path, readonly) in [("/data", false), ("/fixed", true)] {
        config.mounts.push(v1::Mount {
            container_path: container_path.to_owned(),
            host_path: "/var/lib/volume".to_owned(),
            readonly,
            uid_mappings: userns().uids,
            gid_mappings: userns().gids,
            ..Default::default()
        });
    }
    config.working_dir = "/new/folder".to_owned();
    let id = world.up(&pod, &sandbox, config).await?;

    let map = world.shell(&id, "tr -s ' ' < /proc/self/uid_map").await?;
    ensure!(map.trim() == "0 500000 65536", "{map}");
    let map = world.shell(&id, "tr -s ' ' < /proc/self/gid_map").await?;
    ensure!(map.trim() == "0 600000 65536", "{map}");
    for path in [
        "/bin/busybox",
        "/",
        "/new/folder",
        "/etc/mtab",
        "/etc/resolv.conf",
        "/etc/hosts",
        "/dev/shm",
        "/data",
        "/data/file",
    ] {
        let owner = world.exec(&id, &["stat", "-c", "%u:%g", path]).await?;
        ensure!(owner == "0:0", "{path} belongs to {owner}");
    }
    ensure!(world.shell(&id, "cat /data/file").await? == "of the volume");
    world
        .shell(
            &id,
            "echo x > /data/new && chown 7:8 /data/new && touch /bin/own && chmod 700 /bin/busybox",
        )
        .await?;
    let fixed = world
        .client
        .exec_sync(&id, vec!["touch".into(), "/fixed/x".into()], None);
    ensure!(fixed.await?.exit_code != 0, "it is read-only");
    let made = std::fs::metadata(volume.join("new"))?;
    ensure!((made.uid(), made.gid()) == (7, 8), "{made:?}");
    // On the machine it is a user without any right.
    let root = world
        .machine
        .path("/run/ocid/containers")
        .join(&id)
        .join("rootfs");
    let made = std::fs::metadata(root.join("bin/own"))?;
    ensure!(
        (made.uid(), made.gid()) == (host::UID, host::GID),
        "{made:?}"
    );
    let (name, domain) = ("hostname", "cat /proc/sys/kernel/domainname");
    ensure!(world.shell(&id, name).await? == "mapped");
    ensure!(world.shell(&id, domain).await? == "example.org");
    let sysctls =
        "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shm_rmid_forced";
    ensure!(world.shell(&id, sysctls).await? == "80\n1");
    // It has power over its own network and none over the machine.
    world
        .shell(
            &id,
            "ip link show lo | grep -q UP && ip route | grep -q default",
        )
        .await?;
    let tried = "mknod /tmp/node c 1 1 2>&1; echo 0 > /proc/sys/kernel/panic";
    let words = vec!["sh".to_owned(), "-c".to_owned(), tried.to_owned()];
    ensure!(world.client.exec_sync(&id, words, None).await?.exit_code != 0);

    // Its output can be opened anew, by root and by another user.
    for (name, user) in [("root", 0), ("worker", 1234)] {
        let script = "echo out > /dev/stdout; echo err > /dev/stderr; id -u";
        let mut config = world.container_config(name, &["sh", "-c", script]);
        let linux = config.linux.get_or_insert_default();
        let context = linux.security_context.get_or_insert_default();
        context.run_as_user = Some(v1::Int64Value { value: user });
        let (said, status) = world.run(&pod, &sandbox, config).await?;
        ensure!(said == format!("out\n{user}"), "{said} {status:?}");
    }
    // So can that of what is run in it.
    for (name, user) in [("root-runs", 0), ("worker-runs", 1234)] {
        let mut config = world.container_config(name, &["sleep", "600"]);
        let linux = config.linux.get_or_insert_default();
        let context = linux.security_context.get_or_insert_default();
        context.run_as_user = Some(v1::Int64Value { value: user });
        let id = world.up(&pod, &sandbox, config).await?;
        let script = "cat /proc/self/fd/0; echo out > /dev/stdout; echo err > /dev/stderr; id -u";
        let words = ["sh", "-c", script].map(str::to_owned).to_vec();
        let answer = world.client.exec_sync(&id, words.clone(), None).await?;
        let said = format!("out\n{user}\n").into_bytes();
        ensure!(
            (answer.exit_code, &answer.stdout) == (0, &said) && answer.stderr == b"err\n",
            "{name}: {answer:?}"
        );
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let mut e = streams::exec(&world, &id, &words, [true, true, true, false]).await?;
        streams::close(&mut e).await?;
        let (out, err) = tokio::join!(streams::all(e.stdout.take()), streams::all(e.stderr.take()));
        let (out, err) = (out?, err?);
        ensure!(out == said && err == b"err\n", "{name}: {out:?} {err:?}");
        ensure!(streams::ended(&mut e).await? == Ended::Exit(0));
    }
    // The second container stands on the same layers, whose owners the first has not changed.
    let config = world.container_config("second", &["stat", "-c", "%a %u", "/bin/busybox"]);
    let (said, _) = world.run(&pod, &sandbox, config).await?;
    ensure!(said == "755 0", "{said}");

    world.restart(Signal::SIGKILL).await?;
    ensure!(world.shell(&id, "id -u").await? == "0");
    let config = world.container_config("later", &["cat", "/proc/self/uid_map"]);
    let (said, _) = world.run(&pod, &sandbox, config).await?;
    ensure!(said.contains("500000"), "{said}");
    ensure!(std::fs::read(volume.join("file"))? == b"of the volume");
    world.assert_clean(&[]).await?;
    ensure!(
        std::fs::read(volume.join("file"))? == b"of the volume",
        "it is kubelet's"
    );
    Ok(())
}

/// A shared PID namespace belongs to the pod's users as well; layers of any number and owner.
#[tokio::test]
async fn a_pod_with_users_shares_its_pid_namespace() -> Result<()> {
    let world = World::start().await?;
    let mut sandbox = pod_with_users(&world, "shared");
    namespaces(&mut sandbox).pid = v1::NamespaceMode::Pod.into();
    let pod = world.run_pod(&sandbox).await?;
    let first = world.container_config("first", &["sleep", "600"]);
    let first = world.up(&pod, &sandbox, first).await?;
    ensure!(world.shell(&first, "ps").await?.contains("ocid-pause"));
    // Root sees the pause process as nobody, and may not end it by accident.
    ensure!(world.exec(&first, &["stat", "-c", "%u", "/proc/1"]).await? == "65534");
    let target = world.container_config("debug", &["sleep", "600"]);
    let debug = {
        let mut config = target;
        let linux = config.linux.get_or_insert_default();
        let context = linux.security_context.get_or_insert_default();
        context.namespace_options = Some(v1::NamespaceOption {
            pid: v1::NamespaceMode::Target.into(),
            target_id: first.clone(),
            userns_options: Some(userns()),
            ..Default::default()
        });
        world.up(&pod, &sandbox, config).await?
    };
    ensure!(world.shell(&debug, "ps").await?.contains("sleep 600"));

    let mut layers = Vec::new();
    for n in 0..40_u32 {
        let mut layer = Layer::default();
        layer.file(&format!("/layers/{n}"), 0o640, n.to_string().as_bytes())?;
        layer.file("/layers/last", 0o640, n.to_string().as_bytes())?;
        layers.push(layer.finish(Compression::Gzip)?);
    }
    let mut base = Layer::default();
    base.file("/bin/busybox", 0o4755, &std::fs::read("/bin/busybox")?)?;
    for applet in ["sh", "cat", "stat", "ls"] {
        base.symlink(&format!("/bin/{applet}"), "busybox")?;
    }
    layers.push(base.finish(Compression::Gzip)?);
    let image = assemble(layers, json!({ "Env": ["PATH=/bin"], "User": "77:78" }))?;
    let image = world
        .registry
        .push(&world.machine, "library/deep", "1", &image)?;
    world.client.pull_image(&image, None).await?;
    let script = "stat -c %u:%g:%a /layers/39 /bin/busybox; ls /layers | wc -l";
    let mut config = world.container_config("deep", &["sh", "-c", script]);
    let image = v1::ImageSpec {
        image,
        ..Default::default()
    };
    config.image = Some(image.clone());
    let (said, status) = world.run(&pod, &sandbox, config).await?;
    ensure!(said.starts_with("0:0:640\n0:0:4755"), "{said} {status:?}");
    // The same image as a volume.
    let script = "stat -c %u:%g:%a /volume/layers/39; touch /volume/x 2>&1";
    let mut config = world.container_config("volume", &["sh", "-c", script]);
    config.mounts.push(v1::Mount {
        container_path: "/volume".to_owned(),
        image: Some(image),
        readonly: true,
        uid_mappings: userns().uids,
        gid_mappings: userns().gids,
        ..Default::default()
    });
    let (said, status) = world.run(&pod, &sandbox, config).await?;
    ensure!(said.starts_with("0:0:640\n"), "{said} {status:?}");
    ensure!(status.exit_code != 0, "it can be written");
    world.assert_clean(&["/var/lib/ocid/"]).await
}

/// What cannot be had is refused by the name of its field, and nothing is left.
#[tokio::test]
async fn what_users_cannot_have_is_refused() -> Result<()> {
    let world = World::start().await?;
    type Change = fn(&mut v1::NamespaceOption);
    let cases: [(&str, Change); 5] = [
        ("network", |o| o.network = v1::NamespaceMode::Node.into()),
        ("pid", |o| o.pid = v1::NamespaceMode::Node.into()),
        ("userns_options.uids", |o| {
            let users = o.userns_options.get_or_insert_default();
            users.uids.push(v1::IdMapping {
                host_id: 1_000_000,
                container_id: 65_536,
                length: 10,
            });
        }),
        ("userns_options.gids", |o| {
            o.userns_options.get_or_insert_default().gids.clear();
        }),
        ("userns_options.mode", |o| {
            let users = o.userns_options.get_or_insert_default();
            users.mode = v1::NamespaceMode::Container.into();
        }),
    ];
    for (field, change) in cases {
        let mut sandbox = pod_with_users(&world, "refused");
        change(namespaces(&mut sandbox));
        let (code, message) = code(world.run_pod(&sandbox).await)?;
        ensure!(code == Code::InvalidArgument, "{field}: {code:?} {message}");
        ensure!(
            message.contains(&format!("namespace_options.{field}`")),
            "{message}"
        );
    }
    let sandbox = pod_with_users(&world, "users");
    let pod = world.run_pod(&sandbox).await?;
    let mut config = world.container_config("unknown-user", &["true"]);
    let linux = config.linux.get_or_insert_default();
    let context = linux.security_context.get_or_insert_default();
    context.run_as_user = Some(v1::Int64Value { value: 65_536 });
    let (refused, message) = code(world.create(&pod, &sandbox, config).await)?;
    ensure!(refused == Code::InvalidArgument, "{refused:?} {message}");
    ensure!(message.contains("run_as_user"), "{message}");
    // proc has no owners that could be mapped.
    let mut config = world.container_config("unmapped", &["true"]);
    config.mounts.push(v1::Mount {
        container_path: "/p".to_owned(),
        host_path: "/proc".to_owned(),
        uid_mappings: userns().uids,
        gid_mappings: userns().gids,
        ..Default::default()
    });
    let (refused, message) = code(world.create(&pod, &sandbox, config).await)?;
    ensure!(refused == Code::FailedPrecondition, "{refused:?} {message}");
    ensure!(
        message.contains("config.mounts[0].uidMappings"),
        "{message}"
    );
    // A pod without one of its own cannot give a container one.
    let plain = world.pod_config("plain");
    let pod = world.run_pod(&plain).await?;
    let mut config = world.container_config("other", &["true"]);
    let linux = config.linux.get_or_insert_default();
    let context = linux.security_context.get_or_insert_default();
    context.namespace_options = Some(v1::NamespaceOption {
        userns_options: Some(userns()),
        ..Default::default()
    });
    let (refused, message) = code(world.create(&pod, &plain, config).await)?;
    ensure!(refused == Code::InvalidArgument, "{refused:?} {message}");
    world.assert_clean(&[]).await
}
