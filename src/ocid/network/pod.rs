//! What plugins are told about a pod: `CNI_ARGS` and capabilities.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::NetworkError;
use super::conf::is_name;

/// A pod, as its network sees it. The same for ADD and DEL.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodNetwork {
    pub sandbox_id: String,
    /// The pinned namespace.
    pub netns: PathBuf,
    pub name: String,
    pub namespace: String,
    pub uid: String,
    pub port_mappings: Vec<PortMapping>,
    pub dns: Option<Dns>,
    pub bandwidth: Option<Bandwidth>,
    /// For plugins with the capability `io.kubernetes.cri.pod-annotations`.
    pub annotations: BTreeMap<String, String>,
    /// The node's pod subnets, one per address family, for plugins with the capability `ipRanges`.
    pub cidrs: Vec<IpNet>,
    /// A configuration folder of this pod's own instead of the machine's.
    pub conf: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    #[default]
    Tcp,
    Udp,
    Sctp,
}

/// A host port that leads into the pod. One with `host_port` 0 is no mapping, only a remark.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortMapping {
    pub protocol: Protocol,
    pub container_port: u16,
    pub host_port: u16,
    /// `None`: every address of the host.
    pub host_ip: Option<IpAddr>,
}

/// Resolver settings, for plugins with the capability `dns`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dns {
    pub servers: Vec<String>,
    pub searches: Vec<String>,
    pub options: Vec<String>,
}

/// Traffic shaping, seen from the pod; for the bandwidth plugin. Bits per second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bandwidth {
    pub ingress: Option<u64>,
    pub egress: Option<u64>,
}

/// The largest burst (bits) that the bandwidth plugin takes: the rate alone shall limit.
const BURST: u64 = i32::MAX as u64;

impl PodNetwork {
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
        let ports: Vec<Value> = ports.map(PortMapping::to_json).collect();
        if !ports.is_empty() {
            all.insert("portMappings".to_owned(), Value::Array(ports));
        }
        if let Some(dns) = &self.dns {
            all.insert("dns".to_owned(), json!(dns));
        }
        if let Some(rates) = self.bandwidth.and_then(|b| b.to_json()) {
            all.insert("bandwidth".to_owned(), rates);
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

impl PortMapping {
    fn to_json(&self) -> Value {
        let mut object = json!({
            "hostPort": self.host_port,
            "containerPort": self.container_port,
            "protocol": self.protocol,
        });
        if let (Some(ip), Value::Object(object)) = (self.host_ip, &mut object) {
            object.insert("hostIP".to_owned(), json!(ip));
        }
        object
    }
}

impl Bandwidth {
    fn to_json(self) -> Option<Value> {
        let mut object = Map::new();
        for (rate, name, burst) in [
            (self.ingress, "ingressRate", "ingressBurst"),
            (self.egress, "egressRate", "egressBurst"),
        ] {
            if let Some(rate) = rate {
                object.insert(name.to_owned(), json!(rate));
                object.insert(burst.to_owned(), json!(BURST));
            }
        }
        (!object.is_empty()).then_some(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        pod.bandwidth = Some(Bandwidth {
            ingress: Some(1000),
            egress: None,
        });
        pod.annotations.insert("k".into(), "v".into());
        pod.dns = Some(Dns {
            servers: vec!["10.0.0.10".into()],
            ..Dns::default()
        });
        let expected = json!({
            "portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": "127.0.0.1"}],
            "ipRanges": [[{"subnet": "10.1.0.0/24"}]],
            "bandwidth": {"ingressRate": 1000, "ingressBurst": 2147483647},
            "io.kubernetes.cri.pod-annotations": {"k": "v"},
            "dns": {"servers": ["10.0.0.10"], "searches": [], "options": []},
        });
        assert_eq!(Value::Object(pod.capabilities()), expected);
    }
}
