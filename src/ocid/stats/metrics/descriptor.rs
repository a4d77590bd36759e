//! What a metric is, and values of it.

use crate::cri::metrics::Metrics;
use crate::cri::v1::MetricType;

/// The labels that every metric begins with.
pub const BASE: [&str; 5] = ["id", "image", "namespace", "pod", "container"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
}

/// A metric with `N` labels besides [`BASE`].
#[derive(Debug)]
pub struct Descriptor<const N: usize> {
    pub name: &'static str,
    pub help: &'static str,
    pub kind: Kind,
    pub labels: [&'static str; N],
}

/// A descriptor as clients are told of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    pub name: &'static str,
    pub help: &'static str,
    pub labels: Vec<&'static str>,
}

/// Any descriptor.
pub trait Describe {
    fn describe(&self) -> Description;
}

impl<const N: usize> Describe for Descriptor<N> {
    fn describe(&self) -> Description {
        Description {
            name: self.name,
            help: self.help,
            labels: BASE.iter().chain(&self.labels).copied().collect(),
        }
    }
}

/// Values of one pod or container.
pub struct Sink(Metrics);

impl Sink {
    /// `base` are the values of [`BASE`]; `at` is in nanoseconds since the epoch; about `expected` will come.
    pub fn new(at: i64, base: [&str; BASE.len()], expected: usize) -> Self {
        Self(Metrics::new(at, &base, expected))
    }

    pub fn put<const N: usize>(
        &mut self,
        descriptor: &Descriptor<N>,
        labels: [&str; N],
        value: u64,
    ) {
        let kind = match descriptor.kind {
            Kind::Counter => MetricType::Counter,
            Kind::Gauge => MetricType::Gauge,
        };
        self.0.put(descriptor.name, kind, &labels, value);
    }

    /// Nothing where the value is not known.
    pub fn put_known(&mut self, descriptor: &Descriptor<0>, value: Option<u64>) {
        if let Some(value) = value {
            self.put(descriptor, [], value);
        }
    }

    pub fn into_metrics(self) -> Metrics {
        self.0
    }
}
