//! The daemon is killed at every stage of every call that changes something: whatever was there before goes on,
//! the retry succeeds, and when all is removed nothing is left.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use crio_setup::cri::v1::{
    ContainerState, LinuxContainerResources, PodSandboxConfig, PodSandboxState,
};
use crio_setup::ocic::client::ClientError;
use crio_setup::ocid::failpoint::{Point, VARIABLE};
use nix::sys::signal::Signal;

use crate::support::snapshot::Snapshot;
use crate::world::{LIMIT, World};

/// The daemon is another process after each restart; the logs are kubelet's; addresses of links settle late.
const USUAL: [&str; 3] = ["--debug", "/var/log/pods", "route local fe80"];
/// Says that its own program runs, and ends with 7 when it is told to stop; the shell waits in a builtin.
pub const POLITE: &str =
    "trap 'exit 7' TERM; mkfifo /tmp/f; echo here; while :; do read x </tmp/f; echo got $x; done";
/// Hears nothing.
const DEAF: &str = "trap '' TERM; mkfifo /tmp/f; echo here; while :; do read x </tmp/f; done";

/// The call that reaches a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    RunPod,
    StopPod,
    RemovePod,
    Create,
    Start,
    /// Of a container that ends when it is asked to.
    Stop,
    /// Of one that must be killed.
    Kill,
    Update,
    Checkpoint,
    UpdatePod,
    /// Of the log.
    Reopen,
    /// Of the runtime's configuration.
    Configure,
    RemoveContainer,
    Pull,
    RemoveImage,
    RemoveTag,
    /// A create whose monitor dies.
    MonitorOfCreate,
    /// A container whose monitor dies.
    Monitor,
}

/// No arm for all others: whoever adds a point says here how it is reached.
pub fn act(point: Point) -> Act {
    match point {
        Point::PodReserved
        | Point::PodRecorded
        | Point::PodPinned
        | Point::PodAttached
        | Point::PodCgroup
        | Point::PodPaused
        | Point::PodFiles
        | Point::PodCreated
        | Point::PodCommitted => Act::RunPod,
        Point::StopPodBegun
        | Point::StopPodKilled
        | Point::StopPodDetached
        | Point::StopPodReleased
        | Point::StopPodStopped => Act::StopPod,
        Point::RemovePodMarked
        | Point::RemovePodEmptied
        | Point::RemovePodReleased
        | Point::RemovePodFiles
        | Point::RemovePodGone => Act::RemovePod,
        Point::CreateReserved
        | Point::CreateRecorded
        | Point::CreateMounted
        | Point::CreateSpecified
        | Point::CreateMonitor
        | Point::CreateOrdered
        | Point::CreateMade
        | Point::CreateNoted
        | Point::CreateCommitted => Act::Create,
        Point::StartNoted | Point::StartStarted => Act::Start,
        Point::StopSignalled
        | Point::EndRead
        | Point::EndNoted
        | Point::EndDeleted
        | Point::EndReleased => Act::Stop,
        Point::StopOverdue | Point::StopKilled => Act::Kill,
        Point::UpdateApplied | Point::UpdateNoted => Act::Update,
        Point::UpdatePodApplied | Point::UpdatePodNoted => Act::UpdatePod,
        Point::LogReopened => Act::Reopen,
        Point::ConfigWritten => Act::Configure,
        Point::CheckpointNoted
        | Point::CheckpointFrozen
        | Point::CheckpointDumped
        | Point::CheckpointCollected
        | Point::CheckpointThawed
        | Point::CheckpointArchived
        | Point::CheckpointPlaced => Act::Checkpoint,
        Point::RemoveMarked
        | Point::RemoveReleased
        | Point::RemoveBundle
        | Point::RemoveExit
        | Point::RemoveFiles
        | Point::RemoveGone => Act::RemoveContainer,
        Point::PullResolved
        | Point::PullUnpacked
        | Point::PullPlaced
        | Point::PullDurable
        | Point::PullRecorded
        | Point::PullCommitted => Act::Pull,
        Point::RemoveImageForgotten | Point::RemoveImageWithdrawn | Point::RemoveImageGone => {
            Act::RemoveImage
        }
        Point::RemoveImageRenamed => Act::RemoveTag,
        Point::MonitorOrdered | Point::MonitorCreated | Point::MonitorRecorded => {
            Act::MonitorOfCreate
        }
        Point::MonitorAnswered | Point::MonitorEnded | Point::MonitorWritten => Act::Monitor,
    }
}

/// A world in which a container of another pod runs all the time and must not notice anything.
pub struct Stage {
    pub world: World,
    bystander: String,
    before: Snapshot,
}

impl Stage {
    pub async fn new() -> Result<Self> {
        Self::on(World::start().await?).await
    }

    pub async fn on(world: World) -> Result<Self> {
        let sandbox = world.pod_config("bystander");
        let pod = world.run_pod(&sandbox).await?;
        let config = world.container_config("bystander", &["sh", "-c", POLITE]);
        let bystander = world.up(&pod, &sandbox, config).await?;
        said_here(&world, &bystander).await?;
        let before = Snapshot::take(&world.machine)?;
        Ok(Self {
            world,
            bystander,
            before,
        })
    }

    /// Restarts the daemon with a point armed.
    pub async fn arm(&mut self, point: Point, action: &str) -> Result<()> {
        self.world.end_daemon(Signal::SIGKILL)?;
        let order = format!("{}={action}", point.name());
        self.world.start_daemon_with(&[(VARIABLE, &order)]).await
    }

    /// The daemon has died; the next one starts, and the bystander has not noticed.
    pub async fn next(&mut self) -> Result<()> {
        self.world.await_daemon()?;
        self.world.start_daemon().await?;
        let status = self.world.status(&self.bystander).await?;
        let running = status.state() == ContainerState::ContainerRunning;
        ensure!(running, "the bystander: {status:?}");
        Ok(())
    }

    /// Back to what was there before; what is deleted beside the answers may take its time.
    pub async fn clean(&self) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let now = Snapshot::take(&self.world.machine)?;
            match now.assert_as(&self.before, &USUAL) {
                Err(left) if Instant::now() > deadline => return Err(left),
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                Ok(()) => return Ok(()),
            }
        }
    }

    pub async fn end(self) -> Result<()> {
        self.world
            .client
            .stop_container(&self.bystander, Duration::from_secs(30))
            .await?;
        let status = self.world.status(&self.bystander).await?;
        ensure!(status.exit_code == 7, "the bystander: {status:?}");
        self.world.assert_clean(&USUAL).await
    }
}

/// A signal is for the container's own program, not for the runtime's.
async fn said_here(world: &World, id: &str) -> Result<()> {
    let path = world.machine.path(&world.status(id).await?.log_path);
    let deadline = Instant::now() + LIMIT;
    while !std::fs::read_to_string(&path)?.contains("here") {
        ensure!(Instant::now() < deadline, "it does not say that it runs");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

/// The call must have been cut off by the daemon's death, not answered.
pub fn cut_off<T: std::fmt::Debug>(answer: Result<T, ClientError>) -> Result<()> {
    match answer {
        Ok(answer) => anyhow::bail!("answered: {answer:?}"),
        Err(_) => Ok(()),
    }
}

/// A pod with a PID namespace for all, so that there is a pause process.
pub fn pod_config(world: &World, name: &str) -> PodSandboxConfig {
    let mut config = world.pod_config(name);
    if let Some(linux) = &mut config.linux {
        linux.security_context = None;
    }
    config
}

fn limits() -> LinuxContainerResources {
    LinuxContainerResources {
        cpu_shares: 333,
        ..Default::default()
    }
}

async fn kill_at(stage: &mut Stage, point: Point) -> Result<()> {
    let act = act(point);
    let name = point.name().replace('.', "-");
    let sandbox = pod_config(&stage.world, &name);
    let script = if act == Act::Kill { DEAF } else { POLITE };
    let config = stage.world.container_config(&name, &["sh", "-c", script]);
    // What the call needs stands before the daemon that will die starts.
    let (mut pod, mut id) = (String::new(), String::new());
    if act != Act::RunPod {
        pod = stage.world.run_pod(&sandbox).await?;
    }
    if !matches!(act, Act::RunPod | Act::Create) {
        id = stage.world.create(&pod, &sandbox, config.clone()).await?;
    }
    if !matches!(act, Act::RunPod | Act::Create | Act::Start) {
        stage.world.client.start_container(&id).await?;
        said_here(&stage.world, &id).await?;
    }
    stage.arm(point, "abort").await?;
    let client = stage.world.client.clone();
    match act {
        Act::RunPod => cut_off(client.run_pod_sandbox(sandbox.clone(), "").await)?,
        Act::StopPod => cut_off(client.stop_pod_sandbox(&pod).await)?,
        Act::RemovePod => cut_off(client.remove_pod_sandbox(&pod).await)?,
        Act::Create => cut_off(stage.world.create(&pod, &sandbox, config.clone()).await)?,
        Act::Start => cut_off(client.start_container(&id).await)?,
        // The answer may go out between the end and its cleaning-up.
        Act::Stop => drop(client.stop_container(&id, Duration::from_secs(30)).await),
        Act::Kill => cut_off(client.stop_container(&id, Duration::from_secs(1)).await)?,
        Act::Update => cut_off(client.update_container_resources(&id, limits()).await)?,
        Act::RemoveContainer => cut_off(client.remove_container(&id).await)?,
        other => anyhow::bail!("{other:?} is for another test"),
    }
    stage.next().await?;
    let (world, client) = (&stage.world, stage.world.client.clone());
    match act {
        Act::RunPod => {
            pod = world.run_pod(&sandbox).await?;
            let status = world.pod_status(&pod).await?;
            ensure!(
                status.state() == PodSandboxState::SandboxReady,
                "{status:?}"
            );
            id = world.up(&pod, &sandbox, config.clone()).await?;
            said_here(world, &id).await?;
        }
        Act::StopPod => {
            client.stop_pod_sandbox(&pod).await?;
            let status = world.pod_status(&pod).await?;
            ensure!(
                status.state() == PodSandboxState::SandboxNotready,
                "{status:?}"
            );
            let status = world.status(&id).await?;
            ensure!(
                status.state() == ContainerState::ContainerExited,
                "{status:?}"
            );
            ensure!(status.exit_code == 137, "{status:?}");
        }
        Act::RemovePod => client.remove_pod_sandbox(&pod).await?,
        Act::Create => {
            id = world.create(&pod, &sandbox, config.clone()).await?;
            let status = world.status(&id).await?;
            ensure!(
                status.state() == ContainerState::ContainerCreated,
                "{status:?}"
            );
            client.start_container(&id).await?;
            said_here(world, &id).await?;
        }
        Act::Start => {
            client.start_container(&id).await?;
            said_here(world, &id).await?;
            let status = world.status(&id).await?;
            ensure!(
                status.state() == ContainerState::ContainerRunning,
                "{status:?}"
            );
            ensure!(status.started_at > 0, "{status:?}");
        }
        Act::Stop | Act::Kill => {
            client.stop_container(&id, Duration::from_secs(1)).await?;
            let status = world.status(&id).await?;
            let code = if act == Act::Stop { 7 } else { 137 };
            ensure!(
                status.state() == ContainerState::ContainerExited,
                "{status:?}"
            );
            ensure!(
                status.exit_code == code && status.finished_at > 0,
                "{status:?}"
            );
        }
        Act::Update => {
            client.update_container_resources(&id, limits()).await?;
            let status = world.status(&id).await?;
            let told = status.resources.as_ref().and_then(|r| r.linux.as_ref());
            let told = told.context("no limits")?.cpu_shares;
            ensure!(told == limits().cpu_shares, "{status:?}");
        }
        Act::RemoveContainer => client.remove_container(&id).await?,
        _ => {}
    }
    // One of each name, and nothing that nobody asked for.
    let pods = client.list_pod_sandboxes(None).await?;
    let expected = if act == Act::RemovePod { 1 } else { 2 };
    ensure!(pods.len() == expected, "{pods:?}");
    let containers = client.list_containers(None).await?;
    let expected = match act {
        Act::RemovePod | Act::RemoveContainer => 1,
        _ => 2,
    };
    ensure!(containers.len() == expected, "{containers:?}");
    client.stop_pod_sandbox(&pod).await?;
    client.remove_pod_sandbox(&pod).await?;
    stage.clean().await
}

pub async fn kill_at_all(acts: &[Act]) -> Result<()> {
    let mut stage = Stage::new().await?;
    let mut points = 0;
    for &point in Point::ALL {
        if acts.contains(&act(point)) {
            let killed = kill_at(&mut stage, point).await;
            killed.with_context(|| format!("killed at `{}`", point.name()))?;
            points += 1;
        }
    }
    ensure!(points > acts.len(), "only {points} points");
    stage.end().await
}

#[tokio::test]
async fn a_daemon_killed_in_the_life_of_a_pod() -> Result<()> {
    kill_at_all(&[Act::RunPod, Act::StopPod, Act::RemovePod]).await
}

#[tokio::test]
async fn a_daemon_killed_in_the_life_of_a_container() -> Result<()> {
    kill_at_all(&[
        Act::Create,
        Act::Start,
        Act::Stop,
        Act::Kill,
        Act::Update,
        Act::RemoveContainer,
    ])
    .await
}
