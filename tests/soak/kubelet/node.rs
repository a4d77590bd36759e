//! What the tasks of one node share.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use crio_setup::cri::v1::{self, ContainerState};
use crio_setup::ocic::client::{Client, ClientError};
use tokio::sync::{Notify, watch};

use super::tracker::{Listed, Tracker};
use crate::calls::{CALL, Deaths, Outcome};
use crate::model::Numbers;
use crate::support::image::{Compression, Layer, assemble};
use crate::world::World;

/// Images that come and go.
const EXTRA: usize = 3;

/// How often things are done.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    pub end: Instant,
    /// Long enough for figures to mean something.
    pub is_whole: bool,
    /// How long the daemon lives, at least, and up to so much more.
    life: (Duration, Duration),
    /// How long a pod lives, likewise.
    pub pod: (Duration, Duration),
    pub statistics: Duration,
    pub status: Duration,
    pub collection: Duration,
    pub verification: Duration,
    pub figures: Duration,
    pub probe: Duration,
    pub rotation: Duration,
    pub exec: Duration,
}

impl Pace {
    /// Of kubelet, for a run that is long enough; else all of it in what time there is.
    pub fn of(whole: Duration) -> Self {
        let ms = Duration::from_millis;
        let end = Instant::now() + whole;
        if whole < Duration::from_secs(60) {
            return Self {
                end,
                is_whole: false,
                life: (ms(5000), ms(4000)),
                pod: (ms(4000), ms(6000)),
                statistics: ms(2000),
                status: ms(1000),
                collection: ms(2000),
                verification: ms(1000),
                figures: whole / 5,
                probe: ms(1000),
                rotation: ms(2500),
                exec: ms(2500),
            };
        }
        Self {
            end,
            is_whole: true,
            life: (ms(10_000), ms(30_000)),
            pod: (ms(30_000), ms(60_000)),
            statistics: ms(10_000),
            status: ms(5000),
            collection: ms(10_000),
            verification: ms(5000),
            figures: (whole / 5).min(ms(60_000)),
            probe: ms(10_000),
            rotation: ms(15_000),
            exec: ms(30_000),
        }
    }

    pub fn life(&self, numbers: &mut Numbers) -> Duration {
        between(self.life, numbers)
    }
}

/// At least the one, and up to the other more.
pub fn between((least, more): (Duration, Duration), numbers: &mut Numbers) -> Duration {
    let more = u64::try_from(more.as_millis()).unwrap_or(0).max(1);
    least + Duration::from_millis(numbers.below(more))
}

pub struct Node {
    pub client: Client,
    pub pace: Pace,
    pub deaths: Deaths,
    pub image: String,
    /// Not in the store, in the registry.
    pub extra: Vec<String>,
    /// The machine's root, from here, and its init.
    pub root: PathBuf,
    pub init: i32,
    pub tracker: Tracker,
    /// Of pods that somebody keeps, by uid. Whatever else there is, garbage collection takes.
    pub kept: Mutex<BTreeSet<String>>,
    /// Who wants to hear of a pod, by its id.
    waiting: Mutex<HashMap<String, Arc<Notify>>>,
    counts: Mutex<BTreeMap<String, u64>>,
    finished: watch::Sender<bool>,
}

impl Node {
    pub async fn of(world: &World, pace: Pace) -> Result<Arc<Self>> {
        let mut extra = Vec::new();
        for number in 0..EXTRA {
            let mut layer = Layer::default();
            let content = format!("extra {number}\n").repeat(100_000);
            layer.file("/content", 0o644, content.as_bytes())?;
            let image = assemble(
                vec![layer.finish(Compression::Gzip)?],
                serde_json::json!({}),
            )?;
            let name = format!("library/extra-{number}");
            extra.push(world.registry.push(&world.machine, &name, "1", &image)?);
        }
        Ok(Arc::new(Self {
            client: Client::connect(&world.socket(), CALL).await?,
            pace,
            deaths: Deaths::default(),
            image: world.image.clone(),
            extra,
            root: world.machine.path("/"),
            init: world.machine.pid(),
            tracker: Tracker::default(),
            kept: Mutex::default(),
            waiting: Mutex::default(),
            counts: Mutex::default(),
            finished: watch::Sender::new(false),
        }))
    }

    pub fn count(&self, what: &str) {
        *lock(&self.counts).entry(what.to_owned()).or_default() += 1;
    }

    pub fn print(&self) {
        for (what, count) in &*lock(&self.counts) {
            println!("{count:7} {what}");
        }
    }

    /// Makes a call, which takes no longer than [`CALL`].
    pub async fn call<T>(
        &self,
        what: &str,
        call: impl Future<Output = Result<T, ClientError>>,
    ) -> Result<Outcome<T>> {
        self.count(what);
        let since = self.deaths.count();
        let answer = tokio::time::timeout(CALL, Box::pin(call)).await;
        let answer = answer.with_context(|| format!("{what}: no answer within {CALL:?}"))?;
        let outcome = self.deaths.judge(what, since, answer).await?;
        if matches!(outcome, Outcome::Lost) {
            self.count("cut off");
        }
        Ok(outcome)
    }

    /// A call that is not refused; `None` if its end is not known.
    pub async fn must<T>(
        &self,
        what: &str,
        call: impl Future<Output = Result<T, ClientError>>,
    ) -> Result<Option<T>> {
        match self.call(what, call).await? {
            Outcome::Done(answer) => Ok(Some(answer)),
            Outcome::Lost => Ok(None),
            Outcome::Refused(code, message) => bail!("{what}: {code:?} {message}"),
        }
    }

    /// Repeats a call that may be repeated until its end is known.
    pub async fn insist<T, F>(&self, what: &str, mut call: impl FnMut() -> F) -> Result<T>
    where
        F: Future<Output = Result<T, ClientError>>,
    {
        loop {
            if let Some(answer) = self.must(what, call()).await? {
                return Ok(answer);
            }
            self.alive().await;
        }
    }

    /// Waits for the next daemon if one has died.
    pub async fn alive(&self) {
        while self.deaths.count() % 2 == 1 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Does the container run? Also if nobody can tell just now.
    pub async fn may_run(&self, id: &str) -> Result<bool> {
        let call = self.client.container_status(id, false);
        Ok(match self.call("ContainerStatus", call).await? {
            Outcome::Done(answer) => {
                let state = answer.status.context("no status")?.state();
                state == ContainerState::ContainerRunning
            }
            Outcome::Refused(tonic::Code::NotFound, _) => false,
            Outcome::Refused(code, message) => bail!("ContainerStatus: {code:?} {message}"),
            Outcome::Lost => true,
        })
    }

    pub fn subscribe(&self, pod: &str) -> Arc<Notify> {
        Arc::clone(lock(&self.waiting).entry(pod.to_owned()).or_default())
    }

    pub fn unsubscribe(&self, pod: &str) {
        lock(&self.waiting).remove(pod);
    }

    /// Something has happened to a pod.
    pub fn wake(&self, pod: &str) {
        if let Some(waiting) = lock(&self.waiting).get(pod) {
            waiting.notify_one();
        }
    }

    /// Anything may have happened.
    pub fn wake_all(&self) {
        for waiting in lock(&self.waiting).values() {
            waiting.notify_one();
        }
    }

    /// Nobody keeps pods any more.
    pub fn finish(&self) {
        self.finished.send_replace(true);
    }

    pub fn is_finished(&self) -> bool {
        *self.finished.borrow()
    }

    /// Waits for the end of a pause, or of it all.
    pub async fn pause(&self, pause: Duration) {
        let mut finished = self.finished.subscribe();
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = finished.wait_for(|finished| *finished) => {}
        }
    }

    /// Waits until nobody keeps pods any more.
    pub async fn over(&self) {
        let mut finished = self.finished.subscribe();
        // The sender is ours.
        finished.wait_for(|finished| *finished).await.ok();
    }

    /// Waits until garbage collection has taken the last, and until that has been told.
    pub async fn emptied(&self) -> Result<()> {
        let deadline = Instant::now() + CALL;
        loop {
            let before = self.tracker.picture();
            let list = self.list().await?;
            if let (Some(before), Some((pods, containers))) = (before, list)
                && pods.is_empty()
                && containers.is_empty()
            {
                return self.tracker.agrees(before, &Listed::new()).await;
            }
            ensure!(Instant::now() < deadline, "something is left");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Everything there is, as a relist has it; `None` if the daemon died over it.
    pub async fn list(&self) -> Result<Option<(Vec<v1::PodSandbox>, Vec<v1::Container>)>> {
        let call = async {
            let pods = self.client.list_pod_sandboxes(None).await?;
            Ok((pods, self.client.list_containers(None).await?))
        };
        self.must("relist", call).await
    }
}

/// What they guard is whole whatever a panicking task was at.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
