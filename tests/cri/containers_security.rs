//! What a container may do: capabilities, seccomp, no_new_privs, hidden and read-only paths, a read-only
//! root; and what it may not ask for on a machine that does not have it.

use anyhow::{Context, Result, ensure};
use crio_setup::cri::v1;
use crio_setup::cri::v1::security_profile::ProfileType;
use tonic::Code;

use crate::world::{World, code};

type Security = v1::LinuxContainerSecurityContext;

fn secure(mut config: v1::ContainerConfig, security: Security) -> v1::ContainerConfig {
    config.linux.get_or_insert_default().security_context = Some(security);
    config
}

fn profile(kind: ProfileType, name: &str) -> Option<v1::SecurityProfile> {
    Some(v1::SecurityProfile {
        profile_type: kind.into(),
        localhost_ref: name.to_owned(),
    })
}

fn names(list: &[&str]) -> Vec<String> {
    list.iter().map(|&name| name.to_owned()).collect()
}

/// A field of `/proc/self/status` as the container's first process has it.
async fn field(
    world: &World,
    pod: &str,
    sandbox: &v1::PodSandboxConfig,
    name: &str,
    security: Security,
) -> Result<impl Fn(&str) -> Result<String> + use<>> {
    let config = world.container_config(name, &["cat", "/proc/self/status"]);
    let (said, status) = world.run(pod, sandbox, secure(config, security)).await?;
    ensure!(status.exit_code == 0, "{name}: {status:?}");
    Ok(move |field: &str| {
        let line = said.lines().find_map(|l| l.strip_prefix(field));
        let value = line
            .and_then(|l| l.strip_prefix(':'))
            .context(said.clone())?;
        Ok(value.trim().to_owned())
    })
}

async fn mask(
    world: &World,
    pod: &str,
    sandbox: &v1::PodSandboxConfig,
    name: &str,
    security: Security,
) -> Result<u64> {
    let status = field(world, pod, sandbox, name, security).await?;
    let effective = u64::from_str_radix(&status("CapEff")?, 16)?;
    let inheritable = status("CapInh")?;
    let ambient = status("CapAmb")?;
    ensure!(
        inheritable == ambient,
        "inheritable without being ambient: {inheritable}"
    );
    Ok(effective)
}

/// CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL, SETGID, SETUID, SETPCAP, NET_BIND_SERVICE.
const DEFAULT: u64 = 0x5fb;
const CHOWN: u64 = 1;
const NET_BIND_SERVICE: u64 = 1 << 10;
const NET_ADMIN: u64 = 1 << 12;

#[tokio::test]
async fn capabilities() -> Result<()> {
    let world = World::start().await?;
    let mut sandbox = world.pod_config("capabilities");
    sandbox
        .linux
        .get_or_insert_default()
        .security_context
        .get_or_insert_default()
        .privileged = true;
    let pod = world.run_pod(&sandbox).await?;
    let status = world.machine.run(&["cat", "/proc/self/status"])?;
    let bounding = status
        .lines()
        .find_map(|l| l.strip_prefix("CapBnd:"))
        .context("no set")?;
    let all = u64::from_str_radix(bounding.trim(), 16)?;
    let change = |add: &[&str], drop: &[&str]| Security {
        capabilities: Some(v1::Capability {
            add_capabilities: names(add),
            drop_capabilities: names(drop),
            ..Default::default()
        }),
        ..Default::default()
    };
    let privileged = Security {
        privileged: true,
        ..Default::default()
    };
    let ambient = Security {
        capabilities: Some(v1::Capability {
            add_ambient_capabilities: names(&["NET_BIND_SERVICE"]),
            ..Default::default()
        }),
        run_as_user: Some(v1::Int64Value { value: 1234 }),
        ..Default::default()
    };
    for (i, (security, expected)) in [
        (Security::default(), DEFAULT),
        (
            change(&["net_admin"], &["CAP_CHOWN"]),
            DEFAULT & !CHOWN | NET_ADMIN,
        ),
        (change(&["ALL"], &[]), all),
        (change(&["ALL"], &["CHOWN"]), all & !CHOWN),
        (change(&[], &["ALL"]), 0),
        (change(&["CHOWN"], &["ALL"]), CHOWN),
        (privileged, all),
        (ambient, NET_BIND_SERVICE),
    ]
    .into_iter()
    .enumerate()
    {
        let got = mask(&world, &pod, &sandbox, &format!("c{i}"), security).await?;
        ensure!(got == expected, "{i}: {got:x}, not {expected:x}");
    }
    let bad = secure(
        world.container_config("bad", &["true"]),
        change(&["FLY"], &[]),
    );
    let (refused, message) = code(world.create(&pod, &sandbox, bad).await)?;
    ensure!(
        refused == Code::InvalidArgument && message.contains("add_capabilities[0]"),
        "{message}"
    );
    world.assert_clean(&[]).await
}

#[tokio::test]
async fn seccomp_profiles() -> Result<()> {
    let deny = r#"{"defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]}"#;
    let kill = deny.replace("SCMP_ACT_ERRNO", "SCMP_ACT_KILL_PROCESS");
    let files = [
        ("/etc/test/seccomp.json", deny),
        ("/etc/test/kill.json", kill.as_str()),
    ];
    let world = World::with(&files).await?;
    let sandbox = world.pod_config("seccomp");
    let pod = world.run_pod(&sandbox).await?;
    let with = |kind, name: &str| Security {
        seccomp: profile(kind, name),
        ..Default::default()
    };
    for (i, (security, mode)) in [
        (Security::default(), "0"),
        (with(ProfileType::Unconfined, ""), "0"),
        (with(ProfileType::RuntimeDefault, ""), "2"),
        (with(ProfileType::Localhost, "/etc/test/seccomp.json"), "2"),
    ]
    .into_iter()
    .enumerate()
    {
        let status = field(&world, &pod, &sandbox, &format!("c{i}"), security).await?;
        ensure!(status("Seccomp")? == mode, "{i}");
    }
    let local = with(ProfileType::Localhost, "/etc/test/seccomp.json");
    let script = "mkdir /x || echo denied; touch /y && echo allowed";
    let config = world.container_config("local", &["sh", "-c", script]);
    let (said, _) = world.run(&pod, &sandbox, secure(config, local)).await?;
    ensure!(said == "denied\nallowed", "{said}");
    // Killed by its profile is an error like others, as in CRI-O, whose `seccomp killed` is its notifier's.
    let deadly = with(ProfileType::Localhost, "/etc/test/kill.json");
    let config = world.container_config("killed", &["mkdir", "/x"]);
    let (_, status) = world.run(&pod, &sandbox, secure(config, deadly)).await?;
    ensure!(
        (status.exit_code, status.reason.as_str()) == (128 + libc::SIGSYS, "Error"),
        "{status:?}"
    );
    let missing = with(ProfileType::Localhost, "/etc/test/none.json");
    let bad = secure(world.container_config("bad", &["true"]), missing);
    let (refused, message) = code(world.create(&pod, &sandbox, bad).await)?;
    ensure!(
        refused == Code::NotFound && message.contains("seccomp.localhost_ref"),
        "{message}"
    );

    let nnp = Security {
        no_new_privs: true,
        ..Default::default()
    };
    let status = field(&world, &pod, &sandbox, "nnp", nnp).await?;
    ensure!(status("NoNewPrivs")? == "1");
    let status = field(&world, &pod, &sandbox, "plain", Security::default()).await?;
    ensure!(status("NoNewPrivs")? == "0");
    world.assert_clean(&[]).await
}

#[tokio::test]
async fn the_configs_defaults() -> Result<()> {
    let config = "[crio.runtime]\nseccomp_use_default_when_empty = true\nread_only = true\n\
        default_ulimits = [\"nofile=1000:2000\"]\nadd_inheritable_capabilities = true\n\
        absent_mount_sources_to_reject = [\"/mnt/absent\"]\n\
        additional_devices = [\"/dev/null:/dev/nothing:rw\"]\n";
    let world = World::with(&[("/etc/ocid/ocid.conf.d/10-test.conf", config)]).await?;
    let sandbox = world.pod_config("defaults");
    let pod = world.run_pod(&sandbox).await?;
    let status = field(&world, &pod, &sandbox, "unset", Security::default()).await?;
    ensure!(status("Seccomp")? == "2" && status("CapInh")? == status("CapPrm")?);
    let script = "touch /x 2>/dev/null || echo read-only; touch /tmp/x && echo scratch; \
                  ulimit -Sn; ulimit -Hn; echo gone >/dev/nothing; stat -c %t:%T /dev/nothing";
    let config = world.container_config("script", &["sh", "-c", script]);
    let (said, _) = world.run(&pod, &sandbox, config).await?;
    ensure!(said == "read-only\nscratch\n1000\n2000\n1:3", "{said}");
    let mut config = world.container_config("absent", &["true"]);
    config.mounts = vec![v1::Mount {
        container_path: "/m".to_owned(),
        host_path: "/mnt/absent".to_owned(),
        ..Default::default()
    }];
    let (refused, message) = code(world.create(&pod, &sandbox, config).await)?;
    ensure!(
        refused == Code::NotFound && message.contains("config.mounts[0].host_path"),
        "{message}"
    );
    world.assert_clean(&[]).await
}

#[tokio::test]
async fn hidden_and_read_only() -> Result<()> {
    let world = World::start().await?;
    let mut sandbox = world.pod_config("hidden");
    sandbox
        .linux
        .get_or_insert_default()
        .security_context
        .get_or_insert_default()
        .privileged = true;
    let pod = world.run_pod(&sandbox).await?;
    let run = |name: &str, script: &str, security: Security| {
        let config = secure(
            world.container_config(name, &["sh", "-c", script]),
            security,
        );
        let (world, pod, sandbox) = (&world, &pod, &sandbox);
        async move { Ok::<_, anyhow::Error>(world.run(pod, sandbox, config).await?.0) }
    };
    let look = "ls /sys/firmware | wc -l; cat /proc/timer_list | wc -c; \
                (echo 1 >/proc/sys/kernel/domainname) 2>/dev/null && echo written || echo kept";
    ensure!(run("default", look, Security::default()).await? == "0\n0\nkept");
    let own = Security {
        masked_paths: names(&["/etc/group", "/root"]),
        readonly_paths: names(&["/tmp"]),
        ..Default::default()
    };
    let look = "cat /etc/group | wc -c; (touch /tmp/x) 2>/dev/null || echo kept; touch /y && echo free; \
                [ $(cat /proc/timer_list | wc -c) -gt 0 ] && echo seen";
    let said = run("own", look, own).await?;
    ensure!(said == "0\nkept\nfree\nseen", "{said}");
    let privileged = Security {
        privileged: true,
        ..Default::default()
    };
    let look = "[ $(cat /proc/timer_list | wc -c) -gt 0 ] && echo seen; grep ' /sys sysfs rw' /proc/mounts | wc -l; \
                ls /dev | grep -c tty";
    let said = run("privileged", look, privileged).await?;
    let lines: Vec<&str> = said.lines().collect();
    ensure!(lines[..2] == ["seen", "1"] && lines[2] != "0", "{said}");
    let readonly = Security {
        readonly_rootfs: true,
        ..Default::default()
    };
    let look = "(touch /x) 2>/dev/null || echo kept; (echo x >>/etc/hosts) 2>/dev/null || echo kept; \
                touch /dev/shm/x && echo free";
    let said = run("readonly", look, readonly).await?;
    ensure!(said == "kept\nkept\nfree", "{said}");
    world.assert_clean(&[]).await
}

#[tokio::test]
async fn what_the_machine_does_not_have() -> Result<()> {
    let world = World::start().await?;
    let sandbox = world.pod_config("lacking");
    let pod = world.run_pod(&sandbox).await?;
    let mine = Security {
        apparmor: profile(ProfileType::Localhost, "mine"),
        ..Default::default()
    };
    let config = secure(world.container_config("mine", &["true"]), mine);
    let (refused, message) = code(world.create(&pod, &sandbox, config).await)?;
    ensure!(refused == Code::FailedPrecondition, "{message}");
    ensure!(
        message.contains("`config.linux.security_context.apparmor") && message.contains("`mine`"),
        "{message}"
    );
    // The default, and labels for a policy that is off, are not demands.
    let easy = Security {
        apparmor: profile(ProfileType::RuntimeDefault, ""),
        selinux_options: Some(v1::SeLinuxOption {
            level: "s0:c1,c2".to_owned(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let status = field(&world, &pod, &sandbox, "easy", easy).await?;
    ensure!(status("Seccomp")? == "0");
    // A container cannot be more than its pod.
    let privileged = Security {
        privileged: true,
        ..Default::default()
    };
    let config = secure(world.container_config("privileged", &["true"]), privileged);
    let (refused, message) = code(world.create(&pod, &sandbox, config).await)?;
    ensure!(
        refused == Code::InvalidArgument && message.contains("privileged"),
        "{message}"
    );
    world.assert_clean(&[]).await
}
