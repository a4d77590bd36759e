//! `ocic pod ...`, and the verbs about pods that crictl has.

use std::path::Path;

use crate::cri::v1::{PodSandboxFilter, PodSandboxState, PodSandboxStateValue};
use crate::ocic::client::Client;

use super::args::named::{ManyPods, SomePods};
use super::args::pod::{Handler, PodList, PodState, PodVerb, Rmp, Runp};
use super::resolve::{Kind, resolve, resolve_any};
use super::{Failure, Session, show};

pub async fn run(session: &Session<'_>, verb: &PodVerb) -> Result<(), Failure> {
    match verb {
        PodVerb::Create { config, handler } => create(session, config, handler).await,
        PodVerb::List(args) => list(session, args).await,
        PodVerb::Status { pod, verbose } => {
            let client = session.client().await?;
            let id = resolve(&client, Kind::Pod, pod.get()).await?;
            let answer = client.pod_sandbox_status(&id, *verbose).await?;
            session.show(&answer, || show::pod(&answer))
        }
        PodVerb::Stop(pods) => {
            let client = session.client().await?;
            stop_each(session, &client, pods.get()).await
        }
        PodVerb::Remove(pods) => {
            let client = session.client().await?;
            remove_each(session, &client, pods.get()).await
        }
    }
}

pub async fn runp(session: &Session<'_>, args: &Runp) -> Result<(), Failure> {
    create(session, &args.config, &args.handler).await
}

async fn create(session: &Session<'_>, config: &Path, handler: &Handler) -> Result<(), Failure> {
    let sandbox = session.sandbox(config)?;
    let client = session.client().await?;
    let id = client.run_pod_sandbox(sandbox, &handler.runtime).await?;
    session.made("pod_sandbox_id", &id)
}

pub async fn list(session: &Session<'_>, args: &PodList) -> Result<(), Failure> {
    let client = session.client().await?;
    let state = args.state.map(|state| PodSandboxStateValue {
        state: wanted(state) as i32,
    });
    let filter = PodSandboxFilter {
        id: resolve_any(&client, Kind::Pod, args.id.as_deref()).await?,
        state,
        label_selector: args.common.labels.iter().cloned().collect(),
    };
    let mut pods = client.list_pod_sandboxes(Some(filter)).await?;
    pods.retain(|pod| {
        let metadata = pod.metadata.clone().unwrap_or_default();
        let named = args.name.as_ref().is_none_or(|n| metadata.name.contains(n));
        let spaced = args.namespace.as_ref();
        named && spaced.is_none_or(|namespace| metadata.namespace == *namespace)
    });
    pods.sort_by_key(|pod| std::cmp::Reverse(pod.created_at));
    pods.truncate(args.common.count());
    if args.common.quiet {
        return session.ids(pods.iter().map(|pod| pod.id.as_str()));
    }
    session.answer("items", &pods, || show::pods(&pods))
}

pub async fn inspect(session: &Session<'_>, pods: &ManyPods) -> Result<(), Failure> {
    let client = session.client().await?;
    let look = async |given: &str| {
        let id = resolve(&client, Kind::Pod, given).await?;
        Ok(client.pod_sandbox_status(&id, true).await?)
    };
    session.inspect(pods.get(), look, show::pod).await
}

pub async fn stop(session: &Session<'_>, pods: &SomePods) -> Result<(), Failure> {
    let client = session.client().await?;
    let given = chosen(&client, pods).await?;
    stop_each(session, &client, given).await
}

pub async fn remove(session: &Session<'_>, args: &Rmp) -> Result<(), Failure> {
    let client = session.client().await?;
    let given = chosen(&client, &args.pods).await?;
    if args.force {
        return remove_each(session, &client, given).await;
    }
    let act = async |client: &Client, id: &str| {
        let id = id.to_owned();
        let filter = PodSandboxFilter {
            id: id.clone(),
            ..Default::default()
        };
        let found = client.list_pod_sandboxes(Some(filter)).await?;
        let ready = found.iter().find(|pod| pod.id == id);
        if ready.is_some_and(|pod| pod.state == PodSandboxState::SandboxReady as i32) {
            let kind = Kind::Pod;
            return Err(Failure::Alive { kind, id });
        }
        client.remove_pod_sandbox(&id).await.map_err(Failure::from)
    };
    session.each(&client, Kind::Pod, given, act).await
}

async fn chosen(client: &Client, pods: &SomePods) -> Result<Vec<String>, Failure> {
    if !pods.all {
        return Ok(pods.get());
    }
    let all = client.list_pod_sandboxes(None).await?;
    Ok(all.into_iter().map(|pod| pod.id).collect())
}

async fn stop_each(
    session: &Session<'_>,
    client: &Client,
    given: Vec<String>,
) -> Result<(), Failure> {
    let act = async |client: &Client, id: &str| client.stop_pod_sandbox(id).await;
    session.each(client, Kind::Pod, given, act).await
}

async fn remove_each(
    session: &Session<'_>,
    client: &Client,
    given: Vec<String>,
) -> Result<(), Failure> {
    let act = async |client: &Client, id: &str| client.remove_pod_sandbox(id).await;
    session.each(client, Kind::Pod, given, act).await
}

fn wanted(state: PodState) -> PodSandboxState {
    match state {
        PodState::Ready => PodSandboxState::SandboxReady,
        PodState::Notready => PodSandboxState::SandboxNotready,
    }
}
