//! Configurations of pods and containers with one thing wrong in each.

use crio_setup::cri::v1;

/// A field's path, how it is made wrong, and what else the message must hold.
pub type Wrong<T> = (&'static str, fn(&mut T), &'static str);

fn sandbox_context(config: &mut v1::PodSandboxConfig) -> &mut v1::LinuxSandboxSecurityContext {
    let linux = config.linux.get_or_insert_default();
    linux.security_context.get_or_insert_default()
}

fn sandbox_namespaces(config: &mut v1::PodSandboxConfig) -> &mut v1::NamespaceOption {
    sandbox_context(config)
        .namespace_options
        .get_or_insert_default()
}

fn port(config: &mut v1::PodSandboxConfig) -> &mut v1::PortMapping {
    config.port_mappings.push(v1::PortMapping {
        container_port: 80,
        host_port: 8080,
        ..Default::default()
    });
    &mut config.port_mappings[0]
}

pub const PODS: &[Wrong<v1::PodSandboxConfig>] = &[
    ("config.metadata", |c| c.metadata = None, "is required"),
    (
        "config.metadata.name",
        |c| c.metadata.get_or_insert_default().name.clear(),
        "is required",
    ),
    (
        "config.metadata.uid",
        |c| c.metadata.get_or_insert_default().uid.clear(),
        "is required",
    ),
    (
        "config.metadata.namespace",
        |c| c.metadata.get_or_insert_default().namespace.clear(),
        "is required",
    ),
    (
        "config.metadata.name",
        |c| c.metadata.get_or_insert_default().name = "../up".to_owned(),
        "'/'",
    ),
    (
        "config.metadata.uid",
        |c| c.metadata.get_or_insert_default().uid = "a;b=c".to_owned(),
        "';'",
    ),
    (
        "config.hostname",
        |c| c.hostname = "two words".to_owned(),
        "host name",
    ),
    (
        "config.hostname",
        |c| c.hostname = "x".repeat(65),
        "host name",
    ),
    (
        "config.log_directory",
        |c| c.log_directory = "relative".to_owned(),
        "absolute",
    ),
    (
        "config.log_directory",
        |c| c.log_directory = "/var/log/../etc".to_owned(),
        "..",
    ),
    (
        "config.dns_config.servers[0]",
        |c| c.dns_config.get_or_insert_default().servers = vec!["1.1.1.1\nsearch evil".to_owned()],
        "one word",
    ),
    (
        "config.dns_config.options[0]",
        |c| c.dns_config.get_or_insert_default().options = vec![String::new()],
        "one word",
    ),
    (
        "config.port_mappings[0].protocol",
        |c| port(c).protocol = 9,
        "unknown value 9",
    ),
    (
        "config.port_mappings[0].host_port",
        |c| port(c).host_port = 65536,
        "not a port",
    ),
    (
        "config.port_mappings[0].container_port",
        |c| port(c).container_port = -1,
        "not a port",
    ),
    (
        "config.port_mappings[0].container_port",
        |c| port(c).container_port = 0,
        "is required",
    ),
    (
        "config.port_mappings[0].host_ip",
        |c| port(c).host_ip = "here".to_owned(),
        "not an IP address",
    ),
    (
        "config.linux.security_context.namespace_options.network",
        |c| sandbox_namespaces(c).network = 7,
        "unknown value 7",
    ),
    (
        "config.linux.security_context.namespace_options.pid",
        |c| sandbox_namespaces(c).pid = -1,
        "unknown value -1",
    ),
    (
        "config.linux.security_context.namespace_options",
        |c| sandbox_namespaces(c).ipc = v1::NamespaceMode::Target.into(),
        "target",
    ),
    (
        "config.linux.security_context.run_as_user",
        |c| sandbox_context(c).run_as_user = Some(v1::Int64Value { value: -1 }),
        "not a user or group id",
    ),
    (
        "config.linux.security_context.supplemental_groups[0]",
        |c| sandbox_context(c).supplemental_groups = vec![1 << 33],
        "not a user or group id",
    ),
    (
        "config.linux.sysctls",
        |c| {
            c.linux
                .get_or_insert_default()
                .sysctls
                .insert("kernel.panic".to_owned(), "1".to_owned());
        },
        "kernel.panic",
    ),
    (
        "cgroup parent",
        |c| c.linux.get_or_insert_default().cgroup_parent = "pods.slice".to_owned(),
        "pods.slice",
    ),
    (
        "config.linux.cgroup_parent",
        |c| c.linux.get_or_insert_default().cgroup_parent = "a\nb".to_owned(),
        "character",
    ),
    (
        "cgroup parent",
        |c| c.linux.get_or_insert_default().cgroup_parent = "/a/../../b".to_owned(),
        "not the name of a cgroup",
    ),
];

pub fn context(config: &mut v1::ContainerConfig) -> &mut v1::LinuxContainerSecurityContext {
    let linux = config.linux.get_or_insert_default();
    linux.security_context.get_or_insert_default()
}

fn capabilities(config: &mut v1::ContainerConfig) -> &mut v1::Capability {
    context(config).capabilities.get_or_insert_default()
}

fn mount(config: &mut v1::ContainerConfig) -> &mut v1::Mount {
    config.mounts.push(v1::Mount {
        container_path: "/mnt".to_owned(),
        host_path: "/srv".to_owned(),
        ..Default::default()
    });
    &mut config.mounts[0]
}

pub fn device(config: &mut v1::ContainerConfig) -> &mut v1::Device {
    config.devices.push(v1::Device {
        host_path: "/dev/null".to_owned(),
        container_path: "/dev/nothing".to_owned(),
        permissions: "rw".to_owned(),
    });
    &mut config.devices[0]
}

fn variable(config: &mut v1::ContainerConfig) -> &mut v1::KeyValue {
    config.envs.push(v1::KeyValue {
        key: "KEY".to_owned(),
        value: b"value".to_vec(),
    });
    &mut config.envs[0]
}

pub const CONTAINERS: &[Wrong<v1::ContainerConfig>] = &[
    ("config.metadata", |c| c.metadata = None, "is required"),
    (
        "config.metadata.name",
        |c| c.metadata.get_or_insert_default().name.clear(),
        "is required",
    ),
    (
        "config.metadata.name",
        |c| c.metadata.get_or_insert_default().name = "a/b".to_owned(),
        "'/'",
    ),
    ("config.image.image", |c| c.image = None, "is required"),
    (
        "config.image.image",
        |c| c.image.get_or_insert_default().image.clear(),
        "is required",
    ),
    (
        "config.command[2]",
        |c| c.command.push("a\0b".to_owned()),
        "NUL",
    ),
    ("config.args[0]", |c| c.args = vec!["\0".to_owned()], "NUL"),
    (
        "config.working_dir",
        |c| c.working_dir = "/a\0b".to_owned(),
        "NUL",
    ),
    (
        "config.envs[0].key",
        |c| variable(c).key.clear(),
        "is required",
    ),
    (
        "config.envs[0].key",
        |c| variable(c).key = "A=B".to_owned(),
        "`=`",
    ),
    (
        "config.envs[0].value",
        |c| variable(c).value = vec![0xff],
        "UTF-8",
    ),
    (
        "config.mounts[0].container_path",
        |c| mount(c).container_path.clear(),
        "is required",
    ),
    (
        "config.mounts[0].container_path",
        |c| mount(c).container_path = "mnt".to_owned(),
        "absolute",
    ),
    (
        "config.mounts[0].container_path",
        |c| mount(c).container_path = "/".to_owned(),
        "own root",
    ),
    (
        "config.mounts[0].container_path",
        |c| mount(c).container_path = "/a/../b".to_owned(),
        "..",
    ),
    (
        "config.mounts[0].host_path",
        |c| mount(c).host_path.clear(),
        "is required",
    ),
    (
        "config.mounts[0].host_path",
        |c| mount(c).host_path = "srv".to_owned(),
        "absolute",
    ),
    (
        "config.mounts[0].propagation",
        |c| mount(c).propagation = 5,
        "unknown value 5",
    ),
    (
        "config.mounts[0].recursive_read_only",
        |c| mount(c).recursive_read_only = true,
        "readonly",
    ),
    (
        "config.mounts[0].host_path",
        |c| {
            mount(c).image = Some(v1::ImageSpec {
                image: "x".to_owned(),
                ..Default::default()
            })
        },
        "only one",
    ),
    (
        "config.devices[0].host_path",
        |c| device(c).host_path.clear(),
        "is required",
    ),
    (
        "config.devices[0].permissions",
        |c| device(c).permissions = "rx".to_owned(),
        "`rx`",
    ),
    (
        "config.log_path",
        |c| c.log_path = "/etc/passwd".to_owned(),
        "relative",
    ),
    (
        "config.log_path",
        |c| c.log_path = "../other/0.log".to_owned(),
        "..",
    ),
    (
        "config.log_path",
        |c| c.log_path = "a\nb".to_owned(),
        "character",
    ),
    (
        "config.stop_signal",
        |c| c.stop_signal = 999,
        "unknown value 999",
    ),
    (
        "config.linux.security_context.capabilities",
        |c| capabilities(c).add_capabilities = vec!["FLY".to_owned()],
        "FLY",
    ),
    (
        "config.linux.security_context.capabilities",
        |c| capabilities(c).drop_capabilities = vec!["".to_owned()],
        "",
    ),
    (
        "config.linux.security_context.run_as_user",
        |c| context(c).run_as_user = Some(v1::Int64Value { value: -5 }),
        "not a user or group id",
    ),
    (
        "config.linux.security_context.run_as_group",
        |c| context(c).run_as_group = Some(v1::Int64Value { value: 5 }),
        "needs",
    ),
    (
        "config.linux.security_context.run_as_username",
        |c| context(c).run_as_username = "a:b".to_owned(),
        "`:`",
    ),
    (
        "nobody-has-this-name",
        |c| context(c).run_as_username = "nobody-has-this-name".to_owned(),
        "/etc/passwd",
    ),
    (
        "config.linux.security_context.supplemental_groups[1]",
        |c| context(c).supplemental_groups = vec![5, -1],
        "not a user or group id",
    ),
    (
        "config.linux.security_context.supplemental_groups_policy",
        |c| context(c).supplemental_groups_policy = 9,
        "unknown value 9",
    ),
    (
        "config.linux.security_context.namespace_options.network",
        |c| context(c).namespace_options.get_or_insert_default().network = 9,
        "unknown value 9",
    ),
    (
        "config.linux.security_context.namespace_options.target_id",
        |c| {
            context(c).namespace_options.get_or_insert_default().pid =
                v1::NamespaceMode::Target.into()
        },
        "is required",
    ),
    (
        "config.linux.security_context.masked_paths",
        |c| context(c).masked_paths = vec!["relative".to_owned()],
        "absolute",
    ),
    (
        "config.linux.security_context.seccomp",
        |c| {
            context(c).seccomp = Some(v1::SecurityProfile {
                profile_type: 9,
                localhost_ref: String::new(),
            })
        },
        "9",
    ),
    (
        "config.linux.resources",
        |c| {
            c.linux.get_or_insert_default().resources = Some(v1::LinuxContainerResources {
                cpu_period: -1,
                ..Default::default()
            })
        },
        "cpu_period",
    ),
    (
        "config.linux.resources",
        |c| {
            c.linux.get_or_insert_default().resources = Some(v1::LinuxContainerResources {
                cpuset_cpus: "all".to_owned(),
                ..Default::default()
            })
        },
        "cpuset_cpus",
    ),
];
