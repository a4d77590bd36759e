use super::*;
use nix::mount::MsFlags;
use std::os::unix::fs::MetadataExt;

/// Runs `f` on a thread whose mounts are its own and end with it, also when it panics.
pub(crate) fn with_private_mounts<T: Send>(f: impl FnOnce() -> T + Send) -> T {
    on_a_thread("private", || {
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        let none: Option<&str> = None;
        nix::mount::mount(none, "/", none, private, none).unwrap();
        f()
    })
    .unwrap()
}

fn inode(path: impl AsRef<Path>) -> u64 {
    fs::metadata(path).unwrap().ino()
}

fn everything() -> Wanted {
    let sysctls = [
        ("net.ipv4.ip_unprivileged_port_start", "80"),
        ("net/ipv4/conf/lo/rp_filter", "1"),
        ("kernel.shm_rmid_forced", "1"),
        ("kernel.domainname", "example.org"),
    ];
    Wanted {
        net: true,
        ipc: true,
        uts: Some("pod-1".to_owned()),
        sysctls: sysctls
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into_iter()
            .collect(),
        user: None,
    }
}

#[test]
fn namespaces_are_pinned_configured_and_gone_again() {
    let dir = tempfile::tempdir().unwrap();
    let pins = dir.path().join("ns/pod");
    with_private_mounts(|| {
        let pinned = pin(&pins, &everything()).unwrap();
        let net = pinned.net.unwrap();
        assert_eq!(net, pins.join("net"));
        assert!(is_pinned(&net).unwrap());
        assert_ne!(inode(&net), inode("/proc/thread-self/ns/net"));
        let (unprivileged, bound) = run_in(&net, || {
            let path = "/proc/sys/net/ipv4/ip_unprivileged_port_start";
            let value = fs::read_to_string(path).unwrap();
            // With `lo` down: "network is unreachable".
            (
                value,
                std::net::UdpSocket::bind("127.0.0.1:9").and_then(|s| {
                    s.connect("127.0.0.1:9")?;
                    s.send(b"x")
                }),
            )
        })
        .unwrap();
        assert_eq!(unprivileged.trim(), "80");
        bound.unwrap();
        let uts = File::open(pinned.uts.unwrap()).unwrap();
        let ipc = File::open(pinned.ipc.unwrap()).unwrap();
        let (host, domain, shm) = on_a_thread("look", || {
            setns(&uts, CloneFlags::CLONE_NEWUTS).unwrap();
            setns(&ipc, CloneFlags::CLONE_NEWIPC).unwrap();
            let read = |name| fs::read_to_string(Path::new("/proc/sys/kernel").join(name));
            (
                read("hostname"),
                read("domainname"),
                read("shm_rmid_forced"),
            )
        })
        .unwrap();
        assert_eq!(host.unwrap().trim(), "pod-1");
        assert_eq!(domain.unwrap().trim(), "example.org");
        assert_eq!(shm.unwrap().trim(), "1");

        let again = pin(&pins, &everything()).unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
        assert!(
            is_pinned(&net).unwrap(),
            "a refused pin leaves the first alone"
        );
        unpin(&pins).unwrap();
        assert!(!is_pinned(&net).unwrap());
        assert!(!pins.exists());
        unpin(&pins).unwrap();
    });
}

#[test]
fn a_user_namespace_owns_what_is_pinned_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let map = |outside| {
        vec![IdMap {
            inside: 0,
            outside,
            length: 65_536,
        }]
    };
    let wanted = Wanted {
        user: Some(IdMaps {
            uids: map(500_000),
            gids: map(600_000),
        }),
        ..everything()
    };
    with_private_mounts(|| {
        // At once: the children must not keep each other alive.
        thread::scope(|scope| {
            for n in 0..8 {
                let (wanted, pins) = (&wanted, dir.path().join(n.to_string()));
                scope.spawn(move || pin(&pins, wanted).unwrap());
            }
        });
        let pins = dir.path().join("0");
        let read = |name: &str| fs::read_to_string(Path::new("/proc/sys").join(name)).unwrap();
        let found = on_a_thread("look", || {
            for (kind, flag) in [
                ("net", CloneFlags::CLONE_NEWNET),
                ("ipc", CloneFlags::CLONE_NEWIPC),
                ("uts", CloneFlags::CLONE_NEWUTS),
            ] {
                setns(File::open(pins.join(kind)).unwrap(), flag).unwrap();
            }
            [
                read("kernel/hostname"),
                read("kernel/domainname"),
                read("kernel/shm_rmid_forced"),
                read("net/ipv4/ip_unprivileged_port_start"),
                read("net/ipv4/conf/lo/rp_filter"),
            ]
        })
        .unwrap();
        assert_eq!(
            found.map(|text| text.trim().to_owned()),
            ["pod-1", "example.org", "1", "80", "1"]
        );
        assert!(is_pinned(&pins.join("user")).unwrap());

        let mut bad = wanted.clone();
        bad.sysctls.insert("net.no.such".into(), "1".into());
        let e = pin(&dir.path().join("bad"), &bad).unwrap_err().to_string();
        assert!(e.contains("`1` to `/proc/sys/net/no/such`"), "{e}");
        let mut bad = wanted.clone();
        bad.user = Some(IdMaps {
            uids: [map(1), map(2)].concat(),
            gids: map(1),
        });
        let e = pin(&dir.path().join("bad"), &bad).unwrap_err().to_string();
        assert!(
            e.starts_with("write the uid_map `0 1 65536, 0 2 65536`"),
            "{e}"
        );
        assert!(!dir.path().join("bad").exists());
        for n in 0..8 {
            unpin(&dir.path().join(n.to_string())).unwrap();
        }
    });
}

#[test]
fn a_failure_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let pins = dir.path().join("pod");
    with_private_mounts(|| {
        let mut wanted = everything();
        wanted.sysctls.insert("net.no.such".into(), "1".into());
        let e = pin(&pins, &wanted).unwrap_err();
        assert!(e.to_string().contains("/proc/sys/net/no/such"), "{e}");
        assert!(!pins.exists());

        let long = Wanted {
            uts: Some("h".repeat(65)),
            ..Wanted::default()
        };
        let e = pin(&pins, &long).unwrap_err();
        assert!(e.to_string().starts_with("set the host name"), "{e}");
        assert!(!pins.exists());
        assert!(mount::at_or_below(&pins).unwrap().is_empty());
    });
}

#[test]
fn the_machines_sysctls_are_out_of_reach() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |name: &str, wanted: Wanted| {
        let wanted = Wanted {
            sysctls: [(name.to_owned(), "1".to_owned())].into(),
            ..wanted
        };
        let e = pin(&dir.path().join("pod"), &wanted).unwrap_err();
        assert_eq!(e.kind(), io::ErrorKind::InvalidInput, "{name}: {e}");
        assert!(e.to_string().contains(name), "{e}");
    };
    refused(
        "net.ipv4.ip_forward",
        Wanted {
            ipc: true,
            ..Wanted::default()
        },
    );
    refused(
        "kernel.shmmax",
        Wanted {
            net: true,
            ..Wanted::default()
        },
    );
    refused("vm.swappiness", everything());
    refused("net.../../kernel/panic", everything());
    refused("net/../kernel/panic", everything());
    refused("net.", everything());
}

#[test]
fn sysctl_names_have_two_spellings() {
    let path = |name| sysctl_path(name).map(|p| p.to_string_lossy().into_owned());
    assert_eq!(
        path("net.ipv4.conf.eth0/1.forwarding").unwrap(),
        "/proc/sys/net/ipv4/conf/eth0.1/forwarding"
    );
    assert_eq!(
        path("net/ipv4/conf/eth0.1/forwarding").unwrap(),
        "/proc/sys/net/ipv4/conf/eth0.1/forwarding"
    );
    for bad in ["", "net..x", "/net", "net/", "net/\0"] {
        assert_eq!(path(bad), None, "{bad}");
    }
}

#[test]
fn a_process_namespace_is_pinned_while_it_lives() {
    let dir = tempfile::tempdir().unwrap();
    let pins = dir.path().join("pod");
    with_private_mounts(|| {
        pin(
            &pins,
            &Wanted {
                ipc: true,
                ..Wanted::default()
            },
        )
        .unwrap();
        let own = ProcessId::of(std::process::id() as i32).unwrap();
        let path = pin_process(&pins, &own, Kind::Pid).unwrap();
        assert_eq!(inode(&path), inode("/proc/self/ns/pid"));
        let gone = ProcessId {
            start_time: 1,
            ..own
        };
        unpin_one(&pins, Kind::Pid).unwrap();
        let e = pin_process(&pins, &gone, Kind::Pid).unwrap_err();
        assert_eq!(e.kind(), io::ErrorKind::NotFound);
        unpin(&pins).unwrap();
    });
}
