//! A retry joins the attempt that is under way, and one whose answer nobody took finds it.
//!
//! Clients repeat a call when their deadline passes. The first call's task outlives its client; a repeat must
//! neither start over nor be refused. Who repeats the making of something that stands finds it by its name; that
//! something was *done* to a container, and nobody was told, is what is on offer here.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use crate::ocid::error::{Error, Result};

type Running = Shared<BoxFuture<'static, Result<String>>>;

/// Operations by name (of what they create, or of what they do to which id), each answering with an id.
#[derive(Default)]
pub struct Joined {
    running: Arc<Mutex<HashMap<String, Running>>>,
    /// Ids of which nobody may have been told.
    offers: Mutex<HashSet<String>>,
}

impl Joined {
    /// Runs `work` in a task of its own that ends even if the caller does not wait, unless an
    /// operation of this name is under way: then that one's answer is the answer.
    pub async fn run<F>(&self, tasks: &TaskTracker, name: String, work: F) -> Result<String>
    where
        F: Future<Output = Result<String>> + Send + 'static,
    {
        let running = {
            let mut table = lock(&self.running);
            match table.get(&name) {
                Some(running) => running.clone(),
                None => {
                    let running = self.spawn(tasks, name.clone(), work);
                    table.insert(name, running.clone());
                    running
                }
            }
        };
        let answer = running.await;
        // The news that the client has left may be waiting for its turn.
        tokio::task::yield_now().await;
        answer
    }

    /// The names of operations under way.
    pub fn names(&self) -> Vec<String> {
        lock(&self.running).keys().cloned().collect()
    }

    /// What was done to this id may never have reached the client, so a repeat of the call may have it, once.
    pub fn offer(&self, id: &str) {
        lock(&self.offers).insert(id.to_owned());
    }

    /// Is this id on offer? From now on it is not.
    pub fn take_offer(&self, id: &str) -> bool {
        lock(&self.offers).remove(id)
    }

    fn spawn<F>(&self, tasks: &TaskTracker, name: String, work: F) -> Running
    where
        F: Future<Output = Result<String>> + Send + 'static,
    {
        let running = Arc::clone(&self.running);
        let work = work.in_current_span();
        let task = tasks.spawn(async move {
            // Gone when the work is over, also by a panic, and whether or not anybody waits.
            let _entry = Entry { running, name };
            work.await
        });
        let joined = async move {
            let answer = task.await;
            answer.unwrap_or_else(|e| Err(Arc::new(Error::Internal(e.to_string()))))
        };
        joined.boxed().shared()
    }
}

/// A line of the table; it goes with this.
struct Entry {
    running: Arc<Mutex<HashMap<String, Running>>>,
    name: String,
}

impl Drop for Entry {
    fn drop(&mut self) {
        lock(&self.running).remove(&self.name);
    }
}

/// A panic elsewhere does not poison what is only a table.
fn lock<T>(table: &Mutex<T>) -> MutexGuard<'_, T> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::sync::oneshot;

    fn counted(
        count: &Arc<AtomicUsize>,
        gate: oneshot::Receiver<()>,
    ) -> impl Future<Output = Result<String>> + Send + use<> {
        let count = Arc::clone(count);
        async move {
            let n = count.fetch_add(1, Ordering::SeqCst);
            let _ = gate.await;
            Ok(format!("id{n}"))
        }
    }

    fn open_gate() -> oneshot::Receiver<()> {
        oneshot::channel().1
    }

    #[tokio::test]
    async fn a_repeat_joins_and_work_outlives_its_caller() {
        let (tasks, joined) = (TaskTracker::new(), Joined::default());
        let count = Arc::new(AtomicUsize::new(0));
        let (open, gate) = oneshot::channel();
        {
            let first = joined.run(&tasks, "pod".into(), counted(&count, gate));
            tokio::pin!(first);
            let early = futures_util::poll!(&mut first);
            assert!(early.is_pending());
            // The client gives up here: the future is dropped, the task goes on.
        }
        assert_eq!(joined.names(), ["pod"]);
        let again = joined.run(&tasks, "pod".into(), counted(&count, open_gate()));
        tokio::pin!(again);
        assert!(futures_util::poll!(&mut again).is_pending());
        open.send(()).unwrap();
        assert_eq!(again.await.unwrap(), "id0");
        tasks.close();
        tasks.wait().await;
        assert!(joined.names().is_empty());
        let fresh = joined
            .run(&tasks, "pod".into(), counted(&count, open_gate()))
            .await;
        assert_eq!(fresh.unwrap(), "id1");
    }

    #[test]
    fn an_offer_is_taken_once() {
        let joined = Joined::default();
        assert!(!joined.take_offer("id"));
        joined.offer("id");
        assert!(joined.take_offer("id") && !joined.take_offer("id"));
    }

    #[tokio::test]
    async fn two_at_once_share_one_run_and_errors_are_not_kept() {
        let (tasks, joined) = (TaskTracker::new(), Joined::default());
        let fail = || async { Err(Arc::new(Error::Internal("x".into()))) };
        let (a, b) = tokio::join!(
            joined.run(&tasks, "pod".into(), fail()),
            joined.run(&tasks, "pod".into(), fail())
        );
        assert!(Arc::ptr_eq(&a.unwrap_err(), &b.unwrap_err()));
        let ok = joined
            .run(&tasks, "pod".into(), async { Ok("id".to_owned()) })
            .await;
        assert_eq!(ok.unwrap(), "id");
    }
}
