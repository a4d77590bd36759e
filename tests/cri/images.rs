//! Images through the CRI: configuration, answers, refusals, and pulls that are left or killed in the middle.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use crio_setup::cri::v1;
use nix::sys::signal::Signal;
use serde_json::json;
use tonic::Code;

use crate::liar::{Gate, Liar, Reply};
use crate::pack::{Compression, Form, Layer, Packed, archive, noise};
use crate::world::{LIMIT, World, busybox, code};

/// A registry of the test's own in the machine's network.
fn liar(world: &World, port: u16) -> Result<Liar> {
    let on = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    Ok(Liar::serving(world.machine.listen(on)?))
}

fn packed(label: &str) -> Packed {
    let layer = Layer::new(&archive(&[(label, b"x")]), Compression::Gzip);
    Packed::new(Form::Oci, label, &[layer])
}

/// Bytes on disk and inodes of a tree, counted anew.
fn counted(folder: &Path) -> Result<(u64, u64)> {
    let metadata = std::fs::symlink_metadata(folder)?;
    let (mut bytes, mut inodes) = (metadata.blocks() * 512, 1);
    if metadata.is_dir() {
        for entry in std::fs::read_dir(folder)? {
            let (b, i) = counted(&entry?.path())?;
            (bytes, inodes) = (bytes + b, inodes + i);
        }
    }
    Ok((bytes, inodes))
}

/// Names in a folder of the store.
fn names(world: &World, folder: &str) -> Result<Vec<String>> {
    let path = world.machine.path(format!("/var/lib/ocid/{folder}"));
    let entries = std::fs::read_dir(&path).with_context(|| path.display().to_string())?;
    entries
        .map(|e| Ok(e?.file_name().to_string_lossy().into_owned()))
        .collect()
}

/// Waits until the store's folder of unfinished things is empty.
async fn settled(world: &World) -> Result<()> {
    let deadline = Instant::now() + LIMIT;
    while !names(world, "tmp")?.is_empty() {
        ensure!(Instant::now() < deadline, "{:?}", names(world, "tmp")?);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn names_sizes_and_room_as_clients_see_them() -> Result<()> {
    let world = World::start().await?;
    let client = &world.client;
    let before = client.list_images(None).await?.len();
    let more = busybox(json!({ "User": "1234:5", "Labels": { "a": "b" } }))?;
    let one = world.registry.push(&world.machine, "one", "1", &more)?;
    world.registry.push(&world.machine, "one", "2", &more)?;
    let id = client.pull_image(&one, None).await?;
    ensure!(client.pull_image(&one.replace(":1", ":2"), None).await? == id);
    let digest = format!("{}@{}", one.trim_end_matches(":1"), more.index.digest());
    ensure!(client.pull_image(&digest, None).await? == id, "by digest");
    ensure!(client.list_images(None).await?.len() == before + 1);
    let status = client.image_status(&one, true).await?;
    let image = status.image.clone().context("no image")?;
    ensure!(image.id == id && image.repo_tags == [one.clone(), one.replace(":1", ":2")]);
    ensure!(image.repo_digests.contains(&digest), "{image:?}");
    ensure!(image.uid == Some(v1::Int64Value { value: 1234 }) && image.username.is_empty());
    ensure!(!image.pinned);
    ensure!(
        status.info["info"].contains("imageSpec"),
        "{:?}",
        status.info
    );
    // The layer is busybox's own size and a little more; so is the image's.
    let own = std::fs::metadata("/bin/busybox")?.len();
    ensure!(
        image.size > own && image.size < own + (1 << 20),
        "{image:?}"
    );
    for name in [&one, &digest, &id, &id["sha256:".len()..].to_owned()] {
        let found = client.image_status(name, false).await?.image;
        ensure!(found.as_ref() == Some(&image), "{name}: {found:?}");
        let filter = v1::ImageFilter {
            image: Some(v1::ImageSpec {
                image: name.clone(),
                ..Default::default()
            }),
        };
        let listed = client.list_images(Some(filter)).await?;
        ensure!(listed == [image.clone()], "{name}: {listed:?}");
    }
    // What the filesystem is said to hold is there, counted by hand: both images share their layer.
    let info = client.image_fs_info().await?;
    let usage = info.image_filesystems.first().context("none")?;
    let layers = world.machine.path("/var/lib/ocid/layers");
    let (bytes, inodes) = counted(&layers)?;
    let (said, files) = (
        usage.used_bytes.context("no bytes")?.value,
        usage.inodes_used.context("no inodes")?.value,
    );
    ensure!(said.abs_diff(bytes) < 256 << 10, "{said} and {bytes}");
    ensure!(files.abs_diff(inodes) < 16, "{files} and {inodes}");
    let mountpoint = &usage.fs_id.as_ref().context("no mount point")?.mountpoint;
    ensure!(mountpoint.starts_with("/var/lib/ocid"), "{mountpoint}");
    ensure!(usage.timestamp > 0 && !info.container_filesystems.is_empty());
    // Names go one by one, and the image with the last.
    client.remove_image(&one).await?;
    let left = client
        .image_status(&id, false)
        .await?
        .image
        .context("gone")?;
    ensure!(left.repo_tags == [one.replace(":1", ":2")], "{left:?}");
    ensure!(client.image_status(&one, false).await?.image.is_none());
    client.remove_image(&id).await?;
    client.remove_image(&id).await?;
    ensure!(client.list_images(None).await?.len() == before);
    // The layer is the first image's as well.
    let pod = world.pod_config("after");
    let sandbox = world.run_pod(&pod).await?;
    let config = world.container_config("after", &["echo", "still here"]);
    let (printed, _) = world.run(&sandbox, &pod, config).await?;
    ensure!(printed == "still here", "{printed}");
    world.assert_clean(&[]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_configuration_s_keys_for_images() -> Result<()> {
    let files = [
        (
            "/etc/ocid/ocid.conf.d/10-images.conf",
            "[crio.image]\nglobal_auth_file = \"/etc/ocid/auth.json\"\npinned_images = [\"127.0.0.1:5001/x:pin*\", \"*busybox*\"]\npause_image = \"registry.k8s.io/pause:3.10\"\npull_progress_timeout = \"5s\"\nsignature_policy = \"/etc/ocid/policy.json\"\n",
        ),
        (
            "/etc/ocid/policy.json",
            r#"{"default":[{"type":"insecureAcceptAnything"}],"transports":{"docker":{"127.0.0.1:5001/signed":[{"type":"sigstoreSigned","keyPath":"/k"}]}}}"#,
        ),
        (
            "/etc/ocid/auth.json",
            r#"{"auths":{"127.0.0.1:5001":{"auth":"dTpw"}}}"#,
        ),
        (
            "/etc/containers/registries.conf.d/10-test.conf",
            "[aliases]\nshort = '127.0.0.1:5001/x'\n[[registry]]\nprefix = '127.0.0.1:5001/blocked'\nblocked = true\n",
        ),
    ];
    let world = World::with(&files).await?;
    let client = &world.client;
    let liar = liar(&world, 5001)?;
    for tag in ["pinned", "loose", "stalled"] {
        liar.serve(tag, &packed(tag));
    }
    liar.demand("Basic dTpw", "Basic realm=\"x\"");
    let log = world.daemon().output();
    ensure!(
        log.lines()
            .any(|l| l.contains("pause_image") && l.contains("WARN")),
        "{log}"
    );
    // The credentials are the file's, the alias a drop-in's.
    let pinned = client.pull_image("short:pinned", None).await?;
    let loose = client.pull_image(&liar.image("loose"), None).await?;
    let pins: Vec<(String, bool)> = client
        .list_images(None)
        .await?
        .into_iter()
        .map(|i| (i.id, i.pinned))
        .collect();
    let busybox = client.image_status(&world.image, false).await?.image;
    let busybox = busybox.context("no busybox")?;
    ensure!(
        busybox.pinned && pins.contains(&(pinned.clone(), true)),
        "{pins:?}"
    );
    ensure!(pins.contains(&(loose.clone(), false)), "{pins:?}");
    // Garbage collection's own business: a person may remove a pinned one.
    client.remove_image(&pinned).await?;
    let refused = [
        (
            "127.0.0.1:5001/signed:1",
            Code::PermissionDenied,
            "sigstoreSigned",
        ),
        (
            "127.0.0.1:5001/blocked/x:1",
            Code::PermissionDenied,
            "blocks",
        ),
        ("127.0.0.1:5001/x:none", Code::NotFound, "not found"),
        ("127.0.0.1:5999/x:1", Code::Unavailable, "refused"),
        ("Not A Name", Code::InvalidArgument, "reference"),
        ("", Code::InvalidArgument, "image.image"),
    ];
    for (name, expected, word) in refused {
        let (got, message) = code(client.pull_image(name, None).await)?;
        ensure!(
            got == expected && message.contains(word),
            "{name}: {got:?} {message}"
        );
    }
    let wrong = v1::AuthConfig {
        username: "u".to_owned(),
        password: "wrong".to_owned(),
        ..Default::default()
    };
    let (got, message) = code(client.pull_image(&liar.image("loose"), Some(wrong)).await)?;
    ensure!(
        got == Code::Unauthenticated && !message.contains("wrong"),
        "{message}"
    );
    let gate = Arc::new(Gate::default());
    let layer = &packed("stalled").layers[0];
    liar.change(&format!("/v2/x/blobs/{}", layer.digest), |r| {
        r.gate = Some(gate.clone());
    });
    let (got, message) = code(client.pull_image(&liar.image("stalled"), None).await)?;
    ensure!(
        got == Code::Unavailable && message.contains("pull_progress_timeout"),
        "{message}"
    );
    client.remove_image(&loose).await?;
    settled(&world).await?;
    world.assert_clean(&[]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_outlives_its_client_and_not_its_daemon() -> Result<()> {
    let mut world = World::start().await?;
    let liar = liar(&world, 5001)?;
    let names_of_files: Vec<String> = (0..256).map(|n| format!("d/{n}")).collect();
    let data = noise(1, 64 << 10);
    let files: Vec<(&str, &[u8])> = names_of_files
        .iter()
        .map(|n| (n.as_str(), data.as_slice()))
        .collect();
    let layer = Layer::new(&archive(&files), Compression::Plain);
    let packed = Packed::new(Form::Oci, "big", std::slice::from_ref(&layer));
    liar.serve("1", &packed);
    let path = format!("/v2/x/blobs/{}", layer.digest);
    let image = liar.image("1");
    for killed in [false, true] {
        let gate = Arc::new(Gate::default());
        liar.change(&path, |r| r.gate = Some(gate.clone()));
        let caller = tokio::spawn({
            let (client, image) = (world.client.clone(), image.clone());
            async move { client.pull_image(&image, None).await }
        });
        tokio::time::timeout(LIMIT, gate.reached.notified()).await?;
        ensure!(!names(&world, "tmp")?.is_empty(), "it is being unpacked");
        ensure!(
            world
                .client
                .image_status(&image, false)
                .await?
                .image
                .is_none()
        );
        if killed {
            world.end_daemon(Signal::SIGKILL)?;
            ensure!(caller.await?.is_err());
            world.start_daemon().await?;
            settled(&world).await?;
            ensure!(
                world
                    .client
                    .image_status(&image, false)
                    .await?
                    .image
                    .is_none()
            );
            ensure!(names(&world, "images")?.len() == 1, "only the world's own");
            ensure!(names(&world, "layers")?.len() == 1, "only the world's own");
        } else {
            // The client goes away; whoever asks again joins what it began.
            caller.abort();
            ensure!(caller.await.is_err_and(|e| e.is_cancelled()));
        }
        gate.open.notify_one();
        liar.change(&path, |r| r.gate = None);
        let id = world.client.pull_image(&image, None).await?;
        ensure!(id == packed.id());
        let fetched = liar.seen(&path).len();
        ensure!(
            fetched == if killed { 3 } else { 1 },
            "fetched {fetched} times"
        );
        world.client.remove_image(&id).await?;
    }
    settled(&world).await?;
    world.assert_clean(&[]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_s_layers_stay_while_it_does() -> Result<()> {
    let world = World::start().await?;
    let own = busybox(json!({ "Labels": { "own": "1" } }))?;
    let name = world.registry.push(&world.machine, "own", "1", &own)?;
    let id = world.client.pull_image(&name, None).await?;
    // The one that brought the layer first goes; the layer is the other's.
    let first = world.client.image_status(&world.image, false).await?;
    world
        .client
        .remove_image(&first.image.context("no image")?.id)
        .await?;
    let pod = world.pod_config("leased");
    let sandbox = world.run_pod(&pod).await?;
    let mut config = world.container_config("leased", &["sleep", "600"]);
    config.image = Some(v1::ImageSpec {
        image: name.clone(),
        ..Default::default()
    });
    let container = world.up(&sandbox, &pod, config).await?;
    world.client.remove_image(&id).await?;
    ensure!(world.client.list_images(None).await?.is_empty());
    ensure!(names(&world, "layers")?.len() == 1);
    ensure!(world.shell(&container, "echo $((1+1))").await? == "2");
    ensure!(world.status(&container).await?.image_id == id);
    world.client.stop_pod_sandbox(&sandbox).await?;
    world.client.remove_pod_sandbox(&sandbox).await?;
    ensure!(names(&world, "layers")?.is_empty(), "with its container");
    settled(&world).await?;
    // As it was.
    world.client.pull_image(&world.image, None).await?;
    world.assert_clean(&[]).await
}

/// What a layer brings arrives in the container: the bits, numbers and attributes, not only the bytes.
#[tokio::test(flavor = "multi_thread")]
async fn a_container_sees_what_its_image_holds() -> Result<()> {
    let world = World::start().await?;
    let busybox = std::fs::read("/bin/busybox")?;
    let folder = tempfile::tempdir()?;
    let path = |name: &str| folder.path().join(name);
    std::fs::create_dir_all(path("bin"))?;
    std::fs::create_dir_all(path("d/old"))?;
    std::fs::write(path("bin/busybox"), &busybox)?;
    std::fs::write(path("d/gone"), "")?;
    std::fs::write(path("d/old/hidden"), "")?;
    let script = "cd \"$1\" && chmod 755 bin bin/busybox && ln -s busybox bin/sh && cp bin/busybox bin/suid && chmod 4711 bin/suid && ln bin/suid bin/hard && mknod bin/null c 1 3 && chmod 640 bin/null && truncate -s 8M bin/sparse && printf end >> bin/sparse && touch -d '2001-02-03 04:05:06.123456789 UTC' bin/dated";
    world_run(script, folder.path()).await?;
    let capability = b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    xattr::set(path("bin/busybox"), "security.capability", capability)?;
    xattr::set(path("bin/dated"), "user.note", b"kept")?;
    let long = format!("bin/{}", "n".repeat(150));
    std::fs::write(path(&long), "long")?;
    let pax = ["--format=pax", "--xattrs", "--xattrs-include=*", "--sparse"];
    let base = Layer::new(&tarred(folder.path(), &pax).await?, Compression::Zstd);
    let top = archive(&[
        ("d/.wh.gone", b""),
        ("d/old/.wh..wh..opq", b""),
        ("d/old/new", b""),
    ]);
    let top = Layer::new(&top, Compression::Gzip);
    let liar = liar(&world, 5001)?;
    let packed = Packed::new(Form::Oci, "full", &[base, top]);
    liar.serve("1", &packed);
    let id = world.client.pull_image(&liar.image("1"), None).await?;
    let pod = world.pod_config("full");
    let sandbox = world.run_pod(&pod).await?;
    let mut config =
        world.container_config("full", &["/bin/sh", "-c", "while :; do sleep 600; done"]);
    config.image = Some(v1::ImageSpec {
        image: liar.image("1"),
        ..Default::default()
    });
    let container = world.up(&sandbox, &pod, config).await?;
    let said = async |script: &str| world.exec(&container, &["/bin/sh", "-c", script]).await;
    ensure!(said("stat -c '%a %u' /bin/suid").await? == "4711 0");
    ensure!(said("stat -c %h /bin/hard").await? == "2");
    ensure!(said("stat -c '%F %t %T %a' /bin/null").await? == "character special file 1 3 640");
    ensure!(said("stat -c %s /bin/sparse; tail -c 3 /bin/sparse").await? == "8388611\nend");
    ensure!(said("test $(stat -c %b /bin/sparse) -lt 1000 && echo few").await? == "few");
    ensure!(said("ls /d /d/old").await? == "/d:\nold\n\n/d/old:\nnew");
    ensure!(said(&format!("cat /{long}")).await? == "long");
    // The image has a user, and runs as it.
    ensure!(said("id -u").await? == "1000");
    // Times finer than a second and attributes are seen from outside: in the container's own root.
    let root = world
        .machine
        .path(format!("/run/ocid/containers/{container}/rootfs"));
    let dated = std::fs::metadata(root.join("bin/dated"))?;
    ensure!((dated.mtime(), dated.mtime_nsec()) == (981_173_106, 123_456_789));
    ensure!(xattr::get(root.join("bin/dated"), "user.note")?.as_deref() == Some(&b"kept"[..]));
    let kept = xattr::get(root.join("bin/busybox"), "security.capability")?;
    ensure!(kept.as_deref() == Some(&capability[..]), "{kept:?}");
    world.client.remove_pod_sandbox(&sandbox).await?;
    world.client.remove_image(&id).await?;
    settled(&world).await?;
    world.assert_clean(&[]).await
}

async fn world_run(script: &str, folder: &Path) -> Result<()> {
    let command = crio_setup::host::command::Command::new("bash")
        .args(["-ec", script, "script"])
        .arg(folder);
    command.run_async().await?;
    Ok(())
}

/// The folder as GNU tar writes it.
async fn tarred(folder: &Path, options: &[&str]) -> Result<Vec<u8>> {
    let command = crio_setup::host::command::Command::new("tar")
        .arg("-C")
        .arg(folder)
        .args(options)
        .args(["--sort=name", "--owner=0", "--group=0", "-cf", "-", "."]);
    Ok(command.run_async().await?.stdout)
}

/// A hostile layer is refused by name; the daemon, the store and the machine are as before.
#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_image_is_refused_and_leaves_nothing() -> Result<()> {
    let world = World::start().await?;
    let liar = liar(&world, 5001)?;
    let header = |name: &str, kind, link: &str, size: u64| -> Result<tar::Header> {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        let fields = header.as_ustar_mut().context("no ustar")?;
        fields.name[..name.len()].copy_from_slice(name.as_bytes());
        fields.linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_size(size);
        header.set_mode(0o644);
        header.set_cksum();
        Ok(header)
    };
    let layer = |entries: &[tar::Header]| -> Result<Layer> {
        let mut bytes = Vec::new();
        for entry in entries {
            bytes.extend_from_slice(entry.as_bytes());
        }
        bytes.extend([0; 1024]);
        Ok(Layer::new(&bytes, Compression::Gzip))
    };
    use tar::EntryType as Type;
    let cases = [
        (
            "escape",
            layer(&[header("../../../../etc/cron.d/x", Type::Regular, "", 0)?])?,
            "leads out",
        ),
        (
            "link",
            layer(&[header("h", Type::Link, "../../../../../etc/passwd", 0)?])?,
            "leads out",
        ),
        (
            "lower",
            layer(&[header("h", Type::Link, "etc/shadow", 0)?])?,
            "hard link to nothing",
        ),
        (
            "root",
            layer(&[header("./", Type::Symlink, "/etc", 0)?])?,
            "root folder",
        ),
        (
            "cut",
            layer(&[header("f", Type::Regular, "", 1 << 20)?])?,
            "ends in the middle",
        ),
    ];
    for (tag, layer, word) in cases {
        let innocent = Layer::new(&archive(&[("innocent", b"i")]), Compression::Gzip);
        liar.serve(tag, &Packed::new(Form::Oci, tag, &[innocent, layer]));
        let (_, message) = code(world.client.pull_image(&liar.image(tag), None).await)?;
        ensure!(message.contains(word), "{tag}: {message}");
    }
    // A registry that never ends its manifest.
    liar.put(
        "/v2/x/manifests/endless",
        Reply {
            status: 200,
            body: vec![b' '; 8 << 20],
            ..Reply::default()
        },
    );
    let (_, message) = code(world.client.pull_image(&liar.image("endless"), None).await)?;
    ensure!(message.contains("larger than"), "{message}");
    settled(&world).await?;
    ensure!(names(&world, "layers")?.len() == 1 && names(&world, "images")?.len() == 1);
    ensure!(!world.machine.exists("/etc/cron.d/x"));
    world.assert_clean(&[]).await
}
