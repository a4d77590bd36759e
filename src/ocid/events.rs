//! What happens to pods and containers, told to whoever listens, in the order in which it happens.
//!
//! A pod's own events carry its id where a container's carry theirs, as CRI-O and containerd have it.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::stream::{self, Stream};
use tokio::sync::broadcast::{self, Receiver, error::RecvError};

use super::daemon::Daemon;
use super::state::record::{ContainerRecord, SandboxRecord};
use crate::host::clock::now_ns;

/// How many events a reader may lag behind.
const CAPACITY: usize = 1024;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Created,
    Started,
    Stopped,
    Deleted,
}

/// One event, with its pod and the pod's containers as they were then.
#[derive(Debug)]
pub struct Event {
    pub kind: Kind,
    /// Of the container, or of the pod.
    pub id: String,
    /// Nanoseconds since the epoch.
    pub at: i64,
    pub sandbox: Arc<SandboxRecord>,
    /// Those that are left, in the order of their ids.
    pub containers: Vec<Arc<ContainerRecord>>,
}

/// Where events are told.
#[derive(Debug)]
pub struct Events {
    listeners: broadcast::Sender<Arc<Event>>,
    /// Containers whose start is told. The end of a brief one is learnt before the runtime has said that
    /// it started; its start is then told first, and once.
    started: Mutex<BTreeSet<String>>,
}

impl Default for Events {
    fn default() -> Self {
        Self {
            listeners: broadcast::Sender::new(CAPACITY),
            started: Mutex::default(),
        }
    }
}

impl Events {
    /// Everything that happens from now on; for one who falls too far behind, how many events it missed,
    /// and the end.
    pub fn listen(&self) -> impl Stream<Item = Result<Arc<Event>, u64>> + Send + 'static {
        let next = |events: Option<Receiver<Arc<Event>>>| async move {
            let mut events = events?;
            match events.recv().await {
                Ok(event) => Some((Ok(event), Some(events))),
                Err(RecvError::Lagged(missed)) => Some((Err(missed), None)),
                Err(RecvError::Closed) => None,
            }
        };
        stream::unfold(Some(self.listeners.subscribe()), next)
    }

    /// How many listen.
    pub fn listeners(&self) -> usize {
        self.listeners.receiver_count()
    }

    /// A container that an earlier daemon started.
    pub fn adopt(&self, container: &str) {
        let mut started = self.started.lock().unwrap_or_else(PoisonError::into_inner);
        started.insert(container.to_owned());
    }
}

impl Daemon {
    /// Tells of a pod.
    pub fn tell_pod(&self, kind: Kind, sandbox: &Arc<SandboxRecord>) {
        let _order = self
            .events
            .started
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        self.send(kind, &sandbox.id, sandbox);
    }

    /// Tells of a container, after its record says so.
    pub fn tell(&self, kind: Kind, container: &ContainerRecord) {
        let Some(sandbox) = self.sandboxes.get(&container.sandbox_id) else {
            return;
        };
        let (id, sandbox) = (&container.id, sandbox.now());
        // Held to the end: two events of one container are told in their order.
        let mut started = self
            .events
            .started
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match kind {
            Kind::Created => {}
            Kind::Started => {
                if !started.insert(id.clone()) {
                    return;
                }
            }
            Kind::Stopped => {
                if container.started_at != 0 && started.insert(id.clone()) {
                    self.send(Kind::Started, id, &sandbox);
                }
            }
            Kind::Deleted => {
                started.remove(id);
            }
        }
        self.send(kind, id, &sandbox);
    }

    fn send(&self, kind: Kind, id: &str, sandbox: &Arc<SandboxRecord>) {
        let listeners = &self.events.listeners;
        if listeners.receiver_count() == 0 {
            return;
        }
        let containers = self.containers.all().into_iter();
        let event = Event {
            kind,
            id: id.to_owned(),
            at: now_ns(),
            sandbox: Arc::clone(sandbox),
            containers: containers
                .map(|container| container.now())
                .filter(|container| container.sandbox_id == sandbox.id)
                .collect(),
        };
        // An error says that the last listener has gone meanwhile.
        let _ = listeners.send(Arc::new(event));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::StreamExt;

    use crate::ocid::sandbox::config::SandboxConfig;

    fn event(number: usize) -> Arc<Event> {
        let config = SandboxConfig::default();
        let place = crate::ocid::runtime::Place {
            path: "/bin/runc".into(),
            root: "/run/runc".into(),
        };
        let record = SandboxRecord::new(number.to_string(), config, String::new(), place, 0);
        Arc::new(Event {
            kind: Kind::Created,
            id: record.id.clone(),
            at: 0,
            sandbox: Arc::new(record),
            containers: Vec::new(),
        })
    }

    #[tokio::test]
    async fn a_lagging_reader_is_told_and_cut_off_and_others_go_on() {
        let events = Events::default();
        let (lagging, mut reading) = (events.listen(), Box::pin(events.listen()));
        for number in 0..=CAPACITY {
            events.listeners.send(event(number)).unwrap();
            assert_eq!(
                reading.next().await.unwrap().unwrap().id,
                number.to_string()
            );
        }
        let lagging: Vec<_> = lagging.collect().await;
        assert!(matches!(lagging[..], [Err(1)]), "{lagging:?}");
        events.listeners.send(event(7)).unwrap();
        assert_eq!(reading.next().await.unwrap().unwrap().id, "7");
    }
}
