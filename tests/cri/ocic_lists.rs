//! Lists of `ocic`, and how things are called in it.

use anyhow::{Result, ensure};
use crio_setup::ocic::json;
use serde_json::Value;

use crate::ocic_verbs::{USED, table};
use crate::support::node::{ocic_fails, ocic_json, ocic_ok};
use crate::world::World;

#[tokio::test(flavor = "multi_thread")]
async fn lists_and_how_things_are_called() -> Result<()> {
    let world = World::start().await?;
    let machine = &world.machine;
    let sandbox = world.pod_config("shop");
    let pod = world.run_pod(&sandbox).await?;
    let sleeper = || world.container_config("web", &["sleep", "600"]);
    let mut first = sleeper();
    first.labels = [("tier".to_owned(), "front".to_owned())].into();
    let web = world.up(&pod, &sandbox, first).await?;
    let config = world.container_config("brief", &["true"]);
    let brief = world.up(&pod, &sandbox, config).await?;
    world.ended(&brief).await?;

    ensure!(ocic_ok(machine, &["ps", "-q"])? == web);
    ensure!(ocic_ok(machine, &["ps", "-aq"])? == format!("{brief}\n{web}"));
    for filter in [
        &["--name", "we"][..],
        &["--pod", "shop"],
        &["--pod", &pod[..9]],
        &["--label", "tier=front"],
        &["--state", "running"],
        &["--image", &world.image],
        &["--id", "web"],
    ] {
        let mut args = vec!["ps", "-q"];
        args.extend(filter);
        let got = ocic_ok(machine, &args)?;
        ensure!(got == web, "{filter:?}: {got}");
    }
    ensure!(ocic_ok(machine, &["ps", "-q", "--image", "127.0.0.1:5000/other"])?.is_empty());
    ensure!(ocic_ok(machine, &["ps", "-aq", "--label", "tier=back"])?.is_empty());
    ensure!(ocic_ok(machine, &["ps", "-q", "--latest"])? == brief);
    ensure!(ocic_ok(machine, &["ps", "-aq", "--last", "2"])? == format!("{brief}\n{web}"));
    ensure!(ocic_ok(machine, &["pods", "-q"])? == pod);
    ensure!(
        ocic_ok(
            machine,
            &["pods", "-q", "--name", "ho", "--namespace", "tests"]
        )? == pod
    );
    ensure!(ocic_ok(machine, &["pods", "-q", "--namespace", "other"])?.is_empty());
    ensure!(ocic_ok(machine, &["pods", "-q", "--state", "NotReady"])?.is_empty());

    let text = ocic_ok(machine, &["ps", "-a"])?;
    let rows = table(&text);
    ensure!(
        rows[0][..2] == ["CONTAINER", "NAME"] && rows.len() == 3,
        "{text}"
    );
    ensure!(
        rows[2][..4] == [&web[..13], "web", "0", "running"],
        "{text}"
    );
    // Not shortened where nobody sits in front of it; fitting where somebody does.
    ensure!(rows[2].contains(&world.image.as_str()), "{text}");
    let program = machine.product("ocic")?;
    let line = format!("script -qec 'stty cols 76; {program} ps -a' /dev/null </dev/null");
    let shown = machine.run(&["sh", "-c", &line])?;
    ensure!(
        shown.contains('\u{2026}') && shown.contains(&web[..13]),
        "{shown}"
    );
    for line in shown.lines() {
        ensure!(line.trim_end().chars().count() <= 76, "{shown}");
    }

    let listed = ocic_json(machine, &["ps", "-a"])?;
    let listed = &listed["containers"][1];
    ensure!(listed["podSandboxId"] == pod.as_str(), "{listed}");
    ensure!(listed["state"] == "CONTAINER_RUNNING", "{listed}");
    ensure!(
        listed["createdAt"]
            .as_str()
            .is_some_and(|at| at.len() == 19),
        "{listed}"
    );
    let both = ocic_ok(machine, &["inspect", "web", &brief[..8]])?;
    let both: Value = serde_json::from_str(&both)?;
    ensure!(both[0]["status"]["id"] == web.as_str(), "{both}");
    ensure!(both[1]["status"]["exitCode"] == 0, "{both}");
    ensure!(
        both[0]["info"]["pid"].is_number() || both[0]["info"]["pid"].is_string(),
        "{both}"
    );
    // As everything that the daemon says, and in the same form.
    let told = world.client.container_status(&web, true).await?;
    let mut told = json::value(&told)?;
    let mut shown = both[0].clone();
    for volatile in [&mut told, &mut shown] {
        volatile["info"] = Value::Null;
    }
    ensure!(told == shown, "{told} {shown}");
    let inspected = ocic_ok(machine, &["inspectp", "tests/shop"])?;
    let inspected: Value = serde_json::from_str(&inspected)?;
    ensure!(
        inspected["status"]["state"] == "SANDBOX_READY",
        "{inspected}"
    );
    let text = ocic_ok(machine, &["inspectp", "-o", "table", "shop"])?;
    ensure!(text.contains("Name") && text.contains("10.88."), "{text}");
    let image = ocic_ok(machine, &["inspecti", &world.image])?;
    let image: Value = serde_json::from_str(&image)?;
    ensure!(
        image["status"]["size"].is_string() && image["info"].is_object(),
        "{image}"
    );
    let text = ocic_ok(machine, &["images", "--digests", &world.image])?;
    let rows = table(&text);
    ensure!(
        rows[1][0] == world.image && rows[1][1].starts_with("sha256:"),
        "{text}"
    );
    ensure!(ocic_ok(machine, &["images", "-q", "127.0.0.1:5000/none"])?.is_empty());

    // Another of the same name, in another pod.
    let sandbox = world.pod_config("stall");
    let other = world.run_pod(&sandbox).await?;
    let twin = world.up(&other, &sandbox, sleeper()).await?;
    let said = ocic_fails(
        machine,
        &["stop", "web"],
        1,
        &["more than one container", "hint: "],
    )?;
    ensure!(
        said.contains(&web[..13]) && said.contains(&twin[..13]),
        "{said}"
    );
    for (args, code, words) in [
        (
            &["inspect", "nobody"][..],
            1,
            &["no container `nobody`", "ocic ps -a"][..],
        ),
        (&["inspectp", "web"], 1, &["no pod `web`", "ocic pods"]),
        (&["inspecti", "none:1"], 1, &["no image `none:1`"]),
        (&["logs", ""], 1, &["no container ``"]),
        (&["inspect", &"0".repeat(64)], 1, &["NotFound"]),
        (&["ps", "--state", "ready"], 2, &["possible values"]),
        (&["ps", "--nothing"], 2, &["--nothing"]),
        (&["rm"], 2, &["required"]),
        (
            &["--socket", "/nonexistent", "ps"],
            1,
            &["connect to", "hint: "],
        ),
        (
            &["--socket", "tcp://127.0.0.1:1", "ps"],
            2,
            &["unix socket"],
        ),
    ] {
        ocic_fails(machine, args, code, words)?;
    }

    // A reader that has gone is nothing to speak of.
    let line = format!(
        "{program} ps -a | true; {program} inspect {web} | head -1; {program} man | head -1"
    );
    let output = machine.output(&["sh", "-c", &line])?;
    ensure!(output.stderr.is_empty(), "{output:?}");

    // Where the daemon is: crictl's file, its variable, its options.
    let real = "/run/ocid/ocid.sock";
    let at = |environment: &str, options: &str| {
        let line = format!("{environment} {program} {options} ps -q --pod shop");
        machine.output(&["sh", "-c", &line])
    };
    machine.write(
        "/etc/crictl.yaml",
        "runtime-endpoint: unix:///nonexistent\n",
        0o644,
    )?;
    let output = at("", "")?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(
        output.status.code() == Some(1) && said.contains("/nonexistent"),
        "{said}"
    );
    for (environment, options) in [
        (
            format!("CONTAINER_RUNTIME_ENDPOINT=unix://{real}"),
            String::new(),
        ),
        (format!("OCIC_SOCKET={real}"), String::new()),
        (String::new(), format!("-r unix://{real} -t 20s")),
        (String::new(), "--config /srv/crictl.yaml".to_owned()),
    ] {
        let file = format!("runtime-endpoint: {real}\ntimeout: 20\n");
        machine.write("/srv/crictl.yaml", file, 0o644)?;
        let output = at(&environment, &options)?;
        let got = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(got.trim() == web, "{environment} {options}: {output:?}");
    }
    machine.write("/etc/crictl.yaml", "runtime-endpoint: [\n", 0o644)?;
    ocic_fails(machine, &["ps"], 2, &["/etc/crictl.yaml"])?;
    std::fs::remove_file(machine.path("/etc/crictl.yaml"))?;
    std::fs::remove_file(machine.path("/srv/crictl.yaml"))?;
    world.assert_clean(&USED).await
}
