//! What a metric is, and values of it.

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

/// One value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metric {
    pub name: &'static str,
    pub kind: Kind,
    /// Nanoseconds since the epoch.
    pub at: i64,
    /// As many as its descriptor has, in that order.
    pub labels: Vec<String>,
    pub value: u64,
}

/// Values of one pod or container.
pub struct Sink {
    pub base: [String; BASE.len()],
    /// Nanoseconds since the epoch.
    pub at: i64,
    pub metrics: Vec<Metric>,
}

impl Sink {
    pub fn put<const N: usize>(
        &mut self,
        descriptor: &Descriptor<N>,
        labels: [&str; N],
        value: u64,
    ) {
        let own = labels.into_iter().map(str::to_owned);
        self.metrics.push(Metric {
            name: descriptor.name,
            kind: descriptor.kind,
            at: self.at,
            labels: self.base.iter().cloned().chain(own).collect(),
            value,
        });
    }

    /// Nothing where the value is not known.
    pub fn put_known(&mut self, descriptor: &Descriptor<0>, value: Option<u64>) {
        if let Some(value) = value {
            self.put(descriptor, [], value);
        }
    }
}
