//! Whose namespaces a container is in, and what pods are called, find and set there.

use anyhow::{Result, ensure};
use crio_setup::cri::v1;
use crio_setup::cri::v1::NamespaceMode::{self, Container, Node, Pod, Target};
use tonic::Code;

use crate::pods::{linux, namespaces};
use crate::world::{World, code};

const KINDS: [&str; 4] = ["net", "ipc", "uts", "pid"];

/// Pods with a mode of its own for each of the three namespaces.
fn pod(world: &World, name: &str, modes: [NamespaceMode; 3]) -> v1::PodSandboxConfig {
    let mut config = world.pod_config(name);
    let [network, pid, ipc] = modes.map(i32::from);
    *namespaces(&mut config) = v1::NamespaceOption {
        network,
        pid,
        ipc,
        ..Default::default()
    };
    config
}

/// A sleeper with namespace options of its own; the numbers of its namespaces.
async fn sleeper(
    world: &World,
    id: &str,
    sandbox: &v1::PodSandboxConfig,
    name: &str,
    options: Option<v1::NamespaceOption>,
) -> Result<(String, Vec<String>)> {
    let mut config = world.container_config(name, &["sleep", "600"]);
    let context = v1::LinuxContainerSecurityContext {
        namespace_options: options,
        ..Default::default()
    };
    config.linux.get_or_insert_default().security_context = Some(context);
    let container = world.up(id, sandbox, config).await?;
    let mut found = Vec::new();
    for kind in KINDS {
        let path = format!("/proc/self/ns/{kind}");
        found.push(world.exec(&container, &["readlink", &path]).await?);
    }
    Ok((container, found))
}

#[tokio::test]
async fn namespaces_are_the_pods_the_containers_or_the_machines() -> Result<()> {
    let world = World::start().await?;
    let mut machine = Vec::new();
    for kind in KINDS {
        machine.push(
            world
                .machine
                .run(&["readlink", &format!("/proc/1/ns/{kind}")])?,
        );
    }
    // Net, ipc, uts, pid: shared by two containers of the pod? The machine's?
    for (name, modes, shared, own) in [
        ("all", [Pod, Pod, Pod], [true; 4], [true; 4]),
        (
            "kubelet",
            [Pod, Container, Pod],
            [true, true, true, false],
            [true; 4],
        ),
        (
            "apart",
            [Container; 3],
            [false, false, true, false],
            [true; 4],
        ),
        ("node", [Node; 3], [true; 4], [false; 4]),
        (
            "host-pid",
            [Pod, Node, Pod],
            [true; 4],
            [true, true, true, false],
        ),
        (
            "host-net",
            [Node, Container, Pod],
            [true, true, true, false],
            [false, true, false, true],
        ),
    ] {
        let sandbox = pod(&world, name, modes);
        let id = world.run_pod(&sandbox).await?;
        let options = world
            .pod_status(&id)
            .await?
            .linux
            .and_then(|l| l.namespaces);
        let echoed = options.and_then(|n| n.options);
        ensure!(
            echoed.as_ref() == Some(namespaces(&mut sandbox.clone())),
            "{name}: {echoed:?}"
        );
        let (_, a) = sleeper(&world, &id, &sandbox, "a", None).await?;
        let (_, b) = sleeper(&world, &id, &sandbox, "b", None).await?;
        for (i, kind) in KINDS.iter().enumerate() {
            ensure!(
                (a[i] == b[i]) == shared[i],
                "{name}: {kind} {} {}",
                a[i],
                b[i]
            );
            ensure!((a[i] != machine[i]) == own[i], "{name}: {kind} {}", a[i]);
        }
        world.client.remove_pod_sandbox(&id).await?;
    }
    world.assert_clean(&[]).await
}

/// Mode TARGET: an ephemeral container sees the processes of another, and more where it asks for more.
#[tokio::test]
async fn a_container_joins_another_ones_namespaces() -> Result<()> {
    let world = World::start().await?;
    let sandbox = pod(&world, "target", [Container, Container, Container]);
    let id = world.run_pod(&sandbox).await?;
    let (target, of_target) = sleeper(&world, &id, &sandbox, "target", None).await?;
    let options =
        |network: NamespaceMode, ipc: NamespaceMode, target_id: &str| v1::NamespaceOption {
            network: network.into(),
            pid: Target.into(),
            ipc: ipc.into(),
            target_id: target_id.to_owned(),
            ..Default::default()
        };
    let own = options(Container, Container, &target);
    let (debug, found) = sleeper(&world, &id, &sandbox, "pid", Some(own)).await?;
    ensure!(found[3] == of_target[3] && found[0] != of_target[0] && found[1] != of_target[1]);
    ensure!(
        world
            .shell(&debug, "ps")
            .await?
            .matches("sleep 600")
            .count()
            == 2
    );
    let all = options(Target, Target, &target);
    let (debug, found) = sleeper(&world, &id, &sandbox, "all", Some(all)).await?;
    ensure!(found == of_target, "{found:?} {of_target:?}");
    // What goes with the IPC namespace comes along, both ways.
    world.shell(&target, "echo shared > /dev/shm/one").await?;
    ensure!(world.shell(&debug, "cat /dev/shm/one").await? == "shared");
    world.shell(&debug, "echo back > /dev/shm/two").await?;
    ensure!(world.shell(&target, "cat /dev/shm/two").await? == "back");
    ensure!(
        world
            .shell(&debug, "ps")
            .await?
            .matches("sleep 600")
            .count()
            == 3
    );

    let other = pod(&world, "other", [Pod, Container, Pod]);
    let other_id = world.run_pod(&other).await?;
    for (pod, sandbox, name, wanted, word) in [
        (
            &other_id,
            &other,
            target.as_str(),
            Code::InvalidArgument,
            "another pod",
        ),
        (&id, &sandbox, "0123", Code::NotFound, "0123"),
    ] {
        let mut config = world.container_config("refused", &["true"]);
        config.linux.get_or_insert_default().security_context =
            Some(v1::LinuxContainerSecurityContext {
                namespace_options: Some(options(Pod, Pod, name)),
                ..Default::default()
            });
        let (code, message) = code(world.create(pod, sandbox, config).await)?;
        ensure!(
            code == wanted && message.contains(word),
            "{code:?} {message}"
        );
    }
    let (code, message) = code(
        world
            .run_pod(&{
                let mut config = pod(&world, "bad", [Pod, Target, Pod]);
                namespaces(&mut config).target_id = target.clone();
                config
            })
            .await,
    )?;
    ensure!(
        code == Code::InvalidArgument && message.contains("options.pid`"),
        "{message}"
    );
    world.assert_clean(&[]).await
}

#[tokio::test]
async fn names_and_files_are_what_the_pod_asks_for() -> Result<()> {
    let world = World::start().await?;
    let mut sandbox = world.pod_config("named");
    sandbox.hostname = "web-0".to_owned();
    sandbox.dns_config = Some(v1::DnsConfig {
        servers: vec!["10.96.0.10".into(), "fd00::a".into()],
        searches: vec!["tests.svc.cluster.local".into(), "svc.cluster.local".into()],
        options: vec!["ndots:5".into(), "edns0".into()],
    });
    linux(&mut sandbox)
        .sysctls
        .insert("kernel.domainname".into(), "cluster.local".into());
    let id = world.run_pod(&sandbox).await?;
    let ip = world.pod_status(&id).await?.network.unwrap_or_default().ip;
    let config = world.container_config("sleeper", &["sleep", "600"]);
    let container = world.up(&id, &sandbox, config).await?;
    for (script, wanted) in [
        ("hostname", "web-0"),
        ("cat /etc/hostname", "web-0"),
        ("echo $HOSTNAME", "web-0"),
        ("cat /proc/sys/kernel/domainname", "cluster.local"),
        (
            "cat /etc/resolv.conf",
            "search tests.svc.cluster.local svc.cluster.local\nnameserver 10.96.0.10\n\
             nameserver fd00::a\noptions ndots:5 edns0",
        ),
        ("grep -c 127.0.0.1.*localhost /etc/hosts", "1"),
        (
            "df -k /dev/shm | tail -n 1 | tr -s ' ' | grep -c ' 65536 '",
            "1",
        ),
        ("stat -c %a /dev/shm", "1777"),
        (
            "dd if=/dev/zero of=/dev/shm/x bs=1M count=65 2>/dev/null; stat -c %s /dev/shm/x",
            "67108864",
        ),
    ] {
        let said = world.shell(&container, script).await?;
        ensure!(said == wanted, "`{script}`: {said}");
    }
    let line = format!("grep -c '{ip}.*web-0' /etc/hosts");
    ensure!(world.shell(&container, &line).await? == "1", "{ip}");
    // Shared memory is the pod's; a container that comes later finds it.
    let config = world.container_config("second", &["stat", "-c", "%s", "/dev/shm/x"]);
    let (said, _) = world.run(&id, &sandbox, config).await?;
    ensure!(said == "67108864", "{said}");

    // Nothing asked for: the machine's resolver; the first digits of the id.
    let plain = world.pod_config("plain");
    let id = world.run_pod(&plain).await?;
    let config = world.container_config("plain", &["sh", "-c", "hostname; cat /etc/resolv.conf"]);
    let (said, _) = world.run(&id, &plain, config).await?;
    let resolver = world
        .machine
        .run(&["cat", "/etc/resolv.conf"])
        .unwrap_or_default();
    ensure!(
        said.trim() == format!("{}\n{resolver}", &id[..12]).trim(),
        "{said}"
    );
    world.assert_clean(&[]).await
}

/// Kernel parameters of the pod's namespaces, of a container's own where the pod shares none, and
/// never the machine's.
#[tokio::test]
async fn sysctls_stay_in_the_pod() -> Result<()> {
    let world = World::start().await?;
    let shm = "/proc/sys/kernel/shm_rmid_forced";
    let before = world.machine.run(&["cat", shm])?;
    ensure!(before == "0", "{before}");
    for (name, modes) in [("shared", [Pod, Container, Pod]), ("apart", [Container; 3])] {
        let mut sandbox = pod(&world, name, modes);
        for (name, value) in [
            ("kernel.shm_rmid_forced", "1"),
            ("net/ipv4/ip_local_port_range", "40000 41000"),
            ("net.ipv4.ip_unprivileged_port_start", "1"),
        ] {
            linux(&mut sandbox)
                .sysctls
                .insert(name.into(), value.into());
        }
        let id = world.run_pod(&sandbox).await?;
        let script = format!(
            "cat {shm} /proc/sys/net/ipv4/ip_local_port_range \
             /proc/sys/net/ipv4/ip_unprivileged_port_start | tr -s '\\t' ' '"
        );
        let config = world.container_config("reader", &["sh", "-c", &script]);
        let (said, status) = world.run(&id, &sandbox, config).await?;
        ensure!(said == "1\n40000 41000\n1", "{name}: {said} {status:?}");
        ensure!(world.machine.run(&["cat", shm])? == "0");
    }
    for (modes, name) in [
        ([Pod; 3], "vm.swappiness"),
        ([Pod; 3], "kernel.hostname"),
        ([Pod; 3], "kernel.panic"),
        ([Pod; 3], "net/../kernel/panic"),
        ([Node, Pod, Pod], "net.ipv4.ip_forward"),
        ([Pod, Pod, Node], "kernel.shmmax"),
    ] {
        let mut sandbox = pod(&world, "refused", modes);
        linux(&mut sandbox).sysctls.insert(name.into(), "1".into());
        let (code, message) = code(world.run_pod(&sandbox).await)?;
        ensure!(code == Code::InvalidArgument, "{name}: {code:?} {message}");
        ensure!(
            message.contains(&format!("config.linux.sysctls[{name}]")),
            "{message}"
        );
    }
    world.assert_clean(&[]).await
}
