//! What the events of one life of the daemon say of each pod and container: every step in order, none lost, none
//! twice.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use crio_setup::cri::v1::{
    self, ContainerEventResponse, ContainerEventType as Kind, ContainerState, PodSandboxState,
};
use tokio::sync::watch;

use super::node::lock;

/// How long an event may take after what it tells shows in a list.
const TOLD: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    Created,
    Started,
    Stopped,
    Deleted,
}

impl Stage {
    fn of(kind: Kind) -> Self {
        match kind {
            Kind::ContainerCreatedEvent => Self::Created,
            Kind::ContainerStartedEvent => Self::Started,
            Kind::ContainerStoppedEvent => Self::Stopped,
            Kind::ContainerDeletedEvent => Self::Deleted,
        }
    }

    fn of_pod(pod: &v1::PodSandbox) -> Self {
        match pod.state() {
            PodSandboxState::SandboxReady => Self::Started,
            PodSandboxState::SandboxNotready => Self::Stopped,
        }
    }

    fn of_container(container: &v1::Container) -> Self {
        match container.state() {
            ContainerState::ContainerCreated | ContainerState::ContainerUnknown => Self::Created,
            ContainerState::ContainerRunning => Self::Started,
            ContainerState::ContainerExited => Self::Stopped,
        }
    }

    /// May this be the next that is told? What never started can only end.
    fn follows(self, before: Self) -> bool {
        matches!(
            (before, self),
            (Self::Created, Self::Started | Self::Stopped)
                | (Self::Started, Self::Stopped)
                | (Self::Stopped, Self::Deleted)
        )
    }
}

/// By id, in lists.
pub type Listed = HashMap<String, Stage>;

pub fn listed(pods: &[v1::PodSandbox], containers: &[v1::Container]) -> Listed {
    let pods = pods.iter().map(|pod| (pod.id.clone(), Stage::of_pod(pod)));
    let containers = containers.iter();
    let containers = containers.map(|one| (one.id.clone(), Stage::of_container(one)));
    pods.chain(containers).collect()
}

#[derive(Debug, Default)]
struct Life {
    /// Which stream this is.
    number: u64,
    /// What there was at the relist after the stream was opened.
    base: Listed,
    /// When that was done, nanoseconds since the epoch; what is told of earlier may overlap with it.
    relisted: Option<i64>,
    told: HashMap<String, (Stage, i64)>,
    events: u64,
    /// The stream has ended.
    over: bool,
}

impl Life {
    fn stage(&self, id: &str) -> Option<Stage> {
        let told = self.told.get(id).map(|(stage, _)| *stage);
        told.or_else(|| self.base.get(id).copied())
    }
}

#[derive(Debug, Default)]
pub struct Tracker {
    life: Mutex<Life>,
    changes: watch::Sender<()>,
}

impl Tracker {
    /// A stream is open; nothing is known yet.
    pub fn open(&self) {
        let mut life = lock(&self.life);
        *life = Life {
            number: life.number + 1,
            events: life.events,
            ..Life::default()
        };
    }

    pub fn relisted(&self, base: Listed, at: i64) {
        let mut life = lock(&self.life);
        (life.base, life.relisted) = (base, Some(at));
    }

    /// The stream has ended with its daemon.
    pub fn broken(&self) {
        lock(&self.life).over = true;
        self.changes.send_replace(());
    }

    pub fn event(&self, event: &ContainerEventResponse) -> Result<()> {
        let mut life = lock(&self.life);
        let (id, at) = (&event.container_id, event.created_at);
        let stage = Stage::of(event.container_event_type());
        match (life.told.get(id), life.relisted) {
            (Some((before, when)), _) => {
                let fits = stage.follows(*before) && at >= *when;
                ensure!(
                    fits,
                    "{stage:?} at {at} after {before:?} at {when}: {event:#?}"
                );
            }
            (None, Some(relisted)) if at > relisted => match life.base.get(id) {
                // The record says so first, the event comes after.
                Some(base) => ensure!(
                    stage == *base || stage.follows(*base),
                    "{stage:?} of what was {base:?}: {event:#?}"
                ),
                None => ensure!(
                    stage == Stage::Created,
                    "the first that is told is {stage:?}: {event:#?}"
                ),
            },
            (None, _) => {}
        }
        life.told.insert(id.clone(), (stage, at));
        life.events += 1;
        drop(life);
        self.changes.send_replace(());
        fits_status(event, stage)
    }

    /// The number of this life and what is thought to be there; `None` before that is known.
    pub fn picture(&self) -> Option<(u64, Vec<String>)> {
        let life = lock(&self.life);
        life.relisted.filter(|_| !life.over)?;
        let all = life.base.keys().chain(life.told.keys());
        let there = all.filter(|id| life.stage(id) != Some(Stage::Deleted));
        Some((life.number, there.cloned().collect()))
    }

    /// Waits until everything in a list, and that something is not in it any more, has been told. `before`: the
    /// picture from before the list was asked for.
    pub async fn agrees(&self, before: (u64, Vec<String>), list: &Listed) -> Result<()> {
        let mut changes = self.changes.subscribe();
        let deadline = Instant::now() + TOLD;
        loop {
            changes.borrow_and_update();
            let untold = {
                let life = lock(&self.life);
                if life.number != before.0 || life.over {
                    return Ok(());
                }
                let shown = list.iter();
                let mut shown = shown.filter(|(id, stage)| life.stage(id) < Some(**stage));
                let there = before.1.iter().filter(|id| !list.contains_key(*id));
                let mut gone = there.filter(|id| life.stage(id) != Some(Stage::Deleted));
                let shown = shown.next().map(|(id, stage)| format!("{id} is {stage:?}"));
                shown.or_else(|| gone.next().map(|id| format!("{id} is no more")))
            };
            let Some(untold) = untold else {
                return Ok(());
            };
            if tokio::time::timeout_at(deadline.into(), changes.changed())
                .await
                .is_err()
            {
                bail!("nobody told that {untold}");
            }
        }
    }

    /// At the end: how many events there were in all; everything must have been told to be gone.
    pub fn close(&self) -> Result<u64> {
        let life = lock(&self.life);
        let left: Vec<_> = life
            .told
            .iter()
            .filter(|(_, (stage, _))| *stage != Stage::Deleted)
            .collect();
        ensure!(left.is_empty(), "never deleted: {left:?}");
        Ok(life.events)
    }
}

/// The state that comes with an event is that of then, or later.
fn fits_status(event: &ContainerEventResponse, stage: Stage) -> Result<()> {
    let pod = event.pod_sandbox_status.as_ref();
    let pod = pod.map(|pod| (pod.id == event.container_id, pod.state()));
    let Some((own, ready)) = pod else {
        bail!("an event without its pod: {event:#?}");
    };
    let mut states = event.containers_statuses.iter();
    let state = states
        .find(|one| one.id == event.container_id)
        .map(v1::ContainerStatus::state);
    let fits = match (own, stage) {
        (true, Stage::Started) => state.is_none() && ready == PodSandboxState::SandboxReady,
        (true, Stage::Stopped) => state.is_none() && ready == PodSandboxState::SandboxNotready,
        (true, _) => state.is_none(),
        (false, Stage::Created) => state.is_some(),
        (false, Stage::Started) => matches!(
            state,
            Some(ContainerState::ContainerRunning | ContainerState::ContainerExited)
        ),
        (false, Stage::Stopped) => state == Some(ContainerState::ContainerExited),
        (false, Stage::Deleted) => state.is_none(),
    };
    ensure!(fits, "{stage:?} comes with {state:?}: {event:#?}");
    Ok(())
}
