//! Container logs: the CRI's format, rotation, sizes, full disks, the end.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use crio_setup::cri::v1;
use crio_setup::host::clock::now_ns;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::world::{World, code, eventually};

/// What a line may be long before it comes in pieces.
const LINE_CAP: usize = 16 * 1024;

/// A line of a log: `TIME STREAM TAG CONTENT`.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    pub time: OffsetDateTime,
    pub stream: String,
    pub partial: bool,
    pub content: Vec<u8>,
}

/// Every line of a log; whatever is not in the CRI's format is an error.
pub fn lines(log: &[u8]) -> Result<Vec<Line>> {
    let Some(log) = log.strip_suffix(b"\n") else {
        ensure!(log.is_empty(), "a log that ends in mid-line");
        return Ok(Vec::new());
    };
    let one = |line: &[u8]| -> Result<Line> {
        let seen = || String::from_utf8_lossy(line).into_owned();
        let mut parts = line.splitn(4, |&b| b == b' ');
        let mut text =
            || -> Result<&str> { Ok(std::str::from_utf8(parts.next().with_context(seen)?)?) };
        let (time, stream, tag) = (text()?, text()?, text()?);
        // Nanoseconds, all nine digits, in UTC.
        ensure!(
            time.len() == "2026-01-02T03:04:05.123456789Z".len(),
            "{time}"
        );
        ensure!(time.ends_with('Z'), "{time}");
        ensure!(["stdout", "stderr"].contains(&stream), "{}", seen());
        ensure!(["F", "P"].contains(&tag), "{}", seen());
        Ok(Line {
            time: OffsetDateTime::parse(time, &Rfc3339).with_context(seen)?,
            stream: stream.to_owned(),
            partial: tag == "P",
            content: parts.next().with_context(seen)?.to_vec(),
        })
    };
    log.split(|&b| b == b'\n').map(one).collect()
}

/// What one stream wrote, pieces put together, a newline after each whole line.
fn written(lines: &[Line], stream: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for line in lines.iter().filter(|l| l.stream == stream) {
        bytes.extend_from_slice(&line.content);
        if !line.partial {
            bytes.push(b'\n');
        }
    }
    bytes
}

/// The numbers that `seq` wrote.
fn numbers(lines: &[Line]) -> Result<Vec<u64>> {
    let number = |line: &Line| -> Result<u64> {
        ensure!(!line.partial, "{line:?}");
        Ok(std::str::from_utf8(&line.content)?.parse()?)
    };
    lines.iter().map(number).collect()
}

fn log_of(world: &World, status: &v1::ContainerStatus) -> PathBuf {
    world.machine.path(&status.log_path)
}

async fn read_log(world: &World, id: &str) -> Result<Vec<Line>> {
    let status = world.status(id).await?;
    lines(&std::fs::read(log_of(world, &status))?)
}

#[tokio::test]
async fn lines_are_whole_and_in_the_cris_format() -> Result<()> {
    let world = World::start().await?;
    let sandbox = world.pod_config("format");
    let pod = world.run_pod(&sandbox).await?;
    let before = now_ns();
    let script = r#"
        echo first
        echo
        printf 'bytes \000\001\377\r end\n'
        head -c 40000 /dev/zero | tr '\0' x
        echo
        printf begun; sleep 1; echo ' ended'
        echo failure >&2
        printf 'without an end'
    "#;
    let config = world.container_config("format", &["sh", "-c", script]);
    let id = world.create(&pod, &sandbox, config).await?;
    let status = world.status(&id).await?;
    ensure!(
        status.log_path == "/var/log/pods/format/format.log",
        "{status:?}"
    );
    world.client.start_container(&id).await?;
    ensure!(log_of(&world, &status).is_file(), "no log at the start");
    world.ended(&id).await?;
    let after = now_ns();

    let log = read_log(&world, &id).await?;
    let mut expected = b"first\n\nbytes \0\x01\xff\r end\n".to_vec();
    expected.extend(std::iter::repeat_n(b'x', 40_000));
    expected.extend_from_slice(b"\nbegun ended\nwithout an end\n");
    ensure!(written(&log, "stdout") == expected, "{log:?}");
    ensure!(written(&log, "stderr") == b"failure\n", "{log:?}");
    let long = log.iter().filter(|l| l.content.starts_with(b"xxx"));
    let shape: Vec<_> = long.map(|l| (l.partial, l.content.len())).collect();
    ensure!(log.iter().all(|l| l.content.len() <= LINE_CAP), "{shape:?}");
    ensure!(shape.iter().filter(|s| s.0).count() >= 2, "{shape:?}");
    // Who waits for the rest of a line sees its beginning meanwhile.
    let begun = log.iter().any(|l| l.partial && l.content == b"begun");
    ensure!(begun, "{log:?}");
    let mut last = before.into();
    for line in &log {
        let time = line.time.unix_timestamp_nanos();
        ensure!((last..=after.into()).contains(&time), "{line:?}");
        last = time;
    }

    // A terminal has one stream, and ends lines as terminals do.
    let mut config = world.container_config(
        "tty",
        &["sh", "-c", "test -t 1 && echo a terminal; echo error >&2"],
    );
    config.tty = true;
    let id = world.up(&pod, &sandbox, config).await?;
    world.ended(&id).await?;
    let log = read_log(&world, &id).await?;
    ensure!(
        written(&log, "stdout") == b"a terminal\r\nerror\r\n",
        "{log:?}"
    );
    ensure!(written(&log, "stderr").is_empty(), "{log:?}");

    // Where kubelet has no log for it, there is none.
    let mut config = world.container_config("silent", &["echo", "nobody hears"]);
    config.log_path.clear();
    let id = world.up(&pod, &sandbox, config).await?;
    let status = world.ended(&id).await?;
    ensure!(
        status.log_path.is_empty() && status.exit_code == 0,
        "{status:?}"
    );
    world.assert_clean(&[]).await
}

#[tokio::test]
async fn a_log_is_complete_before_the_end_is_told() -> Result<()> {
    let world = World::start().await?;
    let sandbox = world.pod_config("whole");
    let pod = world.run_pod(&sandbox).await?;
    for (n, count) in [(0, 1), (1, 500), (2, 20_000), (3, 20_000), (4, 0)] {
        let name = format!("whole{n}");
        let script = format!("seq 1 {count}; exit {n}");
        let config = world.container_config(&name, &["sh", "-c", &script]);
        let id = world.up(&pod, &sandbox, config).await?;
        // Asked as fast as can be, so that the first answer is close to the end.
        let status = loop {
            let status = world.status(&id).await?;
            if status.state() == v1::ContainerState::ContainerExited {
                break status;
            }
        };
        ensure!(status.exit_code == n, "{status:?}");
        let log = lines(&std::fs::read(log_of(&world, &status))?)?;
        let seen = numbers(&log)?;
        ensure!(
            seen.iter().copied().eq(1..=count),
            "{} of {count}",
            seen.len()
        );
        let last = log.last().map_or(0, |l| l.time.unix_timestamp_nanos());
        ensure!(last <= status.finished_at.into(), "{status:?}");
    }

    // A writer that is faster than the log costs no memory.
    let script = "seq 1 400000; touch /tmp/done; sleep 600";
    let config = world.container_config("fast", &["sh", "-c", script]);
    let id = world.up(&pod, &sandbox, config).await?;
    world
        .shell(&id, "until test -e /tmp/done; do sleep 0.1; done")
        .await?;
    let monitor = monitor_of(&world, &id).await?;
    let status = world.machine.read(&format!("/proc/{monitor}/status"))?;
    let line = status.lines().find_map(|l| l.strip_prefix("RssAnon:"));
    let kib: u64 = line
        .and_then(|l| l.trim().strip_suffix(" kB"))
        .context("no RssAnon")?
        .parse()?;
    ensure!(kib < 4096, "the monitor holds {kib} KiB");
    eventually("all lines are in the log", async || {
        let log = read_log(&world, &id).await?;
        Ok(log.last().is_some_and(|l| l.content == b"400000"))
    })
    .await?;
    let log = read_log(&world, &id).await?;
    ensure!(numbers(&log)?.into_iter().eq(1..=400_000));
    world.assert_clean(&[]).await
}

/// The pid of the process that looks after a container, as the machine counts.
async fn monitor_of(world: &World, id: &str) -> Result<i64> {
    let info = info(world, id).await?;
    info.pointer("/monitor/pid")
        .and_then(serde_json::Value::as_i64)
        .context("no monitor")
}

async fn info(world: &World, id: &str) -> Result<serde_json::Value> {
    let answer = world.client.container_status(id, true).await?;
    Ok(serde_json::from_str(
        answer.info.get("info").context("no info")?,
    )?)
}

#[tokio::test]
async fn rotation_loses_and_doubles_no_line() -> Result<()> {
    let world = World::start().await?;
    let sandbox = world.pod_config("rotated");
    let pod = world.run_pod(&sandbox).await?;
    let script = "i=1; while [ ! -e /tmp/stop ]; do seq $i $((i+99)); i=$((i+100)); done; echo $i";
    let config = world.container_config("writer", &["sh", "-c", script]);
    let id = world.up(&pod, &sandbox, config).await?;
    let log = log_of(&world, &world.status(&id).await?);
    let mut files = Vec::new();
    for n in 0..40 {
        // Each has something, so each rotation is one in the middle of the writing.
        eventually("the new log has lines", async || {
            Ok(std::fs::metadata(&log)?.len() > 0)
        })
        .await?;
        let old = log.with_extension(format!("log.{n}"));
        std::fs::rename(&log, &old)?;
        ensure!(!log.exists());
        world.client.reopen_container_log(&id).await?;
        ensure!(log.is_file(), "no new log after ReopenContainerLog");
        files.push(old);
    }
    // Without a rename it goes on in the same file, however many ask for it.
    let many = (0..40).map(|_| world.client.reopen_container_log(&id));
    futures_util::future::try_join_all(many).await?;
    // Where there can be no new log the old one goes on.
    let (folder, aside) = (
        log.with_file_name(""),
        world.machine.path("/var/log/pods/aside"),
    );
    std::fs::rename(&folder, &aside)?;
    let (code, message) = code(world.client.reopen_container_log(&id).await)?;
    ensure!(code == tonic::Code::Unavailable, "{code}: {message}");
    ensure!(message.contains("No such file or directory"), "{message}");
    std::fs::rename(&aside, &folder)?;
    // It may be taken along by the end that it brings about.
    let _ = world.shell(&id, "touch /tmp/stop").await;
    let status = world.ended(&id).await?;
    ensure!(status.exit_code == 0, "{status:?}");
    files.push(log);
    let mut seen = Vec::new();
    for file in files {
        seen.extend(numbers(&lines(&std::fs::read(file)?)?)?);
    }
    let count = u64::try_from(seen.len())?;
    ensure!(
        seen.into_iter().eq(1..=count),
        "of {count} lines some are lost or doubled"
    );
    world.assert_clean(&[]).await
}

#[tokio::test]
async fn a_rotation_at_the_end_is_done_or_refused() -> Result<()> {
    let world = World::start().await?;
    let sandbox = world.pod_config("ending");
    let pod = world.run_pod(&sandbox).await?;
    for n in 0..10 {
        let config = world.container_config(&format!("brief-{n}"), &["echo", "bye"]);
        let id = world.up(&pod, &sandbox, config).await?;
        // Asked without a pause until it has ended: at some time that happens in mid-call.
        let (code, message) = loop {
            let answer = world.client.reopen_container_log(&id).await;
            if answer.is_err() {
                break code(answer)?;
            }
        };
        ensure!(code == tonic::Code::FailedPrecondition, "{code}: {message}");
        ensure!(world.ended(&id).await?.exit_code == 0);
    }
    world.assert_clean(&[]).await
}

#[tokio::test]
async fn neither_a_full_disk_nor_a_stuck_log_harms_a_container() -> Result<()> {
    const CAP: u64 = 65536;
    let config = format!("[crio.runtime]\nlog_size_max = {CAP}\n");
    let world = World::with(&[("/etc/ocid/ocid.conf.d/10-test.conf", &config)]).await?;
    let sandbox = world.pod_config("full");
    let pod = world.run_pod(&sandbox).await?;

    // Past its size a log starts anew.
    let config = world.container_config("capped", &["seq", "1", "20000"]);
    let id = world.up(&pod, &sandbox, config).await?;
    let status = world.ended(&id).await?;
    let bytes = std::fs::read(log_of(&world, &status))?;
    ensure!((1..=CAP).contains(&(bytes.len() as u64)), "{}", bytes.len());
    let seen = numbers(&lines(&bytes)?)?;
    let first = *seen.first().context("an empty log")?;
    ensure!(
        first > 1 && seen.into_iter().eq(first..=20_000),
        "from {first}"
    );

    // A disk without room takes no line by halves, and those that come when there is room again.
    let folder = "/var/log/pods/tiny";
    let mut tiny = world.pod_config("tiny");
    tiny.log_directory = folder.to_owned();
    world.machine.run(&["mkdir", "-p", folder])?;
    world
        .machine
        .run(&["mount", "-t", "tmpfs", "-o", "size=32k", "tiny", folder])?;
    let tiny_pod = world.run_pod(&tiny).await?;
    let script = "seq 1 20000; touch /tmp/wrote; until test -e /tmp/go; do sleep 0.1; done; echo after; exit 7";
    let config = world.container_config("full", &["sh", "-c", script]);
    let id = world.up(&tiny_pod, &tiny, config).await?;
    world
        .shell(&id, "until test -e /tmp/wrote; do sleep 0.1; done")
        .await?;
    // All is read: then none of it waits in the pipe for the room to come.
    let monitor = monitor_of(&world, &id).await?;
    eventually("the monitor has nothing to read", async || {
        Ok(world
            .machine
            .read(&format!("/proc/{monitor}/wchan"))?
            .contains("poll"))
    })
    .await?;
    let seen = numbers(&read_log(&world, &id).await?)?;
    ensure!(seen.len() > 100 && seen.len() < 20_000, "{}", seen.len());
    ensure!(seen.first() == Some(&1) && seen.is_sorted_by(|a, b| a < b));
    world
        .machine
        .run(&["mount", "-o", "remount,size=1m", folder])?;
    let _ = world.shell(&id, "touch /tmp/go").await;
    let status = world.ended(&id).await?;
    ensure!(status.exit_code == 7, "{status:?}");
    let mut log = read_log(&world, &id).await?;
    ensure!(log.pop().is_some_and(|l| l.content == b"after"), "{log:?}");
    ensure!(numbers(&log)? == seen);
    world.client.stop_pod_sandbox(&tiny_pod).await?;
    world.client.remove_pod_sandbox(&tiny_pod).await?;
    world.machine.run(&["umount", folder])?;

    // While the log is not written the container waits in its write, and goes on after that.
    let config = world.container_config("pushes", &["yes", "0123456789"]);
    let id = world.up(&pod, &sandbox, config).await?;
    let monitor = monitor_of(&world, &id).await?.to_string();
    let log = log_of(&world, &world.status(&id).await?);
    // Between the end of a full one and the new one there is none.
    let read = || match std::fs::read(&log) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        other => other,
    };
    eventually("the log has lines", async || Ok(!read()?.is_empty())).await?;
    let writer = info(&world, &id)
        .await?
        .pointer("/pid")
        .and_then(serde_json::Value::as_i64);
    let writer = writer.context("no pid")?;
    world.machine.run(&["kill", "-STOP", &monitor])?;
    eventually("the writer waits", async || {
        // The number of write(2), then its first argument: standard output.
        Ok(world
            .machine
            .read(&format!("/proc/{writer}/syscall"))?
            .starts_with("1 0x1 "))
    })
    .await?;
    let before = read()?;
    tokio::time::sleep(Duration::from_millis(200)).await;
    ensure!(read()? == before, "who stopped the monitor?");
    world.machine.run(&["kill", "-CONT", &monitor])?;
    eventually("the log goes on", async || Ok(read()? != before)).await?;
    world.client.stop_container(&id, Duration::ZERO).await?;
    let log = read_log(&world, &id).await?;
    // The last line may be one that the kill cut short.
    ensure!(
        log.iter().rev().skip(1).all(|l| l.content == b"0123456789"),
        "{log:?}"
    );
    world.assert_clean(&[]).await
}

#[tokio::test]
async fn the_journal_has_the_same_lines() -> Result<()> {
    let config = "[crio.runtime]\nlog_to_journald = true\n";
    let machine = crate::support::Machine::boot()?;
    let world = World::on(machine, &[("/etc/ocid/ocid.conf.d/10-test.conf", config)]).await?;
    let sandbox = world.pod_config("journal");
    let pod = world.run_pod(&sandbox).await?;
    let script = r#"
        seq 1 50
        printf 'bytes \001\377 end\n'
        head -c 20000 /dev/zero | tr '\0' x
        echo
        echo failure >&2
        printf 'without an end'
    "#;
    let config = world.container_config("speaks", &["sh", "-c", script]);
    let id = world.up(&pod, &sandbox, config).await?;
    world.ended(&id).await?;
    let log = read_log(&world, &id).await?;
    ensure!(log.len() > 54, "{log:?}");

    world.machine.run(&["journalctl", "--sync"])?;
    let own = format!("CONTAINER_ID_FULL={id}");
    let text = world
        .machine
        .run(&["journalctl", "-o", "json", "--all", &own])?;
    let mut journal = Vec::new();
    for line in text.lines() {
        let entry: serde_json::Value = serde_json::from_str(line)?;
        for (field, value) in [
            ("CONTAINER_NAME", "speaks"),
            ("POD_NAME", "journal"),
            ("POD_NAMESPACE", "tests"),
            ("POD_ID", &pod),
            ("SYSLOG_IDENTIFIER", "speaks"),
        ] {
            ensure!(entry[field] == value, "{field}: {entry}");
        }
        let content = match &entry["MESSAGE"] {
            serde_json::Value::String(text) => text.clone().into_bytes(),
            // What is no text comes as numbers.
            other => serde_json::from_value(other.clone()).with_context(|| entry.to_string())?,
        };
        let stream = match entry["PRIORITY"].as_str() {
            Some("6") => "stdout",
            Some("3") => "stderr",
            _ => anyhow::bail!("{entry}"),
        };
        let partial = entry["CONTAINER_PARTIAL_MESSAGE"] == "true";
        journal.push((stream.to_owned(), partial, content));
    }
    let log: Vec<_> = log
        .into_iter()
        .map(|l| (l.stream, l.partial, l.content))
        .collect();
    ensure!(journal == log, "{journal:?}\nis not\n{log:?}");
    world
        .assert_clean(&[
            "/var/log/journal",
            "/run/log/journal",
            "/run/systemd/journal/synced",
        ])
        .await
}
