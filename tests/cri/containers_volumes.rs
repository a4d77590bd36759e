//! Images as volumes: whole or a sub-path, read-only, whatever becomes of the image, and nothing of them
//! left when the container is gone.

use anyhow::{Result, ensure};
use crio_setup::cri::v1;
use nix::sys::signal::Signal;
use serde_json::json;
use tonic::Code;

use crate::support::image::{Compression, Layer, assemble};
use crate::world::{World, code};

/// Pushes and pulls an image of two layers, of which the upper one hides a file of the lower.
async fn data(world: &World) -> Result<String> {
    let mut lower = Layer::default();
    lower.folder("/dir", 0o755)?;
    lower.folder("/dir/sub", 0o755)?;
    lower.file("/dir/sub/greeting", 0o644, b"hello from below\n")?;
    lower.file("/dir/hidden", 0o644, b"not to be seen\n")?;
    lower.file("/dir/program", 0o755, b"#!/bin/sh\necho ran\n")?;
    lower.symlink("/dir/inside", "/dir/sub")?;
    lower.symlink("/leaving", "/../../../../../../../etc")?;
    let mut upper = Layer::default();
    upper.file("/dir/.wh.hidden", 0o644, b"")?;
    upper.file("/top", 0o600, b"from above\n")?;
    let layers = vec![
        lower.finish(Compression::Gzip)?,
        upper.finish(Compression::Gzip)?,
    ];
    let image = assemble(layers, json!({}))?;
    let reference = world
        .registry
        .push(&world.machine, "library/data", "1", &image)?;
    world.client.pull_image(&reference, None).await?;
    Ok(reference)
}

fn volume(path: &str, image: &str, sub_path: &str) -> v1::Mount {
    v1::Mount {
        container_path: path.to_owned(),
        readonly: true,
        image: Some(v1::ImageSpec {
            image: image.to_owned(),
            ..Default::default()
        }),
        image_sub_path: sub_path.to_owned(),
        ..Default::default()
    }
}

/// How many image volumes are mounted on the machine.
fn mounted(world: &World) -> Result<usize> {
    let text = world.machine.run(&["cat", "/proc/self/mountinfo"])?;
    Ok(text.lines().filter(|l| l.contains("/volumes/")).count())
}

#[tokio::test]
async fn images_are_mounted_whole_and_by_sub_path() -> Result<()> {
    let mut world = World::start().await?;
    let image = data(&world).await?;
    let sandbox = world.pod_config("volumes");
    let pod = world.run_pod(&sandbox).await?;
    let mut config = world.container_config("reader", &["sleep", "600"]);
    config.mounts = vec![
        volume("/whole", &image, ""),
        volume("/part", &image, "dir/sub"),
        volume("/by-link", &image, "dir/inside"),
        volume("/file", &image, "top"),
    ];
    let id = world.up(&pod, &sandbox, config).await?;
    ensure!(world.exec(&id, &["ls", "/whole/dir"]).await? == "inside\nprogram\nsub");
    for path in ["/whole/dir/sub", "/part", "/by-link"] {
        let text = world
            .exec(&id, &["cat", &format!("{path}/greeting")])
            .await?;
        ensure!(text == "hello from below", "{path}: {text}");
    }
    ensure!(world.exec(&id, &["cat", "/file"]).await? == "from above");
    ensure!(world.exec(&id, &["/whole/dir/program"]).await? == "ran");
    for script in ["touch /whole/new", "rm /whole/top", "echo x >/file"] {
        let words = ["sh", "-c", script].map(str::to_owned).to_vec();
        let answer = world.client.exec_sync(&id, words, None).await?;
        ensure!(answer.exit_code != 0, "`{script}` was possible");
    }
    let mounts = world.status(&id).await?.mounts;
    let reported: Vec<_> = mounts
        .iter()
        .map(|m| {
            (
                m.container_path.as_str(),
                m.image_sub_path.as_str(),
                m.image.as_ref().map(|i| i.image.as_str()),
            )
        })
        .collect();
    let expected = [
        ("/whole", ""),
        ("/part", "dir/sub"),
        ("/by-link", "dir/inside"),
        ("/file", "top"),
    ];
    let expected: Vec<_> = expected
        .iter()
        .map(|(path, sub)| (*path, *sub, Some(image.as_str())))
        .collect();
    ensure!(reported == expected, "{reported:?}");

    // The image goes, its files stay for as long as the container does, over a restart too.
    world.client.remove_image(&image).await?;
    world.restart(Signal::SIGKILL).await?;
    ensure!(world.exec(&id, &["cat", "/part/greeting"]).await? == "hello from below");
    ensure!(mounted(&world)? == 4);
    world
        .client
        .stop_container(&id, std::time::Duration::ZERO)
        .await?;
    world.client.remove_container(&id).await?;
    ensure!(mounted(&world)? == 0, "volumes outlive their container");
    world.assert_clean(&["ocid --debug"]).await
}

#[tokio::test]
async fn volumes_that_cannot_be() -> Result<()> {
    let world = World::start().await?;
    let image = data(&world).await?;
    let sandbox = world.pod_config("volumes");
    let pod = world.run_pod(&sandbox).await?;
    let create = |mounts| {
        let mut config = world.container_config("refused", &["true"]);
        config.mounts = mounts;
        let (world, pod, sandbox) = (&world, &pod, &sandbox);
        async move { code(world.create(pod, sandbox, config).await) }
    };
    let with_host = v1::Mount {
        host_path: "/etc".to_owned(),
        ..volume("/v", &image, "")
    };
    for (mount, refused, part) in [
        (
            volume("/v", "127.0.0.1:5000/none:1", ""),
            Code::NotFound,
            "`config.mounts[1].image`",
        ),
        (
            volume("/v", &image, "dir/none"),
            Code::NotFound,
            "`config.mounts[1].image_sub_path`",
        ),
        (
            volume("/v", &image, "dir/hidden"),
            Code::NotFound,
            "`dir/hidden`",
        ),
        (volume("/v", &image, "leaving"), Code::NotFound, "`leaving`"),
        (
            volume("/v", &image, "../x"),
            Code::InvalidArgument,
            "image_sub_path",
        ),
        (with_host, Code::InvalidArgument, "host_path"),
    ] {
        let (code, message) = create(vec![volume("/whole", &image, ""), mount]).await?;
        ensure!(
            code == refused && message.contains(part),
            "{code:?} {message}"
        );
        // The word by which kubelet knows it.
        let known = message.starts_with("ImageVolumeMountFailed: ");
        ensure!(known == (refused == Code::NotFound), "{message}");
    }
    ensure!(
        mounted(&world)? == 0,
        "a refused container leaves no volume"
    );
    world.client.remove_image(&image).await?;
    world.assert_clean(&[]).await
}

#[tokio::test]
async fn volumes_go_with_a_container_that_ends_while_the_daemon_is_away() -> Result<()> {
    let mut world = World::start().await?;
    let image = data(&world).await?;
    let sandbox = world.pod_config("volumes");
    let pod = world.run_pod(&sandbox).await?;
    let mut config = world.container_config(
        "brief",
        &[
            "sh",
            "-c",
            "cat /v/top; while [ ! -e /go ]; do sleep 0.1; done",
        ],
    );
    config.mounts = vec![volume("/v", &image, "")];
    let id = world.up(&pod, &sandbox, config).await?;
    ensure!(mounted(&world)? == 1);
    world.exec(&id, &["touch", "/go"]).await?;
    world.restart(Signal::SIGKILL).await?;
    let status = world.ended(&id).await?;
    ensure!(status.exit_code == 0, "{status:?}");
    world.client.remove_container(&id).await?;
    ensure!(mounted(&world)? == 0);
    world.client.remove_image(&image).await?;
    world.assert_clean(&["ocid --debug"]).await
}
