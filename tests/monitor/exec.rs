//! Commands run inside a container.

use std::time::{Duration, Instant};

use crio_setup::ocid::runtime::RuntimeError;

use crate::world::World;

#[tokio::test]
async fn outputs_and_code_come_apart() {
    let world = World::new("sleep 600");
    world.up().await;
    let out = world
        .exec(&["sh", "-c", "echo out; echo err >&2; exit 9"], None)
        .await
        .unwrap();
    assert_eq!(out.stdout, b"out\n");
    assert_eq!(out.stderr, b"err\n");
    assert_eq!(out.exit_code, 9);
    let out = world.exec(&["sh", "-c", "kill -9 $$"], None).await.unwrap();
    assert_eq!(out.exit_code, 137);
    let out = world
        .exec(&["sh", "-c", "test -t 0 || cat"], None)
        .await
        .unwrap();
    assert_eq!((out.exit_code, out.stdout.len()), (0, 0));
    assert!(!world.bundle().read_dir().unwrap().any(|e| {
        let name = e.unwrap().file_name();
        name.to_string_lossy().starts_with("exec-")
    }));
}

#[tokio::test]
async fn much_output_arrives_whole() {
    let world = World::new("sleep 600");
    world.up().await;
    let script = "i=0; while [ $i -lt 30000 ]; do echo $i; i=$((i+1)); done";
    let out = world.exec(&["sh", "-c", script], None).await.unwrap();
    let expected: String = (0..30000).map(|n| format!("{n}\n")).collect();
    assert!(
        out.stdout == expected.as_bytes(),
        "{} bytes",
        out.stdout.len()
    );
}

#[tokio::test]
async fn a_missing_command_is_named() {
    let world = World::new("sleep 600");
    world.up().await;
    let error = world.exec(&["nonesuch"], None).await.unwrap_err();
    let named = error.to_string().contains("nonesuch");
    assert!(
        matches!(error, RuntimeError::CommandNotFound { .. }) && named,
        "{error}"
    );
}

#[tokio::test]
async fn the_time_limit_kills_the_command_and_its_children_only() {
    let world = World::new("sleep 601");
    let created = world.up().await;
    let begin = Instant::now();
    // One child in the foreground, one that the container's first process adopts.
    let script = "(sleep 602 &); sleep 603";
    let limit = Duration::from_millis(500);
    let error = world
        .exec(&["sh", "-c", script], Some(limit))
        .await
        .unwrap_err();
    assert!(
        matches!(error, RuntimeError::TimedOut { limit: l } if l == limit),
        "{error}"
    );
    assert!(begin.elapsed() < Duration::from_secs(10));
    let out = world
        .exec(&["sh", "-c", "cat /proc/[0-9]*/cmdline"], None)
        .await
        .unwrap();
    let running = String::from_utf8_lossy(&out.stdout).replace('\0', " ");
    assert!(running.contains("sleep 601"), "{running}");
    assert!(
        !running.contains("602") && !running.contains("603"),
        "{running}"
    );
    assert!(created.init.is_running());
}

#[tokio::test]
async fn a_background_child_is_not_waited_for() {
    let world = World::new("sleep 600");
    world.up().await;
    let begin = Instant::now();
    let out = world
        .exec(&["sh", "-c", "sleep 60 & echo done"], None)
        .await
        .unwrap();
    assert_eq!((out.stdout.as_slice(), out.exit_code), (&b"done\n"[..], 0));
    assert!(begin.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn a_caller_who_leaves_ends_the_command() {
    let world = World::new("sleep 600");
    world.up().await;
    let started = tokio::time::timeout(
        Duration::from_millis(700),
        world.exec(&["sh", "-c", "sleep 604"], None),
    );
    assert!(started.await.is_err());
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let out = world
            .exec(&["sh", "-c", "cat /proc/[0-9]*/cmdline"], None)
            .await
            .unwrap();
        let text = String::from_utf8_lossy(&out.stdout).replace('\0', " ");
        if !text.contains("sleep 604") {
            break;
        }
        assert!(Instant::now() < deadline, "{text}");
    }
}

#[tokio::test]
async fn a_container_that_does_not_run_is_told() {
    let world = World::new("true");
    let error = world.exec(&["true"], None).await.unwrap_err();
    assert!(
        matches!(error, RuntimeError::NoSuchContainer { .. }),
        "{error}"
    );
    world.run().await;
    let error = world.exec(&["true"], None).await.unwrap_err();
    assert!(matches!(error, RuntimeError::NotRunning { .. }), "{error}");
}
