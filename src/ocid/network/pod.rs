//! What plugins are told about a pod: `CNI_ARGS` and capabilities.

use std::collections::BTreeMap;
use std::path::PathBuf;

use ipnet::IpNet;
use serde_json::{Map, Value, json};

use super::NetworkError;
use super::bandwidth;
use super::conf::is_name;
use crate::ocid::sandbox::config::{Dns, PortMapping, SandboxConfig};

/// A pod, as its network sees it. The same for ADD and DEL.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodNetwork {
    pub sandbox_id: String,
    /// The pinned namespace.
    pub netns: PathBuf,
    pub name: String,
    pub namespace: String,
    pub uid: String,
    /// One with `host_port` 0 is no mapping, only a remark.
    pub port_mappings: Vec<PortMapping>,
    /// For plugins with the capability `dns`.
    pub dns: Option<Dns>,
    /// For plugins with the capability `io.kubernetes.cri.pod-annotations`; two of them are limits for
    /// plugins with the capability `bandwidth`.
    pub annotations: BTreeMap<String, String>,
    /// The node's pod subnets, one per address family, for plugins with the capability `ipRanges`.
    pub cidrs: Vec<IpNet>,
    /// A configuration folder of this pod's own instead of the machine's.
    pub conf: Option<PathBuf>,
}

impl PodNetwork {
    /// The pod of this configuration, on the machine's network.
    pub fn new(sandbox_id: &str, netns: PathBuf, config: &SandboxConfig) -> Self {
        Self {
            sandbox_id: sandbox_id.to_owned(),
            netns,
            name: config.metadata.name.clone(),
            namespace: config.metadata.namespace.clone(),
            uid: config.metadata.uid.clone(),
            port_mappings: config.port_mappings.clone(),
            dns: (config.dns != Dns::default()).then(|| config.dns.clone()),
            annotations: config.annotations.clone(),
            cidrs: Vec::new(),
            conf: None,
        }
    }

    /// What ADD refuses before any plugin has run, and so nothing that DEL has to undo.
    pub(super) fn check(&self) -> Result<(), NetworkError> {
        self.cni_args()?;
        bandwidth::limits(&self.annotations).map(|_| ())
    }

    /// `CNI_ARGS`: exactly these five, as CRI-O gives them; some plugins refuse any other. A value
    /// that would read as more arguments is refused.
    pub(super) fn cni_args(&self) -> Result<String, NetworkError> {
        let refuse = |field, value: &str, problem| NetworkError::Pod {
            field,
            value: value.to_owned(),
            problem,
        };
        if !is_name(&self.sandbox_id) {
            return Err(refuse("sandbox id", &self.sandbox_id, "is no container id"));
        }
        let mut args = "IgnoreUnknown=1".to_owned();
        for (key, field, value) in [
            ("K8S_POD_NAMESPACE", "namespace", &self.namespace),
            ("K8S_POD_NAME", "name", &self.name),
            ("K8S_POD_INFRA_CONTAINER_ID", "sandbox id", &self.sandbox_id),
            ("K8S_POD_UID", "uid", &self.uid),
        ] {
            if value.contains(|c: char| matches!(c, ';' | '=') || c.is_control()) {
                return Err(refuse(field, value, "cannot be given to network plugins"));
            }
            args.push_str(&format!(";{key}={value}"));
        }
        Ok(args)
    }

    /// Everything that a plugin could ask for by `capabilities` (CNI's CONVENTIONS.md).
    pub(super) fn capabilities(&self) -> Map<String, Value> {
        let mut all = Map::new();
        let ports = self.port_mappings.iter().filter(|p| p.host_port > 0);
        let ports: Vec<Value> = ports.map(host_port).collect();
        if !ports.is_empty() {
            all.insert("portMappings".to_owned(), Value::Array(ports));
        }
        if let Some(dns) = &self.dns {
            all.insert("dns".to_owned(), json!(dns));
        }
        if let Ok(Some(limits)) = bandwidth::limits(&self.annotations) {
            all.insert("bandwidth".to_owned(), limits);
        }
        if !self.cidrs.is_empty() {
            let range = |cidr: &IpNet| json!([{ "subnet": cidr }]);
            let ranges: Vec<Value> = self.cidrs.iter().map(range).collect();
            all.insert("ipRanges".to_owned(), Value::Array(ranges));
        }
        if !self.annotations.is_empty() {
            let key = "io.kubernetes.cri.pod-annotations";
            all.insert(key.to_owned(), json!(self.annotations));
        }
        all
    }
}

/// An entry of the capability `portMappings`.
fn host_port(mapping: &PortMapping) -> Value {
    let mut object = json!({
        "hostPort": mapping.host_port,
        "containerPort": mapping.container_port,
        "protocol": mapping.protocol.as_str(),
    });
    if let (Some(ip), Value::Object(object)) = (mapping.host_ip, &mut object) {
        object.insert("hostIP".to_owned(), json!(ip));
    }
    object
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ocid::sandbox::config::Protocol;

    fn pod() -> PodNetwork {
        PodNetwork {
            sandbox_id: "abc".to_owned(),
            name: "redis".to_owned(),
            namespace: "default".to_owned(),
            uid: "u-1".to_owned(),
            ..PodNetwork::default()
        }
    }

    #[test]
    fn cni_args_are_these_five() {
        assert_eq!(
            pod().cni_args().unwrap(),
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=redis;\
             K8S_POD_INFRA_CONTAINER_ID=abc;K8S_POD_UID=u-1"
        );
    }

    #[test]
    fn no_value_can_add_an_argument() {
        for bad in ["a;K8S_POD_NAME=b", "a=b", "a\nb"] {
            let mut pod = pod();
            pod.name = bad.to_owned();
            let e = pod.cni_args().unwrap_err().to_string();
            assert!(e.starts_with("pod name `"), "{e}");
        }
        for bad in ["", "../x", "a b"] {
            let mut pod = pod();
            pod.sandbox_id = bad.to_owned();
            assert!(pod.cni_args().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_limit_that_is_none_is_refused() {
        let mut pod = pod();
        pod.check().unwrap();
        let annotation = "kubernetes.io/egress-bandwidth";
        pod.annotations.insert(annotation.into(), "fast".into());
        let e = pod.check().unwrap_err().to_string();
        assert!(e.contains(annotation) && e.contains("`fast`"), "{e}");
    }

    #[test]
    fn capabilities_say_what_the_pod_has() {
        let mut pod = pod();
        assert!(pod.capabilities().is_empty());
        let remark = PortMapping {
            protocol: Protocol::Tcp,
            container_port: 80,
            host_port: 0,
            host_ip: None,
        };
        pod.port_mappings = vec![remark.clone()];
        assert!(pod.capabilities().is_empty());
        pod.port_mappings.push(PortMapping {
            host_port: 8080,
            host_ip: Some("127.0.0.1".parse().unwrap()),
            ..remark
        });
        pod.cidrs = vec!["10.1.0.0/24".parse().unwrap()];
        let annotation = "kubernetes.io/ingress-bandwidth";
        pod.annotations.insert(annotation.into(), "10k".into());
        pod.dns = Some(Dns {
            servers: vec!["10.0.0.10".into()],
            ..Dns::default()
        });
        let expected = json!({
            "portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": "127.0.0.1"}],
            "ipRanges": [[{"subnet": "10.1.0.0/24"}]],
            "bandwidth": {"ingressRate": 10000, "ingressBurst": 2147483647},
            "io.kubernetes.cri.pod-annotations": {"kubernetes.io/ingress-bandwidth": "10k"},
            "dns": {"servers": ["10.0.0.10"], "searches": [], "options": []},
        });
        assert_eq!(Value::Object(pod.capabilities()), expected);
    }
}
