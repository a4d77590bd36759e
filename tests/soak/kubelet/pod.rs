//! One place on the node: a pod in it is kept at what is desired, and replaced when its time is over.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use crio_setup::cri::v1::{self, ContainerState, PodSandboxState};
use tokio::task::JoinSet;

use super::desired::{Current, Desired, Kind, check_end, log_name};
use super::logs::rotate;
use super::node::{Node, between, lock};
use super::probe::{self, Verdict};
use crate::model::Numbers;

/// How many failed probes end a container.
const FAILURES: u32 = 2;
/// Between the end of a container and the next attempt: doubled from the one to the other.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(8));
const GRACE: Duration = Duration::from_secs(2);

struct Pod {
    node: Arc<Node>,
    name: String,
    config: v1::PodSandboxConfig,
    id: String,
    desired: Vec<Desired>,
    probes: JoinSet<Result<(String, Verdict)>>,
    probe: Instant,
    rotation: Instant,
    exec: Instant,
}

/// Keeps one pod after the other until the end.
pub async fn keep(node: Arc<Node>, slot: u64, mut numbers: Numbers) -> Result<()> {
    // They are not all told at once.
    node.pause(Duration::from_millis(50 * slot)).await;
    let mut serial = 0;
    while Instant::now() < node.pace.end {
        serial += 1;
        let mut pod = Pod::new(&node, slot, serial, &mut numbers);
        let name = pod.name.clone();
        let lived = Box::pin(pod.live(&mut numbers)).await;
        lived.with_context(|| format!("pod {name}, {}", pod.id))?;
    }
    Ok(())
}

/// Kubelet removes the logs of a pod that is no more.
pub fn remove_logs(node: &Node, pod: &str) -> Result<()> {
    match std::fs::remove_dir_all(node.root.join(format!("var/log/pods/{pod}"))) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e.into()),
        _ => Ok(()),
    }
}

impl Pod {
    fn new(node: &Arc<Node>, slot: u64, serial: u64, numbers: &mut Numbers) -> Self {
        let name = format!("node-{slot}-{serial}");
        let network = match numbers.below(4) {
            0 => v1::NamespaceMode::Node,
            _ => v1::NamespaceMode::Pod,
        };
        let config = v1::PodSandboxConfig {
            metadata: Some(v1::PodSandboxMetadata {
                name: name.clone(),
                uid: name.clone(),
                namespace: "soak".to_owned(),
                attempt: 0,
            }),
            log_directory: format!("/var/log/pods/{name}"),
            labels: [("uid".to_owned(), name.clone())].into(),
            linux: Some(v1::LinuxPodSandboxConfig {
                cgroup_parent: format!("/kubepods/{name}"),
                security_context: Some(v1::LinuxSandboxSecurityContext {
                    namespace_options: Some(v1::NamespaceOption {
                        pid: v1::NamespaceMode::Container.into(),
                        network: network.into(),
                        ..Default::default()
                    }),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        };
        let desired = (0..1 + numbers.below(2)).map(|number| Desired {
            name: format!("c{number}"),
            kind: Kind::any(numbers),
            current: None,
            unsure: false,
            restarts: 0,
            restart: Instant::now(),
        });
        let desired = desired.collect();
        let soon = |pause: Duration, numbers: &mut Numbers| {
            Instant::now() + between((pause / 2, pause), numbers)
        };
        Self {
            node: Arc::clone(node),
            name,
            config,
            id: String::new(),
            desired,
            probes: JoinSet::new(),
            probe: soon(node.pace.probe, numbers),
            rotation: soon(node.pace.rotation, numbers),
            exec: soon(node.pace.exec, numbers),
        }
    }

    async fn live(&mut self, numbers: &mut Numbers) -> Result<()> {
        let node = Arc::clone(&self.node);
        node.count("pods");
        lock(&node.kept).insert(self.name.clone());
        self.run().await?;
        let happens = node.subscribe(&self.id);
        let death = Instant::now() + between(node.pace.pod, numbers);
        let death = death.min(node.pace.end);
        while Instant::now() < death {
            self.sync().await?;
            self.look_after().await?;
            let restarts = self.desired.iter().filter(|one| !one.runs());
            let restart = restarts.map(|one| one.restart).min();
            let wake = [self.probe, self.rotation, self.exec];
            let wake = wake.into_iter().chain(restart).fold(death, Instant::min);
            // What is due already waits for the next daemon, perhaps.
            let wake = wake.max(Instant::now() + Duration::from_millis(20));
            tokio::select! {
                () = happens.notified() => {}
                Some(probed) = self.probes.join_next() => {
                    let (id, verdict) = probed??;
                    self.probed(&id, verdict).await?;
                }
                () = tokio::time::sleep_until(wake.into()) => {}
            }
        }
        while let Some(probed) = self.probes.join_next().await {
            let (id, verdict) = probed??;
            self.probed(&id, verdict).await?;
        }
        node.unsubscribe(&self.id);
        self.end(numbers.below(3) == 0).await
    }

    /// A sandbox that is ready: what a call that was cut off has made is taken as it is.
    async fn run(&mut self) -> Result<()> {
        loop {
            let call = self.node.client.run_pod_sandbox(self.config.clone(), "");
            if let Some(id) = self.node.must("RunPodSandbox", call).await? {
                self.id = id;
                return Ok(());
            }
            self.node.alive().await;
            let filter = v1::PodSandboxFilter {
                label_selector: self.config.labels.clone(),
                ..Default::default()
            };
            let list = || self.node.client.list_pod_sandboxes(Some(filter.clone()));
            let found = self.node.insist("ListPodSandbox", list).await?;
            let ready = |pod: &&v1::PodSandbox| pod.state() == PodSandboxState::SandboxReady;
            let mut ready = found.iter().filter(ready);
            if let Some(pod) = ready.next() {
                ensure!(ready.next().is_none(), "two sandboxes are ready: {found:?}");
                self.id = pod.id.clone();
                return Ok(());
            }
            if let Some(metadata) = self.config.metadata.as_mut().filter(|_| !found.is_empty()) {
                metadata.attempt += 1;
            }
        }
    }

    /// Brings what is there to what is desired.
    async fn sync(&mut self) -> Result<()> {
        let call = self.node.client.pod_sandbox_status(&self.id, false);
        let Some(answer) = self.node.must("PodSandboxStatus", call).await? else {
            return Ok(());
        };
        let state = answer.status.context("no status")?.state();
        ensure!(state == PodSandboxState::SandboxReady, "it is {state:?}");
        let filter = v1::ContainerFilter {
            pod_sandbox_id: self.id.clone(),
            ..Default::default()
        };
        let call = self.node.client.list_containers(Some(filter));
        let Some(list) = self.node.must("ListContainers", call).await? else {
            return Ok(());
        };
        let name = |one: &v1::Container| one.metadata.as_ref().map(|m| m.name.clone());
        let known = |one: &v1::Container| {
            let mut desired = self.desired.iter();
            desired.any(|desired| Some(&desired.name) == name(one).as_ref())
        };
        ensure!(
            list.iter().all(known),
            "there is what nobody made: {list:?}"
        );
        for at in 0..self.desired.len() {
            self.sync_one(at, &list).await?;
        }
        Ok(())
    }

    async fn sync_one(&mut self, at: usize, list: &[v1::Container]) -> Result<()> {
        let node = Arc::clone(&self.node);
        let desired = self.desired.get_mut(at).context("no such container")?;
        let attempt =
            |one: &v1::Container| one.metadata.as_ref().map(|m| (m.name.clone(), m.attempt));
        let own = list.iter().filter_map(|one| Some((attempt(one)?, one)));
        let own = own.filter(|((name, _), _)| *name == desired.name);
        let newest = own.max_by_key(|((_, attempt), _)| *attempt);
        let Some(((_, attempt), newest)) = newest else {
            let gone = desired.current.as_ref().filter(|_| !desired.unsure);
            ensure!(gone.is_none(), "{} is gone", desired.name);
            return self.start(at, 0).await;
        };
        if desired.unsure {
            desired.unsure = false;
            let stopped = desired.current.as_ref();
            let stopped = stopped.is_some_and(|one| one.id == newest.id && one.stopped);
            let log = self.config.log_directory.trim_start_matches('/');
            desired.current = Some(Current {
                id: newest.id.clone(),
                log: node.root.join(log).join(log_name(&desired.name, attempt)),
                running: true,
                stopped,
                failures: 0,
                rotated: false,
            });
        }
        let current = desired.current.as_mut().context("nobody made it")?;
        ensure!(current.id == newest.id, "{} is not the newest", current.id);
        match newest.state() {
            ContainerState::ContainerRunning => Ok(()),
            // Its start was cut off: kubelet takes a new one.
            ContainerState::ContainerCreated => self.start(at, attempt + 1).await,
            ContainerState::ContainerExited if current.running => {
                let call = node.client.container_status(&current.id, false);
                let Some(answer) = node.must("ContainerStatus", call).await? else {
                    return Ok(());
                };
                let status = answer.status.context("no status")?;
                check_end(desired.kind, current.stopped, &status)?;
                current.running = false;
                let pause = BACKOFF.0 * 2_u32.saturating_pow(desired.restarts.min(8));
                desired.restart = Instant::now() + pause.min(BACKOFF.1);
                desired.restarts += 1;
                Ok(())
            }
            ContainerState::ContainerExited if Instant::now() >= desired.restart => {
                node.count("restarts");
                self.start(at, attempt + 1).await
            }
            ContainerState::ContainerExited => Ok(()),
            ContainerState::ContainerUnknown => bail!("{newest:?}"),
        }
    }

    async fn start(&mut self, at: usize, attempt: u32) -> Result<()> {
        let node = Arc::clone(&self.node);
        let desired = self.desired.get_mut(at).context("no such container")?;
        let log_path = log_name(&desired.name, attempt);
        let log = self.config.log_directory.trim_start_matches('/');
        let log = node.root.join(log).join(&log_path);
        let config = v1::ContainerConfig {
            metadata: Some(v1::ContainerMetadata {
                name: desired.name.clone(),
                attempt,
            }),
            image: Some(v1::ImageSpec {
                image: node.image.clone(),
                ..Default::default()
            }),
            command: ["sh", "-c", &desired.kind.script()]
                .map(str::to_owned)
                .into(),
            log_path,
            linux: Some(v1::LinuxContainerConfig::default()),
            ..Default::default()
        };
        desired.unsure = true;
        let sandbox = self.config.clone();
        let call = node.client.create_container(&self.id, config, sandbox);
        let Some(id) = node.must("CreateContainer", call).await? else {
            return Ok(());
        };
        let call = node.client.start_container(&id);
        if node.must("StartContainer", call).await?.is_some() {
            desired.unsure = false;
        }
        desired.current = Some(Current {
            id,
            log,
            running: true,
            stopped: false,
            failures: 0,
            rotated: false,
        });
        Ok(())
    }

    /// What is due, of containers whose program has said that it runs.
    async fn look_after(&mut self) -> Result<()> {
        let (node, now) = (Arc::clone(&self.node), Instant::now());
        let up = self.desired.iter().filter_map(|one| one.up());
        let up: Vec<String> = up.map(|current| current.id.clone()).collect();
        if now >= self.probe {
            self.probe = now + node.pace.probe;
            for id in &up {
                let (node, id) = (Arc::clone(&node), id.clone());
                self.probes.spawn(async move {
                    let verdict = probe::probe(&node, &id).await?;
                    Ok((id, verdict))
                });
            }
        }
        if now >= self.exec
            && let Some(id) = up.first()
        {
            self.exec = now + node.pace.exec;
            probe::stream(&node, id).await?;
        }
        if now >= self.rotation {
            self.rotation = now + node.pace.rotation;
            for desired in &mut self.desired {
                if let Some(current) = desired.current.as_mut().filter(|one| one.is_up()) {
                    rotate(&node, current).await?;
                }
            }
        }
        Ok(())
    }

    /// A container that fails its probe is stopped; the sync after its end starts another.
    async fn probed(&mut self, id: &str, verdict: Verdict) -> Result<()> {
        let node = Arc::clone(&self.node);
        let own = |one: &&mut Desired| one.current.as_ref().is_some_and(|current| current.id == id);
        let Some(desired) = self.desired.iter_mut().find(own) else {
            return Ok(());
        };
        let (kind, Some(current)) = (desired.kind, desired.current.as_mut()) else {
            return Ok(());
        };
        match verdict {
            Verdict::Well => current.failures = 0,
            Verdict::Unknown => {}
            Verdict::Sick => {
                ensure!(kind == Kind::Sick, "{id} fails its probe");
                current.failures += 1;
            }
        }
        if current.failures >= FAILURES && current.running {
            node.count("ended for their probes");
            (current.failures, current.stopped) = (0, true);
            let call = node.client.stop_container(id, GRACE);
            node.must("StopContainer", call).await?;
        }
        Ok(())
    }

    /// Its time is over. `evicted`: it is only stopped, garbage collection does the rest.
    async fn end(&mut self, evicted: bool) -> Result<()> {
        let (node, id) = (Arc::clone(&self.node), self.id.clone());
        for desired in &self.desired {
            if let Some(current) = &desired.current {
                let stop = || {
                    node.client
                        .stop_container(&current.id, Duration::from_secs(1))
                };
                node.insist("StopContainer", stop).await?;
            }
        }
        node.insist("StopPodSandbox", || node.client.stop_pod_sandbox(&id))
            .await?;
        if evicted {
            node.count("pods evicted");
        } else {
            node.insist("RemovePodSandbox", || node.client.remove_pod_sandbox(&id))
                .await?;
            remove_logs(&node, &self.name)?;
        }
        lock(&node.kept).remove(&self.name);
        Ok(())
    }
}
