//! Asks the daemon how it is: CRI `Version` and `Status`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use crate::cri::v1::StatusResponse;
use crate::ocic::client::{Client, ClientError};

/// What the daemon says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Health {
    pub runtime_name: String,
    pub runtime_version: String,
    /// Of the CRI: `v1`.
    pub api_version: String,
    /// It can run containers.
    pub runtime: Condition,
    /// It can give a pod a network; false on a node whose cluster has not brought its own yet.
    pub network: Condition,
}

/// One of the conditions that the CRI requires in `Status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Condition {
    pub ready: bool,
    /// One word; empty when ready.
    pub reason: String,
    /// For people; empty when ready.
    pub message: String,
}

/// Why the daemon is not what it should be.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    #[error("ask the daemon on `{socket}`")]
    Ask {
        socket: PathBuf,
        source: ClientError,
    },
    #[error("ask the daemon on `{socket}`: start the async runtime")]
    Start {
        socket: PathBuf,
        source: std::io::Error,
    },
    #[error("the daemon on `{socket}` answers without the condition `{condition}`")]
    NoCondition {
        socket: PathBuf,
        condition: &'static str,
    },
    #[error("the daemon is not ready: {condition} is false ({}){}", .state.reason, said(.state))]
    NotReady {
        condition: &'static str,
        state: Condition,
    },
}

impl VerifyError {
    /// What helps.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Ask { source, .. } => source.hint(),
            Self::Start { .. } => None,
            Self::NoCondition { .. } => {
                Some("is this the socket of a CRI v1 daemon? see `ocic runtimeversion`".to_owned())
            }
            Self::NotReady { condition, .. } if *condition == NETWORK => Some(
                "see `ls /etc/cni/net.d /opt/cni/bin`; `crio-setup install` puts both right"
                    .to_owned(),
            ),
            Self::NotReady { .. } => Some("see `journalctl -u ocid`".to_owned()),
        }
    }
}

const RUNTIME: &str = "RuntimeReady";
const NETWORK: &str = "NetworkReady";

fn said(state: &Condition) -> String {
    if state.message.is_empty() {
        String::new()
    } else {
        format!(": {}", state.message)
    }
}

impl Health {
    /// The runtime must be ready, and the network where one was asked for.
    pub fn require(&self, network: bool) -> Result<(), VerifyError> {
        let asked = [
            (RUNTIME, &self.runtime, true),
            (NETWORK, &self.network, network),
        ];
        match asked
            .into_iter()
            .find(|(_, state, must)| *must && !state.ready)
        {
            Some((condition, state, _)) => Err(VerifyError::NotReady {
                condition,
                state: state.clone(),
            }),
            None => Ok(()),
        }
    }
}

/// Asks the daemon on this socket; `limit` bounds the connection and each of the two answers. For code
/// without an async runtime.
pub fn verify(socket: &Path, limit: Duration) -> Result<Health, VerifyError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| VerifyError::Start {
            socket: socket.to_owned(),
            source,
        })?
        .block_on(async {
            let ask = |source| VerifyError::Ask {
                socket: socket.to_owned(),
                source,
            };
            let client = Client::connect(socket, limit).await.map_err(ask)?;
            health(&client, socket).await
        })
}

/// The same over a connection that is there already.
pub(super) async fn health(client: &Client, socket: &Path) -> Result<Health, VerifyError> {
    let ask = |source| VerifyError::Ask {
        socket: socket.to_owned(),
        source,
    };
    let version = client.version().await.map_err(ask)?;
    let status = client.status(false).await.map_err(ask)?;
    let condition = |condition| {
        find(&status, condition).ok_or_else(|| VerifyError::NoCondition {
            socket: socket.to_owned(),
            condition,
        })
    };
    Ok(Health {
        runtime: condition(RUNTIME)?,
        network: condition(NETWORK)?,
        runtime_name: version.runtime_name,
        runtime_version: version.runtime_version,
        api_version: version.runtime_api_version,
    })
}

fn find(status: &StatusResponse, name: &str) -> Option<Condition> {
    let conditions = &status.status.as_ref()?.conditions;
    let found = conditions.iter().find(|c| c.r#type == name)?;
    Some(Condition {
        ready: found.status,
        reason: found.reason.clone(),
        message: found.message.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cri::v1::{RuntimeCondition, RuntimeStatus, VersionResponse};
    use crate::ocic::fake::FakeCri;

    const LIMIT: Duration = Duration::from_secs(20);

    fn condition(name: &str, status: bool) -> RuntimeCondition {
        RuntimeCondition {
            r#type: name.to_owned(),
            status,
            reason: if status { "" } else { "NetworkPluginNotReady" }.to_owned(),
            message: if status {
                ""
            } else {
                "no network in `/etc/cni/net.d`"
            }
            .to_owned(),
        }
    }

    fn scripted(conditions: Vec<RuntimeCondition>) -> FakeCri {
        let fake = FakeCri::start();
        fake.answer(
            "Version",
            VersionResponse {
                version: "0.1.0".to_owned(),
                runtime_name: "ocid".to_owned(),
                runtime_version: "0.1.0".to_owned(),
                runtime_api_version: "v1".to_owned(),
            },
        );
        let status = Some(RuntimeStatus { conditions });
        fake.answer(
            "Status",
            StatusResponse {
                status,
                ..Default::default()
            },
        );
        fake
    }

    async fn ask(fake: &FakeCri) -> Result<Health, VerifyError> {
        let socket = fake.socket().to_owned();
        tokio::task::spawn_blocking(move || verify(&socket, LIMIT))
            .await
            .unwrap()
    }

    #[tokio::test]
    async fn a_healthy_daemon() {
        let fake = scripted(vec![condition(RUNTIME, true), condition(NETWORK, true)]);
        let health = ask(&fake).await.unwrap();
        assert_eq!(
            (health.runtime_name.as_str(), health.api_version.as_str()),
            ("ocid", "v1")
        );
        health.require(true).unwrap();
    }

    #[tokio::test]
    async fn a_daemon_without_a_network() {
        let fake = scripted(vec![condition(RUNTIME, true), condition(NETWORK, false)]);
        let health = ask(&fake).await.unwrap();
        health.require(false).unwrap();
        let error = health.require(true).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the daemon is not ready: NetworkReady is false (NetworkPluginNotReady): \
             no network in `/etc/cni/net.d`"
        );
        assert!(error.hint().unwrap().contains("/etc/cni/net.d"));
    }

    #[tokio::test]
    async fn answers_that_tell_nothing() {
        let fake = scripted(vec![condition(RUNTIME, true)]);
        let error = ask(&fake).await.unwrap_err();
        assert!(error.to_string().contains("`NetworkReady`"), "{error}");
        let error = ask(&FakeCri::start()).await.unwrap_err();
        assert!(matches!(error, VerifyError::Ask { .. }), "{error:?}");
    }

    #[test]
    fn no_daemon() {
        let dir = tempfile::tempdir().unwrap();
        let error = verify(&dir.path().join("none.sock"), LIMIT).unwrap_err();
        assert!(error.to_string().contains("none.sock"), "{error}");
        assert!(error.hint().is_some());
    }
}
