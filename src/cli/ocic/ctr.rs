//! `ocic ctr ...`, and the verbs about containers that crictl has.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use crate::cri::v1::{
    Container, ContainerConfig, ContainerFilter, ContainerState, ContainerStateValue,
    LinuxContainerResources, LinuxPodSandboxConfig, LinuxSandboxSecurityContext, PodSandboxConfig,
};
use crate::ocic::client::{Client, ClientError};
use crate::ocic::config;

use super::args::ctr::{
    Create, CreateArgs, CtrList, CtrState, CtrVerb, Limits, Ps, Rm, StopArgs, Update,
};
use super::args::named::{ManyContainers, SomeContainers};
use super::resolve::{Kind, resolve, resolve_any};
use super::{Failure, Session, image, logs, show};

pub async fn run(session: &Session<'_>, verb: &CtrVerb) -> Result<ExitCode, Failure> {
    match verb {
        CtrVerb::Create {
            pod,
            config,
            with,
            sandbox_config,
        } => make(session, pod, config, sandbox_config.as_deref(), with).await?,
        CtrVerb::Start(containers) => start(session, containers).await?,
        CtrVerb::List(args) => list(session, args, args.state).await?,
        CtrVerb::Status { container, verbose } => {
            let client = session.client().await?;
            let id = resolve(&client, Kind::Container, container.get()).await?;
            let answer = client.container_status(&id, *verbose).await?;
            session.show(&answer, || show::container(&answer))?;
        }
        CtrVerb::Stop(args) => stop(session, args).await?,
        CtrVerb::Remove(containers) => {
            let client = session.client().await?;
            remove_each(session, &client, containers.get()).await?;
        }
        CtrVerb::Execsync {
            id,
            timeout,
            command,
        } => return execsync(session, id, command, *timeout).await,
        CtrVerb::Logs(args) => logs::run(session, args).await?,
    }
    Ok(ExitCode::SUCCESS)
}

pub async fn create(session: &Session<'_>, args: &Create) -> Result<(), Failure> {
    let sandbox = args.sandbox_config.as_deref();
    make(session, &args.pod, &args.config, sandbox, &args.with).await
}

async fn make(
    session: &Session<'_>,
    pod: &str,
    config: &Path,
    sandbox: Option<&Path>,
    with: &CreateArgs,
) -> Result<(), Failure> {
    let config = read(session, config, with.image.as_deref())?;
    let sandbox = sandbox.map(|path| session.sandbox(path)).transpose()?;
    let client = session.client().await?;
    let pod = resolve(&client, Kind::Pod, pod).await?;
    let sandbox = match sandbox {
        Some(sandbox) => sandbox,
        None => config_of(&client, &pod).await?,
    };
    let image = config.image.as_ref().map_or("", |spec| &spec.image);
    if !with.no_pull {
        image::pull_missing(session, &client, image).await?;
    }
    let id = client.create_container(&pod, config, sandbox).await?;
    session.made("container_id", &id)
}

/// Reads a container's config.
pub fn read(
    session: &Session<'_>,
    path: &Path,
    image: Option<&str>,
) -> Result<ContainerConfig, Failure> {
    let bytes = config::read(path)?;
    let parsed = config::container(&path.to_string_lossy(), &bytes, image)?;
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

pub async fn ps(session: &Session<'_>, args: &Ps) -> Result<(), Failure> {
    let common = &args.list.common;
    // Who asks for one state or for the newest means whatever it is.
    let all = args.all || common.latest || common.last.is_some() || args.list.id.is_some();
    let state = args.list.state.or((!all).then_some(CtrState::Running));
    list(session, &args.list, state).await
}

async fn list(
    session: &Session<'_>,
    args: &CtrList,
    state: Option<CtrState>,
) -> Result<(), Failure> {
    let client = session.client().await?;
    let filter = ContainerFilter {
        id: resolve_any(&client, Kind::Container, args.id.as_deref()).await?,
        pod_sandbox_id: resolve_any(&client, Kind::Pod, args.pod.as_deref()).await?,
        state: state.map(|state| ContainerStateValue {
            state: wanted(state) as i32,
        }),
        label_selector: args.common.labels.iter().cloned().collect(),
    };
    let mut all = client.list_containers(Some(filter)).await?;
    if let Some(name) = &args.name {
        all.retain(|container| {
            let metadata = container.metadata.as_ref();
            metadata.is_some_and(|metadata| metadata.name.contains(name))
        });
    }
    if let Some(image) = &args.image {
        let found = client.image_status(image, false).await?.image;
        let id = found.map(|image| image.id);
        all.retain(|container| runs(container, image, id.as_deref()));
    }
    all.sort_by_key(|container| std::cmp::Reverse(container.created_at));
    all.truncate(args.common.count());
    if args.common.quiet {
        return session.ids(all.iter().map(|container| container.id.as_str()));
    }
    session.answer("containers", &all, || show::containers(&all))
}

/// Whether a container runs the image that is called so, or that has this id. The image may have been removed.
fn runs(container: &Container, image: &str, id: Option<&str>) -> bool {
    let spec = container.image.clone().unwrap_or_default();
    let its = [
        &container.image_id,
        &container.image_ref,
        &spec.image,
        &spec.user_specified_image,
    ];
    its.into_iter()
        .any(|its| !its.is_empty() && (its == image || Some(its.as_str()) == id))
}

pub async fn inspect(session: &Session<'_>, containers: &ManyContainers) -> Result<(), Failure> {
    let client = session.client().await?;
    let look = async |given: &str| {
        let id = resolve(&client, Kind::Container, given).await?;
        Ok(client.container_status(&id, true).await?)
    };
    session
        .inspect(containers.get(), look, show::container)
        .await
}

pub async fn start(session: &Session<'_>, containers: &ManyContainers) -> Result<(), Failure> {
    let client = session.client().await?;
    let act = async |client: &Client, id: &str| client.start_container(id).await;
    session
        .each(&client, Kind::Container, containers.get(), act)
        .await
}

pub async fn stop(session: &Session<'_>, args: &StopArgs) -> Result<(), Failure> {
    let client = session.client().await?;
    let given = chosen(&client, &args.containers, Some(CtrState::Running)).await?;
    let act = async |client: &Client, id: &str| client.stop_container(id, args.timeout).await;
    session.each(&client, Kind::Container, given, act).await
}

pub async fn remove(session: &Session<'_>, args: &Rm) -> Result<(), Failure> {
    let client = session.client().await?;
    let given = chosen(&client, &args.containers, None).await?;
    if args.force {
        return remove_each(session, &client, given).await;
    }
    let act = async |client: &Client, id: &str| {
        let id = id.to_owned();
        let filter = ContainerFilter {
            id: id.clone(),
            ..Default::default()
        };
        let found = client.list_containers(Some(filter)).await?;
        let found = found.iter().find(|container| container.id == id);
        if found.is_some_and(|one| one.state == ContainerState::ContainerRunning as i32) {
            let kind = Kind::Container;
            return Err(Failure::Alive { kind, id });
        }
        client.remove_container(&id).await.map_err(Failure::from)
    };
    session.each(&client, Kind::Container, given, act).await
}

async fn remove_each(
    session: &Session<'_>,
    client: &Client,
    given: Vec<String>,
) -> Result<(), Failure> {
    let act = async |client: &Client, id: &str| client.remove_container(id).await;
    session.each(client, Kind::Container, given, act).await
}

/// The named ones, or all that are in `state`.
async fn chosen(
    client: &Client,
    containers: &SomeContainers,
    state: Option<CtrState>,
) -> Result<Vec<String>, Failure> {
    if !containers.all {
        return Ok(containers.get());
    }
    let filter = ContainerFilter {
        state: state.map(|state| ContainerStateValue {
            state: wanted(state) as i32,
        }),
        ..Default::default()
    };
    let all = client.list_containers(Some(filter)).await?;
    Ok(all.into_iter().map(|container| container.id).collect())
}

pub async fn execsync(
    session: &Session<'_>,
    given: &str,
    command: &[String],
    timeout: Option<Duration>,
) -> Result<ExitCode, Failure> {
    let client = session.client().await?;
    let id = resolve(&client, Kind::Container, given).await?;
    let answer = client.exec_sync(&id, command.to_vec(), timeout).await?;
    session.streams(&answer)?;
    let code = u8::try_from(answer.exit_code).unwrap_or(1);
    Ok(ExitCode::from(code))
}

pub async fn update(session: &Session<'_>, args: &Update) -> Result<(), Failure> {
    let resources = resources(&args.limits);
    let client = session.client().await?;
    let act = async |client: &Client, id: &str| {
        client
            .update_container_resources(id, resources.clone())
            .await
    };
    let given = args.containers.get();
    session.each(&client, Kind::Container, given, act).await
}

/// 0 and the empty text leave a limit as it is.
fn resources(limits: &Limits) -> LinuxContainerResources {
    LinuxContainerResources {
        cpu_period: limits.cpu_period.unwrap_or_default(),
        cpu_quota: limits.cpu_quota.unwrap_or_default(),
        cpu_shares: limits.cpu_shares.unwrap_or_default(),
        memory_limit_in_bytes: limits.memory.unwrap_or_default(),
        memory_swap_limit_in_bytes: limits.memory_swap.unwrap_or_default(),
        cpuset_cpus: limits.cpuset_cpus.clone().unwrap_or_default(),
        cpuset_mems: limits.cpuset_mems.clone().unwrap_or_default(),
        ..Default::default()
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
