//! crictl's verbs as people type them into `ocic`: the life of pods and containers, images, and what is being used.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::liar::Liar;
use crate::pack::{Compression, Form, Layer, Packed, archive};
use crate::support::node::{ocic, ocic_fails, ocic_json, ocic_ok};
use crate::world::{LIMIT, World, eventually};

/// What may differ afterwards: see the tests of streams.
pub const USED: [&str; 2] = ["/tmp", "fe80::"];

/// Names of the columns, and each row's cells as far as they hold no white space.
pub fn table(text: &str) -> Vec<Vec<&str>> {
    let lines = text.lines();
    lines.map(|l| l.split_whitespace().collect()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_life_of_pods_and_containers() -> Result<()> {
    let world = World::start().await?;
    let machine = &world.machine;
    let program = machine.product("ocic")?;
    let events = machine.spawn(&[&program, "events", "-o", "json"], &[])?;
    let lines = machine.spawn(&[&program, "events"], &[])?;
    events.line_with("listening", LIMIT)?;
    lines.line_with("listening", LIMIT)?;

    let sandbox = world.pod_config("typed");
    let config = world.container_config("sleeper", &["sleep", "600"]);
    machine.write("/srv/pod.json", serde_json::to_vec(&sandbox)?, 0o644)?;
    machine.write("/srv/ctr.json", serde_json::to_vec(&config)?, 0o644)?;
    let pod = ocic_ok(machine, &["runp", "/srv/pod.json"])?;
    let id = ocic_ok(
        machine,
        &["create", "typed", "/srv/ctr.json", "/srv/pod.json"],
    )?;
    ensure!(ocic_ok(machine, &["start", "sleeper"])? == id);
    events.line_with("CONTAINER_STARTED_EVENT", LIMIT)?;
    lines.line_with("started", LIMIT)?;
    ensure!(
        ocic_ok(
            machine,
            &["exec", "--sync", "--timeout", "20", "sleeper", "echo", "hi"]
        )? == "hi"
    );
    let output = ocic(
        machine,
        &["exec", "--sync", "sleeper", "sh", "-c", "exit 9"],
    )?;
    ensure!(output.status.code() == Some(9), "{output:?}");
    ocic_fails(
        machine,
        &["exec", "-s", "--timeout", "1", "sleeper", "sleep", "99"],
        1,
        &["DeadlineExceeded"],
    )?;

    ensure!(
        ocic_ok(
            machine,
            &[
                "update",
                "--memory",
                "64Mi",
                "--cpu-shares",
                "512",
                "sleeper"
            ]
        )? == id
    );
    let status = world.status(&id).await?;
    let limits = status
        .resources
        .and_then(|r| r.linux)
        .context("no limits")?;
    ensure!(
        limits.memory_limit_in_bytes == 64 << 20 && limits.cpu_shares == 512,
        "{limits:?}"
    );

    ocic_fails(machine, &["rm", "sleeper"], 1, &["runs", "hint: "])?;
    ocic_fails(machine, &["rmp", "typed"], 1, &["is ready", "hint: "])?;
    ensure!(ocic_ok(machine, &["stop", "-t", "0", "sleeper"])? == id);
    events.line_with("CONTAINER_STOPPED_EVENT", LIMIT)?;
    ensure!(ocic_ok(machine, &["rm", "sleeper"])? == id);
    let last = events.line_with("CONTAINER_DELETED_EVENT", LIMIT)?;
    let last: Value = serde_json::from_str(&last)?;
    ensure!(last["containerId"] == id.as_str(), "{last}");
    let said = lines.line_with("deleted", LIMIT)?;
    ensure!(said.contains(&id), "{said}");
    let (mut events, mut lines) = (events, lines);
    for listener in [&mut events, &mut lines] {
        listener.signal(Signal::SIGINT)?;
        ensure!(listener.wait()?.success());
    }
    ensure!(ocic_ok(machine, &["stopp", "typed"])? == pod);
    ensure!(ocic_ok(machine, &["rmp", "typed"])? == pod);

    // In one go: from files as with crictl, and from an image.
    let id = ocic_ok(machine, &["run", "/srv/ctr.json", "/srv/pod.json"])?;
    ensure!(ocic_ok(machine, &["ps", "-q", "--pod", "typed"])? == id);
    let args = [
        "run",
        "--name",
        "adhoc",
        "-e",
        "A=b c",
        "--workdir",
        "/tmp",
        &world.image,
    ];
    let script = [
        "sh",
        "-c",
        "echo \"$A $PWD $HOSTNAME\"; hostname; sleep 600",
    ];
    let adhoc = ocic_ok(machine, &[&args[..], &script].concat())?;
    let logs = machine.spawn(&[&program, "logs", "-f", "adhoc"], &[])?;
    logs.line_with("b c /tmp", LIMIT)?;
    logs.line_with("adhoc", LIMIT)?;
    ocic_fails(
        machine,
        &["run", &world.image, "/no/such"],
        1,
        &["/no/such"],
    )?;
    ocic_fails(
        machine,
        &["run", "--no-pull", "127.0.0.1:5000/none:1"],
        1,
        &["none"],
    )?;
    ocic_fails(
        machine,
        &["run", "127.0.0.1:5000/none:1"],
        1,
        &["pull", "none"],
    )?;
    ensure!(ocic_ok(machine, &["pods", "-q"])?.lines().count() == 2);

    for (content, words) in [
        ("{", &["is not JSON"][..]),
        ("{}", &["`metadata` is missing"]),
        (r#"{"metadata": 7}"#, &["`metadata`"]),
        ("[]", &["expected"]),
    ] {
        machine.write("/srv/bad.json", content, 0o644)?;
        ocic_fails(machine, &["runp", "/srv/bad.json"], 2, words)?;
        ocic_fails(machine, &["create", "typed", "/srv/bad.json"], 2, words)?;
        ocic_fails(
            machine,
            &["run", "/srv/bad.json", "/srv/pod.json"],
            2,
            words,
        )?;
        ocic_fails(
            machine,
            &["pull", "--pod-config", "/srv/bad.json", "x"],
            2,
            words,
        )?;
    }
    ocic_fails(machine, &["runp", "/srv/none.json"], 2, &["/srv/none.json"])?;
    ocic_fails(machine, &["runp", "/"], 2, &["read the config `/`"])?;
    ocic_fails(
        machine,
        &["runp", "--runtime", "none", "/srv/pod.json"],
        1,
        &["none"],
    )?;
    ocic_fails(
        machine,
        &["update", "--memory", "64Mi", "nobody"],
        1,
        &["nobody"],
    )?;

    let stopped = ocic_ok(machine, &["stop", "-t", "0", "--all"])?;
    ensure!(
        stopped.contains(&id) && stopped.contains(&adhoc),
        "{stopped}"
    );
    let mut logs = logs;
    ensure!(
        logs.wait()?.success(),
        "the end of what it follows is its own"
    );
    ensure!(ocic_ok(machine, &["rm", "-a"])?.lines().count() == 2);
    ensure!(ocic_ok(machine, &["stopp", "-a"])?.lines().count() == 2);
    ensure!(ocic_ok(machine, &["rmp", "-fa"])?.lines().count() == 2);
    ensure!(ocic_ok(machine, &["rmp", "-fa"])?.is_empty());
    for file in ["/srv/pod.json", "/srv/ctr.json", "/srv/bad.json"] {
        std::fs::remove_file(machine.path(file))?;
    }
    world.assert_clean(&USED).await
}

#[tokio::test(flavor = "multi_thread")]
async fn images_with_and_without_credentials() -> Result<()> {
    let world = World::start().await?;
    let machine = &world.machine;
    let program = machine.product("ocic")?;
    let on = SocketAddr::from((Ipv4Addr::LOCALHOST, 5001));
    let liar = Liar::serving(machine.listen(on)?);
    let layer = Layer::new(&archive(&[("secret", b"x")]), Compression::Gzip);
    liar.serve("1", &Packed::new(Form::Oci, "secret", &[layer]));
    // `dTpw` is `u:p`.
    liar.demand("Basic dTpw", "Basic realm=\"x\"");
    let image = liar.image("1");

    ocic_fails(machine, &["pull", &image], 1, &["Unauthenticated"])?;
    for wrong in [&["--creds", "u:hush"][..], &["--auth", "dTpodXNo"]] {
        let args = [&["pull", &image], wrong].concat();
        let said = ocic_fails(machine, &args, 1, &["Unauthenticated"])?;
        ensure!(
            !said.contains("hush") && !said.contains("dTpodXNo"),
            "{said}"
        );
    }
    for (args, words) in [
        (["--creds", ":hush"], "no user"),
        (["--creds", "u:"], "no password"),
        (["--auth", "hush"], "base64"),
        (["-a", "hush"], "KEY=VALUE"),
    ] {
        ocic_fails(
            machine,
            &[&["pull", &image], &args[..]].concat(),
            2,
            &[words],
        )?;
    }
    let pulled = ocic_ok(machine, &["pull", "--creds", "u:p", &image])?;
    ensure!(ocic_ok(machine, &["images", "-q", &image])? == pulled);
    for line in [
        format!("echo p | {program} pull --creds u {image}"),
        format!("CRICTL_CREDS=u:p {program} pull {image}"),
        format!("CRICTL_AUTH=dTpw {program} pull {image}"),
        // A terminal is asked, and does not show what is typed.
        format!(
            "echo p | script -qec '{program} pull --creds u {image}' /dev/null | tail -1 | tr -d '\\r'"
        ),
    ] {
        let got = machine.run(&["sh", "-c", &line])?;
        ensure!(got == pulled, "{line}: {got}");
    }
    let output = machine.output(&[
        "sh",
        "-c",
        &format!("{program} pull --creds u {image} </dev/null"),
    ])?;
    ensure!(output.status.code() == Some(2), "{output:?}");

    let kept = ocic_json(machine, &["images"])?;
    ensure!(kept["images"].as_array().map(Vec::len) == Some(2), "{kept}");
    // A container, even at its end, keeps its image from being pruned.
    let sandbox = world.pod_config("user");
    let pod = world.run_pod(&sandbox).await?;
    let config = world.container_config("user", &["true"]);
    let id = world.up(&pod, &sandbox, config).await?;
    world.ended(&id).await?;
    let pruned = ocic_ok(machine, &["rmi", "--prune"])?;
    ensure!(pruned == pulled, "{pruned}");
    ensure!(ocic_ok(machine, &["rmi", "--prune"])?.is_empty());
    ensure!(
        ocic_ok(machine, &["images", &world.image, "-q"])?
            .lines()
            .count()
            == 1
    );
    ocic_fails(machine, &["rmi", &image], 1, &["no image"])?;
    ocic_ok(machine, &["pull", "--creds", "u:p", &image])?;
    ensure!(ocic_ok(machine, &["rmi", &image])? == image);
    let both = ocic_fails(machine, &["rmi", "x:1", "y:1"], 1, &["no image `x:1`"])?;
    ensure!(both.contains("no image `y:1`"), "{both}");
    world.assert_clean(&USED).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_being_used() -> Result<()> {
    let world = World::start().await?;
    let machine = &world.machine;
    let program = machine.product("ocic")?;
    let sandbox = world.pod_config("busy");
    let pod = world.run_pod(&sandbox).await?;
    let busy = world.container_config("busy", &["sh", "-c", "echo on; while :; do :; done"]);
    let id = world.up(&pod, &sandbox, busy).await?;
    let idle = world.container_config("idle", &["sleep", "600"]);
    world.up(&pod, &sandbox, idle).await?;

    let text = ocic_ok(machine, &["stats"])?;
    let rows = table(&text);
    ensure!(
        rows.len() == 3 && rows[0][..2] == ["CONTAINER", "NAME"],
        "{text}"
    );
    let row = rows.iter().find(|row| row[1] == "busy").context("no row")?;
    ensure!(row[0] == &id[..13], "{text}");
    // It may be starved on a loaded machine, but it runs.
    ensure!(row[2].parse::<f64>()? > 0.0, "{text}");
    for one in [&["stats", "busy"][..], &["stats", "--id", &id[..9]]] {
        ensure!(table(&ocic_ok(machine, one)?).len() == 2);
    }
    ensure!(table(&ocic_ok(machine, &["stats", "--pod", "busy"])?).len() == 3);
    let all = ocic_json(machine, &["stats", "busy"])?;
    let one = &all["stats"][0];
    ensure!(one["attributes"]["id"] == id.as_str(), "{one}");
    let used = &one["memory"]["workingSetBytes"]["value"];
    ensure!(
        used.as_str().is_some_and(|v| v.parse::<u64>().is_ok()),
        "{one}"
    );
    let text = ocic_ok(machine, &["statsp", "busy"])?;
    let rows = table(&text);
    ensure!(
        rows.len() == 2 && rows[1][..3] == [&pod[..13], "busy", "tests"],
        "{text}"
    );
    let all = ocic_json(machine, &["statsp"])?;
    ensure!(
        all["stats"][0]["linux"]["process"]["processCount"]["value"].is_string(),
        "{all}"
    );

    let watch = machine.spawn(
        &[&program, "stats", "-w", "--interval", "50ms", "busy"],
        &[],
    )?;
    for _ in 0..3 {
        watch.line_with("busy", LIMIT)?;
    }
    watch.signal(Signal::SIGINT)?;
    let mut watch = watch;
    ensure!(watch.wait()?.success());
    ocic_fails(machine, &["stats", "nobody"], 1, &["no container `nobody`"])?;
    ocic_fails(machine, &["statsp", "nobody"], 1, &["no pod `nobody`"])?;
    ocic_fails(machine, &["stats", "--interval", "0"], 2, &["--interval"])?;

    let text = ocic_ok(machine, &["imagefsinfo"])?;
    ensure!(
        text.contains("images") && text.contains("containers"),
        "{text}"
    );
    let info = ocic_json(machine, &["imagefsinfo"])?;
    ensure!(
        info["imageFilesystems"][0]["usedBytes"]["value"].is_string(),
        "{info}"
    );
    let text = ocic_ok(machine, &["runtime-config"])?;
    ensure!(text.contains("cgroupfs"), "{text}");
    let config = ocic_json(machine, &["runtime-config"])?;
    ensure!(config["linux"]["cgroupDriver"] == "CGROUPFS", "{config}");
    ensure!(ocic_json(machine, &["version"])?["runtimeName"] == "ocid");
    let info = ocic_json(machine, &["info"])?;
    ensure!(
        info["status"]["conditions"][0]["type"] == "RuntimeReady",
        "{info}"
    );
    let descriptors = ocic_json(machine, &["metricdescs"])?;
    let name = descriptors["descriptors"][0]["name"]
        .as_str()
        .context("no descriptor")?;
    ensure!(ocic_ok(machine, &["metricdescs"])?.contains(name));
    eventually("metrics of the pod", async || {
        Ok(ocic_ok(machine, &["metricsp"])?.contains(&pod[..13]))
    })
    .await?;
    ocic_fails(
        machine,
        &["checkpoint", "--export", "c.tar", "busy"],
        2,
        &["whole path"],
    )?;
    ocic_fails(
        machine,
        &["checkpoint", "--export", "/srv/c.tar", "nobody"],
        1,
        &["no container"],
    )?;
    ocic_fails(
        machine,
        &["update-runtime-config", "--pod-cidr", "nonsense"],
        1,
        &["nonsense"],
    )?;
    world.assert_clean(&USED).await
}
