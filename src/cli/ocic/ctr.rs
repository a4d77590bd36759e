//! `ocic ctr ...`

use std::fs::File;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::cri::v1::{
    ContainerFilter, ContainerState, ContainerStateValue, LinuxPodSandboxConfig,
    LinuxSandboxSecurityContext, PodSandboxConfig,
};
use crate::ocic::client::{Client, ClientError};
use crate::ocic::config;
use crate::ocic::json::Subject;
use crate::ocic::logs::{self, Stream};

use super::args::{CtrState, CtrVerb};
use super::resolve::{Kind, resolve};
use super::{Failure, Session, show};

pub async fn run(session: &Session<'_>, verb: &CtrVerb) -> Result<ExitCode, Failure> {
    match verb {
        CtrVerb::Create {
            pod,
            config,
            image,
            sandbox_config,
            no_pull,
        } => {
            let bytes = config::read(config)?;
            let origin = config.to_string_lossy();
            let parsed = config::container(&origin, &bytes, image.as_deref())?;
            session.warn_unknown(config, &parsed.unknown);
            let sandbox = match sandbox_config {
                Some(path) => Some(read_sandbox(session, path)?),
                None => None,
            };
            let client = session.client().await?;
            let pod = resolve(&client, Kind::Pod, pod).await?;
            let sandbox = match sandbox {
                Some(sandbox) => sandbox,
                None => config_of(&client, &pod).await?,
            };
            let image = parsed.config.image.as_ref().map_or("", |spec| &spec.image);
            if !no_pull {
                pull_missing(session, &client, image).await?;
            }
            let id = client
                .create_container(&pod, parsed.config, sandbox)
                .await?;
            session.made("container_id", &id)?;
        }
        CtrVerb::Start(containers) => {
            let act = async |client: &Client, id: &str| client.start_container(id).await;
            session.each(Kind::Container, containers, act).await?;
        }
        CtrVerb::List {
            id,
            pod,
            state,
            common,
        } => {
            let client = session.client().await?;
            let whole = async |kind, given: &Option<String>| match given {
                Some(given) => resolve(&client, kind, given).await,
                None => Ok(String::new()),
            };
            let filter = ContainerFilter {
                id: whole(Kind::Container, id).await?,
                pod_sandbox_id: whole(Kind::Pod, pod).await?,
                state: state.map(|state| ContainerStateValue {
                    state: wanted(state) as i32,
                }),
                label_selector: common.labels.iter().cloned().collect(),
            };
            let mut all = client.list_containers(Some(filter)).await?;
            all.sort_by_key(|container| std::cmp::Reverse(container.created_at));
            if common.quiet {
                session.ids(all.iter().map(|container| container.id.as_str()))?;
            } else {
                let table = || show::containers(&all);
                session.answer(Subject::Container, "containers", &all, table)?;
            }
        }
        CtrVerb::Status { container, verbose } => {
            let client = session.client().await?;
            let id = resolve(&client, Kind::Container, container.get()).await?;
            let answer = client.container_status(&id, *verbose).await?;
            session.show(Subject::Container, &answer, || show::container(&answer))?;
        }
        CtrVerb::Stop {
            containers,
            timeout,
        } => {
            let act = async |client: &Client, id: &str| client.stop_container(id, *timeout).await;
            session.each(Kind::Container, containers, act).await?;
        }
        CtrVerb::Remove(containers) => {
            let act = async |client: &Client, id: &str| client.remove_container(id).await;
            session.each(Kind::Container, containers, act).await?;
        }
        CtrVerb::Execsync {
            id,
            timeout,
            command,
        } => {
            let client = session.client().await?;
            let id = resolve(&client, Kind::Container, id).await?;
            let answer = client.exec_sync(&id, command.clone(), *timeout).await?;
            session.streams(&answer)?;
            let code = u8::try_from(answer.exit_code).unwrap_or(1);
            return Ok(ExitCode::from(code));
        }
        CtrVerb::Logs {
            container,
            tail,
            timestamps,
        } => {
            let client = session.client().await?;
            let id = resolve(&client, Kind::Container, container.get()).await?;
            let path = log_path(&client, &id).await?;
            let options = logs::Options {
                tail: *tail,
                timestamps: *timestamps,
            };
            print_log(session, &path, options)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn read_sandbox(session: &Session<'_>, path: &Path) -> Result<PodSandboxConfig, Failure> {
    let bytes = config::read(path)?;
    let parsed = config::sandbox(&path.to_string_lossy(), &bytes)?;
    session.warn_unknown(path, &parsed.unknown);
    Ok(parsed.config)
}

/// As much of a pod's config as its status tells. CreateContainer wants it repeated; what is not in
/// it here (the log folder, the cgroup) the daemon keeps from the pod's creation.
async fn config_of(client: &Client, pod: &str) -> Result<PodSandboxConfig, Failure> {
    let answer = client.pod_sandbox_status(pod, false).await?;
    let status = answer.status.ok_or(ClientError::Incomplete {
        rpc: "PodSandboxStatus",
        field: "status",
    })?;
    let namespaces = status.linux.and_then(|linux| linux.namespaces);
    Ok(PodSandboxConfig {
        metadata: status.metadata,
        labels: status.labels,
        annotations: status.annotations,
        linux: Some(LinuxPodSandboxConfig {
            security_context: Some(LinuxSandboxSecurityContext {
                namespace_options: namespaces.and_then(|namespaces| namespaces.options),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    })
}

async fn pull_missing(session: &Session<'_>, client: &Client, image: &str) -> Result<(), Failure> {
    if client.image_status(image, false).await?.image.is_none() {
        let note = format!("image `{image}` is not in the store: pulling it");
        session.output.note(&note);
        session.pull(client, image).await?;
    }
    Ok(())
}

async fn log_path(client: &Client, id: &str) -> Result<PathBuf, Failure> {
    let answer = client.container_status(id, false).await?;
    let status = answer.status.ok_or(ClientError::Incomplete {
        rpc: "ContainerStatus",
        field: "status",
    })?;
    if status.log_path.is_empty() {
        return Err(Failure::NoLog { id: id.to_owned() });
    }
    Ok(PathBuf::from(status.log_path))
}

fn print_log(session: &Session<'_>, path: &Path, options: logs::Options) -> Result<(), Failure> {
    let failed = |source| Failure::Log {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(|e| failed(logs::LogError::Read(e)))?;
    let mut lines = Lines {
        session,
        stream: Stream::Stdout,
        waiting: Vec::new(),
    };
    let copied = logs::copy(BufReader::new(file), options, |stream, bytes| {
        lines.add(stream, bytes)
    });
    // What could be read is shown even when the rest cannot.
    let flushed = lines.flush();
    match copied {
        Err(logs::LogError::Write(source)) => Err(Failure::Output(source)),
        Err(other) => Err(failed(other)),
        Ok(()) => flushed.map_err(Failure::Output),
    }
}

/// Joins lines into larger writes, but never past a change of stream: where both are one terminal,
/// they appear in the log's order.
struct Lines<'a> {
    session: &'a Session<'a>,
    stream: Stream,
    waiting: Vec<u8>,
}

impl Lines<'_> {
    const ENOUGH: usize = 64 << 10;

    fn add(&mut self, stream: Stream, bytes: &[u8]) -> io::Result<()> {
        if stream != self.stream || self.waiting.len() > Self::ENOUGH {
            self.flush()?;
            self.stream = stream;
        }
        self.waiting.extend_from_slice(bytes);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        let output = self.session.output;
        let written = match self.stream {
            Stream::Stdout => output.bytes(&self.waiting),
            Stream::Stderr => output.error_bytes(&self.waiting),
        };
        self.waiting.clear();
        written
    }
}

fn wanted(state: CtrState) -> ContainerState {
    match state {
        CtrState::Created => ContainerState::ContainerCreated,
        CtrState::Running => ContainerState::ContainerRunning,
        CtrState::Exited => ContainerState::ContainerExited,
        CtrState::Unknown => ContainerState::ContainerUnknown,
    }
}
