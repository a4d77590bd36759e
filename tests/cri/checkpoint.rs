//! CheckpointContainer: where it is refused, what an archive holds, and how one that fails is undone. The runtime's
//! part is played by a script that does nothing else than checkpoints; see `checkpoint_criu.rs` for the real one.

use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, symlink};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use crio_setup::cri::v1::ContainerState;
use crio_setup::ocic::client::ClientError;
use nix::sys::signal::Signal;
use serde_json::Value;
use tonic::Code;

use crate::support::Machine;
use crate::world::{World, code, eventually};

/// Says that its own program runs, writes and deletes files, and answers on a FIFO.
pub const PROGRAM: &str = "trap 'exit 7' TERM; mkfifo /tmp/f; echo new >/tmp/new; rm /etc/group; echo here; \
    while :; do read x </tmp/f; echo got $x; done";
const NOBODY: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

const RUNTIME: &str = "/srv/played/runc";
const PLAY: &str = "/srv/played/checkpoint";
/// Everything but a checkpoint is the real runtime's.
const SCRIPT: &str = r#"#!/bin/sh
images= work= played= last=
for word; do
    case $last in --image-path) images=$word ;; --work-path) work=$word ;; esac
    case $word in checkpoint) played=yes ;; --help) exit 0 ;; esac
    last=$word
done
[ -n "$played" ] || exec runc "$@"
id=$last
export images work id
exec sh -e /srv/played/checkpoint "$@"
"#;
/// What criu leaves behind, in names; and whether the container was frozen.
const WELL: &str = r#"
echo inventory >"$images/inventory.img"
printf pages >"$images/pages-1.img"
echo log >"$work/dump.log"
echo statistics >"$work/stats-dump"
echo "$*" >"$images/called"
runc --root /run/ocid/oci/runc state "$id" >"$images/state" 2>&1 || true
"#;
const CONFIG: &str = "/etc/ocid/ocid.conf.d/10-played.conf";
const PLAYED: &str = "[crio.runtime.runtimes.runc]\nruntime_path = \"/srv/played/runc\"\n";

const CRIU: &str = "/usr/local/sbin/criu";

/// A world whose runtime has played checkpoints, and a criu that only says its version.
pub async fn played() -> Result<World> {
    let machine = Machine::start()?;
    machine.write(RUNTIME, SCRIPT, 0o755)?;
    says(&machine, "Version: 4.2.1")?;
    World::on(machine, &[(CONFIG, PLAYED), (PLAY, WELL)]).await
}

fn says(machine: &Machine, text: &str) -> Result<()> {
    machine.write(CRIU, format!("#!/bin/sh\necho '{text}'\n"), 0o755)
}

/// A pod, and a container that runs [`PROGRAM`] in it.
pub async fn subject(world: &World) -> Result<(String, String)> {
    let sandbox = world.pod_config("subject");
    let pod = world.run_pod(&sandbox).await?;
    let config = world.container_config("subject", &["sh", "-c", PROGRAM]);
    let id = world.up(&pod, &sandbox, config).await?;
    said(world, &id, "here").await?;
    Ok((pod, id))
}

pub async fn said(world: &World, id: &str, word: &str) -> Result<()> {
    let log = world.machine.path(&world.status(id).await?.log_path);
    eventually(&format!("it says `{word}`"), async || {
        Ok(std::fs::read_to_string(&log)?.contains(word))
    })
    .await
}

/// It runs, hears and answers.
pub async fn is_well(world: &World, id: &str) -> Result<()> {
    let status = world.status(id).await?;
    ensure!(
        status.state() == ContainerState::ContainerRunning,
        "{status:?}"
    );
    let word = format!("word-{}", std::process::id());
    world.shell(id, &format!("echo {word} >/tmp/f")).await?;
    said(world, id, &format!("got {word}")).await
}

/// What a checkpoint leaves besides its archive: nothing, and a container that is not frozen.
pub async fn nothing_left(world: &World, folder: &str, archives: usize) -> Result<()> {
    let names = |path: &str| -> Result<Vec<String>> {
        let entries = std::fs::read_dir(world.machine.path(path))?;
        let names = entries.map(|e| Ok(e?.file_name().to_string_lossy().into_owned()));
        names.collect()
    };
    let left = names("/var/lib/ocid/tmp")?;
    ensure!(left.is_empty(), "{left:?}");
    let there = names(folder)?;
    ensure!(there.len() == archives, "{there:?}");
    for container in world.client.list_containers(None).await? {
        let path = format!("/var/lib/ocid/containers/{}/state.json", container.id);
        let record: Value = serde_json::from_slice(&std::fs::read(world.machine.path(&path))?)?;
        ensure!(record["frozen"] == false, "{record}");
    }
    Ok(())
}

/// The regular files of a tar archive with their content, and the names of all else.
pub fn unpack(bytes: &[u8]) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut files = BTreeMap::new();
    for entry in tar::Archive::new(bytes).entries()? {
        let mut entry = entry?;
        let mut content = Vec::new();
        entry.read_to_end(&mut content)?;
        files.insert(entry.path()?.display().to_string(), content);
    }
    Ok(files)
}

pub async fn take(world: &World, id: &str, location: &str) -> Result<(), ClientError> {
    let usual = Duration::ZERO;
    world.client.checkpoint_container(id, location, usual).await
}

#[tokio::test]
async fn a_checkpoint_is_refused_where_it_cannot_be() -> Result<()> {
    let mut world = played().await?;
    let (pod, id) = subject(&world).await?;
    world.machine.run(&["mkdir", "-p", "/checkpoints/folder"])?;
    let good = "/checkpoints/c.tar";
    let mut wrong = Vec::new();
    let mut expect = |what: &str, answer, code_: Code, words: &str| -> Result<()> {
        let (got, message) = code(answer)?;
        if got != code_ || !message.contains(words) {
            wrong.push(format!("{what}: {got:?} {message}"));
        }
        Ok(())
    };
    for (location, words) in [
        ("", "`location` is required"),
        ("c.tar", "not an absolute path"),
        ("/checkpoints/../c.tar", "leads out by `..`"),
        ("/checkpoints/", "names no file"),
        ("/checkpoints/folder", "which is a folder"),
        ("/nowhere/c.tar", "a folder that is not there"),
        ("/etc/passwd/c.tar", "below what is no folder"),
    ] {
        let answer = take(&world, &id, location).await;
        expect(location, answer, Code::InvalidArgument, words)?;
    }
    let request = crio_setup::cri::v1::CheckpointContainerRequest {
        container_id: id.clone(),
        location: good.to_owned(),
        timeout: -1,
    };
    let answer = world.client.runtime().checkpoint_container(request).await;
    let status = answer.err().context("answered")?;
    ensure!(status.code() == Code::InvalidArgument, "{status}");
    ensure!(status.message().contains("`timeout` is -1"), "{status}");
    let answer = take(&world, NOBODY, good).await;
    expect("nobody", answer, Code::NotFound, "is not known")?;
    let answer = take(&world, "", good).await;
    expect("no id", answer, Code::InvalidArgument, "container_id")?;

    let sandbox = world.pod_config("subject");
    let created = world.container_config("created", &["true"]);
    let created = world.create(&pod, &sandbox, created).await?;
    let answer = take(&world, &created, good).await;
    expect(
        "created",
        answer,
        Code::FailedPrecondition,
        "is created, not running",
    )?;
    let ended = world.container_config("ended", &["true"]);
    let (_, ended) = world.run(&pod, &sandbox, ended).await?;
    let answer = take(&world, &ended.id, good).await;
    expect(
        "ended",
        answer,
        Code::FailedPrecondition,
        "is exited, not running",
    )?;

    for (text, words) in [
        ("Version: 3.15", "is 3.15"),
        ("nonsense", "is of an unknown one"),
    ] {
        says(&world.machine, text)?;
        let answer = take(&world, &id, good).await;
        expect(text, answer, Code::FailedPrecondition, words)?;
    }
    // Whatever the distribution's package has brought is gone too.
    world.machine.run(&["sh", "-c", "rm -f $(which -a criu)"])?;
    let answer = take(&world, &id, good).await;
    expect(
        "no criu",
        answer,
        Code::FailedPrecondition,
        "`apt-get install criu`",
    )?;
    says(&world.machine, "Version: 4.2.1")?;
    // As crun says it that was built without.
    let without = SCRIPT.replace("--help) exit 0", "--help) echo unknown >&2; exit 1");
    world.machine.write(RUNTIME, without, 0o755)?;
    let answer = take(&world, &id, good).await;
    expect(
        "no runtime",
        answer,
        Code::Unimplemented,
        "built without checkpoints",
    )?;
    world.machine.write(RUNTIME, SCRIPT, 0o755)?;
    let off = format!("[crio.runtime]\nenable_criu_support = false\n{PLAYED}");
    world.machine.write(CONFIG, off, 0o644)?;
    world.restart(Signal::SIGTERM).await?;
    let answer = take(&world, &id, good).await;
    expect(
        "off",
        answer,
        Code::FailedPrecondition,
        "`enable_criu_support`",
    )?;
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    is_well(&world, &id).await?;
    nothing_left(&world, "/checkpoints", 1).await?;
    world.assert_clean(&["/checkpoints", "criu"]).await
}

#[tokio::test]
async fn an_archive_holds_what_other_programs_read() -> Result<()> {
    let world = played().await?;
    let sandbox = world.pod_config("subject");
    let pod = world.run_pod(&sandbox).await?;
    world
        .machine
        .run(&["mkdir", "-p", "/checkpoints", "/srv/data"])?;
    let mut config = world.container_config("subject", &["sh", "-c", PROGRAM]);
    config.labels.insert("a".to_owned(), "label".to_owned());
    config
        .annotations
        .insert("an".to_owned(), "annotation".to_owned());
    config.mounts.push(crio_setup::cri::v1::Mount {
        container_path: "/data".to_owned(),
        host_path: "/srv/data".to_owned(),
        ..Default::default()
    });
    let id = world.up(&pod, &sandbox, config).await?;
    said(&world, &id, "here").await?;

    let location = "/checkpoints/c.tar";
    let path = world.machine.path(location);
    // What has the name is replaced, not followed.
    symlink("/etc/passwd", &path)?;
    let passwd = std::fs::read(world.machine.path("/etc/passwd"))?;
    take(&world, &id, location).await?;
    ensure!(std::fs::read(world.machine.path("/etc/passwd"))? == passwd);
    let found = std::fs::symlink_metadata(&path)?;
    ensure!(
        found.is_file() && found.mode() & 0o7777 == 0o600,
        "{found:?}"
    );
    nothing_left(&world, "/checkpoints", 1).await?;

    let files = unpack(&std::fs::read(&path)?)?;
    let names: Vec<&str> = files.keys().map(String::as_str).collect();
    let expected = [
        "bind.mounts",
        "checkpoint/",
        "checkpoint/called",
        "checkpoint/inventory.img",
        "checkpoint/pages-1.img",
        "checkpoint/state",
        "config.dump",
        "container.log",
        "deleted.files",
        "dump.log",
        "rootfs-diff.tar",
        "spec.dump",
        "stats-dump",
        "status.dump",
    ];
    ensure!(names == expected, "{names:?}");
    let text = |name: &str| String::from_utf8_lossy(&files[name]).into_owned();
    let json = |name: &str| serde_json::from_slice::<Value>(&files[name]);
    ensure!(text("checkpoint/pages-1.img") == "pages" && text("dump.log") == "log\n");
    ensure!(
        text("checkpoint/state").contains("\"paused\""),
        "{}",
        text("checkpoint/state")
    );
    let called = text("checkpoint/called");
    for option in ["--leave-running", "--file-locks", "--tcp-established", &id] {
        ensure!(
            called.split_whitespace().any(|word| word == option),
            "{called}"
        );
    }
    ensure!(text("container.log").contains("stdout F here"));
    let config = json("config.dump")?;
    ensure!(
        config["id"] == id.as_str() && config["name"] == "subject",
        "{config}"
    );
    ensure!(
        config["runtime"] == "runc" && config["restored"] == false,
        "{config}"
    );
    ensure!(config["rootfsImage"] == world.image.as_str(), "{config}");
    for (key, part) in [
        ("rootfsImageRef", "sha256:"),
        ("rootfsImageName", "@sha256:"),
        ("createdTime", "Z"),
        ("checkpointedTime", "Z"),
    ] {
        let value = config[key].as_str().unwrap_or_default();
        ensure!(value.contains(part), "{key}: {config}");
    }
    let spec = json("spec.dump")?;
    ensure!(spec["process"]["args"][0] == "sh", "{spec}");
    let annotations = &spec["annotations"];
    for (name, value) in [
        ("io.container.manager", "ocid"),
        ("io.kubernetes.cri.container-name", "subject"),
        ("io.kubernetes.cri.sandbox-namespace", "tests"),
        ("io.kubernetes.pod.name", "subject"),
        ("io.kubernetes.cri-o.Annotations", "{\"an\":\"annotation\"}"),
        ("io.kubernetes.cri-o.Labels", "{\"a\":\"label\"}"),
        ("an", "annotation"),
    ] {
        ensure!(annotations[name] == value, "{name}: {annotations}");
    }
    let status = json("status.dump")?;
    ensure!(
        status["state"] == 1 && status["labels"]["a"] == "label",
        "{status}"
    );
    let binds = json("bind.mounts")?;
    let data = binds.as_array().context("no list")?.iter();
    let data = data
        .clone()
        .find(|m| m["destination"] == "/data")
        .context("no `/data`")?;
    ensure!(
        data["source"] == "/srv/data" && data["file_type"] == "directory",
        "{data}"
    );
    ensure!(binds.to_string().contains("\"/etc/hosts\""), "{binds}");
    let deleted = json("deleted.files")?;
    ensure!(deleted == serde_json::json!(["/etc/group"]), "{deleted}");
    let changed = unpack(&files["rootfs-diff.tar"])?;
    ensure!(
        changed["tmp/new"] == b"new\n" && changed.contains_key("tmp/f"),
        "{changed:?}"
    );
    ensure!(
        !changed
            .keys()
            .any(|name| name.starts_with("proc") || name == "etc/hosts"),
        "{changed:?}"
    );

    // And again, in place of the first.
    is_well(&world, &id).await?;
    take(&world, &id, location).await?;
    ensure!(std::fs::symlink_metadata(&path)?.ino() != found.ino());
    is_well(&world, &id).await?;
    nothing_left(&world, "/checkpoints", 1).await?;
    world.assert_clean(&["/checkpoints", "/srv/data"]).await
}

#[tokio::test]
async fn a_checkpoint_that_fails_is_undone() -> Result<()> {
    let world = played().await?;
    let (_, id) = subject(&world).await?;
    let script = "mkdir -p /checkpoints /small && mount -t tmpfs -o size=64k none /small";
    world.machine.run(&["sh", "-c", script])?;
    let play = |script: &str| world.machine.write(PLAY, script, 0o644);

    // It never ends, and has children.
    play("sleep 77777 & echo $! >/checkpoints/child; wait")?;
    let begin = std::time::Instant::now();
    let answer = world
        .client
        .checkpoint_container(&id, "/checkpoints/c.tar", Duration::from_secs(1))
        .await;
    let (got, message) = code(answer)?;
    ensure!(
        got == Code::DeadlineExceeded && begin.elapsed() >= Duration::from_secs(1),
        "{message}"
    );
    eventually("its children have ended", async || {
        let child = std::fs::read_to_string(world.machine.path("/checkpoints/child"))?;
        let state =
            world
                .machine
                .output(&["sh", "-c", &format!("grep State /proc/{child}/status")])?;
        Ok(!state.status.success() || String::from_utf8_lossy(&state.stdout).contains("zombie"))
    })
    .await?;
    world.machine.run(&["rm", "/checkpoints/child"])?;
    nothing_left(&world, "/checkpoints", 0).await?;
    is_well(&world, &id).await?;

    play("echo '(00.1) Error (criu/a.c:1): no such thing' >$work/dump.log; echo bad >&2; exit 1")?;
    let (got, message) = code(take(&world, &id, "/checkpoints/c.tar").await)?;
    ensure!(
        got == Code::Internal && message.contains("bad; criu says: no such thing"),
        "{message}"
    );
    play("echo '(00.1) Error (criu/a.c:1): x: No space left on device' >$work/dump.log; exit 1")?;
    let (got, message) = code(take(&world, &id, "/checkpoints/c.tar").await)?;
    ensure!(got == Code::ResourceExhausted, "{message}");
    nothing_left(&world, "/checkpoints", 0).await?;
    is_well(&world, &id).await?;

    // There is room for criu's part, and not for the archive.
    play(&format!(
        "{WELL}\nhead -c 200000 /dev/urandom >$images/pages-2.img"
    ))?;
    let (got, message) = code(take(&world, &id, "/small/c.tar").await)?;
    ensure!(got == Code::ResourceExhausted, "{got:?} {message}");
    nothing_left(&world, "/small", 0).await?;
    is_well(&world, &id).await?;

    // A stop is not held up by one.
    play("echo here >/checkpoints/mark; sleep 77777")?;
    let checkpoint = take(&world, &id, "/checkpoints/c.tar");
    let stop = async {
        eventually("it is being made", async || {
            Ok(world.machine.exists("/checkpoints/mark"))
        })
        .await?;
        anyhow::Ok(
            world
                .client
                .stop_container(&id, Duration::from_secs(600))
                .await?,
        )
    };
    let (taken, stopped) = tokio::join!(checkpoint, stop);
    stopped?;
    let (got, message) = code(taken)?;
    ensure!(
        got == Code::Aborted && message.contains("being stopped"),
        "{got:?} {message}"
    );
    let status = world.status(&id).await?;
    ensure!(status.exit_code == 7, "{status:?}");
    nothing_left(&world, "/checkpoints", 1).await?;
    world.machine.run(&["umount", "/small"])?;
    world.assert_clean(&["/checkpoints", "/small"]).await
}

#[tokio::test]
async fn a_container_that_ends_meanwhile_is_told() -> Result<()> {
    let world = played().await?;
    let (_, id) = subject(&world).await?;
    world.machine.run(&["mkdir", "-p", "/checkpoints"])?;
    // As when the machine has no memory left; what is frozen dies once it is thawed.
    let script = "runc --root /run/ocid/oci/runc kill \"$id\" KILL; runc --root /run/ocid/oci/runc resume \"$id\" || :; \
        while runc --root /run/ocid/oci/runc state \"$id\" | grep -qE 'running|paused'; do sleep 0.02; done; exit 1";
    world.machine.write(PLAY, script, 0o644)?;
    let (got, message) = code(take(&world, &id, "/checkpoints/c.tar").await)?;
    ensure!(
        got == Code::FailedPrecondition && message.contains("exited"),
        "{got:?} {message}"
    );
    let status = world.ended(&id).await?;
    ensure!(status.exit_code == 137, "{status:?}");
    nothing_left(&world, "/checkpoints", 0).await?;
    world.assert_clean(&["/checkpoints"]).await
}
