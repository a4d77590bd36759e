//! UpdateRuntimeConfig.

use std::sync::Arc;

use ipnet::IpNet;

use crate::cri::v1::{UpdateRuntimeConfigRequest, UpdateRuntimeConfigResponse};
use crate::ocid::daemon::{Daemon, blocking};
use crate::ocid::error::{Error, Result};
use crate::ocid::failpoint::{self, Point};
use crate::ocid::field::FieldError;

/// Notes the node's pod subnets, as kubelet without a CNI daemon of the cluster's tells them. A request
/// that names none changes nothing.
pub async fn update_runtime_config(
    daemon: &Arc<Daemon>,
    request: UpdateRuntimeConfigRequest,
) -> Result<UpdateRuntimeConfigResponse> {
    let network = request.runtime_config.and_then(|c| c.network_config);
    let text = network.map(|network| network.pod_cidr).unwrap_or_default();
    if !text.is_empty() {
        let subnets = parse(&text).map_err(Error::from)?;
        tracing::info!(?subnets, "the node's pod subnets");
        let daemon = Arc::clone(daemon);
        blocking(move || {
            let written = daemon.subnets.set(subnets);
            written.map_err(Error::io("write", daemon.subnets.path()))
        })
        .await?;
        failpoint::pass(Point::ConfigWritten).await?;
    }
    Ok(UpdateRuntimeConfigResponse {})
}

/// One subnet, or one of each family with a comma between them.
fn parse(text: &str) -> std::result::Result<Vec<IpNet>, FieldError> {
    let field = "runtime_config.network_config.pod_cidr";
    let mut subnets: Vec<IpNet> = Vec::new();
    for part in text.split(',').map(str::trim) {
        let problem = || FieldError::new(field, format!("has `{part}`, which is no subnet"));
        let subnet: IpNet = part.parse().map_err(|_| problem())?;
        let same = |known: &IpNet| known.addr().is_ipv4() == subnet.addr().is_ipv4();
        if subnets.iter().any(same) {
            let problem = format!("has `{part}`, a second subnet of its address family");
            return Err(FieldError::new(field, problem));
        }
        subnets.push(subnet.trunc());
    }
    Ok(subnets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_subnet_of_each_family() {
        let text = |text: &str| {
            parse(text).map(|nets| nets.iter().map(IpNet::to_string).collect::<Vec<_>>())
        };
        assert_eq!(text("10.1.2.3/24").unwrap(), ["10.1.2.0/24"]);
        assert_eq!(
            text("10.1.0.0/16, fd00::/64").unwrap(),
            ["10.1.0.0/16", "fd00::/64"]
        );
        for bad in [
            "10.1.2.3",
            "10.0.0.0/33",
            "x",
            "10.0.0.0/8,",
            "10.0.0.0/8,11.0.0.0/8",
        ] {
            let e = text(bad).unwrap_err();
            assert_eq!(e.field, "runtime_config.network_config.pod_cidr", "{bad}");
        }
    }
}
