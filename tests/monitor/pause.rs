//! The process that holds a pod's PID namespace.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crio_setup::host::process::ProcessId;
use crio_setup::ocid::pause::{self, PauseError, PauseRequest};
use nix::sys::signal::Signal;

use crate::world::World;

fn exe() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_crio-setup"))
}

fn namespace(id: &ProcessId, kind: &str) -> PathBuf {
    fs::read_link(format!("/proc/{}/ns/{kind}", id.pid)).unwrap()
}

#[tokio::test]
async fn it_has_nothing_and_can_do_nothing() {
    let pause = pause::spawn(exe(), &PauseRequest::default()).await.unwrap();
    let id = pause.id;
    pause.keep().await.unwrap();
    let of = |name: &str| PathBuf::from(format!("/proc/{}/{name}", id.pid));
    let status = fs::read_to_string(of("status")).unwrap();
    for line in [
        "Name:\tocid-pause",
        "Uid:\t65534\t65534\t65534\t65534",
        "Gid:\t65534\t65534\t65534\t65534",
        "Groups:\t \n",
        "CapPrm:\t0000000000000000",
        "CapEff:\t0000000000000000",
        "NoNewPrivs:\t1",
        "Threads:\t1",
    ] {
        assert!(status.contains(line), "{line}: {status}");
    }
    let inner = status
        .lines()
        .find_map(|l| l.strip_prefix("NSpid:"))
        .unwrap();
    assert_eq!(inner.split_whitespace().last(), Some("1"));
    assert_eq!(fs::read_dir(of("fd")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(of("root")).unwrap().count(), 0);
    assert!(fs::write(of("root").join("x"), "x").is_err());
    let mounts = fs::read_to_string(of("mountinfo")).unwrap();
    assert_eq!(mounts.lines().count(), 1, "{mounts}");
    let own = ProcessId::of(std::process::id() as i32).unwrap();
    assert_ne!(namespace(&id, "pid"), namespace(&own, "pid"));
    assert_eq!(namespace(&id, "net"), namespace(&own, "net"));

    let text = fs::read_to_string(of("smaps_rollup")).unwrap();
    let anonymous = text.lines().find(|l| l.starts_with("Anonymous:")).unwrap();
    eprintln!("pause: {anonymous}");
    // SIGTERM ends it, and we, its parent, reap it.
    let fd = id.open().unwrap();
    fd.kill(Signal::SIGTERM).unwrap();
    assert!(fd.wait(Duration::from_secs(10)).unwrap());
    for _ in 0..200 {
        if !of("stat").exists() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it is a zombie");
}

#[tokio::test]
async fn it_joins_the_pods_namespaces_and_reaps() {
    let world = World::new("sleep 600");
    let created = world.up().await;
    let path = |kind: &str| {
        Some(PathBuf::from(format!(
            "/proc/{}/ns/{kind}",
            created.init.pid
        )))
    };
    let request = PauseRequest {
        net: path("net"),
        ipc: path("ipc"),
        uts: path("uts"),
        ..PauseRequest::default()
    };
    let pause = pause::spawn(exe(), &request).await.unwrap();
    let id = pause.id;
    pause.keep().await.unwrap();
    for kind in ["net", "ipc", "uts"] {
        assert_eq!(
            namespace(&id, kind),
            namespace(&created.init, kind),
            "{kind}"
        );
    }
    // A container in its PID namespace leaves an orphan that ends: process 1 must reap it.
    let mut guest = World::new("(sleep 0.1 & ) ; sleep 0.5; cat /proc/[0-9]*/stat");
    guest.config["linux"]["namespaces"] = serde_json::json!([
        {"type": "pid", "path": format!("/proc/{}/ns/pid", id.pid)}, {"type": "mount"},
    ]);
    guest.config.as_object_mut().unwrap().remove("hostname");
    assert_eq!(guest.run().await.exit_code, 0);
    let log = guest.log();
    assert!(log.contains("1 (ocid-pause)"), "{log}");
    assert!(!log.contains("(sleep) Z"), "{log}");
    guest.runtime.delete(&guest.id, true).await.unwrap();
    pause::stop(&id, Duration::from_secs(10)).await.unwrap();
    assert!(!id.is_running());
    pause::stop(&id, Duration::from_secs(10)).await.unwrap();
}

#[tokio::test]
async fn one_that_nobody_keeps_ends() {
    let pause = pause::spawn(exe(), &PauseRequest::default()).await.unwrap();
    let process = pause.id.open().unwrap();
    drop(pause);
    let ended = tokio::time::timeout(Duration::from_secs(30), process.exited());
    ended.await.expect("it stays").unwrap();
}

#[tokio::test]
async fn a_namespace_that_is_not_there_is_named() {
    let request = PauseRequest {
        ipc: Some(PathBuf::from("/no/such/namespace")),
        ..PauseRequest::default()
    };
    let error = pause::spawn(exe(), &request).await.unwrap_err();
    assert!(matches!(error, PauseError::Failed { .. }), "{error}");
    assert!(error.to_string().contains("/no/such/namespace"), "{error}");
    let error = pause::spawn(Path::new("/no/such"), &PauseRequest::default())
        .await
        .unwrap_err();
    assert!(matches!(error, PauseError::Spawn { .. }), "{error}");
}
