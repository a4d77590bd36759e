//! `ocic pod ...`

use crate::cri::v1::{PodSandboxFilter, PodSandboxState, PodSandboxStateValue};
use crate::ocic::client::Client;
use crate::ocic::config;
use crate::ocic::json::Subject;

use super::args::{PodState, PodVerb};
use super::resolve::{Kind, resolve};
use super::{Failure, Session, show};

pub async fn run(session: &Session<'_>, verb: &PodVerb) -> Result<(), Failure> {
    match verb {
        PodVerb::Create { config, runtime } => {
            let bytes = config::read(config)?;
            let parsed = config::sandbox(&config.to_string_lossy(), &bytes)?;
            session.warn_unknown(config, &parsed.unknown);
            let client = session.client().await?;
            let id = client.run_pod_sandbox(parsed.config, runtime).await?;
            session.made("pod_sandbox_id", &id)
        }
        PodVerb::List { id, state, common } => {
            let client = session.client().await?;
            let id = match id {
                Some(given) => resolve(&client, Kind::Pod, given).await?,
                None => String::new(),
            };
            let state = state.map(|state| PodSandboxStateValue {
                state: wanted(state) as i32,
            });
            let filter = PodSandboxFilter {
                id,
                state,
                label_selector: common.labels.iter().cloned().collect(),
            };
            let mut pods = client.list_pod_sandboxes(Some(filter)).await?;
            pods.sort_by_key(|pod| std::cmp::Reverse(pod.created_at));
            if common.quiet {
                return session.ids(pods.iter().map(|pod| pod.id.as_str()));
            }
            session.answer(Subject::Pod, "items", &pods, || show::pods(&pods))
        }
        PodVerb::Status { pod, verbose } => {
            let client = session.client().await?;
            let id = resolve(&client, Kind::Pod, pod.get()).await?;
            let answer = client.pod_sandbox_status(&id, *verbose).await?;
            session.show(Subject::Pod, &answer, || show::pod(&answer))
        }
        PodVerb::Stop(pods) => {
            let act = async |client: &Client, id: &str| client.stop_pod_sandbox(id).await;
            session.each(Kind::Pod, pods, act).await
        }
        PodVerb::Remove(pods) => {
            let act = async |client: &Client, id: &str| client.remove_pod_sandbox(id).await;
            session.each(Kind::Pod, pods, act).await
        }
    }
}

fn wanted(state: PodState) -> PodSandboxState {
    match state {
        PodState::Ready => PodSandboxState::SandboxReady,
        PodState::Notready => PodSandboxState::SandboxNotready,
    }
}
