//! What happens when the daemon, or a monitor, is gone at the wrong moment.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crio_setup::host::process::ProcessId;
use crio_setup::ocid::runtime::{Adopted, RuntimeError};
use nix::mount::{MntFlags, MsFlags};
use nix::sys::signal::Signal;

use crate::world::{World, runc};

#[tokio::test]
async fn a_monitor_does_not_hang_on_the_daemon() {
    let world = World::new("sleep 600");
    let created = world.up().await;
    let stat = fs::read_to_string(format!("/proc/{}/stat", created.monitor.pid)).unwrap();
    let session = stat
        .rsplit_once(')')
        .unwrap()
        .1
        .split_whitespace()
        .nth(3)
        .unwrap();
    assert_eq!(session, created.monitor.pid.to_string());
    let monitor = created.monitor.open().unwrap();
    for signal in [
        Signal::SIGTERM,
        Signal::SIGHUP,
        Signal::SIGINT,
        Signal::SIGPIPE,
    ] {
        monitor.kill(signal).unwrap();
    }
    // Still there, and still working.
    let mut client = crio_setup::ocid::monitor::client::connect(world.bundle())
        .await
        .unwrap();
    let (record, exit) = client.status(Duration::from_secs(5)).await.unwrap();
    assert_eq!((record.init, exit), (Some(created.init), None));
}

#[tokio::test]
async fn a_create_whose_caller_is_gone_is_finished_or_undone() {
    let mut created = 0;
    for round in 0..12u64 {
        let world = World::new("sleep 600");
        let early = tokio::time::timeout(Duration::from_millis(round * 5), world.create());
        let finished = early.await.is_ok();
        let adopted = world
            .runtime
            .adopt(&world.id, world.bundle(), &world.request.exits_dir)
            .await
            .unwrap();
        match adopted {
            Adopted::Created(c) => {
                created += 1;
                world.runtime.start(&world.id).await.unwrap();
                assert!(world.runtime.signal(&c.init, 9).unwrap());
                assert_eq!(world.exit().await.exit_code, 137);
                world.runtime.monitor_ended(&c.monitor).await.unwrap();
                world.runtime.delete(&world.id, true).await.unwrap();
            }
            Adopted::Absent => assert!(!finished),
            other => panic!("{other:?}"),
        }
    }
    assert!(created > 0, "no round was slow enough to get anywhere");
}

#[tokio::test]
async fn a_daemon_killed_while_the_runtime_works_finds_its_container() {
    let world = World::scripted(
        "exit 5",
        &format!("sleep 0.7; exec {} \"$@\"", runc().display()),
    );
    let early = tokio::time::timeout(Duration::from_millis(400), world.create());
    assert!(early.await.is_err());
    let found = world
        .runtime
        .adopt(&world.id, world.bundle(), &world.request.exits_dir)
        .await
        .unwrap();
    assert!(matches!(found, Adopted::Created(_)), "{found:?}");
    world.runtime.start(&world.id).await.unwrap();
    assert_eq!(world.exit().await.exit_code, 5);
}

#[tokio::test]
async fn a_failed_create_without_a_daemon_leaves_nothing() {
    let world = World::scripted("true", "sleep 0.7; echo 'no luck' >&2; exit 1");
    let early = tokio::time::timeout(Duration::from_millis(400), world.create());
    assert!(early.await.is_err());
    let found = world
        .runtime
        .adopt(&world.id, world.bundle(), &world.request.exits_dir)
        .await
        .unwrap();
    assert_eq!(found, Adopted::Absent);
    world.assert_gone();
}

#[tokio::test]
async fn a_monitor_killed_during_create_takes_everything_with_it() {
    let world = World::scripted(
        "sleep 600",
        &format!("sleep 1; exec {} \"$@\"", runc().display()),
    );
    let killer = async {
        let record = world.bundle().join("monitor.json");
        loop {
            // With its socket there it is past its own start and calls the runtime.
            if world.bundle().join("monitor.sock").exists() {
                let text = fs::read(&record).unwrap();
                let json: serde_json::Value = serde_json::from_slice(&text).unwrap();
                let id: ProcessId = serde_json::from_value(json["monitor"].clone()).unwrap();
                return id.open().unwrap().kill(Signal::SIGKILL).unwrap();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let (result, ()) = tokio::join!(world.create(), killer);
    let error = result.unwrap_err();
    assert!(matches!(error, RuntimeError::MonitorLost { .. }), "{error}");
    tokio::time::sleep(Duration::from_millis(1500)).await;
    fs::remove_file(world.bundle().join("monitor.sock")).unwrap();
    world.assert_gone();
}

#[tokio::test]
async fn a_monitor_killed_during_create_without_a_daemon_leaves_nothing() {
    let world = World::scripted(
        "sleep 600",
        &format!("sleep 1; exec {} \"$@\"", runc().display()),
    );
    let early = tokio::time::timeout(Duration::from_millis(400), world.create());
    assert!(early.await.is_err());
    let text = fs::read(world.bundle().join("monitor.json")).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let id: ProcessId = serde_json::from_value(json["monitor"].clone()).unwrap();
    id.open().unwrap().kill(Signal::SIGKILL).unwrap();
    let exits = &world.request.exits_dir;
    let found = world.runtime.adopt(&world.id, world.bundle(), exits).await;
    assert_eq!(found.unwrap(), Adopted::Absent);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    for file in ["monitor.json", "monitor.sock"] {
        fs::remove_file(world.bundle().join(file)).unwrap();
    }
    world.assert_gone();
}

#[tokio::test]
async fn a_lost_monitor_is_noticed_and_its_container_buried() {
    let world = World::new("sleep 600");
    let created = world.up().await;
    let watch = world.runtime.monitor_ended(&created.monitor);
    created
        .monitor
        .open()
        .unwrap()
        .kill(Signal::SIGKILL)
        .unwrap();
    tokio::time::timeout(Duration::from_secs(10), watch)
        .await
        .unwrap()
        .unwrap();
    let exits = &world.request.exits_dir;
    let found = world
        .runtime
        .adopt(&world.id, world.bundle(), exits)
        .await
        .unwrap();
    assert_eq!(found, Adopted::Abandoned(created));
    let buried = world
        .runtime
        .bury(&world.id, &created, exits)
        .await
        .unwrap();
    assert!(buried.monitor_lost && buried.exit_code == 137, "{buried:?}");
    assert_eq!(world.exit().await, buried);
    assert!(!created.init.is_running());
    let again = world
        .runtime
        .bury(&world.id, &created, exits)
        .await
        .unwrap();
    assert_eq!(again, buried);
    world.runtime.delete(&world.id, true).await.unwrap();
}

/// A copy of the runtime's program, as it mounts one for itself in a container's state folder.
struct Copy(PathBuf);

impl Copy {
    fn mount(world: &World) -> Self {
        let at = world.state_dir().join(&world.id).join("runc.Ab12Cd");
        fs::create_dir_all(at.parent().unwrap()).unwrap();
        fs::write(&at, "").unwrap();
        let none: Option<&str> = None;
        nix::mount::mount(Some(&runc()), &at, none, MsFlags::MS_BIND, none).unwrap();
        Self(at)
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

#[tokio::test]
async fn the_mount_of_a_killed_runtime_keeps_nothing_from_being_deleted() {
    let world = World::new("sleep 1000");
    world.up().await;
    let copy = Copy::mount(&world);
    world.runtime.delete(&world.id, true).await.unwrap();
    assert!(!copy.0.parent().unwrap().exists());
    // Killed before it wrote a state: it knows nothing of the container.
    let copy = Copy::mount(&world);
    world.runtime.delete(&world.id, true).await.unwrap();
    assert!(!copy.0.parent().unwrap().exists());
    assert!(world.state_dir().exists());
}

/// A file system with room for one file.
struct Tiny(PathBuf);

impl Tiny {
    fn mount(at: &Path) -> Self {
        let data = Some("size=64k,nr_inodes=2");
        let (tmpfs, flags) = (Some("tmpfs"), MsFlags::empty());
        nix::mount::mount(tmpfs, at, tmpfs, flags, data).unwrap();
        Self(at.to_owned())
    }
}

impl Drop for Tiny {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

#[tokio::test]
async fn an_exit_without_room_for_its_record_is_kept_and_told() {
    let world = World::new("exit 6");
    let exits = &world.request.exits_dir;
    let _tiny = Tiny::mount(exits);
    let created = world.create().await.unwrap();
    fs::write(exits.join("x"), "").unwrap();
    world.runtime.start(&world.id).await.unwrap();
    let found = world.runtime.adopt(&world.id, world.bundle(), exits);
    let init = created.init;
    while init.is_running() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let Adopted::Exited(told) = found.await.unwrap() else {
        panic!("the monitor did not tell");
    };
    assert_eq!(told.exit_code, 6);
    assert!(created.monitor.is_running());
    fs::remove_file(exits.join("x")).unwrap();
    assert_eq!(world.exit().await, told);
    world.runtime.monitor_ended(&created.monitor).await.unwrap();
}

#[tokio::test]
async fn a_full_disk_under_the_log_does_not_stop_the_container() {
    let mut world =
        World::new("i=0; while [ $i -lt 4000 ]; do echo line $i; i=$((i+1)); done; exit 5");
    let logs = world.dir().join("logs");
    fs::create_dir(&logs).unwrap();
    let _tiny = Tiny::mount(&logs);
    world.request.log_path = Some(logs.join("0.log"));
    assert_eq!(world.run().await.exit_code, 5);
    let log = world.log();
    assert!(log.len() > 30_000 && log.ends_with('\n'), "{}", log.len());
    assert!(log.lines().all(|l| l.contains(" stdout F line ")));
}

#[tokio::test]
async fn a_bundle_without_a_record_is_absent() {
    let world = World::new("true");
    let exits = &world.request.exits_dir;
    let found = world
        .runtime
        .adopt(&world.id, world.bundle(), exits)
        .await
        .unwrap();
    assert_eq!(found, Adopted::Absent);
}
