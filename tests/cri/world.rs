//! A machine with the daemon up, an image in its store, and a client; short ways to the usual calls.

// Tests come and go, and each needs some of it.
#![allow(dead_code)]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use crio_setup::cri::v1;
use crio_setup::ocic::client::{Client, ClientError};
use nix::sys::signal::Signal;
use serde_json::json;

use crate::support::Machine;
use crate::support::image::{Compression, Image, Layer, assemble};
use crate::support::node::{Daemon, configure};
use crate::support::registry::Registry;
use crate::support::snapshot::Snapshot;

/// How long anything may take that is not a wait by its nature.
pub const LIMIT: Duration = Duration::from_secs(30);

/// What the image's shell runs; it finds its applets without looking at PATH, exec needs links.
const APPLETS: [&str; 40] = [
    "sh",
    "cat",
    "echo",
    "id",
    "sleep",
    "ls",
    "mkfifo",
    "true",
    "false",
    "env",
    "pwd",
    "touch",
    "rm",
    "mkdir",
    "mount",
    "umount",
    "hostname",
    "ip",
    "nc",
    "ps",
    "grep",
    "head",
    "tail",
    "seq",
    "stat",
    "dd",
    "kill",
    "sysctl",
    "df",
    "wc",
    "tr",
    "yes",
    "readlink",
    "chmod",
    "chown",
    "mknod",
    "cp",
    "printf",
    "stty",
    "sha256sum",
];

/// Dropped in this order: what was started on the machine is gone before the machine goes.
pub struct World {
    daemon: Option<Daemon>,
    pub registry: Registry,
    pub machine: Machine,
    /// The reference of [`busybox`], already pulled.
    pub image: String,
    pub client: Client,
    before: Option<Snapshot>,
}

impl World {
    /// A node with the defaults of [`configure`].
    pub async fn start() -> Result<Self> {
        Self::with(&[]).await
    }

    /// A node with more files on it before the daemon starts: pairs of path and content, such as a
    /// drop-in `/etc/ocid/ocid.conf.d/10-test.conf`.
    pub async fn with(files: &[(&str, &str)]) -> Result<Self> {
        Self::on(Machine::start()?, files).await
    }

    /// The same on a machine of the caller's.
    pub async fn on(machine: Machine, files: &[(&str, &str)]) -> Result<Self> {
        configure(&machine)?;
        for (path, content) in files {
            machine.write(path, content, 0o644)?;
        }
        let registry = Registry::start(&machine, 5000)?;
        let image = registry.push(&machine, "library/busybox", "1", &busybox(json!({}))?)?;
        let daemon = Daemon::start(&machine)?;
        let client = connect(&machine).await?;
        client.pull_image(&image, None).await?;
        let mut world = Self {
            machine,
            registry,
            image,
            client,
            daemon: Some(daemon),
            before: None,
        };
        // What the first pod brings for all of them (the bridge, its rules, folders) is no leak.
        let sandbox = world.pod_config("first");
        let pod = world.run_pod(&sandbox).await?;
        let config = world.container_config("first", &["true"]);
        world.run(&pod, &sandbox, config).await?;
        world.client.remove_pod_sandbox(&pod).await?;
        world.before = Some(Snapshot::take(&world.machine)?);
        Ok(world)
    }

    /// The daemon's socket as this process reaches it.
    pub fn socket(&self) -> PathBuf {
        self.machine.path("/run/ocid/ocid.sock")
    }

    pub fn daemon(&self) -> &Daemon {
        self.daemon.as_ref().expect("the daemon was ended")
    }

    /// Ends the daemon and waits until it is gone; clients of this process are not held up by that.
    pub async fn end_daemon_beside(&mut self, signal: Signal) -> Result<()> {
        let daemon = self.daemon.take().context("no daemon")?;
        tokio::task::spawn_blocking(move || daemon.end(signal)).await?
    }

    /// Ends the daemon and waits until it is gone.
    pub fn end_daemon(&mut self, signal: Signal) -> Result<()> {
        self.daemon.take().context("no daemon")?.end(signal)
    }

    /// Waits until the daemon has ended by itself.
    pub fn await_daemon(&mut self) -> Result<()> {
        self.daemon.take().context("no daemon")?.wait()
    }

    /// Starts the daemon after [`World::end_daemon`], and connects anew.
    pub async fn start_daemon(&mut self) -> Result<()> {
        self.start_daemon_with(&[]).await
    }

    /// The same with more in its environment.
    pub async fn start_daemon_with(&mut self, env: &[(&str, &str)]) -> Result<()> {
        self.daemon = Some(Daemon::start_with(&self.machine, env)?);
        self.client = connect(&self.machine).await?;
        Ok(())
    }

    pub async fn restart(&mut self, signal: Signal) -> Result<()> {
        self.end_daemon(signal)?;
        self.start_daemon().await
    }

    /// A pod of namespace `tests` with its logs in `/var/log/pods/NAME` and a PID namespace per container,
    /// as kubelet sets it.
    pub fn pod_config(&self, name: &str) -> v1::PodSandboxConfig {
        v1::PodSandboxConfig {
            metadata: Some(v1::PodSandboxMetadata {
                name: name.to_owned(),
                uid: format!("{name}-uid"),
                namespace: "tests".to_owned(),
                attempt: 0,
            }),
            log_directory: format!("/var/log/pods/{name}"),
            linux: Some(v1::LinuxPodSandboxConfig {
                security_context: Some(v1::LinuxSandboxSecurityContext {
                    namespace_options: Some(v1::NamespaceOption {
                        pid: v1::NamespaceMode::Container.into(),
                        ..Default::default()
                    }),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    /// A container that runs `command` from the test image and logs to `NAME.log`.
    pub fn container_config(&self, name: &str, command: &[&str]) -> v1::ContainerConfig {
        v1::ContainerConfig {
            metadata: Some(v1::ContainerMetadata {
                name: name.to_owned(),
                attempt: 0,
            }),
            image: Some(v1::ImageSpec {
                image: self.image.clone(),
                ..Default::default()
            }),
            command: command.iter().map(|&word| word.to_owned()).collect(),
            log_path: format!("{name}.log"),
            linux: Some(v1::LinuxContainerConfig::default()),
            ..Default::default()
        }
    }

    pub async fn run_pod(&self, config: &v1::PodSandboxConfig) -> Result<String, ClientError> {
        self.client.run_pod_sandbox(config.clone(), "").await
    }

    pub async fn create(
        &self,
        pod: &str,
        sandbox: &v1::PodSandboxConfig,
        config: v1::ContainerConfig,
    ) -> Result<String, ClientError> {
        self.client
            .create_container(pod, config, sandbox.clone())
            .await
    }

    /// Creates and starts a container.
    pub async fn up(
        &self,
        pod: &str,
        sandbox: &v1::PodSandboxConfig,
        config: v1::ContainerConfig,
    ) -> Result<String, ClientError> {
        let id = self.create(pod, sandbox, config).await?;
        self.client.start_container(&id).await?;
        Ok(id)
    }

    /// Runs `command` in a running container; its standard output, trimmed. It must end with 0.
    pub async fn exec(&self, id: &str, command: &[&str]) -> Result<String> {
        let words = command.iter().map(|&word| word.to_owned()).collect();
        let answer = self.client.exec_sync(id, words, Some(LIMIT)).await?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        ensure!(
            answer.exit_code == 0,
            "`{}` ended with {}: {} {}",
            command.join(" "),
            answer.exit_code,
            text(&answer.stdout),
            text(&answer.stderr)
        );
        Ok(text(&answer.stdout))
    }

    /// The same through `sh -c`.
    pub async fn shell(&self, id: &str, script: &str) -> Result<String> {
        self.exec(id, &["sh", "-c", script]).await
    }

    pub async fn status(&self, id: &str) -> Result<v1::ContainerStatus> {
        let answer = self.client.container_status(id, false).await?;
        answer.status.context("no status")
    }

    pub async fn pod_status(&self, id: &str) -> Result<v1::PodSandboxStatus> {
        let answer = self.client.pod_sandbox_status(id, false).await?;
        answer.status.context("no status")
    }

    /// The status of a container once it has ended.
    pub async fn ended(&self, id: &str) -> Result<v1::ContainerStatus> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let status = self.status(id).await?;
            if status.state() == v1::ContainerState::ContainerExited {
                return Ok(status);
            }
            ensure!(
                Instant::now() < deadline,
                "still not at its end: {status:?}"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Runs a container to its end; what it printed to standard output, and its status. It stays.
    pub async fn run(
        &self,
        pod: &str,
        sandbox: &v1::PodSandboxConfig,
        config: v1::ContainerConfig,
    ) -> Result<(String, v1::ContainerStatus)> {
        let id = self.up(pod, sandbox, config).await?;
        let status = self.ended(&id).await?;
        let log = std::fs::read_to_string(self.machine.path(&status.log_path))?;
        Ok((printed(&log), status))
    }

    /// Stops and removes every pod; then nothing may be there that was not there before the first.
    /// `expected` explains lines that may differ (see [`Snapshot::assert_as`]).
    pub async fn assert_clean(&self, expected: &[&str]) -> Result<()> {
        for pod in self.client.list_pod_sandboxes(None).await? {
            self.client.stop_pod_sandbox(&pod.id).await?;
            self.client.remove_pod_sandbox(&pod.id).await?;
        }
        let left = self.client.list_containers(None).await?;
        ensure!(left.is_empty(), "containers without a pod: {left:?}");
        let before = self.before.as_ref().context("no picture")?;
        // The logs are kubelet's, and a restarted daemon has another pid. A bridge's routes come and go
        // with its carrier.
        let mut usual = vec!["/var/log/pods", "/srv/under-test/ocid --debug", "dev cni0"];
        usual.extend(expected);
        Snapshot::take(&self.machine)?.assert_as(before, &usual)
    }
}

/// Waits for what no event tells of.
pub async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + LIMIT;
    while !holds().await? {
        ensure!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// A client of the machine's daemon.
pub async fn connect(machine: &Machine) -> Result<Client> {
    Ok(Client::connect(&machine.path("/run/ocid/ocid.sock"), LIMIT).await?)
}

/// The gRPC code that a call was refused with.
pub fn code<T: std::fmt::Debug>(answer: Result<T, ClientError>) -> Result<(tonic::Code, String)> {
    match answer {
        Ok(value) => anyhow::bail!("not refused: {value:?}"),
        Err(ClientError::Refused { status, .. }) => {
            Ok((status.code(), status.message().to_owned()))
        }
        Err(other) => Err(other.into()),
    }
}

/// What a CRI log says went to standard output, tags and times taken off.
pub fn printed(log: &str) -> String {
    let mut text = String::new();
    for line in log.lines() {
        let mut words = line.splitn(4, ' ');
        if let (Some(_), Some("stdout"), Some(tag), rest) =
            (words.next(), words.next(), words.next(), words.next())
        {
            text.push_str(rest.unwrap_or_default());
            if tag == "F" {
                text.push('\n');
            }
        }
    }
    text.trim_end().to_owned()
}

/// An image of the distribution's static busybox; `config` is the container part as Docker spells it.
pub fn busybox(config: serde_json::Value) -> Result<Image> {
    let mut layer = Layer::default();
    let bytes = std::fs::read("/bin/busybox")
        .context("read `/bin/busybox`; `apt-get install busybox-static` brings it")?;
    layer.file("/bin/busybox", 0o755, &bytes)?;
    for applet in APPLETS {
        layer.symlink(&format!("/bin/{applet}"), "busybox")?;
    }
    layer.folder("/tmp", 0o1777)?;
    layer.folder("/root", 0o700)?;
    layer.file(
        "/etc/passwd",
        0o644,
        b"root:x:0:0:root:/root:/bin/sh\nworker:x:1234:1235:a user:/home/worker:/bin/sh\n",
    )?;
    layer.file(
        "/etc/group",
        0o644,
        b"root:x:0:\nworker:x:1235:\nextra:x:4321:worker\n",
    )?;
    let mut whole = json!({ "Cmd": ["sh"], "Env": ["PATH=/bin"] });
    if let (Some(whole), Some(config)) = (whole.as_object_mut(), config.as_object()) {
        whole.extend(config.clone());
    }
    assemble(vec![layer.finish(Compression::Gzip)?], whole)
}
