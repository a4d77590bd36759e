use super::*;

fn asked() -> v1::PodSandboxConfig {
    // Shaped like the pod config in CRI-O's own examples.
    let json = r#"{
        "metadata": {"name": "podsandbox1", "uid": "redhat-test-crio", "namespace": "redhat.test.crio", "attempt": 1},
        "hostname": "crictl_host",
        "log_directory": "/var/log/pods//x",
        "dns_config": {"servers": ["8.8.8.8"], "searches": ["a.b"], "options": ["ndots:5"]},
        "port_mappings": [
            {"protocol": 1, "container_port": 53, "host_port": 5353, "host_ip": "127.0.0.1"},
            {"container_port": 80}
        ],
        "resources": {"cpu": {"limits": 3}},
        "labels": {"group": "test"},
        "annotations": {"owner": "hmeng"},
        "linux": {
            "cgroup_parent": "pod_123.slice",
            "sysctls": {"net.ipv4.ip_forward": "1"},
            "security_context": {
                "namespace_options": {"network": 0, "pid": 1, "ipc": 0},
                "selinux_options": {"user": "system_u", "role": "system_r", "type": "svirt_lxc_net_t", "level": "s0:c4,c5"},
                "supplemental_groups": [5]
            },
            "resources": {"cpu_shares": 10}
        }
    }"#;
    serde_json::from_str(json).unwrap()
}

fn field(change: impl FnOnce(&mut v1::PodSandboxConfig)) -> String {
    let mut bad = asked();
    change(&mut bad);
    SandboxConfig::try_from(bad).unwrap_err().field
}

fn linux(config: &mut v1::PodSandboxConfig) -> &mut v1::LinuxPodSandboxConfig {
    config.linux.as_mut().unwrap()
}

fn security(config: &mut v1::PodSandboxConfig) -> &mut v1::LinuxSandboxSecurityContext {
    linux(config).security_context.as_mut().unwrap()
}

fn namespaces(config: &mut v1::PodSandboxConfig) -> &mut v1::NamespaceOption {
    security(config).namespace_options.as_mut().unwrap()
}

#[test]
fn a_whole_config() {
    let config = SandboxConfig::try_from(asked()).unwrap();
    assert_eq!(config.metadata.attempt, 1);
    assert_eq!(config.log_directory, Some("/var/log/pods/x".into()));
    assert_eq!(config.dns.options, ["ndots:5"]);
    let ports = [PortMapping {
        protocol: Protocol::Udp,
        container_port: 53,
        host_port: 5353,
        host_ip: Some("127.0.0.1".parse().unwrap()),
    }];
    assert_eq!(config.port_mappings, ports, "one asks for no host port");
    assert_eq!(config.cgroup_parent, "pod_123.slice");
    assert_eq!(config.sysctls["net.ipv4.ip_forward"], "1");
    assert_eq!(config.namespaces.pid, NamespaceMode::Container);
    assert_eq!(config.security.supplemental_groups, [5]);
    assert_eq!(config.resources.as_ref().unwrap().cpu_shares, 10);
    assert_eq!(config.overhead, None);

    let json = serde_json::to_string(&config).unwrap();
    assert_eq!(
        serde_json::from_str::<SandboxConfig>(&json).unwrap(),
        config
    );
    let metadata = v1::PodSandboxMetadata::from(&config.metadata);
    assert_eq!(Some(metadata), asked().metadata);
    let options = v1::NamespaceOption::from(&config.namespaces);
    assert_eq!(Some(&options), Some(&*namespaces(&mut asked())));
}

#[test]
fn the_least_that_a_pod_needs() {
    let least = v1::PodSandboxConfig {
        metadata: asked().metadata,
        ..Default::default()
    };
    let config = SandboxConfig::try_from(least).unwrap();
    assert_eq!(config.namespaces, NamespaceOptions::default());
    assert_eq!(config.dns, Dns::default());
    assert_eq!(config.log_directory, None);
}

#[test]
fn a_saved_config_of_an_older_version_is_read() {
    // Written by hand: what a field that comes later must not break.
    let old = r#"{"metadata": {"name": "a", "uid": "b", "namespace": "c", "attempt": 0}}"#;
    let config: SandboxConfig = serde_json::from_str(old).unwrap();
    assert_eq!(config.metadata.name, "a");
    assert_eq!(config.security, SandboxSecurity::default());
}

fn userns() -> v1::UserNamespace {
    let map = v1::IdMapping {
        host_id: 100_000,
        container_id: 0,
        length: 65_536,
    };
    v1::UserNamespace {
        mode: v1::NamespaceMode::Pod.into(),
        uids: vec![map],
        gids: vec![map],
    }
}

#[test]
fn bad_fields_are_named() {
    type Change = fn(&mut v1::PodSandboxConfig);
    let cases: [(&str, Change); 24] = [
        ("config.metadata", |c| c.metadata = None),
        ("config.metadata.name", |c| {
            c.metadata.as_mut().unwrap().name.clear();
        }),
        ("config.metadata.uid", |c| {
            c.metadata.as_mut().unwrap().uid = "a;K8S_POD_NAME=b".into();
        }),
        ("config.metadata.namespace", |c| {
            c.metadata.as_mut().unwrap().namespace = "../x".into();
        }),
        ("config.hostname", |c| c.hostname = "a".repeat(65)),
        ("config.hostname", |c| c.hostname = "a\nb".into()),
        ("config.log_directory", |c| c.log_directory = "logs".into()),
        ("config.log_directory", |c| {
            c.log_directory = "/var/log/../../etc".into();
        }),
        ("config.dns_config.servers[0]", |c| {
            c.dns_config.as_mut().unwrap().servers = vec!["1.1.1.1\noptions x".into()];
        }),
        ("config.port_mappings[0].protocol", |c| {
            c.port_mappings[0].protocol = 7
        }),
        ("config.port_mappings[0].host_port", |c| {
            c.port_mappings[0].host_port = 65536;
        }),
        ("config.port_mappings[0].container_port", |c| {
            c.port_mappings[0].container_port = 0;
        }),
        ("config.port_mappings[0].host_ip", |c| {
            c.port_mappings[0].host_ip = "localhost".into();
        }),
        ("config.linux.sysctls[vm.swappiness]", |c| {
            linux(c).sysctls = [("vm.swappiness".into(), "1".into())].into();
        }),
        ("config.linux.resources.cpu_shares", |c| {
            linux(c).resources.as_mut().unwrap().cpu_shares = -1;
        }),
        (
            "config.linux.security_context.supplemental_groups[0]",
            |c| {
                security(c).supplemental_groups = vec![-1];
            },
        ),
        ("config.linux.security_context.run_as_user", |c| {
            security(c).run_as_user = Some(v1::Int64Value { value: 1 << 32 });
        }),
        ("config.linux.security_context.namespace_options.pid", |c| {
            namespaces(c).pid = 9;
        }),
        ("config.linux.security_context.namespace_options.ipc", |c| {
            namespaces(c).ipc = v1::NamespaceMode::Target.into();
            namespaces(c).target_id = "x".into();
        }),
        (
            "config.linux.security_context.namespace_options.userns_options.uids",
            |c| {
                namespaces(c).userns_options = Some(v1::UserNamespace::default());
            },
        ),
        (
            "config.linux.security_context.namespace_options.userns_options.gids",
            |c| {
                let mut userns = userns();
                userns.gids.extend(userns.gids.clone());
                namespaces(c).userns_options = Some(userns);
            },
        ),
        (
            "config.linux.security_context.namespace_options.userns_options.gids",
            |c| {
                let mut userns = userns();
                userns.gids[0].container_id = 1;
                namespaces(c).userns_options = Some(userns);
            },
        ),
        (
            "config.linux.security_context.namespace_options.userns_options.uids[0]",
            |c| {
                let mut userns = userns();
                userns.uids[0].length = 0;
                namespaces(c).userns_options = Some(userns);
            },
        ),
        ("config.linux.security_context.namespace_options.ipc", |c| {
            namespaces(c).userns_options = Some(userns());
            namespaces(c).ipc = v1::NamespaceMode::Node.into();
        }),
    ];
    for (name, change) in cases {
        assert_eq!(field(change), name);
    }
}

#[test]
fn host_network_forbids_its_sysctls() {
    let name = field(|c| namespaces(c).network = v1::NamespaceMode::Node.into());
    assert_eq!(name, "config.linux.sysctls[net.ipv4.ip_forward]");
}

#[test]
fn host_names() {
    let id = "0123456789abcdef";
    let mut config = SandboxConfig::default();
    assert_eq!(config.hostname_or(id, "machine"), "0123456789ab");
    config.namespaces.network = NamespaceMode::Node;
    assert_eq!(config.hostname_or(id, "machine"), "machine");
    config.hostname = "own".into();
    assert_eq!(config.hostname_or(id, "machine"), "own");
}
