//! Twenty clients at once, each with pods of its own, make legal and illegal calls as seeded numbers have it,
//! give up some in the middle, and check every answer against a model; now and then the daemon is killed.

mod illegal;
mod look;
mod repeat;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use crio_setup::cri::v1::{
    self, ContainerConfig, ContainerState, PodSandboxConfig, PodSandboxState,
};
use crio_setup::ocic::client::{Client, ClientError};
use nix::sys::signal::Signal;
use tonic::Code;

use crate::calls::{CALL, Deaths, Outcome, no_panic};
use crate::model::{Container, Model, Numbers, Pod};
use crate::setting;
use crate::world::World;

/// Between two deaths of the daemon, milliseconds: at least, and up to so much more.
const LIFE: (u64, u64) = (4_000, 8_000);
const PODS: usize = 2;
const CONTAINERS: usize = 3;

struct Caller {
    number: u64,
    client: Client,
    numbers: Numbers,
    model: Model,
    image: String,
    names: u64,
    deaths: Deaths,
    calls: BTreeMap<&'static str, u64>,
    /// Configurations by name, for repeats.
    sandboxes: BTreeMap<String, PodSandboxConfig>,
    configs: BTreeMap<String, (String, ContainerConfig)>,
}

impl Caller {
    /// Makes a call; one in ten is given up after a moment.
    async fn call<T>(
        &mut self,
        what: &'static str,
        call: impl Future<Output = Result<T, ClientError>>,
    ) -> Result<Outcome<T>> {
        *self.calls.entry(what).or_default() += 1;
        let patience = match self.numbers.below(10) {
            0 => Duration::from_millis(self.numbers.below(60)),
            _ => CALL,
        };
        let since = self.deaths.count();
        let answer = match tokio::time::timeout(patience, Box::pin(call)).await {
            Ok(answer) => answer,
            Err(_) if patience == CALL => bail!("{what}: no answer within {CALL:?}"),
            Err(_) => {
                *self.calls.entry("given up").or_default() += 1;
                return Ok(Outcome::Lost);
            }
        };
        let outcome = self.deaths.judge(what, since, answer).await?;
        if matches!(outcome, Outcome::Lost) {
            *self.calls.entry("cut off").or_default() += 1;
        }
        Ok(outcome)
    }

    /// The call must succeed; after a loss the model is brought in step with what is there.
    fn expect<T>(&mut self, what: &str, id: &str, outcome: Outcome<T>) -> Result<Option<T>> {
        match outcome {
            Outcome::Done(answer) => Ok(Some(answer)),
            Outcome::Lost => {
                self.model.unsure = Some(id.to_owned());
                Ok(None)
            }
            Outcome::Refused(code, message) => bail!("{what} of {id} refused: {code:?} {message}"),
        }
    }

    /// The call must be refused with one of these codes.
    fn refused<T: Debug>(&self, what: &str, codes: &[Code], outcome: Outcome<T>) -> Result<()> {
        match outcome {
            Outcome::Refused(code, _) if codes.contains(&code) => Ok(()),
            Outcome::Refused(code, message) => bail!("{what}: {code:?} {message}, not {codes:?}"),
            Outcome::Done(answer) => bail!("{what} is not refused: {answer:?}"),
            Outcome::Lost => Ok(()),
        }
    }

    fn name(&mut self, what: &str) -> String {
        self.names += 1;
        format!("{what}-{}-{}", self.number, self.names)
    }

    async fn step(&mut self) -> Result<()> {
        // In a debug build a future that holds all of them does not fit on a stack.
        match self.numbers.below(20) {
            0..=1 => Box::pin(self.run_pod()).await,
            2..=4 => Box::pin(self.create()).await,
            5..=7 => Box::pin(self.start()).await,
            8..=9 => Box::pin(self.stop()).await,
            10 => Box::pin(self.remove()).await,
            11 => Box::pin(self.stop_pod()).await,
            12 => Box::pin(self.remove_pod()).await,
            13 => Box::pin(self.exec()).await,
            14..=15 => Box::pin(self.illegal()).await,
            16 => Box::pin(self.pull()).await,
            _ => Box::pin(self.look()).await,
        }?;
        if self.model.unsure.is_some() {
            Box::pin(self.resolve()).await?;
        }
        Ok(())
    }

    fn sandbox(&self, name: &str) -> PodSandboxConfig {
        PodSandboxConfig {
            metadata: Some(v1::PodSandboxMetadata {
                name: name.to_owned(),
                uid: format!("{name}-uid"),
                namespace: "soak".to_owned(),
                attempt: 0,
            }),
            log_directory: format!("/var/log/pods/{name}"),
            labels: [("client".to_owned(), self.number.to_string())].into(),
            linux: Some(v1::LinuxPodSandboxConfig {
                security_context: Some(v1::LinuxSandboxSecurityContext {
                    namespace_options: Some(v1::NamespaceOption {
                        pid: match self.names % 3 {
                            0 => v1::NamespaceMode::Pod.into(),
                            _ => v1::NamespaceMode::Container.into(),
                        },
                        // Plugins take most of the time: some pods go without.
                        network: match self.names % 2 {
                            0 => v1::NamespaceMode::Node.into(),
                            _ => v1::NamespaceMode::Pod.into(),
                        },
                        ..Default::default()
                    }),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    async fn run_pod(&mut self) -> Result<()> {
        if self.model.pods.len() >= PODS {
            return Ok(());
        }
        let name = self.name("pod");
        let sandbox = self.sandbox(&name);
        self.sandboxes.insert(name.clone(), sandbox.clone());
        let client = self.client.clone();
        let call = async move { client.run_pod_sandbox(sandbox, "").await };
        let outcome = self.call("RunPodSandbox", call).await?;
        if let Some(id) = self.expect("RunPodSandbox", &name, outcome)? {
            ensure!(!self.model.pods.contains_key(&id), "{id} comes twice");
            self.model.pods.insert(id, Pod { name, ready: true });
        }
        Ok(())
    }

    async fn create(&mut self) -> Result<()> {
        let ready = self.model.pod_ids(|pod| pod.ready);
        let Some(pod) = self.numbers.pick(&ready).cloned() else {
            return Ok(());
        };
        if self.model.container_ids(|c| c.pod == pod).len() >= CONTAINERS {
            return Ok(());
        }
        let code = i32::try_from(self.numbers.below(6))?;
        let brief = (self.numbers.below(2) == 0).then_some(code);
        // The name says what it runs, for whoever finds it again.
        let name = match brief {
            Some(code) => self.name(&format!("brief{code}")),
            None => self.name("long"),
        };
        let config = self.config(&name, brief);
        let made = (pod.clone(), config.clone());
        self.configs.insert(name.clone(), made);
        let sandbox = self.sandbox_of(&pod)?;
        let (client, to) = (self.client.clone(), pod.clone());
        let call = async move { client.create_container(&to, config, sandbox).await };
        let outcome = self.call("CreateContainer", call).await?;
        if let Some(id) = self.expect("CreateContainer", &name, outcome)? {
            ensure!(!self.model.containers.contains_key(&id), "{id} comes twice");
            let state = ContainerState::ContainerCreated;
            let container = Container {
                pod,
                name,
                state,
                brief,
            };
            self.model.containers.insert(id, container);
        }
        Ok(())
    }

    fn config(&self, name: &str, brief: Option<i32>) -> ContainerConfig {
        let script = match brief {
            Some(code) => format!("echo {name}; exit {code}"),
            None => "mkfifo /tmp/f; read x </tmp/f".to_owned(),
        };
        ContainerConfig {
            metadata: Some(v1::ContainerMetadata {
                name: name.to_owned(),
                attempt: 0,
            }),
            image: Some(v1::ImageSpec {
                image: self.image.clone(),
                ..Default::default()
            }),
            command: ["sh", "-c", &script].map(str::to_owned).into(),
            labels: [("client".to_owned(), self.number.to_string())].into(),
            log_path: format!("{name}.log"),
            linux: Some(v1::LinuxContainerConfig::default()),
            ..Default::default()
        }
    }

    fn sandbox_of(&self, pod: &str) -> Result<PodSandboxConfig> {
        let name = &self.model.pods.get(pod).context("no such pod")?.name;
        Ok(self.sandboxes.get(name).context("no such name")?.clone())
    }

    async fn start(&mut self) -> Result<()> {
        let created = |c: &Container| c.state == ContainerState::ContainerCreated;
        let created = self.model.container_ids(created);
        let Some(id) = self.numbers.pick(&created).cloned() else {
            return Ok(());
        };
        let (client, to) = (self.client.clone(), id.clone());
        let call = async move { client.start_container(&to).await };
        let outcome = self.call("StartContainer", call).await?;
        if self.expect("StartContainer", &id, outcome)?.is_some()
            && let Some(container) = self.model.containers.get_mut(&id)
        {
            container.state = ContainerState::ContainerRunning;
        }
        Ok(())
    }

    async fn stop(&mut self) -> Result<()> {
        let any = self.model.container_ids(|_| true);
        let Some(id) = self.numbers.pick(&any).cloned() else {
            return Ok(());
        };
        let grace = Duration::from_secs(self.numbers.below(2));
        let (client, to) = (self.client.clone(), id.clone());
        let call = async move { client.stop_container(&to, grace).await };
        let outcome = self.call("StopContainer", call).await?;
        if self.expect("StopContainer", &id, outcome)?.is_some()
            && let Some(container) = self.model.containers.get_mut(&id)
        {
            container.state = ContainerState::ContainerExited;
        }
        Ok(())
    }

    async fn remove(&mut self) -> Result<()> {
        let any = self.model.container_ids(|_| true);
        let Some(id) = self.numbers.pick(&any).cloned() else {
            return Ok(());
        };
        let (client, to) = (self.client.clone(), id.clone());
        let call = async move { client.remove_container(&to).await };
        let outcome = self.call("RemoveContainer", call).await?;
        if self.expect("RemoveContainer", &id, outcome)?.is_some() {
            self.model.containers.remove(&id);
        }
        Ok(())
    }

    async fn stop_pod(&mut self) -> Result<()> {
        let any = self.model.pod_ids(|_| true);
        let Some(id) = self.numbers.pick(&any).cloned() else {
            return Ok(());
        };
        let (client, to) = (self.client.clone(), id.clone());
        let call = async move { client.stop_pod_sandbox(&to).await };
        let outcome = self.call("StopPodSandbox", call).await?;
        if self.expect("StopPodSandbox", &id, outcome)?.is_some() {
            self.model.stop_pod(&id);
        }
        Ok(())
    }

    async fn remove_pod(&mut self) -> Result<()> {
        let any = self.model.pod_ids(|_| true);
        let Some(id) = self.numbers.pick(&any).cloned() else {
            return Ok(());
        };
        let (client, to) = (self.client.clone(), id.clone());
        let call = async move { client.remove_pod_sandbox(&to).await };
        let outcome = self.call("RemovePodSandbox", call).await?;
        if self.expect("RemovePodSandbox", &id, outcome)?.is_some() {
            self.model.remove_pod(&id);
        }
        Ok(())
    }

    async fn exec(&mut self) -> Result<()> {
        let running =
            |c: &Container| c.state == ContainerState::ContainerRunning && c.brief.is_none();
        let running = self.model.container_ids(running);
        let Some(id) = self.numbers.pick(&running).cloned() else {
            return Ok(());
        };
        let code = i32::try_from(self.numbers.below(4))?;
        let script = ["sh", "-c", &format!("echo out; echo err >&2; exit {code}")];
        let words = script.map(str::to_owned).into();
        let client = self.client.clone();
        let call = async move { client.exec_sync(&id, words, Some(CALL)).await };
        match self.call("ExecSync", call).await? {
            Outcome::Done(answer) => {
                ensure!(answer.exit_code == code, "{answer:?}, not {code}");
                let said = (answer.stdout.as_slice(), answer.stderr.as_slice());
                ensure!(said == (b"out\n", b"err\n"), "{answer:?}");
                Ok(())
            }
            Outcome::Refused(code, message) => bail!("ExecSync refused: {code:?} {message}"),
            Outcome::Lost => Ok(()),
        }
    }

    async fn pull(&mut self) -> Result<()> {
        let (client, image) = (self.client.clone(), self.image.clone());
        let call = async move { client.pull_image(&image, None).await };
        match self.call("PullImage", call).await? {
            Outcome::Refused(code, message) => bail!("PullImage refused: {code:?} {message}"),
            _ => Ok(()),
        }
    }

    async fn until(mut self, end: Instant) -> Result<BTreeMap<&'static str, u64>> {
        while Instant::now() < end {
            let step = Box::pin(self.step()).await;
            step.with_context(|| format!("client {}", self.number))?;
        }
        Ok(self.calls)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_calls_find_no_wrong_state() -> Result<()> {
    let seconds = setting("OCID_SOAK_SECONDS", 60);
    let clients = setting("OCID_SOAK_CLIENTS", 20);
    let clock = u64::try_from(crio_setup::host::clock::now_ns())?;
    let seed = setting("OCID_SOAK_SEED", clock);
    println!("OCID_SOAK_SEED={seed}, {clients} clients, {seconds} s");
    let mut world = World::start().await?;
    let end = Instant::now() + Duration::from_secs(seconds);
    let deaths = Deaths::default();
    let mut callers = tokio::task::JoinSet::new();
    for number in 0..clients {
        let caller = Caller {
            number,
            client: Client::connect(&world.socket(), CALL).await?,
            numbers: Numbers::new(seed.wrapping_add(number)),
            model: Model::default(),
            image: world.image.clone(),
            names: 0,
            deaths: deaths.clone(),
            calls: BTreeMap::new(),
            sandboxes: BTreeMap::new(),
            configs: BTreeMap::new(),
        };
        callers.spawn(Box::pin(caller.until(end)));
    }
    let mut numbers = Numbers::new(!seed);
    let mut calls: BTreeMap<&str, u64> = BTreeMap::new();
    loop {
        let life = Duration::from_millis(LIFE.0 + numbers.below(LIFE.1));
        tokio::select! {
            ended = callers.join_next() => {
                let Some(ended) = ended else { break };
                let ended = ended?.with_context(|| format!("OCID_SOAK_SEED={seed}"))?;
                for (what, count) in ended {
                    *calls.entry(what).or_default() += count;
                }
            }
            () = tokio::time::sleep(life), if Instant::now() < end => {
                no_panic(&world)?;
                deaths.note();
                world.end_daemon_beside(Signal::SIGKILL).await?;
                world.start_daemon().await?;
                // A call that began in between was cut off by the same death.
                deaths.note();
            }
        }
    }
    for (what, count) in &calls {
        println!("{count:7} {what}");
    }
    println!("{:7} deaths of the daemon", deaths.count() / 2);
    let done: u64 = calls.values().sum();
    ensure!(done > clients, "only {done} calls");
    no_panic(&world)?;
    let pods = world.client.list_pod_sandboxes(None).await?;
    let ready = pods
        .iter()
        .filter(|p| p.state() == PodSandboxState::SandboxReady);
    println!(
        "{:7} pods at the end, {} of them ready",
        pods.len(),
        ready.count()
    );
    let clean = world.assert_clean(&["route local fe80", "--debug"]).await;
    no_panic(&world)?;
    clean.with_context(|| format!("OCID_SOAK_SEED={seed}"))
}
