//! The stages of the self-test, and the way back from each.

use std::collections::HashMap;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::network::{self, TestNetwork};
use super::registry::{REPOSITORY, Registry};
use super::{Cause, Report, SelfTest, SelfTestError, Stage, StepReport, image, log, peer, pod};
use crate::cri::v1::{ContainerState, PodSandboxFilter};
use crate::host::fs::remove_tree;
use crate::ocic::client::Client;
use crate::ocic::logs::Stream;
use crate::setup::verify;

/// The folder below `runroot`; ocid knows its name, so that no pod has to name a path.
const FOLDER: &str = "selftest";
/// For the peer to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(10);

/// What exists by now.
struct Running<'a> {
    test: &'a SelfTest,
    client: Client,
    folder: PathBuf,
    /// Held until the folder is gone: one self-test per daemon.
    _lock: Flock<File>,
    token: String,
    registry: Option<Registry>,
    network: Option<TestNetwork>,
    image: Option<String>,
    pod: Option<String>,
    container: Option<String>,
}

/// Stages so far, and the one at hand.
struct Progress {
    stage: Stage,
    begun: Instant,
    steps: Vec<StepReport>,
}

impl Progress {
    /// Ends the stage at hand and begins the next.
    fn next(&mut self, stage: Stage) {
        let now = Instant::now();
        let duration = now.duration_since(self.begun);
        tracing::debug!(stage = %self.stage, ?duration, "self-test");
        self.steps.push(StepReport {
            stage: self.stage,
            duration,
        });
        (self.stage, self.begun) = (stage, now);
    }
}

pub(super) async fn run(test: &SelfTest) -> Result<Report, SelfTestError> {
    let mut progress = Progress {
        stage: Stage::Connect,
        begun: Instant::now(),
        steps: Vec::new(),
    };
    let failed = |stage, source, leftovers| SelfTestError {
        stage,
        source,
        leftovers,
    };
    let mut running = match begin(test).await {
        Ok(running) => running,
        Err(source) => return Err(failed(progress.stage, source, Vec::new())),
    };
    let outcome = running.stages(&mut progress).await;
    if outcome.is_ok() {
        progress.next(Stage::CleanUp);
    }
    let leftovers = running.clean_up().await;
    match outcome {
        Err(source) => Err(failed(progress.stage, source, leftovers)),
        Ok(_) if !leftovers.is_empty() => {
            let source = Cause::Unexpected {
                what: "remove what the self-test made".to_owned(),
                expected: "nothing left".to_owned(),
                got: format!("{} things that stayed", leftovers.len()),
            };
            Err(failed(Stage::CleanUp, source, leftovers))
        }
        Ok(pod_ip) => {
            progress.next(Stage::CleanUp);
            Ok(Report {
                steps: progress.steps,
                pod_ip: pod_ip.to_string(),
            })
        }
    }
}

/// Connects, takes the folder, and removes what a killed run left.
async fn begin(test: &SelfTest) -> Result<Running<'_>, Cause> {
    let client = Client::connect(&test.socket, test.limit).await?;
    verify::health(&client, &test.socket)
        .await?
        .require(false)?;
    let folder = test.runroot.join(FOLDER);
    let lock = take(&folder)?;
    let mut seed = [0; 4];
    getrandom::fill(&mut seed)
        .map_err(|e| act("read random bytes", io::Error::other(e.to_string())))?;
    let running = Running {
        test,
        client,
        folder,
        _lock: lock,
        token: hex::encode(seed),
        registry: None,
        network: None,
        image: None,
        pod: None,
        container: None,
    };
    match running.heal().await {
        Ok(()) => Ok(running),
        Err(e) => {
            // Only if it is empty: what an earlier run wrote there names its bridge.
            let _ = fs::remove_dir(&running.folder);
            Err(e)
        }
    }
}

/// Makes and locks the folder.
fn take(folder: &Path) -> Result<Flock<File>, Cause> {
    let busy = || Cause::Busy {
        folder: folder.to_owned(),
    };
    let failed = |source| act(format!("lock `{}`", folder.display()), source);
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(failed(e)),
        _ => {}
    }
    let file = File::open(folder).map_err(failed)?;
    let lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Err((_, Errno::EWOULDBLOCK)) => return Err(busy()),
        other => other.map_err(|(_, e)| failed(e.into()))?,
    };
    // Another run may have removed the folder between our opening and our locking of it.
    let ours = lock.metadata().map_err(failed)?.ino();
    match fs::metadata(folder) {
        Ok(there) if there.ino() == ours => Ok(lock),
        _ => Err(busy()),
    }
}

fn act(act: impl Into<String>, source: io::Error) -> Cause {
    Cause::Io {
        act: act.into(),
        source,
    }
}

fn expect<T: PartialEq + std::fmt::Debug>(what: &str, expected: T, got: T) -> Result<(), Cause> {
    if expected == got {
        return Ok(());
    }
    Err(Cause::Unexpected {
        what: what.to_owned(),
        expected: format!("{expected:?}"),
        got: format!("{got:?}"),
    })
}

impl Running<'_> {
    /// Returns the pod's address.
    async fn stages(&mut self, progress: &mut Progress) -> Result<IpAddr, Cause> {
        self.step(progress, Stage::Prepare)?;
        let reference = self.prepare().await?;
        self.step(progress, Stage::Pull)?;
        self.pull(&reference).await?;
        self.step(progress, Stage::Pod)?;
        let ip = self.start_pod().await?;
        self.step(progress, Stage::Container)?;
        let container = self.start_container(&reference).await?;
        self.step(progress, Stage::Network)?;
        self.talk(ip).await?;
        self.step(progress, Stage::Exec)?;
        self.exec(&container).await?;
        self.step(progress, Stage::Stop)?;
        self.stop(&container).await?;
        Ok(ip)
    }

    fn step(&self, progress: &mut Progress, stage: Stage) -> Result<(), Cause> {
        if self.test.cancel.is_cancelled() {
            return Err(Cause::Cancelled);
        }
        progress.next(stage);
        Ok(())
    }

    fn logs(&self) -> PathBuf {
        self.folder.join("logs")
    }

    async fn prepare(&mut self) -> Result<String, Cause> {
        let exe = &self.test.exe;
        let image = image::build(exe, &self.token)
            .map_err(|e| act(format!("make an image of `{}`", exe.display()), e))?;
        let registry = Registry::start(image, &self.token)
            .await
            .map_err(|e| act("serve the image on loopback", e))?;
        let reference = registry.reference();
        self.registry = Some(registry);
        let logs = self.logs();
        fs::create_dir_all(&logs).map_err(|e| act(format!("make `{}`", logs.display()), e))?;
        let seed = u32::from_str_radix(&self.token, 16).unwrap_or_default();
        let network = network::prepare(&self.folder, &self.test.cni_version, seed)?;
        tracing::debug!(%reference, bridge = network.bridge, subnet = %network.subnet, "prepared");
        self.network = Some(network);
        Ok(reference)
    }

    async fn pull(&mut self, reference: &str) -> Result<(), Cause> {
        // Before the answer: a pull that is given up may still succeed in the daemon.
        self.image = Some(reference.to_owned());
        let limit = self.test.limit;
        let pulled = timeout(limit, self.client.pull_image(reference, None)).await;
        let id = pulled.map_err(|_| too_slow("the image was not pulled", limit))??;
        let status = self.client.image_status(reference, false).await?;
        expect("the image's id", Some(id), status.image.map(|i| i.id))
    }

    async fn start_pod(&mut self) -> Result<IpAddr, Cause> {
        let config = pod::sandbox(&self.token, &self.logs());
        let id = self.client.run_pod_sandbox(config, "").await?;
        self.pod = Some(id.clone());
        let status = self.client.pod_sandbox_status(&id, false).await?.status;
        let text = status
            .and_then(|s| s.network)
            .map(|n| n.ip)
            .unwrap_or_default();
        let subnet = self.network.as_ref().map(|n| n.subnet);
        let inside = |ip: &IpAddr| match (ip, &subnet) {
            (IpAddr::V4(ip), Some(subnet)) => subnet.contains(ip),
            _ => false,
        };
        text.parse().ok().filter(inside).ok_or(Cause::Unexpected {
            what: "the pod's address".to_owned(),
            expected: subnet.map_or_else(String::new, |s| format!("one of {s}")),
            got: format!("`{text}`"),
        })
    }

    async fn start_container(&mut self, reference: &str) -> Result<String, Cause> {
        let pod = self.pod.clone().unwrap_or_default();
        let sandbox = pod::sandbox(&self.token, &self.logs());
        let config = pod::container(reference);
        let id = self.client.create_container(&pod, config, sandbox).await?;
        self.container = Some(id.clone());
        self.client.start_container(&id).await?;
        let path = self.logs().join(pod::LOG);
        let limit = self.test.limit;
        match log::wait_for(&path, peer::READY, limit).await {
            Ok(true) => Ok(id),
            Ok(false) => Err(too_slow("the container's first line was not logged", limit)),
            Err(source) => Err(Cause::Log { path, source }),
        }
    }

    /// A question by TCP, and its answer.
    async fn talk(&self, ip: IpAddr) -> Result<(), Cause> {
        let limit = self.test.limit.min(Duration::from_secs(10));
        let question = format!("question {}", self.token);
        let talk = async {
            let mut stream = TcpStream::connect((ip, peer::PORT)).await?;
            stream.write_all(format!("{question}\n").as_bytes()).await?;
            let mut answer = Vec::new();
            stream.take(4096).read_to_end(&mut answer).await?;
            Ok(String::from_utf8_lossy(&answer).into_owned())
        };
        let answer = timeout(limit, talk)
            .await
            .map_err(|_| too_slow(&format!("no answer from {ip}:{}", peer::PORT), limit))?
            .map_err(|e: io::Error| act(format!("talk to {ip}:{} by tcp", peer::PORT), e))?;
        let expected: String = question.chars().rev().collect();
        expect("the pod's answer", expected + "\n", answer)
    }

    async fn exec(&self, container: &str) -> Result<(), Cause> {
        let words = [image::PROGRAM, "selftest-peer", "probe", &self.token];
        let command = words.map(str::to_owned).to_vec();
        let limit = Some(self.test.limit);
        let output = self.client.exec_sync(container, command, limit).await?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let reverse: String = self.token.chars().rev().collect();
        expect(
            "the command's stdout",
            format!("{}\n", self.token),
            text(&output.stdout),
        )?;
        expect(
            "the command's stderr",
            format!("{reverse}\n"),
            text(&output.stderr),
        )?;
        expect(
            "the command's exit code",
            i32::from(peer::PROBED),
            output.exit_code,
        )
    }

    async fn stop(&self, container: &str) -> Result<(), Cause> {
        self.client.stop_container(container, GRACE).await?;
        let status = self.client.container_status(container, false).await?.status;
        let status = status.unwrap_or_default();
        expect(
            "the container's state",
            ContainerState::ContainerExited,
            status.state(),
        )?;
        expect(
            "the container's exit code",
            i32::from(peer::STOPPED),
            status.exit_code,
        )?;
        // Once the exit is told, the log is complete.
        let path = self.logs().join(pod::LOG);
        let lines = log::lines(&path).map_err(|source| Cause::Log {
            path: path.clone(),
            source,
        })?;
        let expected = vec![
            (Stream::Stdout, peer::READY.to_owned()),
            (Stream::Stderr, peer::STOPPING.to_owned()),
        ];
        expect("the container's log", expected, lines)
    }

    /// Removes everything, in reverse; returns what failed.
    async fn clean_up(&mut self) -> Vec<String> {
        let mut failed = Vec::new();
        let client = &self.client;
        if let Some(id) = self.container.take() {
            let removed = async {
                client.stop_container(&id, Duration::ZERO).await?;
                client.remove_container(&id).await
            };
            note(&mut failed, "the container", removed.await);
        }
        // By the label, not by the id: a pod whose answer never came is among them.
        note(&mut failed, "the pod", self.remove_pods().await);
        if let Some(reference) = self.image.take() {
            let removed = client.remove_image(&reference).await;
            note(&mut failed, "the image", removed);
            match client.image_status(&reference, false).await {
                Ok(status) if status.image.is_none() => {}
                Ok(_) => failed.push(format!("the image: `{reference}` is still listed")),
                Err(e) => failed.push(format!("the image: {e}")),
            }
        }
        self.registry = None;
        if let Some(network) = self.network.take() {
            let removed = network::remove_bridge(&network.bridge);
            note(
                &mut failed,
                &format!("the bridge `{}`", network.bridge),
                removed,
            );
        }
        let removed = remove_tree(&self.test.runroot, Path::new(FOLDER));
        note(
            &mut failed,
            &format!("`{}`", self.folder.display()),
            removed,
        );
        failed
    }

    /// Stops and removes every pod of a self-test, and sees that none is listed any more.
    async fn remove_pods(&self) -> Result<(), Cause> {
        let marked = || {
            let label_selector = HashMap::from([(pod::MARK.to_owned(), "true".to_owned())]);
            Some(PodSandboxFilter {
                label_selector: label_selector.into_iter().collect(),
                ..Default::default()
            })
        };
        for found in self.client.list_pod_sandboxes(marked()).await? {
            self.client.stop_pod_sandbox(&found.id).await?;
            self.client.remove_pod_sandbox(&found.id).await?;
        }
        let left = self.client.list_pod_sandboxes(marked()).await?;
        expect("pods of the self-test", 0, left.len())
    }

    /// Removes what a killed run left: pods, images, its bridge, its files.
    async fn heal(&self) -> Result<(), Cause> {
        self.remove_pods().await?;
        for image in self.client.list_images(None).await? {
            let ours = |tag: &String| {
                tag.starts_with("127.0.0.1:") && tag.contains(&format!("/{REPOSITORY}:"))
            };
            if !image.repo_tags.is_empty() && image.repo_tags.iter().all(ours) {
                self.client.remove_image(&image.id).await?;
            }
        }
        if let Some(bridge) = network::left_behind(&self.folder) {
            network::remove_bridge(&bridge)
                .map_err(|e| act(format!("remove the bridge `{bridge}` of an earlier run"), e))?;
        }
        for name in ["net.d", "leases", "logs"] {
            remove_tree(&self.folder, Path::new(name))
                .map_err(|e| act(format!("remove `{}`", self.folder.join(name).display()), e))?;
        }
        Ok(())
    }
}

fn too_slow(what: &str, limit: Duration) -> Cause {
    Cause::TooSlow {
        what: what.to_owned(),
        limit,
    }
}

/// Notes an error on the way back, with its cause.
fn note<E: std::error::Error>(failed: &mut Vec<String>, what: &str, done: Result<(), E>) {
    if let Err(e) = done {
        let cause = e.source().map_or_else(String::new, |s| format!(": {s}"));
        tracing::debug!(what, error = %e, "self-test, clean-up");
        failed.push(format!("{what}: {e}{cause}"));
    }
}
