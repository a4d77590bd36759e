use super::*;
use oci_spec::runtime::Capability;

fn asked() -> v1::ContainerConfig {
    // Shaped like the container configs that users of crictl write.
    let json = r#"{
        "metadata": {"name": "redis", "attempt": 2},
        "image": {"image": "docker.io/library/redis:7-alpine"},
        "command": ["redis-server"],
        "args": ["--port", "6379"],
        "working_dir": "/data",
        "envs": [{"key": "A", "value": "x=y"}],
        "mounts": [{"container_path": "/data", "host_path": "/srv/data/", "readonly": true, "propagation": 1}],
        "devices": [{"host_path": "/dev/null"}],
        "labels": {"tier": "backend"},
        "annotations": {"pod": "podsandbox1"},
        "log_path": "redis/2.log",
        "tty": true,
        "stop_signal": 18,
        "linux": {
            "resources": {"cpu_period": 10000, "cpu_quota": 20000, "cpu_shares": 512, "oom_score_adj": 30, "memory_limit_in_bytes": 268435456},
            "security_context": {
                "run_as_user": {"value": 999},
                "run_as_group": {"value": 1000},
                "supplemental_groups": [5],
                "supplemental_groups_policy": 1,
                "readonly_rootfs": true,
                "no_new_privs": true,
                "capabilities": {"add_capabilities": ["setuid", "SETGID"]},
                "seccomp": {"profile_type": 0},
                "masked_paths": ["/proc/kcore"]
            }
        }
    }"#;
    serde_json::from_str(json).unwrap()
}

fn security(config: &mut v1::ContainerConfig) -> &mut v1::LinuxContainerSecurityContext {
    let linux = config.linux.as_mut().unwrap();
    linux.security_context.as_mut().unwrap()
}

#[test]
fn a_whole_config() {
    let config = ContainerConfig::try_from(asked()).unwrap();
    assert_eq!(config.metadata.attempt, 2);
    assert_eq!(config.envs, [("A".to_owned(), "x=y".to_owned())]);
    let mount = &config.mounts[0];
    assert_eq!(mount.host_path, Path::new("/srv/data"));
    assert_eq!(mount.propagation, Propagation::HostToContainer);
    let device = &config.devices[0];
    assert_eq!(device.container_path, Path::new("/dev/null"));
    assert_eq!(device.permissions, "rwm");
    assert_eq!(config.log_path, Some("redis/2.log".into()));
    assert_eq!(config.stop_signal.unwrap().number(), libc::SIGQUIT);
    assert_eq!(config.resources.memory_limit, 256 << 20);
    let security = &config.security;
    assert_eq!(security.run_as_user, Some(999));
    assert_eq!(security.supplemental_groups_policy, GroupsPolicy::Strict);
    assert_eq!(security.seccomp, Profile::RuntimeDefault);
    assert_eq!(
        security.capabilities.add,
        [Capability::Setuid, Capability::Setgid]
    );
    assert_eq!(security.namespaces, None);

    let json = serde_json::to_string(&config).unwrap();
    assert_eq!(
        serde_json::from_str::<ContainerConfig>(&json).unwrap(),
        config
    );
    let metadata = v1::ContainerMetadata::from(&config.metadata);
    assert_eq!(Some(metadata), asked().metadata);
    let image = v1::ImageSpec::from(&config.image);
    assert_eq!(Some(image), asked().image);
    let back = v1::Mount::from(mount);
    assert_eq!((back.readonly, back.propagation), (true, 1));
}

#[test]
fn bad_fields_are_named() {
    type Change = fn(&mut v1::ContainerConfig);
    let cases: [(&str, Change); 26] = [
        ("config.metadata", |c| c.metadata = None),
        ("config.metadata.name", |c| {
            c.metadata.as_mut().unwrap().name = "a/b".into();
        }),
        ("config.image.image", |c| c.image = None),
        ("config.command[0]", |c| c.command[0].push('\0')),
        ("config.args[1]", |c| c.args[1].push('\0')),
        ("config.envs[0].key", |c| c.envs[0].key = "A=B".into()),
        ("config.envs[0].key", |c| c.envs[0].key.clear()),
        ("config.envs[0].value", |c| c.envs[0].value = vec![0xff]),
        ("config.mounts[0].container_path", |c| {
            c.mounts[0].container_path = "data".into();
        }),
        ("config.mounts[0].container_path", |c| {
            c.mounts[0].container_path = "//.".into();
        }),
        ("config.mounts[0].container_path", |c| {
            c.mounts[0].container_path = "/data/../../etc".into();
        }),
        ("config.mounts[0].host_path", |c| {
            c.mounts[0].host_path.clear()
        }),
        ("config.mounts[0].host_path", |c| {
            c.mounts[0].image = Some(v1::ImageSpec {
                image: "x".into(),
                ..Default::default()
            });
        }),
        ("config.mounts[0].propagation", |c| {
            c.mounts[0].propagation = 3
        }),
        ("config.mounts[0].recursive_read_only", |c| {
            c.mounts[0].recursive_read_only = true;
        }),
        ("config.mounts[0].recursive_read_only", |c| {
            c.mounts[0].recursive_read_only = true;
            c.mounts[0].propagation = 0;
            c.mounts[0].readonly = false;
        }),
        ("config.mounts[0].image_sub_path", |c| {
            c.mounts[0].image_sub_path = "a/../../b".into();
        }),
        ("config.devices[0].permissions", |c| {
            c.devices[0].permissions = "x".into();
        }),
        ("config.log_path", |c| {
            c.log_path = "../../etc/cron.d/x".into()
        }),
        ("config.log_path", |c| c.log_path = "/etc/cron.d/x".into()),
        ("config.stop_signal", |c| c.stop_signal = 99),
        ("config.linux.security_context.run_as_group", |c| {
            security(c).run_as_user = None;
        }),
        ("config.linux.security_context.run_as_username", |c| {
            security(c).run_as_username = "redis:root".into();
        }),
        (
            "config.linux.security_context.supplemental_groups_policy",
            |c| {
                security(c).supplemental_groups_policy = 5;
            },
        ),
        ("config.linux.security_context.masked_paths[0]", |c| {
            security(c).masked_paths = vec!["proc".into()];
        }),
        (
            "config.linux.security_context.namespace_options.target_id",
            |c| {
                security(c).namespace_options = Some(v1::NamespaceOption {
                    pid: v1::NamespaceMode::Target.into(),
                    ..Default::default()
                });
            },
        ),
    ];
    for (name, change) in cases {
        let mut bad = asked();
        change(&mut bad);
        let error = ContainerConfig::try_from(bad).unwrap_err();
        assert_eq!(error.field, name, "{error}");
    }
}

#[test]
fn the_target_of_a_debug_container() {
    let mut debug = asked();
    security(&mut debug).namespace_options = Some(v1::NamespaceOption {
        pid: v1::NamespaceMode::Target.into(),
        target_id: "abc".into(),
        ..Default::default()
    });
    let config = ContainerConfig::try_from(debug).unwrap();
    assert_eq!(config.security.target(), Some("abc"));
    let plain = ContainerConfig::try_from(asked()).unwrap();
    assert_eq!(plain.security.target(), None);
}
