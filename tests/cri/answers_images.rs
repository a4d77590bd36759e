//! One image under many names: what every call says of it, and what is left when names go.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use crio_setup::cri::v1;
use serde_json::json;
use tonic::Code;

use crate::support::registry::Registry;
use crate::world::{World, busybox, code};

/// A short name is looked for in the registry on loopback.
const REGISTRIES: &str = r#"unqualified-search-registries = ["127.0.0.1:5000"]
"#;
/// What is different on purpose at the end of these tests: the image that the world began with.
const IMAGES: [&str; 2] = ["/var/lib/ocid/images", "/var/lib/ocid/layers"];

async fn image(world: &World, name: &str) -> Result<Option<v1::Image>> {
    Ok(world.client.image_status(name, false).await?.image)
}

async fn here(world: &World, name: &str) -> Result<v1::Image> {
    image(world, name)
        .await?
        .with_context(|| format!("`{name}` is not here"))
}

fn set(names: &[String]) -> BTreeSet<&str> {
    names.iter().map(String::as_str).collect()
}

#[tokio::test]
async fn one_image_has_one_id_under_all_its_names() -> Result<()> {
    let files = [("/etc/containers/registries.conf", REGISTRIES)];
    let world = World::with(&files).await?;
    let second = Registry::start(&world.machine, 5001)?;
    let whole = busybox(json!({}))?;
    let (manifest, index) = (whole.manifest.digest(), whole.index.digest());
    let push = |registry: &Registry, name: &str, tag: &str| {
        registry.push(&world.machine, name, tag, &whole)
    };
    let mut names = vec![world.image.clone()];
    names.push(push(&world.registry, "library/busybox", "2")?);
    names.push(push(&world.registry, "short", "latest")?);
    names.push(push(&second, "library/busybox", "1")?);
    let id = here(&world, &world.image).await?.id;
    for name in &names {
        ensure!(world.client.pull_image(name, None).await? == id, "{name}");
    }
    let by_digest = format!("{}/library/busybox@{manifest}", second.address());
    ensure!(world.client.pull_image(&by_digest, None).await? == id);

    // One image in the list, with all tags, and the digests of manifest and index in each repository.
    let list = world.client.list_images(None).await?;
    let [one] = list.as_slice() else {
        anyhow::bail!("{list:?}");
    };
    ensure!(
        one.id == id && set(&one.repo_tags) == set(&names),
        "{one:?}"
    );
    let mut digests = BTreeSet::new();
    for repository in [
        "127.0.0.1:5000/library/busybox",
        "127.0.0.1:5000/short",
        "127.0.0.1:5001/library/busybox",
    ] {
        digests.insert(format!("{repository}@{index}"));
        digests.insert(format!("{repository}@{manifest}"));
    }
    // The manifest is known by its own digest where it was pulled by it, and by the index's else.
    let known = set(&one.repo_digests);
    ensure!(known.iter().all(|d| digests.contains(*d)), "{one:?}");
    ensure!(known.contains(by_digest.as_str()), "{one:?}");
    ensure!(one.size > 100_000 && !one.pinned, "{one:?}");

    // Whatever names it finds the same.
    let hex = id
        .strip_prefix("sha256:")
        .context("an id without its kind")?;
    let others = [
        id.as_str(),
        hex,
        &hex[..12],
        "short",
        "short:latest",
        &by_digest,
    ];
    let tag_and_digest = format!("{}@{index}", world.image);
    for name in names
        .iter()
        .map(String::as_str)
        .chain(others)
        .chain([tag_and_digest.as_str()])
    {
        ensure!(here(&world, name).await? == *one, "{name}");
        let filter = v1::ImageFilter {
            image: Some(v1::ImageSpec {
                image: name.to_owned(),
                ..Default::default()
            }),
        };
        let found = world.client.list_images(Some(filter)).await?;
        ensure!(found == [one.clone()], "{name}");
    }
    for name in [
        "nobody",
        "127.0.0.1:5000/library/busybox:9",
        "busybox:1",
        &hex[1..13],
    ] {
        ensure!(image(&world, name).await?.is_none(), "{name}");
    }

    // Containers say the same, and by which name they were asked for.
    let sandbox = world.pod_config("named");
    let pod = world.run_pod(&sandbox).await?;
    for (n, name) in ["short", &names[3], &id, &by_digest]
        .into_iter()
        .enumerate()
    {
        let mut config = world.container_config(&format!("named{n}"), &["true"]);
        config.image = Some(v1::ImageSpec {
            image: name.to_owned(),
            user_specified_image: "as-the-user-wrote".to_owned(),
            ..Default::default()
        });
        let container = world.create(&pod, &sandbox, config.clone()).await?;
        let status = world.status(&container).await?;
        ensure!(
            status.image_id == id && status.image == config.image,
            "{status:?}"
        );
        ensure!(known.contains(status.image_ref.as_str()), "{status:?}");
        let filter = v1::ContainerFilter {
            id: container,
            ..Default::default()
        };
        let list = world.client.list_containers(Some(filter)).await?;
        let [item] = list.as_slice() else {
            anyhow::bail!("{list:?}");
        };
        ensure!((&item.image_id, &item.image_ref) == (&status.image_id, &status.image_ref));
        ensure!(item.image == status.image, "{item:?}");
    }

    // A name goes alone; the id takes all of them; containers keep what they stand on.
    world.client.remove_image(&names[1]).await?;
    let left = here(&world, &id).await?;
    ensure!(
        !left.repo_tags.contains(&names[1]) && left.repo_tags.len() == 3,
        "{left:?}"
    );
    ensure!(image(&world, &names[1]).await?.is_none());
    world.client.remove_image("short").await?;
    ensure!(image(&world, "short").await?.is_none() && here(&world, &names[0]).await?.id == id);
    world.client.remove_image(&id).await?;
    world.client.remove_image(&id).await?;
    ensure!(world.client.list_images(None).await?.is_empty());
    let listed = world.client.list_containers(None).await?;
    ensure!(
        listed.len() == 4 && listed.iter().all(|c| c.image_id == id),
        "{listed:?}"
    );
    world.client.start_container(&listed[0].id).await?;
    ensure!(world.ended(&listed[0].id).await?.exit_code == 0);
    let config = world.container_config("too-late", &["true"]);
    let (code_, message) = code(world.create(&pod, &sandbox, config).await)?;
    ensure!(
        code_ == Code::NotFound && message.contains(&world.image),
        "{code_}: {message}"
    );
    world.client.remove_pod_sandbox(&pod).await?;
    let layers = std::fs::read_dir(world.machine.path("/var/lib/ocid/layers"))?.count();
    ensure!(layers == 0, "{layers} layers that nobody needs");

    // A digest that was asked for is a name, too; one that comes with a tag is none. The last name takes the image
    // along.
    ensure!(world.client.pull_image(&names[0], None).await? == id);
    let with_tag = format!("127.0.0.1:5000/library/busybox@{index}");
    world.client.remove_image(&with_tag).await?;
    ensure!(here(&world, &with_tag).await?.repo_tags == names[..1]);
    ensure!(world.client.pull_image(&by_digest, None).await? == id);
    world.client.remove_image(&names[0]).await?;
    world.client.remove_image(&names[0]).await?;
    let left = here(&world, &by_digest).await?;
    ensure!(left.id == id && left.repo_tags.is_empty(), "{left:?}");
    world.client.remove_image(&by_digest).await?;
    let left = world.client.list_images(None).await?;
    ensure!(left.is_empty(), "{left:?}");
    drop(second);
    world.assert_clean(&IMAGES).await
}

#[tokio::test]
async fn a_tag_moves_and_users_are_told() -> Result<()> {
    let world = World::start().await?;
    let old = here(&world, &world.image).await?;
    ensure!(old.uid.is_none() && old.username.is_empty(), "{old:?}");

    // The tag is the new image's from its pull on; the old one stays, by its digest.
    let config = json!({ "User": "1234:extra" });
    world
        .registry
        .push(&world.machine, "library/busybox", "1", &busybox(config)?)?;
    ensure!(
        here(&world, &world.image).await?.id == old.id,
        "not pulled yet"
    );
    let id = world.client.pull_image(&world.image, None).await?;
    ensure!(id != old.id && here(&world, &world.image).await?.id == id);
    let left = here(&world, &old.id).await?;
    ensure!(
        left.repo_tags.is_empty() && left.repo_digests == old.repo_digests,
        "{left:?}"
    );
    ensure!(here(&world, &old.repo_digests[0]).await?.id == old.id);
    ensure!(world.client.list_images(None).await?.len() == 2);

    // A number is a uid, anything else a name; the group is neither's.
    for (user, uid, username) in [
        ("1234", Some(1234), ""),
        ("1234:extra", Some(1234), ""),
        ("0", Some(0), ""),
        ("worker", None, "worker"),
        ("worker:extra", None, "worker"),
        ("", None, ""),
    ] {
        let whole = busybox(json!({ "User": user, "Labels": { "for": user } }))?;
        let name = world.registry.push(&world.machine, "users", "1", &whole)?;
        let id = world.client.pull_image(&name, None).await?;
        let found = here(&world, &name).await?;
        ensure!(found.id == id, "{found:?}");
        ensure!(found.uid.map(|u| u.value) == uid, "{user}: {found:?}");
        ensure!(found.username == username, "{user}: {found:?}");
        let answer = world.client.image_status(&name, true).await?;
        let info: serde_json::Value =
            serde_json::from_str(answer.info.get("info").context("no info")?)?;
        ensure!(info["labels"]["for"] == user, "{info}");
        let listed = world.client.list_images(None).await?;
        ensure!(listed.contains(&found), "{listed:?}");
        world.client.remove_image(&id).await?;
    }
    world.assert_clean(&IMAGES).await
}
