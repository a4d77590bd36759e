//! Lists of statistics: what filters choose, and the same as streams.

use anyhow::{Context, Result, ensure};
use crio_setup::cri::v1;

use crate::stats::list;
use crate::world::World;

#[tokio::test]
async fn filters_choose_and_streams_say_the_same() -> Result<()> {
    let world = World::start().await?;
    let mut ids = Vec::new();
    let mut pods = Vec::new();
    for name in ["a", "b"] {
        let mut sandbox = world.pod_config(name);
        sandbox.labels.insert("pod".to_owned(), name.to_owned());
        let pod = world.run_pod(&sandbox).await?;
        for number in ["1", "2"] {
            let mut config = world.container_config(number, &["sleep", "600"]);
            config.labels.insert("number".to_owned(), number.to_owned());
            ids.push(world.up(&pod, &sandbox, config).await?);
        }
        pods.push(pod);
    }
    let label = |key: &str, value: &str| [(key.to_owned(), value.to_owned())].into();
    let filters = [
        (v1::ContainerStatsFilter::default(), vec![3, 2, 1, 0]),
        (
            v1::ContainerStatsFilter {
                id: ids[1].clone(),
                ..Default::default()
            },
            vec![1],
        ),
        (
            v1::ContainerStatsFilter {
                pod_sandbox_id: pods[1].clone(),
                ..Default::default()
            },
            vec![3, 2],
        ),
        (
            v1::ContainerStatsFilter {
                label_selector: label("number", "1"),
                ..Default::default()
            },
            vec![2, 0],
        ),
        (
            v1::ContainerStatsFilter {
                label_selector: label("number", "3"),
                ..Default::default()
            },
            vec![],
        ),
    ];
    let id_of = |stats: v1::ContainerStats| stats.attributes.map(|a| a.id).context("no attributes");
    for (filter, expected) in filters {
        let expected: Vec<_> = expected
            .into_iter()
            .map(|i: usize| ids[i].clone())
            .collect();
        let found = list(&world, filter.clone()).await?.into_iter().map(id_of);
        let found: Vec<_> = found.collect::<Result<_>>()?;
        ensure!(found == expected, "{filter:?}: {found:?}");
        let filter = Some(filter);
        let request = v1::StreamContainerStatsRequest { filter };
        let mut pages = world
            .client
            .runtime()
            .stream_container_stats(request)
            .await?
            .into_inner();
        let mut streamed = Vec::new();
        while let Some(page) = pages.message().await? {
            streamed.extend(page.container_stats);
        }
        let streamed: Vec<_> = streamed.into_iter().map(id_of).collect::<Result<_>>()?;
        ensure!(streamed == expected, "{streamed:?}");
    }
    for (filter, expected) in [
        (v1::PodSandboxStatsFilter::default(), vec![1, 0]),
        (
            v1::PodSandboxStatsFilter {
                id: pods[0].clone(),
                ..Default::default()
            },
            vec![0],
        ),
        (
            v1::PodSandboxStatsFilter {
                label_selector: label("pod", "b"),
                ..Default::default()
            },
            vec![1],
        ),
    ] {
        let expected: Vec<_> = expected
            .into_iter()
            .map(|i: usize| pods[i].clone())
            .collect();
        let id_of = |stats: v1::PodSandboxStats| stats.attributes.map(|a| a.id).unwrap_or_default();
        let filter = Some(filter);
        let request = v1::ListPodSandboxStatsRequest { filter };
        let answer = world
            .client
            .runtime()
            .list_pod_sandbox_stats(request.clone())
            .await?;
        let found: Vec<_> = answer.into_inner().stats.into_iter().map(id_of).collect();
        ensure!(found == expected, "{request:?}: {found:?}");
        let v1::ListPodSandboxStatsRequest { filter } = request;
        let request = v1::StreamPodSandboxStatsRequest { filter };
        let answer = world
            .client
            .runtime()
            .stream_pod_sandbox_stats(request)
            .await?;
        let mut pages = answer.into_inner();
        let mut streamed = Vec::new();
        while let Some(page) = pages.message().await? {
            streamed.extend(page.pod_sandbox_stats.into_iter().map(id_of));
        }
        ensure!(streamed == expected, "{streamed:?}");
    }
    let unknown = v1::PodSandboxStatsRequest {
        pod_sandbox_id: "f".repeat(64),
    };
    let refused = world.client.runtime().pod_sandbox_stats(unknown).await;
    ensure!(refused.is_err_and(|s| s.code() == tonic::Code::NotFound));
    world.assert_clean(&[]).await
}

/// With a period that is never over in this test: what was found once is the answer, for as long as it lives.
#[tokio::test]
async fn answers_are_of_the_last_collection_where_there_is_a_period() -> Result<()> {
    let rarely = (
        "/etc/ocid/ocid.conf.d/10-stats.conf",
        "[crio.stats]\nstats_collection_period = 3600\n",
    );
    let mut world = World::with(&[rarely]).await?;
    let sandbox = world.pod_config("rarely");
    let pod = world.run_pod(&sandbox).await?;
    let busy = ["sh", "-c", "while true; do :; done"];
    let id = world
        .up(&pod, &sandbox, world.container_config("busy", &busy))
        .await?;
    let of_pod = async || {
        let pod_sandbox_id = pod.clone();
        let request = v1::PodSandboxStatsRequest { pod_sandbox_id };
        let answer = world.client.runtime().pod_sandbox_stats(request).await?;
        answer.into_inner().stats.context("no stats")
    };
    let first = list(&world, v1::ContainerStatsFilter::default()).await?;
    ensure!(
        first.len() == 1 && first.iter().all(|one| one.cpu.is_some()),
        "{first:?}"
    );
    let whole = of_pod().await?;
    let linux = whole.linux.as_ref().context("nothing of Linux")?;
    ensure!(
        linux.containers == first && linux.network.is_some(),
        "{whole:?}"
    );
    for _ in 0..3 {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        ensure!(list(&world, v1::ContainerStatsFilter::default()).await? == first);
        ensure!(of_pod().await? == whole);
    }
    // Another is measured for the first who asks.
    let other = world.container_config("other", &["sleep", "600"]);
    world.up(&pod, &sandbox, other).await?;
    let both = list(&world, v1::ContainerStatsFilter::default()).await?;
    ensure!(both.len() == 2 && both.ends_with(&first), "{both:?}");
    world
        .client
        .stop_container(&id, std::time::Duration::ZERO)
        .await?;
    world.ended(&id).await?;
    ensure!(list(&world, v1::ContainerStatsFilter::default()).await? == both[..1]);

    // And with a short one they come by themselves.
    let often = "[crio.stats]\ncollection_period = 1\n";
    let place = "/etc/ocid/ocid.conf.d/10-stats.conf";
    world.machine.write(place, often, 0o644)?;
    world.restart(nix::sys::signal::Signal::SIGTERM).await?;
    let at = async |world: &World| -> Result<i64> {
        let found = list(world, v1::ContainerStatsFilter::default()).await?;
        let found = found.first().context("nothing")?;
        Ok(found.cpu.as_ref().context("no cpu")?.timestamp)
    };
    let first = at(&world).await?;
    crate::world::eventually(
        "a second collection",
        async || Ok(at(&world).await? > first),
    )
    .await?;
    world.assert_clean(&[]).await
}
