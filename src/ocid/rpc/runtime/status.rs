//! Status.

use std::collections::HashMap;
use std::sync::Arc;

use crate::cri::v1::{
    RuntimeCondition, RuntimeFeatures, RuntimeHandler, RuntimeHandlerFeatures, RuntimeStatus,
    StatusRequest, StatusResponse,
};
use crate::ocid::daemon::Daemon;
use crate::ocid::error::Result;

pub async fn status(daemon: &Arc<Daemon>, request: StatusRequest) -> Result<StatusResponse> {
    let network = daemon.network.status().await;
    let condition = |kind: &str, status, reason: &str, message: &str| RuntimeCondition {
        r#type: kind.to_owned(),
        status,
        reason: reason.to_owned(),
        message: message.to_owned(),
    };
    let settings = daemon.settings();
    let runtime = match settings.handler("").map(|handler| handler.check()) {
        Ok(Ok(())) => condition("RuntimeReady", true, "", ""),
        Ok(Err(error)) => condition("RuntimeReady", false, "RuntimeMissing", &error.to_string()),
        Err(error) => condition("RuntimeReady", false, "NoRuntime", &error.to_string()),
    };
    let conditions = vec![
        runtime,
        condition(
            "NetworkReady",
            network.ready,
            &network.reason,
            &network.message,
        ),
    ];
    let mut handlers = Vec::new();
    // Kubelet looks for the default under the empty name.
    for name in std::iter::once("").chain(settings.handlers.keys().map(String::as_str)) {
        let facts = match settings.handler(name) {
            Ok(handler) => handler.facts().await.ok(),
            Err(_) => None,
        };
        handlers.push(RuntimeHandler {
            name: name.to_owned(),
            features: Some(RuntimeHandlerFeatures {
                recursive_read_only_mounts: facts.as_ref().is_some_and(|f| f.recursive_read_only),
                user_namespaces: facts.is_some_and(|facts| facts.user_namespaces),
            }),
        });
    }
    let mut info = HashMap::new();
    if request.verbose {
        let config = serde_json::json!({
            "root": daemon.root(),
            "runroot": daemon.runroot(),
            "defaultRuntime": settings.config.crio.runtime.default_runtime,
            "cgroupManager": format!("{:?}", daemon.config.cgroup_manager()).to_lowercase(),
            "networkDir": daemon.config.crio.network.network_dir,
            "pods": daemon.sandboxes.all().len(),
            "containers": daemon.containers.all().len(),
        });
        info.insert("config".to_owned(), config.to_string());
    }
    Ok(StatusResponse {
        status: Some(RuntimeStatus { conditions }),
        info,
        runtime_handlers: handlers,
        features: Some(RuntimeFeatures {
            supplemental_groups_policy: true,
            user_namespaces_host_network: false,
        }),
    })
}
