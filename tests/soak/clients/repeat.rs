//! What a client does about a call whose end it does not know.

use std::time::Duration;

use anyhow::Result;
use crio_setup::cri::v1::ContainerState;
use crio_setup::ocic::client::{Client, ClientError};
use tonic::Code;

use super::{CALL, Caller};
use crate::model::{Container, Pod};

impl Caller {
    /// After a call whose end is not known: it is repeated, as kubelet does, until it has one.
    pub(super) async fn resolve(&mut self) -> Result<()> {
        let client = self.client.with_limit(CALL);
        loop {
            match self.settle(&client).await {
                Ok(()) => break,
                Err(error) => {
                    let broken = matches!(
                        error.downcast_ref::<ClientError>(),
                        Some(
                            ClientError::Broken { .. }
                                | ClientError::Connect { .. }
                                | ClientError::TimedOut { .. }
                                | ClientError::Handshake { .. }
                                | ClientError::ConnectTimedOut { .. }
                        )
                    );
                    let unknown = error
                        .downcast_ref::<ClientError>()
                        .and_then(ClientError::code)
                        .is_some_and(|code| matches!(code, Code::Unknown | Code::Unavailable));
                    if !(broken || unknown) {
                        return Err(error.context(format!("the repeat, {:?}", self.model)));
                    }
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
        self.model.unsure = None;
        Ok(())
    }

    /// What is unsure is repeated if it was a making, and made an end of otherwise.
    async fn settle(&mut self, client: &Client) -> Result<()> {
        let Some(unsure) = self.model.unsure.clone() else {
            return Ok(());
        };
        if let Some(sandbox) = self.sandboxes.get(&unsure).cloned() {
            let id = client.run_pod_sandbox(sandbox, "").await?;
            let name = unsure;
            self.model.pods.insert(id, Pod { name, ready: true });
        } else if let Some((pod, config)) = self.configs.get(&unsure).cloned() {
            let brief = unsure
                .strip_prefix("brief")
                .and_then(|rest| rest.split('-').next()?.parse().ok());
            let sandbox = self.sandbox_of(&pod)?;
            let id = client.create_container(&pod, config, sandbox).await?;
            let container = Container {
                pod,
                name: unsure,
                state: ContainerState::ContainerCreated,
                brief,
            };
            self.model.containers.insert(id, container);
        } else if self.model.pods.contains_key(&unsure) {
            client.stop_pod_sandbox(&unsure).await?;
            client.remove_pod_sandbox(&unsure).await?;
            self.model.remove_pod(&unsure);
        } else {
            client.stop_container(&unsure, Duration::ZERO).await?;
            client.remove_container(&unsure).await?;
            self.model.containers.remove(&unsure);
        }
        Ok(())
    }
}
