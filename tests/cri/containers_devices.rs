//! Devices of containers: by path, and by the Container Device Interface.

use anyhow::{Result, ensure};
use crio_setup::cri::v1;
use tonic::Code;

use crate::world::{World, code};

fn device(host: &str, container: &str, permissions: &str) -> v1::Device {
    v1::Device {
        host_path: host.to_owned(),
        container_path: container.to_owned(),
        permissions: permissions.to_owned(),
    }
}

#[tokio::test]
async fn devices_by_path() -> Result<()> {
    let world = World::start().await?;
    let sandbox = world.pod_config("devices");
    let pod = world.run_pod(&sandbox).await?;
    let mut config = world.container_config("devices", &["sleep", "600"]);
    config.devices = vec![
        device("/dev/fuse", "/dev/words", "r"),
        device("/dev/full", "", "rw"),
    ];
    let id = world.up(&pod, &sandbox, config).await?;
    // Not one of those that the runtime gives to everybody.
    let script = "dd if=/dev/words count=0 2>/dev/null && echo opened; \
                  (: >/dev/words) 2>/dev/null || echo read only; stat -c %t:%T /dev/full";
    let said = world.shell(&id, script).await?;
    ensure!(said == "opened\nread only\n1:7", "{said}");
    for (asked, refused, part) in [
        (
            device("/dev/none", "", "r"),
            Code::NotFound,
            "`config.devices[0].host_path`",
        ),
        (
            device("/etc/hostname", "", "r"),
            Code::InvalidArgument,
            "neither a device",
        ),
        (
            device("/dev/null", "", "x"),
            Code::InvalidArgument,
            "permissions",
        ),
        (
            device("dev/null", "", "r"),
            Code::InvalidArgument,
            "host_path",
        ),
    ] {
        let mut config = world.container_config("bad", &["true"]);
        config.devices = vec![asked];
        let (got, message) = code(world.create(&pod, &sandbox, config).await)?;
        ensure!(
            got == refused && message.contains(part),
            "{got:?} {message}"
        );
    }
    world.assert_clean(&[]).await
}

const JSON: &str = r#"{
  "cdiVersion": "0.6.0",
  "kind": "vendor.test/toy",
  "containerEdits": { "env": ["TOYS=here"] },
  "devices": [{
    "name": "one",
    "containerEdits": {
      "env": ["TOY=one"],
      "deviceNodes": [{ "path": "/dev/toy", "hostPath": "/dev/fuse", "permissions": "r" }],
      "mounts": [{ "hostPath": "/srv/toy", "containerPath": "/toy", "options": ["ro", "rbind"] }],
      "hooks": [{ "hookName": "createRuntime", "path": "/bin/touch", "args": ["touch", "/srv/toy/hooked"] }],
      "additionalGids": [4242]
    }
  }]
}"#;

const YAML: &str = "\
cdiVersion: 0.5.0
kind: vendor.test/net
devices:
- name: \"0\"
  containerEdits:
    env:
    - NET=yes
";

#[tokio::test]
async fn devices_by_description() -> Result<()> {
    let world = World::with(&[
        ("/etc/cdi/toy.json", JSON),
        ("/run/cdi/net.yaml", YAML),
        ("/etc/cdi/broken.json", "{"),
        ("/srv/toy/rules", "no rules\n"),
    ])
    .await?;
    let sandbox = world.pod_config("cdi");
    let pod = world.run_pod(&sandbox).await?;
    let asked = |name: &str, devices: &[&str]| {
        let mut config = world.container_config(name, &["sleep", "600"]);
        let device = |name: &&str| v1::CdiDevice {
            name: (*name).to_owned(),
        };
        config.cdi_devices = devices.iter().map(device).collect();
        config
    };
    let id = world
        .up(
            &pod,
            &sandbox,
            asked("toys", &["vendor.test/toy=one", "vendor.test/net=0"]),
        )
        .await?;
    let script = "echo $TOYS $TOY $NET; dd if=/dev/toy count=0 2>/dev/null && echo opened; (echo >/dev/toy) 2>/dev/null || echo read only; \
                  cat /toy/rules; (touch /toy/x) 2>/dev/null || echo read only; ls /toy; id -G";
    let said = world.shell(&id, script).await?;
    let expected = "here one yes\nopened\nread only\nno rules\nread only\nhooked\nrules\n0 4242";
    ensure!(said == expected, "{said}");

    let mut by_annotation = asked("annotated", &[]);
    let value = "vendor.test/net=0".to_owned();
    by_annotation
        .annotations
        .insert("cdi.k8s.io/plugin".to_owned(), value);
    let id = world.up(&pod, &sandbox, by_annotation).await?;
    ensure!(world.shell(&id, "echo $NET").await? == "yes");

    // The folders are read for each container: what has come since is known.
    let (refused, message) = code(
        world
            .create(&pod, &sandbox, asked("late", &["vendor.test/late=0"]))
            .await,
    )?;
    ensure!(refused == Code::NotFound, "{message}");
    ensure!(
        message.contains("`config.CDI_devices[0]`")
            && message.contains("`vendor.test/late=0`")
            && message.contains("broken.json"),
        "{message}"
    );
    let late = YAML.replace("vendor.test/net", "vendor.test/late");
    world.machine.write("/run/cdi/late.yaml", late, 0o644)?;
    world
        .up(&pod, &sandbox, asked("late", &["vendor.test/late=0"]))
        .await?;
    world
        .machine
        .run(&["rm", "/srv/toy/hooked", "/run/cdi/late.yaml"])?;
    world.assert_clean(&[]).await
}

#[tokio::test]
async fn folders_of_descriptions_are_configured() -> Result<()> {
    let config = "[crio.runtime]\ncdi_spec_dirs = [\"/opt/descriptions\"]\n";
    let world = World::with(&[
        ("/etc/ocid/ocid.conf.d/10-test.conf", config),
        ("/opt/descriptions/net.yaml", YAML),
        ("/etc/cdi/toy.json", JSON),
    ])
    .await?;
    let sandbox = world.pod_config("cdi");
    let pod = world.run_pod(&sandbox).await?;
    let asked = |name: &str| {
        let mut config = world.container_config("asking", &["sleep", "600"]);
        config.cdi_devices = vec![v1::CdiDevice {
            name: name.to_owned(),
        }];
        config
    };
    let (_, message) = code(
        world
            .create(&pod, &sandbox, asked("vendor.test/toy=one"))
            .await,
    )?;
    ensure!(message.contains("/opt/descriptions"), "{message}");
    let id = world.up(&pod, &sandbox, asked("vendor.test/net=0")).await?;
    ensure!(world.shell(&id, "echo $NET").await? == "yes");
    world.assert_clean(&[]).await
}
