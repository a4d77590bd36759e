//! Every call on a container or a pod, in every state that it can be in: which are carried out, and with which code
//! the others are refused. CRI-O refuses most of what is in the wrong state with a plain error (`Unknown`); who
//! tells codes apart (kubelet and crictl: `NotFound`) finds here what it finds there.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use crio_setup::cri::v1;
use crio_setup::cri::v1::runtime_service_client::RuntimeServiceClient;
use tonic::Code::{self, FailedPrecondition, NotFound, Ok as Done, Unknown};
use tonic::transport::Channel;
use tonic::{Response, Status};

use crate::life::{POLITE, said_here};
use crate::world::World;

/// An id of the right form that nobody has.
const NOBODY: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

const CONTAINER_STATES: [&str; 5] = ["unknown", "created", "running", "exited", "removed"];
const POD_STATES: [&str; 4] = ["unknown", "ready", "not ready", "removed"];

type Runtime = RuntimeServiceClient<Channel>;

fn code<T>(answer: Result<Response<T>, Status>) -> Code {
    answer.map_or_else(|status| status.code(), |_| Done)
}

/// A call, what `ocid` answers in each state, and what CRI-O does.
struct Row<const N: usize> {
    call: &'static str,
    ours: [Code; N],
    cri_o: [Code; N],
}

impl<const N: usize> Row<N> {
    /// Where CRI-O carries a call out or finds nothing, so does `ocid`, but for those that it refuses by the
    /// interface's own words.
    fn agrees(&self, stricter: &[(&str, &str)], states: &[&str; N]) -> Result<()> {
        for ((ours, theirs), state) in self.ours.iter().zip(&self.cri_o).zip(states) {
            let excused = stricter.contains(&(self.call, state));
            ensure!(
                ours == theirs || *theirs == Unknown || excused,
                "{} of what is {state}: {ours:?}, CRI-O {theirs:?}",
                self.call
            );
        }
        Ok(())
    }
}

/// Those that change nothing come first, those that end what they are called on last.
const CONTAINERS: [Row<5>; 10] = [
    Row {
        call: "ContainerStatus",
        ours: [NotFound, Done, Done, Done, NotFound],
        cri_o: [NotFound, Done, Done, Done, NotFound],
    },
    Row {
        call: "ContainerStats",
        ours: [NotFound, Done, Done, Done, NotFound],
        cri_o: [Unknown, Done, Done, Done, Unknown],
    },
    Row {
        call: "ExecSync",
        ours: [
            NotFound,
            FailedPrecondition,
            Done,
            FailedPrecondition,
            NotFound,
        ],
        cri_o: [NotFound, Done, Done, Unknown, NotFound],
    },
    // CRI-O hands out a URL, and the stream fails.
    Row {
        call: "Exec",
        ours: [
            NotFound,
            FailedPrecondition,
            Done,
            FailedPrecondition,
            NotFound,
        ],
        cri_o: [Done, Done, Done, Done, Done],
    },
    Row {
        call: "Attach",
        ours: [NotFound, Done, Done, FailedPrecondition, NotFound],
        cri_o: [Done, Done, Done, Done, Done],
    },
    Row {
        call: "UpdateContainerResources",
        ours: [NotFound, Done, Done, FailedPrecondition, NotFound],
        cri_o: [Unknown, Done, Done, Unknown, Unknown],
    },
    Row {
        call: "ReopenContainerLog",
        ours: [
            NotFound,
            FailedPrecondition,
            Done,
            FailedPrecondition,
            NotFound,
        ],
        cri_o: [Unknown, Done, Done, Unknown, Unknown],
    },
    Row {
        call: "StartContainer",
        ours: [
            NotFound,
            Done,
            FailedPrecondition,
            FailedPrecondition,
            NotFound,
        ],
        cri_o: [NotFound, Done, Unknown, Unknown, NotFound],
    },
    Row {
        call: "StopContainer",
        ours: [Done; 5],
        cri_o: [Done; 5],
    },
    Row {
        call: "RemoveContainer",
        ours: [Done; 5],
        cri_o: [Done; 5],
    },
];

/// A container that runs nothing has no process whose streams could be had, and no log that is being written.
const STRICTER: [(&str, &str); 9] = [
    ("ExecSync", "created"),
    ("ReopenContainerLog", "created"),
    ("Exec", "unknown"),
    ("Exec", "created"),
    ("Exec", "exited"),
    ("Exec", "removed"),
    ("Attach", "unknown"),
    ("Attach", "exited"),
    ("Attach", "removed"),
];

async fn on_container(runtime: &mut Runtime, call: &str, id: &str) -> Result<Code> {
    let container_id = id.to_owned();
    let cmd = || vec!["true".to_owned()];
    Ok(match call {
        "ContainerStatus" => code(
            runtime
                .container_status(v1::ContainerStatusRequest {
                    container_id,
                    verbose: true,
                })
                .await,
        ),
        "ContainerStats" => code(
            runtime
                .container_stats(v1::ContainerStatsRequest { container_id })
                .await,
        ),
        "ExecSync" => code(
            runtime
                .exec_sync(v1::ExecSyncRequest {
                    container_id,
                    cmd: cmd(),
                    timeout: 0,
                })
                .await,
        ),
        "Exec" => code(
            runtime
                .exec(v1::ExecRequest {
                    container_id,
                    cmd: cmd(),
                    stdout: true,
                    ..Default::default()
                })
                .await,
        ),
        "Attach" => code(
            runtime
                .attach(v1::AttachRequest {
                    container_id,
                    stdout: true,
                    ..Default::default()
                })
                .await,
        ),
        "UpdateContainerResources" => code(
            runtime
                .update_container_resources(v1::UpdateContainerResourcesRequest {
                    container_id,
                    linux: Some(v1::LinuxContainerResources {
                        cpu_shares: 500,
                        ..Default::default()
                    }),
                    ..Default::default()
                })
                .await,
        ),
        "ReopenContainerLog" => code(
            runtime
                .reopen_container_log(v1::ReopenContainerLogRequest { container_id })
                .await,
        ),
        "StartContainer" => code(
            runtime
                .start_container(v1::StartContainerRequest { container_id })
                .await,
        ),
        "StopContainer" => code(
            runtime
                .stop_container(v1::StopContainerRequest {
                    container_id,
                    timeout: 30,
                })
                .await,
        ),
        "RemoveContainer" => code(
            runtime
                .remove_container(v1::RemoveContainerRequest { container_id })
                .await,
        ),
        other => anyhow::bail!("`{other}` is no call on a container"),
    })
}

/// A container in that state, for one call.
async fn container(
    world: &World,
    pod: &str,
    sandbox: &v1::PodSandboxConfig,
    name: &str,
    state: &str,
) -> Result<String> {
    if state == "unknown" {
        return Ok(NOBODY.to_owned());
    }
    let config = world.container_config(name, &["sh", "-c", POLITE]);
    let id = world.create(pod, sandbox, config).await?;
    if matches!(state, "running" | "exited") {
        world.client.start_container(&id).await?;
        said_here(world, &id).await?;
    }
    if state == "exited" {
        world.client.stop_container(&id, Duration::ZERO).await?;
    }
    if state == "removed" {
        world.client.remove_container(&id).await?;
    }
    Ok(id)
}

#[tokio::test]
async fn calls_on_containers_in_every_state() -> Result<()> {
    let world = World::start().await?;
    let sandbox = world.pod_config("states");
    let pod = world.run_pod(&sandbox).await?;
    let mut runtime = world.client.runtime();
    let mut wrong = Vec::new();
    for (i, state) in CONTAINER_STATES.iter().enumerate() {
        let mut shared = None;
        for row in &CONTAINERS {
            // What the calls before the last three are made on is as it was.
            let changes = matches!(
                row.call,
                "StartContainer" | "StopContainer" | "RemoveContainer"
            );
            let id = match (&shared, changes) {
                (Some(id), false) => String::clone(id),
                _ => {
                    let name = format!("{i}-{}", row.call);
                    container(&world, &pod, &sandbox, &name, state).await?
                }
            };
            let answer = on_container(&mut runtime, row.call, &id).await?;
            let expected = row.ours.get(i).context("no such state")?;
            if answer != *expected {
                wrong.push(format!("{} of what is {state}: {answer:?}", row.call));
            }
            shared = (!changes).then_some(id);
        }
    }
    ensure!(wrong.is_empty(), "{wrong:#?}");
    for row in &CONTAINERS {
        row.agrees(&STRICTER, &CONTAINER_STATES)?;
    }
    world.assert_clean(&[]).await
}

const PODS: [Row<4>; 7] = [
    Row {
        call: "PodSandboxStatus",
        ours: [NotFound, Done, Done, NotFound],
        cri_o: [NotFound, Done, Done, NotFound],
    },
    Row {
        call: "PodSandboxStats",
        ours: [NotFound, Done, Done, NotFound],
        cri_o: [Unknown, Done, Done, Unknown],
    },
    Row {
        call: "PortForward",
        ours: [NotFound, Done, FailedPrecondition, NotFound],
        cri_o: [Done, Done, Done, Done],
    },
    // CRI-O tells its plugins (NRI) and changes nothing itself.
    Row {
        call: "UpdatePodSandboxResources",
        ours: [NotFound, Done, FailedPrecondition, NotFound],
        cri_o: [NotFound, Done, Done, NotFound],
    },
    Row {
        call: "CreateContainer",
        ours: [NotFound, Done, FailedPrecondition, NotFound],
        cri_o: [Unknown, Done, Unknown, Unknown],
    },
    Row {
        call: "StopPodSandbox",
        ours: [Done; 4],
        cri_o: [Done; 4],
    },
    Row {
        call: "RemovePodSandbox",
        ours: [Done; 4],
        cri_o: [Done; 4],
    },
];

const STRICTER_PODS: [(&str, &str); 4] = [
    ("PortForward", "unknown"),
    ("PortForward", "not ready"),
    ("PortForward", "removed"),
    ("UpdatePodSandboxResources", "not ready"),
];

async fn on_pod(world: &World, call: &str, id: &str) -> Result<Code> {
    let mut runtime = world.client.runtime();
    let pod_sandbox_id = id.to_owned();
    Ok(match call {
        "PodSandboxStatus" => code(
            runtime
                .pod_sandbox_status(v1::PodSandboxStatusRequest {
                    pod_sandbox_id,
                    verbose: true,
                })
                .await,
        ),
        "PodSandboxStats" => code(
            runtime
                .pod_sandbox_stats(v1::PodSandboxStatsRequest { pod_sandbox_id })
                .await,
        ),
        "PortForward" => code(
            runtime
                .port_forward(v1::PortForwardRequest {
                    pod_sandbox_id,
                    port: vec![80],
                })
                .await,
        ),
        "UpdatePodSandboxResources" => code(
            runtime
                .update_pod_sandbox_resources(v1::UpdatePodSandboxResourcesRequest {
                    pod_sandbox_id,
                    ..Default::default()
                })
                .await,
        ),
        "CreateContainer" => code(
            runtime
                .create_container(v1::CreateContainerRequest {
                    pod_sandbox_id,
                    config: Some(world.container_config("new", &["true"])),
                    sandbox_config: None,
                })
                .await,
        ),
        "StopPodSandbox" => code(
            runtime
                .stop_pod_sandbox(v1::StopPodSandboxRequest { pod_sandbox_id })
                .await,
        ),
        "RemovePodSandbox" => code(
            runtime
                .remove_pod_sandbox(v1::RemovePodSandboxRequest { pod_sandbox_id })
                .await,
        ),
        other => anyhow::bail!("`{other}` is no call on a pod"),
    })
}

#[tokio::test]
async fn calls_on_pods_in_every_state() -> Result<()> {
    let world = World::start().await?;
    let mut wrong = Vec::new();
    for (i, state) in POD_STATES.iter().enumerate() {
        let mut id = NOBODY.to_owned();
        if *state != "unknown" {
            id = world
                .run_pod(&world.pod_config(&format!("state-{i}")))
                .await?;
        }
        if *state == "not ready" {
            world.client.stop_pod_sandbox(&id).await?;
        }
        if *state == "removed" {
            world.client.remove_pod_sandbox(&id).await?;
        }
        for row in &PODS {
            let answer = on_pod(&world, row.call, &id).await?;
            let expected = row.ours.get(i).context("no such state")?;
            if answer != *expected {
                wrong.push(format!("{} of what is {state}: {answer:?}", row.call));
            }
        }
    }
    ensure!(wrong.is_empty(), "{wrong:#?}");
    for row in &PODS {
        row.agrees(&STRICTER_PODS, &POD_STATES)?;
    }
    world.assert_clean(&[]).await
}
