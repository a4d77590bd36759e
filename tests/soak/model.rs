//! What must be true of one client's pods and containers, and the seeded numbers that its calls follow.

use std::collections::BTreeMap;

use crio_setup::cri::v1::{ContainerState, PodSandboxState};

/// SplitMix64 (Steele, Lea, Flood 2014): small, and the same everywhere.
#[derive(Debug, Clone)]
pub struct Numbers(u64);

impl Numbers {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Less than `bound`, which is not 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub fn pick<'a, T>(&mut self, list: &'a [T]) -> Option<&'a T> {
        let bound = u64::try_from(list.len()).ok().filter(|n| *n > 0)?;
        list.get(usize::try_from(self.below(bound)).ok()?)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    pub name: String,
    pub ready: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    pub pod: String,
    pub name: String,
    pub state: ContainerState,
    /// Ends by itself, at any time once it runs, with this code.
    pub brief: Option<i32>,
}

/// By id. While `unsure` names a pod or container, a call on it was cut off: both what was and what was to be
/// are right.
#[derive(Debug, Clone, Default)]
pub struct Model {
    pub pods: BTreeMap<String, Pod>,
    pub containers: BTreeMap<String, Container>,
    pub unsure: Option<String>,
}

impl Model {
    pub fn pod_ids(&self, fits: impl Fn(&Pod) -> bool) -> Vec<String> {
        let fitting = self.pods.iter().filter(|(_, pod)| fits(pod));
        fitting.map(|(id, _)| id.clone()).collect()
    }

    pub fn container_ids(&self, fits: impl Fn(&Container) -> bool) -> Vec<String> {
        let fitting = self.containers.iter().filter(|(_, c)| fits(c));
        fitting.map(|(id, _)| id.clone()).collect()
    }

    pub fn stop_pod(&mut self, id: &str) {
        if let Some(pod) = self.pods.get_mut(id) {
            pod.ready = false;
        }
        for container in self.containers.values_mut().filter(|c| c.pod == id) {
            container.state = ContainerState::ContainerExited;
        }
    }

    pub fn remove_pod(&mut self, id: &str) {
        self.pods.remove(id);
        self.containers.retain(|_, container| container.pod != id);
    }

    /// May a container that the model has in one state be seen in another?
    pub fn may_be(&self, id: &str, seen: ContainerState) -> bool {
        let Some(container) = self.containers.get(id) else {
            return self.is_unsure(id);
        };
        let ended = container.brief.is_some()
            && container.state == ContainerState::ContainerRunning
            && seen == ContainerState::ContainerExited;
        container.state == seen || ended || self.is_unsure(id) || self.is_unsure(&container.pod)
    }

    pub fn pod_may_be(&self, id: &str, seen: PodSandboxState) -> bool {
        let ready = seen == PodSandboxState::SandboxReady;
        match self.pods.get(id) {
            Some(pod) => pod.ready == ready || self.is_unsure(id),
            None => self.is_unsure(id),
        }
    }

    pub fn is_unsure(&self, id: &str) -> bool {
        self.unsure.as_deref() == Some(id)
    }
}
