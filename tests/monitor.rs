//! Containers under their monitors, with a real runc: what is logged, how ends are recorded, what happens when one
//! of the processes involved is killed.

#[path = "monitor/world.rs"]
mod world;

#[path = "monitor/exec.rs"]
mod exec;
#[path = "monitor/lost.rs"]
mod lost;
#[path = "monitor/pause.rs"]
mod pause;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crio_setup::host::process::ProcessId;
use crio_setup::ocid::monitor::client;
use crio_setup::ocid::runtime::{Adopted, JournalTags, RuntimeError};
use serde_json::json;

use world::{LIMIT, World};

#[tokio::test]
async fn output_goes_to_the_log_and_the_code_to_the_record() {
    let world = World::new("echo out; echo err >&2; printf unended; exit 3");
    let created = world.create().await.unwrap();
    assert!(world.request.log_path.as_ref().unwrap().exists());
    assert!(world.log().is_empty());
    let adopt = || {
        world
            .runtime
            .adopt(&world.id, world.bundle(), &world.request.exits_dir)
    };
    assert_eq!(adopt().await.unwrap(), Adopted::Created(created));
    world.runtime.start(&world.id).await.unwrap();
    let exit = world.exit().await;
    assert_eq!(
        (exit.exit_code, exit.signal, exit.oom_killed),
        (3, None, false)
    );
    let mut lines = world.log_lines();
    lines.sort();
    assert_eq!(lines, ["stderr F err", "stdout F out", "stdout F unended"]);
    assert_eq!(adopt().await.unwrap(), Adopted::Exited(exit));
    world.runtime.monitor_ended(&created.monitor).await.unwrap();
    world.runtime.delete(&world.id, false).await.unwrap();
    world.runtime.delete(&world.id, true).await.unwrap();
    fs::remove_file(world.bundle().join("monitor.json")).unwrap();
    world.assert_gone();
}

#[tokio::test]
async fn an_end_in_the_first_moment_is_not_missed() {
    for round in 0..15 {
        let world = World::new("exit 7");
        let exit = world.run().await;
        assert_eq!(exit.exit_code, 7, "round {round}");
    }
}

#[tokio::test]
async fn a_missing_command_is_named_and_nothing_is_left() {
    let mut world = World::new("");
    world.config["process"]["args"] = json!(["/bin/nonesuch", "x"]);
    let error = world.create().await.unwrap_err();
    let named = error.to_string().contains("/bin/nonesuch");
    assert!(
        matches!(error, RuntimeError::CommandNotFound { .. }) && named,
        "{error}"
    );
    assert!(!world.request.log_path.as_ref().unwrap().exists());
    world.assert_gone();
}

#[tokio::test]
async fn the_runtimes_refusal_comes_in_its_own_words() {
    let world = World::new("true");
    fs::write(world.bundle().join("config.json"), "{ not json").unwrap();
    let error = world.runtime.create(&world.request).await.unwrap_err();
    assert!(error.to_string().contains("invalid character"), "{error}");
    world.assert_gone();
    let world = World::scripted("true", "echo 'this runtime does nothing' >&2; exit 5");
    let error = world.create().await.unwrap_err();
    assert!(
        error.to_string().ends_with("this runtime does nothing"),
        "{error}"
    );
    world.assert_gone();
}

#[tokio::test]
async fn a_log_that_cannot_be_opened_is_an_error() {
    let mut world = World::new("true");
    world.request.log_path = Some(world.dir().join("no/such/0.log"));
    let error = world.create().await.unwrap_err().to_string();
    assert!(
        error.contains("no/such/0.log") && error.contains("No such file"),
        "{error}"
    );
    world.assert_gone();
}

#[tokio::test]
async fn a_runtime_that_hangs_is_killed_with_its_children() {
    let mut world = World::scripted("true", "sleep 600");
    world.runtime = world
        .runtime
        .clone()
        .with_create_limit(Duration::from_millis(300));
    let error = world.create().await.unwrap_err().to_string();
    assert!(error.contains("did not end in time"), "{error}");
    world.assert_gone();
}

#[tokio::test]
async fn a_terminal_is_one_and_can_be_resized() {
    let mut world = World::new("test -t 1 && sleep 0.1 && stty size");
    world.config["process"]["terminal"] = json!(true);
    world.request.tty = true;
    world.create().await.unwrap();
    let mut client = client::connect(world.bundle()).await.unwrap();
    client.resize(132, 43).await.unwrap();
    world.runtime.start(&world.id).await.unwrap();
    assert_eq!(world.exit().await.exit_code, 0);
    assert_eq!(world.log_lines(), ["stdout F 43 132"]);
}

#[tokio::test]
async fn a_terminal_whose_processes_let_go_of_it_can_be_taken_up_again() {
    let script = "exec </dev/null >/dev/null 2>&1; sleep 0.3; echo back > /dev/console";
    let mut world = World::new(script);
    world.config["process"]["terminal"] = json!(true);
    world.request.tty = true;
    world.run().await;
    assert_eq!(world.log_lines(), ["stdout F back"]);
}

#[tokio::test]
async fn resizing_what_is_no_terminal_is_refused() {
    let world = World::new("sleep 600");
    world.up().await;
    let mut client = client::connect(world.bundle()).await.unwrap();
    let error = client.resize(80, 24).await.unwrap_err().to_string();
    assert!(error.contains("no terminal"), "{error}");
}

#[tokio::test]
async fn open_input_is_waited_for_and_closed_input_ends() {
    let world = World::new("cat; echo ended");
    world.run().await;
    assert_eq!(world.log_lines(), ["stdout F ended"]);
    let mut world = World::new("cat; echo ended");
    world.request.stdin = true;
    let created = world.up().await;
    let waited = tokio::time::timeout(Duration::from_millis(300), world.exit()).await;
    assert!(waited.is_err(), "cat must wait for input");
    assert!(created.init.is_running());
}

#[tokio::test]
async fn a_descendant_that_keeps_the_output_open_does_not_hold_the_record() {
    let mut world = World::new("sleep 600 & echo bye");
    // Without a PID namespace of its own the sleep outlives the container's first process.
    let namespaces = world.config["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.retain(|n| n["type"] != "pid");
    let begin = Instant::now();
    let created = world.up().await;
    assert_eq!(world.exit().await.exit_code, 0);
    world.runtime.monitor_ended(&created.monitor).await.unwrap();
    assert!(begin.elapsed() < Duration::from_secs(10));
    assert_eq!(world.log_lines(), ["stdout F bye"]);
    world.runtime.delete(&world.id, true).await.unwrap();
    fs::remove_file(world.bundle().join("monitor.json")).unwrap();
    world.assert_gone();
}

#[tokio::test]
async fn signals_end_it_and_are_told() {
    let world = World::new("sleep 600");
    let created = world.up().await;
    world.runtime.kill(&world.id, 9, true).await.unwrap();
    let exit = world.exit().await;
    assert_eq!((exit.exit_code, exit.signal), (137, Some(9)));
    world.runtime.monitor_ended(&created.monitor).await.unwrap();
    assert!(!world.runtime.signal(&created.init, 9).unwrap());
    let error = world.runtime.kill(&world.id, 9, false).await.unwrap_err();
    assert!(matches!(error, RuntimeError::NotRunning { .. }), "{error}");
}

#[tokio::test]
async fn a_death_by_a_real_time_signal_is_told() {
    let mut world = World::new("echo begun; sleep 600; :");
    // Only process 1 of a namespace is deaf to signals that it does not handle.
    let namespaces = world.config["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.retain(|n| n["type"] != "pid");
    let created = world.up().await;
    world.logged("begun").await;
    assert!(world.runtime.signal(&created.init, 37).unwrap());
    let exit = world.exit().await;
    assert_eq!((exit.exit_code, exit.signal), (128 + 37, Some(37)));
    world.runtime.delete(&world.id, true).await.unwrap();
}

#[tokio::test]
async fn want_of_memory_is_told() {
    let mut world = World::new("x=0123456789; while :; do x=$x$x; done");
    world.config["linux"]["resources"] = json!({"memory": {"limit": 16 << 20}});
    let exit = world.run().await;
    assert!(exit.oom_killed && exit.exit_code == 137, "{exit:?}");
}

#[tokio::test]
async fn rotation_loses_and_doubles_nothing() {
    let world = World::new("i=0; while :; do echo $i; i=$((i+1)); done");
    world.up().await;
    let log = world.request.log_path.clone().unwrap();
    let mut client = client::connect(world.bundle()).await.unwrap();
    let mut old = Vec::new();
    for n in 0..5 {
        world.logged(" F ").await;
        let rotated = log.with_extension(n.to_string());
        fs::rename(&log, &rotated).unwrap();
        // One that vanished in between is made anew all the same.
        client.reopen_log().await.unwrap();
        assert!(log.exists());
        old.push(rotated);
    }
    world.runtime.kill(&world.id, 9, true).await.unwrap();
    assert_eq!(world.exit().await.exit_code, 137);
    old.push(log);
    let text: String = old.iter().map(|p| fs::read_to_string(p).unwrap()).collect();
    let numbers: Vec<&str> = text
        .lines()
        .map(|l| l.rsplit(' ').next().unwrap())
        .collect();
    let expected: Vec<String> = (0..numbers.len()).map(|n| n.to_string()).collect();
    assert_eq!(numbers, expected);
}

#[tokio::test]
async fn lines_go_to_the_journal_too() {
    let mut world = World::new("echo hello");
    let socket = world.dir().join("journal");
    let journald = std::os::unix::net::UnixDatagram::bind(&socket).unwrap();
    journald
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    world.request.journal = Some(JournalTags {
        pod_name: "pod".to_owned(),
        pod_namespace: "default".to_owned(),
        pod_id: "p".to_owned(),
        container_name: "greeter".to_owned(),
        container_id: world.id.clone(),
        socket,
    });
    world.run().await;
    let mut entry = [0; 1024];
    let n = journald.recv(&mut entry).unwrap();
    let text = String::from_utf8_lossy(&entry[..n]).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    for line in [
        "MESSAGE=hello",
        "SYSLOG_IDENTIFIER=greeter",
        "POD_NAMESPACE=default",
        "PRIORITY=6",
    ] {
        assert!(lines.contains(&line), "{text}");
    }
}

#[tokio::test]
async fn nothing_of_ours_leaks_into_the_container() {
    // A descriptor that whoever started us forgot to close on exec.
    let leaky = fs::File::open("/etc/passwd").unwrap();
    nix::fcntl::fcntl(
        &leaky,
        nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty()),
    )
    .unwrap();
    let mut world = World::new("");
    world.config["process"]["args"] = json!(["sleep", "600"]);
    let created = world.up().await;
    // `start` returns a moment before the runtime's process becomes the container's.
    let line = format!("/proc/{}/cmdline", created.init.pid);
    let begun = async {
        while fs::read(&line).unwrap() != b"sleep\x00600\x00" {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let begun = tokio::time::timeout(LIMIT, begun);
    begun.await.expect("the program does not begin");
    let targets = |id: &ProcessId| -> Vec<String> {
        let folder = format!("/proc/{}/fd", id.pid);
        let entries = fs::read_dir(folder).unwrap();
        // Other tests' descriptors come and go in this process while we look.
        let links = entries.filter_map(|e| fs::read_link(e.ok()?.path()).ok());
        links.map(|l| l.to_string_lossy().into_owned()).collect()
    };
    // The program's loader still has a library open for a moment; what leaks stays open.
    let loaded = async {
        while targets(&created.init).len() != 3 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let loaded = tokio::time::timeout(LIMIT, loaded).await;
    assert!(loaded.is_ok(), "{:?}", targets(&created.init));
    let monitor = targets(&created.monitor);
    // Pipes and sockets of the monitor are its own: none is shared with us, the daemon.
    let ours = targets(&ProcessId::of(std::process::id() as i32).unwrap());
    for target in monitor
        .iter()
        .filter(|t| t.starts_with("pipe:") || t.starts_with("socket:"))
    {
        assert!(!ours.contains(target), "{target}");
    }
    let status = fs::read_to_string(format!("/proc/{}/status", created.init.pid)).unwrap();
    for line in ["SigBlk:\t0000000000000000", "SigIgn:\t0000000000000000"] {
        assert!(status.contains(line), "{status}");
    }
    let env = fs::read(format!("/proc/{}/environ", created.monitor.pid)).unwrap();
    assert!(!String::from_utf8_lossy(&env).contains("CARGO"));
    drop(leaky);
}

#[tokio::test]
async fn the_limit_of_open_files_is_put_back() {
    let mut world = World::new("ulimit -n");
    world.runtime = world.runtime.clone().with_open_files(321, 4096);
    let created = world.create().await.unwrap();
    let limits = fs::read_to_string(format!("/proc/{}/limits", created.monitor.pid)).unwrap();
    let line = limits
        .lines()
        .find(|l| l.starts_with("Max open files"))
        .unwrap();
    assert_eq!(line.split_whitespace().nth(3), Some("321"), "{line}");
    world.runtime.start(&world.id).await.unwrap();
    world.exit().await;
}

/// Figures of a debug build; a release build needs less.
#[tokio::test]
async fn a_monitor_is_small() {
    let world =
        World::new("i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done; sleep 600");
    let created = world.up().await;
    let mut client = client::connect(world.bundle()).await.unwrap();
    client.reopen_log().await.unwrap();
    while !world.log().contains("line 2999") {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let own = private_kib(&created.monitor);
    eprintln!("a monitor holds {own} KiB of its own");
    assert!(own < 300, "{own} KiB");
    let threads = fs::read_dir(format!("/proc/{}/task", created.monitor.pid)).unwrap();
    assert_eq!(threads.count(), 1);
}

fn private_kib(id: &ProcessId) -> u64 {
    let text = fs::read_to_string(format!("/proc/{}/smaps_rollup", id.pid)).unwrap();
    let anonymous = text
        .lines()
        .find_map(|l| l.strip_prefix("Anonymous:"))
        .unwrap();
    anonymous.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn a_monitor_started_by_hand_explains_itself() {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_crio-setup"))
        .args(["ocid", "monitor"])
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && text.contains("not by hand"),
        "{text}"
    );
    assert!(Path::new("/dev/null").exists());
}
