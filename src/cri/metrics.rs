//! Metrics in the form in which they go over the wire. An answer to a scrape has tens of thousands of label values:
//! as messages of the generated types it would be as many strings, all but a few of them the same.
//!
//! What is here writes the messages `Metric`, `ContainerMetrics` and `PodSandboxMetrics` of `proto/runtime.proto`
//! (the wire format: <https://protobuf.dev/programming-guides/encoding/>).

use bytes::{Buf, BufMut};
use prost::encoding::{self, DecodeContext, WireType};
use prost::{DecodeError, Message};
use serde::{Deserialize, Serialize};

use super::v1::{MetricType, PodSandboxMetrics};

/// Fields of `Metric`.
const NAME: u32 = 1;
const TIMESTAMP: u32 = 2;
const KIND: u32 = 3;
const LABEL: u32 = 4;
const VALUE: u32 = 5;
/// The metrics themselves, in both messages that have them.
const METRICS: u32 = 2;
/// Fields of `PodSandboxMetrics` and `ContainerMetrics`.
const ID: u32 = 1;
const CONTAINERS: u32 = 3;
/// Of the answer.
const PODS: u32 = 1;
/// Bytes of a metric besides its time and its first labels: the name, most of all.
const USUAL: usize = 56;

/// The metrics of one pod or container, encoded: the field `metrics` of its message.
#[derive(Debug, Clone, PartialEq)]
pub struct Metrics {
    /// What each of them has: its time, and its first labels.
    common: Vec<u8>,
    encoded: Vec<u8>,
}

impl Metrics {
    /// None yet, with room for about `expected`: to make it little by little costs as much as to fill it. `labels`
    /// are the values that all of them begin with, `at` is their time in nanoseconds since the epoch.
    pub fn new(at: i64, labels: &[&str], expected: usize) -> Self {
        let mut common = Vec::new();
        encoding::int64::encode(TIMESTAMP, &at, &mut common);
        labels
            .iter()
            .for_each(|label| text(LABEL, label, &mut common));
        let encoded = Vec::with_capacity(expected * (common.len() + USUAL));
        Self { common, encoded }
    }

    /// Adds one; `labels` come after those that all have.
    pub fn put(&mut self, name: &str, kind: MetricType, labels: &[&str], value: u64) {
        let kind = i32::from(kind);
        // The format leaves out a zero.
        let value_length = match value {
            0 => 0,
            value => encoding::uint64::encoded_len(1, &value),
        };
        let kind_length = match kind {
            0 => 0,
            kind => encoding::int32::encoded_len(KIND, &kind),
        };
        let labels_length: usize = labels.iter().map(|label| text_length(LABEL, label)).sum();
        let length = text_length(NAME, name)
            + kind_length
            + self.common.len()
            + labels_length
            + delimited_length(VALUE, value_length);
        let to = &mut self.encoded;
        delimited(METRICS, length, to);
        text(NAME, name, to);
        to.put_slice(&self.common);
        if kind != 0 {
            encoding::int32::encode(KIND, &kind, to);
        }
        labels.iter().for_each(|label| text(LABEL, label, to));
        delimited(VALUE, value_length, to);
        if value != 0 {
            encoding::uint64::encode(1, &value, to);
        }
    }

    fn length_with(&self, id: &str) -> usize {
        text_length(ID, id) + self.encoded.len()
    }

    fn encode_with(&self, id: &str, to: &mut impl BufMut) {
        text(ID, id, to);
        to.put_slice(&self.encoded);
    }
}

/// One pod: the message `PodSandboxMetrics`.
#[derive(Debug, Clone, PartialEq)]
pub struct PodMetrics {
    pub id: String,
    pub own: Metrics,
    /// Of those of its containers that have processes.
    pub containers: Vec<ContainerMetrics>,
}

/// One container: the message `ContainerMetrics`.
#[derive(Debug, Clone, PartialEq)]
pub struct ContainerMetrics {
    pub id: String,
    pub metrics: Metrics,
}

impl PodMetrics {
    fn length(&self) -> usize {
        let containers = self.containers.iter();
        let containers = containers.map(|one| delimited_length(CONTAINERS, one.length()));
        self.own.length_with(&self.id) + containers.sum::<usize>()
    }

    fn encode(&self, to: &mut impl BufMut) {
        self.own.encode_with(&self.id, to);
        for container in &self.containers {
            delimited(CONTAINERS, container.length(), to);
            container.metrics.encode_with(&container.id, to);
        }
    }

    /// As a message of the generated type.
    pub fn decode(&self) -> Result<PodSandboxMetrics, DecodeError> {
        let mut bytes = Vec::with_capacity(self.length());
        self.encode(&mut bytes);
        PodSandboxMetrics::decode(bytes.as_slice())
    }
}

impl ContainerMetrics {
    fn length(&self) -> usize {
        self.metrics.length_with(&self.id)
    }
}

/// The answer to ListPodSandboxMetrics: who receives one finds all of it in `pod_metrics`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ListPodSandboxMetricsResponse {
    pub pod_metrics: Vec<PodSandboxMetrics>,
    /// Further pods, for who sends one.
    #[serde(skip)]
    pub encoded: Vec<PodMetrics>,
}

impl Message for ListPodSandboxMetricsResponse {
    fn encode_raw(&self, to: &mut impl BufMut) {
        encoding::message::encode_repeated(PODS, &self.pod_metrics, to);
        for pod in &self.encoded {
            delimited(PODS, pod.length(), to);
            pod.encode(to);
        }
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        from: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        match tag {
            PODS => {
                encoding::message::merge_repeated(wire_type, &mut self.pod_metrics, from, context)
            }
            _ => encoding::skip_field(wire_type, tag, from, context),
        }
    }

    fn encoded_len(&self) -> usize {
        let encoded = self.encoded.iter();
        encoding::message::encoded_len_repeated(PODS, &self.pod_metrics)
            + encoded
                .map(|pod| delimited_length(PODS, pod.length()))
                .sum::<usize>()
    }

    fn clear(&mut self) {
        *self = Self::default();
    }
}

/// The beginning of a field of `length` bytes.
fn delimited(tag: u32, length: usize, to: &mut impl BufMut) {
    encoding::encode_key(tag, WireType::LengthDelimited, to);
    encoding::encode_varint(length as u64, to);
}

/// How long such a field is.
fn delimited_length(tag: u32, length: usize) -> usize {
    encoding::key_len(tag) + encoding::encoded_len_varint(length as u64) + length
}

fn text(tag: u32, text: &str, to: &mut impl BufMut) {
    delimited(tag, text.len(), to);
    to.put_slice(text.as_bytes());
}

fn text_length(tag: u32, text: &str) -> usize {
    delimited_length(tag, text.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cri::v1::{self, Metric, UInt64Value};

    #[test]
    fn what_is_written_is_what_the_generated_types_read() {
        let long = "x".repeat(300);
        let values = [
            ("a", MetricType::Counter, vec![], 0),
            ("b", MetricType::Gauge, vec!["eth0", ""], 1),
            ("c", MetricType::Gauge, vec![long.as_str()], u64::MAX),
        ];
        let all = |at: i64, labels: &[&str]| {
            let mut metrics = Metrics::new(at, labels, 3);
            let mut expected = Vec::new();
            for (name, kind, own, value) in &values {
                metrics.put(name, *kind, own, *value);
                let labels = labels.iter().chain(own);
                expected.push(Metric {
                    name: (*name).to_owned(),
                    timestamp: at,
                    metric_type: (*kind).into(),
                    label_values: labels.map(|label| (*label).to_owned()).collect(),
                    value: Some(UInt64Value { value: *value }),
                });
            }
            (metrics, expected)
        };
        let (own, own_expected) = all(1_764_000_000_000_000_000, &["id", "", "ns"]);
        let (container, container_expected) = all(-1, &[]);
        let none = Metrics::new(5, &["id"], 0);
        let containers = [("c1", container), ("c2", none)].map(|(id, metrics)| ContainerMetrics {
            id: id.to_owned(),
            metrics,
        });
        let pod = PodMetrics {
            id: "p".to_owned(),
            own,
            containers: containers.into(),
        };
        let expected = PodSandboxMetrics {
            pod_sandbox_id: "p".to_owned(),
            metrics: own_expected,
            container_metrics: vec![
                v1::ContainerMetrics {
                    container_id: "c1".to_owned(),
                    metrics: container_expected,
                },
                v1::ContainerMetrics {
                    container_id: "c2".to_owned(),
                    metrics: Vec::new(),
                },
            ],
        };
        assert_eq!(pod.decode().unwrap(), expected);

        let plain = PodSandboxMetrics::default();
        let answer = ListPodSandboxMetricsResponse {
            pod_metrics: vec![plain.clone()],
            encoded: vec![pod.clone(), pod],
        };
        let bytes = answer.encode_to_vec();
        assert_eq!(bytes.len(), answer.encoded_len());
        let read = ListPodSandboxMetricsResponse::decode(bytes.as_slice()).unwrap();
        assert_eq!(read.pod_metrics, [plain, expected.clone(), expected]);
        assert!(read.encoded.is_empty());
        let cut = bytes.get(..bytes.len() - 1).unwrap();
        assert!(ListPodSandboxMetricsResponse::decode(cut).is_err());
    }
}
