//! ListMetricDescriptors.

use std::sync::Arc;

use crate::cri::v1::{
    ListMetricDescriptorsRequest, ListMetricDescriptorsResponse, MetricDescriptor,
};
use crate::ocid::daemon::Daemon;
use crate::ocid::error::Result;
use crate::ocid::stats::metrics::Description;

pub async fn list_metric_descriptors(
    daemon: &Arc<Daemon>,
    _: ListMetricDescriptorsRequest,
) -> Result<ListMetricDescriptorsResponse> {
    let convert = |of: Description| MetricDescriptor {
        name: of.name.to_owned(),
        help: of.help.to_owned(),
        label_keys: of.labels.into_iter().map(str::to_owned).collect(),
    };
    let descriptors = daemon.stats.descriptions().into_iter().map(convert);
    Ok(ListMetricDescriptorsResponse {
        descriptors: descriptors.collect(),
    })
}
