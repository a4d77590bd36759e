//! What is mounted, and what cannot be.

use super::*;
use crate::ocid::container::config::Propagation;
use crate::ocid::container::propagation::Mounts as MachineMounts;

#[test]
fn mounts_of_kernel_and_pod() {
    let mut fixture = Fixture::new();
    let spec = fixture.spec();
    let has = |target: &str, option: &str| {
        let options = options(&spec, target).unwrap_or_default();
        assert!(options.iter().any(|o| o == option), "{target}: {options:?}");
    };
    has("/proc", "nosuid");
    has("/sys", "ro");
    has("/sys/fs/cgroup", "ro");
    has("/etc/resolv.conf", "rw");
    has("/etc/hosts", "bind");
    has("/etc/hostname", "nosuid");
    has("/dev/shm", "rbind");

    fixture.config.security.readonly_rootfs = true;
    let spec = fixture.spec();
    assert_eq!(spec.root().as_ref().unwrap().readonly(), Some(true));
    assert!(
        options(&spec, "/etc/hosts")
            .unwrap()
            .contains(&"ro".to_owned())
    );
    assert_eq!(options(&spec, "/run"), None);
    fixture.defaults.read_only = true;
    assert!(options(&fixture.spec(), "/run").is_some());
}

#[test]
fn mounts_that_are_asked_for() {
    let mut fixture = Fixture::new();
    let link = fixture.path("link");
    std::os::unix::fs::symlink(fixture.path("shm"), &link).unwrap();
    let missing = fixture.path("new/folder");
    let mount = |target: &str, source: &Path| Mount {
        container_path: target.into(),
        host_path: source.to_owned(),
        ..Default::default()
    };
    fixture.config.mounts = vec![
        mount("/a/b/c", &missing),
        Mount {
            readonly: true,
            ..mount("/a", &link)
        },
        mount("/etc/hosts", &fixture.path("hosts")),
    ];
    let spec = fixture.spec();
    assert!(missing.is_dir(), "a missing source is made");
    let mounts = spec.mounts().as_ref().unwrap();
    let targets: Vec<_> = mounts
        .iter()
        .map(|m| m.destination().to_str().unwrap())
        .collect();
    let last = &targets[targets.len() - 3..];
    assert_eq!(last, ["/a", "/etc/hosts", "/a/b/c"], "deeper ones later");
    assert_eq!(targets.iter().filter(|t| **t == "/etc/hosts").count(), 1);
    let a = mounts
        .iter()
        .find(|m| m.destination() == Path::new("/a"))
        .unwrap();
    let resolved = std::fs::canonicalize(fixture.path("shm")).unwrap();
    assert_eq!(a.source(), &Some(resolved));
    assert_eq!(options(&spec, "/a").unwrap(), ["rbind", "rprivate", "ro"]);
    assert_eq!(
        options(&spec, "/a/b/c").unwrap(),
        ["rbind", "rprivate", "rw"]
    );

    fixture.config.mounts = vec![mount("/dev", Path::new("/dev"))];
    let spec = fixture.spec();
    assert_eq!(
        options(&spec, "/dev/pts"),
        None,
        "not over the user's own /dev"
    );
    assert_eq!(options(&spec, "/dev").unwrap()[0], "rbind");
}

#[test]
fn mounts_that_cannot_be() {
    let mut fixture = Fixture::new();
    let ask = |fixture: &mut Fixture, mount: Mount| {
        fixture.config.mounts = vec![Mount {
            container_path: "/m".into(),
            ..mount
        }];
        fixture.build().unwrap_err()
    };
    let absent = fixture.path("absent");
    fixture.defaults.absent_mount_sources_to_reject = vec![absent.clone()];
    let host_path = absent.clone();
    let e = ask(
        &mut fixture,
        Mount {
            host_path,
            ..Default::default()
        },
    );
    assert_eq!(e.kind(), SpecErrorKind::NotFound, "{e}");
    assert!(!absent.exists());

    let dangling = fixture.path("dangling");
    std::os::unix::fs::symlink("/no/such/target", &dangling).unwrap();
    let e = ask(
        &mut fixture,
        Mount {
            host_path: dangling,
            ..Default::default()
        },
    );
    assert!(e.to_string().contains("a link to nothing"), "{e}");

    fixture.host.recursive_read_only = false;
    let rro = Mount {
        host_path: fixture.path("shm"),
        readonly: true,
        recursive_read_only: true,
        ..Default::default()
    };
    assert_eq!(
        ask(&mut fixture, rro.clone()).kind(),
        SpecErrorKind::Precondition
    );
    fixture.host.recursive_read_only = true;
    fixture.config.mounts = vec![Mount {
        container_path: "/m".into(),
        ..rro
    }];
    assert_eq!(
        options(&fixture.spec(), "/m").unwrap(),
        ["rbind", "rprivate", "rro"]
    );

    // proc is never shared on its own; a private mount cannot spread.
    let private = Mount {
        host_path: "/proc/sys".into(),
        propagation: Propagation::Bidirectional,
        ..Default::default()
    };
    let shared = MachineMounts::read().unwrap();
    if !shared.is_shared(Path::new("/proc/sys")) {
        let e = ask(&mut fixture, private);
        assert!(
            e.to_string().contains("config.mounts[0].propagation"),
            "{e}"
        );
    }
}
