//! What the keys of the configuration do to pods and containers, each of them seen from inside.

use std::fs;

use anyhow::{Context, Result, ensure};
use crio_setup::cri::v1;
use serde_json::{Value, json};
use tonic::Code;

use crate::support::node::fails;
use crate::world::{World, busybox, code};

const DROP_IN: &str = "/etc/ocid/ocid.conf.d/10-test.conf";

/// A container's specification as the runtime was given it.
fn spec(world: &World, id: &str) -> Result<Value> {
    let path = world
        .machine
        .path(format!("/run/ocid/containers/{id}/config.json"));
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_configuration_gives_to_containers() -> Result<()> {
    let config = r#"
[crio.runtime]
timezone = "Test/Zone"
default_mounts_file = "/etc/mounts.conf"
device_ownership_from_security_context = true
additional_devices = ["/dev/null:/dev/given"]
infra_ctr_cpuset = "0"
no_pivot = true
ctr_stop_timeout = 45
allowed_devices = ["/dev/full"]
[crio.runtime.runtimes.runc]
container_min_memory = "32MiB"
default_annotations = { "given.by" = "handler", "pods.own" = "handler" }
privileged_without_host_devices = true
allowed_annotations = [
    "io.kubernetes.cri-o.umask", "io.kubernetes.cri-o.ShmSize", "io.kubernetes.cri-o.Devices"
]
[crio.image]
image_volumes = "bind"
"#;
    let world = World::with(&[
        (DROP_IN, config),
        ("/usr/share/zoneinfo/Test/Zone", "zone of the test\n"),
        (
            "/etc/mounts.conf",
            "# given\n/srv/given:/run/given\n/nowhere\n",
        ),
        ("/srv/given/file", "a gift\n"),
    ])
    .await?;
    let image = busybox(json!({ "Volumes": { "/data": {} } }))?;
    let image = world
        .registry
        .push(&world.machine, "library/volume", "1", &image)?;
    world.client.pull_image(&image, None).await?;

    let mut sandbox = world.pod_config("given");
    for (name, value) in [
        ("io.kubernetes.cri-o.umask", "0027"),
        ("io.kubernetes.cri-o.ShmSize", "8Mi"),
        ("io.kubernetes.cri-o.Devices", "/dev/full:/dev/asked"),
        ("pods.own", "pod"),
    ] {
        sandbox
            .annotations
            .insert(name.to_owned(), value.to_owned());
    }
    let context = sandbox
        .linux
        .as_mut()
        .and_then(|l| l.security_context.as_mut());
    let context = context.context("no security context")?;
    // A process that holds the pod.
    context.namespace_options = Some(v1::NamespaceOption::default());
    context.privileged = true;
    let pod = world.run_pod(&sandbox).await?;
    let verbose = world.client.pod_sandbox_status(&pod, true).await?;
    let info: Value = serde_json::from_str(verbose.info.get("info").context("no info")?)?;
    let pause = info["pid"].as_i64().context("no pid")?;
    let status = fs::read_to_string(world.machine.path(format!("/proc/{pause}/status")))?;
    ensure!(status.contains("Cpus_allowed_list:\t0\n"), "{status}");

    let mut config = world.container_config("given", &["sleep", "600"]);
    config.image = Some(v1::ImageSpec {
        image: image.clone(),
        ..Default::default()
    });
    config
        .annotations
        .insert("own".to_owned(), "container".to_owned());
    let linux = config.linux.get_or_insert_default();
    linux.security_context = Some(v1::LinuxContainerSecurityContext {
        run_as_user: Some(v1::Int64Value { value: 1234 }),
        run_as_group: Some(v1::Int64Value { value: 1235 }),
        ..Default::default()
    });
    let id = world.up(&pod, &sandbox, config.clone()).await?;
    for (script, said) in [
        ("cat /etc/localtime", "zone of the test"),
        ("cat /run/given/file", "a gift"),
        ("echo x >/run/given/file || echo no", "no"),
        (
            "df -k /dev/shm | tail -n 1 | tr -s ' ' | { read a b c; echo $b; }",
            "8192",
        ),
        ("stat -c %u:%g /dev/given", "1234:1235"),
        ("stat -c %t:%T /dev/asked", "1:7"),
        (
            "stat -c %u /data; touch /data/x && grep -c ' /data ' /proc/mounts",
            "1234\n1",
        ),
    ] {
        let found = world.shell(&id, script).await?;
        ensure!(
            found.lines().last() == said.lines().last(),
            "{script}: {found}"
        );
    }
    // Only of the first process: what is run in it later has the runtime's own.
    let mut masked = world.container_config("masked", &["sh", "-c", "umask"]);
    masked.image.clone_from(&config.image);
    let (said, _) = world.run(&pod, &sandbox, masked).await?;
    ensure!(said == "0027", "umask {said}");
    let annotations = &spec(&world, &id)?["annotations"];
    ensure!(annotations["given.by"] == "handler", "{annotations}");
    ensure!(annotations["own"] == "container", "{annotations}");
    ensure!(annotations["pods.own"].is_null(), "{annotations}");
    let volume = format!("/var/lib/ocid/containers/{id}/volumes/0/x");
    ensure!(world.machine.exists(&volume), "the volume is elsewhere");
    world
        .daemon()
        .line_with("the default mount `/nowhere` is missing")?;

    // Privileged, but without the machine's devices.
    let mut privileged = world.container_config("privileged", &["sleep", "600"]);
    privileged.linux.get_or_insert_default().security_context =
        Some(v1::LinuxContainerSecurityContext {
            privileged: true,
            ..Default::default()
        });
    let id = world.up(&pod, &sandbox, privileged).await?;
    let devices = &spec(&world, &id)?["linux"]["devices"];
    let devices = devices.as_array().map_or(0, Vec::len);
    ensure!(devices == 2, "{devices} devices");

    config.metadata = Some(v1::ContainerMetadata {
        name: "small".to_owned(),
        attempt: 0,
    });
    config.linux.get_or_insert_default().resources = Some(v1::LinuxContainerResources {
        memory_limit_in_bytes: 16 << 20,
        ..Default::default()
    });
    let (refusal, message) = code(world.create(&pod, &sandbox, config).await)?;
    ensure!(refusal == Code::InvalidArgument, "{refusal}: {message}");
    ensure!(message.contains("memory_limit_in_bytes"), "{message}");

    // Devices that are not allowed, and values that are none.
    for (name, value) in [
        ("io.kubernetes.cri-o.Devices", "/dev/null"),
        ("io.kubernetes.cri-o.ShmSize", "much"),
    ] {
        let mut sandbox = world.pod_config("refused");
        sandbox
            .annotations
            .insert(name.to_owned(), value.to_owned());
        let refused = match world.run_pod(&sandbox).await {
            Ok(pod) => {
                let config = world.container_config("refused", &["true"]);
                code(world.create(&pod, &sandbox, config).await)?
            }
            Err(error) => code(Err::<(), _>(error))?,
        };
        ensure!(refused.0 == Code::InvalidArgument, "{name}: {refused:?}");
        ensure!(refused.1.contains(name), "{refused:?}");
    }
    world.client.remove_image(&image).await?;
    world.assert_clean(&[]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_file_in_place_of_a_socket_stays() -> Result<()> {
    let machine = crate::support::Machine::start()?;
    crate::support::node::configure(&machine)?;
    let ocid = machine.product("ocid")?;
    for (key, path) in [
        ("[crio.api]\nlisten", "/srv/precious"),
        (
            "[crio.metrics]\nenable_metrics = true\nmetrics_socket",
            "/srv/figures",
        ),
    ] {
        machine.write(path, "mine\n", 0o644)?;
        machine.write(DROP_IN, format!("{key} = \"{path}\"\n"), 0o644)?;
        let refused = machine.output(&["timeout", "60", &ocid])?;
        fails("ocid", &refused, 1, &[path, "is no socket"])?;
        ensure!(machine.read(path)? == "mine\n", "{path} has changed");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_under_tls_and_only_those_that_are_wanted() -> Result<()> {
    let fixture = |name: &str| {
        fs::read_to_string(format!(
            "{}/tests/fixtures/tls/{name}",
            env!("CARGO_MANIFEST_DIR")
        ))
    };
    let (ca, cert, key) = (
        fixture("ca.pem")?,
        fixture("server.pem")?,
        fixture("server.key")?,
    );
    let config = r#"
[crio.metrics]
enable_metrics = true
metrics_port = 9092
metrics_cert = "/etc/ocid/metrics.pem"
metrics_key = "/etc/ocid/metrics.key"
metrics_min_tls_version = "VersionTLS13"
metrics_collectors = ["operations_total", "crio_image_pulls_success_total", "weather"]
"#;
    let world = World::with(&[
        (DROP_IN, config),
        ("/etc/ocid/metrics.pem", &cert),
        ("/etc/ocid/metrics.key", &key),
        ("/srv/ca.pem", &ca),
    ])
    .await?;
    world
        .daemon()
        .line_with("metrics_collectors: weather` has no effect")?;
    let url = "https://127.0.0.1:9092/metrics";
    let curl = ["curl", "--silent", "--show-error", "--max-time", "60"];
    let with = |also: &[&str]| {
        let argv: Vec<&str> = curl.iter().chain(also).copied().collect();
        world.machine.output(&argv)
    };
    let scraped = with(&["--cacert", "/srv/ca.pem", url])?;
    let text = String::from_utf8(scraped.stdout)?;
    for line in [
        "container_runtime_crio_image_pulls_success_total 1",
        "container_runtime_crio_operations_total{operation=\"PullImage\"} 1",
        "ocid_containers{state=\"running\"} 0",
    ] {
        ensure!(text.lines().any(|l| l == line), "no `{line}` in\n{text}");
    }
    ensure!(!text.contains("operations_errors_total"), "{text}");
    ensure!(!text.contains("oom"), "{text}");
    let old = with(&["--cacert", "/srv/ca.pem", "--tls-max", "1.2", url])?;
    ensure!(!old.status.success(), "TLS 1.2 is spoken");
    let plain = with(&["http://127.0.0.1:9092/metrics"])?;
    let plain = String::from_utf8_lossy(&plain.stdout).into_owned();
    ensure!(!plain.contains("crio"), "without TLS: {plain}");
    // One that says nothing holds up nobody.
    let _silent = world.machine.connect("127.0.0.1:9092".parse()?)?;
    let again = with(&["--cacert", "/srv/ca.pem", url])?;
    ensure!(again.status.success(), "{again:?}");
    world.assert_clean(&[]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn namespaces_have_policies_and_host_ports_can_be_left_alone() -> Result<()> {
    let config = "[crio.image]\nsignature_policy_dir = \"/etc/policies\"\n[crio.runtime]\ndisable_hostport_mapping = true\n";
    let world = World::with(&[
        (DROP_IN, config),
        (
            "/etc/policies/strict.json",
            r#"{"default":[{"type":"reject"}]}"#,
        ),
    ])
    .await?;
    let pull = async |namespace: &str| {
        let mut sandbox = world.pod_config("puller");
        if let Some(metadata) = &mut sandbox.metadata {
            metadata.namespace = namespace.to_owned();
        }
        world
            .client
            .pull_image_for(&world.image, None, Some(sandbox))
            .await
    };
    let (refusal, message) = code(pull("strict").await)?;
    ensure!(refusal == Code::PermissionDenied, "{refusal}: {message}");
    ensure!(message.contains("/etc/policies/strict.json"), "{message}");
    pull("lax").await?;
    let (refusal, message) = code(pull("../policies/strict").await)?;
    ensure!(refusal == Code::InvalidArgument, "{refusal}: {message}");

    let mut sandbox = world.pod_config("ports");
    sandbox.port_mappings = vec![v1::PortMapping {
        protocol: v1::Protocol::Tcp.into(),
        container_port: 80,
        host_port: 18080,
        ..Default::default()
    }];
    world.run_pod(&sandbox).await?;
    let rules = world.machine.run(&["iptables", "-t", "nat", "-S"])?;
    ensure!(rules.contains("10.88.0."), "no rules at all: {rules}");
    ensure!(!rules.contains("18080"), "{rules}");
    world.assert_clean(&[]).await
}
